//! TLS over an async stream, for control-plane connections.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use leno_identity::{PeerIdentity, RootCert, RootPin};
use leno_model::Reason;
use leno_runtime::Clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::context::{TlsContext, client_config, server_config};
use super::error::{Role, TlsError};
use super::judge::{Judge, Permitted, Trust};
use super::server::ReloadableServer;
use super::session::{HandshakeInfo, server_name};

/// How long a handshake may take (DESIGN section 7).
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whom a client expects at the other end, and as whom it comes.
#[derive(Debug, Clone)]
pub enum Expect {
    /// A member or control plane of a trusted domain; we present our certificate.
    Member {
        /// Our identity and bundle.
        context: TlsContext,
        /// Who may be there.
        permitted: Permitted,
    },
    /// The control plane under the root that a join token names; we have no certificate yet. Nothing but the
    /// handshake's first message is sent before the pin is verified.
    Pinned {
        /// From the token.
        pin: RootPin,
        /// For the validity of its certificate.
        clock: Arc<dyn Clock>,
    },
}

impl Expect {
    /// The control plane of our own trust domain, with our certificate.
    #[must_use]
    pub fn control_plane(context: TlsContext) -> Self {
        let permitted = Permitted::ControlPlane(context.identity().trust_domain());
        Self::Member { context, permitted }
    }
}

/// An established TLS connection.
#[derive(Debug)]
pub struct TlsStream<IO> {
    inner: tokio_rustls::TlsStream<IO>,
    peer: Option<PeerIdentity>,
    pinned_root: Option<RootCert>,
}

impl<IO> TlsStream<IO> {
    /// The verified peer; at a server with optional client certificates possibly none.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.peer.as_ref()
    }

    /// With [`Expect::Pinned`]: the root that matched.
    #[must_use]
    pub fn pinned_root(&self) -> Option<&RootCert> {
        self.pinned_root.as_ref()
    }

    /// The protocol agreed on by ALPN.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.inner.get_ref().1.alpn_protocol()
    }

    /// What was negotiated.
    #[must_use]
    pub fn handshake_info(&self) -> HandshakeInfo {
        let connection = self.inner.get_ref().1;
        HandshakeInfo {
            version: connection.protocol_version().map(|v| format!("{v:?}")).unwrap_or_default(),
            group: connection.negotiated_key_exchange_group().map(|g| format!("{:?}", g.name())).unwrap_or_default(),
            cipher: connection.negotiated_cipher_suite().map(|s| format!("{:?}", s.suite())).unwrap_or_default(),
        }
    }

    /// The stream underneath, for its addresses.
    #[must_use]
    pub fn get_ref(&self) -> &IO {
        self.inner.get_ref().0
    }
}

/// Performs a client's handshake. Dropping the future closes the connection.
pub async fn connect<IO: AsyncRead + AsyncWrite + Unpin>(
    io: IO,
    expect: &Expect,
    sni: &str,
    alpn: &[&[u8]],
    timeout: Duration,
) -> Result<TlsStream<IO>, TlsError> {
    let (judge, config) = match expect {
        Expect::Member { context, permitted } => {
            let (anchors, permitted) = (context.anchors(), permitted.clone());
            let judge = Judge::new(Trust::Bundle { anchors, permitted, expired_grace_s: 0 }, true);
            let config = client_config(Some(context.identity()), context.clock(), judge.clone(), alpn);
            (judge, config)
        }
        Expect::Pinned { pin, clock } => {
            let judge = Judge::new(Trust::Pin(*pin), true);
            let config = client_config(None, clock.clone(), judge.clone(), alpn);
            (judge, config)
        }
    };
    let handshake = TlsConnector::from(Arc::new(config)).connect(server_name(sni)?, io);
    let stream = match tokio::time::timeout(timeout, handshake).await {
        Err(_) => return Err(TlsError::new(Reason::UpstreamTlsFailed, timed_out(timeout))),
        Ok(Err(error)) => return Err(handshake_error(&error, &judge, Role::Client)),
        Ok(Ok(stream)) => stream,
    };
    // A server always presents a certificate in TLS 1.3, and a completed handshake means it was judged good.
    let verdict = judge
        .verdict()
        .cloned()
        .ok_or_else(|| TlsError::new(Reason::PeerUntrusted, "the handshake ended without a verdict on the peer"))?;
    Ok(TlsStream { inner: stream.into(), peer: Some(verdict.peer), pinned_root: verdict.pinned_root })
}

/// Performs a server's handshake. Dropping the future closes the connection.
pub async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(
    io: IO,
    server: &ReloadableServer,
    timeout: Duration,
) -> Result<TlsStream<IO>, TlsError> {
    let context = server.context();
    let trust = Trust::Bundle {
        anchors: context.anchors(),
        permitted: Permitted::AnyMember,
        expired_grace_s: server.grace_s(),
    };
    let judge = Judge::new(trust, server.client_certificate_required());
    let config = server_config(&context, judge.clone(), &server.alpn());
    let stream = match tokio::time::timeout(timeout, TlsAcceptor::from(Arc::new(config)).accept(io)).await {
        Err(_) => return Err(TlsError::new(Reason::HeadTimeout, timed_out(timeout))),
        Ok(Err(error)) => return Err(handshake_error(&error, &judge, Role::Server)),
        Ok(Ok(stream)) => stream,
    };
    let peer = judge.verdict().map(|v| v.peer.clone());
    Ok(TlsStream { inner: stream.into(), peer, pinned_root: None })
}

fn timed_out(timeout: Duration) -> String {
    format!("no TLS handshake within {} ms", timeout.as_millis())
}

fn handshake_error(error: &io::Error, judge: &Judge, role: Role) -> TlsError {
    if let Some(error) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        return TlsError::from_rustls(error, judge.refusal(), role);
    }
    let reason = match role {
        Role::Client => Reason::UpstreamTlsFailed,
        Role::Server => Reason::DownstreamReset,
    };
    TlsError::new(reason, format!("the connection ended during the TLS handshake: {error}"))
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
