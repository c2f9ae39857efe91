//! The life of a proxy process: what starts after what, when it is ready, and how it ends.
//!
//! ```text
//!   ports opened ─▶ identity (stored or by token) ─▶ workers ─▶ admin, control stream ─▶ registered ─▶ ready, announced
//!
//!   SIGTERM  deregister (≤ 5 s) ─▶ inbound drained ─▶ outbound drained ─▶ end      a second signal: cut
//!   SIGUSR1  no deregistration: a successor has the ports ─▶ both sides drained ─▶ end
//! ```

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use leno_runtime::{AbortOnDrop, Signal, Signals, SystemClock};
use leno_telemetry::metrics::Metrics;
use leno_telemetry::{LogTarget, LogWriter};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use crate::admin::{self, AdminPages};
use crate::control::state_dir::{StateDir, StateError, StateLock};
use crate::control::{self, ControlHandle, ControlStatus, JoinError};
use crate::plane::{Command, DataPlane, Listeners, Side};
use crate::process::Process;
use crate::settings::{AccessLogTarget, Announce, ProxySettings};
use crate::snapshot::{WorkerLink, link};
use crate::{Telemetry, dump, exposure};

/// How often it is looked whether the application is reachable past the mesh.
const EXPOSURE_LOOK: Duration = Duration::from_secs(5);
/// After this many looks (10 s) a program that does not listen has probably got another port than was said.
const SLOW_START_LOOKS: u64 = 3;
/// How long a worker may take to tell its view for the plan dump; a saturated one is left out.
const VIEW_TIMEOUT: Duration = Duration::from_millis(500);
/// For the last lines of the access log.
const LOG_FLUSH: Duration = Duration::from_secs(2);

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What it was told cannot be.
    #[error("{}", .0.join("; "))]
    Settings(Vec<String>),
    /// A port, file or thread could not be had.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It could not become a member.
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// Runs a proxy until a signal ends it. Takes over the process: signals, standard output, this thread as the control thread.
pub fn run(settings: ProxySettings) -> Result<(), StartError> {
    let mistakes = settings.mistakes();
    if !mistakes.is_empty() {
        return Err(StartError::Settings(mistakes));
    }
    let settings = Arc::new(settings);
    if let Err(error) = leno_sys::raise_open_file_limit() {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
    // Ports first: an address in use is said before a token is spent.
    let listeners = Listeners::open(&settings)?;
    // Successors under one supervisor share the directory for a moment; it keeps others out for them.
    let _lock = match settings.supervised {
        true => None,
        false => Some(lock(&settings).map_err(JoinError::from)?),
    };
    let metrics = Arc::new(Metrics::default());
    let log = LogWriter::start(&log_target(&settings.access_log), metrics.log_drops())
        .map_err(|e| io::Error::new(e.kind(), format!("--access-log {}: {e}", settings.access_log)))?;
    let telemetry = Arc::new(Telemetry { metrics, log: log.sender() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = LocalSet::new().block_on(&runtime, live(settings, listeners, telemetry));
    log.flush(LOG_FLUSH);
    outcome
}

fn lock(settings: &ProxySettings) -> Result<StateLock, StateError> {
    StateDir::open(&settings.state_dir)?.lock()
}

fn log_target(target: &AccessLogTarget) -> LogTarget {
    match target {
        AccessLogTarget::Off => LogTarget::Off,
        AccessLogTarget::Stdout => LogTarget::Stdout,
        AccessLogTarget::Stderr => LogTarget::Stderr,
        AccessLogTarget::File(path) => LogTarget::File(path.clone()),
    }
}

/// The order of things.
async fn live(settings: Arc<ProxySettings>, listeners: Listeners, telemetry: Arc<Telemetry>) -> Result<(), StartError> {
    let mut signals = Signals::new()?;
    let admin_listener = TcpListener::from_std(listeners.admin()?)?;
    let clock = SystemClock::new();
    let preparing = control::prepare(Arc::clone(&settings), Arc::new(clock));
    let prepared = tokio::select! {
        prepared = preparing => prepared?,
        // Nothing is under way yet.
        () = asked_to_end(&mut signals) => return Ok(()),
    };
    let handle = prepared.handle();
    let (control_link, worker_link) = link(prepared.first_snapshot());
    let plane = DataPlane::start(&settings, listeners, &worker_link, &telemetry, clock)?;
    tokio::task::spawn_local(prepared.run(control_link));
    let pages = pages(&settings, &plane, &handle, &worker_link, &telemetry);
    let (tell_ready, told_ready) = oneshot::channel::<()>();
    let replaces = settings.replaces;
    let admin: AbortOnDrop = tokio::task::spawn_local(async move {
        if replaces {
            // Questions come to the socket of the proxy that is replaced, which answers them until this one is ready.
            let _ = told_ready.await;
        }
        admin::serve(admin_listener, pages).await
    })
    .abort_handle()
    .into();
    tokio::task::spawn_local(tell_metrics(handle.clone(), Arc::clone(&telemetry)));
    if !settings.allow_exposed && !settings.ports.is_empty() {
        tokio::task::spawn_local(watch_exposure(Arc::clone(&settings), Arc::clone(plane.process())));
    }
    handle.serve(plane.addresses().hop).await;
    let ready = async {
        ready(&settings, plane.process(), &handle, &worker_link).await;
        plane.process().set_started();
        let _ = tell_ready.send(());
        announce_ready(&settings, &plane)?;
        std::future::pending::<io::Result<Signal>>().await
    };
    let signal = tokio::select! {
        failed = ready => failed?,
        signal = ending(&mut signals) => signal,
    };
    // A successor answers on the same socket: only one of the two may be asked.
    let admin = (signal != Signal::Retire).then_some(admin);
    tokio::select! {
        () = wind_up(&settings, &plane, &handle, signal) => {}
        // Asked twice: whoever asks does not want to wait.
        () = asked_to_end(&mut signals), if !settings.supervised => {
            tracing::warn!("asked again to end: what is under way is cut");
        }
    }
    drop((telemetry, admin));
    plane.stop();
    Ok(())
}

/// The next signal that ends the process.
async fn ending(signals: &mut Signals) -> Signal {
    loop {
        match signals.next().await {
            // The supervisor's: a proxy is replaced, not reloaded; its configuration comes by the control stream.
            Signal::Hangup => {}
            signal => return signal,
        }
    }
}

async fn asked_to_end(signals: &mut Signals) {
    while !matches!(signals.next().await, Signal::Terminate | Signal::Interrupt) {}
}

/// Ends without losing work.
async fn wind_up(settings: &ProxySettings, plane: &DataPlane, handle: &ControlHandle, signal: Signal) {
    plane.process().set_draining();
    let mut deadlines = settings.drain;
    if signal == Signal::Retire {
        tracing::info!("retiring: a successor serves from now on");
        handle.retire().await;
        tokio::join!(plane.drain(Side::Inbound, deadlines), plane.drain(Side::Outbound, deadlines));
        return;
    }
    tracing::info!("draining");
    // Nobody takes over: whoever stops a workload does not wait an hour for an idle database connection.
    deadlines.streams = deadlines.streams.min(deadlines.requests);
    // Peers must have stopped choosing this instance before it stops accepting.
    if tokio::time::timeout(deadlines.deregister, handle.drain()).await.is_err() {
        tracing::warn!("the control plane did not acknowledge the deregistration in time");
    }
    plane.drain(Side::Inbound, deadlines).await;
    if settings.supervised {
        // An error means that nobody reads the announcement: then nobody waits for it either.
        let _ = announce(settings, &serde_json::json!({"leno": "inbound_drained"}));
        input_closed().await;
    }
    // The application may call others until its own callers have been answered.
    plane.drain(Side::Outbound, deadlines).await;
}

/// Until standard input is closed. The reading thread is left behind if the process ends first.
async fn input_closed() {
    let (closed, wait) = tokio::sync::oneshot::channel::<()>();
    let reading = std::thread::Builder::new().name("leno-stdin".to_owned()).spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        drop(closed);
    });
    if reading.is_ok() {
        let _ = wait.await;
    }
}

/// What is missing before the proxy is ready; empty when it is.
fn missing(settings: &ProxySettings, process: &Process, handle: &ControlHandle, link: &WorkerLink) -> Vec<String> {
    let mut missing = Vec::new();
    let status = handle.status();
    if process.is_draining() {
        missing.push("nothing: it is draining".to_owned());
    }
    if !settings.ports.is_empty() {
        if !link.snapshots.borrow().inbound.contains_key(&settings.service) {
            missing.push("the plan of its own service".to_owned());
        }
        // With the control plane away, what was stored is served (D11): then there is nothing to wait for. And whoever serves goes on
        // doing so while it registers again on a new stream.
        if status.connected && !status.registered && !process.is_started() {
            missing.push("its registration".to_owned());
        }
    }
    // Ready means that the control plane may be gone from now on, over a restart too (D11).
    if !status.prepared {
        missing.push(match status.connected {
            true => "what it needs, answered by the control plane and kept on disk".to_owned(),
            false => "the control plane".to_owned(),
        });
    }
    if process.is_exposed() && !settings.allow_exposed {
        missing.push("an application that listens on loopback only".to_owned());
    }
    missing
}

/// Waits until nothing is missing; looks again whenever the control thread has news.
async fn ready(settings: &ProxySettings, process: &Process, handle: &ControlHandle, link: &WorkerLink) {
    let mut snapshots = link.snapshots.clone();
    loop {
        let status = handle.status();
        snapshots.mark_unchanged();
        if missing(settings, process, handle, link).is_empty() {
            return;
        }
        // All three are cancel-safe.
        tokio::select! {
            () = handle.wait_for(|next| !Arc::ptr_eq(next, &status)) => {}
            _ = snapshots.changed() => {}
            () = tokio::time::sleep(EXPOSURE_LOOK) => {}
        }
    }
}

fn announce_ready(settings: &ProxySettings, plane: &DataPlane) -> io::Result<()> {
    let addresses = plane.addresses();
    tracing::info!(hop = %addresses.hop, admin = %addresses.admin, "ready");
    let mut event = serde_json::to_value(addresses).map_err(io::Error::other)?;
    event["leno"] = "ready".into();
    announce(settings, &event)
}

/// One line on standard output for whoever started the proxy; the field `leno` names the event.
fn announce(settings: &ProxySettings, event: &serde_json::Value) -> io::Result<()> {
    if settings.announce != Announce::Json {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{event}")?;
    out.flush()
}

fn pages(
    settings: &Arc<ProxySettings>,
    plane: &DataPlane,
    handle: &ControlHandle,
    link: &WorkerLink,
    telemetry: &Arc<Telemetry>,
) -> AdminPages {
    let metrics = Arc::clone(&telemetry.metrics);
    let told = Arc::clone(settings);
    let readiness = {
        let (settings, process) = (Arc::clone(settings), Arc::clone(plane.process()));
        let (handle, link) = (handle.clone(), link.clone());
        move || missing(&settings, &process, &handle, &link)
    };
    let (snapshots, status, workers) = (link.snapshots.clone(), handle.clone(), plane.weak_workers());
    AdminPages {
        missing: Box::new(readiness),
        metrics: Box::new(move || metrics.exposition()),
        config: Box::new(move || serde_json::to_value(&*told).unwrap_or_default()),
        plan: Box::new(move || {
            let (snapshot, status, workers) = (snapshots.borrow().clone(), status.status(), workers.clone());
            Box::pin(async move {
                let mut views = Vec::new();
                for worker in workers.iter().filter_map(tokio::sync::mpsc::WeakSender::upgrade) {
                    let (answer, view) = tokio::sync::oneshot::channel();
                    let asked = worker.try_send(Command::View(answer)).is_ok();
                    let view = tokio::time::timeout(VIEW_TIMEOUT, view).await;
                    views.push(match view {
                        Ok(Ok(view)) if asked => view,
                        _ => serde_json::json!("busy"),
                    });
                }
                serde_json::json!({
                    "control": &*status,
                    "snapshot": dump::snapshot(&snapshot),
                    "workers": views,
                })
            })
        }),
    }
}

/// The control thread's state as metrics.
async fn tell_metrics(handle: ControlHandle, telemetry: Arc<Telemetry>) {
    let (mut connected, mut serial) = (false, String::new());
    let mut told: Arc<ControlStatus> = Arc::default();
    loop {
        let status = handle.status();
        if status.connected != connected {
            connected = status.connected;
            telemetry.metrics.control_plane(connected);
        }
        if status.serial != serial
            && let Ok(identity) = status.identity.parse()
        {
            serial.clone_from(&status.serial);
            telemetry.metrics.certificate(&identity, i64::try_from(status.not_after).unwrap_or(i64::MAX));
        }
        tell_collections(&telemetry.metrics, &told, &status);
        told = Arc::clone(&status);
        handle.wait_for(|next| !Arc::ptr_eq(next, &status)).await;
    }
}

/// What has changed of the collections since `told`.
fn tell_collections(metrics: &Metrics, told: &ControlStatus, status: &ControlStatus) {
    for (name, collection) in &status.collections {
        metrics.config_version(name, Some(collection.version));
        let before = told.collections.get(name).map_or(0, |c| c.rejections);
        (before..collection.rejections).for_each(|_| metrics.config_rejected(name));
    }
    for name in told.collections.keys().filter(|name| !status.collections.contains_key(*name)) {
        metrics.config_version(name, None);
    }
}

/// Looks whether the application can be called past the mesh, from the start and then now and again.
async fn watch_exposure(settings: Arc<ProxySettings>, process: Arc<Process>) {
    let mut look = tokio::time::interval(EXPOSURE_LOOK);
    let mut looks = 0u64;
    loop {
        look.tick().await;
        let ports = settings.ports.iter().map(|served| served.app_address().port());
        let found: io::Result<Vec<_>> = ports.map(exposure::exposed_listeners).collect();
        let is_exposed = match found.map(|all| all.concat()) {
            Ok(found) if found.is_empty() => false,
            Ok(found) => {
                if !process.is_exposed() {
                    tracing::error!(listeners = ?found, "the application listens off loopback, where callers bypass the mesh: it is not served");
                }
                true
            }
            Err(error) => {
                if !process.is_exposed() {
                    tracing::error!(%error, "cannot tell where the application listens: it is not served");
                }
                true
            }
        };
        process.set_exposed(is_exposed);
        // Not at the first look: a program may take its time to start.
        looks += 1;
        for served in settings.ports.iter().filter(|_| looks == SLOW_START_LOOKS) {
            let app = served.app_address();
            if leno_sys::listeners(app.port()).is_ok_and(|all| all.is_empty()) {
                tracing::warn!(%app, "nobody listens on the application's port: callers get connect_refused");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::CollectionStatus;

    #[test]
    fn refusals_are_counted_and_what_is_let_go_is_forgotten() {
        let metrics = Metrics::default();
        let status = |rejections| {
            let collection = CollectionStatus { rejections, version: 5, ..CollectionStatus::default() };
            ControlStatus { collections: [("out:shop/web".to_owned(), collection)].into(), ..ControlStatus::default() }
        };
        tell_collections(&metrics, &ControlStatus::default(), &status(1));
        tell_collections(&metrics, &status(1), &status(3));
        let page = metrics.exposition();
        assert!(page.contains("leno_config_rejected_total{collection=\"out:shop/web\"} 3"), "{page}");
        tell_collections(&metrics, &status(3), &ControlStatus::default());
        assert!(!metrics.exposition().contains("out:shop/web"));
    }
}
