//! Control-plane connections: pinned enrolment, optional certificates, certificates swapped without a restart.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use leno_identity::{Authority, KeyPair, RootPin, TrustBundle, control_plane_identity, csr};
use leno_model::{Reason, SpiffeId, TrustDomain};
use leno_net::tls::stream::{self, Expect, HANDSHAKE_TIMEOUT, TlsStream};
use leno_net::tls::{ALPN_H2, Permitted, ReloadableServer};
use leno_net::{TlsContext, TlsError, TlsIdentity};
use leno_runtime::{Clock, ManualClock};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

/// Keeps what its user writes.
#[derive(Debug)]
struct Recording {
    inner: DuplexStream,
    written: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Recording {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Recording {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(length)) = written {
            self.written.lock().unwrap().extend_from_slice(&buf[..length]);
        }
        written
    }
    // As TcpStream: the library sends its last alert with one gathered write.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, parts);
        if let Poll::Ready(Ok(length)) = written {
            let all = parts.iter().flat_map(|p| p.iter().copied());
            self.written.lock().unwrap().extend(all.take(length));
        }
        written
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

struct Mesh {
    authority: Authority,
    domain: TrustDomain,
    clock: ManualClock,
}

impl Mesh {
    fn new() -> Self {
        let domain = TrustDomain::default();
        Self { authority: Authority::in_memory(&domain, NOW).unwrap(), domain, clock: ManualClock::at(NOW) }
    }

    fn context(&mut self, id: &SpiffeId, ttl_s: u64) -> TlsContext {
        let key = KeyPair::generate().unwrap();
        let request = csr::verify(&csr::make(&key).unwrap(), id).unwrap();
        let issued = self.authority.issue(&request, id, ttl_s, self.clock.unix_seconds()).unwrap();
        let identity = TlsIdentity::new(issued.chain_with_cross(), &key).unwrap();
        let bundle = TrustBundle::single(1, self.domain.clone(), self.authority.roots());
        TlsContext::new(identity, Arc::new(bundle), 1, Arc::new(self.clock.clone())).unwrap()
    }

    fn control_plane(&mut self) -> ReloadableServer {
        let id = control_plane_identity(&self.domain);
        ReloadableServer::new(self.context(&id, DAY), &[ALPN_H2])
            .client_certificate_optional()
            .expired_grace_s(30 * DAY)
    }

    fn web(&mut self, ttl_s: u64) -> TlsContext {
        self.context(&SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/web").unwrap(), ttl_s)
    }

    fn pinned(&self, pin: RootPin) -> Expect {
        Expect::Pinned { pin, clock: Arc::new(self.clock.clone()) }
    }
}

type Ends = (Result<TlsStream<Recording>, TlsError>, Result<TlsStream<DuplexStream>, TlsError>, Arc<Mutex<Vec<u8>>>);

async fn meet(expect: &Expect, server: &ReloadableServer) -> Ends {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let written = Arc::new(Mutex::new(Vec::new()));
    let near = Recording { inner: near, written: written.clone() };
    let (client, server) = tokio::join!(
        stream::connect(near, expect, "control-plane", &[ALPN_H2], HANDSHAKE_TIMEOUT),
        stream::accept(far, server, HANDSHAKE_TIMEOUT)
    );
    (client, server, written)
}

/// The types and lengths of the records in a capture.
fn records(mut bytes: &[u8]) -> Vec<(u8, usize)> {
    let mut found = Vec::new();
    while let [kind, _, _, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        found.push((*kind, length));
        bytes = &rest[length..];
    }
    found
}

#[tokio::test]
async fn enrolment_verifies_the_pin_and_learns_the_root() {
    let mut mesh = Mesh::new();
    let server = mesh.control_plane();
    let (client, accepted, _) = meet(&mesh.pinned(mesh.authority.pin()), &server).await;
    let (mut client, mut accepted) = (client.unwrap(), accepted.unwrap());
    assert_eq!(client.pinned_root().unwrap().pin(), mesh.authority.pin());
    assert_eq!(client.peer().unwrap().spiffe, control_plane_identity(&mesh.domain));
    assert!(accepted.peer().is_none(), "it has no certificate yet");
    assert_eq!(client.handshake_info().group, "X25519MLKEM768");
    assert_eq!(client.alpn(), Some(ALPN_H2));
    client.write_all(b"token").await.unwrap();
    client.flush().await.unwrap();
    let mut got = [0; 5];
    accepted.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"token");
}

#[tokio::test]
async fn a_false_root_gets_nothing_but_the_first_message() {
    let (mut mesh, mut other) = (Mesh::new(), Mesh::new());
    let expect = mesh.pinned(mesh.authority.pin());
    // Another mesh of the same trust domain: everything about it is right except the key.
    let (client, accepted, written) = meet(&expect, &other.control_plane()).await;
    let error = client.unwrap_err();
    assert_eq!(error.reason, Reason::PeerUntrusted);
    assert!(error.detail.contains("join token"), "{error}");
    let refused = accepted.unwrap_err();
    assert_eq!(refused.reason, Reason::PeerUntrusted, "the alert says so: {refused}");
    let sent = records(&written.lock().unwrap());
    let (hello, rest) = sent.split_first().unwrap();
    assert_eq!(hello.0, 22, "a ClientHello");
    for (kind, length) in rest {
        // A change_cipher_spec for middleboxes, and one sealed alert of 2 bytes + type + tag.
        assert!(matches!((kind, length), (20, 1) | (23, 19)), "{sent:?}");
    }
    // A member of the right mesh is not its control plane, whatever its chain.
    let member = ReloadableServer::new(mesh.web(DAY), &[ALPN_H2]).client_certificate_optional();
    let (client, _, _) = meet(&expect, &member).await;
    assert_eq!(client.unwrap_err().reason, Reason::PeerIdentityMismatch);
}

#[tokio::test]
async fn members_know_the_control_plane_by_its_identity() {
    let mut mesh = Mesh::new();
    let server = mesh.control_plane();
    let web = mesh.web(DAY);
    let expect = Expect::control_plane(web.clone());
    let (client, accepted, _) = meet(&expect, &server).await;
    assert_eq!(client.unwrap().peer().unwrap().spiffe, control_plane_identity(&mesh.domain));
    assert_eq!(accepted.unwrap().peer().unwrap().spiffe, *web.identity().spiffe());
    let impostor = ReloadableServer::new(mesh.web(DAY), &[ALPN_H2]);
    let (client, _, _) = meet(&expect, &impostor).await;
    assert_eq!(client.unwrap_err().reason, Reason::PeerIdentityMismatch);
    let anybody = Expect::Member { context: web, permitted: Permitted::AnyMember };
    let (client, _, _) = meet(&anybody, &impostor).await;
    assert!(client.is_ok());
}

#[tokio::test]
async fn certificates_are_swapped_without_a_restart() {
    let mut mesh = Mesh::new();
    let server = mesh.control_plane();
    let expect = Expect::control_plane(mesh.web(DAY));
    let serial = |client: Result<TlsStream<Recording>, TlsError>| client.unwrap().peer().unwrap().serial.clone();
    let first = serial(meet(&expect, &server).await.0);
    let id = control_plane_identity(&mesh.domain);
    let renewed = mesh.context(&id, DAY);
    server.replace(renewed.clone());
    let second = serial(meet(&expect, &server).await.0);
    assert_ne!(first, second);
    assert_eq!(second, *renewed.identity().serial());
}

#[tokio::test]
async fn an_expired_leaf_may_come_to_renew_for_a_while() {
    let mut mesh = Mesh::new();
    let expect = Expect::control_plane(mesh.web(3600));
    mesh.clock.advance(Duration::from_secs(29 * DAY));
    let server = mesh.control_plane();
    let (_, accepted, _) = meet(&expect, &server).await;
    let peer = accepted.unwrap().peer().unwrap().clone();
    assert!(peer.is_expired(mesh.clock.unix_seconds()), "the caller can tell and lets it renew only");
    mesh.clock.advance(Duration::from_secs(2 * DAY));
    let server = mesh.control_plane();
    let (client, accepted, _) = meet(&expect, &server).await;
    assert_eq!(accepted.unwrap_err().reason, Reason::CertificateExpired);
    // With TLS 1.3 the client learns it at its first read.
    let error = client.unwrap().read_u8().await.unwrap_err();
    let error = TlsError::from_io(&error).unwrap();
    assert_eq!((error.reason, error.by_peer), (Reason::CertificateExpired, true));
}

#[tokio::test]
async fn a_revoked_leaf_may_not_even_renew() {
    let mut mesh = Mesh::new();
    let web = mesh.web(3600);
    let server = mesh.control_plane();
    let mut bundle = server.context().bundle().clone();
    bundle.revoked.identities.insert(web.identity().spiffe().clone());
    let context = server.context();
    let clock = Arc::new(mesh.clock.clone());
    server.replace(TlsContext::new(context.identity().clone(), Arc::new(bundle), 2, clock).unwrap());
    let (_, accepted, _) = meet(&Expect::control_plane(web), &server).await;
    assert_eq!(accepted.unwrap_err().reason, Reason::CertificateRevoked);
}

#[tokio::test]
async fn a_rotation_keeps_tokens_and_sleepers() {
    let mut mesh = Mesh::new();
    let sleeper = Expect::control_plane(mesh.web(DAY));
    let token = mesh.pinned(mesh.authority.pin());
    mesh.authority.start_rotation(NOW).unwrap();
    mesh.authority.advance_rotation(&Default::default(), NOW).unwrap().unwrap();
    let server = mesh.control_plane();
    assert_ne!(server.context().identity().chain().len(), 3, "it presents the way from the old root");
    for expect in [&sleeper, &token, &mesh.pinned(mesh.authority.pin())] {
        let (client, accepted, _) = meet(expect, &server).await;
        assert!(client.is_ok() && accepted.is_ok(), "{client:?} {accepted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_and_resets_end_a_handshake() {
    let mut mesh = Mesh::new();
    let server = mesh.control_plane();
    let expect = Expect::control_plane(mesh.web(DAY));
    let (near, _far) = tokio::io::duplex(1024 * 1024);
    let error = stream::connect(near, &expect, "x", &[], HANDSHAKE_TIMEOUT).await.unwrap_err();
    assert_eq!(error.reason, Reason::UpstreamTlsFailed);
    let (_near, far) = tokio::io::duplex(1024);
    assert_eq!(stream::accept(far, &server, HANDSHAKE_TIMEOUT).await.unwrap_err().reason, Reason::HeadTimeout);
    let (near, far) = tokio::io::duplex(1024 * 1024);
    drop(far);
    let error = stream::connect(near, &expect, "x", &[], HANDSHAKE_TIMEOUT).await.unwrap_err();
    assert_eq!(error.reason, Reason::UpstreamTlsFailed);
    let (near, far) = tokio::io::duplex(1024);
    drop(near);
    assert_eq!(stream::accept(far, &server, HANDSHAKE_TIMEOUT).await.unwrap_err().reason, Reason::DownstreamReset);
    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(stream::accept(far, &server, HANDSHAKE_TIMEOUT).await.unwrap_err().reason, Reason::MalformedRequest);
}
