//! Full mutual TLS handshakes with proxy B: how many it answers with a second of its CPU.

use crate::runner::{self, Times};
use crate::sample::{CPU, ERRORS, HANDSHAKES, P50, P99, RATE, Sample};
use crate::setups::{LOAD_CPU, Pair, Site, Speech, leno, own};

/// See the module.
pub fn run(site: &Site<'_>, pair: &mut Pair, times: Times) -> anyhow::Result<Sample> {
    let (target, identity, alpn) = match pair.mesh() {
        Some(members) => {
            (format!("{}:{}", site.network.host("b").address(), leno::HOP), members.identity(), Some("leno/1"))
        }
        None => (site.far(Speech::Http), site.certificates.both.clone(), None),
    };
    // Proxy B alone works here.
    let far = pair.pids().first().copied().unwrap_or_default();
    let mut command = site.network.host("a").command("taskset");
    command
        .args(["-c", LOAD_CPU])
        .arg(own("load")?)
        .args(["handshakes", "--target", &target, "--identity"])
        .arg(identity);
    command.args(alpn.iter().flat_map(|alpn| ["--alpn", alpn]));
    command.args(["--watch", &far.to_string(), "--warmup", &times.warmup.as_millis().to_string()]);
    command.args(["--window", &times.window.as_millis().to_string()]);
    let outcome = runner::outcome(command, times)?;
    anyhow::ensure!(outcome.done > 0, "no handshake succeeded");
    let each = outcome.usage.cpu as f64 / outcome.done as f64;
    let mut sample = Sample { note: outcome.note, ..Sample::default() };
    sample.set(RATE, outcome.done as f64 / outcome.seconds);
    sample.set(HANDSHAKES, 1e9 / each);
    sample.set(CPU, each / 1e3);
    sample.set(P50, outcome.p50);
    sample.set(P99, outcome.p99);
    sample.set(ERRORS, outcome.errors as f64);
    Ok(sample)
}
