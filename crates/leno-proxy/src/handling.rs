//! An exchange between its stages and its answer.
//!
//! Stages do not wait: they decide at once, with what is known. What is left of most requests then is to wait for an answer, which
//! takes a few words and no future; the few that have to wait for something else first are on the heap.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use leno_http::{Refusal, Response};

use crate::exchange::{Exchange, ended};

/// What an exchange waits for.
pub trait Work {
    /// The answer, once it is there; not polled again after that.
    fn poll(&mut self, exchange: &mut Exchange, cx: &mut Context<'_>) -> Poll<Result<Response, Refusal>>;
}

/// A request whose stages have decided. Dropping it means that whoever asked is gone.
pub struct Handling<W>(State<W>);

enum State<W> {
    /// There is nothing to wait for.
    Decided(Option<Result<Response, Refusal>>),
    /// Its answer is awaited.
    Under(Option<Exchange>, W),
    /// Something else is to be waited for first.
    Slow(Pin<Box<dyn Future<Output = Result<Response, Refusal>>>>),
}

impl<W> Handling<W> {
    /// Refused before it became an exchange.
    pub fn refused(refusal: Refusal) -> Self {
        Self(State::Decided(Some(Err(refusal))))
    }

    /// The stages have the answer themselves.
    pub fn decided(exchange: Exchange, outcome: Result<Response, Refusal>) -> Self {
        Self(State::Decided(Some(exchange.conclude(outcome))))
    }

    /// The answer is `work`'s.
    // `work` is large, and made where it stays.
    #[inline(always)]
    pub fn under_way(exchange: Exchange, work: W) -> Self {
        Self(State::Under(Some(exchange), work))
    }

    /// The rest is this future's, with the exchange.
    pub fn slow(rest: impl Future<Output = Result<Response, Refusal>> + 'static) -> Self {
        Self(State::Slow(Box::pin(rest)))
    }
}

impl<W: Work + Unpin> Future for Handling<W> {
    type Output = Result<Response, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Decided(outcome) => Poll::Ready(outcome.take().expect("polled once")),
            State::Under(exchange, work) => {
                let under = exchange.as_mut().expect("not polled after its answer");
                let outcome = match under.live.poll_ended(0, cx) {
                    Poll::Ready(reason) => Err(ended(reason)),
                    Poll::Pending => std::task::ready!(work.poll(under, cx)),
                };
                Poll::Ready(exchange.take().expect("polled just now").conclude(outcome))
            }
            State::Slow(rest) => rest.as_mut().poll(cx),
        }
    }
}
