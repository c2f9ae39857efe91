//! Request bodies that a retry can send again.
//!
//! An attempt that failed before the upstream can have processed anything may already have read some of the caller's body. What
//! was read is kept, up to [`MAX_KEPT`]; past that the request is sent once or not at all.
//!
//! ```text
//!   caller's body ──▶ Source ──▶ kept ──▶ attempt 1 (stale: gives an error)
//!                                  └────▶ attempt 2 (kept frames first, then on from the source)
//! ```

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};

use leno_http::body::PollFrame;
use leno_http::{Body, BodyError, BodyStream, Frame};
use leno_model::Reason;

/// Bytes of a request body kept for a retry. Envoy's default is 1 MiB per request; retries here are of requests that failed to
/// connect, which have rarely read more than a socket buffer.
pub const MAX_KEPT: usize = 64 * 1024;

/// A request body that hands out one body per attempt.
pub enum Replay {
    /// Nothing to keep: no body, or one that is a cheap clone.
    Plain(Option<bytes::Bytes>),
    /// A streaming body.
    Kept(Rc<RefCell<Source>>),
    /// Retries are off: the body is given away once.
    Once(Option<Body>),
}

/// Where a kept body comes from, and how far it has been read.
pub struct Source {
    body: Body,
    kept: VecDeque<Frame>,
    bytes: usize,
    /// Frames may still be needed by a later attempt.
    keeping: bool,
    /// Something was read that was not kept.
    lost: bool,
    ended: bool,
    failed: Option<BodyError>,
    attempt: u32,
}

impl Replay {
    /// Takes the caller's body; `retries` tells whether it may be needed twice.
    #[must_use]
    pub fn new(body: Body, retries: bool) -> Self {
        match body {
            Body::Empty => Self::Plain(None),
            Body::Full(bytes) => Self::Plain(Some(bytes)),
            body if !retries => Self::Once(Some(body)),
            body => Self::Kept(Rc::new(RefCell::new(Source {
                body,
                kept: VecDeque::new(),
                bytes: 0,
                keeping: true,
                lost: false,
                ended: false,
                failed: None,
                attempt: 0,
            }))),
        }
    }

    /// The body for the next attempt; `None` if what was read is gone.
    pub fn next_attempt(&mut self) -> Option<Body> {
        match self {
            Self::Plain(None) => Some(Body::Empty),
            Self::Plain(Some(bytes)) => Some(Body::Full(bytes.clone())),
            Self::Once(body) => body.take(),
            Self::Kept(source) => {
                let mut state = source.borrow_mut();
                if state.lost {
                    return None;
                }
                state.attempt += 1;
                let attempt = state.attempt;
                drop(state);
                Some(Body::custom(Attempt { source: Rc::clone(source), attempt, position: 0 }))
            }
        }
    }

    /// Whether another attempt could be made.
    #[must_use]
    pub fn can_repeat(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Once(body) => body.is_some(),
            Self::Kept(source) => {
                let state = source.borrow();
                !state.lost && state.failed.is_none()
            }
        }
    }

    /// No further attempt will follow: what the current one has read is let go.
    pub fn settle(&self) {
        if let Self::Kept(source) = self {
            source.borrow_mut().keeping = false;
        }
    }
}

/// The body that one attempt reads.
struct Attempt {
    source: Rc<RefCell<Source>>,
    attempt: u32,
    /// Frames of `kept` that this attempt has read; 0 once frames are popped instead.
    position: usize,
}

impl BodyStream for Attempt {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        let mut source = self.source.borrow_mut();
        if source.attempt != self.attempt {
            let stale = BodyError::new(Reason::DownstreamReset, "a later attempt has taken the body over");
            return Poll::Ready(Some(Err(stale)));
        }
        if !source.keeping && self.position > 0 {
            source.kept.drain(..self.position);
            self.position = 0;
        }
        if self.position < source.kept.len() {
            if source.keeping {
                self.position += 1;
                return Poll::Ready(Some(Ok(source.kept[self.position - 1].clone())));
            }
            return Poll::Ready(source.kept.pop_front().map(Ok));
        }
        if let Some(error) = source.failed.clone() {
            return Poll::Ready(Some(Err(error)));
        }
        if source.ended {
            return Poll::Ready(None);
        }
        let polled = source.body.poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                source.ended |= matches!(frame, Frame::Trailers(_));
                if source.keep(frame) {
                    self.position += 1;
                } else {
                    self.position = 0;
                }
            }
            Poll::Ready(Some(Err(error))) => source.failed = Some(error.clone()),
            Poll::Ready(None) => source.ended = true,
            Poll::Pending => {}
        }
        polled
    }
}

impl Source {
    /// Whether the frame was kept; letting one go lets all go.
    fn keep(&mut self, frame: &Frame) -> bool {
        if !self.keeping {
            return false;
        }
        self.bytes += match frame {
            Frame::Data(bytes) => bytes.len(),
            Frame::Trailers(fields) => fields.wire_len(),
        };
        if self.bytes > MAX_KEPT {
            self.kept.clear();
            self.keeping = false;
            self.lost = true;
            return false;
        }
        self.kept.push_back(frame.clone());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::task::Waker;

    /// Gives `pieces` one by one.
    struct Pieces(VecDeque<Bytes>);

    impl BodyStream for Pieces {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> PollFrame {
            Poll::Ready(self.0.pop_front().map(|b| Ok(Frame::Data(b))))
        }
    }

    fn body(pieces: &[&'static [u8]]) -> Body {
        Body::custom(Pieces(pieces.iter().map(|p| Bytes::from_static(p)).collect()))
    }

    fn read(body: &mut Body, frames: usize) -> String {
        let mut cx = Context::from_waker(Waker::noop());
        let mut out = String::new();
        for _ in 0..frames {
            match body.poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(Frame::Data(bytes)))) => out += std::str::from_utf8(&bytes).unwrap(),
                Poll::Ready(Some(Err(error))) => out += error.reason.as_str(),
                _ => out += "|",
            }
        }
        out
    }

    #[test]
    fn a_second_attempt_reads_everything_again() {
        let mut replay = Replay::new(body(&[b"a", b"b", b"c"]), true);
        let mut first = replay.next_attempt().unwrap();
        assert_eq!(read(&mut first, 2), "ab");
        let mut second = replay.next_attempt().unwrap();
        assert_eq!(read(&mut first, 1), "downstream_reset", "the first attempt's body is stale");
        assert_eq!(read(&mut second, 1), "a");
        replay.settle();
        assert_eq!(read(&mut second, 3), "bc|");
    }

    #[test]
    fn what_is_too_long_is_sent_once() {
        static BIG: [u8; MAX_KEPT] = [b'x'; MAX_KEPT];
        let mut replay = Replay::new(body(&[&BIG, b"y", b"z"]), true);
        let mut first = replay.next_attempt().unwrap();
        assert_eq!(read(&mut first, 1).len(), MAX_KEPT);
        assert!(replay.can_repeat());
        assert_eq!(read(&mut first, 3), "yz|");
        assert!(!replay.can_repeat() && replay.next_attempt().is_none());
    }

    #[test]
    fn without_retries_nothing_is_kept() {
        let mut replay = Replay::new(body(&[b"a"]), false);
        assert!(replay.can_repeat());
        assert_eq!(read(&mut replay.next_attempt().unwrap(), 2), "a|");
        assert!(replay.next_attempt().is_none());
    }
}
