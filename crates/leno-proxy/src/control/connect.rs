//! Connections to the control plane: TCP, then TLS with the server verified, tried at each address in turn.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use leno_discovery::client::{BoxedIo, Connector, ConnectorError};
use leno_model::Reason;
use leno_net::tls::ALPN_H2;
use leno_net::tls::stream::{self, Expect, HANDSHAKE_TIMEOUT};
use tokio::net::TcpStream;

use super::refusal::{LastRefusal, Watched};

/// How long one address may take to answer (DESIGN section 7).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Sent in clear; the same for every control plane, so that it tells an observer nothing of the mesh.
const SERVER_NAME: &str = "control-plane";

/// The addresses to try, and what was learnt on the way.
#[derive(Debug)]
pub struct Targets {
    addresses: Vec<String>,
    /// Where to begin: the one that answered last, or the one after it.
    first: AtomicUsize,
    /// Our own address on the last connection: what peers can reach us by, if nothing else is said.
    local: Mutex<Option<IpAddr>>,
    /// Why the last connection's certificate was refused, if it was.
    pub refusal: LastRefusal,
}

impl Targets {
    /// `HOST:PORT` each.
    pub fn new(addresses: Vec<String>) -> Arc<Self> {
        Arc::new(Self {
            addresses,
            first: AtomicUsize::new(0),
            local: Mutex::new(None),
            refusal: LastRefusal::default(),
        })
    }

    /// Our own address on the last connection.
    pub fn local_address(&self) -> Option<IpAddr> {
        *self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address that answered last.
    pub fn current(&self) -> &str {
        let index = self.first.load(Ordering::Relaxed) % self.addresses.len().max(1);
        self.addresses.get(index).map_or("", String::as_str)
    }

    async fn dial(&self) -> Result<TcpStream, ConnectorError> {
        let count = self.addresses.len();
        let mut failure = String::from("no address is given");
        for _ in 0..count {
            let index = self.first.load(Ordering::Relaxed) % count;
            let address = &self.addresses[index];
            match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let local = stream.local_addr().ok().map(|a| a.ip());
                    *self.local.lock().unwrap_or_else(PoisonError::into_inner) = local;
                    // Small messages that somebody waits for. Without it things are slower, not wrong.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => failure = format!("{address}: {error}"),
                Err(_) => failure = format!("{address}: no answer within {} s", CONNECT_TIMEOUT.as_secs()),
            }
            self.first.store((index + 1) % count, Ordering::Relaxed);
        }
        Err(ConnectorError { reason: Reason::ControlPlaneUnreachable, detail: failure })
    }

    fn next(&self) {
        let count = self.addresses.len().max(1);
        self.first.store((self.first.load(Ordering::Relaxed) + 1) % count, Ordering::Relaxed);
    }
}

/// A connector that expects `expect` at the other end. Nothing is given out before the handshake has verified it.
pub fn connector(targets: &Arc<Targets>, expect: Expect) -> Connector {
    let targets = targets.clone();
    Arc::new(move || {
        let (targets, expect) = (targets.clone(), expect.clone());
        Box::pin(async move {
            let tcp = targets.dial().await?;
            let secured = stream::connect(tcp, &expect, SERVER_NAME, &[ALPN_H2], HANDSHAKE_TIMEOUT).await;
            let refusal = targets.refusal.clone();
            secured.map(|io| Box::new(Watched { io, refusal }) as BoxedIo).map_err(|error| {
                // The next attempt begins with the next address.
                targets.next();
                ConnectorError { reason: error.reason, detail: error.detail }
            })
        })
    })
}
