//! Bodies that arrive on HTTP/2 streams, and what a stream's failure means.

use std::task::{Context, Poll, ready};

use ::h2::RecvStream;
use leno_model::Reason;

use super::convert;
use crate::body::{BodyError, Frame, PollFrame};
use crate::hygiene;
use crate::refusal::StreamError;

/// Which side of us a stream is on: decides whose fault its failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Downstream,
    Upstream,
}

impl Side {
    /// What a failed stream means, and whether nothing can have been processed.
    pub fn failure(self, error: &::h2::Error) -> StreamError {
        let detail = error.to_string();
        match self {
            Self::Downstream if error.is_library() => StreamError::in_flight(Reason::MalformedRequest, detail),
            Self::Downstream => StreamError::in_flight(Reason::DownstreamReset, detail),
            // RFC 9113 section 8.7: both say that the stream was not processed. The `h2` crate gives a peer's GOAWAY only to streams
            // above its last one.
            Self::Upstream
                if error.is_remote()
                    && (error.is_go_away() || error.reason() == Some(::h2::Reason::REFUSED_STREAM)) =>
            {
                StreamError::unprocessed(Reason::RefusedStream, detail)
            }
            Self::Upstream if error.is_library() => StreamError::in_flight(Reason::UpstreamProtocolError, detail),
            Self::Upstream => StreamError::in_flight(Reason::UpstreamReset, detail),
        }
    }
}

enum State {
    Data,
    Trailers,
    Done,
}

/// A body from an HTTP/2 stream. The peer's window opens only as frames are taken.
pub struct H2Body {
    stream: RecvStream,
    side: Side,
    state: State,
    /// Taken, but not yet given back to the window: done when the next frame is asked for, which is when this one is through.
    unreleased: usize,
    /// Called once, when the body is first asked for.
    on_wanted: Option<Box<dyn FnOnce()>>,
    /// What must live as long as the body is not over; told whether it came to its end.
    lease: Option<Box<dyn FnOnce(bool)>>,
}

impl H2Body {
    pub(super) fn new(stream: RecvStream, side: Side) -> Self {
        Self { stream, side, state: State::Data, unreleased: 0, on_wanted: None, lease: None }
    }

    /// Calls `action` when the body is first asked for.
    pub(super) fn when_wanted(mut self, action: impl FnOnce() + 'static) -> Self {
        self.on_wanted = Some(Box::new(action));
        self
    }

    /// Calls `over(true)` at the body's end, `over(false)` if it is dropped or fails before.
    pub(super) fn with_lease(mut self, over: impl FnOnce(bool) + 'static) -> Self {
        self.lease = Some(Box::new(over));
        self
    }

    pub(crate) fn is_end(&self) -> bool {
        matches!(self.state, State::Done) || self.stream.is_end_stream()
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        if let Some(wanted) = self.on_wanted.take() {
            wanted();
        }
        if self.unreleased > 0 {
            // Fails only if the stream is gone, which the next poll tells.
            let _ = self.stream.flow_control().release_capacity(std::mem::take(&mut self.unreleased));
        }
        let polled = self.poll_inner(cx);
        match &polled {
            Poll::Pending | Poll::Ready(Some(Ok(Frame::Data(_)))) => {}
            Poll::Ready(Some(Ok(Frame::Trailers(_))) | None) => self.over(true),
            Poll::Ready(Some(Err(_))) => self.over(false),
        }
        polled
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> PollFrame {
        loop {
            match self.state {
                State::Data => match ready!(self.stream.poll_data(cx)) {
                    Some(Ok(data)) if data.is_empty() => {}
                    Some(Ok(data)) => {
                        self.unreleased = data.len();
                        return Poll::Ready(Some(Ok(Frame::Data(data))));
                    }
                    Some(Err(error)) => return self.failed(&error),
                    None => self.state = State::Trailers,
                },
                State::Trailers => {
                    let trailers = match ready!(self.stream.poll_trailers(cx)) {
                        Ok(Some(map)) => convert::fields(&map, &[]),
                        Ok(None) => {
                            self.state = State::Done;
                            return Poll::Ready(None);
                        }
                        Err(error) => return self.failed(&error),
                    };
                    self.state = State::Done;
                    return Poll::Ready(match trailers {
                        Ok(mut fields) => {
                            fields.remove_if(|name, _| hygiene::forbidden_in_trailers(name));
                            (!fields.is_empty()).then_some(Ok(Frame::Trailers(fields)))
                        }
                        Err(rule) => Some(Err(BodyError::new(Reason::UpstreamProtocolError, rule))),
                    });
                }
                State::Done => return Poll::Ready(None),
            }
        }
    }

    fn failed(&mut self, error: &::h2::Error) -> PollFrame {
        self.state = State::Done;
        Poll::Ready(Some(Err(self.side.failure(error).into())))
    }

    fn over(&mut self, whole: bool) {
        if let Some(lease) = self.lease.take() {
            lease(whole);
        }
    }
}

impl Drop for H2Body {
    fn drop(&mut self) {
        let whole = self.is_end();
        self.over(whole);
    }
}
