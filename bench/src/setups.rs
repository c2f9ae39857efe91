//! The pairs: how each starts, on which ports, and its two processes.
//!
//! ```text
//!   host a: load ─▶ proxy A ══ mTLS 1.3 ══▶ host b: proxy B ─▶ application
//!   load, application and control plane on CPU 0, both proxies on CPU 1
//! ```

mod certificates;
mod envoy;
mod haproxy;
pub mod leno;
mod nginx;
mod relay;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bench::usage::{self, Memory};
use testbed::process::{Process, run};
use testbed::skip::which;
use testbed::{Host, Network};

pub use certificates::Certificates;

/// What a scenario speaks to a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// HTTP/1.1.
    Http,
    /// gRPC, which is HTTP/2 without TLS on the local sides.
    Grpc,
    /// Bytes.
    Tcp,
}

impl Speech {
    /// All of them; every pair listens for each it can carry.
    pub const ALL: [Self; 3] = [Self::Http, Self::Grpc, Self::Tcp];

    fn offset(self) -> u16 {
        match self {
            Self::Http => 0,
            Self::Grpc => 1,
            Self::Tcp => 2,
        }
    }

    /// Port of the application on host b, on loopback.
    pub fn app(self) -> u16 {
        8080 + self.offset()
    }

    /// Port of proxy A on host a that the load calls, on loopback.
    pub fn near(self) -> u16 {
        9000 + self.offset()
    }

    /// Port of proxy B on host b that proxy A calls. Leno has one for all, 15008.
    pub fn far(self) -> u16 {
        15_443 + self.offset()
    }
}

/// CPU of load, application and control plane.
pub const LOAD_CPU: &str = "0";
/// CPU of both proxies.
pub const PROXY_CPU: &str = "1";
/// CPUs of proxies with several workers; load and application keep to theirs.
pub const ALL_CPUS: &str = "0,1";
/// Connections that a proxy must be able to hold in all scenarios but those with idle ones.
pub const FEW: usize = 4096;

/// Where a pair is started, and how large.
pub struct Site<'n> {
    /// Hosts a and b.
    pub network: &'n Network,
    /// For the peers.
    pub certificates: Certificates,
    /// Client connections that proxy A must be able to hold; some proxies allocate for all of them at the start.
    pub capacity: usize,
    /// Differs with every start, for names of folders.
    pub start: usize,
}

impl<'n> Site<'n> {
    /// Makes the certificates, and the application on host b.
    pub fn new(network: &'n Network) -> Self {
        tune(network);
        Self { network, certificates: certificates::make(network), capacity: FEW, start: 0 }
    }

    /// Address that proxy A calls.
    pub fn far(&self, speech: Speech) -> String {
        format!("{}:{}", self.network.host("b").address(), speech.far())
    }
}

/// A connection per request leaves thousands of ports waiting for stray packets that cannot come between two namespaces: few
/// may wait, and all high ports may be used, so that no pair meets the leftovers of the one before.
fn tune(network: &Network) {
    for host in ["a", "b"] {
        let settings = ["net.ipv4.tcp_max_tw_buckets=2048", "net.ipv4.ip_local_port_range=16000 65535"];
        for setting in settings {
            let _ = network.host(host).run("sysctl", &["-q", "-w", setting]).ok();
        }
    }
}

/// Two proxies and what they hold on to.
pub struct Pair {
    /// From start to ready, of the slower proxy.
    pub ready: Duration,
    /// Memory of both before any load.
    pub idle: Memory,
    /// Proxy B, then proxy A.
    processes: Vec<Process>,
    mesh: Option<leno::Members>,
}

impl Pair {
    /// The proxies' process ids, B then A.
    pub fn pids(&mut self) -> Vec<u32> {
        let own = self.processes.iter().map(Process::pid);
        own.chain(self.mesh.iter_mut().flat_map(leno::Members::pids)).collect()
    }

    /// The mesh, if this is Leno.
    pub fn mesh(&self) -> Option<&leno::Members> {
        self.mesh.as_ref()
    }

    /// Records of the access log that were dropped so far, in both proxies.
    pub fn dropped_records(&self) -> u64 {
        self.mesh.as_ref().map_or(0, leno::Members::dropped_records)
    }

    /// Forgets what was logged so far: at full speed a disk would fill before the run is over.
    pub fn forget_logs(&self) {
        if let Some(mesh) = &self.mesh {
            mesh.forget_logs();
        }
    }
}

/// Every pair that can be asked for, in the order of the tables.
pub const PAIRS: &[&str] = &["relay", "nginx", "haproxy", "envoy", "envoy-h2", "leno", "leno-all"];

/// Pairs that are run only when they are named: they share CPUs with the load, so that no other pair is comparable.
pub const SCALING: &[&str] = &["leno-1w", "leno-2w"];

/// Why a pair cannot run here, if so.
pub fn missing(name: &str) -> Option<String> {
    let needs = |program: &str| which(program).is_none().then(|| format!("{program} is not installed"));
    match name {
        "relay" => None,
        name if leno::Kind::named(name).is_some() => None,
        "nginx" => needs("nginx")
            .or_else(|| (!Path::new(nginx::STREAM).exists()).then(|| format!("{} is not installed", nginx::STREAM))),
        "haproxy" => needs("haproxy"),
        "envoy" | "envoy-h2" => envoy::binary().is_none().then(|| "ENVOY is not set and envoy not on PATH".to_owned()),
        other => Some(format!("there is no such pair; there are {}: {other}", [PAIRS, SCALING].concat().join(", "))),
    }
}

/// Starts a pair that [`missing`] said nothing about.
pub fn start(site: &Site<'_>, name: &str) -> anyhow::Result<Pair> {
    if let Some(kind) = leno::Kind::named(name) {
        return leno::start(site, name, kind);
    }
    let [far, near] = match name {
        "relay" => relay::commands(site)?,
        "nginx" => nginx::commands(site)?,
        "haproxy" => haproxy::commands(site)?,
        "envoy" => envoy::commands(site, envoy::Between::Http1)?,
        "envoy-h2" => envoy::commands(site, envoy::Between::Http2)?,
        other => anyhow::bail!("{other}: {}", missing(other).unwrap_or_default()),
    };
    let (a, b) = (site.network.host("a"), site.network.host("b"));
    let started = Instant::now();
    let mut processes = Vec::new();
    for (host, command) in [(b, far), (a, near)] {
        let log = format!("{name}-{}-{}", site.start, host.name);
        processes.push(Process::start(&log, &mut pinned(host, PROXY_CPU, &command), site.network.folder()));
    }
    wait_for(b, Speech::Http.far());
    wait_for(a, Speech::Http.near());
    Ok(pair(started.elapsed(), processes, None))
}

fn pair(ready: Duration, processes: Vec<Process>, mesh: Option<leno::Members>) -> Pair {
    let mut pair = Pair { ready, idle: Memory::default(), processes, mesh };
    pair.idle = usage::memory(&pair.pids()).unwrap_or_default();
    pair
}

/// A command of these words on a host, on one CPU.
pub fn pinned(host: &Host, cpu: &str, words: &[String]) -> std::process::Command {
    let mut command = host.command("taskset");
    command.args(["-c", cpu]).args(words);
    command
}

/// Moves every thread of a running process to a CPU.
fn pin(pid: u32, cpu: &str) {
    let pid = pid.to_string();
    let mut command = std::process::Command::new("taskset");
    let _ = run(command.args(["-a", "-p", "-c", cpu, &pid]), Duration::from_secs(10)).ok();
}

/// The application on host b.
pub fn application(network: &Network) -> anyhow::Result<Process> {
    let mut words = vec![own("app")?.display().to_string()];
    for (flag, speech) in [("--http", Speech::Http), ("--grpc", Speech::Grpc), ("--tcp", Speech::Tcp)] {
        words.extend([flag.to_owned(), format!("127.0.0.1:{}", speech.app())]);
    }
    let host = network.host("b");
    let process = Process::start("app", &mut pinned(host, LOAD_CPU, &words), network.folder());
    Speech::ALL.into_iter().for_each(|speech| wait_for(host, speech.app()));
    Ok(process)
}

/// A program of this package.
pub fn own(name: &str) -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// Waits until something listens on the port.
pub fn wait_for(host: &Host, port: u16) {
    testbed::wait::until(&format!("port {port} on {}", host.name), || {
        let listening = host.run("ss", &["-Hltn", &format!("sport = :{port}")]).stdout;
        if listening.trim().is_empty() { Err("nobody listens".to_owned()) } else { Ok(()) }
    });
}
