//! A stream as a body, and a body as what a stream sends. Both ends use them alike.

use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::driver::Shared;
use super::head_text::put_response;
use crate::body::{Body, BodyError, Frame, PollFrame};
use crate::head::ResponseHead;
use crate::mux::{HeadPart, Stopped, StreamKey};
use crate::refusal::StreamError;

/// The bytes that the peer sends on one stream.
///
/// Dropped before its end: at the origination the stream is reset; at the termination the peer is asked to stop sending,
/// and the answer goes on.
pub struct HopBody {
    shared: Rc<Shared>,
    key: StreamKey,
    is_over: bool,
}

impl HopBody {
    pub(super) fn new(shared: Rc<Shared>, key: StreamKey) -> Self {
        Self { shared, key, is_over: false }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        if self.is_over {
            return Poll::Ready(None);
        }
        let key = self.key;
        let (frame, is_over) = ready!(self.shared.with(|e| {
            let frame = ready!(e.poll_body(key, cx));
            // The last piece and the end are one look.
            let is_over = !matches!(frame, Some(Ok(Frame::Data(_)))) || e.is_read(key);
            if is_over {
                e.release(key);
            }
            Poll::Ready((frame, is_over))
        }));
        self.is_over = is_over;
        Poll::Ready(frame)
    }

    /// The next part of the response's beginning.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<HeadPart<Bytes>, StreamError>> {
        self.shared.with_quietly(|e| e.poll_head(self.key, cx))
    }

    /// Breaks the stream off for a fault of the peer's.
    pub(super) fn reset(&self, error: &StreamError) {
        self.shared.with(|e| e.reset(self.key, error.reason, false, &error.detail));
    }

    /// Whether nothing is left to read.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The same stream for another owner; this one has nothing to do with it any more.
    pub(super) fn take(&mut self) -> Self {
        let is_over = std::mem::replace(&mut self.is_over, true);
        Self { shared: Rc::clone(&self.shared), key: self.key, is_over }
    }

    /// The reader's side is done; further calls do nothing.
    pub(super) fn release(&mut self) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.shared.with(|e| e.release(self.key));
        }
    }
}

impl Drop for HopBody {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for HopBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HopBody({:?})", self.key)
    }
}

/// The way back for 1xx heads on a stream; the stream bounds their number.
#[derive(Clone)]
pub(crate) struct HopInterim {
    shared: Rc<Shared>,
    key: StreamKey,
}

impl HopInterim {
    pub(super) fn new(shared: Rc<Shared>, key: StreamKey) -> Self {
        Self { shared, key }
    }

    /// Sends one; `false` if the stream has had its share.
    pub(crate) fn send(&self, head: &ResponseHead) -> bool {
        // A 1xx head that cannot be carried is left out: it is advice, not the answer.
        self.shared.with(|e| e.send_info(self.key, |out| put_response(out, head))).unwrap_or(true)
    }
}

/// Sends a body on a stream until its end, its error, or until the stream takes no more. Dropping the future leaves the
/// stream's sending half open; the owner resets the stream then.
pub(super) async fn pump(shared: &Shared, key: StreamKey, body: Body) {
    let mut body = body;
    if let Err(error) = std::future::poll_fn(|cx| poll_pump(shared, key, &mut body, cx)).await {
        shared.with(|e| e.reset(key, error.reason, false, &error.detail));
    }
}

/// Takes from the source what the stream has room for. Whom to wake when it has none is left with the stream only when there
/// is something to wait for.
fn poll_pump(shared: &Shared, key: StreamKey, body: &mut Body, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
    let mut has_room = shared.with_quietly(|e| e.has_room(key));
    loop {
        match has_room {
            Err(Stopped) => return Poll::Ready(Ok(())),
            Ok(false) if ready!(shared.with_quietly(|e| e.poll_room(key, cx))).is_err() => return Poll::Ready(Ok(())),
            Ok(_) => {}
        }
        let Poll::Ready(frame) = body.poll_frame(cx) else {
            // The stream may be stopped meanwhile.
            return match shared.with_quietly(|e| e.poll_room(key, cx)) {
                Poll::Ready(Err(Stopped)) => Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            };
        };
        match frame {
            Some(Ok(Frame::Data(bytes))) => {
                has_room = shared.with(|e| {
                    e.send_data(key, bytes);
                    e.has_room(key)
                });
            }
            Some(Ok(Frame::Trailers(fields))) => {
                shared.with(|e| e.send_end(key, Some(&fields)));
                return Poll::Ready(Ok(()));
            }
            None => {
                shared.with(|e| e.send_end(key, None));
                return Poll::Ready(Ok(()));
            }
            Some(Err(error)) => return Poll::Ready(Err(error)),
        }
    }
}
