//! Running a load against a pair, and what is read of the pair meanwhile.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use bench::outcome::Outcome;
use testbed::process::run;
use testbed::skip::which;

use crate::sample::{SYSCALLS, Sample};
use crate::setups::{LOAD_CPU, Pair, Site, Speech, own};

/// Beyond its window a load needs this long at most.
const GRACE: Duration = Duration::from_secs(30);
/// Length of the separate run in which system calls are counted: counting them slows them down.
const COUNTING: Duration = Duration::from_millis(500);

/// How long to warm up and to measure, and what besides.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Before the window.
    pub warmup: Duration,
    /// The window.
    pub window: Duration,
    /// Whether system calls are counted: once is enough, they hardly vary.
    pub count: bool,
}

/// Runs a load on host a against a pair.
pub fn load(site: &Site<'_>, pair: &mut Pair, speech: Speech, words: &[&str], times: Times) -> anyhow::Result<Outcome> {
    let command = command(site, pair, speech, words, times)?;
    outcome(command, times)
}

/// The same, as a sample with everything that can be read of it.
pub fn sample(
    site: &Site<'_>,
    pair: &mut Pair,
    speech: Speech,
    words: &[&str],
    times: Times,
) -> anyhow::Result<Sample> {
    let mut sample = Sample::default();
    sample.fill(&load(site, pair, speech, words, times)?);
    if times.count
        && let Some(count) = system_calls(site, pair, speech, words)?
    {
        sample.set(SYSCALLS, count);
    }
    pair.forget_logs();
    Ok(sample)
}

/// The command of a load, to be run or started.
pub fn command(
    site: &Site<'_>,
    pair: &mut Pair,
    speech: Speech,
    words: &[&str],
    times: Times,
) -> anyhow::Result<Command> {
    let target = format!("127.0.0.1:{}", speech.near());
    let watch: Vec<String> = pair.pids().iter().map(u32::to_string).collect();
    let mut command = site.network.host("a").command("taskset");
    command.args(["-c", LOAD_CPU]).arg(own("load")?).args(words).args(["--target", &target]);
    command.args(["--watch", &watch.join(",")]);
    command.args(["--warmup", &times.warmup.as_millis().to_string()]);
    command.args(["--window", &times.window.as_millis().to_string()]);
    Ok(command)
}

/// Runs a generator to its end and reads what it tells.
pub fn outcome(mut command: Command, times: Times) -> anyhow::Result<Outcome> {
    let output = run(&mut command, times.warmup + times.window + GRACE);
    anyhow::ensure!(output.code == 0, "{command:?}: {}{}", output.stdout, output.stderr);
    read(&output.stdout)
}

/// The last line of what a generator printed.
pub fn read(text: &str) -> anyhow::Result<Outcome> {
    let line = text.lines().last().context("the generator printed nothing")?;
    serde_json::from_str(line).with_context(|| format!("from the generator: {line}"))
}

/// System calls per request and proxy, by the kernel's tracepoint; none where perf may not.
fn system_calls(site: &Site<'_>, pair: &mut Pair, speech: Speech, words: &[&str]) -> anyhow::Result<Option<f64>> {
    if can_count().is_err() {
        return Ok(None);
    }
    // Everything is counted from before the first connection to after the last, and divided by everything that was done.
    let times = Times { warmup: Duration::ZERO, window: COUNTING, count: false };
    let load = command(site, pair, speech, words, times)?;
    let file = site.network.folder().join("perf.csv");
    let pids: Vec<String> = pair.pids().iter().map(u32::to_string).collect();
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &pids.join(","), "-o"]).arg(&file).arg("--");
    perf.arg(load.get_program()).args(load.get_args());
    let told = outcome(perf, times)?;
    let text = std::fs::read_to_string(&file)?;
    let count = text.lines().find(|l| l.contains("sys_enter")).and_then(|l| l.split(',').next()?.parse::<f64>().ok());
    Ok(count.filter(|_| told.done_ever > 0).map(|count| count / told.done_ever as f64 / 2.0))
}

/// Why system calls cannot be counted here, if so.
pub fn can_count() -> Result<(), String> {
    static ANSWER: std::sync::OnceLock<Result<(), String>> = std::sync::OnceLock::new();
    ANSWER
        .get_or_init(|| {
            let perf = which("perf").ok_or("perf is not installed")?;
            let mut command = Command::new(perf);
            command.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "--", "true"]);
            let output = run(&mut command, GRACE);
            let counted = output.stderr.lines().any(|l| l.split(',').next().is_some_and(|n| n.parse::<u64>().is_ok()));
            if counted { Ok(()) } else { Err(format!("perf may not count them: {}", output.stderr.trim())) }
        })
        .clone()
}
