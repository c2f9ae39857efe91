//! A real control plane in this process, and members whose control threads run beside it.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use leno_api::TokenRequest;
use leno_api::client::Client;
use leno_control::records::{self, Grant};
use leno_control::{ControlPlane, Parts, Settings, discovery};
use leno_model::{AppProtocol, NamespacedName};
use leno_proxy::ProxySettings;
use leno_proxy::control::{self, ControlHandle, JoinError, Prepared};
use leno_proxy::settings::{Secret, ServedPort};
use leno_proxy::snapshot::{Wish, WorkerLink, link};
use leno_runtime::{AbortOnDrop, SystemClock};
use leno_store::{Expect, Key, RedbSettings, RedbStore, Store};
use tempfile::TempDir;

/// Where members say that their hop is; nobody calls it.
pub const HOP: &str = "127.0.0.1:40999";
/// Longest wait for a state; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test on one thread, as a proxy's control thread does.
pub fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async { tokio::time::timeout(PATIENCE * 2, test).await.expect("the test hangs") };
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// Waits for a state.
pub async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

/// In the default namespace.
pub fn service(name: &str) -> NamespacedName {
    NamespacedName::new("default", name).unwrap()
}

/// A control plane on ports of its own.
pub struct Plane {
    plane: Option<ControlPlane>,
    settings: Settings,
    /// Its API, as the administrator.
    pub api: Client,
    parts: Weak<Parts>,
    place: TempDir,
}

async fn started(settings: &Settings) -> (ControlPlane, Weak<Parts>) {
    let slot = Arc::new(OnceLock::new());
    let filled = slot.clone();
    let plane = ControlPlane::start_with(settings.clone(), move |parts, listener, watch| {
        filled.set(Arc::downgrade(&parts)).expect("discovery is served once");
        discovery::serve(parts, listener, watch)
    });
    let plane = plane.await.unwrap();
    plane.ready().await;
    until("discovery", || slot.get().is_some()).await;
    (plane, slot.get().unwrap().clone())
}

impl Plane {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(place.path().to_owned());
        settings.api = "127.0.0.1:0".parse().unwrap();
        settings.discovery = "127.0.0.1:0".parse().unwrap();
        settings.drain = Duration::from_millis(500);
        change(&mut settings);
        let (plane, parts) = started(&settings).await;
        // A restart comes back to the same ports.
        (settings.api, settings.discovery) = (plane.api(), plane.discovery());
        let api = client(&settings, place.path());
        Self { plane: Some(plane), settings, api, parts, place }
    }

    pub fn plane(&self) -> &ControlPlane {
        self.plane.as_ref().expect("it runs")
    }

    pub async fn stop(&mut self) {
        self.plane.take().expect("it runs").shutdown().await;
    }

    pub async fn restart(&mut self) {
        let (plane, parts) = started(&self.settings).await;
        (self.plane, self.parts) = (Some(plane), parts);
        self.api = client(&self.settings, self.place.path());
    }

    /// Puts a resource past the API into the store of a control plane that is stopped, as an earlier version may have left it there.
    pub async fn put(&self, kind: &str, name: &str, json: String) {
        let store = RedbStore::open(self.place.path(), &RedbSettings::default()).unwrap();
        store.put(&Key::new(kind, "default", name), json.into(), Expect::Any).await.unwrap();
    }

    /// Takes away what an identity may do and leaves its certificate, so that renewals are refused.
    pub async fn take_grant(&self, account: &str) -> Grant {
        let store = self.store();
        let key = records::key::<Grant>("default", account);
        let (grant, _) = records::load::<Grant>(&*store, &key).await.unwrap().expect("it has one");
        records::remove(&*store, &key, Expect::Any).await.unwrap();
        grant
    }

    pub async fn give_grant(&self, account: &str, grant: &Grant) {
        let key = records::key::<Grant>("default", account);
        records::save(&*self.store(), &key, grant, Expect::Absent).await.unwrap();
    }

    fn store(&self) -> Arc<dyn Store> {
        self.parts.upgrade().expect("it runs").tokens.store.clone()
    }

    pub async fn token(&self, services: &[&str]) -> Secret {
        let services = services.iter().map(|s| (*s).to_owned()).collect();
        let request = TokenRequest { services, namespace: None, service_account: None, ttl_seconds: None };
        Secret::new(self.api.create_token(&request).await.unwrap().token)
    }

    pub async fn apply(&self, yaml: &str) {
        let response = self.api.apply(yaml, None, false).await.unwrap();
        assert!(response.results.iter().all(|r| r.error.is_none()), "{:?}", response.results);
    }

    /// A member of a service, with a new token.
    pub async fn join(&self, name: &str, app: Option<u16>) -> Member {
        let token = self.token(&[name]).await;
        self.join_with(name, app, token).await
    }

    pub async fn join_with(&self, name: &str, app: Option<u16>, token: Secret) -> Member {
        let place = tempfile::tempdir().unwrap();
        let mut settings = settings(self, place.path(), name, app);
        settings.token = Some(token);
        run(settings, place).await
    }
}

fn client(settings: &Settings, data: &Path) -> Client {
    let token = std::fs::read_to_string(data.join("admin.token")).unwrap();
    Client::new(&format!("http://{}", settings.api), Some(token.trim())).unwrap()
}

/// Settings of a member; `app` is where its application would listen, serving port 80.
pub fn settings(plane: &Plane, state: &Path, name: &str, app: Option<u16>) -> ProxySettings {
    let mut settings = ProxySettings::new(service(name), state.to_owned());
    settings.join = vec![plane.settings.discovery.to_string()];
    settings.ports = app
        .map(|app| ServedPort {
            port: 80,
            protocol: AppProtocol::Http,
            app: Some(SocketAddr::from(([127, 0, 0, 1], app))),
        })
        .into_iter()
        .collect();
    settings
}

/// A member whose control thread runs until this is dropped.
pub struct Member {
    pub handle: ControlHandle,
    pub link: WorkerLink,
    pub place: TempDir,
    _running: AbortOnDrop,
}

impl Member {
    pub async fn wish(&self, name: &str) {
        self.link.wishes.send(Wish::Destination(service(name))).await.unwrap();
    }
}

pub async fn prepare(settings: ProxySettings) -> Result<Prepared, JoinError> {
    control::prepare(Arc::new(settings), SystemClock::shared()).await
}

pub async fn prepare_error(settings: ProxySettings) -> JoinError {
    let prepared = tokio::time::timeout(PATIENCE, prepare(settings)).await.expect("it tries on");
    prepared.err().expect("it became a member")
}

pub async fn run(settings: ProxySettings, place: TempDir) -> Member {
    let prepared = tokio::time::timeout(PATIENCE, prepare(settings)).await.expect("it joins").unwrap();
    let handle = prepared.handle();
    let (control, worker) = link(prepared.first_snapshot());
    let running = tokio::task::spawn_local(prepared.run(control)).abort_handle().into();
    Member { handle, link: worker, place, _running: running }
}
