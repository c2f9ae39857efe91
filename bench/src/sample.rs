//! One pair in one scenario in one round: named numbers.

use std::collections::BTreeMap;

use bench::outcome::Outcome;
use serde::Serialize;

/// A named number of a sample, how it is printed, and which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Metric {
    /// In JSON.
    pub name: &'static str,
    /// Heading in tables, with the unit.
    pub title: &'static str,
    /// Digits after the point.
    pub digits: usize,
    /// Whether its ratio to the relay of the same round is printed beside it.
    pub relative: bool,
}

const fn metric(name: &'static str, title: &'static str, digits: usize, relative: bool) -> Metric {
    Metric { name, title, digits, relative }
}

/// Done per second.
pub const RATE: Metric = metric("rate", "per second", 0, false);
/// CPU per request and proxy: the mean of both.
pub const CPU: Metric = metric("cpu_micros", "CPU µs each, per proxy", 1, true);
/// System calls per request and proxy.
pub const SYSCALLS: Metric = metric("syscalls", "syscalls each, per proxy", 2, false);
/// Context switches per request and proxy.
pub const SWITCHES: Metric = metric("switches", "switches each, per proxy", 3, false);
/// Latency.
pub const P50: Metric = metric("p50_micros", "p50 µs", 0, true);
/// Latency.
pub const P99: Metric = metric("p99_micros", "p99 µs", 0, true);
/// Latency.
pub const P999: Metric = metric("p999_micros", "p99.9 µs", 0, false);
/// Resident memory per proxy after the load, in MB.
pub const RESIDENT: Metric = metric("resident_mb", "RSS MB", 1, false);
/// The part of it that no file backs.
pub const ANONYMOUS: Metric = metric("anonymous_mb", "anonymous MB", 1, false);
/// Whatever did not go well.
pub const ERRORS: Metric = metric("errors", "errors", 0, false);
/// Share of their CPU that both proxies used.
pub const BUSY: Metric = metric("proxies_busy", "proxies' CPU %", 0, false);
/// Share of a CPU that the generator used.
pub const GENERATOR: Metric = metric("generator_busy", "generator's CPU %", 0, false);

/// Payload of a bulk stream.
pub const GBPS: Metric = metric("gbps", "Gb/s", 2, true);
/// Payload per second of CPU of both proxies together.
pub const GBPS_PER_CORE: Metric = metric("gbps_per_core", "Gb/s per core, both proxies", 2, true);
/// Handshakes that the far proxy answers with a second of its CPU.
pub const HANDSHAKES: Metric = metric("handshakes_per_core", "handshakes/s per core", 0, false);
/// Anonymous memory of proxy A before any load.
pub const NEAR_BEFORE: Metric = metric("near_before_anonymous_mb", "A before: anonymous MB", 1, false);
/// All resident memory of proxy A before any load.
pub const NEAR_RESIDENT: Metric = metric("near_before_resident_mb", "A before: RSS MB", 1, false);
/// Anonymous memory of proxy A for each idle connection.
pub const NEAR_EACH: Metric = metric("near_anonymous_kb", "A: KB per connection", 2, false);
/// Anonymous memory of proxy B for each idle connection of an application at A.
pub const FAR_EACH: Metric = metric("far_anonymous_kb", "B: KB per connection", 2, false);
/// How many idle connections there were.
pub const CONNECTIONS: Metric = metric("connections", "connections", 0, false);
/// p99 without the disturbance, in the same round.
pub const P99_BEFORE: Metric = metric("undisturbed_p99_micros", "p99 µs without", 0, false);
/// p99 with the disturbance by p99 without.
pub const P99_RATIO: Metric = metric("p99_ratio", "p99 with / without", 2, false);
/// CPU with the disturbance by CPU without.
pub const CPU_RATIO: Metric = metric("cpu_ratio", "CPU with / without", 2, false);
/// Changes that the control plane took per second.
pub const CHANGES: Metric = metric("changes", "changes/s", 0, false);

/// Records of the access log that the log's target was too slow for.
pub const DROPPED: Metric = metric("dropped_records", "access records dropped", 0, false);
/// CPU per request of proxy A alone; in the JSON only.
pub const CPU_NEAR: Metric = metric("near_cpu_micros", "CPU µs each, A", 1, false);
/// CPU per request of proxy B alone; in the JSON only.
pub const CPU_FAR: Metric = metric("far_cpu_micros", "CPU µs each, B", 1, false);

/// All there are, in the order of columns.
pub const ALL: &[Metric] = &[
    RATE,
    GBPS,
    GBPS_PER_CORE,
    HANDSHAKES,
    CPU,
    CPU_RATIO,
    SYSCALLS,
    SWITCHES,
    P50,
    P99,
    P999,
    P99_BEFORE,
    P99_RATIO,
    CHANGES,
    CONNECTIONS,
    NEAR_RESIDENT,
    NEAR_BEFORE,
    NEAR_EACH,
    FAR_EACH,
    RESIDENT,
    ANONYMOUS,
    BUSY,
    GENERATOR,
    DROPPED,
    ERRORS,
];

/// Numbers by name.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sample {
    /// The scenario.
    pub scenario: String,
    /// The pair.
    pub pair: String,
    /// From 0.
    pub round: usize,
    /// What was measured.
    pub values: BTreeMap<&'static str, f64>,
    /// What else there is to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl Sample {
    /// Adds a number.
    pub fn set(&mut self, metric: Metric, value: f64) {
        self.values.insert(metric.name, value);
    }

    /// A number, if it was measured.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.values.get(metric.name).copied()
    }

    /// Adds everything of a load through two proxies.
    pub fn fill(&mut self, outcome: &Outcome) {
        let done = outcome.done as f64;
        self.set(RATE, done / outcome.seconds);
        self.set(BUSY, outcome.usage.cpu as f64 / 1e7 / outcome.seconds);
        self.set(GENERATOR, outcome.own_share * 100.0);
        self.set(RESIDENT, outcome.memory.resident as f64 / 1024.0 / 2.0);
        self.set(ANONYMOUS, outcome.memory.anonymous as f64 / 1024.0 / 2.0);
        self.set(ERRORS, outcome.errors as f64);
        if outcome.done > 0 {
            self.set(CPU, outcome.usage.cpu as f64 / 1e3 / done / 2.0);
            if let [far, near] = outcome.each[..] {
                self.set(CPU_FAR, far.cpu as f64 / 1e3 / done);
                self.set(CPU_NEAR, near.cpu as f64 / 1e3 / done);
            }
            self.set(SWITCHES, outcome.usage.switches as f64 / done / 2.0);
            self.set(P50, outcome.p50);
            self.set(P99, outcome.p99);
            self.set(P999, outcome.p999);
        }
        self.note.clone_from(&outcome.note);
    }
}

/// All of it on a line.
pub fn line(sample: &Sample) -> String {
    let told = ALL.iter().filter_map(|m| Some(format!("{} {:.*}", m.title, m.digits, sample.get(*m)?)));
    told.collect::<Vec<_>>().join(", ")
}
