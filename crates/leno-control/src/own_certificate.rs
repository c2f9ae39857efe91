//! The control plane's own certificate: made at the start, renewed at half-life and when the issuing root changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leno_identity::{Issued, KeyPair};
use leno_net::tls::ReloadableServer;
use leno_net::{TlsContext, TlsError, TlsIdentity};
use leno_runtime::clock::Clock;
use tokio::sync::{Mutex, Notify};

use crate::ca::{AuthorityError, Ca, EXPIRED_RENEWAL_S};

/// gRPC runs over HTTP/2 (RFC 9113 section 3.2).
const ALPN: &[&[u8]] = &[b"h2"];
/// Pause after a renewal that failed.
const RETRY: Duration = Duration::from_secs(5);
/// Longest sleep: wall clocks jump, so the half-life is looked at again at least this often.
const LOOK: Duration = Duration::from_secs(60);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum OwnCertificateError {
    /// The authority failed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The certificate was refused by the TLS stack.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

struct Held {
    issued: Issued,
    key: KeyPair,
}

/// The certificate and the server that presents it.
pub struct OwnCertificate {
    ca: Arc<Ca>,
    clock: Arc<dyn Clock>,
    server: Arc<ReloadableServer>,
    held: Mutex<Held>,
    generation: AtomicU64,
    /// The issuing root has changed.
    renew: Notify,
}

impl OwnCertificate {
    /// Issues the first one.
    pub async fn new(ca: Arc<Ca>, clock: Arc<dyn Clock>) -> Result<Self, OwnCertificateError> {
        let (issued, key) = ca.issue_own().await?;
        let context = context(&ca, &issued, &key, 1, &clock)?;
        // Enrolment comes without a certificate; an expired one may do nothing but renew (D6).
        let server =
            ReloadableServer::new(context, ALPN).client_certificate_optional().expired_grace_s(EXPIRED_RENEWAL_S);
        let held = Mutex::new(Held { issued, key });
        Ok(Self { ca, clock, server: Arc::new(server), held, generation: AtomicU64::new(1), renew: Notify::new() })
    }

    /// What accepts TLS connections of proxies.
    #[must_use]
    pub fn server(&self) -> Arc<ReloadableServer> {
        Arc::clone(&self.server)
    }

    /// Asks for a new certificate now.
    pub fn renew_soon(&self) {
        self.renew.notify_one();
    }

    /// Keeps certificate and bundle current until dropped.
    pub async fn run(self: Arc<Self>) {
        let mut bundle = self.ca.bundle();
        loop {
            let left = {
                let held = self.held.lock().await;
                let half = held.issued.not_before.midpoint(held.issued.not_after);
                Duration::from_secs(half.saturating_sub(self.clock.unix_seconds()))
            };
            let renew = tokio::select! {
                // All are cancel-safe; a notification that comes between stays stored.
                () = tokio::time::sleep(left.min(LOOK)) => left <= LOOK,
                () = self.renew.notified() => true,
                changed = bundle.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    false
                }
            };
            if let Err(error) = self.refresh(renew).await {
                tracing::error!(%error, "the control plane's own certificate cannot be renewed; trying again");
                tokio::time::sleep(RETRY).await;
                self.renew_soon();
            }
        }
    }

    async fn refresh(&self, renew: bool) -> Result<(), OwnCertificateError> {
        let mut held = self.held.lock().await;
        if renew {
            let (issued, key) = self.ca.issue_own().await?;
            *held = Held { issued, key };
        }
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        self.server.replace(context(&self.ca, &held.issued, &held.key, generation, &self.clock)?);
        Ok(())
    }
}

fn context(
    ca: &Ca,
    issued: &Issued,
    key: &KeyPair,
    generation: u64,
    clock: &Arc<dyn Clock>,
) -> Result<TlsContext, TlsError> {
    let identity = TlsIdentity::new(issued.chain_with_cross(), key)?;
    let bundle = ca.bundle().borrow().clone();
    TlsContext::new(identity, bundle, generation, Arc::clone(clock))
}
