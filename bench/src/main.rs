//! Leno beside other proxies: the same pair topology, the same load, alternating order, one report.
//!
//! `setups` knows the proxies, `scenarios` what is asked of them, `runner` how a load is run against a pair, `report` what is
//! said of it. Quote ratios against the relay of the same run, never absolute numbers from another.

mod machine;
mod report;
mod rounds;
mod runner;
mod sample;
mod scenarios;
mod setups;

use std::time::Duration;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use report::Results;
use runner::Times;
use scenarios::Scenario;

/// Descriptors: an idle scenario holds 20,000 in one process.
const DESCRIPTORS: u64 = 131_072;

/// Rounds and milliseconds of a window unless told otherwise, and fewest of a run that is quoted: a median needs three.
const ROUNDS: usize = 3;
const WINDOW: u64 = 1500;

/// Before each window: connections open, pools fill.
const WARMUP: Duration = Duration::from_millis(400);

/// Compares proxy pairs: prints tables, and writes JSON with --json.
#[derive(Debug, Parser)]
struct Arguments {
    /// Pairs to run, in this order and then reversed, round by round; leno-1w and leno-2w only when named
    #[arg(long, value_delimiter = ',', default_values_t = setups::PAIRS.iter().map(|p| (*p).to_owned()))]
    pairs: Vec<String>,
    /// Scenarios to run; all by default, `--list` tells them
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<String>,
    /// A few scenarios, one round, short windows: to see that it works, not to quote
    #[arg(long)]
    quick: bool,
    /// Print the scenarios and end
    #[arg(long)]
    list: bool,
    /// Rounds; medians are printed
    #[arg(long)]
    rounds: Option<usize>,
    /// Milliseconds of each measurement
    #[arg(long)]
    window: Option<u64>,
    /// Write every measurement here
    #[arg(long)]
    json: Option<std::path::PathBuf>,
    /// Write tables and plots into README and guide of this checkout
    #[arg(long)]
    docs: Option<std::path::PathBuf>,
    /// Write the report here too
    #[arg(long)]
    report: Option<std::path::PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.list {
        scenarios::ALL.iter().for_each(|s| println!("{:<12} {}", s.name, s.about));
        return Ok(());
    }
    let chosen = choose(&arguments)?;
    anyhow::ensure!(rustix::process::geteuid().is_root(), "needs root for network namespaces");
    raise_descriptors();
    let facts = machine::facts();
    eprintln!("{facts:#}");
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 1 } else { ROUNDS });
    let window = arguments.window.unwrap_or(if arguments.quick { 1000 } else { WINDOW });
    let times = Times { warmup: WARMUP, window: Duration::from_millis(window), count: true };
    let results = rounds::run(&arguments.pairs, &chosen, rounds, times)?;
    let heading = heading(&facts, &results);
    let tables = report::tables(&results, &chosen, &arguments.pairs);
    let text = format!("{heading}{}{tables}", report::goals::table(&results));
    print!("{text}");
    if let Some(root) = &arguments.docs {
        let unfit = unfit(&results, rounds, window);
        let left = report::docs::write(root, &results, &text, &heading, &arguments.pairs, unfit)?;
        if !left.is_empty() {
            eprintln!("README.md is left as it is, since this run is not one to quote: {}", left.join("; "));
        }
    }
    if let Some(file) = &arguments.report {
        std::fs::write(file, &text)?;
    }
    if let Some(file) = &arguments.json {
        std::fs::write(file, report::json(&results, &facts))?;
    }
    anyhow::ensure!(results.failures == 0, "{} measurements failed, see above", results.failures);
    Ok(())
}

/// Why figures of this run are not to be quoted, whatever was measured.
fn unfit(results: &Results, rounds: usize, window: u64) -> Vec<String> {
    let mut unfit = Vec::new();
    if rounds < ROUNDS {
        unfit.push(format!("{rounds} of at least {ROUNDS} rounds"));
    }
    if window < WINDOW {
        unfit.push(format!("windows of {window} ms, at least {WINDOW} are needed"));
    }
    unfit.extend(machine::warning(results.others));
    unfit
}

/// As far as this process may; what is started inherits it. Where the hard limit is low, the scenario with idle connections
/// holds fewer and says so.
fn raise_descriptors() {
    let limits = [DESCRIPTORS, getrlimit(Resource::Nofile).maximum.unwrap_or(DESCRIPTORS)];
    for limit in limits {
        if setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) }).is_ok() {
            return;
        }
    }
}

fn choose(arguments: &Arguments) -> anyhow::Result<Vec<&'static Scenario>> {
    for name in &arguments.scenario {
        anyhow::ensure!(scenarios::ALL.iter().any(|s| s.name == name), "no scenario {name}; --list tells them");
    }
    let wanted = |s: &&Scenario| {
        if arguments.scenario.is_empty() {
            !arguments.quick || s.quick
        } else {
            arguments.scenario.iter().any(|n| n == s.name)
        }
    };
    Ok(scenarios::ALL.iter().filter(wanted).collect())
}

fn heading(facts: &serde_json::Value, results: &Results) -> String {
    let say = |name: &str| facts[name].as_str().unwrap_or_default().to_owned();
    let warning = machine::warning(results.others).map(|w| format!("**Mind: {w}.**\n")).unwrap_or_default();
    format!(
        "{}, {} CPUs ({}), kernel {}; nginx {}, HAProxy {}, Envoy {}, Leno {} ({}).\n\
         Medians of the rounds, lowest and highest in brackets; × is the ratio to the bare relay of the same round.\n{warning}",
        say("date"),
        facts["cpus"],
        say("cpu"),
        say("kernel"),
        say("nginx"),
        say("haproxy"),
        say("envoy"),
        say("leno"),
        say("commit")
    )
}
