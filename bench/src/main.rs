//! Leno beside other proxies: the same pair topology, the same load, alternating order, one report.
//!
//! `setups` knows the proxies, `scenarios` what is asked of them, `runner` how a load is run against a pair, `report` what is
//! said of it. Quote ratios against the relay of the same run, never absolute numbers from another.

mod machine;
mod report;
mod runner;
mod sample;
mod scenarios;
mod setups;

use std::time::Duration;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use testbed::Network;

use report::Results;
use runner::Times;
use scenarios::Scenario;
use setups::Site;

/// Descriptors: an idle scenario holds 20,000 in one process.
const DESCRIPTORS: u64 = 131_072;

/// Compares proxy pairs: prints tables, and writes JSON with --json.
#[derive(Debug, Parser)]
struct Arguments {
    /// Pairs to run, in this order and then reversed, round by round
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
    let results = measure(&arguments, &chosen)?;
    let heading = heading(&facts);
    let tables = report::tables(&results, &chosen, &arguments.pairs);
    let text = format!("{heading}{}{tables}", report::goals::table(&results));
    print!("{text}");
    if let Some(root) = &arguments.docs {
        report::docs::write(root, &results, &text, &heading, &arguments.pairs)?;
    }
    if let Some(file) = &arguments.report {
        std::fs::write(file, &text)?;
    }
    if let Some(file) = &arguments.json {
        std::fs::write(file, report::json(&results, &facts))?;
    }
    Ok(())
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

fn measure(arguments: &Arguments, chosen: &[&'static Scenario]) -> anyhow::Result<Results> {
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 1 } else { 3 });
    let window = arguments.window.unwrap_or(if arguments.quick { 1000 } else { 1500 });
    let times = Times { warmup: Duration::from_millis(400), window: Duration::from_millis(window), count: true };
    let mut results = Results::default();
    let network = Network::new(&["a", "b"]);
    let mut site = Site::new(&network);
    let _application = setups::application(&network)?;
    if let Err(why) = runner::can_count() {
        eprintln!("system calls are left out: {why}");
    }
    let mut pairs = arguments.pairs.clone();
    pairs.retain(|name| match setups::missing(name) {
        None => true,
        Some(why) => {
            eprintln!("{name} is left out: {why}");
            results.left_out.insert((name.clone(), "all".to_owned()), why);
            false
        }
    });
    for round in 0..rounds {
        if let Some(warning) = machine::warning(machine::used_by_others()) {
            eprintln!("round {round}: {warning}");
        }
        let now: Vec<&Scenario> = chosen.iter().copied().filter(|s| round == 0 || !s.once()).collect();
        let times = Times { count: round == 0, ..times };
        for name in &pairs {
            let (wanted, not): (Vec<&Scenario>, Vec<&Scenario>) = now.iter().partition(|s| s.left_out(name).is_none());
            for scenario in not {
                let why = scenario.left_out(name).unwrap_or_default().to_owned();
                results.left_out.insert((name.clone(), scenario.name.to_owned()), why);
            }
            // Those that need room for many connections have a pair of their own: room costs memory in some proxies.
            let (few, many): (Vec<&Scenario>, Vec<&Scenario>) =
                wanted.iter().partition(|s| s.capacity() <= setups::FEW);
            for group in [few, many] {
                let Some(capacity) = group.iter().map(|s| s.capacity()).max() else { continue };
                (site.start, site.capacity) = (site.start + 1, capacity);
                one_pair(&site, name, round, &group, times, &mut results)?;
            }
        }
        pairs.reverse();
    }
    Ok(results)
}

/// Starts a pair, asks it everything of a group, ends it. A scenario that fails is told and does not end the run.
fn one_pair(
    site: &Site<'_>,
    name: &str,
    round: usize,
    group: &[&Scenario],
    times: Times,
    results: &mut Results,
) -> anyhow::Result<()> {
    let mut pair = setups::start(site, name)?;
    for scenario in group {
        let mut sample = match scenario.run(site, &mut pair, times) {
            Ok(sample) => sample,
            Err(error) => {
                eprintln!("round {round} {:<12} {name:<9} FAILED: {error:#}", scenario.name);
                results.left_out.insert((name.to_owned(), scenario.name.to_owned()), format!("it failed: {error:#}"));
                continue;
            }
        };
        (sample.scenario, sample.pair, sample.round) = (scenario.name.to_owned(), name.to_owned(), round);
        sample.values.insert("idle_resident_mb", pair.idle.resident as f64 / 2048.0);
        sample.values.insert("idle_anonymous_mb", pair.idle.anonymous as f64 / 2048.0);
        sample.values.insert("ready_millis", pair.ready.as_secs_f64() * 1e3);
        eprintln!("round {round} {:<12} {name:<9} {} {}", scenario.name, line(&sample), sample.note);
        results.samples.push(sample);
    }
    Ok(())
}

fn line(sample: &sample::Sample) -> String {
    let told = sample::ALL.iter().filter_map(|m| Some(format!("{} {:.*}", m.title, m.digits, sample.get(*m)?)));
    told.collect::<Vec<_>>().join(", ")
}

fn heading(facts: &serde_json::Value) -> String {
    let say = |name: &str| facts[name].as_str().unwrap_or_default().to_owned();
    format!(
        "{}, {} CPUs ({}), kernel {}; nginx {}, HAProxy {}, Envoy {}, Leno {} ({}).\n\
         Medians of the rounds, lowest and highest in brackets; × is the ratio to the bare relay of the same round.\n",
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
