//! Leno as a pair: `leno` as it comes, and `leno-all` with everything a mesh is used for switched on.
//!
//! | | `leno` | `leno-all` |
//! |---|---|---|
//! | mutual TLS 1.3, post-quantum key exchange, identities | yes | yes |
//! | metrics at both ends, trace context, balancing, ejection, retries, time limits | yes | yes |
//! | access | members (the default) | a policy: by identity, by path (so paths are normalised), by port |
//! | routing | by service | a route that matches path and header, and sets a header |
//! | access record | no | every request, at both ends, as JSON to a file |
//!
//! `leno-1w` and `leno-2w` are `leno` with one and two workers in each proxy, both on every CPU: what a second worker brings.
//! They are compared with each other and with nothing else, since load and application have to share the CPUs with them.

use std::path::PathBuf;
use std::time::Instant;

use testbed::{Member, Mesh};

use super::{ALL_CPUS, LOAD_CPU, PROXY_CPU, Pair, Site, Speech, pair, pin, wait_for};

/// Admin port of the far proxy, and one above of the near one.
const ADMIN: u16 = 15_020;
/// Hop port of the far proxy.
pub const HOP: u16 = 15_008;

const EVERYTHING: &str = r#"
apiVersion: leno.dev/v1alpha1
kind: AccessPolicy
metadata: {name: callers}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  rules:
  - action: allow
    from: [{serviceAccounts: [client]}]
    to: [{ports: [8080, 8081], methods: [GET, POST], paths: ["/bytes/*", "/bench.Echo/*"]}]
  - action: allow
    from: [{serviceAccounts: [client]}]
    to: [{ports: [8082]}]
  - action: deny
    from: [{serviceAccounts: [stranger]}]
  - action: deny
    to: [{ports: [8080, 8081], paths: ["/admin/*"]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ports:
  - {name: http, port: 8080, appProtocol: http}
  - {name: grpc, port: 8081, appProtocol: grpc}
  - {name: tcp, port: 8082, appProtocol: tcp}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 8080}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /canary}, headers: [{name: x-canary, value: "yes"}]}]
    backendRefs: [{name: web, port: 8080}]
  - matches: [{path: {type: PathPrefix, value: /bytes}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-route, value: bench}]}
    backendRefs: [{name: web, port: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: web}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 8081}]
  rules:
  - matches: [{method: {service: bench.Echo}}]
    backendRefs: [{name: web, port: 8081}]
"#;

/// How Leno is run.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    everything: bool,
    workers: u8,
    cpus: &'static str,
}

impl Kind {
    /// By the pair's name.
    pub fn named(name: &str) -> Option<Self> {
        let (everything, workers, cpus) = match name {
            "leno" => (false, 1, PROXY_CPU),
            "leno-all" => (true, 1, PROXY_CPU),
            "leno-1w" => (false, 1, ALL_CPUS),
            "leno-2w" => (false, 2, ALL_CPUS),
            _ => return None,
        };
        Some(Self { everything, workers, cpus })
    }
}

/// The control plane and its two members.
pub struct Members {
    far: Member,
    near: Member,
    logs: Vec<PathBuf>,
    // After the members, which deregister from it.
    mesh: Mesh,
}

impl Members {
    /// Process ids, far then near.
    pub fn pids(&mut self) -> Vec<u32> {
        vec![self.far.process().pid(), self.near.process().pid()]
    }

    /// The control plane.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Key and chain of the near proxy.
    pub fn identity(&self) -> PathBuf {
        self.near.state.join("identity.pem")
    }

    /// State directory of the far proxy.
    pub fn far_state(&self) -> &std::path::Path {
        &self.far.state
    }

    /// See [`Pair::dropped_records`].
    pub fn dropped_records(&self) -> u64 {
        let pages = [self.far.metrics(ADMIN), self.near.metrics(ADMIN + 1)];
        let lines = pages.iter().flat_map(|page| page.lines());
        lines.filter_map(|l| l.strip_prefix("leno_access_log_dropped_total ")?.trim().parse::<u64>().ok()).sum()
    }

    /// See [`Pair::forget_logs`].
    pub fn forget_logs(&self) {
        for log in &self.logs {
            if let Ok(file) = std::fs::OpenOptions::new().write(true).open(log) {
                let _ = file.set_len(0);
            }
        }
    }
}

/// Starts it.
pub fn start(site: &Site<'_>, name: &str, kind: Kind) -> anyhow::Result<Pair> {
    let network = site.network;
    let (a, b) = (network.host("a"), network.host("b"));
    let mut mesh = Mesh::start_in(network, "b", &format!("control-plane-{}", site.start), &[]);
    pin(mesh.process().pid(), LOAD_CPU);
    if kind.everything {
        mesh.apply(EVERYTHING);
    }
    let mut logs = Vec::new();
    let mut flags = |end: &str| -> Vec<String> {
        let workers = vec!["--workers".to_owned(), kind.workers.to_string()];
        if !kind.everything {
            return workers;
        }
        let log = network.folder().join(format!("access-{}-{end}.log", site.start));
        logs.push(log.clone());
        [workers, vec!["--access-log".to_owned(), log.display().to_string()]].concat()
    };
    let started = Instant::now();
    let far_flags = [
        ports("--port"),
        vec!["--hop".into(), format!("0.0.0.0:{HOP}"), "--admin".into(), format!("127.0.0.1:{ADMIN}")],
        flags("far"),
    ]
    .concat();
    let mut far = mesh.proxy(b, &format!("{name}-b-{}", site.start), "web", &borrowed(&far_flags));
    far.wait_ready(ADMIN);
    pin(far.process().pid(), kind.cpus);
    let ready = started.elapsed();
    mesh.wait_for_endpoints("web", 1);
    let near_flags = [
        port_flags("--upstream", |s| format!("web:{}={}", s.app(), s.near())),
        vec!["--admin".into(), format!("127.0.0.1:{}", ADMIN + 1)],
        flags("near"),
    ]
    .concat();
    let mut near = mesh.proxy(a, &format!("{name}-a-{}", site.start), "client", &borrowed(&near_flags));
    near.wait_ready(ADMIN + 1);
    pin(near.process().pid(), kind.cpus);
    for speech in Speech::ALL {
        wait_for(a, speech.near());
    }
    Ok(pair(ready, Vec::new(), Some(Members { far, near, logs, mesh })))
}

/// The ports of the service as flags, with their protocols.
pub fn ports(flag: &str) -> Vec<String> {
    port_flags(flag, |s| format!("{}/{}", s.app(), protocol(s)))
}

fn protocol(speech: Speech) -> &'static str {
    match speech {
        Speech::Http => "http",
        Speech::Grpc => "grpc",
        Speech::Tcp => "tcp",
    }
}

fn port_flags(flag: &str, value: impl Fn(Speech) -> String) -> Vec<String> {
    Speech::ALL.into_iter().flat_map(|speech| [flag.to_owned(), value(speech)]).collect()
}

fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}
