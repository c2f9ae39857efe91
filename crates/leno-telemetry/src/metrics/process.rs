//! What is counted rarely and for the whole process: a mutex and maps will do. Every key is from configuration, identities or
//! a closed set.

use std::collections::BTreeMap;

use leno_model::{NamespacedName, Reason, SpiffeId};

use super::Direction;

/// Direction, key exchange group, and what came of it (`None`: success).
type HandshakeKey = (Direction, &'static str, Option<Reason>);

/// Process-wide metrics.
#[derive(Debug, Clone, Default)]
pub(super) struct Process {
    pub(super) handshakes: BTreeMap<HandshakeKey, u64>,
    /// Ejected, spared.
    pub(super) ejections: BTreeMap<NamespacedName, (u64, u64)>,
    /// Absent in a process that has no control plane, or before the first try.
    pub(super) connected: Option<bool>,
    pub(super) connects: u64,
    /// End of validity in Unix seconds, and number of renewals.
    pub(super) certificates: BTreeMap<SpiffeId, (i64, u64)>,
    pub(super) config_versions: BTreeMap<String, u64>,
    pub(super) config_rejected: BTreeMap<String, u64>,
}

impl Process {
    pub(super) fn handshake(&mut self, direction: Direction, group: &'static str, result: Result<(), Reason>) {
        *self.handshakes.entry((direction, group, result.err())).or_default() += 1;
    }

    pub(super) fn ejection(&mut self, service: &NamespacedName, spared: bool) {
        let (ejected, kept) = self.ejections.entry(service.clone()).or_default();
        *(if spared { kept } else { ejected }) += 1;
    }

    pub(super) fn control_plane(&mut self, connected: bool) {
        if connected && self.connected != Some(true) {
            self.connects += 1;
        }
        self.connected = Some(connected);
    }

    pub(super) fn certificate(&mut self, identity: &SpiffeId, not_after: i64) {
        match self.certificates.get_mut(identity) {
            Some((end, renewals)) => (*end, *renewals) = (not_after, *renewals + 1),
            None => drop(self.certificates.insert(identity.clone(), (not_after, 0))),
        }
    }

    pub(super) fn config_version(&mut self, collection: &str, version: Option<u64>) {
        match version {
            Some(version) => drop(self.config_versions.insert(collection.to_owned(), version)),
            None => {
                self.config_versions.remove(collection);
                self.config_rejected.remove(collection);
            }
        }
    }

    pub(super) fn config_rejected(&mut self, collection: &str) {
        *self.config_rejected.entry(collection.to_owned()).or_default() += 1;
    }
}
