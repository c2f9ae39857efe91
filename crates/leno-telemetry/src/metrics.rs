//! What is counted, per worker without locks, and merged when somebody asks.
//!
//! ```text
//! worker thread                      shared                         scrape (control thread)
//! WorkerMetrics ─ edge(..) once ──►  Shard ─ edges: EdgeCells  ──►  Snapshot ──► text
//!   Rc<EdgeMetrics> ─ add ──────►      one writer, relaxed            sums shards
//! everyone, rarely ─────────────────► Process (mutex) ───────────►
//! ```
//!
//! Each cell has one writer, the worker that made it: adding is a load and a store, no locked instruction. Labels come only
//! from configuration and identities, never from a request's bytes; status codes are bounded, and so is the number of edges.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use leno_model::{AppProtocol, NamespacedName, Reason, SpiffeId};

use crate::histogram::Histogram;

pub mod catalogue;
mod exposition;
mod memo;
mod process;
mod snapshot;

pub use memo::{EdgeMemo, EdgeRef};
use process::Process;
pub use snapshot::{EdgeTotals, Snapshot};

/// Most edges per worker; what comes after is counted under one edge, `other`. An edge takes some 2 KB.
pub const MAX_EDGES: usize = 2048;
/// Most different outcomes per edge; what comes after is counted without its code.
pub const MAX_OUTCOMES: usize = 64;

/// As seen from the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Towards the workload.
    Inbound,
    /// From the workload.
    Outbound,
}

impl Direction {
    /// The word in labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// Where connections come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listener {
    /// An explicit local port of a destination, or captured traffic.
    Outbound,
    /// The forward-proxy port.
    ForwardProxy,
    /// The mesh hop port.
    Hop,
    /// The admin port.
    Admin,
}

impl Listener {
    /// All.
    pub const ALL: [Self; 4] = [Self::Outbound, Self::ForwardProxy, Self::Hop, Self::Admin];

    /// The word in labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::ForwardProxy => "forward_proxy",
            Self::Hop => "hop",
            Self::Admin => "admin",
        }
    }
}

/// Who talks to whom over what: the labels of traffic metrics.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// As seen from the workload.
    pub direction: Direction,
    /// The caller's proven identity.
    pub source: Option<SpiffeId>,
    /// The service that was called; absent outside the mesh.
    pub service: Option<NamespacedName>,
    /// The proven identity of who answers.
    pub destination: Option<SpiffeId>,
    /// The rule that was taken.
    pub route: Option<Arc<str>>,
    /// What was spoken.
    pub protocol: Option<AppProtocol>,
}

impl Edge {
    /// An edge of which only the direction is known.
    #[must_use]
    pub fn unknown(direction: Direction) -> Self {
        Self { direction, source: None, service: None, destination: None, route: None, protocol: None }
    }

    /// Where the edges beyond [`MAX_EDGES`] are counted.
    fn other() -> Self {
        Self { route: Some("other".into()), ..Self::unknown(Direction::Outbound) }
    }
}

/// How a request or TCP stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Outcome {
    /// HTTP status, 0 for none.
    status: u16,
    /// gRPC status plus one, 0 for none.
    grpc: u8,
    /// Why it was refused or failed.
    reason: Option<Reason>,
}

impl Outcome {
    /// Codes outside their ranges (100 to 599, 0 to 16) are dropped: they are the peer's words.
    #[must_use]
    pub fn new(status: Option<u16>, grpc: Option<u8>, reason: Option<Reason>) -> Self {
        let status = status.filter(|s| (100..=599).contains(s)).unwrap_or(0);
        let grpc = grpc.filter(|g| *g <= 16).map_or(0, |g| g + 1);
        Self { status, grpc, reason }
    }

    /// HTTP status.
    #[must_use]
    pub fn status(self) -> Option<u16> {
        (self.status != 0).then_some(self.status)
    }

    /// gRPC status.
    #[must_use]
    pub fn grpc_status(self) -> Option<u8> {
        self.grpc.checked_sub(1)
    }

    /// Why it was refused or failed.
    #[must_use]
    pub fn reason(self) -> Option<Reason> {
        self.reason
    }

    /// Not refused, no server error, and in gRPC none of the codes that mean the server failed.
    #[must_use]
    pub fn is_success(self) -> bool {
        // gRPC statuscodes.md: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
        self.reason.is_none() && self.status < 500 && !matches!(self.grpc_status(), Some(2 | 4 | 12..=15))
    }
}

/// A counter with one writer.
#[derive(Debug, Default)]
struct Cell(AtomicU64);

impl Cell {
    fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The cells of one edge in one shard.
#[derive(Debug)]
struct EdgeCells {
    edge: Edge,
    /// Appended to by the worker, read at scrape.
    outcomes: Mutex<Vec<(Outcome, Arc<Cell>)>>,
    duration: Histogram,
    bytes_in: Cell,
    bytes_out: Cell,
    opened: Cell,
    closed: Cell,
    began: Cell,
    ended: Cell,
    retries: Cell,
}

/// The worker's handle on one edge: keep it, or find it by an [`EdgeMemo`], rather than by hashing per request.
#[derive(Debug)]
pub struct EdgeMetrics {
    cells: Arc<EdgeCells>,
    /// The same outcomes, to find without the lock; few, so a list.
    known: RefCell<Vec<(Outcome, Arc<Cell>)>>,
}

impl EdgeMetrics {
    /// A request began; it is active until the guard is dropped, also when it is abandoned.
    #[must_use]
    pub fn begin(self: &Rc<Self>) -> ActiveRequest {
        self.cells.began.add(1);
        ActiveRequest(self.clone())
    }

    /// A request ended, or a TCP stream; `nanos` is its whole duration.
    pub fn finished(&self, outcome: Outcome, nanos: u64) {
        self.cells.duration.record(nanos);
        let mut known = self.known.borrow_mut();
        if let Some((_, cell)) = known.iter().find(|(o, _)| *o == outcome) {
            cell.add(1);
            return;
        }
        // Beyond the bound only the reason is kept, and there are few of those.
        let outcome = if known.len() < MAX_OUTCOMES { outcome } else { Outcome::new(None, None, outcome.reason) };
        let cell = match known.iter().find(|(o, _)| *o == outcome) {
            Some((_, cell)) => cell.clone(),
            None => {
                let cell = Arc::new(Cell::default());
                lock(&self.cells.outcomes).push((outcome, cell.clone()));
                known.push((outcome, cell.clone()));
                cell
            }
        };
        cell.add(1);
    }

    /// Body bytes from the caller.
    pub fn bytes_in(&self, bytes: u64) {
        self.cells.bytes_in.add(bytes);
    }

    /// Body bytes to the caller.
    pub fn bytes_out(&self, bytes: u64) {
        self.cells.bytes_out.add(bytes);
    }

    /// A request is sent again.
    pub fn retry(&self) {
        self.cells.retries.add(1);
    }

    /// A TCP or upgraded stream opens; it is active until the guard is dropped.
    #[must_use]
    pub fn connection(self: &Rc<Self>) -> OpenConnection {
        self.cells.opened.add(1);
        OpenConnection(self.clone())
    }
}

/// An open TCP or upgraded stream, counted as active until dropped.
#[derive(Debug)]
pub struct OpenConnection(Rc<EdgeMetrics>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.cells.closed.add(1);
    }
}

/// A request in flight, counted as active until dropped.
#[derive(Debug)]
pub struct ActiveRequest(Rc<EdgeMetrics>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.cells.ended.add(1);
    }
}

/// What one worker counts.
#[derive(Debug, Default)]
struct Shard {
    edges: Mutex<Vec<Arc<EdgeCells>>>,
    overflowed: Cell,
    accepted: [Cell; Listener::ALL.len()],
    ended: [Cell; Listener::ALL.len()],
}

/// One worker's end; stays on its thread.
#[derive(Debug)]
pub struct WorkerMetrics {
    shard: Arc<Shard>,
    edges: RefCell<HashMap<Edge, Rc<EdgeMetrics>>>,
}

impl WorkerMetrics {
    /// The cells of an edge, made at its first use. Beyond [`MAX_EDGES`] all share one, and each request for another is counted.
    #[must_use]
    pub fn edge(&self, edge: &Edge) -> Rc<EdgeMetrics> {
        let mut edges = self.edges.borrow_mut();
        if let Some(known) = edges.get(edge) {
            return known.clone();
        }
        let edge = if edges.len() < MAX_EDGES {
            edge.clone()
        } else {
            self.shard.overflowed.add(1);
            Edge::other()
        };
        let make = || {
            let cells = Arc::new(EdgeCells {
                edge: edge.clone(),
                outcomes: Mutex::default(),
                duration: Histogram::default(),
                bytes_in: Cell::default(),
                bytes_out: Cell::default(),
                opened: Cell::default(),
                closed: Cell::default(),
                began: Cell::default(),
                ended: Cell::default(),
                retries: Cell::default(),
            });
            lock(&self.shard.edges).push(cells.clone());
            Rc::new(EdgeMetrics { cells, known: RefCell::default() })
        };
        edges.entry(edge.clone()).or_insert_with(make).clone()
    }

    /// A connection was accepted; it is active until the guard is dropped.
    #[must_use]
    pub fn accepted(&self, listener: Listener) -> Accepted {
        self.shard.accepted[listener as usize].add(1);
        Accepted { shard: self.shard.clone(), listener, _on_its_thread: std::marker::PhantomData }
    }
}

/// An accepted connection, counted as active until dropped. It stays on its worker's thread, which is the cell's one writer.
#[derive(Debug)]
pub struct Accepted {
    shard: Arc<Shard>,
    listener: Listener,
    _on_its_thread: std::marker::PhantomData<Rc<()>>,
}

impl Drop for Accepted {
    fn drop(&mut self) {
        self.shard.ended[self.listener as usize].add(1);
    }
}

/// All metrics of a process.
#[derive(Debug, Default)]
pub struct Metrics {
    shards: Mutex<Vec<Arc<Shard>>>,
    process: Mutex<Process>,
    log_drops: Arc<AtomicU64>,
}

impl Metrics {
    /// Makes a worker's end. Call it on the worker's thread.
    #[must_use]
    pub fn worker(&self) -> WorkerMetrics {
        let shard = Arc::new(Shard::default());
        lock(&self.shards).push(shard.clone());
        WorkerMetrics { shard, edges: RefCell::default() }
    }

    /// The counter that the access log's writer adds to.
    #[must_use]
    pub fn log_drops(&self) -> Arc<AtomicU64> {
        self.log_drops.clone()
    }

    /// A TLS handshake ended. `group` is the key exchange's name as the TLS library spells it, never the peer's text.
    pub fn handshake(&self, direction: Direction, group: &'static str, result: Result<(), Reason>) {
        lock(&self.process).handshake(direction, group, result);
    }

    /// An endpoint of a service was ejected, or spared because too many are ejected already.
    pub fn ejection(&self, service: &NamespacedName, spared: bool) {
        lock(&self.process).ejection(service, spared);
    }

    /// The stream to the control plane came up (`true`) or ended.
    pub fn control_plane(&self, connected: bool) {
        lock(&self.process).control_plane(connected);
    }

    /// A certificate is in use; `not_after` in seconds since the Unix epoch. Each call after the first of an identity counts as
    /// a renewal.
    pub fn certificate(&self, identity: &SpiffeId, not_after: i64) {
        lock(&self.process).certificate(identity, not_after);
    }

    /// A collection is in force at a version; `None` when it is not subscribed to any more.
    pub fn config_version(&self, collection: &str, version: Option<u64>) {
        lock(&self.process).config_version(collection, version);
    }

    /// A resource was refused (nack).
    pub fn config_rejected(&self, collection: &str) {
        lock(&self.process).config_rejected(collection);
    }

    /// Everything, summed over workers, as of now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            process: lock(&self.process).clone(),
            log_drops: self.log_drops.load(Relaxed),
            ..Snapshot::default()
        };
        for shard in lock(&self.shards).iter() {
            snapshot.add(shard);
        }
        snapshot
    }

    /// The text for Prometheus (exposition format 0.0.4).
    #[must_use]
    pub fn exposition(&self) -> String {
        exposition::render(&self.snapshot())
    }
}

/// What is under these locks is valid after every step, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
