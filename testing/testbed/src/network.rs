//! Hosts as network namespaces, joined by a bridge in a namespace of its own.
//!
//! ```text
//!   host a ── veth ──┐
//!   host b ── veth ──┤ bridge (own namespace)      a: 10.77.0.1, fd77::1   b: 10.77.0.2, fd77::2   …
//!   host c ── veth ──┘
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::LinkNameSpaceType;

use crate::process::{Output, run};

static NEXT: AtomicU32 = AtomicU32::new(0);
/// A command without a limit of its own.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// The hosts of one scenario. Dropping it removes the namespaces.
pub struct Network {
    prefix: String,
    hosts: Vec<Host>,
    folder: tempfile::TempDir,
}

/// One host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name in the scenario.
    pub name: String,
    namespace: String,
    position: u8,
}

impl Network {
    /// Makes the namespaces; names carry the process id, so that scenarios run side by side.
    #[must_use]
    pub fn new(names: &[&str]) -> Self {
        let prefix = format!("leno-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new().prefix("leno-testbed-").tempdir().expect("a temporary folder");
        // Programs that drop root (PostgreSQL) must be able to reach their folders below.
        let _ = std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755));
        let bridge = format!("{prefix}-br");
        ip(&["netns", "add", &bridge]);
        ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &bridge, "link", "set", "br0", "up"]);
        let mut hosts = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let position = u8::try_from(index + 1).expect("few hosts");
            let host = Host { name: (*name).to_owned(), namespace: format!("{prefix}-{position}"), position };
            ip(&["netns", "add", &host.namespace]);
            ip(&["-n", &host.namespace, "link", "set", "lo", "up"]);
            let port = format!("p{position}");
            ip(&[
                "-n",
                &host.namespace,
                "link",
                "add",
                "eth0",
                "type",
                "veth",
                "peer",
                "name",
                &port,
                "netns",
                &bridge,
            ]);
            ip(&["-n", &bridge, "link", "set", &port, "master", "br0", "up"]);
            ip(&["-n", &host.namespace, "link", "set", "eth0", "up"]);
            ip(&["-n", &host.namespace, "addr", "add", &format!("{}/24", host.address()), "dev", "eth0"]);
            // nodad: an address must be usable at once, not after duplicate detection.
            ip(&["-n", &host.namespace, "addr", "add", &format!("{}/64", host.address6()), "dev", "eth0", "nodad"]);
            hosts.push(host);
        }
        Self { prefix, hosts, folder }
    }

    /// A host by its name.
    #[track_caller]
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|h| h.name == name).unwrap_or_else(|| panic!("no host {name}"))
    }

    /// A folder of the scenario's own; removed with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A fresh folder below it.
    #[must_use]
    pub fn subfolder(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).expect("a folder in our own folder");
        folder
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = Command::new("ip").args(["netns", "del", &host.namespace]).status();
        }
        let _ = Command::new("ip").args(["netns", "del", &format!("{}-br", self.prefix)]).status();
        if std::thread::panicking() {
            // Kept for whoever looks into the failure.
            let kept = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a temporary folder"));
            eprintln!("logs are kept in {}", kept.keep().display());
        }
    }
}

impl Host {
    /// Its network namespace, as `ip netns` names it.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// IPv4 address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.position)
    }

    /// IPv6 address.
    #[must_use]
    pub fn address6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(self.position))
    }

    /// A command that runs on this host.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        let program = crate::skip::which(program).unwrap_or_else(|| PathBuf::from(program));
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// Runs a command on this host to its end.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        run(self.command(program).args(arguments), COMMAND_LIMIT)
    }

    /// Does something on a thread that is on this host: what it connects or listens with belongs here, and goes on belonging here
    /// when it is taken elsewhere.
    #[track_caller]
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let space = std::fs::File::open(format!("/run/netns/{}", self.namespace)).expect("the host's namespace");
        let enter = move || {
            rustix::thread::move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter a network namespace");
            work()
        };
        std::thread::scope(|scope| scope.spawn(enter).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A TCP connection from this host.
    #[track_caller]
    #[must_use]
    pub fn connect(&self, address: SocketAddr) -> TcpStream {
        self.within(|| TcpStream::connect(address)).unwrap_or_else(|e| panic!("connecting to {address}: {e}"))
    }

    /// Listens on loopback of this host.
    #[track_caller]
    #[must_use]
    pub fn listen(&self, port: u16) -> TcpListener {
        self.within(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)))
            .unwrap_or_else(|e| panic!("listening on {port}: {e}"))
    }

    /// `curl -sS` on this host, with a limit; arguments as given.
    #[track_caller]
    pub fn curl(&self, arguments: &[&str]) -> Output {
        run(self.command("curl").args(["-sS", "--max-time", "20"]).args(arguments), COMMAND_LIMIT)
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let _ = run(Command::new("ip").args(arguments), COMMAND_LIMIT).ok();
}
