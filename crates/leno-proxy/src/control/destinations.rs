//! Every collection that this proxy uses, as plans: what it calls, what it serves, and the mesh's names.
//!
//! A destination is needed while an explicit upstream names it, while it was used within [`IDLE`], or while the routes of a
//! needed one send to it. What is not needed any more is let go (D2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use leno_compile::{MeshDefaults, compile_destination, compile_inbound, compile_mesh};
use leno_discovery::session::client::Change;
use leno_discovery::{CollectionName, Entry, Key};
use leno_model::kinds::workload::WorkloadPort;
use leno_model::{Name, NamespacedName, TrustDomain};
use leno_net::tls::TlsContext;
use leno_plan::InboundPlan;
use leno_runtime::Clock;

use super::mesh;
use super::replica::{Replica, Verdict};
use super::status::CollectionStatus;
use crate::settings::{ProxySettings, ServedPort};
use crate::snapshot::{Destination, DestinationState, LastUsed, MeshView, Snapshot};

/// A destination that nobody used for so long is let go.
pub(super) const IDLE: Duration = Duration::from_secs(600);
/// Destinations at a time: half of what a stream may subscribe to. A wish beyond it is not granted, and its request is
/// refused like one without an answer.
pub(super) const MAX_DESTINATIONS: usize = 5_000;

/// Destinations at a time that are not there, or not known to be. Names that a caller invents must not take the places of services.
pub(super) const MAX_UNFOUNDED: usize = 512;

/// What became of a wish.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// It is to be subscribed to.
    pub(super) is_new: bool,
    /// Let go in its favour.
    pub(super) evicted: Option<NamespacedName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Stored,
    Current,
    Missing,
    Denied,
}

/// What all kinds of collections have in common.
#[derive(Debug)]
struct Held {
    replica: Replica,
    state: State,
    version: u64,
    rejections: u64,
}

impl Held {
    fn new(stored: Option<BTreeMap<Key, Entry>>) -> Self {
        let state = if stored.is_some() { State::Stored } else { State::Waiting };
        Self { replica: Replica::stored(stored.unwrap_or_default()), state, version: 0, rejections: 0 }
    }

    fn in_use(&self) -> bool {
        matches!(self.state, State::Stored | State::Current)
    }

    fn end(&mut self, state: State) {
        self.replica.clear();
        self.state = state;
        self.version = 0;
    }

    fn status(&self) -> CollectionStatus {
        let state = match self.state {
            State::Waiting => "waiting",
            State::Stored => "stored",
            State::Current => "current",
            State::Missing => "missing",
            State::Denied => "denied",
        };
        let refused = self.replica.refused().iter().map(|(k, text)| (k.to_string(), text.clone())).collect();
        let (version, rejections) = (self.version, self.rejections);
        CollectionStatus { state, version, resources: self.replica.in_use().len(), refused, rejections }
    }
}

struct Outbound {
    held: Held,
    plan: Option<DestinationState>,
    used: Arc<LastUsed>,
    /// Grows with every one that is added.
    number: u64,
}

struct Inbound {
    held: Held,
    plan: Option<Arc<InboundPlan>>,
}

/// See the module.
pub(super) struct Destinations {
    domain: TrustDomain,
    namespace: Name,
    pinned: BTreeSet<NamespacedName>,
    mesh_held: Held,
    mesh: MeshDefaults,
    /// Before the configuration is known nothing leaves.
    view: Arc<MeshView>,
    registered: Vec<WorkloadPort>,
    outbound: BTreeMap<NamespacedName, Outbound>,
    /// How many were ever added.
    added: u64,
    inbound: BTreeMap<NamespacedName, Inbound>,
}

/// Seconds of the monotonic clock; never 0, which means "never used".
pub(super) fn seconds(clock: &dyn Clock) -> u64 {
    clock.monotonic_nanos() / 1_000_000_000 + 1
}

impl Destinations {
    /// What the settings ask for, and what was stored. The stored working set counts as used now.
    pub(super) fn new(
        settings: &ProxySettings,
        context: &TlsContext,
        stored: Vec<(CollectionName, BTreeMap<Key, Entry>)>,
        clock: &dyn Clock,
    ) -> Self {
        let domain = context.identity().trust_domain();
        let mut all = Self {
            namespace: settings.service.namespace.clone(),
            pinned: settings.upstreams.iter().map(|u| u.service.clone()).collect(),
            mesh_held: Held::new(None),
            mesh: MeshDefaults::unknown(domain.clone()),
            view: Arc::default(),
            registered: settings.ports.iter().map(workload_port).collect(),
            outbound: BTreeMap::new(),
            added: 0,
            inbound: BTreeMap::new(),
            domain,
        };
        if !settings.ports.is_empty() {
            all.inbound.insert(settings.service.clone(), Inbound { held: Held::new(None), plan: None });
        }
        let now = seconds(clock);
        for (name, entries) in stored {
            match name {
                CollectionName::Mesh => all.mesh_held = Held::new(Some(entries)),
                CollectionName::Inbound(service) => {
                    if let Some(inbound) = all.inbound.get_mut(&service) {
                        inbound.held = Held::new(Some(entries));
                    }
                }
                CollectionName::Outbound(service) => {
                    all.add(service, Some(entries), now);
                }
            }
        }
        for service in all.pinned.clone() {
            all.add(service, None, now);
        }
        all.mesh_changed(&[]);
        for service in all.outbound.keys().cloned().collect::<Vec<_>>() {
            all.outbound_changed(&service, &[]);
        }
        all
    }

    fn add(&mut self, service: NamespacedName, stored: Option<BTreeMap<Key, Entry>>, now: u64) -> bool {
        if self.outbound.contains_key(&service) || self.outbound.len() >= MAX_DESTINATIONS {
            return false;
        }
        let used = Arc::new(LastUsed::default());
        used.note(now);
        self.added += 1;
        self.outbound.insert(service, Outbound { held: Held::new(stored), plan: None, used, number: self.added });
        true
    }

    /// Everything to subscribe to, with what is held of it.
    pub(super) fn subscriptions(&self) -> Vec<(CollectionName, BTreeMap<Key, Entry>)> {
        let mut all = vec![(CollectionName::Mesh, self.mesh_held.replica.in_use().clone())];
        let inbound = self.inbound.iter();
        all.extend(inbound.map(|(s, i)| (CollectionName::Inbound(s.clone()), i.held.replica.in_use().clone())));
        let outbound = self.outbound.iter();
        all.extend(outbound.map(|(s, o)| (CollectionName::Outbound(s.clone()), o.held.replica.in_use().clone())));
        all
    }

    /// A worker uses a destination for the first time.
    pub(super) fn want(&mut self, service: &NamespacedName, now: u64) -> Wanted {
        if let Some(known) = self.outbound.get(service) {
            known.used.note(now);
            return Wanted { is_new: false, evicted: None };
        }
        let evicted = self.evict();
        Wanted { is_new: self.add(service.clone(), None, now), evicted }
    }

    /// Lets go of the destination that does not exist and was asked for least recently, if there are too many of them; those that
    /// were not answered yet come last.
    fn evict(&mut self) -> Option<NamespacedName> {
        let unfounded = |(service, o): &(&NamespacedName, &Outbound)| {
            !matches!(o.held.state, State::Stored | State::Current) && !self.pinned.contains(*service)
        };
        if self.outbound.iter().filter(unfounded).count() < MAX_UNFOUNDED {
            return None;
        }
        let age = |(_, o): &(&NamespacedName, &Outbound)| (o.held.state == State::Waiting, o.used.seconds(), o.number);
        let (service, _) = self.outbound.iter().filter(unfounded).min_by_key(age)?;
        let service = service.clone();
        self.outbound.remove(&service);
        Some(service)
    }

    /// The collection is as the control plane has it; returns the verdicts on what changed.
    pub(super) fn update(&mut self, name: &CollectionName, changes: &[Change], version: u64) -> Vec<Verdict> {
        let Some(held) = self.held(name) else { return Vec::new() };
        (held.state, held.version) = (State::Current, version);
        let verdicts = match name {
            CollectionName::Mesh => self.mesh_changed(changes),
            CollectionName::Outbound(service) => self.outbound_changed(service, changes),
            CollectionName::Inbound(service) => self.inbound_changed(service, changes),
        };
        if let Some(held) = self.held(name) {
            held.rejections += verdicts.iter().filter(|v| v.error.is_some()).count() as u64;
        }
        verdicts
    }

    /// The collection does not exist, or (with a detail) may not be seen.
    pub(super) fn ended(&mut self, name: &CollectionName, denied: Option<&str>) {
        let Some(held) = self.held(name) else { return };
        held.end(if denied.is_some() { State::Denied } else { State::Missing });
        match name {
            CollectionName::Mesh => drop(self.mesh_changed(&[])),
            CollectionName::Outbound(service) => {
                if let Some(outbound) = self.outbound.get_mut(service) {
                    outbound.plan =
                        Some(denied.map_or(DestinationState::Missing, |d| DestinationState::Denied(d.into())));
                }
            }
            CollectionName::Inbound(service) => {
                if let Some(inbound) = self.inbound.get_mut(service) {
                    inbound.plan = None;
                }
            }
        }
    }

    fn held(&mut self, name: &CollectionName) -> Option<&mut Held> {
        match name {
            CollectionName::Mesh => Some(&mut self.mesh_held),
            CollectionName::Outbound(service) => self.outbound.get_mut(service).map(|o| &mut o.held),
            CollectionName::Inbound(service) => self.inbound.get_mut(service).map(|i| &mut i.held),
        }
    }

    /// What is in use of a collection, to be stored; nothing if it should not be.
    pub(super) fn good(&self, name: &CollectionName) -> Option<&BTreeMap<Key, Entry>> {
        let held = match name {
            CollectionName::Mesh => Some(&self.mesh_held),
            CollectionName::Outbound(service) => self.outbound.get(service).map(|o| &o.held),
            CollectionName::Inbound(service) => self.inbound.get(service).map(|i| &i.held),
        };
        held.filter(|h| h.in_use()).map(|h| h.replica.in_use())
    }

    fn mesh_changed(&mut self, changes: &[Change]) -> Vec<Verdict> {
        let held = &mut self.mesh_held;
        held.replica.take(changes, held.version);
        if !held.in_use() {
            return Vec::new();
        }
        let (mesh, diagnostics) = compile_mesh(held.replica.collection(), &self.namespace, &self.domain);
        let verdicts = held.replica.verdicts(changes, &diagnostics);
        self.view = Arc::new(mesh::view(&mesh));
        self.mesh = mesh;
        // Defaults of the mesh are part of every plan.
        for service in self.inbound.keys().cloned().collect::<Vec<_>>() {
            self.inbound_changed(&service, &[]);
        }
        verdicts
    }

    fn outbound_changed(&mut self, service: &NamespacedName, changes: &[Change]) -> Vec<Verdict> {
        let Some(Outbound { held, plan, .. }) = self.outbound.get_mut(service) else { return Vec::new() };
        held.replica.take(changes, held.version);
        if !held.in_use() {
            return Vec::new();
        }
        let (new, diagnostics) = compile_destination(service, held.replica.collection(), &self.mesh);
        let verdicts = held.replica.verdicts(changes, &diagnostics);
        let why = held.replica.refused();
        *plan = Some(if new.ports.is_empty() && !why.is_empty() {
            // Nothing of it can be called, and there is somebody to blame.
            let why: Vec<String> = why.iter().map(|(key, text)| format!("{key}: {text}")).collect();
            DestinationState::Rejected(why.join("; ").into())
        } else {
            DestinationState::Ready(Arc::new(new))
        });
        verdicts
    }

    fn inbound_changed(&mut self, service: &NamespacedName, changes: &[Change]) -> Vec<Verdict> {
        let Some(Inbound { held, plan }) = self.inbound.get_mut(service) else { return Vec::new() };
        held.replica.take(changes, held.version);
        if !held.in_use() {
            return Vec::new();
        }
        let (new, diagnostics) = compile_inbound(service, held.replica.collection(), &self.mesh, &self.registered);
        *plan = Some(Arc::new(new));
        held.replica.verdicts(changes, &diagnostics)
    }

    /// Destinations that needed ones send to and that are not known yet; they are from now on.
    pub(super) fn adopt_backends(&mut self, now: u64) -> Vec<NamespacedName> {
        let mut missing: Vec<NamespacedName> = self.outbound.values().flat_map(backends).collect();
        missing.retain(|service| self.add(service.clone(), None, now));
        missing
    }

    /// Lets go of what is not needed any more.
    pub(super) fn drop_idle(&mut self, now: u64) -> Vec<NamespacedName> {
        let recent = |o: &Outbound| now.saturating_sub(o.used.seconds()) < IDLE.as_secs();
        let mut needed: BTreeSet<NamespacedName> = self.pinned.clone();
        needed.extend(self.outbound.iter().filter(|(_, o)| recent(o)).map(|(s, _)| s.clone()));
        let mut open: Vec<NamespacedName> = needed.iter().cloned().collect();
        while let Some(service) = open.pop() {
            for backend in self.outbound.get(&service).into_iter().flat_map(backends) {
                if needed.insert(backend.clone()) {
                    open.push(backend);
                }
            }
        }
        let idle: Vec<NamespacedName> = self.outbound.keys().filter(|s| !needed.contains(*s)).cloned().collect();
        for service in &idle {
            self.outbound.remove(service);
        }
        idle
    }

    /// Whether the mesh's configuration and every inbound collection were answered, so that what comes in can be judged.
    pub(super) fn inbound_answered(&self) -> bool {
        self.mesh_held.state != State::Waiting && self.inbound.values().all(|i| i.held.state != State::Waiting)
    }

    /// The same, and every upstream named by a flag: a start that got so far needs nothing more of the control plane.
    pub(super) fn start_answered(&self) -> bool {
        let answered = |s| self.outbound.get(s).is_some_and(|o: &Outbound| o.held.state != State::Waiting);
        self.inbound_answered() && self.pinned.iter().all(answered)
    }

    /// For workers.
    pub(super) fn snapshot(&self, version: u64, tls: TlsContext) -> Snapshot {
        let outbound = self.outbound.iter().filter_map(|(service, o)| {
            let destination = Destination { state: o.plan.clone()?, used: o.used.clone() };
            Some((service.clone(), destination))
        });
        let inbound = self.inbound.iter().filter_map(|(service, i)| Some((service.clone(), i.plan.clone()?)));
        Snapshot {
            version,
            mesh: self.view.clone(),
            outbound: outbound.collect(),
            inbound: inbound.collect(),
            tls: Some(Arc::new(tls)),
        }
    }

    /// For operators.
    pub(super) fn status(&self) -> BTreeMap<String, CollectionStatus> {
        let mut all = BTreeMap::from([(CollectionName::Mesh.to_string(), self.mesh_held.status())]);
        let inbound = self.inbound.iter();
        all.extend(inbound.map(|(s, i)| (CollectionName::Inbound(s.clone()).to_string(), i.held.status())));
        let outbound = self.outbound.iter();
        all.extend(outbound.map(|(s, o)| (CollectionName::Outbound(s.clone()).to_string(), o.held.status())));
        all
    }
}

fn workload_port(port: &ServedPort) -> WorkloadPort {
    let app = port.app_address().port();
    WorkloadPort {
        port: app,
        service_port: (app != port.port).then_some(port.port),
        name: None,
        app_protocol: Some(port.protocol.as_str().to_owned()),
    }
}

fn backends(outbound: &Outbound) -> Vec<NamespacedName> {
    match &outbound.plan {
        Some(DestinationState::Ready(plan)) => plan.other_backends(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use leno_identity::{Authority, KeyPair, TrustBundle, csr};
    use leno_model::SpiffeId;
    use leno_net::tls::TlsIdentity;
    use leno_plan::host::HostName;
    use leno_runtime::ManualClock;

    use crate::settings::{ListenAt, Upstream};

    const NOW: u64 = 1_800_000_000;

    fn context(clock: &ManualClock) -> TlsContext {
        let domain = TrustDomain::default();
        let mut authority = Authority::in_memory(&domain, NOW).unwrap();
        let identity = SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/cart").unwrap();
        let key = KeyPair::generate().unwrap();
        let request = csr::verify(&csr::make(&key).unwrap(), &identity).unwrap();
        let issued = authority.issue(&request, &identity, 3600, NOW).unwrap();
        let bundle = Arc::new(TrustBundle::single(1, domain, authority.roots()));
        TlsContext::new(TlsIdentity::new(issued.chain, &key).unwrap(), bundle, 1, Arc::new(clock.clone())).unwrap()
    }

    fn name(service: &str) -> NamespacedName {
        NamespacedName::new("shop", service).unwrap()
    }

    fn outbound(service: &str) -> CollectionName {
        CollectionName::Outbound(name(service))
    }

    fn change(kind: &str, api: &str, resource: &str, spec: &str) -> Change {
        let body = format!(
            r#"{{"apiVersion":"{api}","kind":"{kind}","metadata":{{"name":"{resource}","namespace":"shop"}},"spec":{spec}}}"#
        );
        Change { key: Key::new(kind, "shop", resource), entry: Some(Entry::new(Bytes::from(body))) }
    }

    /// `service` on port 80 whose requests go to `backend`.
    fn routed(service: &str, backend: &str) -> [Change; 2] {
        let spec = format!(
            r#"{{"parentRefs":[{{"kind":"Service","group":"","name":"{service}"}}],"rules":[{{"backendRefs":[{{"name":"{backend}","port":80}}]}}]}}"#
        );
        [
            change("Service", "v1", service, r#"{"ports":[{"port":80}]}"#),
            change("HTTPRoute", "gateway.networking.k8s.io/v1", service, &spec),
        ]
    }

    fn settings() -> ProxySettings {
        let mut settings = ProxySettings::new(name("cart"), "/nonexistent".into());
        settings.upstreams.push(Upstream { service: name("pinned"), port: None, listen: ListenAt::loopback(0) });
        settings
    }

    fn names(all: &Destinations) -> Vec<&str> {
        all.outbound.keys().map(|s| s.name.as_str()).collect()
    }

    #[test]
    fn what_is_not_needed_is_let_go_and_backends_stay_with_their_routes() {
        let clock = ManualClock::at(NOW);
        let mut all = Destinations::new(&settings(), &context(&clock), Vec::new(), &clock);
        assert!(all.want(&name("web"), seconds(&clock)).is_new && all.want(&name("idle"), seconds(&clock)).is_new);
        assert!(!all.want(&name("web"), seconds(&clock)).is_new, "known already");
        all.update(&outbound("web"), &routed("web", "web-v2"), 1);
        all.update(&outbound("pinned"), &routed("pinned", "store"), 1);
        let mut adopted = all.adopt_backends(seconds(&clock));
        adopted.sort();
        assert_eq!(adopted, [name("store"), name("web-v2")]);
        assert_eq!(all.adopt_backends(seconds(&clock)), []);
        clock.advance(IDLE - Duration::from_secs(1));
        assert_eq!(all.drop_idle(seconds(&clock)), []);
        // A worker uses one of them.
        all.outbound[&name("web")].used.note(seconds(&clock));
        clock.advance(Duration::from_secs(1));
        assert_eq!(all.drop_idle(seconds(&clock)), [name("idle")]);
        assert_eq!(names(&all), ["pinned", "store", "web", "web-v2"]);
        clock.advance(IDLE);
        assert_eq!(all.drop_idle(seconds(&clock)), [name("web"), name("web-v2")]);
        assert_eq!(names(&all), ["pinned", "store"], "an upstream is needed for as long as its port is open");
    }

    #[test]
    fn invented_names_do_not_take_the_place_of_services() {
        let clock = ManualClock::at(NOW);
        let mut all = Destinations::new(&settings(), &context(&clock), Vec::new(), &clock);
        all.want(&name("web"), seconds(&clock));
        all.update(&outbound("web"), &routed("web", "web"), 1);
        let mut evicted = Vec::new();
        for n in 0..2 * MAX_DESTINATIONS {
            let invented = name(&format!("invented-{n}"));
            let wanted = all.want(&invented, seconds(&clock));
            assert!(wanted.is_new, "there is always room for one more: {n}");
            evicted.extend(wanted.evicted);
            all.ended(&CollectionName::Outbound(invented), None);
        }
        assert_eq!(all.outbound.len(), MAX_UNFOUNDED + 2, "and the service and the upstream's");
        assert_eq!(evicted[..2], [name("invented-0"), name("invented-1")], "the oldest go first");
        assert!(all.outbound.contains_key(&name("web")) && all.outbound.contains_key(&name("pinned")));
        // Without answers they are bounded too.
        for n in 0..2 * MAX_UNFOUNDED {
            all.want(&name(&format!("unanswered-{n}")), seconds(&clock));
        }
        assert_eq!(all.outbound.len(), MAX_UNFOUNDED + 2);
    }

    #[test]
    fn deleted_in_use_and_denied_are_said_to_workers() {
        let clock = ManualClock::at(NOW);
        let context = context(&clock);
        let mut all = Destinations::new(&settings(), &context, Vec::new(), &clock);
        let state = |all: &Destinations| {
            all.snapshot(2, context.clone()).outbound.get(&name("pinned")).map(|d| match &d.state {
                DestinationState::Ready(_) => "ready",
                DestinationState::Missing => "missing",
                DestinationState::Denied(_) => "denied",
                DestinationState::Rejected(_) => "rejected",
            })
        };
        assert_eq!(state(&all), None, "no answer is not an answer");
        all.update(&outbound("pinned"), &routed("pinned", "pinned"), 1);
        assert_eq!(state(&all), Some("ready"));
        assert!(all.good(&outbound("pinned")).is_some());
        all.ended(&outbound("pinned"), None);
        assert_eq!((state(&all), all.good(&outbound("pinned"))), (Some("missing"), None));
        all.ended(&outbound("pinned"), Some("not yours"));
        assert_eq!(state(&all), Some("denied"));
        // It comes back, broken from the start: closed, with a reason.
        let broken = change("Service", "v1", "pinned", r#"{"ports":7}"#);
        let verdicts = all.update(&outbound("pinned"), &[broken], 2);
        assert!(verdicts[0].error.is_some());
        assert_eq!(state(&all), Some("rejected"));
        assert_eq!(all.status()[&outbound("pinned").to_string()].rejections, 1);
    }

    #[test]
    fn the_mesh_default_reaches_inbound_plans_and_egress() {
        let clock = ManualClock::at(NOW);
        let mut settings = settings();
        settings.ports.push(ServedPort { port: 80, protocol: leno_model::AppProtocol::Http, app: None });
        let mut all = Destinations::new(&settings, &context(&clock), Vec::new(), &clock);
        assert!(!all.inbound_answered());
        let own = CollectionName::Inbound(name("cart"));
        all.update(&own, &[change("Service", "v1", "cart", r#"{"ports":[{"port":80}]}"#)], 1);
        // MeshConfig may yet say `access: deny`.
        assert!(!all.inbound_answered());
        let caller = SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/web").unwrap();
        let allowed = |all: &Destinations| {
            all.inbound[&name("cart")].plan.as_ref().unwrap().ports[&80].access.decide(Some(&caller), 80, None).allowed
        };
        let leaves = |all: &Destinations| all.view.egress.permits(&HostName::Name("example.com".into()), 443);
        assert!(!allowed(&all) && !leaves(&all), "closed before the configuration is known");
        let mesh = |spec: &str| {
            let body = format!(
                r#"{{"apiVersion":"leno.dev/v1alpha1","kind":"MeshConfig","metadata":{{"name":"mesh","namespace":"leno-system"}},"spec":{spec}}}"#
            );
            [Change { key: Key::new("MeshConfig", "leno-system", "mesh"), entry: Some(Entry::new(Bytes::from(body))) }]
        };
        all.update(&CollectionName::Mesh, &mesh("{}"), 1);
        assert!(all.inbound_answered() && allowed(&all) && leaves(&all));
        all.update(&CollectionName::Mesh, &mesh(r#"{"access":"deny","egress":"deny"}"#), 2);
        assert!(!allowed(&all) && !leaves(&all));
        // What cannot be understood leaves the last good one.
        all.update(&CollectionName::Mesh, &mesh("7"), 3);
        assert!(!allowed(&all) && !leaves(&all));
    }
}
