//! The two plans a proxy executes: how a service is called, and how its own service is served.
//!
//! Outbound, one [`DestinationPlan`] per service collection. A route may send to another service: it is then named, and that
//! service's own plan has its endpoints, policy and identities. What comes from which plan:
//!
//! | from the *called* service | from the *backend* service |
//! |---|---|
//! | routes, filters, request and attempt timeouts, retries and their budget | endpoints, identities, balancing, ejection, limits, connect, handshake and idle timeouts |

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use leno_model::{AppProtocol, NamespacedName, SpiffeId};

use crate::access::AccessPlan;
use crate::balance::BalancePolicy;
use crate::ejection::EjectionPolicy;
use crate::resilience::{Limits, RetryPolicy, Timeouts};
use crate::route::RouteTable;

/// How one service is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationPlan {
    /// The service.
    pub service: NamespacedName,
    /// The version of its collection, for plan dumps and metrics.
    pub version: u64,
    /// Whether its endpoints are members: if so they are only ever called by mutual TLS (D15).
    pub member: bool,
    /// By service port.
    pub ports: BTreeMap<u16, DestinationPort>,
    /// How it is called.
    pub policy: Arc<CallPolicy>,
    /// The identities that its endpoints may prove to have. What an endpoint says of itself does not count (D5).
    pub identities: Arc<[SpiffeId]>,
}

impl DestinationPlan {
    /// The port that a route means when this service is its backend: the one it names, else the only one.
    #[must_use]
    pub fn backend_port(&self, named: Option<u16>) -> Option<u16> {
        let mut ports = self.ports.keys().copied();
        let only = || ports.next().filter(|_| self.ports.len() == 1);
        named.or_else(only)
    }

    /// Other services that its routes send to, once each, in order: the collections to subscribe to as well.
    #[must_use]
    pub fn other_backends(&self) -> Vec<NamespacedName> {
        let all = self.ports.values().flat_map(|p| p.routes.backends());
        let mut names: Vec<_> = all.map(|(n, _)| n).filter(|n| **n != self.service).cloned().collect();
        names.sort();
        names.dedup();
        names
    }
}

/// One port of a called service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationPort {
    /// What is spoken; `None` if undeclared, then it is detected.
    pub protocol: Option<AppProtocol>,
    /// Where its requests go.
    pub routes: RouteTable,
    /// The instances that serve this port of this service.
    pub endpoints: Arc<EndpointSet>,
}

/// The instances of one service port, in order of their keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointSet {
    endpoints: Vec<Arc<Endpoint>>,
}

impl EndpointSet {
    /// Sorts by key; of two with the same key the later is kept.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = Arc<Endpoint>>) -> Self {
        let by_key: BTreeMap<Arc<str>, Arc<Endpoint>> = endpoints.into_iter().map(|e| (e.key.clone(), e)).collect();
        Self { endpoints: by_key.into_values().collect() }
    }

    /// In order of their keys.
    #[must_use]
    pub fn as_slice(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The number of instances.
    #[must_use]
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }
}

/// One instance of a service, as one of its ports is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The service account and the instance of it, `ACCOUNT.INSTANCE`: unique within the service, and stable over changes of address.
    pub key: Arc<str>,
    /// Ways to reach it, best first.
    pub transports: Vec<Transport>,
    /// Where it runs.
    pub zone: Option<Arc<str>>,
    /// Labels of its registration.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Share of requests relative to its siblings; 0 takes none.
    pub weight: u32,
}

/// One way to reach an endpoint's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// The multiplexed hop, ALPN `leno/1`; the stream's head names service and port.
    Leno {
        /// The hop port.
        addr: SocketAddr,
        /// The opaque workload id that selects the workload on a shared hop port.
        sni: Arc<str>,
    },
    /// Mutual TLS with the application's protocol inside: Envoy and proxyless gRPC.
    Mtls {
        /// The listener of this service port.
        addr: SocketAddr,
        /// The server name to ask for.
        sni: Arc<str>,
    },
    /// No protection; only of services that are not members.
    Plain {
        /// The application's address.
        addr: SocketAddr,
    },
}

impl Transport {
    /// The address to connect to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        match self {
            Self::Leno { addr, .. } | Self::Mtls { addr, .. } | Self::Plain { addr } => *addr,
        }
    }

    /// Whether bytes cross the network unprotected.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain { .. })
    }
}

/// How a destination is called: a TrafficPolicy, or the defaults of DESIGN section 7.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallPolicy {
    /// How an endpoint is chosen.
    pub balance: BalancePolicy,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// What is tried again.
    pub retry: RetryPolicy,
    /// How many at a time.
    pub limits: Limits,
    /// When an endpoint is left alone.
    pub ejection: EjectionPolicy,
}

/// How a proxy serves its own service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPlan {
    /// The service.
    pub service: NamespacedName,
    /// The version of its collection.
    pub version: u64,
    /// By service port.
    pub ports: BTreeMap<u16, InboundPort>,
}

/// One port of a served service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPort {
    /// The port that the application listens on.
    pub app_port: u16,
    /// What it speaks; `None` if undeclared, then what the caller's side detected is used.
    pub protocol: Option<AppProtocol>,
    /// Who may call it.
    pub access: Arc<AccessPlan>,
    /// How many at a time, over all callers.
    pub limits: Limits,
    /// Towards the application: connect and idle apply.
    pub timeouts: Timeouts,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{RouteEntry, RouteMatch, RouteRule};

    fn endpoint(key: &str, weight: u32) -> Arc<Endpoint> {
        Arc::new(Endpoint { key: key.into(), transports: vec![], zone: None, labels: Arc::default(), weight })
    }

    #[test]
    fn endpoint_sets_are_ordered_and_unique() {
        let set = EndpointSet::new([endpoint("b", 1), endpoint("a", 1), endpoint("b", 2)]);
        let seen: Vec<_> = set.as_slice().iter().map(|e| (&*e.key, e.weight)).collect();
        assert_eq!(seen, [("a", 1), ("b", 2)]);
    }

    #[test]
    fn other_backends_are_listed_once_without_the_service_itself() {
        let name = |n: &str| NamespacedName::new("shop", n).unwrap();
        let rules = ["web-v2", "web", "web-v1", "web-v2"].map(|n| RouteRule::to_service(n, name(n), 80));
        let entries = (0..4).map(|rule| RouteEntry { condition: RouteMatch::default(), rule }).collect();
        let port = DestinationPort {
            protocol: Some(AppProtocol::Http),
            routes: RouteTable::new(rules.into(), entries),
            endpoints: Arc::default(),
        };
        let plan = DestinationPlan {
            service: name("web"),
            version: 1,
            member: true,
            ports: BTreeMap::from([(80, port)]),
            policy: Arc::default(),
            identities: Arc::from([]),
        };
        assert_eq!(plan.other_backends(), [name("web-v1"), name("web-v2")]);
        assert_eq!((plan.backend_port(Some(9)), plan.backend_port(None)), (Some(9), Some(80)));
        let mut several = plan.clone();
        several.ports.insert(81, several.ports[&80].clone());
        assert_eq!(several.backend_port(None), None);
    }
}
