//! The scenarios: what is asked of each pair, in the order of the report.

mod bulk;
mod churn;
mod handshakes;
mod idle;
mod impaired;
mod slow;

use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::runner::{self, Times};
use crate::sample::Sample;
use crate::setups::{FEW, Pair, Site, Speech};

pub use impaired::Impairment;

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
    /// One TCP stream.
    Bulk,
    /// Connections that do nothing.
    Idle,
    /// Full handshakes with proxy B.
    Handshakes,
    /// Small requests with and without a client that reads slowly.
    Slow,
    /// Requests with and without changes of the configuration.
    Churn,
    /// Requests over a bad network.
    Impaired(Impairment),
}

const fn load(name: &'static str, about: &'static str, speech: Speech, words: &'static [&'static str]) -> Scenario {
    scenario(name, about, Work::Load(speech, words))
}

const fn scenario(name: &'static str, about: &'static str, work: Work) -> Scenario {
    Scenario { name, about, work, quick: false }
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
    load("grpc-1", "gRPC, unary, 1 KB answers, 1 stream", Speech::Grpc, &["grpc", "--streams", "1"]),
    quick(load("grpc-64", "gRPC, unary, 1 KB answers, 64 streams", Speech::Grpc, &["grpc", "--streams", "64"])),
    load("grpc-256", "gRPC, unary, 1 KB answers, 256 streams", Speech::Grpc, &["grpc", "--streams", "256"]),
    load(
        "grpc-stream",
        "gRPC, 64 open streams, round trips of messages of 128 bytes",
        Speech::Grpc,
        &["grpc", "--streams", "64", "--streaming"],
    ),
    load(
        "tcp-pingpong",
        "TCP, round trips of 128 bytes over 16 connections",
        Speech::Tcp,
        &["ping-pong", "--connections", "16"],
    ),
    quick(scenario("tcp-bulk", "TCP, one stream from the application to the client", Work::Bulk)),
    scenario("handshakes", "full mutual TLS 1.3 handshakes with proxy B, one after the other", Work::Handshakes),
    scenario(
        "slow",
        "1,000 small requests/s (open loop) with and without a client that reads 1 GB slowly, 10 alternating pairs",
        Work::Slow,
    ),
    scenario("churn", "64 connections with and without 100 changes of an endpoint per second", Work::Churn),
    scenario(
        "loss",
        "1,000 requests/s (open loop) over 64 connections, 1 % of packets between the hosts lost",
        Work::Impaired(Impairment::Loss),
    ),
    scenario(
        "delay",
        "1,000 requests/s (open loop) over 64 connections, 10 ms each way between the hosts",
        Work::Impaired(Impairment::Delay),
    ),
    scenario("idle", "10,000 idle connections, each after one request", Work::Idle),
];

/// Idle connections, where descriptors suffice.
const IDLE: usize = 10_000;
/// Descriptors of a proxy besides its connections.
const OTHERS: u64 = 200;

impl Scenario {
    /// Why this pair is left out, if so.
    pub fn left_out(&self, pair: &str) -> Option<&'static str> {
        match self.work {
            Work::Load(Speech::Grpc, _) if pair == "envoy" => Some("HTTP/1.1 between the proxies does not carry gRPC"),
            Work::Load(Speech::Tcp, _) | Work::Bulk if pair == "envoy-h2" => {
                Some("the same as envoy: there is no HTTP in it")
            }
            Work::Handshakes if pair == "relay" => Some("it has no TLS"),
            Work::Handshakes if pair == "envoy-h2" => Some("the same as envoy"),
            Work::Churn if !pair.starts_with("leno") => Some("it has no control plane"),
            Work::Slow | Work::Impaired(_) if matches!(pair, "haproxy" | "envoy") => {
                Some("nginx stands for pools of HTTP/1.1 connections, envoy-h2 for multiplexing")
            }
            _ => None,
        }
    }

    /// Connections that proxy A must be able to hold.
    pub fn capacity(&self) -> usize {
        if !matches!(self.work, Work::Idle) {
            return FEW;
        }
        // The relay holds two descriptors a connection, and HAProxy wants as many.
        let allowed = getrlimit(Resource::Nofile).current.map_or(u64::MAX, |limit| limit.saturating_sub(OTHERS) / 2);
        IDLE.min(usize::try_from(allowed).unwrap_or(IDLE))
    }

    /// Whether it is done in the first round only: it repeats itself inside, or does not vary.
    pub fn once(&self) -> bool {
        matches!(self.work, Work::Idle | Work::Slow)
    }

    /// Does it once.
    pub fn run(&self, site: &Site<'_>, pair: &mut Pair, times: Times) -> anyhow::Result<Sample> {
        match self.work {
            Work::Load(speech, words) => runner::sample(site, pair, speech, words, times),
            Work::Bulk => bulk::run(site, pair, times),
            Work::Idle => idle::run(site, pair),
            Work::Handshakes => handshakes::run(site, pair, times),
            Work::Slow => slow::run(site, pair),
            Work::Churn => churn::run(site, pair, times),
            Work::Impaired(how) => impaired::run(site, pair, how, times),
        }
    }
}

/// Times of a scenario's own.
const fn times(warmup: u64, window: u64) -> Times {
    Times { warmup: Duration::from_millis(warmup), window: Duration::from_millis(window), count: false }
}
