//! The scenarios: what is asked of each pair, in the order of the report.

use crate::runner::{self, Times};
use crate::sample::{Metric, OF_A_LOAD, Sample};
use crate::setups::{Pair, Site, Speech};

/// What is asked of a pair.
pub struct Scenario {
    /// For `--scenario`.
    pub name: &'static str,
    /// For the report.
    pub about: &'static str,
    /// How it is done.
    pub work: Work,
    /// Whether `--quick` has it.
    pub quick: bool,
}

/// How a scenario is done.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// One load for one window.
    Load(Speech, &'static [&'static str]),
}

const fn load(name: &'static str, about: &'static str, speech: Speech, words: &'static [&'static str]) -> Scenario {
    Scenario { name, about, work: Work::Load(speech, words), quick: false }
}

const fn quick(scenario: Scenario) -> Scenario {
    Scenario { quick: true, ..scenario }
}

/// All of them.
pub const ALL: &[Scenario] = &[
    quick(load("h1-c1", "HTTP/1.1, 1 KB answers, 1 connection", Speech::Http, &["http", "--connections", "1"])),
    load("h1-c8", "HTTP/1.1, 1 KB answers, 8 connections", Speech::Http, &["http", "--connections", "8"]),
    quick(load("h1-c64", "HTTP/1.1, 1 KB answers, 64 connections", Speech::Http, &["http", "--connections", "64"])),
    load("h1-c256", "HTTP/1.1, 1 KB answers, 256 connections", Speech::Http, &["http", "--connections", "256"]),
    load(
        "h1-16k",
        "HTTP/1.1, 16 KB answers, 64 connections",
        Speech::Http,
        &["http", "--connections", "64", "--answer", "16384"],
    ),
    load(
        "h1-1m",
        "HTTP/1.1, 1 MB answers, 8 connections",
        Speech::Http,
        &["http", "--connections", "8", "--answer", "1048576"],
    ),
    load(
        "h1-post",
        "HTTP/1.1, POST of 16 KB, 1 KB answers, 64 connections",
        Speech::Http,
        &["http", "--connections", "64", "--post", "16384"],
    ),
    load(
        "h1-headers",
        "HTTP/1.1, 20 request headers of 50 bytes more, 1 KB answers, 64 connections",
        Speech::Http,
        &["http", "--connections", "64", "--headers", "20"],
    ),
    load(
        "h1-connect",
        "HTTP/1.1, a connection of the application for every request, 16 at once",
        Speech::Http,
        &["http", "--connections", "16", "--close"],
    ),
    quick(load(
        "low",
        "HTTP/1.1, open loop: 1,000 requests/s over 16 connections, 1 KB answers",
        Speech::Http,
        &["http", "--connections", "16", "--rate", "1000"],
    )),
];

impl Scenario {
    /// Why this pair is left out, if so.
    pub fn left_out(&self, _pair: &str) -> Option<&'static str> {
        None
    }

    /// Its columns.
    pub fn columns(&self) -> Vec<Metric> {
        OF_A_LOAD.to_vec()
    }

    /// Does it once.
    pub fn run(&self, site: &Site<'_>, pair: &mut Pair, times: Times) -> anyhow::Result<Vec<Sample>> {
        match self.work {
            Work::Load(speech, words) => Ok(vec![runner::sample(site, pair, speech, words, times)?]),
        }
    }
}
