//! A mesh without control plane: real certificates, real data planes, plans made by hand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use leno_identity::ca::Authority;
use leno_identity::{KeyPair, TrustBundle, csr};
use leno_model::{AppProtocol, NamespacedName, SpiffeId, TrustDomain};
use leno_net::tls::{TlsContext, TlsIdentity};
use leno_plan::{
    AccessPlan, CallPolicy, DefaultAccess, DestinationPlan, DestinationPort, EgressPolicy, Endpoint, EndpointSet,
    InboundPlan, InboundPort, Limits, RouteTable, Timeouts, Transport,
};
use leno_proxy::plane::{DataPlane, Listeners, Side};
use leno_proxy::settings::{DrainDeadlines, ListenAt, ServedPort, Upstream};
use leno_proxy::snapshot::{ControlLink, Destination, DestinationState, LastUsed, MeshView, Snapshot, link};
use leno_proxy::{ProxySettings, Telemetry};
use leno_runtime::SystemClock;
use leno_telemetry::LogSender;
use leno_telemetry::metrics::Metrics;

/// The service port that every test service has.
pub const PORT: u16 = 80;

pub fn name(service: &str) -> NamespacedName {
    NamespacedName::new("shop", service).unwrap()
}

pub fn identity(service: &str) -> SpiffeId {
    let n = name(service);
    SpiffeId::workload(&TrustDomain::default(), &n.namespace, &n.name)
}

pub fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// The authority and what everybody trusts.
pub struct Mesh {
    pub authority: Authority,
    pub bundle: TrustBundle,
    generation: u64,
}

impl Mesh {
    pub fn new() -> Self {
        let domain = TrustDomain::default();
        let authority = Authority::in_memory(&domain, unix_now()).unwrap();
        let bundle = TrustBundle::single(1, domain, authority.roots());
        Self { authority, bundle, generation: 0 }
    }

    /// As [`Self::tls`], as what another mesh's contexts are followed by.
    pub fn tls_of_generation(&mut self, service: &str, generation: u64) -> Arc<TlsContext> {
        self.generation = generation - 1;
        self.tls(service)
    }

    /// A certificate for a service, with everything that is trusted now.
    pub fn tls(&mut self, service: &str) -> Arc<TlsContext> {
        let key = KeyPair::generate().unwrap();
        let request = csr::verify(&csr::make(&key).unwrap(), &identity(service)).unwrap();
        let issued = self.authority.issue(&request, &identity(service), 3600, unix_now()).unwrap();
        self.generation += 1;
        let own = TlsIdentity::new(issued.chain, &key).unwrap();
        let bundle = Arc::new(self.bundle.clone());
        Arc::new(TlsContext::new(own, bundle, self.generation, SystemClock::shared()).unwrap())
    }
}

/// One member's data plane.
pub struct Member {
    pub plane: DataPlane,
    pub link: ControlLink,
    pub telemetry: Arc<Telemetry>,
    pub snapshot: Snapshot,
    pub hop: SocketAddr,
    pub forward: SocketAddr,
    pub upstreams: Vec<SocketAddr>,
}

/// Settings of a member that serves `app` (if any) and calls `upstreams`.
pub fn settings(service: &str, app: Option<(SocketAddr, AppProtocol)>, upstreams: &[&str]) -> ProxySettings {
    let mut settings = ProxySettings::new(name(service), "/nonexistent".into());
    settings.hop = ListenAt::loopback(0);
    settings.drain = DrainDeadlines::default();
    if let Some((address, protocol)) = app {
        settings.ports = vec![ServedPort { port: address.port(), protocol, app: Some(address) }];
    }
    settings.upstreams = upstreams
        .iter()
        .map(|u| Upstream { service: name(u), port: Some(PORT), listen: ListenAt::loopback(0) })
        .collect();
    settings
}

impl Member {
    pub fn start(mesh: &mut Mesh, settings: ProxySettings) -> Self {
        Self::start_logging(mesh, settings, LogSender::off())
    }

    /// With an access log.
    pub fn start_logging(mesh: &mut Mesh, settings: ProxySettings, log: LogSender) -> Self {
        let service = settings.service.name.as_str().to_owned();
        let settings = Arc::new(settings);
        let listeners = Listeners::open(&settings).unwrap();
        let first = Snapshot {
            version: 1,
            mesh: Arc::new(MeshView { egress: EgressPolicy { open: true, hosts: vec![] }, ..MeshView::default() }),
            tls: Some(mesh.tls(&service)),
            ..Snapshot::default()
        };
        let (control, worker) = link(first.clone());
        let telemetry = Arc::new(Telemetry { metrics: Arc::new(Metrics::default()), log });
        let plane = DataPlane::start(&settings, listeners, &worker, &telemetry, SystemClock::new()).unwrap();
        let addresses = plane.addresses().clone();
        Self {
            plane,
            link: control,
            telemetry,
            snapshot: first,
            hop: addresses.hop,
            forward: addresses.forward.unwrap(),
            upstreams: addresses.upstreams.iter().map(|(_, a)| *a).collect(),
        }
    }

    /// Changes the snapshot and publishes it.
    pub fn publish(&mut self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.snapshot);
        self.snapshot.version += 1;
        self.link.snapshots.send_replace(Arc::new(self.snapshot.clone()));
    }

    /// Serves `service` on [`PORT`] by the application at `app`.
    pub fn serves(&mut self, service: &str, app: SocketAddr, protocol: AppProtocol, access: AccessPlan) {
        let port = InboundPort {
            app_port: app.port(),
            protocol: Some(protocol),
            access: Arc::new(access),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        };
        let plan = InboundPlan { service: name(service), version: 1, ports: BTreeMap::from([(PORT, port)]) };
        self.publish(|s| {
            s.inbound.insert(name(service), Arc::new(plan));
        });
    }

    /// Knows how to call a service.
    pub fn calls(&mut self, plan: DestinationPlan) {
        self.publish(|s| {
            s.outbound.insert(plan.service.clone(), ready(plan));
        });
    }

    /// The plan dump's counters as Prometheus text.
    pub fn metrics(&self) -> String {
        self.telemetry.metrics.exposition()
    }

    /// Drains one side.
    pub fn drain(&self, side: Side, deadlines: DrainDeadlines) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(self.plane.drain(side, deadlines));
    }
}

pub fn ready(plan: DestinationPlan) -> Destination {
    Destination { state: DestinationState::Ready(Arc::new(plan)), used: Arc::new(LastUsed::default()) }
}

/// Members of the mesh may call.
pub fn open_access() -> AccessPlan {
    AccessPlan::open(DefaultAccess::Members(TrustDomain::default()))
}

/// One endpoint reached by the hop.
pub fn endpoint(key: &str, hop: SocketAddr) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        key: key.into(),
        transports: vec![Transport::Leno { addr: hop, sni: key.into() }],
        zone: None,
        labels: Arc::default(),
        weight: 1,
    })
}

/// A plan without routes to these endpoints.
pub fn plan(service: &str, protocol: AppProtocol, endpoints: Vec<Arc<Endpoint>>) -> DestinationPlan {
    let port = DestinationPort {
        protocol: Some(protocol),
        routes: RouteTable::direct(name(service), PORT),
        endpoints: Arc::new(EndpointSet::new(endpoints)),
    };
    DestinationPlan {
        service: name(service),
        version: 1,
        member: true,
        ports: BTreeMap::from([(PORT, port)]),
        policy: Arc::new(CallPolicy::default()),
        identities: Arc::from([identity(service)]),
    }
}

/// A client and a server, one hop between them.
pub struct Pair {
    pub mesh: Mesh,
    pub client: Member,
    pub server: Member,
}

impl Pair {
    pub fn new(app: SocketAddr, protocol: AppProtocol) -> Self {
        Self::with_access(app, protocol, open_access())
    }

    pub fn with_access(app: SocketAddr, protocol: AppProtocol, access: AccessPlan) -> Self {
        let mut mesh = Mesh::new();
        let mut server = Member::start(&mut mesh, settings("web", Some((app, protocol)), &[]));
        server.serves("web", app, protocol, access);
        let mut client = Member::start(&mut mesh, settings("caller", None, &["web"]));
        client.calls(plan("web", protocol, vec![endpoint("web-1", server.hop)]));
        Self { mesh, client, server }
    }

    /// Where the local caller connects.
    pub fn local(&self) -> SocketAddr {
        self.client.upstreams[0]
    }
}
