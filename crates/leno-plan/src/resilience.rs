//! Timeouts, retries with their budget, and limits on what is in flight.
//!
//! Budgets and limits hold for the process: they are atomics, shared by all workers through an `Arc`, and what they count is
//! released by dropping a guard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use leno_model::Reason;

use crate::defaults;

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For a whole request with its retries, until the answer is complete; `None`: no limit.
    pub request: Option<Duration>,
    /// For one attempt; `None`: no limit.
    pub attempt: Option<Duration>,
    /// For an HTTP stream in which nothing moves; `None`: no limit.
    pub idle: Option<Duration>,
    /// For a TCP or upgraded stream in which nothing moves; `None`: no limit.
    pub tcp_idle: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: defaults::CONNECT_TIMEOUT,
            handshake: defaults::HANDSHAKE_TIMEOUT,
            request: None,
            attempt: None,
            idle: Some(defaults::HTTP_IDLE_TIMEOUT),
            tcp_idle: None,
        }
    }
}

/// How many at a time; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Requests in flight (HTTP).
    pub max_requests: Option<u32>,
    /// Connections (TCP: streams; HTTP: connections to endpoints that are not reached by the hop).
    pub max_connections: Option<u32>,
}

/// What is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first.
    pub retries: u8,
    /// Answers that are tried again, of idempotent requests only (RFC 9110 section 9.2.2): somebody did process them.
    pub statuses: Vec<u16>,
    /// gRPC status codes that are tried again if the answer is a trailers-only one, so that no message was delivered. A gRPC
    /// call says nothing of being idempotent: naming a code here is the user's word that its methods are.
    pub grpc_statuses: Vec<u8>,
    /// The first pause; doubled for each further retry up to ten times itself.
    pub backoff: Duration,
    /// How many retries the service's requests may cause together.
    pub budget: RetryBudgetPolicy,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: defaults::RETRIES,
            statuses: Vec::new(),
            grpc_statuses: Vec::new(),
            backoff: defaults::RETRY_BACKOFF,
            budget: RetryBudgetPolicy::default(),
        }
    }
}

/// The bounds of a [`RetryBudget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudgetPolicy {
    /// Share of the requests in flight that may be retries.
    pub percent: u8,
    /// Retries per second allowed in any case.
    pub min_per_second: u32,
}

impl Default for RetryBudgetPolicy {
    fn default() -> Self {
        Self { percent: defaults::RETRY_BUDGET_PERCENT, min_per_second: defaults::RETRY_BUDGET_MIN_PER_SECOND }
    }
}

/// How an attempt ended, as far as trying again is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// No answer. `unprocessed`: the transport knows that the request cannot have been processed.
    Failed {
        /// Why.
        reason: Reason,
        /// Known not to have been processed, whatever the reason says in general.
        unprocessed: bool,
    },
    /// An HTTP answer.
    Status(u16),
    /// A trailers-only gRPC answer.
    GrpcStatus(u8),
}

/// Whether a request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay<'a> {
    /// The method, for what is idempotent.
    pub method: &'a [u8],
    /// Whether all that was sent of the body can be sent again.
    pub body_kept: bool,
}

impl RetryPolicy {
    /// A policy that never retries.
    #[must_use]
    pub fn never() -> Self {
        Self { retries: 0, ..Self::default() }
    }

    /// Whether to try again after `done` attempts (1 after the first); the budget is asked afterwards.
    #[must_use]
    pub fn wants_retry(&self, attempt: Attempt, request: Replay<'_>, done: u32) -> bool {
        if done > u32::from(self.retries) || !request.body_kept {
            return false;
        }
        match attempt {
            Attempt::Failed { reason, unprocessed } => another_endpoint_may_do(reason, unprocessed),
            Attempt::Status(status) => self.statuses.contains(&status) && is_idempotent(request.method),
            Attempt::GrpcStatus(code) => self.grpc_statuses.contains(&code),
        }
    }

    /// The pause before retry number `retry` (1 is the first): full jitter under an exponential bound. None is needed before
    /// a first retry that goes to another endpoint.
    #[must_use]
    pub fn backoff(&self, retry: u32, random: u64) -> Duration {
        let ceiling = self.backoff.saturating_mul(10).min(defaults::RETRY_BACKOFF_MAX.max(self.backoff));
        let bound = self.backoff.saturating_mul(1 << retry.saturating_sub(1).min(8)).min(ceiling);
        let nanos = (u128::from(random) * bound.as_nanos()) >> 64;
        Duration::from_nanos(nanos as u64)
    }
}

/// Whether the request was not processed, for a cause that another endpoint, or a moment later, need not share. The reason alone
/// never says so: a drain's deadline, a revocation and a broken TLS session also cut what an application is working on.
fn another_endpoint_may_do(reason: Reason, unprocessed: bool) -> bool {
    unprocessed
        && matches!(
            reason,
            Reason::ConnectTimeout
                | Reason::ConnectRefused
                | Reason::UpstreamTlsFailed
                | Reason::RefusedStream
                | Reason::PeerIdentityMismatch
                | Reason::PeerUntrusted
                | Reason::CertificateInvalid
                | Reason::CertificateExpired
                | Reason::CertificateRevoked
                | Reason::ClockSkew
                | Reason::ServiceNotOwned
                | Reason::Draining
                | Reason::UpstreamReset
                | Reason::Overloaded
                | Reason::HeadTimeout
        )
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// How many retries a service's requests may cause: a share of those in flight, and a trickle in any case.
#[derive(Debug, Default)]
pub struct RetryBudget {
    active: AtomicU32,
    retrying: AtomicU32,
    /// When the bucket of the trickle is full again, in nanoseconds (generic cell rate algorithm: one word, no refill).
    full_at: AtomicU64,
}

/// A request in flight, counted until dropped.
#[derive(Debug)]
pub struct ActiveRequest(Arc<RetryBudget>);

/// A retry in flight, counted until dropped.
#[derive(Debug)]
pub struct ActiveRetry(Arc<RetryBudget>);

impl RetryBudget {
    /// Counts a request, retries not included.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> ActiveRequest {
        self.active.fetch_add(1, Relaxed);
        ActiveRequest(self.clone())
    }

    /// Takes a retry; `None` is `retry_budget_exhausted`. `now` in monotonic nanoseconds.
    #[must_use]
    pub fn try_retry(self: &Arc<Self>, policy: RetryBudgetPolicy, now: u64) -> Option<ActiveRetry> {
        let allowed = u64::from(self.active.load(Relaxed)) * u64::from(policy.percent) / 100;
        let share = self.retrying.fetch_update(Relaxed, Relaxed, |n| (u64::from(n) < allowed).then_some(n + 1));
        if share.is_ok() {
            return Some(ActiveRetry(self.clone()));
        }
        if !self.take_from_trickle(policy.min_per_second, now) {
            return None;
        }
        self.retrying.fetch_add(1, Relaxed);
        Some(ActiveRetry(self.clone()))
    }

    /// A bucket of one second's worth.
    fn take_from_trickle(&self, per_second: u32, now: u64) -> bool {
        let Some(interval) = NANOS_PER_SECOND.checked_div(u64::from(per_second)) else { return false };
        let take = |full_at: u64| {
            let next = full_at.max(now) + interval;
            (next - now <= interval * u64::from(per_second)).then_some(next)
        };
        self.full_at.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    /// Requests in flight.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

impl Drop for ActiveRetry {
    fn drop(&mut self) {
        self.0.retrying.fetch_sub(1, Relaxed);
    }
}

/// A limit on things in flight. The bound is an argument, so that a policy change keeps the count.
#[derive(Debug, Default)]
pub struct Concurrency {
    in_flight: AtomicU32,
}

/// One of the things in flight, counted until dropped.
#[derive(Debug)]
pub struct Permit(Arc<Concurrency>);

impl Concurrency {
    /// Takes a permit; `None` is `overloaded`. Without a maximum it is counted all the same, so that one set later holds.
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>, max: Option<u32>) -> Option<Permit> {
        let max = max.unwrap_or(u32::MAX);
        let taken = self.in_flight.fetch_update(Relaxed, Relaxed, |n| (n < max).then_some(n + 1));
        taken.is_ok().then(|| Permit(self.clone()))
    }

    /// How many are in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_cannot_have_run_is_retried() {
        let policy = RetryPolicy::default();
        let post = Replay { method: b"POST", body_kept: true };
        for (reason, unprocessed, expected) in [
            (Reason::ConnectRefused, true, true),
            (Reason::ConnectTimeout, true, true),
            (Reason::RefusedStream, true, true),
            (Reason::Draining, true, true),
            (Reason::Draining, false, false),
            (Reason::CertificateRevoked, true, true),
            (Reason::CertificateRevoked, false, false),
            (Reason::UpstreamTlsFailed, true, true),
            (Reason::UpstreamTlsFailed, false, false),
            (Reason::UpstreamReset, false, false),
            (Reason::UpstreamReset, true, true),
            (Reason::UpstreamProtocolError, true, false),
            (Reason::RequestTimeout, false, false),
            (Reason::DeniedByPolicy, true, false),
            (Reason::RateLimited, true, false),
            (Reason::NoHealthyEndpoint, true, false),
            (Reason::MalformedRequest, true, false),
            (Reason::Overloaded, false, false),
            (Reason::Overloaded, true, true),
        ] {
            let attempt = Attempt::Failed { reason, unprocessed };
            assert_eq!(policy.wants_retry(attempt, post, 1), expected, "{reason} {unprocessed}");
        }
        let refused = Attempt::Failed { reason: Reason::ConnectRefused, unprocessed: true };
        assert!(policy.wants_retry(refused, post, 2) && !policy.wants_retry(refused, post, 3));
        assert!(!policy.wants_retry(refused, Replay { body_kept: false, ..post }, 1));
        assert!(!RetryPolicy::never().wants_retry(refused, post, 1));
    }

    #[test]
    fn no_reason_is_retried_without_knowing_that_nothing_ran() {
        for reason in Reason::ALL {
            assert!(!another_endpoint_may_do(*reason, false), "{reason}");
        }
    }

    #[test]
    fn statuses_are_retried_when_idempotent() {
        let policy = RetryPolicy { statuses: vec![503], grpc_statuses: vec![14], ..RetryPolicy::default() };
        let with = |method: &'static [u8]| Replay { method, body_kept: true };
        assert!(policy.wants_retry(Attempt::Status(503), with(b"GET"), 1));
        assert!(!policy.wants_retry(Attempt::Status(503), with(b"POST"), 1));
        assert!(!policy.wants_retry(Attempt::Status(503), with(b"PATCH"), 1));
        assert!(!policy.wants_retry(Attempt::Status(500), with(b"GET"), 1));
        assert!(policy.wants_retry(Attempt::GrpcStatus(14), with(b"POST"), 1));
        assert!(!RetryPolicy::default().wants_retry(Attempt::Status(503), with(b"GET"), 1));
    }

    #[test]
    fn backoff_is_jittered_and_bounded() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.backoff(1, 0), Duration::ZERO);
        for (retry, bound) in [(1, 25), (2, 50), (3, 100), (4, 200), (5, 250), (60, 250)] {
            let longest = policy.backoff(retry, u64::MAX);
            let bound = Duration::from_millis(bound);
            assert!(longest <= bound && longest > bound.mul_f64(0.99), "{retry}: {longest:?}");
        }
    }

    #[test]
    fn the_budget_is_a_share_and_a_trickle() {
        let budget = Arc::new(RetryBudget::default());
        let policy = RetryBudgetPolicy::default();
        let second = NANOS_PER_SECOND;
        // Quiet: ten at once, then one per 100 ms.
        let burst: Vec<_> = (0..11).filter_map(|_| budget.try_retry(policy, second)).collect();
        assert_eq!(burst.len(), 10);
        assert!(budget.try_retry(policy, second + second / 20).is_none());
        assert!(budget.try_retry(policy, second + second / 10).is_some());
        drop(burst);
        // Busy: 20 of 100, then the trickle, which is empty at this moment.
        let active: Vec<_> = (0..100).map(|_| budget.begin()).collect();
        let share: Vec<_> = (0..50).map_while(|_| budget.try_retry(policy, second + second / 10)).collect();
        assert_eq!(share.len(), 20);
        drop(active);
        assert_eq!(budget.active(), 0);
        let none = RetryBudgetPolicy { percent: 0, min_per_second: 0 };
        assert!(budget.try_retry(none, 100 * second).is_none());
    }

    #[test]
    fn limits_count_what_is_in_flight() {
        let limit = Arc::new(Concurrency::default());
        let first = limit.try_acquire(None).unwrap();
        let second = limit.try_acquire(Some(2)).unwrap();
        assert!(limit.try_acquire(Some(2)).is_none());
        drop(first);
        assert_eq!(limit.in_flight(), 1);
        assert!(limit.try_acquire(Some(2)).is_some());
        drop(second);
        assert_eq!(limit.in_flight(), 0);
    }

    proptest! {
        #[test]
        fn retries_never_exceed_share_plus_trickle(
            steps in proptest::collection::vec((0_u8..4, 0_u64..200_000_000), 1..300),
            percent in 0_u8..=100, per_second in 0_u32..20,
        ) {
            let budget = Arc::new(RetryBudget::default());
            let policy = RetryBudgetPolicy { percent, min_per_second: per_second };
            let (mut now, mut active, mut retries) = (0, Vec::new(), Vec::new());
            let (mut over_share, mut started) = (0_u64, 0_u64);
            for (step, pause) in steps {
                match step {
                    0 => active.push(budget.begin()),
                    1 => { active.pop(); }
                    2 => { retries.pop(); }
                    _ => {
                        now += pause;
                        let share = active.len() as u64 * u64::from(percent) / 100;
                        let before = retries.len() as u64;
                        if let Some(retry) = budget.try_retry(policy, now) {
                            started += 1;
                            if before >= share { over_share += 1; }
                            retries.push(retry);
                        }
                    }
                }
            }
            let trickle = u64::from(per_second) * (now / NANOS_PER_SECOND + 2);
            prop_assert!(over_share <= trickle, "{over_share} of {started} beyond the share, {trickle} allowed");
        }
    }
}
