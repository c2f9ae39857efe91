//! The thread of a worker: its runtime, its acceptor, its turns and its drain.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use leno_http::ServerSettings;
use leno_model::Reason;
use leno_plan::Part;
use leno_runtime::{Scope, SeededRandom};
use leno_telemetry::metrics::{Direction, Listener};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::LocalSet;

use super::{SideState, Worker};
use crate::exchange::Subject;
use crate::hops::Hops;
use crate::live::{Class, LiveTable};
use crate::outbound::Entry;
use crate::plain::PlainPool;
use crate::plane::{Command, Load, Port, Seed, Side};
use crate::recording::Recording;
use crate::settings::DrainDeadlines;
use crate::snapshot::Snapshot;
use crate::{inbound, outbound};

/// The beat of what needs no precise time: idle exchanges.
const TICK: Duration = Duration::from_secs(1);
/// Pause after a failed accept, which is nearly always for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// In a drain, local callers' idle connections are kept so long for a request that may be on its way: callers that reuse their
/// connections send one within seconds, and learn from its answer that they must make a new one.
const DRAIN_IDLE: Duration = Duration::from_secs(5);
/// For the last bytes of what was cut to leave, before the sockets are closed under them.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs a worker until its commands end.
pub fn run(seed: Seed, commands: mpsc::Receiver<Command>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a worker cannot start"),
    };
    let local = LocalSet::new();
    runtime.block_on(local.run_until(turns(seed, commands)));
}

async fn turns(seed: Seed, mut commands: mpsc::Receiver<Command>) {
    let Seed { index, settings, process, mut link, telemetry, clock, loads, workers, ports } = seed;
    let first = link.snapshots.borrow_and_update().clone();
    let events = Recording::events(&telemetry);
    let part = Part { worker: index, workers: workers.len(), seed: process.seed };
    let guard = crate::app_owner::guard(&settings);
    let worker = Rc::new(Worker {
        settings,
        process,
        live: Rc::new(LiveTable::default()),
        server_settings: Rc::new(ServerSettings {
            drain_idle: DRAIN_IDLE,
            events: Some(events),
            ..ServerSettings::default()
        }),
        hops: Hops::new(),
        plain: PlainPool::new(guard),
        scope: Scope::new("worker"),
        inbound: SideState::new("inbound accept", "inbound"),
        outbound: SideState::new("outbound accept", "outbound"),
        snapshot: RefCell::new(first),
        changed: Notify::new(),
        wishes: link.wishes.clone(),
        app_loopbacks: RefCell::default(),
        ports: RefCell::default(),
        last_port: RefCell::new(None),
        last_plan: RefCell::new(None),
        last_served: RefCell::new(None),
        last_service: RefCell::new(None),
        part,
        random: RefCell::new(SeededRandom::from_system()),
        clock,
        telemetry: Recording::new(&telemetry),
    });
    for (listener, port) in ports {
        accept(&worker, index, listener, port, &loads, &workers);
    }
    // The acceptor's ends must not keep the channel open: it ends with the data plane.
    drop(workers);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        // Every branch is cancel-safe.
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Serve(io, port, load)) => serve(&worker, io, port, load),
                Some(Command::Drain { side, deadlines, done }) => {
                    let draining = Rc::clone(&worker);
                    worker.scope.spawn_local("drain", async move {
                        drain(&draining, side, deadlines).await;
                        let _ = done.send(());
                    });
                }
                Some(Command::View(answer)) => {
                    let _ = answer.send(worker.view());
                }
                None => return,
            },
            next = changed(&mut link.snapshots) => worker.swap(next),
            _ = tick.tick() => worker.live.tick(),
        }
    }
}

/// The next snapshot. Never comes once the control thread is gone: the data plane outlives it with what it has (D11).
async fn changed(snapshots: &mut watch::Receiver<Arc<Snapshot>>) -> Arc<Snapshot> {
    match snapshots.changed().await {
        Ok(()) => snapshots.borrow_and_update().clone(),
        Err(_) => std::future::pending().await,
    }
}

/// Accepts on one port and hands each socket to the least loaded worker.
fn accept(
    worker: &Rc<Worker>,
    index: usize,
    listener: std::net::TcpListener,
    port: Port,
    loads: &Arc<Vec<AtomicUsize>>,
    workers: &[mpsc::Sender<Command>],
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a port cannot be served"),
    };
    // Weak ends: the acceptor must not keep the workers alive.
    let workers: Vec<_> = workers.iter().map(mpsc::Sender::downgrade).collect();
    let (me, loads) = (Rc::clone(worker), Arc::clone(loads));
    worker.side(side_of(&port)).accepting.spawn_local("accept", async move {
        loop {
            let io = match listener.accept().await {
                Ok((io, _)) => io,
                Err(error) => {
                    tracing::debug!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let load = Load::add(&loads);
            if load.worker() == index {
                begin(&me, io, port.clone(), load);
            } else if let (Ok(io), Some(other)) = (io.into_std(), workers[load.worker()].upgrade())
                && other.try_send(Command::Serve(io, port.clone(), load)).is_err()
            {
                me.telemetry().refused(direction_of(side_of(&port)), Reason::Overloaded);
            }
        }
    });
}

fn side_of(port: &Port) -> Side {
    match port {
        Port::Hop => Side::Inbound,
        Port::Local(_) => Side::Outbound,
    }
}

fn direction_of(side: Side) -> Direction {
    match side {
        Side::Inbound => Direction::Inbound,
        Side::Outbound => Direction::Outbound,
    }
}

fn serve(worker: &Rc<Worker>, io: std::net::TcpStream, port: Port, load: Load) {
    // A socket that cannot be registered is closed by being dropped.
    if let Ok(io) = TcpStream::from_std(io) {
        begin(worker, io, port, load);
    }
}

fn begin(worker: &Rc<Worker>, io: TcpStream, port: Port, load: Load) {
    let side = side_of(&port);
    let Some(permit) = worker.process.admit(side) else {
        // Closed at once: a refusal in words would need the descriptor that is wanting.
        return worker.telemetry().refused(direction_of(side), Reason::Overloaded);
    };
    // Dead peers of idle streams are found by the kernel: TCP streams have no idle timeout of ours.
    let _ = leno_sys::set_keepalive(&io, leno_sys::Keepalive::DEFAULT);
    let listener = match &port {
        Port::Hop => Listener::Hop,
        Port::Local(Entry::Forward) => Listener::ForwardProxy,
        Port::Local(Entry::Upstream { .. }) => Listener::Outbound,
    };
    let accepted = worker.telemetry().accepted(listener);
    let me = Rc::clone(worker);
    worker.side(side).connections.spawn_local("connection", async move {
        match port {
            // In a box of its own: a hop's TLS session is kilobytes, hops are few, and callers' connections are many.
            Port::Hop => Box::pin(inbound::connection::serve(me, io)).await,
            Port::Local(entry) => outbound::connection::serve(me, io, entry).await,
        }
        drop((load, permit, accepted));
    });
}

/// Takes no new work on one side, and waits for what is under way as long as its class permits.
async fn drain(worker: &Rc<Worker>, side: Side, deadlines: DrainDeadlines) {
    let state = worker.side(side);
    let of_side = |subject: &Subject| subject.inbound.get().is_some() == (side == Side::Inbound);
    state.accepting.cancel();
    state.drain.drain();
    if tokio::time::timeout(deadlines.requests, state.connections.join()).await.is_ok() {
        return;
    }
    let cut = worker.live.end_all(Class::Request, Reason::Draining, of_side);
    tracing::info!(?side, requests = cut, "requests cut at the drain deadline");
    let left = deadlines.streams.saturating_sub(deadlines.requests);
    if worker.live.count(Class::Stream, of_side) > 0 {
        let ended = async {
            let mut look = tokio::time::interval(TICK);
            while worker.live.count(Class::Stream, of_side) > 0 {
                look.tick().await;
            }
        };
        if tokio::time::timeout(left, ended).await.is_err() {
            let cut = worker.live.end_all(Class::Stream, Reason::Draining, of_side);
            tracing::info!(?side, streams = cut, "streams cut at the drain deadline");
        }
    }
    state.connections.drain(LAST_WORDS).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn a_control_thread_that_is_gone_wakes_nobody() {
        let (sender, mut receiver) = watch::channel(Arc::<Snapshot>::default());
        let mut cx = Context::from_waker(Waker::noop());
        sender.send_replace(Arc::new(Snapshot { version: 7, ..Snapshot::default() }));
        let Poll::Ready(next) = std::pin::pin!(changed(&mut receiver)).poll(&mut cx) else {
            panic!("a snapshot is there")
        };
        assert_eq!(next.version, 7);
        drop(sender);
        assert!(std::pin::pin!(changed(&mut receiver)).poll(&mut cx).is_pending());
    }
}
