//! The goals of the engine: what was promised, what was measured, and how the peers did in the same run.

use super::Results;
use crate::sample::{CPU, GBPS_PER_CORE, Metric, NEAR_BEFORE, NEAR_EACH, P50, P99, P99_RATIO, RATE, SYSCALLS};

/// Pair that the goals are for: everything on.
const SUBJECT: &str = "leno-all";
/// Shown beside it.
const BESIDE: &[&str] = &["leno", "nginx", "haproxy", "envoy", "envoy-h2"];

/// What a value is compared with.
#[derive(Debug, Clone, Copy)]
enum To {
    /// Nothing: the value itself.
    Itself,
    /// The same of another pair, of the same round.
    Pair(&'static str),
    /// The better of two pairs.
    BetterOf([&'static str; 2]),
    /// What it adds to the relay's, compared with what another pair adds.
    AddedBy(&'static str),
}

/// Which values meet the goal.
#[derive(Debug, Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

struct Goal {
    scenario: &'static str,
    words: &'static str,
    metric: Metric,
    to: To,
    bound: Bound,
}

const fn goal(scenario: &'static str, words: &'static str, metric: Metric, to: To, bound: Bound) -> Goal {
    Goal { scenario, words, metric, to, bound }
}

use Bound::{AtLeast, AtMost};
use To::{AddedBy, BetterOf, Itself, Pair};

const RELAY: To = Pair("relay");

/// In the order of the table in issue 3.
const GOALS: &[Goal] = &[
    goal("h1-c1", "CPU per request, × relay", CPU, RELAY, AtMost(1.12)),
    goal("h1-c8", "CPU per request, × relay", CPU, RELAY, AtMost(1.0)),
    goal("h1-c64", "CPU per request, × relay", CPU, RELAY, AtMost(0.75)),
    goal("h1-c256", "CPU per request, × relay", CPU, RELAY, AtMost(0.72)),
    goal("h1-c1", "p50, × relay", P50, RELAY, AtMost(1.08)),
    goal("h1-16k", "CPU per request, × relay", CPU, RELAY, AtMost(1.15)),
    goal("h1-headers", "CPU per request, × relay", CPU, RELAY, AtMost(0.95)),
    goal("grpc-64", "CPU per call, × envoy-h2", CPU, Pair("envoy-h2"), AtMost(0.35)),
    goal("grpc-64", "p99, × envoy-h2", P99, Pair("envoy-h2"), AtMost(1.0)),
    goal("tcp-bulk", "Gb/s per core, × nginx", GBPS_PER_CORE, Pair("nginx"), AtLeast(1.0)),
    goal("h1-connect", "requests/s, × the better Envoy", RATE, BetterOf(["envoy", "envoy-h2"]), AtLeast(2.0)),
    goal("low", "CPU per request, × relay", CPU, RELAY, AtMost(1.15)),
    goal("low", "p99 added to the relay's, × nginx's", P99, AddedBy("nginx"), AtMost(1.0)),
    goal("slow", "p99 of the others, with / without", P99_RATIO, Itself, AtMost(1.5)),
    goal("loss", "CPU per request, × nginx (a pool of HTTP/1.1)", CPU, Pair("nginx"), AtMost(1.0)),
    goal("loss", "p99, × nginx", P99, Pair("nginx"), AtMost(1.0)),
    goal("delay", "CPU per request, × nginx", CPU, Pair("nginx"), AtMost(1.0)),
    goal("delay", "p99, × nginx", P99, Pair("nginx"), AtMost(1.0)),
    goal("idle", "anonymous MB of the idle sidecar", NEAR_BEFORE, Itself, AtMost(5.0)),
    goal("idle", "anonymous KB per idle connection", NEAR_EACH, Itself, AtMost(4.0)),
    goal("h1-c1", "syscalls per request", SYSCALLS, Itself, AtMost(7.0)),
    goal("h1-c64", "syscalls per request", SYSCALLS, Itself, AtMost(2.6)),
];

/// The table; nothing if no goal was measured.
pub fn table(results: &Results) -> String {
    let mut text = format!(
        "\n### Goals, measured for `{SUBJECT}`\n\n| scenario | goal | bound | {SUBJECT} | | {} |\n|---|---|---|---|---|{}\n",
        BESIDE.join(" | "),
        "---|".repeat(BESIDE.len())
    );
    let mut measured = 0;
    for goal in GOALS {
        let Some(value) = goal.value(results, SUBJECT) else { continue };
        measured += 1;
        let beside: Vec<String> = BESIDE.iter().map(|pair| print(goal.value(results, pair))).collect();
        text.push_str(&format!(
            "| {} | {} | {} | **{}** | {} | {} |\n",
            goal.scenario,
            goal.words,
            goal.bound.print(),
            print(Some(value)),
            goal.bound.judge(value),
            beside.join(" | ")
        ));
    }
    if measured == 0 { String::new() } else { text }
}

fn print(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |v| format!("{v:.2}"))
}

impl Goal {
    fn value(&self, results: &Results, pair: &str) -> Option<f64> {
        let median = |pair: &str| results.of(self.scenario, pair, self.metric).map(|s| s.median);
        let ratio = |to: &str| results.ratio(self.scenario, pair, to, self.metric).map(|s| s.median);
        match self.to {
            To::Itself => median(pair),
            To::Pair(other) => ratio(other),
            To::BetterOf(others) => {
                let better =
                    others.into_iter().filter_map(|o| Some((o, median(o)?))).max_by(|a, b| a.1.total_cmp(&b.1))?.0;
                ratio(better)
            }
            To::AddedBy(other) => {
                let relay = median("relay")?;
                // An addition that is lost in the noise is no measure for another one.
                let allowed = Some(median(other)? - relay).filter(|added| *added > 0.0)?;
                Some((median(pair)? - relay) / allowed)
            }
        }
    }
}

impl Bound {
    fn print(self) -> String {
        match self {
            Self::AtMost(bound) => format!("≤ {bound}"),
            Self::AtLeast(bound) => format!("≥ {bound}"),
        }
    }

    fn judge(self, value: f64) -> String {
        let (met, off) = match self {
            Self::AtMost(bound) => (value <= bound, value / bound - 1.0),
            Self::AtLeast(bound) => (value >= bound, 1.0 - value / bound),
        };
        if met { "met".to_owned() } else { format!("missed by {:.0} %", (off * 100.0).ceil()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;

    fn results(values: &[(&str, &str, Metric, f64)]) -> Results {
        let mut all = Results::default();
        for (scenario, pair, metric, value) in values {
            let mut sample = Sample { scenario: (*scenario).to_owned(), pair: (*pair).to_owned(), ..Sample::default() };
            sample.set(*metric, *value);
            all.samples.push(sample);
        }
        all
    }

    #[test]
    fn a_goal_is_met_or_missed_by_so_much() {
        let all =
            results(&[("h1-c64", "relay", CPU, 10.0), ("h1-c64", "leno-all", CPU, 9.0), ("h1-c64", "leno", CPU, 7.0)]);
        let text = table(&all);
        assert!(
            text.contains("| h1-c64 | CPU per request, × relay | ≤ 0.75 | **0.90** | missed by 20 % | 0.70 |"),
            "{text}"
        );
        let met = results(&[("tcp-bulk", "nginx", GBPS_PER_CORE, 4.0), ("tcp-bulk", "leno-all", GBPS_PER_CORE, 5.0)]);
        assert!(table(&met).contains("**1.25** | met |"), "{}", table(&met));
        assert_eq!(table(&Results::default()), "");
    }

    #[test]
    fn what_is_added_is_compared_and_the_better_envoy_counts() {
        let all = results(&[
            ("low", "relay", P99, 200.0),
            ("low", "nginx", P99, 300.0),
            ("low", "leno-all", P99, 250.0),
            ("h1-connect", "envoy", RATE, 1_000.0),
            ("h1-connect", "envoy-h2", RATE, 2_000.0),
            ("h1-connect", "leno-all", RATE, 3_000.0),
        ]);
        let text = table(&all);
        assert!(text.contains("**0.50** | met"), "{text}");
        assert!(text.contains("**1.50** | missed by 25 %"), "{text}");
    }
}
