//! Leno beside other proxies: the same pair topology, the same load, alternating order, one table.
//!
//! ```text
//!   host a: wrk ─▶ proxy A ══ mTLS ══▶ host b: proxy B ─▶ nginx (the application)
//!   client and application on CPU 0, both proxies on CPU 1
//! ```
//!
//! CPU is read from the scheduler (`/proc/PID/task/*/schedstat`, nanoseconds), so a noisy neighbour moves latency, not it.
//! Quote ratios against the relay of the same run.

mod measure;
mod report;
mod setups;

use std::time::Duration;

use clap::Parser;
use testbed::Network;

/// Compares proxy pairs and prints a table; JSON goes to --json.
#[derive(Debug, Parser)]
struct Arguments {
    /// Pairs to run, in this order and then reversed, round by round
    #[arg(long, value_delimiter = ',', default_value = "relay,nginx,envoy,leno")]
    pairs: Vec<String>,
    /// Connections of the load generator
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,256")]
    connections: Vec<u32>,
    /// Rounds; medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Bytes of an answer
    #[arg(long, default_value_t = 1024)]
    body: usize,
    /// Write every measurement here
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    anyhow::ensure!(rustix::process::geteuid().is_root(), "needs root for network namespaces");
    let network = Network::new(&["a", "b"]);
    let _application = setups::application(&network, arguments.body);
    let mut measurements = Vec::new();
    for round in 0..arguments.rounds {
        let mut order = arguments.pairs.clone();
        if round % 2 == 1 {
            order.reverse();
        }
        for name in &order {
            let Some(mut pair) = setups::start(&network, name, round)? else {
                eprintln!("{name}: not installed, left out");
                continue;
            };
            for &connections in &arguments.connections {
                let m = measure::one(&network, &mut pair, connections, Duration::from_secs(arguments.seconds))?;
                eprintln!("round {round} {m}");
                measurements.push(m);
            }
        }
    }
    print!("{}", report::table(&measurements, &arguments.connections, &arguments.pairs));
    if let Some(file) = &arguments.json {
        std::fs::write(file, report::json(&measurements))?;
    }
    Ok(())
}
