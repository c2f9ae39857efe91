//! The control plane put together: one function holds the order of the start, one that of the end.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use leno_identity::Authority;
use leno_model::TrustDomain;
use leno_runtime::clock::{Clock, SystemClock};
use leno_runtime::drain::{DrainOutcome, DrainTrigger, DrainWatch, drain};
use leno_runtime::files::create_private_dir;
use leno_runtime::readiness::Readiness;
use leno_runtime::scope::Scope;
use leno_store::{DirectoryLock, RedbSettings, RedbStore, Store, StoreError};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::apply::Writer;
use crate::audit::Audit;
use crate::ca::{AuthorityError, Ca};
use crate::metrics::Metrics;
use crate::own_certificate::{OwnCertificate, OwnCertificateError};
use crate::records::{self, BundleRecord, MeshRecord, RecordError};
use crate::registry::Registry;
use crate::rest::access::Access;
use crate::rest::{self, Api, MAX_WATCHES, MAX_WRITES};
use crate::settings::Settings;
use crate::status::{self, Reports};
use crate::tokens::Tokens;
use crate::vip;
use crate::world::{World, feed};

/// Directory of the authority in the data directory.
const CA_DIRECTORY: &str = "ca";
/// How often a rotation, and a bundle that could not be published, is looked at.
const AUTHORITY_TICK: Duration = Duration::from_millis(500);

/// Why a control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error("data directory {path}: {source}")]
    DataDirectory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store, or another control plane on the same directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The control plane's own certificate.
    #[error(transparent)]
    OwnCertificate(#[from] OwnCertificateError),
    /// The directory belongs to another mesh.
    #[error(
        "the data directory belongs to trust domain `{found}`, not `{wanted}`: a trust domain is fixed at first start"
    )]
    OtherTrustDomain {
        /// What is stored.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// A part of the directory is gone. To begin anew beside the rest would lose the root, the revocations or every resource.
    #[error(
        "the data directory {path} has {present} but no {missing}: restore all of it from one backup, or name another directory to \
         begin a new mesh"
    )]
    Incomplete {
        /// Which.
        path: PathBuf,
        /// What is there.
        present: &'static str,
        /// What is not.
        missing: &'static str,
    },
    /// A port is taken, or not ours to open.
    #[error("cannot listen on {address} for {what}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// For what.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A lifetime that no leaf may have.
    #[error("a leaf lifetime of {0} s is outside {min} s to {max} s", min = leno_identity::ca::MIN_TTL_S, max = leno_identity::ca::MAX_TTL_S)]
    LeafTtl(u64),
}

/// What the discovery service works with.
pub struct Parts {
    /// The read view.
    pub world: Arc<World>,
    /// Registrations.
    pub registry: Arc<Registry>,
    /// Enrolment.
    pub tokens: Arc<Tokens>,
    /// Certificates and the trust bundle.
    pub ca: Arc<Ca>,
    /// What proxies make of resources.
    pub reports: Arc<Reports>,
    /// The audit log.
    pub audit: Arc<Audit>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The TLS side of the port.
    pub certificate: Arc<OwnCertificate>,
}

/// A running control plane. Dropped without [`Self::shutdown`], its tasks end where they stand; what was acknowledged is durable.
pub struct ControlPlane {
    api: SocketAddr,
    discovery: SocketAddr,
    trust_domain: TrustDomain,
    data_dir: PathBuf,
    grace: Duration,
    trigger: DrainTrigger,
    servers: Scope,
    background: Scope,
    readiness: Readiness,
    /// Last: everything else must be gone before another process may take the directory.
    _lock: DirectoryLock,
}

impl ControlPlane {
    /// Starts everything, with [`crate::discovery`].
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        Self::start_with(settings, crate::discovery::serve).await
    }

    /// Starts everything, in this order; an error leaves nothing behind. `discovery` serves proxies on the listener until the
    /// drain, from when the view is whole.
    pub async fn start_with<F, Served>(settings: Settings, discovery: F) -> Result<Self, StartError>
    where
        F: FnOnce(Arc<Parts>, TcpListener, DrainWatch) -> Served + Send + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        let ttl_s = settings.leaf_ttl.as_secs();
        if !(leno_identity::ca::MIN_TTL_S..=leno_identity::ca::MAX_TTL_S).contains(&ttl_s) {
            return Err(StartError::LeafTtl(ttl_s));
        }
        let clock = SystemClock::shared();
        let started = clock.unix_seconds();
        let dir = settings.data_dir.clone();
        let unusable = |source| StartError::DataDirectory { path: dir.clone(), source };

        // Nothing in the directory is touched before it is ours.
        create_private_dir(&dir).map_err(unusable)?;
        let lock = DirectoryLock::take(&dir)?;
        // The ports before the files: a second process with other data on the same ports changes nothing.
        let api_listener = listen(settings.api, "the API").await?;
        let discovery_listener = listen(settings.discovery, "discovery").await?;

        let store: Arc<dyn Store> = Arc::new(RedbStore::open(&dir, &RedbSettings::default())?);
        let audit = Arc::new(Audit::open(&dir, clock.clone()).map_err(unusable)?);
        let admin_token = Access::token_in(&dir).map_err(unusable)?;
        check_whole(&dir, &*store).await?;
        let mesh = mesh_record(&*store, settings.trust_domain.as_ref()).await?;
        let trust_domain = TrustDomain::new(&mesh.trust_domain)
            .map_err(|e| StartError::Store(StoreError::Backend(format!("the mesh's record: {e}"))))?;
        let authority = open_authority(&dir, &trust_domain, started)?;
        let grace = settings.registration_grace;
        let ca = Ca::open(authority, ttl_s, grace, store.clone(), audit.clone(), clock.clone()).await?;
        let certificate = Arc::new(OwnCertificate::new(ca.clone(), clock.clone()).await?);

        let prefixes = vec![vip::PREFIX4.to_owned(), format!("{}/48", mesh.prefix6)];
        let world = World::new(trust_domain.clone(), prefixes);
        let registry = Registry::new(world.clone(), store.clone(), ca.clone(), audit.clone(), clock.clone(), grace);
        // Before any proxy can connect: whoever was registered has the grace time to come back.
        registry.load().await?;
        let tokens =
            Arc::new(Tokens { store: store.clone(), ca: ca.clone(), audit: audit.clone(), clock: clock.clone() });
        let reports = Arc::new(Reports::default());

        let readiness = Readiness::new();
        let background = Scope::new("control-plane");
        background.spawn("world", feed::run(world.clone(), store.clone()));
        background.spawn("vips", vip::run(world.clone(), store.clone(), clock.clone(), mesh.prefix6));
        background.spawn("status", status::run(world.clone(), store.clone(), reports.clone(), clock.clone()));
        background.spawn("registry", registry.clone().run());
        background.spawn("certificate", certificate.clone().run());
        background.spawn("authority", tend(ca.clone(), registry.clone()));

        let servers = Scope::new("servers");
        let (trigger, watch) = drain();
        let (api, discovery_address) = (address(&api_listener)?, address(&discovery_listener)?);
        let handlers = Arc::new(Api {
            store: store.clone(),
            world: world.clone(),
            writer: Writer { store, audit: audit.clone(), clock: clock.clone(), trust_domain: trust_domain.clone() },
            tokens: tokens.clone(),
            ca: ca.clone(),
            registry: registry.clone(),
            reports: reports.clone(),
            audit: audit.clone(),
            metrics: Metrics::default(),
            access: Access::new(&admin_token, settings.api_hosts),
            readiness: readiness.clone(),
            drain: watch.clone(),
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
            writes: Arc::new(Semaphore::new(MAX_WRITES)),
            tasks: servers.clone(),
            started,
            discovery: discovery_address.to_string(),
        });
        let syncing = readiness.pending("reading the store");
        let serving = readiness.pending("discovery");
        servers.spawn("rest", rest::server::serve(api_listener, rest::router(handlers), watch.clone()));
        let parts = Arc::new(Parts { world: world.clone(), registry, tokens, ca, reports, audit, clock, certificate });
        // Proxies connect once the view is whole: a service that is only not read yet must not be answered as missing.
        servers.spawn("discovery", async move {
            world.synced().await;
            drop((syncing, serving));
            discovery(parts, discovery_listener, watch).await;
        });
        Ok(Self {
            api,
            discovery: discovery_address,
            trust_domain,
            data_dir: settings.data_dir,
            grace: settings.drain,
            trigger,
            servers,
            background,
            readiness,
            _lock: lock,
        })
    }

    /// Where REST is served.
    #[must_use]
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// Where proxies connect.
    #[must_use]
    pub fn discovery(&self) -> SocketAddr {
        self.discovery
    }

    /// One JSON line with the addresses, for `--announce json`.
    #[must_use]
    pub fn announcement(&self) -> String {
        serde_json::json!({
            "leno": "ready",
            "api": format!("http://{}", self.api),
            "discovery": self.discovery.to_string(),
            "trustDomain": self.trust_domain.as_str(),
            "adminTokenFile": self.data_dir.join(rest::access::TOKEN_FILE),
        })
        .to_string()
    }

    /// Waits until everything is up. Cancel-safe.
    pub async fn ready(&self) {
        self.readiness.ready().await;
    }

    /// Ends: no new work, open requests and streams finish until the drain's deadline, then everything stops.
    pub async fn shutdown(self) {
        if let DrainOutcome::Forced { remaining } = self.trigger.run(self.grace).await {
            tracing::info!(remaining, "open requests were cut off at the end of the drain");
        }
        // The servers have seen the drain and end by themselves; the deadline is for what does not.
        self.servers.drain(Duration::from_secs(1)).await;
        self.background.cancel();
        self.background.join().await;
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.servers.cancel();
        self.background.cancel();
    }
}

async fn listen(address: SocketAddr, what: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, what, source })
}

fn address(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    let nowhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    listener.local_addr().map_err(|source| StartError::Listen { address: nowhere, what: "its own address", source })
}

/// A first start writes the mesh's record, then the authority, then the first bundle: whatever is there without what came before
/// it is what is left of a loss, and not of a start that was cut short.
async fn check_whole(dir: &Path, store: &dyn Store) -> Result<(), StartError> {
    let has_mesh = store.get(&records::key::<MeshRecord>("", "mesh")).await?.is_some();
    let has_bundle = store.get(&records::key::<BundleRecord>("", "bundle")).await?.is_some();
    let has_authority = dir.join(CA_DIRECTORY).join("state.json").exists();
    let incomplete = |present, missing| Err(StartError::Incomplete { path: dir.to_owned(), present, missing });
    match (has_mesh, has_authority, has_bundle) {
        (false, true, _) => incomplete("a certificate authority", "store"),
        (_, false, true) => incomplete("a store", "certificate authority (ca/state.json)"),
        _ => Ok(()),
    }
}

fn open_authority(dir: &Path, domain: &TrustDomain, now: u64) -> Result<Authority, StartError> {
    Ok(Authority::open_or_create(&dir.join(CA_DIRECTORY), domain, now).map_err(AuthorityError::from)?)
}

/// What the first start fixed, or this one does.
async fn mesh_record(store: &dyn Store, wanted: Option<&TrustDomain>) -> Result<MeshRecord, StartError> {
    let fresh = MeshRecord { trust_domain: wanted.cloned().unwrap_or_default().to_string(), prefix6: random_prefix() };
    let key = records::key::<MeshRecord>("", "mesh");
    let stored = records::update::<MeshRecord>(store, &key, |old| old.is_none().then(|| fresh.clone())).await?;
    let stored = stored.unwrap_or(fresh);
    match wanted {
        Some(wanted) if wanted.as_str() != stored.trust_domain => {
            Err(StartError::OtherTrustDomain { found: stored.trust_domain, wanted: wanted.to_string() })
        }
        _ => Ok(stored),
    }
}

/// `fd` and 40 random bits (RFC 4193 section 3.2).
fn random_prefix() -> Ipv6Addr {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes[1..6]).expect("the kernel's random source does not fail once it is up");
    bytes[0] = 0xfd;
    Ipv6Addr::from(bytes)
}

async fn tend(ca: Arc<Ca>, registry: Arc<Registry>) {
    loop {
        tokio::time::sleep(AUTHORITY_TICK).await;
        if let Err(error) = ca.advance(registry.counts().1).await {
            tracing::error!(%error, "the trust bundle or the root rotation cannot go on; trying again");
        }
    }
}
