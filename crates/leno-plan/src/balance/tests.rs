//! Picks: who gets how much, who gets nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::ejection::{EjectionPolicy, ServiceHealth};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

fn endpoint(key: &str, zone: Option<&str>, weight: u32) -> Arc<Endpoint> {
    let zone = zone.map(Into::into);
    Arc::new(Endpoint { key: key.into(), transports: vec![], zone, labels: Arc::default(), weight })
}

struct Mesh {
    service: ServiceHealth,
    health: Vec<Arc<EndpointHealth>>,
    set: EndpointSet,
    balancer: Balancer,
    draws: Draws,
}

impl Mesh {
    fn new(algorithm: Algorithm, endpoints: impl IntoIterator<Item = Arc<Endpoint>>) -> Self {
        let set = EndpointSet::new(endpoints);
        let service = ServiceHealth::default();
        let health = service.update(&set);
        let policy = BalancePolicy { algorithm, ..BalancePolicy::default() };
        let balancer = Balancer::new(policy, &set, &health, Some("here"), None, Part::WHOLE, 1);
        Self { service, health, set, balancer, draws: Draws::new(42) }
    }

    fn plain(algorithm: Algorithm, count: usize) -> Self {
        Self::new(algorithm, (0..count).map(|n| endpoint(&format!("e{n:05}"), None, 1)))
    }

    fn eject(&self, at: usize, now: u64) {
        let policy = EjectionPolicy { failures: 1, max_percent: 100, ..EjectionPolicy::default() };
        let change = self.service.record(&policy, &self.health[at], Outcome::Failure, now);
        assert!(matches!(change, crate::ejection::Change::Ejected(_)));
    }

    fn pick(&mut self, now: u64) -> InFlight {
        self.balancer.pick(now, self.draws.next(), &[]).expect("an endpoint is ready")
    }

    /// The latency remembered of the first endpoint.
    fn latency(&self, now: u64) -> Option<f64> {
        self.balancer.view(now)[0].latency
    }

    /// How often each is picked, none in flight at a time.
    fn counts(&mut self, picks: usize, now: u64) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..picks {
            *counts.entry(self.pick(now).endpoint().key.to_string()).or_default() += 1;
        }
        counts
    }
}

const ALL: [Algorithm; 4] = [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random];

#[test]
fn nothing_comes_of_nothing() {
    for algorithm in ALL {
        let none = Mesh::plain(algorithm, 0);
        assert!(none.balancer.pick(0, 7, &[]).is_none() && none.balancer.is_empty());
        let weightless = Mesh::new(algorithm, [endpoint("a", None, 0)]);
        assert!(weightless.balancer.pick(0, 7, &[]).is_none());
    }
}

#[test]
fn equal_endpoints_get_equal_shares() {
    for algorithm in ALL {
        let counts = Mesh::plain(algorithm, 4).counts(10_000, SECOND);
        for (key, count) in counts {
            assert!((2350..=2650).contains(&count), "{algorithm:?} {key}: {count}");
        }
    }
}

#[test]
fn weights_are_shares() {
    for algorithm in ALL {
        let mut mesh = Mesh::new(algorithm, [endpoint("a", None, 90), endpoint("b", None, 10), endpoint("c", None, 0)]);
        let counts = mesh.counts(10_000, SECOND);
        assert!((8850..=9150).contains(&counts["a"]) && !counts.contains_key("c"), "{algorithm:?}: {counts:?}");
    }
}

#[test]
fn weights_hold_with_requests_in_flight() {
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest] {
        let mut mesh = Mesh::new(algorithm, [endpoint("a", None, 90), endpoint("b", None, 10)]);
        let held: Vec<_> = (0..1000).map(|_| mesh.pick(SECOND)).collect();
        let a = held.iter().filter(|h| &*h.endpoint().key == "a").count();
        assert!((885..=915).contains(&a), "{algorithm:?}: {a}");
    }
}

#[test]
fn round_robin_takes_turns() {
    let mut mesh = Mesh::plain(Algorithm::RoundRobin, 3);
    let first: Vec<_> = (0..3).map(|_| mesh.pick(0).endpoint().key.clone()).collect();
    let second: Vec<_> = (0..3).map(|_| mesh.pick(0).endpoint().key.clone()).collect();
    assert_eq!(first, second);
    assert!(first[0] != first[1] && first[1] != first[2] && first[0] != first[2]);
}

#[test]
fn least_request_avoids_the_busy() {
    let mut mesh = Mesh::plain(Algorithm::LeastRequest, 2);
    let held: Vec<_> = (0..100).map(|_| mesh.pick(SECOND)).collect();
    let first = held.iter().filter(|h| &*h.endpoint().key == "e00000").count();
    assert_eq!(first, 50, "the better of both each time");
    drop(held);
    assert!(mesh.balancer.view(SECOND).iter().all(|v| v.outstanding == 0));
}

#[test]
fn peak_ewma_prefers_the_fast_one() {
    let mut mesh = Mesh::plain(Algorithm::PeakEwma, 2);
    let mut counts = BTreeMap::new();
    let mut now = SECOND;
    for _ in 0..1000 {
        let picked = mesh.pick(now);
        let slow = &*picked.endpoint().key == "e00000";
        now += if slow { 50 * MS } else { MS };
        picked.answered(Outcome::Success, now);
        *counts.entry(picked.endpoint().key.to_string()).or_insert(0) += 1;
    }
    assert!(counts["e00001"] > 950, "{counts:?}");
    // Enough work waiting at the fast one, and the slow one is used.
    let held: Vec<_> = (0..200).map(|_| mesh.pick(now)).collect();
    let slow = held.iter().filter(|h| &*h.endpoint().key == "e00000").count();
    assert!((1..=20).contains(&slow), "{slow}");
}

#[test]
fn a_slow_spell_is_forgotten_and_a_peak_is_not_averaged_away() {
    let mut mesh = Mesh::plain(Algorithm::PeakEwma, 1);
    assert_eq!(mesh.latency(SECOND), None);
    mesh.pick(SECOND).answered(Outcome::Success, SECOND + MS);
    let slow = mesh.pick(2 * SECOND);
    slow.answered(Outcome::Success, 3 * SECOND);
    assert_eq!(mesh.latency(3 * SECOND), Some(SECOND as f64));
    mesh.pick(3 * SECOND).answered(Outcome::Success, 3 * SECOND + MS);
    assert!(mesh.latency(3 * SECOND + MS).unwrap() > 0.99 * SECOND as f64);
    let later = 3 * SECOND + u64::try_from(5 * Duration::from_secs(10).as_nanos()).unwrap();
    assert!(mesh.latency(later).unwrap() < 0.01 * SECOND as f64);
}

#[test]
fn failing_fast_does_not_look_fast() {
    let mut mesh = Mesh::plain(Algorithm::PeakEwma, 1);
    mesh.pick(SECOND).answered(Outcome::Failure, SECOND + 1);
    assert_eq!(mesh.latency(SECOND + 1), Some(SECOND as f64), "a failure counts as slow");
    let later = 200 * SECOND;
    mesh.pick(later).answered(Outcome::Success, later + 10 * MS);
    assert!(mesh.latency(later + 10 * MS).unwrap() < 0.02 * SECOND as f64, "and is forgotten");
    mesh.pick(later).answered(Outcome::Failure, later + 20 * MS);
    assert_eq!(mesh.latency(later + 20 * MS), Some(SECOND as f64), "however fast it was");
}

#[test]
fn a_request_is_not_sent_twice_to_one_endpoint_while_there_is_another() {
    for algorithm in ALL {
        let mesh = Mesh::plain(algorithm, 3);
        for random in 0..200 {
            let mut tried = Vec::new();
            for _ in 0..3 {
                let picked = mesh.balancer.pick(SECOND, random, &tried).unwrap();
                assert!(!picked.again && !tried.contains(&picked.endpoint().key));
                tried.push(picked.endpoint().key.clone());
            }
            assert!(mesh.balancer.pick(SECOND, random, &tried).unwrap().again, "rather again than not at all");
        }
    }
}

#[test]
fn ten_thousand_endpoints_and_half_of_them_ejected() {
    let mut mesh = Mesh::plain(Algorithm::PeakEwma, 10_000);
    for at in (0..10_000).step_by(2) {
        mesh.eject(at, SECOND);
    }
    for _ in 0..20_000 {
        let picked = mesh.pick(2 * SECOND);
        assert!(picked.health().is_ready(2 * SECOND));
    }
}

#[test]
fn the_only_ready_one_of_many_is_found() {
    for algorithm in ALL {
        let mut mesh = Mesh::plain(algorithm, 300);
        for at in (0..300).filter(|at| *at != 123) {
            mesh.eject(at, SECOND);
        }
        assert_eq!(mesh.counts(100, 2 * SECOND), BTreeMap::from([("e00123".to_owned(), 100)]));
    }
}

#[test]
fn the_own_zone_goes_first_and_spills_over() {
    let zones = || {
        let here = (0..10).map(|n| endpoint(&format!("h{n}"), Some("here"), 1));
        let there = (0..10).map(|n| endpoint(&format!("t{n}"), Some("there"), 1));
        here.chain(there).chain([endpoint("u", None, 1)])
    };
    for algorithm in ALL {
        for (ejected, least, most) in
            [(0, 100.0, 100.0), (3, 100.0, 100.0), (4, 82.0, 90.0), (7, 40.0, 46.0), (10, 0.0, 0.0)]
        {
            let mut mesh = Mesh::new(algorithm, zones());
            for at in 0..ejected {
                mesh.eject(at, SECOND);
            }
            let counts = mesh.counts(10_000, SECOND + MS);
            let here: usize = counts.iter().filter(|(k, _)| k.starts_with('h')).map(|(_, c)| c).sum();
            let share = here as f64 / 100.0;
            assert!((least..=most).contains(&share), "{algorithm:?}, {ejected} ejected: {share} % here");
        }
    }
    let mut ignored = Mesh::new(Algorithm::Random, zones());
    let policy = BalancePolicy { zone_spill_percent: None, algorithm: Algorithm::Random };
    ignored.balancer = Balancer::new(policy, &ignored.set, &ignored.health, Some("here"), None, Part::WHOLE, 1);
    assert_eq!(ignored.counts(10_000, SECOND).len(), 21);
}

#[test]
fn retries_leave_the_zone_rather_than_repeat() {
    let mesh = Mesh::new(Algorithm::PeakEwma, [endpoint("h", Some("here"), 1), endpoint("t", Some("there"), 1)]);
    let picked = mesh.balancer.pick(SECOND, 3, &["h".into()]).unwrap();
    assert_eq!((&*picked.endpoint().key, picked.again), ("t", false));
}

#[test]
fn what_was_measured_survives_a_new_set() {
    let mut mesh = Mesh::plain(Algorithm::PeakEwma, 2);
    let held = mesh.pick(SECOND);
    held.answered(Outcome::Success, SECOND + 5 * MS);
    let key = held.endpoint().key.clone();
    let bigger = EndpointSet::new((0..5).map(|n| endpoint(&format!("e{n:05}"), None, 1)));
    let health = mesh.service.update(&bigger);
    let next = Balancer::new(BalancePolicy::default(), &bigger, &health, None, Some(&mesh.balancer), Part::WHOLE, 1);
    assert_eq!(next.len(), 5);
    let view = |b: &Balancer| b.view(SECOND + 5 * MS).into_iter().find(|v| v.key == key).unwrap();
    assert_eq!((view(&next).outstanding, view(&next).latency), (1, Some(5.0 * MS as f64)));
    drop(held);
    assert_eq!(view(&next).outstanding, 0, "a guard of the old balancer counts in the new one");
}

proptest! {
    #[test]
    fn never_an_ejected_one_and_always_one_if_one_is_ready(
        weights in proptest::collection::vec((0_u32..4, any::<bool>(), any::<bool>()), 1..12),
        algorithm in 0_usize..4, randoms in proptest::collection::vec(any::<u64>(), 1..40),
    ) {
        let endpoints = weights.iter().enumerate().map(|(n, (weight, near, _))| {
            endpoint(&format!("e{n:05}"), Some(if *near { "here" } else { "there" }), *weight)
        });
        let mesh = Mesh::new(ALL[algorithm], endpoints);
        let policy = EjectionPolicy { failures: 1, max_percent: 100, ..EjectionPolicy::default() };
        for (at, (_, _, out)) in weights.iter().enumerate() {
            if *out {
                mesh.service.record(&policy, &mesh.health[at], Outcome::Failure, SECOND);
            }
        }
        let usable = weights.iter().zip(&mesh.health).any(|((w, _, _), h)| *w > 0 && h.is_ready(2 * SECOND));
        for random in randoms {
            match mesh.balancer.pick(2 * SECOND, random, &[]) {
                Some(picked) => prop_assert!(picked.health().is_ready(2 * SECOND) && picked.endpoint().weight > 0),
                None => prop_assert!(!usable),
            }
        }
    }
}

/// Balancers of all workers, over one set and one state of health.
fn workers(count: usize, set: &EndpointSet, health: &[Arc<EndpointHealth>]) -> Vec<Balancer> {
    let policy = BalancePolicy { algorithm: Algorithm::LeastRequest, ..BalancePolicy::default() };
    let part = |worker| Part { worker, workers: count, seed: 9 };
    (0..count).map(|n| Balancer::new(policy, set, health, Some("here"), None, part(n), n as u64)).collect()
}

#[test]
fn workers_share_many_endpoints_evenly() {
    let set = EndpointSet::new((0..400).map(|n| endpoint(&format!("e{n:05}"), None, 1 + n % 3)));
    let health = ServiceHealth::default().update(&set);
    let (mut counts, mut connections, mut draws) = (BTreeMap::new(), 0, Draws::new(42));
    for balancer in workers(4, &set, &health) {
        let mut own = BTreeMap::new();
        for _ in 0..200_000 {
            let picked = balancer.pick(SECOND, draws.next(), &[]).unwrap();
            *own.entry(picked.endpoint().key.to_string()).or_insert(0_usize) += 1;
        }
        assert_eq!(own.len(), balancer.view(SECOND).iter().filter(|e| e.own).count());
        connections += own.len();
        own.into_iter().for_each(|(key, count)| *counts.entry(key).or_insert(0) += count);
    }
    assert!((400..=403).contains(&connections), "{connections} connections to 400 endpoints");
    // 799 in the sum of the weights, about 1,000 picks for each.
    for (n, (key, count)) in counts.iter().enumerate() {
        let weight = 1 + n % 3;
        let expected = 800_000.0 * weight as f64 / 799.0;
        assert!((*count as f64 / expected - 1.0).abs() < 0.2, "{key} of weight {weight}: {count}, not {expected:.0}");
    }
}

#[test]
fn a_worker_leaves_its_part_when_too_little_of_it_is_ready() {
    let set = EndpointSet::new((0..200).map(|n| endpoint(&format!("e{n:05}"), None, 1)));
    let service = ServiceHealth::default();
    let health = service.update(&set);
    let balancers = workers(4, &set, &health);
    let own: Vec<String> = balancers[0].view(0).iter().filter(|e| e.own).map(|e| e.key.to_string()).collect();
    assert_eq!(own.len(), 50);
    let policy = EjectionPolicy { failures: 1, max_percent: 100, ..EjectionPolicy::default() };
    let (mut now, mut draws) = (SECOND, Draws::new(7));
    for (ejected, expected) in [(0, 0.0), (15, 0.0), (25, 2.0 / 7.0), (50, 1.0)] {
        for (at, endpoint) in set.as_slice().iter().enumerate() {
            if own[..ejected].contains(&endpoint.key.to_string()) && health[at].is_ready(now) {
                service.record(&policy, &health[at], Outcome::Failure, now);
            }
        }
        // The ready share is counted anew.
        now += SECOND;
        let mut elsewhere = 0;
        for _ in 0..10_000 {
            let key = balancers[0].pick(now, draws.next(), &[]).unwrap().endpoint().key.to_string();
            assert!(!own[..ejected].contains(&key), "{key} is ejected");
            elsewhere += usize::from(!own.contains(&key));
        }
        let share = elsewhere as f64 / 10_000.0;
        assert!((share - expected).abs() < 0.02, "{ejected} ejected: {share} elsewhere, not {expected}");
    }
    // What was tried is avoided, also if that is the worker's whole part.
    let tried: Vec<Arc<str>> = balancers[1].view(now).into_iter().filter(|e| e.own).map(|e| e.key).collect();
    let fresh = balancers[1].pick(now, 1, &tried).unwrap();
    assert!(!fresh.again && !tried.contains(&fresh.endpoint().key));
}

#[test]
fn parts_stay_within_the_zone() {
    let zoned = |n: u32| endpoint(&format!("e{n:05}"), Some(if n.is_multiple_of(2) { "here" } else { "there" }), 1);
    let set = EndpointSet::new((0..400).map(zoned));
    let health = ServiceHealth::default().update(&set);
    let mut draws = Draws::new(3);
    for balancer in workers(4, &set, &health) {
        assert_eq!(balancer.len(), 400);
        for _ in 0..2000 {
            let picked = balancer.pick(SECOND, draws.next(), &[]).unwrap();
            assert_eq!(picked.endpoint().zone.as_deref(), Some("here"));
        }
    }
}
