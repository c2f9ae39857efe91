//! A bad network between the hosts: lost packets, or delay. The kernel of many machines has no netem, so packets are lost by
//! nftables' `numgen` and delayed by a relay between two TUN devices.

use testbed::Host;
use testbed::apps::PYTHON;
use testbed::process::Process;

use crate::runner::{self, Times};
use crate::sample::Sample;
use crate::setups::{LOAD_CPU, Pair, Site, Speech};

/// What is bad about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Impairment {
    /// One packet in a hundred is lost, each way.
    Loss,
    /// Ten milliseconds, each way.
    Delay,
}

const LOAD: [&str; 5] = ["http", "--connections", "64", "--rate", "1000"];
/// Milliseconds before and of the window: enough lost packets, and 5,000 requests.
const WINDOW: (u64, u64) = (1_500, 5_000);

/// See the module.
pub fn run(site: &Site<'_>, pair: &mut Pair, how: Impairment, times: Times) -> anyhow::Result<Sample> {
    let own = Times { count: times.count, ..super::times(WINDOW.0, WINDOW.1) };
    let hosts = ["a", "b"].map(|h| site.network.host(h).clone());
    match how {
        Impairment::Loss => {
            let _lossy = hosts.map(Lossy::new);
            runner::sample(site, pair, Speech::Http, &LOAD, own)
        }
        Impairment::Delay => {
            let mut delay = Delay::new(site, &hosts);
            let sample = runner::sample(site, pair, Speech::Http, &LOAD, own);
            delay.end();
            sample
        }
    }
}

/// Loses packets that reach this host from the other, until dropped.
struct Lossy(Host);

impl Lossy {
    fn new(host: Host) -> Self {
        let rules = "table inet lossy {\n chain in {\n type filter hook input priority 0; policy accept;\n \
                     iifname \"eth0\" meta l4proto tcp numgen random mod 100 == 0 drop\n }\n}\n";
        let _ = host.run("nft", &[rules]).ok();
        Self(host)
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        let _ = self.0.run("nft", &["delete", "table", "inet", "lossy"]);
    }
}

/// Sends everything between the hosts through `programs/delay.py`, until ended.
struct Delay {
    relay: Process,
    hosts: [Host; 2],
}

impl Delay {
    fn new(site: &Site<'_>, hosts: &[Host; 2]) -> Self {
        let program = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/delay.py");
        let mut command = std::process::Command::new("taskset");
        command.args(["-c", LOAD_CPU, PYTHON]).arg(program).arg("10").args(hosts.iter().map(Host::namespace));
        let mut relay = Process::start(&format!("delay-{}", site.start), &mut command, site.network.folder());
        relay.wait_for_line("ready", |l| (l == "ready").then_some(()));
        for (host, other) in [(&hosts[0], &hosts[1]), (&hosts[1], &hosts[0])] {
            let to = format!("{}/32", other.address());
            let from = host.address().to_string();
            let _ = host.run("ip", &["route", "add", &to, "dev", "delay0", "src", &from]).ok();
        }
        Self { relay, hosts: hosts.clone() }
    }

    /// The devices go with the relay, and the routes with the devices.
    fn end(&mut self) {
        self.relay.end();
        for host in &self.hosts {
            testbed::wait::until("the delay is gone", || {
                let left = host.run("ip", &["link", "show", "delay0"]);
                if left.code == 0 { Err(left.stdout) } else { Ok(()) }
            });
        }
    }
}
