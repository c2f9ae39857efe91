//! Writing a body to an HTTP/2 stream, no faster than the peer's windows allow.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use ::h2::SendStream;
use bytes::Bytes;

use super::convert;
use crate::body::{Body, BodyError, Frame, PollFrame};
use crate::head::BodyLength;

/// Bytes of one DATA frame. The peer's largest allowed frame is at least this (RFC 9113 section 4.2).
const FRAME: usize = 16 * 1024;

/// Why a body was not sent to its end.
#[derive(Debug)]
pub(super) enum SendError {
    /// The peer reset the stream, or the connection failed.
    Stream,
    /// The peer wants no more of it, without blaming us (`NO_ERROR`: an early answer).
    Unwanted,
    Body(BodyError),
    /// The body is not as long as its head says.
    Length,
    /// The peer gave no window for too long.
    Stalled,
}

/// Sends all of `body` and ends the stream. `stall` bounds how long the peer may give no window. On every error but
/// [`SendError::Stream`] the stream is left open, for the caller to reset with the right code.
pub(super) async fn send_body(
    stream: &mut SendStream<Bytes>,
    body: &mut Body,
    length: BodyLength,
    stall: Option<Duration>,
) -> Result<(), SendError> {
    let mut left = match length {
        BodyLength::Exact(length) => Some(length),
        BodyLength::None | BodyLength::Unknown => None,
    };
    loop {
        let frame = poll_fn(|cx| next_frame(stream, body, cx)).await?;
        match frame {
            Some(Frame::Data(data)) => {
                if let Some(left) = &mut left {
                    *left = left.checked_sub(data.len() as u64).ok_or(SendError::Length)?;
                }
                let is_last = body.is_end() && left.is_none_or(|left| left == 0);
                send_data(stream, data, is_last, stall).await?;
                if is_last {
                    body.settle().await;
                    return Ok(());
                }
            }
            _ if left.is_some_and(|left| left > 0) => return Err(SendError::Length),
            Some(Frame::Trailers(fields)) => {
                let map = convert::map(&fields).unwrap_or_default();
                return stream.send_trailers(map).map_err(|_| SendError::Stream);
            }
            None => return stream.send_data(Bytes::new(), true).map_err(|_| SendError::Stream),
        }
    }
}

/// The body's next frame, unless the stream is reset first.
fn next_frame(
    stream: &mut SendStream<Bytes>,
    body: &mut Body,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Frame>, SendError>> {
    poll_reset(stream, cx)?;
    let polled: PollFrame = body.poll_frame(cx);
    polled.map(|frame| frame.transpose().map_err(SendError::Body))
}

fn poll_reset(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Result<(), SendError> {
    match stream.poll_reset(cx) {
        Poll::Pending => Ok(()),
        Poll::Ready(Ok(::h2::Reason::NO_ERROR)) => Err(SendError::Unwanted),
        Poll::Ready(Ok(_) | Err(_)) => Err(SendError::Stream),
    }
}

async fn send_data(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    is_last: bool,
    stall: Option<Duration>,
) -> Result<(), SendError> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len().min(FRAME));
        let capacity = match poll_fn(|cx| Poll::Ready(capacity(stream, cx))).await {
            Poll::Ready(capacity) => capacity?,
            Poll::Pending => {
                let waited = poll_fn(|cx| capacity(stream, cx));
                match stall {
                    Some(limit) => tokio::time::timeout(limit, waited).await.map_err(|_| SendError::Stalled)??,
                    None => waited.await?,
                }
            }
        };
        let piece = data.split_to(capacity.min(data.len()).min(FRAME));
        stream.send_data(piece, is_last && data.is_empty()).map_err(|_| SendError::Stream)?;
    }
    Ok(())
}

fn capacity(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<usize, SendError>> {
    poll_reset(stream, cx)?;
    // Assigned earlier and not used: there is no event for it.
    if stream.capacity() > 0 {
        return Poll::Ready(Ok(stream.capacity()));
    }
    loop {
        match stream.poll_capacity(cx) {
            Poll::Ready(Some(Ok(0))) => {}
            Poll::Ready(Some(Ok(capacity))) => return Poll::Ready(Ok(capacity)),
            Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(SendError::Stream)),
            Poll::Ready(None) => return Poll::Ready(Err(SendError::Unwanted)),
            Poll::Pending => return Poll::Pending,
        }
    }
}
