//! The data plane: worker threads, the ports they serve, and their drain.
//!
//! ```text
//!   listeners (worker 0 accepts) ──▶ least loaded worker ──▶ inbound or outbound connection
//!
//!   running ──▶ drain inbound: no accept, GOAWAY ─▶ requests end ─▶ 30 s: cut ─▶ streams end ─▶ 1 h: cut
//!                                                              └─▶ drain outbound: the same ─▶ stopped
//! ```

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use leno_runtime::SystemClock;
use tokio::sync::{mpsc, oneshot};

use crate::outbound::Entry;
use crate::process::Process;
use crate::recording::Telemetry;
use crate::settings::{Addresses, DrainDeadlines, ListenAt, ProxySettings};
use crate::snapshot::WorkerLink;
use crate::worker::run;

/// Sockets and orders under way to one worker. A worker that is a thousand sockets behind is refused more.
pub const MAX_COMMANDS: usize = 1024;

/// What a worker is told.
pub enum Command {
    /// Serve this connection.
    Serve(std::net::TcpStream, Port, Load),
    /// Take no new work on one side; answer when what was under way has ended or was cut.
    Drain {
        /// Which side.
        side: Side,
        /// When to cut.
        deadlines: DrainDeadlines,
        /// Answered at the end.
        done: oneshot::Sender<()>,
    },
    /// What this worker sees of its destinations, for the plan dump.
    View(oneshot::Sender<serde_json::Value>),
}

/// A side of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// From other proxies to the application.
    Inbound,
    /// From the application to other proxies.
    Outbound,
}

/// Which port a connection came in by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// The hop port.
    Hop,
    /// A local port.
    Local(Entry),
}

/// The ports, opened before anything is announced.
pub struct Listeners {
    ports: Vec<(TcpListener, Port)>,
    admin: TcpListener,
    addresses: Addresses,
}

impl Listeners {
    /// Binds every port that the settings name, or takes over inherited descriptors.
    pub fn open(settings: &ProxySettings) -> io::Result<Self> {
        let mut ports = Vec::new();
        let (hop, hop_address) = open(&settings.hop)?;
        ports.push((hop, Port::Hop));
        let (admin, admin_address) = open(&settings.admin)?;
        let mut forward_address = None;
        if let Some(at) = &settings.forward {
            let (listener, address) = open(at)?;
            ports.push((listener, Port::Local(Entry::Forward)));
            forward_address = Some(address);
        }
        let mut upstreams = Vec::new();
        for upstream in &settings.upstreams {
            let (listener, address) = open(&upstream.listen)?;
            let entry = Entry::Upstream { service: upstream.service.clone(), port: upstream.port };
            ports.push((listener, Port::Local(entry)));
            let port = upstream.port.map_or_else(String::new, |p| format!(":{p}"));
            upstreams.push((format!("{}{port}", upstream.service), address));
        }
        let addresses = Addresses { hop: hop_address, admin: admin_address, forward: forward_address, upstreams };
        Ok(Self { ports, admin, addresses })
    }

    /// What was opened.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The admin port, which the control thread serves.
    pub fn admin(&self) -> io::Result<TcpListener> {
        self.admin.try_clone()
    }
}

/// Names the address in the error: "address in use" alone helps nobody.
fn open(at: &ListenAt) -> io::Result<(TcpListener, SocketAddr)> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("listen on {}: {error}", at.address));
    let listener = match at.inherited {
        Some(fd) => leno_sys::take_listener(fd).map_err(named)?,
        None => TcpListener::bind(at.address).map_err(named)?,
    };
    leno_net::listen::deepen(&listener).map_err(named)?;
    listener.set_nonblocking(true).map_err(named)?;
    let address = listener.local_addr().map_err(named)?;
    Ok((listener, address))
}

/// What a worker thread starts with.
pub struct Seed {
    /// Its number; worker 0 accepts.
    pub index: usize,
    /// What the proxy was told.
    pub settings: Arc<ProxySettings>,
    /// What is true of the process.
    pub process: Arc<Process>,
    /// Snapshots and wishes.
    pub link: WorkerLink,
    /// Where exchanges are recorded.
    pub telemetry: Arc<Telemetry>,
    /// The process's one monotonic clock: control thread and workers compare its seconds.
    pub clock: SystemClock,
    /// Open connections of each worker.
    pub loads: Arc<Vec<AtomicUsize>>,
    /// Ways to all workers, for the acceptor.
    pub workers: Vec<mpsc::Sender<Command>>,
    /// The ports, for worker 0.
    pub ports: Vec<(TcpListener, Port)>,
}

/// The running data plane.
pub struct DataPlane {
    workers: Vec<mpsc::Sender<Command>>,
    threads: Vec<JoinHandle<()>>,
    process: Arc<Process>,
    addresses: Addresses,
}

impl DataPlane {
    /// Starts the workers; they serve as soon as they have a snapshot with what is asked of them.
    pub fn start(
        settings: &Arc<ProxySettings>,
        listeners: Listeners,
        link: &WorkerLink,
        telemetry: &Arc<Telemetry>,
        clock: SystemClock,
    ) -> io::Result<Self> {
        let Listeners { ports, admin: _, addresses } = listeners;
        let own = own_addresses(&addresses);
        let cap = crate::process::connection_cap(settings.max_connections, leno_sys::open_file_limit());
        let process = Process::new(cap, own);
        let count = settings.workers.max(1);
        let (workers, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(MAX_COMMANDS)).unzip();
        let loads = Arc::new((0..count).map(|_| AtomicUsize::new(0)).collect::<Vec<_>>());
        let mut threads = Vec::new();
        let mut ports = Some(ports);
        for (index, commands) in receivers.into_iter().enumerate() {
            let seed = Seed {
                index,
                settings: Arc::clone(settings),
                process: Arc::clone(&process),
                link: link.clone(),
                telemetry: Arc::clone(telemetry),
                clock,
                loads: Arc::clone(&loads),
                workers: workers.clone(),
                ports: ports.take().unwrap_or_default(),
            };
            let thread = std::thread::Builder::new().name(format!("leno-worker-{index}"));
            threads.push(thread.spawn(move || run(seed, commands))?);
        }
        Ok(Self { workers, threads, process, addresses })
    }

    /// What was opened.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What is true of the process.
    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Ways to ask the workers, for the admin port; they do not keep the workers alive.
    #[must_use]
    pub fn weak_workers(&self) -> Vec<mpsc::WeakSender<Command>> {
        self.workers.iter().map(mpsc::Sender::downgrade).collect()
    }

    /// Takes no new work on one side and waits until what is under way has ended or was cut at its deadline.
    pub async fn drain(&self, side: Side, deadlines: DrainDeadlines) {
        let mut pending = Vec::new();
        for worker in &self.workers {
            let (done, ended) = oneshot::channel();
            // A worker that is gone has nothing under way.
            if worker.send(Command::Drain { side, deadlines, done }).await.is_ok() {
                pending.push(ended);
            }
        }
        for ended in pending {
            let _ = ended.await;
        }
    }

    /// Stops the workers; what is still under way is cut off.
    pub fn stop(self) {
        drop(self.workers);
        for thread in self.threads {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

fn own_addresses(addresses: &Addresses) -> Vec<SocketAddr> {
    let mut own = vec![addresses.hop, addresses.admin];
    own.extend(addresses.forward);
    own.extend(addresses.upstreams.iter().map(|(_, address)| *address));
    own
}

/// A connection that counts on one worker, from when it is handed over until this is dropped: of sockets that come at once
/// each must see the ones before it.
pub struct Load {
    loads: Arc<Vec<AtomicUsize>>,
    worker: usize,
}

impl Load {
    /// Chooses the worker for one more connection.
    #[must_use]
    pub fn add(loads: &Arc<Vec<AtomicUsize>>) -> Self {
        let worker = least_loaded(loads);
        loads[worker].fetch_add(1, Ordering::Relaxed);
        Self { loads: Arc::clone(loads), worker }
    }

    /// The worker that was chosen.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.worker
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.loads[self.worker].fetch_sub(1, Ordering::Relaxed);
    }
}

/// The worker with the fewest open connections; the first of equals, so that a lone worker pays for no crossing.
fn least_loaded(loads: &[AtomicUsize]) -> usize {
    let load = |at: &usize| loads[*at].load(Ordering::Relaxed);
    (0..loads.len()).min_by_key(load).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_sockets_go_to_the_least_loaded() {
        let loads: Vec<AtomicUsize> = [3, 1, 1].into_iter().map(AtomicUsize::new).collect();
        assert_eq!(least_loaded(&loads), 1);
        let loads = Arc::new(loads);
        let places: Vec<_> = (0..5).map(|_| Load::add(&loads)).collect();
        assert_eq!(places.iter().map(Load::worker).collect::<Vec<_>>(), [1, 2, 1, 2, 0]);
        drop(places);
        assert_eq!(loads.iter().map(|n| n.load(Ordering::Relaxed)).collect::<Vec<_>>(), [3, 1, 1]);
        assert_eq!(least_loaded(&[AtomicUsize::new(9)]), 0);
    }
}
