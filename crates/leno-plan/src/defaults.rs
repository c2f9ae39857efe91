//! The defaults of DESIGN section 7: one table, used by the code and printed as docs/reference/defaults.md.

use std::fmt::Write as _;
use std::time::Duration;

/// Silence must not hold a request; a LAN answers in milliseconds, one lost SYN costs 1 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A TLS handshake, from connected to authenticated.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A request head, from its first byte (or from the connection's start) to its end.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// An HTTP stream in which nothing moves in either direction.
pub const HTTP_IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Retries after the first attempt.
pub const RETRIES: u8 = 2;
/// Retries in flight, as a share of the requests in flight.
pub const RETRY_BUDGET_PERCENT: u8 = 20;
/// Retries per second that are always allowed, so that quiet services may retry at all.
pub const RETRY_BUDGET_MIN_PER_SECOND: u32 = 10;
/// The first pause before trying the same endpoints again; doubled each time, jittered.
pub const RETRY_BACKOFF: Duration = Duration::from_millis(25);
/// The longest pause before a retry.
pub const RETRY_BACKOFF_MAX: Duration = Duration::from_millis(250);
/// Consecutive gateway or connect failures that eject.
pub const EJECTION_FAILURES: u32 = 5;
/// The first ejection's length; the n-th is n times as long.
pub const EJECTION_BASE: Duration = Duration::from_secs(30);
/// No ejection is longer.
pub const EJECTION_MAX: Duration = Duration::from_secs(300);
/// Share of a service's endpoints that may be ejected at a time.
pub const EJECTION_MAX_PERCENT: u8 = 50;
/// How fast a measured latency is forgotten.
pub const EWMA_DECAY: Duration = Duration::from_secs(10);
/// What a failed attempt counts as in an endpoint's latency, at least.
pub const FAILURE_LATENCY: Duration = Duration::from_secs(1);
/// Share of ready endpoints in the own zone below which requests spill over.
pub const ZONE_SPILL_PERCENT: u8 = 70;
/// Endpoints of a zone that each worker has to itself before workers part them: fewer would make two choices poor ones, and
/// connections to so few cost little.
pub const PART_ENDPOINTS: usize = 32;
/// Share of ready endpoints in a worker's own part below which its requests go to the others too.
pub const PART_SPILL_PERCENT: u8 = 70;
/// Header fields per head.
pub const MAX_HEADERS: usize = 100;
/// Bytes of a head, decoded.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Streams per downstream HTTP/2 connection.
pub const MAX_STREAMS: u32 = 1024;
/// A hop without streams.
pub const HOP_IDLE: Duration = Duration::from_secs(5 * 60);
/// A hop's age, after which new streams take another.
pub const HOP_MAX_AGE: Duration = Duration::from_secs(60 * 60);
/// Requests that are under way when a proxy is told to stop.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// Streams that are under way when a proxy is told to stop or replaced.
pub const STREAM_DRAIN_DEADLINE: Duration = Duration::from_secs(60 * 60);
/// How long a first request waits for a destination's configuration.
pub const FIRST_USE_TIMEOUT: Duration = Duration::from_secs(1);
/// A leaf certificate: long enough to outlive a control plane's bad night, short enough that a stolen one ends soon.
pub const LEAF_TTL: Duration = Duration::from_secs(24 * 3600);
/// A join token that nobody has redeemed.
pub const TOKEN_TTL: Duration = Duration::from_secs(3600);
/// A registration whose stream is lost.
pub const REGISTRATION_GRACE: Duration = Duration::from_secs(30);
/// How long after its end a leaf may still be renewed by whoever proves its key.
pub const EXPIRED_RENEWAL: Duration = Duration::from_secs(30 * 24 * 3600);

/// A default as the reference page shows it.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    /// A length of time.
    Time(Duration),
    /// A number.
    Count(u64),
    /// A share.
    Percent(u8),
    /// A size.
    Bytes(usize),
    /// Words.
    Text(&'static str),
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// What it is of.
    pub what: &'static str,
    /// Its value.
    pub value: Value,
    /// Why this one.
    pub why: &'static str,
}

const fn row(what: &'static str, value: Value, why: &'static str) -> Entry {
    Entry { what, value, why }
}

/// Every default.
pub const DEFAULTS: &[Entry] = &[
    row("mTLS between members", Value::Text("strict"), "permissive is an explicit, visible migration state"),
    row("access", Value::Text("members of the same mesh"), "usable in the first hour, one line of MeshConfig to close"),
    row("egress", Value::Text("allow, counted"), "nothing breaks on joining; `MeshConfig.egress: deny` closes"),
    row("connect timeout", Value::Time(CONNECT_TIMEOUT), "silence must not hold a request; one lost SYN is survived"),
    row("TLS handshake timeout", Value::Time(HANDSHAKE_TIMEOUT), "room for a busy peer, not for a silent one"),
    row("request head timeout", Value::Time(HEAD_TIMEOUT), "slow clients must not hold connections"),
    row("request timeout", Value::Text("none"), "long answers and streams are legal; set it per route"),
    row("HTTP stream idle timeout", Value::Time(HTTP_IDLE_TIMEOUT), "a stream nobody uses must end some day"),
    row("TCP idle timeout", Value::Text("none, keepalive"), "pools of idle database connections are normal"),
    row("retries", Value::Count(RETRIES as u64), "only of what cannot have been processed, so nothing runs twice"),
    row(
        "retry budget",
        Value::Percent(RETRY_BUDGET_PERCENT),
        "of active requests: retries must not double an overload",
    ),
    row(
        "retry budget, at least per second",
        Value::Count(RETRY_BUDGET_MIN_PER_SECOND as u64),
        "quiet services may retry",
    ),
    row(
        "retry backoff, first",
        Value::Time(RETRY_BACKOFF),
        "doubled each time, jittered; none towards another endpoint",
    ),
    row("retry backoff, longest", Value::Time(RETRY_BACKOFF_MAX), "a caller is waiting"),
    row(
        "ejection after",
        Value::Count(EJECTION_FAILURES as u64),
        "consecutive gateway or connect failures: not by chance",
    ),
    row("ejection time", Value::Time(EJECTION_BASE), "times the number of ejections so far"),
    row("ejection time, longest", Value::Time(EJECTION_MAX), "a mended endpoint is found again in minutes"),
    row(
        "ejected at most",
        Value::Percent(EJECTION_MAX_PERCENT),
        "of a service's endpoints, and never the last ready one",
    ),
    row(
        "balancing",
        Value::Text("power of two choices over peak-EWMA latency × (outstanding + 1)"),
        "fast and slow instances share work by what they can do",
    ),
    row("latency memory", Value::Time(EWMA_DECAY), "a slow spell is forgotten in about this time"),
    row("latency of a failure", Value::Time(FAILURE_LATENCY), "failing fast must not look like being fast"),
    row("locality", Value::Percent(ZONE_SPILL_PERCENT), "own zone first; spills over as its ready share falls below"),
    row(
        "endpoints of a worker's own",
        Value::Count(PART_ENDPOINTS as u64),
        "at least; with more per worker each worker calls a part of them, so that connections do not multiply",
    ),
    row(
        "ready share of a worker's own endpoints",
        Value::Percent(PART_SPILL_PERCENT),
        "below it the worker calls the others too, in proportion to what is missing",
    ),
    row("header fields", Value::Count(MAX_HEADERS as u64), "per head; more is an attack or a mistake"),
    row("head size", Value::Bytes(MAX_HEAD_BYTES), "decoded, so that compression does not count"),
    row("streams per downstream connection", Value::Count(MAX_STREAMS as u64), "bounds one caller's memory"),
    row(
        "path",
        Value::Text("untouched without path rules, else normalised once"),
        "signed URLs survive; policy and app see the same",
    ),
    row("hop idle", Value::Time(HOP_IDLE), "memory of idle peers must return"),
    row("hop age", Value::Time(HOP_MAX_AGE), "HTTP streams move on; TCP streams keep theirs"),
    row("drain deadline", Value::Time(DRAIN_DEADLINE), "requests end in seconds"),
    row(
        "drain deadline of streams",
        Value::Time(STREAM_DRAIN_DEADLINE),
        "WebSockets and transfers live on through an upgrade",
    ),
    row(
        "wait for a destination at first use",
        Value::Time(FIRST_USE_TIMEOUT),
        "then `control_plane_unreachable`, never plaintext",
    ),
    row("leaf certificate", Value::Time(LEAF_TTL), "outlives a control plane's bad night; a stolen one ends soon"),
    row("renewal", Value::Text("at half of what is left, ± 10 %"), "half a life to mend what keeps it from renewing"),
    row("renewal after the end", Value::Time(EXPIRED_RENEWAL), "a machine that was off comes back without a token"),
    row("join token", Value::Time(TOKEN_TTL), "redeemed once, by one key; at most 30 days"),
    row("registration without its stream", Value::Time(REGISTRATION_GRACE), "a reconnect takes seconds"),
];

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Time(d) if d.subsec_millis() != 0 => write!(f, "{} ms", d.as_millis()),
            Self::Time(d) if d.as_secs() % (24 * 3600) == 0 && d.as_secs() > 24 * 3600 => {
                write!(f, "{} days", d.as_secs() / (24 * 3600))
            }
            Self::Time(d) if d.as_secs() % 3600 == 0 => write!(f, "{} h", d.as_secs() / 3600),
            Self::Time(d) if d.as_secs() % 60 == 0 => write!(f, "{} min", d.as_secs() / 60),
            Self::Time(d) => write!(f, "{} s", d.as_secs()),
            Self::Count(n) => write!(f, "{n}"),
            Self::Percent(p) => write!(f, "{p} %"),
            Self::Bytes(b) => write!(f, "{} KiB", b / 1024),
            Self::Text(t) => f.write_str(t),
        }
    }
}

/// The text of docs/reference/defaults.md.
#[must_use]
pub fn defaults_page() -> String {
    let mut page = String::from(
        "# Defaults\n\nWhat holds where nobody configures anything. Generated from `leno-plan`, do not edit.\n\n\
         | what | default | why |\n|---|---|---|\n",
    );
    for d in DEFAULTS {
        writeln!(page, "| {} | {} | {} |", d.what, d.value, d.why).expect("writing to a String cannot fail");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_default_once() {
        let page = defaults_page();
        for d in DEFAULTS {
            assert_eq!(page.matches(&format!("| {} |", d.what)).count(), 1, "{}", d.what);
        }
        for row in [
            "| connect timeout | 2 s |",
            "| retry backoff, first | 25 ms |",
            "| hop age | 1 h |",
            "| hop idle | 5 min |",
            "| leaf certificate | 24 h |",
            "| renewal after the end | 30 days |",
        ] {
            assert!(page.contains(row), "{row}\n{page}");
        }
        assert!(page.contains("| head size | 64 KiB |") && page.contains("| retry budget | 20 % |"));
    }
}
