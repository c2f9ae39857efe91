//! One measurement: wrk for some seconds, and what the two proxies' CPU and memory did meanwhile.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use testbed::Network;
use testbed::process::run;

use crate::setups::Pair;

/// One pair under one load.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// The pair.
    pub pair: String,
    /// Connections of the load.
    pub connections: u32,
    /// Requests per second.
    pub rate: f64,
    /// CPU per request and proxy in microseconds: the mean of both proxies.
    pub cpu_micros: f64,
    /// Latencies in microseconds.
    pub p50: f64,
    /// See `p50`.
    pub p99: f64,
    /// Resident memory per proxy in MB before the first load.
    pub rss_idle: f64,
    /// And after this load.
    pub rss: f64,
    /// From start to ready in milliseconds, of the slower proxy.
    pub ready_millis: f64,
    /// Answers other than 2xx, and broken connections.
    pub errors: u64,
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<6} c={:<4} {:>8.0} req/s  {:>6.1} us CPU/req/proxy  p50 {:>6.0} us  p99 {:>6.0} us  {:>5.1} MB  {} errors",
            self.pair, self.connections, self.rate, self.cpu_micros, self.p50, self.p99, self.rss, self.errors
        )
    }
}

/// Loads the pair and reads the counters around it.
pub fn one(network: &Network, pair: &mut Pair, connections: u32, time: Duration) -> anyhow::Result<Measurement> {
    let url = pair.url.clone();
    wrk(network, &url, connections, Duration::from_secs(1))?; // connections are open and pools are full before it counts
    let before = cpu(&pair.pids())?;
    let text = wrk(network, &url, connections, time)?;
    let spent = cpu(&pair.pids())? - before;
    let field = |name: &str| -> anyhow::Result<f64> {
        let line = text.lines().find_map(|l| l.strip_prefix(name)).with_context(|| format!("no {name} in\n{text}"))?;
        Ok(line.trim().parse()?)
    };
    let requests = field("REQUESTS")?;
    Ok(Measurement {
        pair: pair.name.clone(),
        connections,
        rate: requests / (field("DURATION_US")? / 1e6),
        cpu_micros: spent / 1e3 / requests / 2.0,
        p50: field("P50_US")?,
        p99: field("P99_US")?,
        rss_idle: pair.rss_idle,
        rss: rss(&pair.pids())? / 2.0,
        ready_millis: pair.ready.as_secs_f64() * 1e3,
        errors: field("ERRORS")? as u64,
    })
}

const REPORT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("REQUESTS %d\nDURATION_US %d\nP50_US %d\nP99_US %d\nERRORS %d\n", summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

fn wrk(network: &Network, url: &str, connections: u32, time: Duration) -> anyhow::Result<String> {
    let script = network.folder().join("report.lua");
    std::fs::write(&script, REPORT)?;
    let mut command = network.host("a").command("taskset");
    command.args(["-c", "0", "wrk", "-t", "1", "-c", &connections.to_string(), "-d", &format!("{}s", time.as_secs())]);
    command.arg("-s").arg(&script).arg(url);
    Ok(run(&mut command, time + Duration::from_secs(30)).ok())
}

/// Nanoseconds on a CPU of every thread of these processes.
fn cpu(pids: &[u32]) -> anyhow::Result<f64> {
    let mut total = 0.0;
    for pid in pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            total += text.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
        }
    }
    Ok(total)
}

/// Resident memory of these processes in MB.
pub fn rss(pids: &[u32]) -> anyhow::Result<f64> {
    let mut total = 0.0;
    for pid in pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("0 kB");
        total += line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0;
    }
    Ok(total)
}
