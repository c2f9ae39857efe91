//! The open streams: what has to reach all of them, and who has to go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::time::Duration;

use leno_discovery::proto;
use leno_discovery::server::StreamHandle;
use leno_identity::{Issued, PeerIdentity, RootCert, Serial, TrustBundle};
use leno_model::Reason;
use leno_runtime::clock::Clock;

use crate::ca::{Ca, EXPIRED_RENEWAL_S};

/// How often streams are looked at whose leaf has expired: leaves live for seconds at the least.
const LOOK: Duration = Duration::from_secs(1);

/// One open stream.
struct Open {
    handle: StreamHandle,
    /// Of the leaf that it came with.
    first: Serial,
    /// Who, by the newest leaf: the one that it came with, or that it was issued last.
    newest: PeerIdentity,
    /// It came with an expired leaf and may do nothing but renew (D6).
    renew_only: bool,
}

impl Open {
    fn is_revoked(&self, bundle: &TrustBundle) -> bool {
        [&self.first, &self.newest.serial].iter().any(|s| bundle.check_revocation(&self.newest.spiffe, s).is_err())
    }

    /// A stream lasts no longer than the leaf that keeps it; one that may only renew, for as long as it may do that.
    fn is_over(&self, now: u64) -> bool {
        let grace = if self.renew_only { EXPIRED_RENEWAL_S } else { 0 };
        now > self.newest.not_after.saturating_add(grace)
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Streams {
    open: Mutex<BTreeMap<u64, Open>>,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        // Whole entries go in and out.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn opened(&self, handle: &StreamHandle, peer: &PeerIdentity, renew_only: bool) {
        let open = Open { handle: handle.clone(), first: peer.serial.clone(), newest: peer.clone(), renew_only };
        self.lock().insert(handle.id(), open);
    }

    pub(super) fn closed(&self, id: u64) {
        self.lock().remove(&id);
    }

    /// Whether the stream may do more than renew.
    pub(super) fn is_member(&self, id: u64, now: u64) -> bool {
        self.lock().get(&id).is_some_and(|o| !o.renew_only && !o.is_over(now))
    }

    /// The peer by its newest leaf.
    pub(super) fn newest(&self, id: u64) -> Option<PeerIdentity> {
        self.lock().get(&id).map(|o| o.newest.clone())
    }

    /// It was issued this leaf; revoking it ends the stream as revoking its first does.
    pub(super) fn issued(&self, id: u64, leaf: &Issued) {
        if let Some(open) = self.lock().get_mut(&id) {
            let Issued { identity, serial, not_before, not_after, root, .. } = leaf;
            let (spiffe, serial) = (identity.clone(), serial.clone());
            open.newest = PeerIdentity { spiffe, serial, not_before: *not_before, not_after: *not_after, root: *root };
        }
    }

    /// The control plane ends; proxies go on with what they have and come back.
    pub(super) fn goodbye(&self) {
        for open in self.lock().values() {
            open.handle.close(Reason::Draining, "the control plane is stopping");
        }
    }

    fn follow(&self, bundle: &TrustBundle) {
        let message = message(bundle);
        for open in self.lock().values() {
            if open.is_revoked(bundle) {
                tracing::info!(identity = %open.newest.spiffe, "the stream of a revoked identity is closed");
                open.handle.close(Reason::CertificateRevoked, "this identity or certificate is revoked");
            } else {
                open.handle.bundle(&message);
            }
        }
    }

    fn end_expired(&self, now: u64) {
        for open in self.lock().values().filter(|o| o.is_over(now)) {
            tracing::info!(identity = %open.newest.spiffe, "the stream of an expired certificate is closed");
            open.handle.close(Reason::CertificateExpired, "the certificate has expired: renew it and connect again");
        }
    }
}

/// Sends every new bundle to every stream, and closes those that it revokes or whose leaf has expired. Runs until dropped.
pub(super) async fn attend(ca: Arc<Ca>, streams: Arc<Streams>, clock: Arc<dyn Clock>) {
    let mut bundles = ca.bundle();
    // The first is seen too: a stream may have been opened before this task ran.
    bundles.mark_changed();
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            // Both are cancel-safe.
            changed = bundles.changed() => {
                if changed.is_err() {
                    return;
                }
                let bundle = bundles.borrow_and_update().clone();
                streams.follow(&bundle);
            }
            _ = look.tick() => streams.end_expired(clock.unix_seconds()),
        }
    }
}

/// The bundle on the wire.
pub(super) fn message(bundle: &TrustBundle) -> proto::Bundle {
    let der = |root: &RootCert| bytes::Bytes::copy_from_slice(&root.der());
    let domains = bundle.domains.iter().map(|(domain, roots)| proto::TrustedDomain {
        trust_domain: domain.as_str().to_owned(),
        roots: roots.iter().map(der).collect(),
    });
    proto::Bundle {
        version: bundle.version,
        domains: domains.collect(),
        revoked_identities: bundle.revoked.identities.iter().map(ToString::to_string).collect(),
        revoked_serials: bundle.revoked.serials.iter().map(ToString::to_string).collect(),
    }
}
