//! What the run says: a table for each scenario, and everything as JSON.

pub mod docs;
pub mod goals;
mod plot;
mod statistics;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::sample::{self, Metric, Sample};
use crate::scenarios::Scenario;

pub use statistics::Spread;

/// Every sample of a run.
#[derive(Debug, Default)]
pub struct Results {
    /// In the order they were measured.
    pub samples: Vec<Sample>,
    /// Pair, scenario and why it is missing.
    pub left_out: BTreeMap<(String, String), String>,
    /// The largest share of the machine that others used at the beginning of a round.
    pub others: f64,
    /// How many measurements failed.
    pub failures: usize,
}

impl Results {
    /// Notes why something is missing.
    pub fn leave_out(&mut self, pair: &str, scenario: &str, why: String) {
        self.left_out.insert((pair.to_owned(), scenario.to_owned()), why);
    }

    /// Notes and tells what failed.
    pub fn fail(&mut self, round: usize, pair: &str, scenario: &str, error: &anyhow::Error) {
        eprintln!("round {round} {scenario:<12} {pair:<9} FAILED: {error:#}");
        self.failures += 1;
        let why = error.to_string().lines().next().unwrap_or_default().to_owned();
        self.leave_out(pair, scenario, format!("it failed: {why}"));
    }

    /// Values of a pair over the rounds.
    pub fn of(&self, scenario: &str, pair: &str, metric: Metric) -> Option<Spread> {
        Spread::of(
            self.samples.iter().filter(|s| s.scenario == scenario && s.pair == pair).filter_map(|s| s.get(metric)),
        )
    }

    /// Ratios of a pair to another one, each of the same round.
    pub fn ratio(&self, scenario: &str, pair: &str, to: &str, metric: Metric) -> Option<Spread> {
        let by_round = |name: &str| -> BTreeMap<usize, f64> {
            let own = self.samples.iter().filter(|s| s.scenario == scenario && s.pair == name);
            own.filter_map(|s| Some((s.round, s.get(metric)?))).collect()
        };
        let (own, other) = (by_round(pair), by_round(to));
        let ratios = own.iter().filter_map(|(round, value)| Some(value / other.get(round).filter(|o| **o > 0.0)?));
        Spread::of(ratios)
    }

    fn pairs(&self, scenario: &str, order: &[String]) -> Vec<String> {
        let measured = |pair: &&String| self.samples.iter().any(|s| s.scenario == scenario && s.pair == **pair);
        order.iter().filter(measured).cloned().collect()
    }
}

/// A Markdown table for each scenario: medians with lowest and highest over the rounds, and ratios to the relay.
pub fn tables(results: &Results, scenarios: &[&Scenario], pairs: &[String]) -> String {
    let mut text = String::new();
    for scenario in scenarios {
        let rows = results.pairs(scenario.name, pairs);
        if rows.is_empty() {
            continue;
        }
        text.push_str(&format!("\n### {}: {}\n\n", scenario.name, scenario.about));
        let has = |m: &Metric| rows.iter().any(|pair| results.of(scenario.name, pair, *m).is_some());
        let columns: Vec<Metric> = sample::ALL.iter().copied().filter(has).collect();
        let titles: Vec<&str> = columns.iter().map(|m| m.title).collect();
        text.push_str(&format!("| pair | {} |\n|---|{}\n", titles.join(" | "), "---|".repeat(titles.len())));
        for pair in &rows {
            let cells: Vec<String> = columns.iter().map(|m| cell(results, scenario.name, pair, *m)).collect();
            text.push_str(&format!("| {pair} | {} |\n", cells.join(" | ")));
        }
    }
    for ((pair, scenario), why) in &results.left_out {
        text.push_str(&format!("\nLeft out: {pair} in {scenario}: {why}.\n"));
    }
    text
}

fn cell(results: &Results, scenario: &str, pair: &str, metric: Metric) -> String {
    let Some(spread) = results.of(scenario, pair, metric) else { return "–".to_owned() };
    let mut text = spread.print(metric.digits);
    if metric.relative
        && let Some(ratio) = results.ratio(scenario, pair, "relay", metric)
    {
        text.push_str(&format!(", **×{:.2}**", ratio.median));
    }
    text
}

/// Everything.
pub fn json(results: &Results, facts: &Value) -> String {
    let left_out: Vec<Value> = results
        .left_out
        .iter()
        .map(|((pair, scenario), why)| json!({"pair": pair, "scenario": scenario, "why": why}))
        .collect();
    format!(
        "{:#}\n",
        json!({"machine": facts, "used_by_others": results.others, "samples": results.samples, "left_out": left_out})
    )
}
