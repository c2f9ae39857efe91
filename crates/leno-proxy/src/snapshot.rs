//! What passes between the control thread and the workers: snapshots one way, wishes the other.
//!
//! ```text
//!   control thread ── watch: Arc<Snapshot> ──▶ each worker (swaps between two requests)
//!         ▲
//!         └──────── bounded: Wish ──────────── workers (first use of a destination)
//! ```
//!
//! A snapshot is immutable and whole: what a request began with it keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leno_model::{Name, NamespacedName};
use leno_net::tls::TlsContext;
use leno_plan::{DestinationPlan, InboundPlan, Literal};
use tokio::sync::{mpsc, watch};

/// Wishes under way from all workers. A wish that finds the queue full is dropped: its request waits for the answer to the same
/// wish of another request, or for its own second and is refused.
pub const MAX_WISHES: usize = 1024;

/// One consistent version of everything that a worker executes.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Grows by one with every change.
    pub version: u64,
    /// Which names and addresses are the mesh's, and what happens to the others.
    pub mesh: Arc<MeshView>,
    /// Destinations in use.
    pub outbound: BTreeMap<NamespacedName, Destination>,
    /// The services of this workload.
    pub inbound: BTreeMap<NamespacedName, Arc<InboundPlan>>,
    /// This workload's certificate and whom it trusts; `None` until there is one.
    pub tls: Option<Arc<TlsContext>>,
}

/// Which names and addresses are the mesh's (D2), and what happens to the others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MeshView {
    /// Namespaces that have services: `web.prod` is the mesh's only if `prod` is among them.
    pub namespaces: BTreeSet<Name>,
    /// Virtual addresses and the services they stand for.
    pub vips: BTreeMap<IpAddr, NamespacedName>,
    /// Address ranges that are the mesh's: an address in them without a service leads nowhere.
    pub prefixes: Vec<Prefix>,
    /// What happens to everything else.
    pub egress: Egress,
    /// What may be reached although egress is denied (`ExternalService`).
    pub external: Vec<External>,
}

/// Hosts outside the mesh that may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// Names, exact or `*.suffix`, and addresses as text.
    pub hosts: Vec<Literal>,
    /// Ports; empty for all.
    pub ports: Vec<u16>,
}

impl MeshView {
    /// Whether `host` (canonical) may be reached at `port` although it is not the mesh's.
    #[must_use]
    pub fn may_leave(&self, host: &str, port: u16) -> bool {
        let named = |e: &External| {
            (e.ports.is_empty() || e.ports.contains(&port)) && e.hosts.iter().any(|pattern| pattern.is_match(host))
        };
        self.egress == Egress::Allow || self.external.iter().any(named)
    }
}

/// What happens to what is not the mesh's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Egress {
    /// Passed on and counted.
    Allow,
    /// Refused. Also the state before the mesh's configuration is known: closed until told otherwise.
    #[default]
    Deny,
}

/// A range of addresses, `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// Whether `address` is in the range; v4-mapped addresses are IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let kept = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                (u32::from(a) ^ u32::from(b)) & kept == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let kept = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                (u128::from(a) ^ u128::from(b)) & kept == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("`{text}` is not of the form ADDRESS/LENGTH");
        let (address, length) = text.split_once('/').ok_or_else(malformed)?;
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let length: u8 = length.parse().map_err(|_| malformed())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if length > longest { Err(malformed()) } else { Ok(Self { address, length }) }
    }
}

/// What is known of one destination.
#[derive(Clone)]
pub struct Destination {
    /// The plan, or why there is none.
    pub state: DestinationState,
    /// When it was last used, so that idle ones are let go (D2). Shared by all snapshots.
    pub used: Arc<LastUsed>,
}

/// The plan of a destination, or why there is none.
#[derive(Clone)]
pub enum DestinationState {
    /// Execute this.
    Ready(Arc<DestinationPlan>),
    /// The control plane says that no such service exists: `unknown_destination`.
    Missing,
    /// The control plane will not let this member see it: `unauthorised_member`.
    Denied(Arc<str>),
    /// It could not be compiled: `configuration_rejected`.
    Rejected(Arc<str>),
}

/// Seconds of a monotonic clock; written by workers, read by the control thread.
#[derive(Debug, Default)]
pub struct LastUsed(AtomicU64);

impl LastUsed {
    /// Notes a use. Writes only when the second has changed, so that workers do not fight for the cache line.
    pub fn note(&self, now: u64) {
        if self.0.load(Ordering::Relaxed) != now {
            self.0.store(now, Ordering::Relaxed);
        }
    }

    /// The second of the last use, 0 if never used.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a worker asks of the control thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Subscribe to this destination; the answer is a snapshot that knows it.
    Destination(NamespacedName),
}

/// The workers' end.
#[derive(Clone)]
pub struct WorkerLink {
    /// The current snapshot and its changes.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Wishes.
    pub wishes: mpsc::Sender<Wish>,
}

/// The control thread's end.
pub struct ControlLink {
    /// Publish here; every publication is one whole snapshot.
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    /// What workers ask.
    pub wishes: mpsc::Receiver<Wish>,
}

/// Both ends.
#[must_use]
pub fn link(first: Snapshot) -> (ControlLink, WorkerLink) {
    let (snapshot_sender, snapshot_receiver) = watch::channel(Arc::new(first));
    let (wish_sender, wish_receiver) = mpsc::channel(MAX_WISHES);
    (
        ControlLink { snapshots: snapshot_sender, wishes: wish_receiver },
        WorkerLink { snapshots: snapshot_receiver, wishes: wish_sender },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_hold_their_addresses() {
        for (prefix, address, expected) in [
            ("244.0.0.0/16", "244.0.255.1", true),
            ("244.0.0.0/16", "244.1.0.0", false),
            ("244.0.0.0/16", "::ffff:244.0.0.1", true),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("10.0.0.1/32", "10.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.2", false),
            ("fd00:1::/48", "fd00:1::7", true),
            ("fd00:1::/48", "fd00:2::7", false),
            ("::/0", "::1", true),
        ] {
            assert_eq!(
                prefix.parse::<Prefix>().unwrap().contains(address.parse().unwrap()),
                expected,
                "{prefix} {address}"
            );
        }
        for bad in ["10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
