//! Writing a body to an HTTP/2 stream, no faster than the peer's windows allow.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::driver::Shared;
use crate::body::{Body, BodyError, Frame};
use crate::head::BodyLength;
use crate::mux::{Stopped, StreamKey};

/// Why a body was not sent to its end.
#[derive(Debug)]
pub(super) enum SendError {
    /// The stream takes no more: the peer broke it off, or the connection failed.
    Stopped,
    Body(BodyError),
    /// The body is not as long as its head says.
    Length,
    /// The peer gave no window for too long.
    Stalled,
}

/// A body on its way to a stream.
pub(super) struct Outgoing {
    body: Body,
    /// What must be sent yet, if the head told.
    left: Option<u64>,
    /// How long the peer may give no window while there are bytes for it.
    stall: Option<Duration>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Outgoing {
    pub fn new(body: Body, length: BodyLength, stall: Option<Duration>) -> Self {
        let left = match length {
            BodyLength::Exact(length) => Some(length),
            BodyLength::None | BodyLength::Unknown => None,
        };
        Self { body, left, stall, stalled: None }
    }

    /// Ready when all of the body is with the stream, and its end. After an error but [`SendError::Stopped`] the stream is
    /// left open, for the caller to reset with the right reason.
    pub fn poll(&mut self, shared: &Shared, key: StreamKey, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let mut has_room = shared.with_quietly(|e| e.has_room(key));
        loop {
            match has_room {
                Err(Stopped) => return Poll::Ready(Err(SendError::Stopped)),
                Ok(false) => match shared.with_quietly(|e| e.poll_room(key, cx)) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(Stopped)) => return Poll::Ready(Err(SendError::Stopped)),
                    Poll::Pending => return self.poll_stalled(cx).map(|()| Err(SendError::Stalled)),
                },
                Ok(true) => {}
            }
            self.stalled = None;
            let Poll::Ready(frame) = self.body.poll_frame(cx) else {
                // The stream may be stopped meanwhile.
                return match shared.with_quietly(|e| e.poll_room(key, cx)) {
                    Poll::Ready(Err(Stopped)) => Poll::Ready(Err(SendError::Stopped)),
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                };
            };
            match frame.transpose().map_err(SendError::Body)? {
                Some(Frame::Data(data)) => {
                    if let Some(left) = &mut self.left {
                        *left = left.checked_sub(data.len() as u64).ok_or(SendError::Length)?;
                    }
                    let is_last = self.body.is_end() && self.left.is_none_or(|left| left == 0);
                    has_room = shared.with(|e| {
                        e.send_data(key, data);
                        if is_last {
                            e.send_end(key, None);
                        }
                        e.has_room(key)
                    });
                    if is_last {
                        self.body.settle_now(cx);
                        return Poll::Ready(Ok(()));
                    }
                }
                _ if self.left.is_some_and(|left| left > 0) => return Poll::Ready(Err(SendError::Length)),
                Some(Frame::Trailers(fields)) => {
                    shared.with(|e| e.send_end(key, Some(&fields)));
                    return Poll::Ready(Ok(()));
                }
                None => {
                    shared.with(|e| e.send_end(key, None));
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.stall else { return Poll::Pending };
        self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(cx)
    }
}
