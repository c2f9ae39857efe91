//! Notices when the control plane refuses our certificate.
//!
//! With TLS 1.3 a client's handshake is complete before the server has looked at its certificate: a refusal arrives as an
//! alert at the first read, where the layers above make "transport error" of it. Who reads the log needs the real reason.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use leno_model::Reason;
use leno_net::tls::TlsError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The last refusal by TLS, until it is taken.
#[derive(Debug, Clone, Default)]
pub struct LastRefusal(Arc<Mutex<Option<(Reason, String)>>>);

impl LastRefusal {
    /// What was noticed since the last call.
    pub fn take(&self) -> Option<(Reason, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, error: &io::Error) {
        if let Some(refusal) = TlsError::from_io(error) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((refusal.reason, refusal.detail));
        }
    }
}

/// A stream whose read errors are looked at.
pub struct Watched<IO> {
    /// The stream.
    pub io: IO,
    /// Where refusals are noted.
    pub refusal: LastRefusal,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &read {
            self.refusal.note(error);
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
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
