//! The open streams: what has to reach all of them, and who has to go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use leno_discovery::proto;
use leno_discovery::server::StreamHandle;
use leno_identity::{PeerIdentity, RootCert, Serial, TrustBundle};
use leno_model::Reason;

use crate::ca::Ca;

/// One open stream.
struct Open {
    handle: StreamHandle,
    peer: PeerIdentity,
    /// The leaf that it came with, and the last one it was issued.
    serials: Vec<Serial>,
    /// It came with an expired leaf and may do nothing but renew (D6).
    renew_only: bool,
}

impl Open {
    fn is_revoked(&self, bundle: &TrustBundle) -> bool {
        self.serials.iter().any(|serial| bundle.check_revocation(&self.peer.spiffe, serial).is_err())
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
        let serials = vec![peer.serial.clone()];
        let open = Open { handle: handle.clone(), peer: peer.clone(), serials, renew_only };
        self.lock().insert(handle.id(), open);
    }

    pub(super) fn closed(&self, id: u64) {
        self.lock().remove(&id);
    }

    /// Whether the stream may do more than renew.
    pub(super) fn is_member(&self, id: u64) -> bool {
        self.lock().get(&id).is_some_and(|o| !o.renew_only)
    }

    /// It was issued this leaf; revoking it ends the stream as revoking its first does.
    pub(super) fn issued(&self, id: u64, serial: Serial) {
        if let Some(open) = self.lock().get_mut(&id) {
            open.serials.truncate(1);
            open.serials.push(serial);
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
                tracing::info!(identity = %open.peer.spiffe, "the stream of a revoked identity is closed");
                open.handle.close(Reason::CertificateRevoked, "this identity or certificate is revoked");
            } else {
                open.handle.bundle(&message);
            }
        }
    }
}

/// Sends every new bundle to every stream, and closes those that it revokes. Runs until dropped.
pub(super) async fn publish(ca: Arc<Ca>, streams: Arc<Streams>) {
    let mut bundles = ca.bundle();
    // The first is seen too: a stream may have been opened before this task ran.
    bundles.mark_changed();
    while bundles.changed().await.is_ok() {
        let bundle = bundles.borrow_and_update().clone();
        streams.follow(&bundle);
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
