//! A connection that has to earn its place: closed unless a stream is admitted on it in time.
//!
//! Without this, connections that never open a stream cost memory for as long as they answer pings (BAD_INPUTS 17).

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::limits::HELLO_TIMEOUT;

/// What handlers see of the connection that a request came on.
#[derive(Debug, Clone)]
pub struct Connection<P> {
    /// What the transport knows of the peer.
    pub peer: P,
    admitted: Arc<AtomicBool>,
}

impl<P> Connection<P> {
    /// Lets the connection stay.
    pub(super) fn admit(&self) {
        self.admitted.store(true, Ordering::Relaxed);
    }
}

/// See the module.
pub struct Guard<IO, P> {
    io: IO,
    connection: Connection<P>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<IO, P> Guard<IO, P> {
    /// Guards an established connection, from now.
    pub fn new(io: IO, peer: P) -> Self {
        let connection = Connection { peer, admitted: Arc::default() };
        Self { io, connection, deadline: Some(Box::pin(tokio::time::sleep(HELLO_TIMEOUT))) }
    }

    fn overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = &mut self.deadline else { return false };
        if deadline.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.deadline = None;
        !self.connection.admitted.load(Ordering::Relaxed)
    }
}

impl<IO, P: Clone + Send + Sync + 'static> Connected for Guard<IO, P> {
    type ConnectInfo = Connection<P>;

    fn connect_info(&self) -> Connection<P> {
        self.connection.clone()
    }
}

impl<IO: AsyncRead + Unpin, P: Unpin> AsyncRead for Guard<IO, P> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.overdue(cx) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no stream was opened in time")));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin, P: Unpin> AsyncWrite for Guard<IO, P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
