//! The run: rounds over pairs over scenarios, in alternating order. What fails is told, left out, and does not end the run.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::bail;
use testbed::Network;
use tokio::signal::unix::{SignalKind, signal};

use crate::machine;
use crate::report::Results;
use crate::runner::{self, Times};
use crate::sample::{self, Sample};
use crate::scenarios::Scenario;
use crate::setups::{self, FEW, Pair, Site};

/// Runs everything that was asked for.
pub fn run(pairs: &[String], chosen: &[&'static Scenario], rounds: usize, times: Times) -> anyhow::Result<Results> {
    let stop = stop_on_signals();
    let mut results = Results::default();
    let network = Network::new(&["a", "b"]);
    let mut site = Site::new(&network);
    let _application = setups::application(&network)?;
    if let Err(why) = runner::can_count() {
        eprintln!("system calls are left out: {why}");
    }
    let mut pairs = pairs.to_vec();
    pairs.retain(|name| match setups::missing(name) {
        None => true,
        Some(why) => {
            eprintln!("{name} is left out: {why}");
            results.leave_out(name, "all", why);
            false
        }
    });
    for round in 0..rounds {
        let others = machine::used_by_others();
        results.others = results.others.max(others);
        if let Some(warning) = machine::warning(others) {
            eprintln!("round {round}: {warning}");
        }
        let times = Times { count: round == 0, ..times };
        for name in &pairs {
            for group in groups(name, chosen, round, &mut results) {
                let Some(capacity) = group.iter().map(|s| s.capacity()).max() else { continue };
                (site.start, site.capacity) = (site.start + 1, capacity);
                one_pair(&site, name, round, &group, times, &stop, &mut results)?;
            }
        }
        pairs.reverse();
    }
    Ok(results)
}

/// What is asked of a pair in this round. Scenarios that need room for many connections have a pair of their own: in some
/// proxies room costs memory.
fn groups(
    name: &str,
    chosen: &[&'static Scenario],
    round: usize,
    results: &mut Results,
) -> [Vec<&'static Scenario>; 2] {
    let mut groups = [Vec::new(), Vec::new()];
    for &scenario in chosen.iter().filter(|s| round == 0 || !s.once()) {
        match scenario.left_out(name) {
            Some(why) => results.leave_out(name, scenario.name, why.to_owned()),
            None => groups[usize::from(scenario.capacity() > FEW)].push(scenario),
        }
    }
    groups
}

/// Starts a pair, asks it everything of a group, ends it.
fn one_pair(
    site: &Site<'_>,
    name: &str,
    round: usize,
    group: &[&Scenario],
    times: Times,
    stop: &AtomicBool,
    results: &mut Results,
) -> anyhow::Result<()> {
    let mut pair = match guarded(|| setups::start(site, name)) {
        Ok(pair) => pair,
        Err(error) => {
            results.fail(round, name, "all", &error);
            return Ok(());
        }
    };
    for scenario in group {
        anyhow::ensure!(!stop.load(Ordering::Relaxed), "stopped by a signal");
        let dropped = pair.dropped_records();
        match guarded(|| scenario.run(site, &mut pair, times)) {
            Ok(mut sample) => {
                (sample.scenario, sample.pair, sample.round) = (scenario.name.to_owned(), name.to_owned(), round);
                describe(&mut sample, &pair, dropped);
                eprintln!("round {round} {:<12} {name:<9} {} {}", scenario.name, sample::line(&sample), sample.note);
                results.samples.push(sample);
            }
            Err(error) => results.fail(round, name, scenario.name, &error),
        }
    }
    Ok(())
}

fn describe(sample: &mut Sample, pair: &Pair, dropped: u64) {
    sample.values.insert("idle_resident_mb", pair.idle.resident as f64 / 2048.0);
    sample.values.insert("idle_anonymous_mb", pair.idle.anonymous as f64 / 2048.0);
    sample.values.insert("ready_millis", pair.ready.as_secs_f64() * 1e3);
    let dropped = pair.dropped_records().saturating_sub(dropped);
    if dropped > 0 {
        sample.set(sample::DROPPED, dropped as f64);
    }
}

/// The testbed says by panics what did not come about; here that is one scenario's failure.
fn guarded<T>(what: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    match std::panic::catch_unwind(AssertUnwindSafe(what)) {
        Ok(result) => result,
        Err(panic) => match panic.downcast::<String>() {
            Ok(text) => bail!("{text}"),
            Err(panic) => bail!("{}", panic.downcast::<&str>().map_or("a panic", |text| *text)),
        },
    }
}

/// Ends between two scenarios on SIGINT and SIGTERM, so that namespaces and processes are taken away.
fn stop_on_signals() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            told.store(true, Ordering::Relaxed);
            eprintln!("stopping after this scenario");
            std::io::Result::Ok(())
        })
    });
    stop
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_failure_with_its_words() {
        assert_eq!(guarded(|| Ok(1)).unwrap(), 1);
        let number = 7;
        assert_eq!(guarded::<()>(|| panic!("no port {number}")).unwrap_err().to_string(), "no port 7");
        assert_eq!(guarded::<()>(|| panic!("no port")).unwrap_err().to_string(), "no port");
    }
}
