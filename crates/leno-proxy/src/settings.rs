//! What a proxy can be told. One typed value; the command line fills it, `/config` prints it with secrets masked.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use leno_model::{AppProtocol, Name, NamespacedName};
use serde::Serialize;

/// The hop port inside a namespace of the workload's own (DESIGN section 9).
pub const HOP_PORT: u16 = 15008;
/// The admin port inside a namespace of the workload's own.
pub const ADMIN_PORT: u16 = 15020;
/// The forward-proxy port inside a namespace of the workload's own.
pub const FORWARD_PORT: u16 = 15010;

/// Everything that a proxy is told at its start.
#[derive(Debug, Clone, Serialize)]
pub struct ProxySettings {
    /// The service that the workload belongs to and whose service account it runs as.
    pub service: NamespacedName,
    /// The service account, when it is not named like the service.
    pub service_account: Option<Name>,
    /// The ports of the application that the mesh may reach. Empty for a client-only member.
    pub ports: Vec<ServedPort>,
    /// Labels of this instance, e.g. `version=v2`.
    pub labels: BTreeMap<String, String>,
    /// Where the instance runs, for locality.
    pub zone: Option<String>,
    /// The name of this instance; made up and kept in the state directory when absent.
    pub instance: Option<String>,
    /// The control plane's discovery addresses, `HOST:PORT`, tried in turn.
    pub join: Vec<String>,
    /// The join token, needed until the state directory holds a certificate.
    pub token: Option<Secret>,
    /// Key, certificate and last-known-good state; made with mode 0700.
    pub state_dir: PathBuf,
    /// Where other proxies reach this one.
    pub hop: ListenAt,
    /// The address that peers are told for the hop, when it is not the one listened on (NAT, wildcard address).
    pub announced_hop: Option<SocketAddr>,
    /// Admin port; loopback unless the operator says otherwise.
    pub admin: ListenAt,
    /// Forward-proxy port, off when absent.
    pub forward: Option<ListenAt>,
    /// Local ports that lead to one service each.
    pub upstreams: Vec<Upstream>,
    /// Serve although the application listens off loopback, where callers bypass the mesh.
    pub allow_exposed: bool,
    /// Who may use the upstream and forward ports.
    pub local_callers: LocalCallers,
    /// Worker threads; at least one.
    pub workers: usize,
    /// Where access records go.
    pub access_log: AccessLogTarget,
    /// How long a drain waits.
    pub drain: DrainDeadlines,
    /// Open downstream connections that the process accepts; `None` takes three quarters of the descriptor limit.
    pub max_connections: Option<usize>,
    /// Print one JSON line with all addresses on stdout when ready.
    pub announce: Announce,
    /// A supervisor started this proxy beside a program: a drain leaves outbound open until standard input closes, which says
    /// that the program is gone, and a repeated signal cuts nothing, because the supervisor has its own deadline.
    pub supervised: bool,
    /// Another proxy still serves on the same sockets, and retires when this one is ready.
    pub replaces: bool,
}

impl ProxySettings {
    /// Settings of a client-only member with every default.
    #[must_use]
    pub fn new(service: NamespacedName, state_dir: PathBuf) -> Self {
        Self {
            service,
            service_account: None,
            ports: Vec::new(),
            labels: BTreeMap::new(),
            zone: None,
            instance: None,
            join: Vec::new(),
            token: None,
            state_dir,
            hop: ListenAt::any(0),
            announced_hop: None,
            admin: ListenAt::loopback(0),
            forward: Some(ListenAt::loopback(0)),
            upstreams: Vec::new(),
            allow_exposed: false,
            local_callers: LocalCallers::SameUser,
            workers: 1,
            access_log: AccessLogTarget::default(),
            drain: DrainDeadlines::default(),
            max_connections: None,
            announce: Announce::Nothing,
            supervised: false,
            replaces: false,
        }
    }

    /// Every mistake that can be seen without touching the system, all at once.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.workers == 0 || self.workers > MAX_WORKERS {
            found.push(format!("workers must be 1 to {MAX_WORKERS}, not {}", self.workers));
        }
        let mut ports: Vec<u16> = self.ports.iter().map(|p| p.port).collect();
        ports.sort_unstable();
        if let Some(twice) = ports.windows(2).find(|w| w[0] == w[1]) {
            found.push(format!("port {} is served twice", twice[0]));
        }
        if ports.first() == Some(&0) {
            found.push("a served port must not be 0".to_owned());
        }
        let mut locals: Vec<SocketAddr> =
            self.upstreams.iter().map(|u| u.listen.address).filter(|a| a.port() != 0).collect();
        locals.sort_unstable();
        if let Some(twice) = locals.windows(2).find(|w| w[0] == w[1]) {
            found.push(format!("{} is given to two upstreams", twice[0]));
        }
        for upstream in &self.upstreams {
            if !upstream.listen.address.ip().is_loopback() && self.local_callers == LocalCallers::SameUser {
                found.push(format!(
                    "upstream {} listens on {}, which is not loopback: others could use this workload's identity \
                     (allow every local caller to say that this is wanted)",
                    upstream.service, upstream.listen.address
                ));
            }
        }
        if self.join.is_empty() {
            found.push("no control plane to join".to_owned());
        }
        found
    }
}

/// More worker threads than this cannot be meant.
pub const MAX_WORKERS: usize = 256;

/// One port of the application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServedPort {
    /// The port that peers ask for (the service's port, or its target port: both are looked up in the plan).
    pub port: u16,
    /// What the application speaks there.
    pub protocol: AppProtocol,
    /// Where the application listens; loopback and the same port when absent.
    pub app: Option<SocketAddr>,
}

impl ServedPort {
    /// The address to connect to.
    #[must_use]
    pub fn app_address(&self) -> SocketAddr {
        self.app.unwrap_or_else(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.port))
    }
}

/// A local port that leads to one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// The destination.
    pub service: NamespacedName,
    /// The destination's port; 80 or else its lowest when absent.
    pub port: Option<u16>,
    /// Where local callers connect.
    pub listen: ListenAt,
}

/// An address to listen on, or a listening socket that somebody else owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListenAt {
    /// The address; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// A listening descriptor inherited from the supervisor, used instead of binding.
    pub inherited: Option<RawFd>,
}

impl ListenAt {
    /// On 127.0.0.1.
    #[must_use]
    pub fn loopback(port: u16) -> Self {
        Self { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port), inherited: None }
    }

    /// On every IPv4 address.
    #[must_use]
    pub fn any(port: u16) -> Self {
        Self { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port), inherited: None }
    }
}

impl From<SocketAddr> for ListenAt {
    fn from(address: SocketAddr) -> Self {
        Self { address, inherited: None }
    }
}

/// Who may use the proxy's local ports (D12a).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalCallers {
    /// Processes of the user that the proxy runs as; others get `not_member`.
    SameUser,
    /// Processes of this user.
    User(u32),
    /// Everybody, for the reason given; shown in status.
    Everyone {
        /// Why, in the operator's words.
        reason: String,
    },
}

/// Where access records go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLogTarget {
    /// Nowhere.
    #[default]
    Off,
    /// JSON lines on standard output.
    Stdout,
    /// JSON lines on standard error.
    Stderr,
    /// JSON lines appended to a file.
    File(PathBuf),
}

/// As the flag has it.
impl fmt::Display for AccessLogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// How long the phases of a drain may take (D11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DrainDeadlines {
    /// Wait this long for the control plane to acknowledge the deregistration.
    pub deregister: Duration,
    /// Then this long for requests to finish.
    pub requests: Duration,
    /// And this long, from the same start, for TCP and upgraded streams of a proxy that a successor replaced; when the workload itself
    /// is stopped they get what requests get.
    pub streams: Duration,
}

impl Default for DrainDeadlines {
    fn default() -> Self {
        Self {
            deregister: Duration::from_secs(5),
            requests: Duration::from_secs(30),
            streams: Duration::from_secs(3600),
        }
    }
}

/// What is printed when the proxy is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Announce {
    /// Nothing.
    #[default]
    Nothing,
    /// One JSON line: see [`Addresses`].
    Json,
}

/// The addresses that were really opened, in the order they were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// The hop port.
    pub hop: SocketAddr,
    /// The admin port.
    pub admin: SocketAddr,
    /// The forward-proxy port.
    pub forward: Option<SocketAddr>,
    /// One per upstream: `service.namespace[:port]` and its local address.
    pub upstreams: Vec<(String, SocketAddr)>,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text; every use of it is visible by this name.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ProxySettings {
        let mut s = ProxySettings::new(NamespacedName::new("shop", "web").unwrap(), "/nonexistent".into());
        s.join.push("127.0.0.1:15100".to_owned());
        s
    }

    #[test]
    fn secrets_are_never_printed() {
        let mut s = settings();
        s.token = Some(Secret::new("leno1.abc.hidden"));
        assert!(!serde_json::to_string(&s).unwrap().contains("hidden"));
        assert!(!format!("{s:?}").contains("hidden"));
    }

    #[test]
    fn all_mistakes_are_found_at_once() {
        let mut s = settings();
        assert_eq!(s.mistakes(), Vec::<String>::new());
        s.workers = 0;
        s.join.clear();
        let port = ServedPort { port: 80, protocol: AppProtocol::Http, app: None };
        s.ports = vec![port.clone(), port];
        s.upstreams = vec![Upstream {
            service: s.service.clone(),
            port: None,
            listen: ListenAt { address: "192.0.2.1:80".parse().unwrap(), inherited: None },
        }];
        assert_eq!(s.mistakes().len(), 4, "{:?}", s.mistakes());
    }
}
