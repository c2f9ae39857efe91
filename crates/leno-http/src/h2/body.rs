//! Bodies that arrive on HTTP/2 streams, and the way back for 1xx heads.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::client::Lease;
use super::driver::Shared;
use super::head::put_response;
use super::send::SendError;
use crate::body::{BodyError, Frame, PollFrame};
use crate::head::{BodyLength, ResponseHead};
use crate::mux::{HeadPart, StreamKey};
use crate::pump::Pump;
use crate::refusal::StreamError;

/// A body from an HTTP/2 stream. The peer's window opens only as frames are taken.
///
/// Dropped before its end, a response's stream is reset; a request's is answered all the same, and then the peer is told that
/// the rest is not wanted.
pub struct H2Body {
    shared: Rc<Shared>,
    key: StreamKey,
    is_over: bool,
    /// What must come yet, if the head told.
    left: Option<u64>,
    /// Sent when the body is first asked for: 100 (Continue).
    continues: Option<H2Interim>,
    /// What must live as long as the body is not over.
    lease: Option<Lease>,
}

impl H2Body {
    pub(super) fn new(shared: Rc<Shared>, key: StreamKey, length: BodyLength) -> Self {
        let mut body = Self { shared, key, is_over: false, left: None, continues: None, lease: None };
        body.expect(length);
        body
    }

    /// What the head told of the length.
    pub(super) fn expect(&mut self, length: BodyLength) {
        self.left = match length {
            BodyLength::Exact(length) => Some(length),
            BodyLength::None | BodyLength::Unknown => None,
        };
    }

    /// The next part of the response's beginning.
    pub(super) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<HeadPart<ResponseHead>, StreamError>> {
        self.shared.with_quietly(|e| e.poll_head(self.key, cx))
    }

    pub(super) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    pub(super) fn set_pump(&mut self, pump: Pump<SendError>) {
        if let Some(lease) = &mut self.lease {
            lease.set_pump(pump);
        }
    }

    /// Says 100 when the body is first asked for.
    pub(super) fn when_wanted(mut self, interim: H2Interim) -> Self {
        self.continues = Some(interim);
        self
    }

    pub(super) fn with_lease(mut self, lease: Lease) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Whether it is known that nothing more comes.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(interim) = self.continues.take() {
            interim.send(&ResponseHead::new(100));
        }
        let key = self.key;
        let (frame, is_over) = ready!(self.shared.with(|e| {
            let frame = ready!(e.poll_body(key, cx));
            // The last piece and the end are one look.
            let is_over = !matches!(frame, Some(Ok(Frame::Data(_)))) || e.is_read(key);
            Poll::Ready((frame, is_over))
        }));
        let frame = match (self.count(frame.as_ref(), is_over), frame) {
            (Ok(()), frame) => frame,
            (Err(error), _) => {
                self.shared.with(|e| e.reset(key, error.reason, false, &error.detail));
                Some(Err(error.into()))
            }
        };
        if is_over || matches!(frame, Some(Err(_))) {
            self.end(!matches!(frame, Some(Err(_))));
        }
        Poll::Ready(match frame {
            Some(Ok(Frame::Trailers(fields))) if fields.is_empty() => None,
            frame => frame,
        })
    }

    /// The body must be as long as its head says.
    fn count(&mut self, frame: Option<&Result<Frame, BodyError>>, is_over: bool) -> Result<(), StreamError> {
        let Some(left) = &mut self.left else { return Ok(()) };
        match frame {
            Some(Ok(Frame::Data(data))) => match left.checked_sub(data.len() as u64) {
                Some(rest) => *left = rest,
                None => return Err(self.wrong("a body longer than content-length")),
            },
            Some(Err(_)) => return Ok(()),
            Some(Ok(Frame::Trailers(_))) | None => {}
        }
        if is_over && *left > 0 { Err(self.wrong("a body shorter than content-length")) } else { Ok(()) }
    }

    fn wrong(&self, rule: &'static str) -> StreamError {
        StreamError::in_flight(self.shared.with_quietly(|e| e.side()).broken(), rule)
    }

    /// The reader is done with it; `is_whole` if it came to its end.
    pub(super) fn end(&mut self, is_whole: bool) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.shared.with(|e| e.release(self.key));
            if let Some(lease) = self.lease.take() {
                lease.end(is_whole);
            }
        }
    }
}

impl Drop for H2Body {
    fn drop(&mut self) {
        self.end(false);
    }
}

/// The way back for 1xx heads on a stream; the stream bounds their number.
#[derive(Clone)]
pub(crate) struct H2Interim {
    shared: Rc<Shared>,
    key: StreamKey,
}

impl H2Interim {
    pub(super) fn new(shared: Rc<Shared>, key: StreamKey) -> Self {
        Self { shared, key }
    }

    /// Sends one; `false` if the stream has had its share. One that cannot be carried is left out: it is advice, not the answer.
    pub(crate) fn send(&self, head: &ResponseHead) -> bool {
        // The application may say what was said for it already.
        if head.status == 100 && !self.shared.with_quietly(|e| e.continue_once(self.key)) {
            return true;
        }
        self.shared.with(|e| e.send_info(self.key, |out| put_response(out, head))).unwrap_or(true)
    }
}
