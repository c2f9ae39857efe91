//! The writing side of HTTP/1: heads and bodies in as few calls as possible.
//!
//! A head waits for the first frame of its body if that is there already, and small frames wait for each other, as long as nothing
//! has to be waited for. Large frames are not copied: they go out beside their framing in one vectored call.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::chunked;
use super::write::{self, Coding};
use crate::body::{Body, BodyError, Frame};
use crate::head::{Fields, RequestHead, ResponseHead, Version};

/// From this size on a frame is not copied.
const LARGE: usize = 8 * 1024;
/// So many bytes are gathered at most before they are sent.
const GATHERED: usize = 32 * 1024;
/// Buffers kept per thread for the next response.
const SPARE_BUFFERS: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An output buffer that goes back to its thread when dropped, so that idle connections have none.
struct Buffer(Vec<u8>);

impl Buffer {
    fn take() -> Self {
        Self(SPARE.with(|spare| spare.borrow_mut().pop()).unwrap_or_default())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        if buffer.capacity() == 0 || buffer.capacity() > 2 * GATHERED {
            return;
        }
        buffer.clear();
        SPARE.with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_BUFFERS {
                spare.push(buffer);
            }
        });
    }
}

/// Lends an empty buffer for what goes out with one call.
pub(super) fn with_outgoing<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    work(&mut Buffer::take().0)
}

/// Why a message could not be sent whole.
#[derive(Debug)]
pub(super) enum SendError {
    Io(io::Error),
    Body(BodyError),
    /// The body is not as long as its head says; sending either would let the peer mistake what follows.
    Length,
}

/// Writes one message.
pub(super) struct Writer<'a> {
    io: &'a TcpStream,
    out: Buffer,
    coding: Coding,
    /// Bytes that the kernel has taken, of head and body.
    pub sent: u64,
    /// Counts progress for whoever watches for stalls.
    progress: &'a Cell<u32>,
    /// How long the peer may take no bytes while there are some for it; `None` for ever.
    stall: Option<Duration>,
}

impl<'a> Writer<'a> {
    pub fn new(io: &'a TcpStream, progress: &'a Cell<u32>, stall: Option<Duration>) -> Self {
        Self { io, out: Buffer::take(), coding: Coding::None, sent: 0, progress, stall }
    }

    /// Appends the head of a request. `address` stands in for a missing authority (HTTP/1.0 callers).
    pub fn request(&mut self, head: &RequestHead, address: SocketAddr) {
        self.coding = write::request(head, address, &mut self.out.0);
    }

    /// Appends what was formatted before.
    pub fn append(&mut self, bytes: &[u8]) {
        self.out.0.extend_from_slice(bytes);
    }

    /// Appends an interim response.
    pub fn interim(&mut self, head: &ResponseHead) {
        write::interim(head, &mut self.out.0);
    }

    /// Appends the head of a switch of protocols: a 101, or a 2xx to CONNECT. What follows is not HTTP.
    pub fn switch(&mut self, head: &ResponseHead) {
        write::switch(head, &mut self.out.0);
        self.coding = Coding::UntilClose;
    }

    /// Appends the head of a final response to a caller of `version`; `is_empty` tells that the body is known to hold nothing.
    /// Returns whether the connection can be kept.
    pub fn response(
        &mut self,
        head: &ResponseHead,
        version: Version,
        is_head: bool,
        is_empty: bool,
        keep_alive: bool,
    ) -> bool {
        let (coding, keep_alive) = write::response(head, version, is_head, is_empty, keep_alive, &mut self.out.0);
        self.coding = coding;
        keep_alive
    }

    /// From here on the body ends with the connection (after a switch of protocols by the other side).
    pub fn raw(&mut self) {
        self.coding = Coding::UntilClose;
    }

    /// Sends what was appended and then all of `body`. Dropping the future leaves a message half sent.
    pub async fn send(&mut self, body: &mut Body) -> Result<(), SendError> {
        while !matches!(self.coding, Coding::None | Coding::Length(0)) {
            let frame = match poll_fn(|cx| Poll::Ready(body.poll_frame(cx))).await {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    self.flush().await?;
                    body.next().await
                }
            };
            match frame {
                Some(Ok(Frame::Data(data))) => self.data(data).await?,
                Some(Ok(Frame::Trailers(fields))) => {
                    self.end(Some(&fields))?;
                    break;
                }
                Some(Err(error)) => return Err(SendError::Body(error)),
                None => {
                    self.end(None)?;
                    break;
                }
            }
        }
        self.flush().await?;
        body.settle().await;
        Ok(())
    }

    async fn data(&mut self, data: Bytes) -> Result<(), SendError> {
        let is_chunked = self.coding == Coding::Chunked;
        match &mut self.coding {
            Coding::Length(left) => *left = left.checked_sub(data.len() as u64).ok_or(SendError::Length)?,
            Coding::Chunked if data.is_empty() => return Ok(()),
            Coding::Chunked => chunked::write_size(data.len(), &mut self.out.0),
            Coding::None | Coding::UntilClose => {}
        }
        let end: &[u8] = if is_chunked { b"\r\n" } else { b"" };
        if data.len() >= LARGE {
            return self.write([&data, end]).await;
        }
        self.out.0.extend_from_slice(&data);
        self.out.0.extend_from_slice(end);
        if self.out.0.len() >= GATHERED { self.flush().await } else { Ok(()) }
    }

    fn end(&mut self, trailers: Option<&Fields>) -> Result<(), SendError> {
        match self.coding {
            Coding::Length(left) if left > 0 => return Err(SendError::Length),
            Coding::Chunked => write::last_chunk(trailers, &mut self.out.0),
            _ => {}
        }
        Ok(())
    }

    /// Sends what was appended.
    pub async fn flush(&mut self) -> Result<(), SendError> {
        if self.out.0.is_empty() { Ok(()) } else { self.write([b"", b""]).await }
    }

    /// Sends what was appended, then `tail`.
    async fn write(&mut self, tail: [&[u8]; 2]) -> Result<(), SendError> {
        let mut parts = [&self.out.0[..], tail[0], tail[1]];
        while parts.iter().any(|part| !part.is_empty()) {
            let written = if parts[1].is_empty() && parts[2].is_empty() {
                self.io.try_write(parts[0])
            } else {
                self.io.try_write_vectored(&parts.map(IoSlice::new))
            };
            match written {
                Ok(0) => return Err(SendError::Io(io::ErrorKind::WriteZero.into())),
                Ok(mut length) => {
                    self.sent += length as u64;
                    self.progress.set(self.progress.get().wrapping_add(1));
                    for part in &mut parts {
                        let take = length.min(part.len());
                        *part = &part[take..];
                        length -= take;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable().await.map_err(SendError::Io)?
                }
                Err(error) => return Err(SendError::Io(error)),
            }
        }
        self.out.0.clear();
        Ok(())
    }

    async fn writable(&self) -> io::Result<()> {
        match self.stall {
            None => self.io.writable().await,
            Some(limit) => {
                tokio::time::timeout(limit, self.io.writable()).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}
