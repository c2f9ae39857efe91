//! The registry: which instances exist, who registered them, and when they are gone (D5).
//!
//! A registration is stored as a `Workload` resource before it is acknowledged. Who is connected is known here alone, in
//! [`presence`]; what may be registered is decided by the grants, never by what a proxy says of itself.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, BuildHasherDefault};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use leno_api::{Address, EndpointState, Member, Port, RefusedMember, ServicePorts};
use leno_discovery::server::Refusal;
use leno_model::kinds::WorkloadSpec;
use leno_model::{Kind, NamespacedName, Reason, Resource, SpiffeId};
use leno_runtime::clock::Clock;
use leno_store::{Expect, Key, Store, StoreError};
use tokio::time::MissedTickBehavior;

use crate::audit::{Audit, Principal, timestamp};
use crate::ca::{Ca, store_refusal};
use crate::world::World;

pub mod admission;
pub mod presence;
pub mod probe;
pub mod services;

pub use admission::Registration;
use presence::{Due, Presence};

/// How often graces are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Probes at one time.
pub const MAX_PROBES: usize = 32;
/// Locks that registrations share by their keys: so many that members which come back together seldom wait for one another.
const LOCKS: u64 = 256;
/// Attempts to write a registration against other writers.
const MAX_ATTEMPTS: usize = 8;

/// Namespace and name of a `Workload`.
type WorkloadKey = (String, String);

/// Facts of a registration that are for display only and so live in memory.
#[derive(Debug, Clone, Default)]
struct Shown {
    conditions: Vec<String>,
    registered: u64,
}

/// The registry.
pub struct Registry {
    world: Arc<World>,
    store: Arc<dyn Store>,
    ca: Arc<Ca>,
    audit: Arc<Audit>,
    clock: Arc<dyn Clock>,
    /// Held from the look at `presence` to the end of the write to the store, so that the two say the same of a key. Without it an
    /// expiry removes the record of a member that comes back at that moment and is told that it is registered.
    writing: Vec<tokio::sync::Mutex<()>>,
    presence: Mutex<Presence<WorkloadKey>>,
    shown: Mutex<HashMap<WorkloadKey, Shown>>,
    /// By stream: members that are connected and whose last registration was refused. As many as there are streams at most.
    refused: Mutex<BTreeMap<u64, RefusedMember>>,
}

impl Registry {
    /// A registry; [`Self::load`] fills it from the store.
    #[must_use]
    pub fn new(
        world: Arc<World>,
        store: Arc<dyn Store>,
        ca: Arc<Ca>,
        audit: Arc<Audit>,
        clock: Arc<dyn Clock>,
        grace: Duration,
    ) -> Arc<Self> {
        let presence = Mutex::new(Presence::new(grace));
        let writing = (0..LOCKS).map(|_| tokio::sync::Mutex::default()).collect();
        Arc::new(Self {
            world,
            store,
            ca,
            audit,
            clock,
            writing,
            presence,
            shown: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    fn presence(&self) -> MutexGuard<'_, Presence<WorkloadKey>> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn writing(&self, key: &WorkloadKey) -> tokio::sync::MutexGuard<'_, ()> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key) % LOCKS;
        self.writing[usize::try_from(hash).expect("less than LOCKS")].lock().await
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.monotonic_nanos())
    }

    /// Takes in the registrations that the store has; their grace begins now.
    pub async fn load(&self) -> Result<usize, StoreError> {
        let (records, _) = leno_store::contract::list_all(&*self.store, Kind::Workload.as_str(), None).await?;
        let now = self.now();
        let count = records.len();
        for record in records {
            let decoded = Resource::from_json(&record.value).ok().and_then(|r| r.spec::<WorkloadSpec>().ok());
            let key = (record.key.namespace.to_string(), record.key.name.to_string());
            match decoded {
                Some(spec) => {
                    let services = spec.services.iter().map(|s| format!("{}/{}", key.0, s.name)).collect();
                    self.presence().found(key, spec.generation, services, now);
                }
                // Nothing can be asked of it or sent about it: it is removed after the grace like any other.
                None => self.presence().found(key, 0, Vec::new(), now),
            }
        }
        Ok(count)
    }

    /// Stores a registration of `peer`, which came over `stream`. Acknowledged means durable.
    pub async fn register(&self, peer: &SpiffeId, stream: u64, registration: &Registration) -> Result<(), Refusal> {
        match self.try_register(peer, stream, registration).await {
            Ok(changed) => {
                self.refusals().remove(&stream);
                if changed {
                    let services: Vec<_> = registration.services.iter().map(|s| s.name.as_str()).collect();
                    let object = format!("{}/{}", registration.namespace, registration.instance);
                    let detail = format!("generation {}, {}", registration.generation, services.join(","));
                    self.audit.record(&workload(peer), "register", &object, "ok", &detail).await;
                }
                Ok(())
            }
            Err(refusal) => {
                let (reason, detail) = (refusal.reason.as_str(), refusal.detail.as_str());
                self.audit.refuse(&workload(peer), "register", &registration.instance, reason, detail).await;
                // Who is replaced by a newer one of itself misses nothing.
                if refusal.reason != Reason::Draining {
                    let member = format!("{}/{}", peer.namespace().unwrap_or("-"), registration.instance);
                    let message = match refusal.reason {
                        Reason::UnauthorisedMember => {
                            format!(
                                "its registration is refused: {detail}: start it again with a token for these services"
                            )
                        }
                        _ => format!("its registration is refused: {reason}: {detail}"),
                    };
                    let refused = RefusedMember { member, identity: peer.to_string(), message };
                    self.refusals().insert(stream, refused);
                }
                Err(refusal)
            }
        }
    }

    fn refusals(&self) -> MutexGuard<'_, BTreeMap<u64, RefusedMember>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Members that are connected and whose last registration was refused.
    #[must_use]
    pub fn refused(&self) -> Vec<RefusedMember> {
        let live = self.ca.live();
        let mut refusals = self.refusals();
        // A refusal may have been under way when its stream ended.
        refusals.retain(|stream, _| live.get(*stream).is_some());
        refusals.values().cloned().collect()
    }

    /// True if something was written.
    async fn try_register(&self, peer: &SpiffeId, stream: u64, given: &Registration) -> Result<bool, Refusal> {
        let resource = admission::workload(peer, given)?;
        self.authorise(peer, given).await?;
        let name = (resource.metadata.namespace.clone(), resource.metadata.name.clone());
        let services = given.services.iter().map(|s| format!("{}/{}", given.namespace, s.name)).collect();
        let _writing = self.writing(&name).await;
        // First, and kept whatever fails below: a record that nobody watches over would stay for ever, while the presence of one
        // that was never written ends with its stream. The record comes last, so that a registration that is refused has no endpoint.
        let now = self.now();
        if !self.presence().connected(name.clone(), given.generation, services, stream, now) {
            return Err(superseded(given.generation));
        }
        for service in &given.services {
            services::ensure(&*self.store, &self.clock, &given.namespace, service)
                .await
                .map_err(|e| store_refusal(&e))?;
        }
        let changed = self.write(&resource, given.generation).await?;
        let shown = Shown { conditions: given.conditions.clone(), registered: self.clock.unix_seconds() };
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).insert(name, shown);
        Ok(changed)
    }

    /// Every service must be granted. The world may be a moment behind the store, so a no is asked again there.
    async fn authorise(&self, peer: &SpiffeId, given: &Registration) -> Result<(), Refusal> {
        let (namespace, account) = peer.workload_parts().unwrap_or_default();
        for service in &given.services {
            let denied = || {
                let detail = format!("{peer} may not register {} in {}", service.name, given.namespace);
                Refusal::new(Reason::UnauthorisedMember, detail)
            };
            let name = NamespacedName::new(&given.namespace, &service.name).map_err(|_| denied())?;
            if self.world.permits(peer, &name) {
                continue;
            }
            let grant = self.ca.grant(namespace, account).await?;
            if namespace != given.namespace || !grant.is_some_and(|g| g.services.contains(&service.name)) {
                return Err(denied());
            }
        }
        Ok(())
    }

    async fn write(&self, resource: &Resource, generation: u64) -> Result<bool, Refusal> {
        let key = Key::new(Kind::Workload.as_str(), &resource.metadata.namespace, &resource.metadata.name);
        for _ in 0..MAX_ATTEMPTS {
            let found = self.store.get(&key).await.map_err(|e| store_refusal(&e.into()))?;
            let (expect, created) = match &found {
                None => (Expect::Absent, self.clock.unix_seconds()),
                Some(record) => {
                    let old = Resource::from_json(&record.value).ok();
                    let spec = old.as_ref().and_then(|r| r.spec::<WorkloadSpec>().ok());
                    if spec.as_ref().is_some_and(|s| s.generation > generation) {
                        return Err(superseded(generation));
                    }
                    let same =
                        |old: &Resource| old.spec == resource.spec && old.metadata.labels == resource.metadata.labels;
                    if old.as_ref().is_some_and(same) {
                        return Ok(false);
                    }
                    (Expect::Version(record.version.clone()), self.clock.unix_seconds())
                }
            };
            let mut stored = resource.clone();
            stored.metadata.creation_timestamp = timestamp(created);
            match self.store.put(&key, stored.to_json().into(), expect).await {
                Ok(_) => return Ok(true),
                Err(StoreError::Conflict { .. }) => {}
                Err(e) => return Err(store_refusal(&e.into())),
            }
        }
        Err(Refusal::new(Reason::Overloaded, "the registration is being written by others at the same time"))
    }

    /// Removes a registration at once: a drain begins. A newer generation stays; then there is nothing to do.
    pub async fn deregister(&self, peer: &SpiffeId, instance: &str, generation: u64) -> Result<(), Refusal> {
        let Some(key) = admission::workload_key(peer, instance) else {
            return Err(Refusal::new(Reason::UnauthorisedMember, format!("{peer} is not a workload")));
        };
        let writing = self.writing(&key).await;
        let removed = self.remove(&key, generation).await.map_err(|e| store_refusal(&e.into()))?;
        drop(writing);
        if removed {
            let detail = format!("generation {generation}");
            self.audit.record(&workload(peer), "deregister", &format!("{}/{instance}", key.0), "ok", &detail).await;
        }
        Ok(())
    }

    /// Compare-and-delete on the generation: a record that is newer stays. The caller holds the lock of the key.
    async fn remove(&self, key: &WorkloadKey, generation: u64) -> Result<bool, StoreError> {
        let record_key = Key::new(Kind::Workload.as_str(), &key.0, &key.1);
        for _ in 0..MAX_ATTEMPTS {
            let Some(record) = self.store.get(&record_key).await? else { break };
            let spec = Resource::from_json(&record.value).ok().and_then(|r| r.spec::<WorkloadSpec>().ok());
            if spec.is_some_and(|s| s.generation > generation) {
                return Ok(false);
            }
            match self.store.delete(&record_key, Expect::Version(record.version)).await {
                Ok(()) => {
                    self.presence().removed(key, generation);
                    self.shown.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
                    return Ok(true);
                }
                Err(StoreError::Conflict { .. } | StoreError::NotFound(_)) => {}
                Err(e) => return Err(e),
            }
        }
        self.presence().removed(key, generation);
        Ok(false)
    }

    /// A stream is gone without a deregistration: its registrations are kept for the grace time.
    pub fn stream_lost(&self, stream: u64) {
        self.refusals().remove(&stream);
        let lost = self.presence().stream_lost(stream, self.now());
        for (namespace, name) in lost {
            tracing::info!(%namespace, workload = %name, "the stream of a registration is lost; it is kept for the grace time");
        }
    }

    /// Removes what is to go, and gives the probes that are due, at most `probes`. Whoever runs those need not wait for them: hosts
    /// that do not answer hold up no expiry. Public for tests with a manual clock.
    pub async fn tick(self: &Arc<Self>, probes: usize) -> Vec<BoxFuture<'static, ()>> {
        let due = self.presence().due(self.now(), probes);
        let mut begun: Vec<BoxFuture<'static, ()>> = Vec::new();
        for due in due {
            match due {
                Due::Expire(key, generation) => self.expire(&key, generation).await,
                Due::Probe(key, generation) => begun.push(Box::pin(self.clone().probe(key, generation))),
            }
        }
        begun
    }

    async fn expire(&self, key: &WorkloadKey, generation: u64) {
        let writing = self.writing(key).await;
        // It may have come back since it was found due: expiries wait for the disk, one after the other.
        if !self.presence().is_overdue(key, self.now()) {
            return;
        }
        let removed = self.remove(key, generation).await;
        drop(writing);
        match removed {
            Ok(true) => {
                let object = format!("{}/{}", key.0, key.1);
                let detail = format!("generation {generation}: it was lost, and has not come back");
                self.audit.record(&Principal::ControlPlane, "deregister", &object, "ok", &detail).await;
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, workload = %key.1, "a lost registration cannot be removed; trying again")
            }
        }
    }

    async fn probe(self: Arc<Self>, key: WorkloadKey, generation: u64) {
        let resource = self.world.read(|c| c.resource(Kind::Workload, &key.0, &key.1));
        let spec = resource.and_then(|r| r.spec::<WorkloadSpec>().ok());
        let addresses: Vec<_> = spec.iter().flat_map(|s| &s.addresses).map(|a| a.address).collect();
        let outcome = probe::probe(&addresses).await;
        tracing::info!(workload = %key.1, ?outcome, "probed: many instances were lost together");
        let now = self.now();
        self.presence().probed(&key, generation, outcome, now);
    }

    /// Looks after graces until dropped.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut probes = FuturesUnordered::new();
        loop {
            // Both are cancel-safe: a probe that is not done stays in `probes`.
            tokio::select! {
                _ = ticks.tick() => probes.extend(self.tick(MAX_PROBES.saturating_sub(probes.len())).await),
                Some(()) = probes.next() => {}
            }
        }
    }

    /// Connected and lost registrations.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        self.presence().counts()
    }

    /// The lost registrations as `namespace/instance`: a rotation of the root waits for them.
    #[must_use]
    pub fn lost(&self) -> Vec<String> {
        let lost = self.presence().lost();
        // A Workload is called `serviceaccount.instance`, and an account's name has no dot.
        let name = |(namespace, name): WorkloadKey| {
            format!("{namespace}/{}", name.split_once('.').map_or(&*name, |(_, instance)| instance))
        };
        lost.into_iter().map(name).collect()
    }

    /// All registrations, for people.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let workloads: Vec<_> = self.world.read(|c| c.resources(Kind::Workload).cloned().collect());
        let bundles: BTreeMap<(String, String), u64> =
            self.ca.live().iter().map(|(_, s)| ((s.peer.spiffe.to_string(), s.instance.clone()), s.bundle)).collect();
        workloads.iter().filter_map(|resource| self.member(resource, &bundles)).collect()
    }

    fn member(&self, resource: &Resource, bundles: &BTreeMap<(String, String), u64>) -> Option<Member> {
        let spec = resource.spec::<WorkloadSpec>().ok()?;
        let key = (resource.metadata.namespace.clone(), resource.metadata.name.clone());
        // A record that was removed a moment ago is lost for no time.
        let lost = self.presence().lost_for(&key, self.now()).unwrap_or(Some(Duration::ZERO));
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned().unwrap_or_default();
        let services = spec
            .services
            .iter()
            .map(|s| ServicePorts { name: s.name.clone(), ports: s.ports.iter().map(port).collect() });
        let bundle = bundles.get(&(spec.identity.to_string(), spec.instance.clone()));
        let registered = shown.registered;
        Some(Member {
            instance: spec.instance.clone(),
            namespace: key.0,
            identity: spec.identity.to_string(),
            generation: spec.generation,
            services: services.collect(),
            addresses: spec.addresses.iter().map(address).collect(),
            labels: resource.metadata.labels.clone(),
            zone: spec.zone.clone().unwrap_or_default(),
            state: if lost.is_none() { EndpointState::Connected } else { EndpointState::Lost },
            lost_seconds: lost.map(|l| l.as_secs()),
            registered: if registered == 0 {
                resource.metadata.creation_timestamp.clone()
            } else {
                timestamp(registered)
            },
            bundle_version: bundle.copied().unwrap_or_default(),
            conditions: shown.conditions,
        })
    }
}

fn workload(peer: &SpiffeId) -> Principal {
    Principal::Workload(peer.to_string())
}

fn superseded(generation: u64) -> Refusal {
    Refusal::new(Reason::Draining, format!("generation {generation} is superseded by a newer one of the same instance"))
}

fn address(address: &leno_model::kinds::endpoint::EndpointAddress) -> Address {
    let transport = serde_json::to_value(address.transport).ok();
    let transport = transport.and_then(|t| t.as_str().map(str::to_owned)).unwrap_or_default();
    Address { transport, address: address.address.to_string(), port: address.port }
}

fn port(port: &leno_model::kinds::workload::WorkloadPort) -> Port {
    Port {
        name: port.name.clone().unwrap_or_default(),
        port: port.service_port.unwrap_or(port.port),
        target_port: port.port,
        protocol: port.app_protocol.clone().unwrap_or_default(),
    }
}
