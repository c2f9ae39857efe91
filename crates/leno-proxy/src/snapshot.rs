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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leno_model::{Name, NamespacedName};
use leno_net::tls::TlsContext;
use leno_plan::{DestinationPlan, EgressPolicy, InboundPlan, IpPrefix};
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
    /// Address ranges that are the mesh's: an address in them without a service leads nowhere.
    pub prefixes: Vec<IpPrefix>,
    /// What happens to everything else. Closed before the mesh's configuration is known.
    pub egress: EgressPolicy,
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
