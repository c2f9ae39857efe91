//! The control thread: the stream to the control plane, certificates, and the snapshots that workers execute.
//!
//! ```text
//!   prepare(): state directory ─► identity (stored, or by token) ─► last good collections ─► first snapshot
//!   run():     wishes ──► subscribe ──► Update ──► compile ──► publish ──► ack / nack per resource ──► store on disk
//!              half-life ──► renew ──► new TLS context ──► publish
//!              Bundle ──► new TLS context ──► publish ──► BundleApplied
//!              10 min unused ──► unsubscribe, forget
//! ```
//!
//! Nothing here is on the way of a request: with the control plane gone, workers go on with what was published last.

pub mod connect;
mod destinations;
mod driver;
pub mod enrol;
mod mesh;
mod refusal;
mod registration;
mod renewal;
mod replica;
pub mod state_dir;
mod status;
mod trust;

use std::net::SocketAddr;
use std::sync::Arc;

use leno_discovery::session::ClientSettings;
use leno_model::SpiffeId;
use leno_runtime::Clock;
use tokio::sync::{mpsc, oneshot, watch};

use crate::settings::ProxySettings;
use crate::snapshot::{ControlLink, Snapshot};

pub use enrol::JoinError;
pub use status::{CollectionStatus, ControlStatus};

use connect::Targets;
use destinations::Destinations;
use driver::Driver;
use enrol::Joining;
use state_dir::StateDir;
use trust::Trust;

/// Commands under way: each is given once in the life of a process.
const MAX_COMMANDS: usize = 8;

enum Command {
    /// Register from now on, with the hop at this address.
    Serve(SocketAddr),
    /// Deregister; answered when the control plane has acknowledged it, or cannot.
    Drain(oneshot::Sender<()>),
    /// Leave registration and files to the successor.
    Retire,
}

/// How the rest of the process talks to the control thread. Cheap to clone.
#[derive(Clone)]
pub struct ControlHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Arc<ControlStatus>>,
}

impl ControlHandle {
    /// The hop listens here: the workload may be registered.
    pub async fn serve(&self, hop: SocketAddr) {
        // An error means that the control thread is gone; the process is ending then.
        let _ = self.commands.send(Command::Serve(hop)).await;
    }

    /// Removes the registration; returns when that is acknowledged or there is nobody to do so. The caller sets the
    /// deadline; dropping the future leaves the deregistration under way.
    pub async fn drain(&self) {
        let (sender, done) = oneshot::channel();
        if self.commands.send(Command::Drain(sender)).await.is_ok() {
            let _ = done.await;
        }
    }

    /// A successor has taken over: nothing is registered, deregistered or written any more. The stream goes on, so that policy,
    /// revocations and renewals reach what is still under way.
    pub async fn retire(&self) {
        let _ = self.commands.send(Command::Retire).await;
    }

    /// What operators want to know.
    #[must_use]
    pub fn status(&self) -> Arc<ControlStatus> {
        self.status.borrow().clone()
    }

    /// Waits until the status is as wanted. Cancel safe.
    pub async fn wait_for(&self, wanted: impl FnMut(&Arc<ControlStatus>) -> bool) {
        // An error means that the control thread is gone: it will never be as wanted, and whoever waits is ended.
        if self.status.clone().wait_for(wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A member, ready to run.
pub struct Prepared {
    driver: Driver,
    handle: ControlHandle,
}

/// Becomes a member, by the stored identity or by the token, and compiles what was stored. Waits for the control plane only
/// if there is no identity yet. Dropping the future gives up.
pub async fn prepare(settings: Arc<ProxySettings>, clock: Arc<dyn Clock>) -> Result<Prepared, JoinError> {
    let dir = StateDir::open(&settings.state_dir)?;
    let instance = dir.instance(settings.instance.as_deref(), &settings.service)?;
    let unix_ms = u64::try_from(clock.unix_time().as_millis()).unwrap_or(u64::MAX);
    let generation = dir.next_generation(unix_ms)?;
    let targets = Targets::new(settings.join.clone());
    let joining = Joining { settings: &settings, dir: &dir, targets: &targets, clock: &clock, instance: &instance };
    let stored = joining.identity().await?;
    let trust = Trust::new(stored, dir.clone(), clock.clone())?;
    let destinations = Destinations::new(&settings, trust.context(), dir.collections(), &*clock);
    let client = ClientSettings {
        instance,
        software: concat!("leno/", env!("CARGO_PKG_VERSION")).to_owned(),
        capabilities: vec!["query.status".to_owned()],
        zone: settings.zone.clone().unwrap_or_default(),
        ..ClientSettings::default()
    };
    let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
    let parts = driver::Parts { settings, clock, dir, targets, trust, destinations, client, generation };
    let (driver, status) = Driver::new(parts, receiver);
    Ok(Prepared { driver, handle: ControlHandle { commands, status } })
}

impl Prepared {
    /// What workers begin with: our certificate, and the plans that were stored.
    #[must_use]
    pub fn first_snapshot(&self) -> Snapshot {
        self.driver.snapshot()
    }

    /// Who we are.
    #[must_use]
    pub fn identity(&self) -> &SpiffeId {
        self.driver.identity()
    }

    /// For the rest of the process.
    #[must_use]
    pub fn handle(&self) -> ControlHandle {
        self.handle.clone()
    }

    /// Runs until every handle is gone. Dropping the future closes the stream, which the control plane counts as lost.
    pub async fn run(self, link: ControlLink) {
        drop(self.handle);
        self.driver.run(link).await;
    }
}
