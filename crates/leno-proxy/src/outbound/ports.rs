//! One worker's state of one destination port: its balancer, and what the process shares. Survives changes of the plan by the keys
//! of its endpoints.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use leno_model::{NamespacedName, SpiffeId};
use leno_plan::balance::{Balancer, InFlight};
use leno_plan::ejection::{Change, Outcome};
use leno_plan::{DestinationPlan, Transport};

use crate::hops::LastHop;
use crate::process::SharedPort;
use crate::worker::Worker;

/// A request outstanding on an endpoint, until dropped.
pub type Outstanding = InFlight;

/// One worker's state of one destination port.
pub struct OutboundPort {
    plan: Arc<DestinationPlan>,
    port: u16,
    /// How the hop names the service: `namespace/name`.
    wire_name: Bytes,
    shared: Arc<SharedPort>,
    balancer: Balancer,
    /// By the endpoint's place.
    hops: Box<[LastHop]>,
}

/// How an endpoint is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way<'e> {
    /// By the multiplexed hop.
    Hop {
        /// The hop port.
        address: SocketAddr,
        /// The workload behind it.
        sni: &'e Arc<str>,
    },
    /// Without protection; only services outside the mesh.
    Plain {
        /// The application.
        address: SocketAddr,
    },
}

impl OutboundPort {
    /// The state for `plan`; what `earlier` measured of endpoints that stay is kept.
    #[must_use]
    pub fn new(
        plan: &Arc<DestinationPlan>,
        port: u16,
        shared: Arc<SharedPort>,
        earlier: Option<&Self>,
        worker: &Worker,
    ) -> Option<Self> {
        let endpoints = &plan.ports.get(&port)?.endpoints;
        let health = shared.health.update(endpoints);
        let zone = worker.settings.zone.as_deref();
        let before = earlier.map(|e| &e.balancer);
        let balancer =
            Balancer::new(plan.policy.balance, endpoints, &health, zone, before, worker.part(), worker.random());
        let wire_name = Bytes::from(format!("{}/{}", plan.service.namespace, plan.service.name));
        let hops = endpoints.as_slice().iter().map(|_| LastHop::default()).collect();
        Some(Self { plan: Arc::clone(plan), port, wire_name, shared, balancer, hops })
    }

    /// Whether this state is of exactly that plan and port.
    #[must_use]
    pub fn is_of(&self, plan: &Arc<DestinationPlan>, port: u16) -> bool {
        self.port == port && Arc::ptr_eq(&self.plan, plan)
    }

    /// How the hop names the service.
    #[must_use]
    pub fn wire_name(&self) -> Bytes {
        self.wire_name.clone()
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> &NamespacedName {
        &self.plan.service
    }

    /// What the process shares.
    #[must_use]
    pub fn shared(&self) -> &Arc<SharedPort> {
        &self.shared
    }

    /// The identities that peers may prove.
    #[must_use]
    pub fn identities(&self) -> &Arc<[SpiffeId]> {
        &self.plan.identities
    }

    /// The hop by which the endpoint was reached last. It holds for this plan only, in which address, workload and permitted
    /// identities cannot change.
    #[must_use]
    pub fn last_hop(&self, picked: &Outstanding) -> &LastHop {
        &self.hops[picked.place()]
    }

    /// Chooses an endpoint.
    #[must_use]
    pub fn pick(&self, worker: &Worker, now: u64, tried: &[Arc<str>]) -> Option<Outstanding> {
        self.balancer.pick(now, worker.random(), tried)
    }

    /// How to reach it: members only ever by mutual TLS, whatever else they say of themselves (D15).
    #[must_use]
    pub fn way<'e>(&self, picked: &'e Outstanding) -> Option<Way<'e>> {
        picked.endpoint().transports.iter().find_map(|transport| match transport {
            Transport::Leno { addr, sni } => Some(Way::Hop { address: *addr, sni }),
            Transport::Plain { addr } if !self.plan.member => Some(Way::Plain { address: *addr }),
            // One listener per service port, for Envoy and gRPC members: not called by this version.
            Transport::Mtls { .. } | Transport::Plain { .. } => None,
        })
    }

    /// Feeds an attempt's outcome to balancing and ejection.
    pub fn learn(&self, worker: &Worker, picked: &Outstanding, outcome: Outcome, now: u64) {
        picked.answered(outcome, now);
        let change = self.shared.health.record(&self.plan.policy.ejection, picked.health(), outcome, now);
        match change {
            Change::None => {}
            Change::Spared => worker.telemetry().ejection(&self.plan.service, true),
            Change::Ejected(time) => {
                let endpoint = &*picked.endpoint().key;
                tracing::warn!(service = %self.plan.service, endpoint, seconds = time.as_secs(), "endpoint ejected");
                worker.telemetry().ejection(&self.plan.service, false);
            }
        }
    }

    /// How many endpoints there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.balancer.len()
    }

    /// For the plan dump.
    #[must_use]
    pub fn view(&self, service: &NamespacedName, port: u16, now: u64) -> serde_json::Value {
        let endpoints: Vec<_> = self
            .balancer
            .view(now)
            .iter()
            .map(|e| {
                serde_json::json!({
                    "instance": &*e.key,
                    "ready": e.ready,
                    "own": e.own,
                    "outstanding": e.outstanding,
                    "latency_ms": e.latency.map(|nanos| nanos / 1e6),
                })
            })
            .collect();
        serde_json::json!({
            "service": service.to_string(),
            "port": port,
            "requests_in_flight": self.shared.requests.in_flight(),
            "streams_in_flight": self.shared.connections.in_flight(),
            "endpoints": endpoints,
        })
    }
}
