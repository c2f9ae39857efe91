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
/// Lengths of two separate runs in which system calls are counted: counting them slows them down.
const COUNTING: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(700)];

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
    // perf counts from before the first connection to after the last. What the longer run has more of both is free of that.
    let mut counted = [(0.0, 0.0); 2];
    for (place, window) in COUNTING.into_iter().enumerate() {
        counted[place] = count(site, pair, speech, words, window)?;
    }
    let [(short, fewer), (long, more)] = counted;
    Ok(Some((long - short) / (more - fewer) / 2.0).filter(|each| more > fewer && *each > 0.0))
}

/// System calls of both proxies, and what was done, from the beginning to the end of one load.
fn count(
    site: &Site<'_>,
    pair: &mut Pair,
    speech: Speech,
    words: &[&str],
    window: Duration,
) -> anyhow::Result<(f64, f64)> {
    let times = Times { warmup: Duration::ZERO, window, count: false };
    let load = command(site, pair, speech, words, times)?;
    let file = site.network.folder().join("perf.csv");
    let pids: Vec<String> = pair.pids().iter().map(u32::to_string).collect();
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &pids.join(","), "-o"]).arg(&file).arg("--");
    perf.arg(load.get_program()).args(load.get_args());
    let told = outcome(perf, times)?;
    let text = std::fs::read_to_string(&file)?;
    let count = text.lines().find(|l| l.contains("sys_enter")).and_then(|l| l.split(',').next()?.parse().ok());
    Ok((count.with_context(|| format!("perf counted nothing: {text}"))?, told.done_ever as f64))
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
