//! Connections of proxies: bounded in number, in time, and most of all before they have proven who they are (BAD_INPUTS 17).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use leno_discovery::limits::{MAX_ANONYMOUS, MAX_CONNECTIONS};
use leno_identity::PeerIdentity;
use leno_net::tls::stream::{HANDSHAKE_TIMEOUT, TlsStream, accept};
use leno_runtime::scope::Scope;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::own_certificate::OwnCertificate;

/// Handshakes at one time: enough for a mesh that comes back together, too few to exhaust memory or CPU.
const MAX_HANDSHAKES: usize = 1024;
/// Established connections that wait for the server to take them.
const WAITING: usize = 64;
/// Pause after an accept that failed for want of descriptors or memory.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// What is known of a connection's other end.
#[derive(Clone)]
pub struct Peer {
    /// Verified; none for a proxy that wants to enrol.
    pub identity: Option<PeerIdentity>,
    /// Where it comes from, for logs.
    pub address: SocketAddr,
    /// Its place among the connections; given back when the connection and its requests are gone.
    _places: Arc<[OwnedSemaphorePermit]>,
}

type Connection = (TlsStream<TcpStream>, Peer);

struct Places {
    all: Arc<Semaphore>,
    anonymous: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

/// Accepts until the scope is cancelled.
pub(super) fn incoming(
    listener: TcpListener,
    certificate: Arc<OwnCertificate>,
    scope: &Scope,
) -> ReceiverStream<Connection> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let semaphore = |n| Arc::new(Semaphore::new(n));
    let (all, anonymous, handshakes) =
        (semaphore(MAX_CONNECTIONS), semaphore(MAX_ANONYMOUS), semaphore(MAX_HANDSHAKES));
    let places = Arc::new(Places { all, anonymous, handshakes });
    scope.spawn("accept", run(listener, certificate, places, sender, scope.clone()));
    ReceiverStream::new(receiver)
}

async fn run(
    listener: TcpListener,
    certificate: Arc<OwnCertificate>,
    places: Arc<Places>,
    sender: mpsc::Sender<Connection>,
    scope: Scope,
) {
    loop {
        // At the limits new connections wait in the kernel's queue, which is bounded too.
        let Ok(handshake) = places.handshakes.clone().acquire_owned().await else { return };
        let Ok(place) = places.all.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((tcp, address)) => {
                let (certificate, places, sender) = (certificate.clone(), places.clone(), sender.clone());
                scope.spawn("handshake", async move {
                    if let Some(connection) = establish(tcp, address, &certificate, &places, place).await {
                        // An error means that the server has ended.
                        let _ = sender.send(connection).await;
                    }
                    drop(handshake);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

async fn establish(
    tcp: TcpStream,
    address: SocketAddr,
    certificate: &OwnCertificate,
    places: &Places,
    place: OwnedSemaphorePermit,
) -> Option<Connection> {
    // Small messages that somebody waits for. Without it things are slower, not wrong.
    let _ = tcp.set_nodelay(true);
    let stream = match accept(tcp, &certificate.server(), HANDSHAKE_TIMEOUT).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(peer = %address, reason = %error.reason, %error, "a connection to the discovery port is refused");
            return None;
        }
    };
    let identity = stream.peer().cloned();
    let mut held = vec![place];
    if identity.is_none() {
        let Ok(place) = places.anonymous.clone().try_acquire_owned() else {
            tracing::warn!(peer = %address, "too many connections without a certificate; this one is closed");
            return None;
        };
        held.push(place);
    }
    Some((stream, Peer { identity, address, _places: held.into() }))
}
