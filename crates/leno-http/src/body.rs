//! Streaming bodies, and requests and responses made of a head and a body.
//!
//! A body is pulled: its source reads no further than what was asked for, which is the back-pressure from one end to the
//! other. Dropping a body that has not ended tells its source so (a hop stream is reset, a connection closed).

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use leno_model::Reason;

use crate::h1::{IncomingBody, LeasedBody};
use crate::h2::{H2Body, H2Interim};
use crate::head::{Fields, RequestHead, ResponseHead};
use crate::hop::{HopBody, HopInterim};
use crate::raw::RawBody;

/// Most 1xx answers passed on per request; a server that sends more is cut down, not believed.
pub const MAX_INTERIM: u8 = 16;

/// A piece of a body.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Bytes; never empty.
    Data(Bytes),
    /// Trailers; nothing follows them.
    Trailers(Fields),
}

/// Why a body ended before its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct BodyError {
    /// The reason, which also says whose fault it is.
    pub reason: Reason,
    /// What exactly happened.
    pub detail: Cow<'static, str>,
}

impl BodyError {
    /// An error with a detail for the access log.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// What one poll of a body gives: a frame, an error, or its regular end.
pub type PollFrame = Poll<Option<Result<Frame, BodyError>>>;

/// A source of frames from outside this crate, e.g. one that counts what passes.
pub trait BodyStream {
    /// The next frame; after `None`, an error or trailers it is not called again.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame;

    /// Called instead of dropping the box, by whoever wants to fill it again: everything that it holds must be let go.
    fn retire(self: Box<Self>) {}
}

/// A boxed source, which is retired when dropped.
pub struct CustomBody(Option<Box<dyn BodyStream>>);

impl Drop for CustomBody {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            stream.retire();
        }
    }
}

/// The body of a request or response.
#[derive(Default)]
pub enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// All bytes at once.
    Full(Bytes),
    /// The bytes of a plain connection until its end: TCP, or what follows an upgrade.
    Raw(RawBody),
    /// A request body from an HTTP/1 connection.
    H1(IncomingBody),
    /// A response body with the HTTP/1 connection it comes from.
    H1Leased(LeasedBody),
    /// A stream of a hop.
    Hop(HopBody),
    /// From an HTTP/2 stream.
    H2(Box<H2Body>),
    /// Another source.
    Custom(CustomBody),
}

impl Body {
    /// A body from a source outside this crate.
    #[must_use]
    pub fn custom(stream: impl BodyStream + 'static) -> Self {
        Self::boxed(Box::new(stream))
    }

    /// As [`Body::custom`], in a box that is there already.
    #[must_use]
    pub fn boxed(stream: Box<dyn BodyStream>) -> Self {
        Self::Custom(CustomBody(Some(stream)))
    }

    /// The next frame, the regular end (`None`), or why it broke off. Nothing is read ahead. After the end it stays ended.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        let polled = match self {
            Self::Empty => return Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                return Poll::Ready((!bytes.is_empty()).then_some(Ok(Frame::Data(bytes))));
            }
            Self::Raw(raw) => raw.poll_frame(cx),
            Self::H1(body) => body.poll_frame(cx),
            Self::H1Leased(body) => body.poll_frame(cx),
            Self::Hop(body) => body.poll_frame(cx),
            Self::H2(body) => body.poll_frame(cx),
            Self::Custom(CustomBody(stream)) => stream.as_mut().expect("taken when dropped").poll_frame(cx),
        };
        if matches!(polled, Poll::Ready(None | Some(Err(_) | Ok(Frame::Trailers(_))))) {
            *self = Self::Empty;
        }
        polled
    }

    /// [`Body::poll_frame`] as a future. Cancel-safe: a dropped call loses no frame.
    pub async fn next(&mut self) -> Option<Result<Frame, BodyError>> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// For a reader that needs nothing more: asks once for the end, so that a source that counts sees it if it is there.
    pub(crate) fn settle_now(&mut self, cx: &mut Context<'_>) {
        if !self.is_end() {
            let _ = self.poll_frame(cx);
        }
    }

    /// [`Body::settle_now`] where there is no context.
    pub(crate) async fn settle(&mut self) {
        std::future::poll_fn(|cx| {
            self.settle_now(cx);
            Poll::Ready(())
        })
        .await;
    }

    /// Whether it is known without polling that nothing (more) will come.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::H1(body) => body.is_end(),
            Self::H1Leased(body) => body.is_end(),
            Self::H2(body) => body.is_over(),
            Self::Hop(body) => body.is_over(),
            Self::Raw(_) | Self::Custom(_) => false,
        }
    }

    /// Collects the data of a body that must be small; trailers are dropped. `None` if it exceeds `limit` bytes.
    pub async fn collect(mut self, limit: usize) -> Result<Option<Bytes>, BodyError> {
        let mut all = Vec::new();
        while let Some(frame) = self.next().await {
            if let Frame::Data(bytes) = frame? {
                if all.len() + bytes.len() > limit {
                    return Ok(None);
                }
                all.extend_from_slice(&bytes);
            }
        }
        Ok(Some(all.into()))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Full(_) => "Full",
            Self::Raw(_) => "Raw",
            Self::H1(_) | Self::H1Leased(_) => "H1",
            Self::Hop(_) => "Hop",
            Self::H2(_) => "H2",
            Self::Custom(_) => "Custom",
        })
    }
}

/// Takes 1xx answers back to the caller while its request is under way. The first 16 are passed on, later ones dropped.
#[derive(Clone)]
pub struct InterimSink(Sink);

#[derive(Clone)]
enum Sink {
    Call(Rc<Interim<dyn Fn(ResponseHead)>>),
    /// To the peer of a hop; the stream counts.
    Hop(HopInterim),
    /// To the client of an HTTP/2 stream, which counts.
    H2(H2Interim),
}

struct Interim<F: ?Sized> {
    left: Cell<u8>,
    deliver: F,
}

impl InterimSink {
    /// A sink that calls `deliver` for each interim head; it must not block.
    #[must_use]
    pub fn new(deliver: impl Fn(ResponseHead) + 'static) -> Self {
        Self(Sink::Call(Rc::new(Interim { left: Cell::new(MAX_INTERIM), deliver })))
    }

    /// The sink of a hop's stream.
    pub(crate) fn of_hop(hop: HopInterim) -> Self {
        Self(Sink::Hop(hop))
    }

    /// The sink of an HTTP/2 stream.
    pub(crate) fn of_h2(h2: H2Interim) -> Self {
        Self(Sink::H2(h2))
    }

    /// Makes it a new one, if nobody else has it.
    pub(crate) fn renew(&mut self) -> bool {
        let Sink::Call(interim) = &mut self.0 else { return false };
        Rc::get_mut(interim).is_some_and(|interim| {
            interim.left.set(MAX_INTERIM);
            true
        })
    }

    /// Passes one on; `false` if the caller has had its share.
    pub fn send(&self, head: ResponseHead) -> bool {
        let interim = match &self.0 {
            Sink::Call(interim) => interim,
            Sink::Hop(hop) => return hop.send(&head),
            Sink::H2(h2) => return h2.send(&head),
        };
        let Some(left) = interim.left.get().checked_sub(1) else { return false };
        interim.left.set(left);
        (interim.deliver)(head);
        true
    }
}

impl fmt::Debug for InterimSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Sink::Call(interim) => write!(f, "InterimSink({} left)", interim.left.get()),
            Sink::Hop(_) => f.write_str("InterimSink(hop)"),
            Sink::H2(_) => f.write_str("InterimSink(h2)"),
        }
    }
}

/// A request: its head, its body, and the way back for 1xx answers.
#[derive(Debug)]
pub struct Request {
    /// The head.
    pub head: RequestHead,
    /// The body; for TCP and upgrades, the caller's bytes until it ends its side.
    pub body: Body,
    /// Where 1xx answers go; `None` if the caller cannot take any (HTTP/1.0).
    pub interim: Option<InterimSink>,
}

impl Request {
    /// A request that takes no 1xx answers.
    #[must_use]
    pub fn new(head: RequestHead, body: Body) -> Self {
        Self { head, body, interim: None }
    }
}

/// A final response.
#[derive(Debug)]
pub struct Response {
    /// The head.
    pub head: ResponseHead,
    /// The body; for TCP and upgrades, the server's bytes until it ends its side.
    pub body: Body,
}

impl Response {
    /// A response.
    #[must_use]
    pub fn new(head: ResponseHead, body: Body) -> Self {
        Self { head, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn a_full_body_is_given_once() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut body = Body::Full(Bytes::from_static(b"x"));
        assert!(!body.is_end());
        assert_eq!(body.poll_frame(&mut cx), Poll::Ready(Some(Ok(Frame::Data(Bytes::from_static(b"x"))))));
        assert_eq!(body.poll_frame(&mut cx), Poll::Ready(None));
        assert!(body.is_end() && Body::Full(Bytes::new()).is_end());
    }

    #[test]
    fn interim_answers_are_bounded() {
        let seen = Rc::new(Cell::new(0));
        let count = Rc::clone(&seen);
        let sink = InterimSink::new(move |_| count.set(count.get() + 1));
        let passed = (0..100).filter(|_| sink.clone().send(ResponseHead::new(103))).count();
        assert_eq!((passed, seen.get()), (16, 16));
    }
}
