//! Ejection: an endpoint that fails again and again is left alone for a while (passive health).
//!
//! ```text
//!                      success: failures = 0
//!                         ┌────────┐
//!                         ▼        │
//!   new ──────────────► READY ─────┘
//!                       ▲   │ n consecutive gateway or connect failures
//!                       │   ▼
//!                       │  may it go? ── no (share used up, or the last ready one) ──► stays READY, counted
//!                       │   │ yes
//!     now ≥ until       │   ▼
//!     failures = 0      └─ EJECTED until now + base × times  (times ≤ max/base; one less for each base spent READY)
//! ```
//!
//! It holds for the process: workers read one atomic word per endpoint ([`EndpointHealth::is_ready`]) and write only on a change.
//! Whether an endpoint may go is decided under a lock, which is taken only when the threshold is reached, so that the share is exact.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::defaults;
use crate::destination::EndpointSet;

/// When an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EjectionPolicy {
    /// Consecutive gateway or connect failures; 0 ejects never.
    pub failures: u32,
    /// Length of the first ejection; the n-th is n times as long, at most [`defaults::EJECTION_MAX`] or this if longer.
    pub base: Duration,
    /// Share of a service's endpoints that may be ejected at a time.
    pub max_percent: u8,
}

impl Default for EjectionPolicy {
    fn default() -> Self {
        Self {
            failures: defaults::EJECTION_FAILURES,
            base: defaults::EJECTION_BASE,
            max_percent: defaults::EJECTION_MAX_PERCENT,
        }
    }
}

impl EjectionPolicy {
    /// How many of `total` may be ejected at a time: the share rounded down, and never all.
    #[must_use]
    pub fn most(&self, total: usize) -> usize {
        (total * usize::from(self.max_percent.min(100)) / 100).min(total.saturating_sub(1))
    }
}

/// What an attempt says of an endpoint's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer that is the application's own, whatever its status.
    Success,
    /// Connect failure, handshake failure, reset without an answer, or 502, 503, 504.
    Failure,
    /// It has no room now. It gets fewer requests, and is not ill.
    Overload,
    /// Nothing: the caller's own deadline came first, or the caller was at fault.
    Nothing,
}

impl Outcome {
    /// Judges an HTTP status: what gateways say is a failure, other errors are the application's (RFC 9110 section 15.6).
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        if matches!(status, 502..=504) { Self::Failure } else { Self::Success }
    }
}

/// What came of recording an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// It is ejected for so long.
    Ejected(Duration),
    /// It would have been, had not too many been ejected already.
    Spared,
}

/// One endpoint's health, process-wide.
#[derive(Debug, Default)]
pub struct EndpointHealth {
    failures: AtomicU32,
    /// Monotonic nanoseconds; 0 is never ejected.
    ejected_until: AtomicU64,
    times: AtomicU32,
}

impl EndpointHealth {
    /// Whether it may be used at `now` (monotonic nanoseconds).
    #[must_use]
    pub fn is_ready(&self, now: u64) -> bool {
        self.ejected_until.load(Relaxed) <= now
    }
}

/// The health of one service port's endpoints, process-wide.
///
/// It holds them weakly: an endpoint's state lives as long as some worker's balancer or request has it. So workers may take over
/// a new set at different moments, in any order, and still share the state of each endpoint.
#[derive(Debug, Default)]
pub struct ServiceHealth {
    members: Mutex<BTreeMap<Arc<str>, Weak<EndpointHealth>>>,
    /// Held while an ejection is decided.
    ejected: Mutex<Vec<Weak<EndpointHealth>>>,
    /// Endpoints with a weight in the latest set.
    total: AtomicU32,
}

impl ServiceHealth {
    /// Takes over a new set of endpoints; those that stay keep their state. Returns their health in the set's order. If the set
    /// leaves none but ejected ones, the one that would return first is taken back at once.
    pub fn update(&self, set: &EndpointSet) -> Vec<Arc<EndpointHealth>> {
        let mut members = lock(&self.members);
        members.retain(|_, health| health.strong_count() > 0);
        let mut all = Vec::with_capacity(set.len());
        for endpoint in set.as_slice() {
            let health = members.get(&endpoint.key).and_then(Weak::upgrade).unwrap_or_default();
            members.insert(endpoint.key.clone(), Arc::downgrade(&health));
            all.push(health);
        }
        let weighted = set.as_slice().iter().zip(&all).filter(|(e, _)| e.weight > 0);
        self.total.store(u32::try_from(weighted.clone().count()).unwrap_or(u32::MAX), Relaxed);

        let mut ejected = lock(&self.ejected);
        ejected.retain(|e| e.strong_count() > 0);
        let out: BTreeSet<_> = ejected.iter().map(Weak::as_ptr).collect();
        let mut soonest: Option<&Arc<EndpointHealth>> = None;
        for (_, health) in weighted {
            if !out.contains(&Arc::as_ptr(health)) {
                return all;
            }
            let until = health.ejected_until.load(Relaxed);
            if soonest.is_none_or(|s| until < s.ejected_until.load(Relaxed)) {
                soonest = Some(health);
            }
        }
        if let Some(last) = soonest {
            last.ejected_until.store(0, Relaxed);
            ejected.retain(|e| e.as_ptr() != Arc::as_ptr(last));
        }
        all
    }

    /// Records how an attempt on an endpoint of this service went.
    pub fn record(
        &self,
        policy: &EjectionPolicy,
        endpoint: &Arc<EndpointHealth>,
        outcome: Outcome,
        now: u64,
    ) -> Change {
        if outcome != Outcome::Failure {
            if outcome != Outcome::Success {
                return Change::None;
            }
            // Read first: a shared cache line is written only when something changes.
            if endpoint.failures.load(Relaxed) != 0 {
                endpoint.failures.store(0, Relaxed);
            }
            return Change::None;
        }
        let failures = endpoint.failures.fetch_add(1, Relaxed).saturating_add(1);
        if policy.failures == 0 || failures < policy.failures || !endpoint.is_ready(now) {
            return Change::None;
        }
        self.try_eject(policy, endpoint, now)
    }

    fn try_eject(&self, policy: &EjectionPolicy, endpoint: &Arc<EndpointHealth>, now: u64) -> Change {
        let mut ejected = lock(&self.ejected);
        ejected.retain(|e| e.upgrade().is_some_and(|e| !e.is_ready(now)));
        // Another worker was faster.
        if !endpoint.is_ready(now) {
            return Change::None;
        }
        // Counted anew either way: a spared endpoint is asked about again after as many failures, not at each one.
        endpoint.failures.store(0, Relaxed);
        if ejected.len() >= policy.most(self.total.load(Relaxed) as usize) {
            return Change::Spared;
        }
        let base = u64::try_from(policy.base.as_nanos()).unwrap_or(u64::MAX).max(1);
        let longest = u64::try_from(defaults::EJECTION_MAX.as_nanos()).unwrap_or(u64::MAX).max(base);
        // A spell of good behaviour since the last ejection is credited.
        let calm = now.saturating_sub(endpoint.ejected_until.load(Relaxed)) / base;
        let earlier = u64::from(endpoint.times.load(Relaxed)).saturating_sub(calm);
        let times = (earlier + 1).min(longest / base);
        let length = base.saturating_mul(times);
        endpoint.times.store(u32::try_from(times).unwrap_or(u32::MAX), Relaxed);
        endpoint.ejected_until.store(now.saturating_add(length), Relaxed);
        ejected.push(Arc::downgrade(endpoint));
        Change::Ejected(Duration::from_nanos(length))
    }

    /// How many are ejected at `now`.
    #[must_use]
    pub fn ejected(&self, now: u64) -> usize {
        lock(&self.ejected).iter().filter(|e| e.upgrade().is_some_and(|e| !e.is_ready(now))).count()
    }
}

/// What is under these locks is valid after every step, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Endpoint;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn set(count: usize) -> EndpointSet {
        EndpointSet::new((0..count).map(|n| {
            let key = format!("e{n:03}").into();
            Arc::new(Endpoint { key, transports: vec![], zone: None, labels: Arc::default(), weight: 1 })
        }))
    }

    fn fail(service: &ServiceHealth, endpoint: &Arc<EndpointHealth>, times: usize, now: u64) -> Change {
        let mut last = Change::None;
        for _ in 0..times {
            last = service.record(&EjectionPolicy::default(), endpoint, Outcome::Failure, now);
        }
        last
    }

    #[test]
    fn five_failures_in_a_row_eject() {
        let service = ServiceHealth::default();
        let all = service.update(&set(4));
        assert_eq!(fail(&service, &all[0], 4, SECOND), Change::None);
        service.record(&EjectionPolicy::default(), &all[0], Outcome::Success, SECOND);
        assert_eq!(fail(&service, &all[0], 4, SECOND), Change::None);
        assert_eq!(fail(&service, &all[0], 1, SECOND), Change::Ejected(Duration::from_secs(30)));
        assert!(!all[0].is_ready(SECOND) && !all[0].is_ready(31 * SECOND - 1) && all[0].is_ready(31 * SECOND));
        // Stragglers that were under way do not lengthen it.
        assert_eq!(fail(&service, &all[0], 20, 2 * SECOND), Change::None);
        assert!(all[0].is_ready(31 * SECOND));
    }

    #[test]
    fn ejections_lengthen_and_good_behaviour_is_credited() {
        let service = ServiceHealth::default();
        let all = service.update(&set(4));
        let mut now = SECOND;
        for times in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10] {
            assert_eq!(fail(&service, &all[0], 5, now), Change::Ejected(Duration::from_secs(30 * times)));
            now += 30 * times * SECOND;
        }
        now += 9 * 30 * SECOND;
        assert_eq!(fail(&service, &all[0], 5, now), Change::Ejected(Duration::from_secs(60)));
    }

    #[test]
    fn the_share_holds_and_the_last_one_stays() {
        for (total, most) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (101, 50)] {
            assert_eq!(EjectionPolicy::default().most(total), most, "{total}");
        }
        assert_eq!(EjectionPolicy { max_percent: 100, ..EjectionPolicy::default() }.most(3), 2);
        let service = ServiceHealth::default();
        let all = service.update(&set(2));
        assert!(matches!(fail(&service, &all[0], 5, SECOND), Change::Ejected(_)));
        assert_eq!(fail(&service, &all[1], 5, SECOND), Change::Spared);
        assert!(all[1].is_ready(SECOND));
        let single = ServiceHealth::default();
        let only = single.update(&set(1));
        assert_eq!(fail(&single, &only[0], 5, SECOND), Change::Spared);
    }

    #[test]
    fn endpoints_that_stay_keep_their_state() {
        let service = ServiceHealth::default();
        let all = service.update(&set(4));
        fail(&service, &all[3], 5, SECOND);
        let grown = service.update(&set(6));
        assert!(Arc::ptr_eq(&all[3], &grown[3]) && !grown[3].is_ready(SECOND));
        assert_eq!(service.ejected(SECOND), 1);
        let shrunk = service.update(&set(2));
        drop((all, grown));
        assert_eq!((service.ejected(SECOND), shrunk.len()), (0, 2));
        assert!(service.update(&set(4))[3].is_ready(SECOND), "it was gone, and starts anew");
    }

    #[test]
    fn workers_may_take_over_sets_in_any_order() {
        let service = ServiceHealth::default();
        let fast = service.update(&set(4));
        let slow = service.update(&set(3));
        let then = service.update(&set(4));
        assert!((0..4).all(|at| Arc::ptr_eq(&fast[at], &then[at])) && Arc::ptr_eq(&fast[0], &slow[0]));
    }

    #[test]
    fn a_set_that_leaves_only_ejected_ones_takes_one_back() {
        let service = ServiceHealth::default();
        let all = service.update(&set(4));
        fail(&service, &all[1], 5, 2 * SECOND);
        fail(&service, &all[0], 5, SECOND);
        let left = service.update(&set(2));
        assert_eq!(
            left.iter().map(|h| h.is_ready(3 * SECOND)).collect::<Vec<_>>(),
            [true, false],
            "the one that is due first"
        );
        assert_eq!(service.ejected(3 * SECOND), 1);
        assert!(service.update(&set(0)).is_empty());
    }

    #[test]
    fn endpoints_without_weight_do_not_count_as_ready() {
        let service = ServiceHealth::default();
        let endpoint = |key: &str, weight| {
            Arc::new(Endpoint { key: key.into(), transports: vec![], zone: None, labels: Arc::default(), weight })
        };
        let all = service.update(&EndpointSet::new([endpoint("a", 1), endpoint("b", 0)]));
        assert_eq!(fail(&service, &all[0], 5, SECOND), Change::Spared);
    }

    #[test]
    fn only_failures_count() {
        let (service, policy) = (ServiceHealth::default(), EjectionPolicy::default());
        let all = service.update(&set(4));
        for _ in 0..3 * policy.failures {
            for outcome in [Outcome::Overload, Outcome::Nothing] {
                assert_eq!(service.record(&policy, &all[0], outcome, SECOND), Change::None);
            }
        }
        assert!(all[0].is_ready(SECOND));
        // Nor do they take failures back.
        for _ in 1..policy.failures {
            assert_eq!(service.record(&policy, &all[0], Outcome::Failure, SECOND), Change::None);
        }
        service.record(&policy, &all[0], Outcome::Nothing, SECOND);
        assert!(matches!(service.record(&policy, &all[0], Outcome::Failure, SECOND), Change::Ejected(_)));
    }

    #[test]
    fn answers_of_the_application_are_not_failures() {
        for (status, expected) in [
            (200, Outcome::Success),
            (404, Outcome::Success),
            (500, Outcome::Success),
            (501, Outcome::Success),
            (502, Outcome::Failure),
            (503, Outcome::Failure),
            (504, Outcome::Failure),
            (505, Outcome::Success),
        ] {
            assert_eq!(Outcome::of_status(status), expected, "{status}");
        }
    }

    proptest! {
        #[test]
        fn never_more_than_the_share_is_ejected(
            total in 1_usize..12, percent in 0_u8..=100, failures in 1_u32..6,
            steps in proptest::collection::vec((0_usize..12, any::<bool>(), 0_u64..20), 1..400),
        ) {
            let policy = EjectionPolicy { failures, base: Duration::from_secs(30), max_percent: percent };
            let service = ServiceHealth::default();
            let all = service.update(&set(total));
            let mut now = SECOND;
            for (which, failed, pause) in steps {
                now += pause * SECOND;
                let endpoint = &all[which % total];
                let before = endpoint.is_ready(now);
                let outcome = if failed { Outcome::Failure } else { Outcome::Success };
                let change = service.record(&policy, endpoint, outcome, now);
                let out = all.iter().filter(|e| !e.is_ready(now)).count();
                prop_assert!(out <= policy.most(total), "{} of {} out", out, total);
                prop_assert!(out < total);
                prop_assert_eq!(out, service.ejected(now));
                prop_assert_eq!(matches!(change, Change::Ejected(_)), before && !endpoint.is_ready(now));
            }
        }
    }
}
