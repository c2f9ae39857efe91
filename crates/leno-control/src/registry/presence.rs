//! Who is there: a state machine over registrations, without I/O. Time is monotonic, given in by the caller.
//!
//! ```text
//!    stored record read at start ──────────────┐
//!                                              ▼            grace over, few lost
//!   register ──► Connected ──stream lost──► Lost(since) ───────────────────────────► Expire
//!                   ▲   │                      │  ▲                                     ▲
//!                   │   └── deregister ──► gone│  └─ answered, or silent ─┐             │
//!                   └──────── register ────────┤                         Probe ─refused─┘
//!                                              └─ grace over, many lost ──┘
//! ```
//!
//! The grace counts from the loss, or from the start of the control plane for records it has never seen alive, so that a
//! restart empties nothing. *Many lost* is more than [`MASS_PERCENT`] % of a service and at least [`MASS_COUNT`] instances: then
//! the fault is more likely between them and here than in each of them, so all are kept until a probe says that one is dead.
//! One instance lost alone always expires, also when it is one of two, or the only one.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Share of a service above which lost instances are kept until probed (D5).
pub const MASS_PERCENT: usize = 20;
/// Fewer lost instances than this are never a mass.
pub const MASS_COUNT: usize = 2;
/// Pause between probes of one instance.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Nobody is kept longer than this without having been seen: what may be survived without a control plane (D11).
pub const MASS_LIMIT: Duration = Duration::from_secs(12 * 3600);

/// What a probe of a lost instance showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Its host refuses the connection: nothing listens there.
    Refused,
    /// Something accepted.
    Answered,
    /// No answer: it says nothing about the instance.
    Silent,
}

/// What to do about an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due<K> {
    /// Remove the record if it still has this generation.
    Expire(K, u64),
    /// Probe it and say what came of it.
    Probe(K, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connected { stream: u64 },
    Lost { since: Duration, probed: Option<Duration>, refused: bool },
}

#[derive(Debug)]
struct Entry {
    generation: u64,
    services: Vec<String>,
    state: State,
}

/// The presence of all registered instances, by key `K`.
#[derive(Debug)]
pub struct Presence<K> {
    grace: Duration,
    entries: HashMap<K, Entry>,
}

impl<K: Clone + Eq + Hash + Ord> Presence<K> {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self { grace, entries: HashMap::new() }
    }

    /// A record found in the store: lost since now, unless it is known already.
    pub fn found(&mut self, key: K, generation: u64, services: Vec<String>, now: Duration) {
        let state = State::Lost { since: now, probed: None, refused: false };
        self.entries.entry(key).or_insert(Entry { generation, services, state });
    }

    /// A registration over a stream. False if a newer generation is there.
    pub fn connected(&mut self, key: K, generation: u64, services: Vec<String>, stream: u64) -> bool {
        if self.entries.get(&key).is_some_and(|e| e.generation > generation) {
            return false;
        }
        self.entries.insert(key, Entry { generation, services, state: State::Connected { stream } });
        true
    }

    /// A stream is gone: what was registered over it, and by no later stream, is lost from now on. Returns those keys.
    pub fn stream_lost(&mut self, stream: u64, now: Duration) -> Vec<K> {
        let mut lost = Vec::new();
        for (key, entry) in &mut self.entries {
            if entry.state == (State::Connected { stream }) {
                entry.state = State::Lost { since: now, probed: None, refused: false };
                lost.push(key.clone());
            }
        }
        lost.sort();
        lost
    }

    /// The record is gone, if it still had this generation.
    pub fn removed(&mut self, key: &K, generation: u64) {
        if self.entries.get(key).is_some_and(|e| e.generation <= generation) {
            self.entries.remove(key);
        }
    }

    /// What a probe showed.
    pub fn probed(&mut self, key: &K, generation: u64, outcome: Probe) {
        if let Some(entry) = self.entries.get_mut(key)
            && entry.generation == generation
            && let State::Lost { refused, .. } = &mut entry.state
        {
            *refused = outcome == Probe::Refused;
        }
    }

    /// Whether it is connected, or for how long it has been lost; none if unknown.
    #[must_use]
    pub fn lost_for(&self, key: &K, now: Duration) -> Option<Option<Duration>> {
        self.entries.get(key).map(|e| match e.state {
            State::Connected { .. } => None,
            State::Lost { since, .. } => Some(now.saturating_sub(since)),
        })
    }

    /// Connected and lost instances.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let connected = self.entries.values().filter(|e| matches!(e.state, State::Connected { .. })).count();
        (connected, self.entries.len() - connected)
    }

    /// What is due now, in the order of keys. A probe that is handed out counts as begun.
    pub fn due(&mut self, now: Duration) -> Vec<Due<K>> {
        let mut per_service: HashMap<&str, (usize, usize)> = HashMap::new();
        for entry in self.entries.values() {
            for service in &entry.services {
                let (total, lost) = per_service.entry(service).or_default();
                *total += 1;
                *lost += usize::from(matches!(entry.state, State::Lost { .. }));
            }
        }
        let mass = |service: &String| {
            let (total, lost) = per_service.get(service.as_str()).copied().unwrap_or_default();
            lost >= MASS_COUNT && lost * 100 > total * MASS_PERCENT
        };
        let mut due = Vec::new();
        let mut begun = Vec::new();
        for (key, entry) in &self.entries {
            let State::Lost { since, probed, refused } = entry.state else { continue };
            let lost_for = now.saturating_sub(since);
            if lost_for < self.grace {
                continue;
            }
            if refused || lost_for >= MASS_LIMIT || !entry.services.iter().any(mass) {
                due.push(Due::Expire(key.clone(), entry.generation));
            } else if probed.is_none_or(|at| now.saturating_sub(at) >= PROBE_INTERVAL) {
                due.push(Due::Probe(key.clone(), entry.generation));
                begun.push(key.clone());
            }
        }
        for key in begun {
            if let Some(Entry { state: State::Lost { probed, .. }, .. }) = self.entries.get_mut(&key) {
                *probed = Some(now);
            }
        }
        due.sort_by(|a, b| {
            let key = |d: &Due<K>| match d {
                Due::Expire(k, _) | Due::Probe(k, _) => k.clone(),
            };
            key(a).cmp(&key(b))
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn web() -> Vec<String> {
        vec!["shop/web".into()]
    }

    /// `n` instances of web, `i0` … on streams 0 ….
    fn service(n: u64) -> Presence<String> {
        let mut presence = Presence::new(GRACE);
        for i in 0..n {
            assert!(presence.connected(format!("i{i}"), 1, web(), i));
        }
        presence
    }

    fn expire(name: &str) -> Due<String> {
        Due::Expire(name.into(), 1)
    }

    fn probe(name: &str) -> Due<String> {
        Due::Probe(name.into(), 1)
    }

    #[test]
    fn one_lost_instance_expires_after_the_grace() {
        for total in [1, 2, 10] {
            let mut presence = service(total);
            assert_eq!(presence.stream_lost(0, s(100)), ["i0"]);
            assert_eq!(presence.due(s(129)), []);
            assert_eq!(presence.due(s(130)), [expire("i0")], "{total} instances");
            presence.removed(&"i0".into(), 1);
            assert_eq!(presence.due(s(1000)), []);
        }
    }

    #[test]
    fn who_comes_back_in_time_stays() {
        let mut presence = service(2);
        presence.stream_lost(0, s(100));
        assert!(presence.connected("i0".into(), 1, web(), 7));
        assert_eq!(presence.due(s(200)), []);
        assert_eq!(presence.stream_lost(0, s(300)), [""; 0], "the old stream's end means nothing any more");
    }

    #[test]
    fn the_old_stream_of_a_replaced_proxy_takes_nothing_with_it() {
        let mut presence = service(1);
        assert!(presence.connected("i0".into(), 2, web(), 9));
        presence.stream_lost(0, s(10));
        presence.removed(&"i0".into(), 1);
        assert_eq!(presence.lost_for(&"i0".into(), s(99)), Some(None));
        assert!(!presence.connected("i0".into(), 1, web(), 10), "an older generation never replaces a newer one");
    }

    #[test]
    fn records_found_at_start_have_their_grace_from_the_start() {
        let mut presence = Presence::new(GRACE);
        presence.found("a".to_owned(), 3, web(), s(0));
        presence.connected("b".to_owned(), 1, web(), 1);
        assert_eq!(presence.due(s(29)), []);
        assert_eq!(presence.due(s(30)), [Due::Expire("a".to_owned(), 3)]);
        presence.found("b".to_owned(), 1, web(), s(40));
        assert_eq!(presence.lost_for(&"b".into(), s(50)), Some(None), "known ones are not found again");
    }

    #[test]
    fn many_lost_together_are_kept_until_probed() {
        let mut presence = service(9);
        for i in 0..2 {
            presence.stream_lost(i, s(100 + i));
        }
        // 2 of 9 is 22 %: both are kept, also the one whose grace is over first.
        assert_eq!(presence.due(s(130)), [probe("i0")]);
        assert_eq!(presence.due(s(131)), [probe("i1")], "the probe of the first is under way");
        presence.probed(&"i0".into(), 1, Probe::Silent);
        presence.probed(&"i1".into(), 1, Probe::Answered);
        assert_eq!(presence.due(s(140)), [probe("i0")]);
        presence.probed(&"i0".into(), 1, Probe::Refused);
        assert_eq!(presence.due(s(141)), [expire("i0"), probe("i1")]);
        presence.removed(&"i0".into(), 1);
        // Alone now, it is no mass any more.
        assert_eq!(presence.due(s(142)), [expire("i1")]);
    }

    #[test]
    fn a_small_share_expires_without_a_probe() {
        let mut presence = service(10);
        presence.stream_lost(0, s(0));
        presence.stream_lost(1, s(0));
        assert_eq!(presence.due(s(30)), [expire("i0"), expire("i1")], "20 % is not more than 20 %");
    }

    #[test]
    fn nobody_is_kept_for_ever() {
        let mut presence = service(3);
        for i in 0..3 {
            presence.stream_lost(i, s(0));
        }
        assert_eq!(presence.due(MASS_LIMIT - s(1)), [probe("i0"), probe("i1"), probe("i2")]);
        assert_eq!(presence.due(MASS_LIMIT), [expire("i0"), expire("i1"), expire("i2")]);
    }

    #[test]
    fn an_instance_of_several_services_is_kept_if_one_of_them_is_a_mass() {
        let mut presence = service(2);
        presence.connected("both".into(), 1, vec!["shop/web".into(), "shop/api".into()], 50);
        presence.stream_lost(0, s(0));
        presence.stream_lost(50, s(0));
        assert_eq!(presence.due(s(30)), [probe("both"), probe("i0")]);
    }
}
