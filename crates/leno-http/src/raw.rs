//! Plain connections as bodies: TCP streams, and what follows an HTTP/1 upgrade.
//!
//! Both directions share one socket and end on their own: the end of the peer's bytes ends the [`RawBody`], the end of the
//! body that [`write_out`] pumps shuts down the sending side. Idle connections own no buffer.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use leno_model::Reason;
use tokio::net::TcpStream;

use crate::body::{Body, BodyError, Frame, PollFrame};
use crate::spare;

/// One per worker thread; large enough that a bulk stream costs few calls (DESIGN section 6), and that few records and frames of
/// a busy hop are cut by the end of a read: their pieces are copied.
pub const SCRATCH: usize = 128 * 1024;

/// Silence after which the kernel probes a stream's peer.
const KEEPALIVE_AFTER: std::time::Duration = std::time::Duration::from_secs(60);

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Lends this thread's read buffer. Must not be nested; what is worth keeping is copied out.
pub fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with(|buffer| work(&mut buffer.borrow_mut()))
}

/// The bytes of a connection until the peer ends its side.
#[derive(Debug)]
pub struct RawBody {
    io: Rc<TcpStream>,
    ahead: Bytes,
    /// Whose fault it is when the connection breaks.
    broken: Reason,
}

impl RawBody {
    /// `ahead` is what was already read; `broken` the reason if the connection breaks off ([`Reason::DownstreamReset`] or
    /// [`Reason::UpstreamReset`]).
    #[must_use]
    pub fn new(io: Rc<TcpStream>, ahead: Bytes, broken: Reason) -> Self {
        Self { io, ahead, broken }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        if !self.ahead.is_empty() {
            return Poll::Ready(Some(Ok(Frame::Data(std::mem::take(&mut self.ahead)))));
        }
        loop {
            let read = ready!(self.io.poll_read_ready(cx)).and_then(|()| read_bytes(&self.io));
            return Poll::Ready(match read {
                Ok(bytes) if bytes.is_empty() => None,
                Ok(bytes) => Some(Ok(Frame::Data(bytes))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => Some(Err(BodyError::new(self.broken, error.to_string()))),
            });
        }
    }
}

/// Reads once, into bytes that are the caller's; none at the peer's end. As [`read_some`].
///
/// What is worth a block's memory stays where it was read to; what is small is copied to where other small pieces are.
pub(crate) fn read_bytes(io: &TcpStream) -> io::Result<Bytes> {
    let read = spare::with_block(|block| {
        let room = block.capacity();
        let length = read_once(io, room, || io.try_read_buf(block))?;
        Ok(if length > spare::LARGEST_PIECE {
            block.split().freeze()
        } else {
            let small = spare::copy(block);
            block.clear();
            small
        })
    });
    // All blocks are in use, by readers that are slower than this one.
    let copied = |scratch: &mut [u8]| read_some(io, scratch).map(|length| spare::copy(&scratch[..length]));
    read.unwrap_or_else(|| with_scratch(|scratch| copied(&mut scratch[..spare::READ_BLOCK])))
}

/// Reads once. A read that does not fill the buffer has emptied the socket, so it also clears readiness: the next poll waits
/// for the kernel's event instead of asking with a call that is known to find nothing.
pub(crate) fn read_some(io: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    read_once(io, buffer.len(), || io.try_read(buffer))
}

/// [`read_some`], by `read` into `room` bytes.
fn read_once(io: &TcpStream, room: usize, read: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
    let mut short = None;
    let read = io.try_io(tokio::io::Interest::READABLE, || match read() {
        Ok(length) if length > 0 && length < room => {
            short = Some(length);
            Err(io::ErrorKind::WouldBlock.into())
        }
        other => other,
    });
    short.map_or(read, Ok)
}

/// Why [`write_out`] stopped before the body's end.
#[derive(Debug, thiserror::Error)]
pub enum WriteOutError {
    /// The body broke off.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The socket did.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes all of `body` to the socket, then ends the sending side; how many bytes. Trailers have no place and are dropped.
///
/// Dropping the future leaves the socket open with part of the body sent. On an error the socket is left to the caller,
/// who should [`reset`] it so that the peer does not take a broken stream for a finished one.
pub async fn write_out(mut body: Body, io: &TcpStream) -> Result<u64, WriteOutError> {
    let mut sent = 0;
    while let Some(frame) = body.next().await {
        if let Frame::Data(bytes) = frame? {
            write_all(io, &bytes).await?;
            sent += bytes.len() as u64;
        }
    }
    end_sending(io)?;
    Ok(sent)
}

/// Writes all bytes through a shared reference. Not cancel-safe: a dropped call may have sent a part.
pub async fn write_all(io: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match io.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => io.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Has the kernel probe a silent peer: streams have no idle timeout (DESIGN section 7), so nothing else finds one that vanished
/// without a FIN. First after 60 s, gone after 60 s more; a laptop's short sleep survives that.
pub fn probe_when_silent(io: &TcpStream) {
    let probes =
        socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_AFTER / 4).with_retries(4);
    // A socket that does not take the option is one that is closed already.
    let _ = socket2::SockRef::from(io).set_tcp_keepalive(&probes);
}

/// Ends the sending side (FIN); the peer may go on sending.
pub fn end_sending(io: &TcpStream) -> io::Result<()> {
    match socket2::SockRef::from(io).shutdown(Shutdown::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}

/// Makes closing the socket send RST, so that the peer learns that the stream is broken, not finished.
pub fn reset(io: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(io).set_linger(Some(std::time::Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn each_direction_ends_on_its_own() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let io = Rc::new(listener.accept().await.unwrap().0);
        let mut body = Body::Raw(RawBody::new(Rc::clone(&io), Bytes::from_static(b"ahead,"), Reason::DownstreamReset));
        assert_eq!(write_out(Body::Full(Bytes::from_static(b"answer")), &io).await.unwrap(), 6);
        let mut answer = String::new();
        peer.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        peer.write_all(b"still sending").await.unwrap();
        peer.shutdown().await.unwrap();
        assert_eq!(body.next().await, Some(Ok(Frame::Data(Bytes::from_static(b"ahead,")))));
        assert_eq!(body.collect(100).await.unwrap().unwrap(), "still sending");
    }

    #[tokio::test]
    async fn a_reset_is_no_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let io = Rc::new(listener.accept().await.unwrap().0);
        reset(&peer).unwrap();
        drop(peer);
        let mut body = Body::Raw(RawBody::new(io, Bytes::new(), Reason::UpstreamReset));
        assert_eq!(body.next().await.unwrap().unwrap_err().reason, Reason::UpstreamReset);
    }
}
