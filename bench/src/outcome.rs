//! What a load generator tells: one line of JSON on standard output.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;
use crate::usage::{self, Memory, Usage};

/// The numbers of one window, without what came before it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Length of the window.
    pub seconds: f64,
    /// Answers as they should be: requests, calls, messages, round trips or handshakes, as the load counts.
    pub done: u64,
    /// Everything else.
    pub errors: u64,
    /// Bytes received, where that is what is measured.
    pub bytes: u64,
    /// The same as `done` from the very beginning, for counters that cannot be cut to the window.
    pub done_ever: u64,
    /// Latencies in microseconds.
    pub p50: f64,
    /// See `p50`.
    pub p99: f64,
    /// See `p50`.
    pub p999: f64,
    /// What the watched processes used in the window, together.
    pub usage: Usage,
    /// The same of each, in the order given.
    #[serde(default)]
    pub each: Vec<Usage>,
    /// Their memory at its end, together.
    pub memory: Memory,
    /// Share of one CPU that the generator itself used: near 1 it, not the proxies, sets the pace.
    pub own_share: f64,
    /// Further numbers, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub more: BTreeMap<String, f64>,
    /// Whatever else there is to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// The measured window of a load: begins after a warm-up, in which connections open and pools fill.
pub struct Window {
    watch: Vec<u32>,
    started: Instant,
    begins: Instant,
    ends: Instant,
    /// When the window began, and what each watched process and the generator itself had used by then.
    before: Option<(Instant, Vec<Usage>, Usage)>,
    /// Latencies in the window.
    pub latencies: Histogram,
    outcome: Outcome,
}

impl Window {
    /// Watches these processes.
    #[must_use]
    pub fn new(warmup: Duration, length: Duration, watch: Vec<u32>) -> Self {
        let started = Instant::now();
        let begins = started + warmup;
        Self {
            watch,
            started,
            begins,
            ends: begins + length,
            before: None,
            latencies: Histogram::default(),
            outcome: Outcome::default(),
        }
    }

    /// The instant from which nanoseconds of this load count.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// To be called often: begins the window when it is time; false when it is over.
    pub fn goes_on(&mut self, now: Instant) -> bool {
        if self.before.is_none() && now >= self.begins {
            self.before = Some((now, self.watched(), own()));
            // Reading /proc took some of the time.
            self.ends += now - self.begins;
        }
        now < self.ends
    }

    fn watched(&self) -> Vec<Usage> {
        self.watch.iter().map(|pid| usage::of(&[*pid]).unwrap_or_default()).collect()
    }

    /// Something succeeded after this many nanoseconds.
    pub fn succeeded(&mut self, nanoseconds: u64) {
        self.outcome.done_ever += 1;
        if self.before.is_some() {
            self.outcome.done += 1;
            self.latencies.record(nanoseconds);
        }
    }

    /// Bytes came in.
    pub fn received(&mut self, bytes: usize) {
        if self.before.is_some() {
            self.outcome.bytes += bytes as u64;
        }
    }

    /// Something failed; counted from the very beginning, since nothing should.
    pub fn failed(&mut self) {
        self.outcome.errors += 1;
    }

    /// Everything that failed so far.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.outcome.errors
    }

    /// Closes the window. The connections must still be open: memory is read here.
    #[must_use]
    pub fn finish(mut self) -> Outcome {
        let now = Instant::now();
        let mut outcome = std::mem::take(&mut self.outcome);
        if let Some((began, watched, own_before)) = self.before.take() {
            outcome.seconds = (now - began).as_secs_f64();
            outcome.each = self.watched().into_iter().zip(watched).map(|(after, before)| after - before).collect();
            outcome.usage = outcome.each.iter().copied().fold(Usage::default(), |sum, one| sum + one);
            outcome.own_share = (own() - own_before).cpu as f64 / 1e9 / outcome.seconds;
        }
        outcome.memory = usage::memory(&self.watch).unwrap_or_default();
        let micros = |share: f64| self.latencies.quantile(share) as f64 / 1e3;
        (outcome.p50, outcome.p99, outcome.p999) = (micros(0.5), micros(0.99), micros(0.999));
        outcome
    }
}

fn own() -> Usage {
    usage::of(&[std::process::id()]).unwrap_or_default()
}
