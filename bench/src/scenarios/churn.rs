//! Changes of the configuration under load: an endpoint of the called service changes 100 times a second.

use anyhow::Context;
use testbed::process::Process;

use crate::runner::{self, Times};
use crate::sample::{CHANGES, CPU_RATIO, P99_BEFORE, P99_RATIO, Sample};
use crate::setups::{LOAD_CPU, Pair, Site, Speech, leno, own};

const LOAD: [&str; 3] = ["http", "--connections", "64"];

/// See the module, and the generator's `churn`.
pub fn run(site: &Site<'_>, pair: &mut Pair, times: Times) -> anyhow::Result<Sample> {
    let before = runner::load(site, pair, Speech::Http, &LOAD, times)?;
    let members = pair.mesh().context("only Leno has a control plane")?;
    let host = site.network.host("b");
    let mut command = host.command("taskset");
    command.args(["-c", LOAD_CPU]).arg(own("load")?).args(["churn", "--target", &members.mesh().join, "--state"]);
    command.arg(members.far_state()).args(["--hop", &format!("{}:{}", host.address(), leno::HOP), "--service", "web"]);
    command.args(leno::ports("--port"));
    // Begins before the load and outlives it.
    let length = times.warmup * 2 + times.window * 2;
    command.args(["--warmup", "0", "--window", &length.as_millis().to_string()]);
    let mut changes = Process::start(&format!("churn-{}", site.start), &mut command, site.network.folder());
    let load = runner::load(site, pair, Speech::Http, &LOAD, times)?;
    changes.wait();
    let told = runner::read(&changes.log())?;
    let mut sample = Sample::default();
    sample.fill(&load);
    let cpu = |o: &bench::outcome::Outcome| o.usage.cpu as f64 / o.done as f64;
    sample.set(CPU_RATIO, cpu(&load) / cpu(&before));
    sample.set(P99_BEFORE, before.p99);
    sample.set(P99_RATIO, load.p99 / before.p99);
    sample.set(CHANGES, told.done as f64 / told.seconds);
    pair.forget_logs();
    Ok(sample)
}
