//! Bytes that nobody wants any more: read for a while, so that a connection can be kept, or its last answer arrives.

use std::future::poll_fn;
use std::net::Shutdown;
use std::time::Duration;

use super::source::Source;
use crate::body::Frame;
use crate::raw::with_scratch;

/// Bytes read and thrown away so that a connection can be kept, or its last answer arrive, after a body that nobody wanted.
const MAX_DRAINED: usize = 256 * 1024;
/// How long that may take. A client on the other side of the world sends 256 KB in about this time.
pub(super) const DRAIN_TIME: Duration = Duration::from_secs(2);

/// How far a body that nobody wants was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    Whole,
    TooMuch,
    Broken,
}

/// Reads on to the end of a body that nobody wants, if that is near.
pub(super) async fn read_away(source: &Source) -> Drained {
    source.forget_wanted();
    let mut left = MAX_DRAINED;
    while !source.is_done() {
        match poll_fn(|cx| source.poll_frame(cx)).await {
            Some(Ok(Frame::Data(data))) if data.len() <= left => left -= data.len(),
            Some(Ok(Frame::Data(_))) => return Drained::TooMuch,
            Some(Ok(Frame::Trailers(_))) | None => {}
            Some(Err(_)) => return Drained::Broken,
        }
    }
    Drained::Whole
}

/// Ends the sending side and reads on for a while (RFC 9112 section 9.6).
pub(super) async fn linger(source: &Source) {
    source.cut_off();
    source.clear_ahead();
    if socket2::SockRef::from(&*source.io).shutdown(Shutdown::Write).is_err() {
        return;
    }
    let read = async {
        let mut left = MAX_DRAINED;
        while source.io.readable().await.is_ok() {
            match with_scratch(|scratch| source.io.try_read(scratch)) {
                Ok(0) => return,
                Ok(length) if length <= left => left -= length,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIME, read).await;
}
