//! The flags that `leno run` and `leno proxy` share, and the settings they stand for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use leno_model::names::DEFAULT_NAMESPACE;
use leno_model::{AppProtocol, Name, NamespacedName};
use leno_proxy::settings::{
    AccessLogTarget, ListenAt, LocalCallers, MAX_WORKERS, ProxySettings, Secret, ServedPort, Upstream,
};

use crate::Failure;

/// What a member is and whom it joins.
#[derive(Debug, Clone, Args)]
pub struct MemberArguments {
    /// Service the workload belongs to
    #[arg(long)]
    pub service: String,
    /// Namespace
    #[arg(long, short = 'n', default_value = DEFAULT_NAMESPACE)]
    pub namespace: String,
    /// Service account, when the token was made for another than the service's name
    #[arg(long)]
    pub service_account: Option<String>,
    /// Port the application listens on, after `:` if callers name another; several may be given, none for a client only
    #[arg(long = "port", value_name = "[SERVICE_PORT:]PORT[/PROTOCOL]")]
    pub ports: Vec<String>,
    /// What the application speaks: http, http2, grpc or tcp
    #[arg(long, default_value = "http")]
    pub protocol: AppProtocol,
    /// Labels of this instance, k=v,k=v
    #[arg(long, value_delimiter = ',', value_name = "K=V")]
    pub labels: Vec<String>,
    /// Zone this instance runs in
    #[arg(long)]
    pub zone: Option<String>,
    /// Control plane's discovery address, HOST:PORT; several are tried in turn
    #[arg(long, required = true, value_delimiter = ',', env = "LENO_JOIN")]
    pub join: Vec<String>,
    /// Join token, or @FILE that holds it; needed until the state directory holds a certificate
    #[arg(long, env = "LENO_TOKEN", hide_env_values = true, value_name = "TOKEN|@FILE")]
    pub token: Option<String>,
    /// How traffic reaches the proxy; this version has explicit ports only
    #[arg(long, default_value = "none", value_parser = ["none"])]
    pub intercept: String,
    /// A local port that leads to a service; SERVICE may be NAME.NAMESPACE, and LOCAL_PORT may be HOST:PORT
    #[arg(long = "upstream", value_name = "SERVICE[:PORT]=LOCAL_PORT")]
    pub upstreams: Vec<String>,
    /// Local HTTP forward-proxy port, or off
    #[arg(long, default_value = "0", value_name = "PORT|off")]
    pub forward_proxy: String,
    /// Where other proxies reach this one
    #[arg(long, default_value = "0.0.0.0:0", value_name = "ADDR")]
    pub hop: SocketAddr,
    /// Address peers are told for the hop, when it is not the one used to reach the control plane
    #[arg(long, value_name = "IP[:PORT]")]
    pub announce_hop: Option<String>,
    /// Admin address: readiness, metrics, plan dump
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub admin: SocketAddr,
    /// Key, certificate and last-known-good state
    #[arg(long, env = "LENO_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Serve although the application listens off loopback, where callers bypass the mesh
    #[arg(long)]
    pub allow_exposed: bool,
    /// User whose processes may use the upstream ports and answer on the application's; the own user when absent
    #[arg(long, value_name = "UID", conflicts_with = "allow_any_local_caller")]
    pub local_user: Option<u32>,
    /// Let every local process use the upstream ports and answer on the application's, for the reason given
    #[arg(long, value_name = "REASON")]
    pub allow_any_local_caller: Option<String>,
    /// Worker threads; `auto` takes one per processor that this process may use (affinity and cgroup quota)
    #[arg(long, default_value = "1", value_name = "auto|N", value_parser = workers)]
    pub workers: usize,
    /// Access log: off, stdout, stderr or a file
    #[arg(long, default_value = "off", value_name = "off|stdout|stderr|FILE")]
    pub access_log: String,
    /// Write TLS session secrets to this file, for a capture tool; whoever has it can read the traffic
    #[arg(long, value_name = "FILE")]
    pub tls_key_log: Option<PathBuf>,
    /// How long requests and streams may take to finish when the member is stopped
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub drain_deadline: Duration,
    /// How long TCP and upgraded streams may go on in a proxy that was replaced
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub drain_streams: Duration,
}

impl MemberArguments {
    /// The settings these flags stand for; every mistake is named with the flag it is in.
    pub fn settings(&self) -> Result<ProxySettings, Failure> {
        let service = NamespacedName::new(&self.namespace, &self.service)
            .map_err(|e| Failure::Usage(format!("--service/--namespace: {e}")))?;
        let mut settings = ProxySettings::new(service, self.state_dir());
        settings.service_account = self
            .service_account
            .as_deref()
            .map(Name::new)
            .transpose()
            .map_err(|e| Failure::Usage(format!("--service-account: {e}")))?;
        settings.ports = self.ports.iter().map(|p| served(p, self.protocol)).collect::<Result<_, _>>()?;
        for label in &self.labels {
            let (key, value) = label
                .split_once('=')
                .filter(|(k, _)| !k.is_empty())
                .ok_or_else(|| Failure::Usage(format!("--labels: `{label}` is not of the form KEY=VALUE")))?;
            settings.labels.insert(key.to_owned(), value.to_owned());
        }
        settings.zone.clone_from(&self.zone);
        for address in &self.join {
            let port = address
                .rsplit_once(':')
                .filter(|(host, _)| !host.is_empty())
                .and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|port| port == 0) {
                return Err(Failure::Usage(format!(
                    "--join: `{address}` is not HOST:PORT, for example {address}:15100"
                )));
            }
        }
        settings.join.clone_from(&self.join);
        settings.token = self.token()?.map(Secret::new);
        settings.hop = self.hop.into();
        settings.announced_hop = self.announced_hop()?;
        settings.admin = self.admin.into();
        settings.forward = match self.forward_proxy.as_str() {
            "off" => None,
            text => Some(local(text).map_err(|e| Failure::Usage(format!("--forward-proxy: {e}")))?.into()),
        };
        settings.upstreams = self.upstreams.iter().map(|u| upstream(u, &self.namespace)).collect::<Result<_, _>>()?;
        settings.allow_exposed = self.allow_exposed;
        settings.local_callers = match (&self.allow_any_local_caller, self.local_user) {
            (Some(reason), _) => LocalCallers::Everyone { reason: reason.clone() },
            (None, Some(user)) => LocalCallers::User(user),
            (None, None) => LocalCallers::SameUser,
        };
        settings.workers = self.workers;
        settings.access_log = match self.access_log.as_str() {
            "off" => AccessLogTarget::Off,
            "stdout" => AccessLogTarget::Stdout,
            "stderr" => AccessLogTarget::Stderr,
            file => AccessLogTarget::File(file.into()),
        };
        settings.drain.requests = self.drain_deadline;
        settings.drain.streams = self.drain_streams;
        let mistakes = settings.mistakes();
        if mistakes.is_empty() { Ok(settings) } else { Err(Failure::Usage(mistakes.join("\n      "))) }
    }

    /// `--state-dir`, or a folder of this member's own below the user's state.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        if let Some(folder) = &self.state_dir {
            return folder.clone();
        }
        let port = self.ports.first().and_then(|p| p.split('/').next()?.rsplit(':').next()).unwrap_or("client");
        state_home().join("proxies").join(format!("{}.{}-{port}", self.service, self.namespace))
    }

    /// The token itself; `@FILE` is read here so that the token does not stand in the process list.
    fn token(&self) -> Result<Option<String>, Failure> {
        let Some(text) = &self.token else { return Ok(None) };
        let Some(file) = text.strip_prefix('@') else { return Ok(Some(text.trim().to_owned())) };
        let text = std::fs::read_to_string(file)
            .map_err(|e| Failure::Usage(format!("--token: cannot read the token file {file}: {e}")))?;
        Ok(Some(text.trim().to_owned()))
    }

    fn announced_hop(&self) -> Result<Option<SocketAddr>, Failure> {
        let Some(text) = &self.announce_hop else { return Ok(None) };
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Some(SocketAddr::new(ip, self.hop.port())));
        }
        text.parse()
            .map(Some)
            .map_err(|_| Failure::Usage(format!("--announce-hop: `{text}` is not of the form IP or IP:PORT")))
    }
}

/// `/var/lib/leno` for root, otherwise below `XDG_STATE_HOME` (XDG base directory specification 0.8).
#[must_use]
pub fn state_home() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(folder) = variable("XDG_STATE_HOME") {
        return folder.join("leno");
    }
    match variable("HOME") {
        Some(home) if home != std::path::Path::new("/root") => home.join(".local/state/leno"),
        _ => PathBuf::from("/var/lib/leno"),
    }
}

/// `auto` or a number of worker threads.
fn workers(text: &str) -> Result<usize, String> {
    match text {
        "auto" => Ok(leno_sys::worker_count().min(MAX_WORKERS)),
        _ => text.parse().map_err(|_| format!("`{text}` is neither `auto` nor a number")),
    }
}

/// A duration such as `500ms`, `10s`, `5m`, `1h30m` (GEP-2257 units, any order of magnitude).
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration: use e.g. 500ms, 10s, 5m, 24h");
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let millis: u64 = match &rest[..unit] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        total += Duration::from_millis(number.checked_mul(millis).ok_or_else(wrong)?);
        rest = &rest[unit..];
    }
    Ok(total)
}

fn served(text: &str, protocol: AppProtocol) -> Result<ServedPort, Failure> {
    let (port, protocol) = match text.split_once('/') {
        Some((port, word)) => (port, word.parse().map_err(|e| Failure::Usage(format!("--port {text}: {e}")))?),
        None => (text, protocol),
    };
    let number = |text: &str| text.parse::<u16>().ok().filter(|p| *p != 0);
    let (called, listened) = port.split_once(':').unwrap_or((port, port));
    let (Some(port), Some(listened)) = (number(called), number(listened)) else {
        return Err(Failure::Usage(format!(
            "--port: `{text}` is not of the form [SERVICE_PORT:]PORT[/PROTOCOL], e.g. 80:8080/http"
        )));
    };
    let app = (port != listened).then(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listened));
    Ok(ServedPort { port, protocol, app })
}

fn local(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| format!("`{text}` is not of the form PORT or IP:PORT"))
}

/// `SERVICE[.NAMESPACE][:PORT]=[HOST:]LOCAL_PORT`.
fn upstream(text: &str, namespace: &str) -> Result<Upstream, Failure> {
    let usage = |e: String| {
        Failure::Usage(format!("--upstream {text}: {e}; use SERVICE[:PORT]=LOCAL_PORT, e.g. --upstream web=8081"))
    };
    let (target, place) = text.split_once('=').ok_or_else(|| usage("there is no `=`".to_owned()))?;
    let (name, port) = match target.split_once(':') {
        Some((name, port)) => {
            let port = port.parse::<u16>().ok().filter(|p| *p != 0);
            (name, Some(port.ok_or_else(|| usage("the port after `:` is not a number from 1 to 65535".to_owned()))?))
        }
        None => (target, None),
    };
    let service = NamespacedName::parse(name, namespace).map_err(|e| usage(e.to_string()))?;
    let listen: ListenAt = local(place).map_err(usage)?.into();
    Ok(Upstream { service, port, listen })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_a_number_or_found_out() {
        assert_eq!((workers("1"), workers("12")), (Ok(1), Ok(12)));
        assert_eq!(workers("auto"), Ok(leno_sys::worker_count()));
        assert!(workers("many").is_err_and(|e| e.contains("auto")) && workers("-1").is_err());
    }

    #[test]
    fn durations() {
        for (text, millis) in [("500ms", 500), ("10s", 10_000), ("1h30m", 5_400_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "10", "s", "1d", "-1s", "1.5s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports() {
        let p = served("80:8080/tcp", AppProtocol::Http).unwrap();
        assert_eq!((p.port, p.app_address().port(), p.protocol), (80, 8080, AppProtocol::Tcp));
        let p = served("8080", AppProtocol::Grpc).unwrap();
        assert_eq!((p.port, p.app_address().port(), p.protocol), (8080, 8080, AppProtocol::Grpc));
        for bad in ["", "0", "x", "80:", ":80", "80:0", "70000", "80/ftp"] {
            assert!(served(bad, AppProtocol::Http).is_err(), "{bad}");
        }
    }

    #[test]
    fn upstreams() {
        let u = upstream("web.shop:80=8081", "default").unwrap();
        assert_eq!((u.service.to_string(), u.port, u.listen.address.port()), ("web.shop".to_owned(), Some(80), 8081));
        assert_eq!(upstream("web=[::1]:0", "x").unwrap().listen.address.to_string(), "[::1]:0");
        for bad in ["web", "web=", "=1", "web:0=1", "web:x=1", "WEB=1", "web=1.2.3.4", "web=70000", "a.b.c=1"] {
            assert!(upstream(bad, "default").is_err(), "{bad}");
        }
    }
}
