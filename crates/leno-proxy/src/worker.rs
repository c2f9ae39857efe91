//! One worker: a thread with a single-threaded runtime on which its connections live and die (D8).
//!
//! Everything here is `Rc` and `Cell`. Sockets and snapshots arrive by channel; what must be true of the process is in
//! [`Process`].

mod run;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use leno_http::{DrainSignal, DrainWatch, Refusal, ServerSettings, StreamError};
use leno_model::names::NameError;
use leno_model::{NamespacedName, Reason, SpiffeId};
use leno_plan::resilience::RetryBudget;
use leno_plan::{DestinationPlan, InboundPlan, Part, defaults};
use leno_runtime::{Clock, Random, Scope, SeededRandom, SystemClock};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::exchange::{Facts, Subject};
use crate::hops::Hops;
use crate::live::LiveTable;
use crate::outbound::ports::OutboundPort;
use crate::plain::PlainPool;
use crate::plane::Side;
use crate::process::{Process, SharedPort};
use crate::recording::{Active, Recording};
use crate::settings::{ProxySettings, ServedPort};
use crate::snapshot::{DestinationState, LastUsed, Snapshot, Wish};

pub use run::run;

/// Destination ports whose balancing state a worker keeps; beyond it those that no snapshot knows are dropped.
const MAX_PORTS: usize = 4096;

/// The state of one worker, shared by its tasks.
pub struct Worker {
    /// What the proxy was told.
    pub settings: Arc<ProxySettings>,
    /// What is true of the process.
    pub process: Arc<Process>,
    /// Everything under way.
    pub live: Rc<LiveTable<Subject>>,
    /// Limits of the HTTP servers on the outbound side.
    pub server_settings: Rc<ServerSettings>,
    /// Hops to other proxies.
    pub hops: Hops,
    /// Connections to the application, and to external endpoints.
    pub plain: PlainPool,
    /// Tasks that are nobody's connection.
    pub scope: Scope,
    inbound: SideState,
    outbound: SideState,
    snapshot: RefCell<Arc<Snapshot>>,
    changed: Notify,
    wishes: mpsc::Sender<Wish>,
    /// Which loopback address the application listens on, by its port; no more than there are served ports.
    app_loopbacks: RefCell<Vec<(u16, IpAddr)>>,
    ports: RefCell<BTreeMap<(NamespacedName, u16), Rc<OutboundPort>>>,
    /// The port used last: most requests go where the one before went.
    last_port: RefCell<Option<Rc<OutboundPort>>>,
    /// The plan used last and when it was, by the snapshot in force.
    last_plan: RefCell<Option<(Arc<DestinationPlan>, Arc<LastUsed>)>>,
    /// The served port that was called last.
    last_served: RefCell<Option<Served>>,
    /// The service that a hop's stream named last: nearly always the only one.
    last_service: RefCell<Option<NamespacedName>>,
    part: Part,
    random: RefCell<SeededRandom>,
    clock: SystemClock,
    telemetry: Recording,
}

/// What the process shares of one port of one inbound plan.
struct Served {
    plan: Arc<InboundPlan>,
    port: u16,
    shared: Arc<SharedPort>,
}

/// The connections of one side, and their drain.
struct SideState {
    /// Accepts new connections; cancelled first.
    accepting: Scope,
    /// Tasks of connections.
    connections: Scope,
    drain: DrainSignal,
    watch: DrainWatch,
}

impl SideState {
    fn new(accepting: &'static str, connections: &'static str) -> Self {
        let (drain, watch) = DrainSignal::new();
        Self { accepting: Scope::new(accepting), connections: Scope::new(connections), drain, watch }
    }
}

impl Worker {
    /// The snapshot in force.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// The workload's identity, once it has a certificate.
    #[must_use]
    pub fn identity(&self) -> Option<SpiffeId> {
        self.snapshot.borrow().tls.as_ref().map(|tls| tls.identity().spiffe().clone())
    }

    /// Which certificate and bundle are in force, once there are any.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        self.snapshot.borrow().tls.as_ref().map(|tls| tls.generation())
    }

    /// The workload's namespace.
    #[must_use]
    pub fn own_namespace(&self) -> &str {
        self.settings.service.namespace.as_str()
    }

    /// The name of a service, made of what a peer sent.
    pub fn service_name(&self, namespace: &str, name: &str) -> Result<NamespacedName, NameError> {
        let mut last = self.last_service.borrow_mut();
        if let Some(known) = &*last
            && known.namespace.as_str() == namespace
            && known.name.as_str() == name
        {
            return Ok(known.clone());
        }
        let service = NamespacedName::new(namespace, name)?;
        *last = Some(service.clone());
        Ok(service)
    }

    /// Which part of many endpoints is this worker's.
    #[must_use]
    pub fn part(&self) -> Part {
        self.part
    }

    /// Monotonic nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.monotonic_nanos()
    }

    /// 64 random bits.
    #[must_use]
    pub fn random(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }

    /// Where the application listens that serves `port` on its own `app_port`: where the settings say, else on loopback. Loopback
    /// is either address of it, as `localhost` is.
    #[must_use]
    pub fn app_address(&self, port: u16, app_port: u16) -> SocketAddr {
        let of_app = |p: &&ServedPort| p.app_address().port() == app_port;
        let of_both = |p: &&ServedPort| p.port == port && of_app(p);
        let ports = &self.settings.ports;
        let told = ports.iter().find(of_both).or_else(|| ports.iter().find(of_app)).map(ServedPort::app_address);
        match told {
            Some(address) if address.ip() != Ipv4Addr::LOCALHOST => address,
            _ => SocketAddr::new(self.app_loopback(app_port), app_port),
        }
    }

    /// 127.0.0.1, unless only `[::1]` is listened on. Looked up once, and again after a failure: it costs a system call.
    fn app_loopback(&self, app_port: u16) -> IpAddr {
        if let Some((_, known)) = self.app_loopbacks.borrow().iter().find(|(port, _)| *port == app_port) {
            return *known;
        }
        let ipv4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let found = leno_sys::listeners(app_port).unwrap_or_default();
        if found.is_empty() {
            // It may yet come, on either.
            return ipv4;
        }
        let only_ipv6 = found.iter().all(|at| at.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST));
        let chosen = if only_ipv6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { ipv4 };
        self.app_loopbacks.borrow_mut().push((app_port, chosen));
        chosen
    }

    /// The application did not answer: if nobody listens where it did, it may have come back on the other loopback address.
    pub fn app_failed(&self, app_port: u16, error: &StreamError) {
        if error.reason == Reason::ConnectRefused {
            self.app_loopbacks.borrow_mut().retain(|(port, _)| *port != app_port);
        }
    }

    /// The plan of a destination. First use subscribes to it and waits up to a second (D2).
    pub async fn plan(&self, service: &NamespacedName) -> Result<Arc<DestinationPlan>, Refusal> {
        match self.known_plan(service, self.now()) {
            Some(known) => known,
            None => Box::pin(self.first_plan(service)).await,
        }
    }

    async fn first_plan(&self, service: &NamespacedName) -> Result<Arc<DestinationPlan>, Refusal> {
        let deadline = Instant::now() + defaults::FIRST_USE_TIMEOUT;
        // A full queue is not an error of this request: another one's wish may be for the same destination.
        let _ = self.wishes.try_send(Wish::Destination(service.clone()));
        loop {
            // Registered before the look, so that a snapshot between the two is not missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(known) = self.known_plan(service, self.now()) {
                return known;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                let detail = format!("service {service} is not known yet");
                return Err(Refusal::new(Reason::ControlPlaneUnreachable, detail));
            }
        }
    }

    /// The plan of a destination, or why there is none, if it is known; `now` is by [`Worker::now`].
    pub fn known_plan(&self, service: &NamespacedName, now: u64) -> Option<Result<Arc<DestinationPlan>, Refusal>> {
        // Never 0, which means never used.
        let now = now / 1_000_000_000 + 1;
        if let Some((plan, used)) = &*self.last_plan.borrow()
            && plan.service == *service
        {
            used.note(now);
            return Some(Ok(Arc::clone(plan)));
        }
        let snapshot = self.snapshot.borrow();
        let destination = snapshot.outbound.get(service)?;
        destination.used.note(now);
        Some(match &destination.state {
            DestinationState::Ready(plan) => {
                self.last_plan.replace(Some((Arc::clone(plan), Arc::clone(&destination.used))));
                Ok(Arc::clone(plan))
            }
            DestinationState::Missing => {
                Err(Refusal::new(Reason::UnknownDestination, format!("there is no service {service}")))
            }
            DestinationState::Denied(detail) => Err(Refusal::new(Reason::UnauthorisedMember, detail.to_string())),
            DestinationState::Rejected(detail) => Err(Refusal::new(Reason::ConfigurationRejected, detail.to_string())),
        })
    }

    /// The balancing state of a destination's port, in step with `plan`; `None` if the plan has no such port.
    #[must_use]
    pub fn port(&self, plan: &Arc<DestinationPlan>, port: u16) -> Option<Rc<OutboundPort>> {
        if let Some(state) = &*self.last_port.borrow()
            && state.is_of(plan, port)
        {
            return Some(Rc::clone(state));
        }
        let state = self.find_port(plan, port)?;
        self.last_port.replace(Some(Rc::clone(&state)));
        Some(state)
    }

    fn find_port(&self, plan: &Arc<DestinationPlan>, port: u16) -> Option<Rc<OutboundPort>> {
        let key = (plan.service.clone(), port);
        let mut ports = self.ports.borrow_mut();
        if let Some(state) = ports.get(&key)
            && state.is_of(plan, port)
        {
            return Some(Rc::clone(state));
        }
        if ports.len() >= MAX_PORTS {
            let snapshot = self.snapshot.borrow();
            ports.retain(|(service, _), _| snapshot.outbound.contains_key(service));
        }
        let shared = self.process.outbound(&plan.service, port);
        let earlier = ports.get(&key).map(|rc| &**rc);
        let state = Rc::new(OutboundPort::new(plan, port, shared, earlier, self)?);
        ports.insert(key, Rc::clone(&state));
        Some(state)
    }

    /// The state by the snapshot in force: a retry goes by what is known now, since the endpoint that failed may have gone.
    #[must_use]
    pub fn newest(&self, state: Rc<OutboundPort>, port: u16) -> Rc<OutboundPort> {
        match self.known_plan(state.service(), self.now()) {
            Some(Ok(plan)) if !state.is_of(&plan, port) => self.port(&plan, port).unwrap_or(state),
            _ => state,
        }
    }

    /// The retry budget of the called service's port; `backend` is at hand and nearly always the same.
    #[must_use]
    pub fn budget(&self, called: &Arc<DestinationPlan>, port: u16, backend: &Rc<OutboundPort>) -> Arc<RetryBudget> {
        let state = if backend.is_of(called, port) { None } else { self.port(called, port) };
        Arc::clone(&state.as_ref().unwrap_or(backend).shared().budget)
    }

    /// What the process shares of a served port.
    #[must_use]
    pub fn served(&self, plan: &Arc<InboundPlan>, port: u16) -> Arc<SharedPort> {
        let mut last = self.last_served.borrow_mut();
        if let Some(served) = &*last
            && served.port == port
            && Arc::ptr_eq(&served.plan, plan)
        {
            return Arc::clone(&served.shared);
        }
        let shared = self.process.inbound(&plan.service, port);
        *last = Some(Served { plan: Arc::clone(plan), port, shared: Arc::clone(&shared) });
        shared
    }

    /// Swaps the snapshot, between two events of this thread. What is under way is judged by the new one.
    pub fn swap(&self, next: Arc<Snapshot>) {
        let before = self.snapshot.replace(Arc::clone(&next));
        self.last_plan.replace(None);
        self.last_served.replace(None);
        self.changed.notify_waiters();
        crate::inbound::judge_again(self, &next);
        if let Some(tls) = &next.tls
            && !before.tls.as_ref().is_some_and(|earlier| Arc::ptr_eq(earlier, tls))
        {
            self.hops.renew(before.tls.as_ref(), tls);
        }
    }

    /// Records a finished exchange.
    pub fn record(&self, facts: &Facts, active: Option<&Active>, started: u64, received: u64) {
        let took = self.now().saturating_sub(started);
        self.telemetry.exchange(facts, active, took, received, || self.clock.unix_time());
    }

    /// Metrics beside exchanges.
    #[must_use]
    pub fn telemetry(&self) -> &Recording {
        &self.telemetry
    }

    /// Watches the drain of one side.
    #[must_use]
    pub fn drain_watch(&self, side: Side) -> DrainWatch {
        self.side(side).watch.clone()
    }

    fn side(&self, side: Side) -> &SideState {
        match side {
            Side::Inbound => &self.inbound,
            Side::Outbound => &self.outbound,
        }
    }

    /// What this worker sees of its destinations, for the plan dump.
    #[must_use]
    pub fn view(&self) -> serde_json::Value {
        let ports = self.ports.borrow();
        let destinations: Vec<_> =
            ports.iter().map(|((service, port), state)| state.view(service, *port, self.now())).collect();
        let hops: Vec<_> = self.hops.registry().hops().iter().map(view_hop).collect();
        // Of local callers and of hops that others opened: what sockets are shared out by.
        let connections = self.inbound.connections.count() + self.outbound.connections.count();
        serde_json::json!({"connections": connections, "destinations": destinations, "hops": hops})
    }
}

fn view_hop(hop: &leno_http::hop::HopInfo) -> serde_json::Value {
    let peer = hop.peer.as_ref();
    serde_json::json!({
        "peer": peer.map(|p| p.identity.spiffe.to_string()),
        "serial": peer.map(|p| p.identity.serial.to_string()),
        "address": peer.and_then(|p| p.address).map(|a| a.to_string()),
        "group": peer.map(|p| &*p.handshake.group),
        "opened_here": hop.is_origination,
        "streams": hop.streams,
        "draining": hop.is_draining,
        "age_seconds": hop.age.as_secs(),
    })
}
