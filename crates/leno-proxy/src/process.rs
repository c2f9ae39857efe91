//! What must be true of the process, not of one worker (D8): retry budgets, limits, endpoint health, the connection cap.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use leno_model::NamespacedName;
use leno_plan::ejection::ServiceHealth;
use leno_plan::resilience::{Concurrency, RetryBudget};
use leno_runtime::{Random, SeededRandom};

use crate::plane::Side;

/// Services with shared state that are kept although nothing uses them. State of a destination that ages out and comes back is
/// worth little; ten thousand of them are a few MB.
const MAX_SHARED: usize = 10_000;

/// Shared by all workers.
#[derive(Debug)]
pub struct Process {
    outbound: Mutex<HashMap<(NamespacedName, u16), Arc<SharedPort>>>,
    inbound: Mutex<HashMap<(NamespacedName, u16), Arc<SharedPort>>>,
    /// By side, inbound first.
    connections: [AtomicUsize; 2],
    max_connections: usize,
    /// The proxy's own listeners, which no egress may lead to.
    pub own_addresses: Vec<SocketAddr>,
    /// By which workers part the endpoints of a service.
    pub seed: u64,
    exposed: AtomicBool,
    draining: AtomicBool,
    started: AtomicBool,
}

/// State of one service port over all workers.
#[derive(Debug, Default)]
pub struct SharedPort {
    /// How many retries its requests may cause.
    pub budget: Arc<RetryBudget>,
    /// Requests in flight.
    pub requests: Arc<Concurrency>,
    /// Connections, or TCP streams.
    pub connections: Arc<Concurrency>,
    /// Which endpoints are left alone.
    pub health: ServiceHealth,
}

/// A place among the open connections, until dropped.
#[derive(Debug)]
pub struct ConnectionPermit(Arc<Process>, Side);

impl Process {
    /// `max_connections` bounds downstream connections over all ports.
    #[must_use]
    pub fn new(max_connections: usize, own_addresses: Vec<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            outbound: Mutex::default(),
            inbound: Mutex::default(),
            connections: Default::default(),
            max_connections,
            own_addresses,
            seed: SeededRandom::from_system().next_u64(),
            exposed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            started: AtomicBool::new(false),
        })
    }

    /// The shared state of a destination's port. Taken once per worker and change of plan, not per request.
    #[must_use]
    pub fn outbound(&self, service: &NamespacedName, port: u16) -> Arc<SharedPort> {
        shared(&self.outbound, service, port)
    }

    /// The shared state of a served port.
    #[must_use]
    pub fn inbound(&self, service: &NamespacedName, port: u16) -> Arc<SharedPort> {
        shared(&self.inbound, service, port)
    }

    /// A place for one more downstream connection; `None` if the cap is reached, or three quarters of it by this side alone: who
    /// floods the hop port must not cut off the workload's own calls, nor the other way round.
    #[must_use]
    pub fn admit(self: &Arc<Self>, side: Side) -> Option<ConnectionPermit> {
        // Two workers may pass the total by one each at the same moment; descriptors are kept in reserve.
        if self.connections() >= self.max_connections {
            return None;
        }
        let of_side = self.max_connections - self.max_connections / 4;
        let fits = |n: usize| (n < of_side).then_some(n + 1);
        let taken = self.of(side).fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.is_ok().then(|| ConnectionPermit(Arc::clone(self), side))
    }

    fn of(&self, side: Side) -> &AtomicUsize {
        &self.connections[usize::from(side == Side::Outbound)]
    }

    /// Open downstream connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }

    /// Whether the application was last seen listening off loopback although that is not allowed.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        self.exposed.load(Ordering::Relaxed)
    }

    /// Whether the process is on its way out.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The process is on its way out.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it was ready once.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// It is ready for the first time.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// Notes what the exposure check saw.
    pub fn set_exposed(&self, exposed: bool) {
        self.exposed.store(exposed, Ordering::Relaxed);
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.of(self.1).fetch_sub(1, Ordering::Relaxed);
    }
}

fn shared(
    table: &Mutex<HashMap<(NamespacedName, u16), Arc<SharedPort>>>,
    service: &NamespacedName,
    port: u16,
) -> Arc<SharedPort> {
    // A panic elsewhere cannot leave the map half changed.
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    if table.len() >= MAX_SHARED {
        table.retain(|_, state| Arc::strong_count(state) > 1);
    }
    Arc::clone(table.entry((service.clone(), port)).or_default())
}

/// The connection cap when none is set: three quarters of what the process may open, since one proxied connection may need a
/// second descriptor and the rest is for files and the control plane.
#[must_use]
pub fn connection_cap(set: Option<usize>, descriptor_limit: u64) -> usize {
    let derived = usize::try_from(descriptor_limit / 4 * 3).unwrap_or(usize::MAX);
    set.unwrap_or(derived).max(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_capped_and_given_back() {
        let process = Process::new(4, Vec::new());
        let flood: Vec<_> = (0..4).map(|_| process.admit(Side::Inbound)).collect();
        assert_eq!(flood.iter().flatten().count(), 3, "a quarter is left for the other side");
        let own = process.admit(Side::Outbound);
        assert!(own.is_some() && process.admit(Side::Outbound).is_none());
        drop(flood);
        assert!(process.admit(Side::Inbound).is_some());
        assert_eq!(process.connections(), 1);
    }

    #[test]
    fn shared_state_is_one_per_port() {
        let process = Process::new(1, Vec::new());
        let service = NamespacedName::new("shop", "web").unwrap();
        assert!(Arc::ptr_eq(&process.outbound(&service, 80), &process.outbound(&service, 80)));
        assert!(!Arc::ptr_eq(&process.outbound(&service, 80), &process.outbound(&service, 81)));
        assert!(!Arc::ptr_eq(&process.outbound(&service, 80), &process.inbound(&service, 80)));
    }
}
