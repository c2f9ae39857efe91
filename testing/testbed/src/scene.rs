//! The small mesh that most scenarios of hostile peers play in: an application on `two`, who calls it on `three`.
//!
//! ```text
//!   one: control plane      two: app ◀── far proxy ◀══ hop ══ near proxy ◀── three: callers, honest and other
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::load::Load;
use crate::memory::Watch;
use crate::process::Process;
use crate::{Host, Member, Mesh, Network, apps};

/// The hop port of the far proxy.
pub const HOP: u16 = 15008;
/// Where the near proxy takes what is for `web`.
pub const UPSTREAM: u16 = 9080;
/// The near proxy's forward-proxy port.
pub const FORWARD: u16 = 15010;
/// Both proxies' admin port.
pub const ADMIN: u16 = 15020;
/// Where the application listens.
pub const APP: u16 = 8080;

/// Where the honest client calls.
const URL: &str = "http://127.0.0.1:9080/honest";
/// Its connections and requests/s: enough to meet whatever disturbs the others, little enough for a debug build on a busy machine.
const HONEST: (u32, u32) = (4, 300);
/// Everything that an attack took is given back within this time (issue of the engine, item 6).
pub const GIVEN_BACK: Duration = Duration::from_secs(30);
/// What may stay in each proxy after an attack, in MiB: stocks of buffers and tables that were never as large before, half-used
/// pages of the allocator. Far below any of the bounds, and a leak in a loop passes it.
pub const SLACK: u64 = 6;

/// See the module. Dropping it ends everything.
pub struct Scene {
    /// What the far proxy gives requests to.
    pub app: Option<Process>,
    /// On `two`, for service `web`.
    pub far: Member,
    /// On `three`, for service `client`.
    pub near: Member,
    /// On `one`.
    pub mesh: Mesh,
    /// The hosts.
    pub network: Network,
}

/// What an attack may cost, in MiB above the baseline.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// At the near proxy.
    pub near: u64,
    /// At the far one.
    pub far: u64,
}

impl Scene {
    /// With nginx as the application; `locations` go before one that answers `web`, unless they have it.
    #[must_use]
    pub fn with_nginx(locations: &str) -> Self {
        let all = match locations.contains("location / {") {
            true => locations.to_owned(),
            false => format!("{locations}\nlocation / {{ return 200 \"web\\n\"; }}"),
        };
        Self::start(&format!("{APP}"), &[], &[], |network| Some(nginx(network, &all)))
    }

    /// The same with proxies that may open so many descriptors only.
    #[must_use]
    pub fn limited(descriptors: usize) -> Self {
        let locations = "location / { return 200 \"web\\n\"; }";
        Self::build(&format!("{APP}"), &[], &[], Some(descriptors), |network| Some(nginx(network, locations)))
    }

    /// With an application of the scenario's own; `port` as `--port` takes it. Further flags for the far and the near proxy.
    #[must_use]
    pub fn start(
        port: &str,
        far_flags: &[&str],
        near_flags: &[&str],
        app: impl FnOnce(&Network) -> Option<Process>,
    ) -> Self {
        Self::build(port, far_flags, near_flags, None, app)
    }

    fn build(
        port: &str,
        far_flags: &[&str],
        near_flags: &[&str],
        descriptors: Option<usize>,
        app: impl FnOnce(&Network) -> Option<Process>,
    ) -> Self {
        let network = Network::new(&["one", "two", "three"]);
        let mesh = Mesh::start(&network, "one", &[]);
        let app = app(&network);
        let flags = [&["--port", port, "--hop", "0.0.0.0:15008", "--admin", "127.0.0.1:15020"], far_flags].concat();
        let far = mesh.proxy_limited(network.host("two"), "far", "web", &flags, descriptors);
        mesh.wait_for_endpoints("web", 1);
        let flags = ["--upstream", "web=9080", "--forward-proxy", "15010", "--admin", "127.0.0.1:15020"];
        let flags = [&flags, near_flags].concat();
        let mut near = mesh.proxy_limited(network.host("three"), "near", "client", &flags, descriptors);
        near.wait_ready(ADMIN);
        Self { app, far, near, mesh, network }
    }

    /// Where the application runs.
    #[must_use]
    pub fn two(&self) -> &Host {
        self.network.host("two")
    }

    /// Where the callers are.
    #[must_use]
    pub fn three(&self) -> &Host {
        self.network.host("three")
    }

    /// A port of the near proxy, for who is on `three`.
    #[must_use]
    pub fn local(port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// The far proxy's hop port.
    #[must_use]
    pub fn hop(&self) -> SocketAddr {
        (IpAddr::from(self.two().address()), HOP).into()
    }

    /// Attacks while an honest client calls: every one of its requests must succeed, and the memory of both proxies must stay within
    /// `bound` above what it was before, and come back.
    #[track_caller]
    pub fn attack<T>(&mut self, what: &str, bound: Bound, attack: impl FnOnce(&Self) -> T) -> T {
        let load = Load::start(self.three(), URL, HONEST.0, HONEST.1);
        let near = Watch::start("near", self.near.process().pid());
        let far = Watch::start("far", self.far.process().pid());
        let result = attack(self);
        let report = load.finish();
        println!("{what}: the honest client: {report:?}");
        assert!(report.is_clean(), "{what}: {report:?}");
        near.bounded(what, bound.near, SLACK, GIVEN_BACK);
        far.bounded(what, bound.far, SLACK, GIVEN_BACK);
        self.nobody_panicked();
        result
    }

    /// Neither proxy has lost a task.
    #[track_caller]
    pub fn nobody_panicked(&self) {
        for member in [&self.near, &self.far] {
            let log = member.log();
            assert!(!log.contains("panicked"), "{}:\n{log}", member.name);
        }
    }

    /// Waits until a proxy has nothing under way: no connection to `listener`, no exchange.
    #[track_caller]
    pub fn wait_for_metric(&self, member: &Member, name: &str, labels: &[&str], wanted: f64) {
        crate::wait::until(&format!("{name}{labels:?} of {} is {wanted}", member.name), || {
            let page = member.metrics(ADMIN);
            let found = metric(&page, name, labels);
            if (found - wanted).abs() < f64::EPSILON { Ok(()) } else { Err(format!("it is {found}")) }
        });
    }
}

fn nginx(network: &Network, locations: &str) -> Process {
    let command = apps::nginx(network.folder(), "web", APP, locations);
    Process::start("nginx", network.host("two").command(&command[0]).args(&command[1..]), network.folder())
}

/// The sum of a metric's series that carry all of `labels`, each as `name="value"`.
#[must_use]
pub fn metric(page: &str, name: &str, labels: &[&str]) -> f64 {
    page.lines()
        .filter(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|l| labels.iter().all(|label| l.contains(label)))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}
