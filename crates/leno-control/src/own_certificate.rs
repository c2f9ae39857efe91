//! The control plane's own certificate: made at the start, renewed at half-life and when the issuing root changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leno_identity::{Issued, KeyPair};
use leno_net::tls::ReloadableServer;
use leno_net::{TlsContext, TlsError, TlsIdentity};
use leno_runtime::clock::Clock;
use tokio::sync::Mutex;

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
        Ok(Self { ca, clock, server: Arc::new(server), held, generation: AtomicU64::new(1) })
    }

    /// What accepts TLS connections of proxies.
    #[must_use]
    pub fn server(&self) -> Arc<ReloadableServer> {
        Arc::clone(&self.server)
    }

    /// Keeps certificate and bundle current until dropped.
    pub async fn run(self: Arc<Self>) {
        let mut bundle = self.ca.bundle();
        let mut failed = false;
        loop {
            let left = if failed { Duration::ZERO } else { self.left(&*self.held.lock().await) };
            tokio::select! {
                // Both are cancel-safe.
                () = tokio::time::sleep(left.min(LOOK)) => {
                    if left > LOOK {
                        continue;
                    }
                }
                // A rotation changes the bundle with the issuing root.
                changed = bundle.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
            let outcome = self.refresh().await;
            failed = outcome.is_err();
            if let Err(error) = outcome {
                tracing::error!(%error, "the control plane's own certificate cannot be renewed; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Until a renewal is due: at half-life, or at once under another root than the one that issues.
    fn left(&self, held: &Held) -> Duration {
        let half = held.issued.not_before.midpoint(held.issued.not_after);
        let is_current = held.issued.root == self.ca.pin();
        Duration::from_secs(if is_current { half.saturating_sub(self.clock.unix_seconds()) } else { 0 })
    }

    async fn refresh(&self) -> Result<(), OwnCertificateError> {
        let mut held = self.held.lock().await;
        if self.left(&held).is_zero() {
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
