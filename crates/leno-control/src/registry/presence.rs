//! Who is there: a state machine over registrations, without I/O. Time is monotonic, given in by the caller.
//!
//! ```text
//!    stored record read at start ──────────────┐
//!                                              ▼            grace over, few lost
//!   register ──► Connected ──stream lost──► Lost(since) ───────────────────────────► Expire
//!                   ▲   │                      │  ▲                                     ▲
//!                   │   └── deregister ──► gone│  └─ answered, or silent ─┐             │
//!                   └──────── register ────────┤                         Probe ─refused, or silent long enough
//!                                              └─ grace over, many lost ──┘
//! ```
//!
//! The grace counts from the loss, or from the start of the control plane for records it has never seen alive, so that a
//! restart empties nothing. *Many lost* is more than [`MASS_PERCENT`] % of a service and at least [`MASS_COUNT`] instances: then
//! the fault may lie between them and here and not in each of them, so all are kept until probes say that one is dead. Dead is who
//! refuses the connection, and who stays *silent* (a host without power answers nothing) for [`SILENT_PROBES`] probes over two
//! graces while more than [`MASS_PERCENT`] % of all registrations have been connected for a grace: then it is not we who are cut
//! off. One instance lost alone always expires, also when it is one of two, or the only one.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Share of a service above which lost instances are kept until probed (D5).
pub const MASS_PERCENT: usize = 20;
/// Fewer lost instances than this are never a mass.
pub const MASS_COUNT: usize = 2;
/// So many probes in a row must have stayed without an answer before silence is death: one or two are lost easily.
pub const SILENT_PROBES: u32 = 3;
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
    /// No answer: a dead host, or one that cannot be reached from here.
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
    Connected { stream: u64, since: Duration },
    Lost { since: Duration, probed: Option<Duration>, found: Found },
}

/// What the probes of a lost instance have shown so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Nothing yet, or that it answers.
    Nothing,
    Refused,
    /// `count` probes without an answer, one after the other, from `first` to `last`.
    Silent {
        count: u32,
        first: Duration,
        last: Duration,
    },
}

impl State {
    fn lost(since: Duration) -> Self {
        Self::Lost { since, probed: None, found: Found::Nothing }
    }
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
        self.entries.entry(key).or_insert(Entry { generation, services, state: State::lost(now) });
    }

    /// A registration over a stream. False if a newer generation is there.
    pub fn connected(&mut self, key: K, generation: u64, services: Vec<String>, stream: u64, now: Duration) -> bool {
        let known = self.entries.get(&key);
        if known.is_some_and(|e| e.generation > generation) {
            return false;
        }
        let since = match known.map(|e| e.state) {
            Some(State::Connected { since, .. }) => since,
            Some(State::Lost { .. }) | None => now,
        };
        self.entries.insert(key, Entry { generation, services, state: State::Connected { stream, since } });
        true
    }

    /// A stream is gone: what was registered over it, and by no later stream, is lost from now on. Returns those keys.
    pub fn stream_lost(&mut self, stream: u64, now: Duration) -> Vec<K> {
        let mut lost = Vec::new();
        for (key, entry) in &mut self.entries {
            if matches!(entry.state, State::Connected { stream: over, .. } if over == stream) {
                entry.state = State::lost(now);
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

    /// What a probe showed, now.
    pub fn probed(&mut self, key: &K, generation: u64, outcome: Probe, now: Duration) {
        if let Some(entry) = self.entries.get_mut(key)
            && entry.generation == generation
            && let State::Lost { found, .. } = &mut entry.state
        {
            *found = match (outcome, *found) {
                (Probe::Refused, _) => Found::Refused,
                (Probe::Answered, _) => Found::Nothing,
                (Probe::Silent, Found::Silent { count, first, .. }) => {
                    Found::Silent { count: count + 1, first, last: now }
                }
                (Probe::Silent, _) => Found::Silent { count: 1, first: now, last: now },
            };
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

    /// Whether it is lost and its grace is over: it may have come back since it was [due](Self::due).
    #[must_use]
    pub fn is_overdue(&self, key: &K, now: Duration) -> bool {
        self.lost_for(key, now).flatten().is_some_and(|lost| lost >= self.grace)
    }

    /// The lost instances, in the order of keys.
    #[must_use]
    pub fn lost(&self) -> Vec<K> {
        let lost = self.entries.iter().filter(|(_, e)| matches!(e.state, State::Lost { .. }));
        let mut keys: Vec<K> = lost.map(|(key, _)| key.clone()).collect();
        keys.sort();
        keys
    }

    /// Whether so many have been connected for a grace that those who are silent are dead, and not we alone.
    fn is_mesh_seen(&self, now: Duration) -> bool {
        let steady =
            |e: &&Entry| matches!(e.state, State::Connected { since, .. } if now.saturating_sub(since) >= self.grace);
        self.entries.values().filter(steady).count() * 100 > self.entries.len() * MASS_PERCENT
    }

    /// Connected and lost instances.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let connected = self.entries.values().filter(|e| matches!(e.state, State::Connected { .. })).count();
        (connected, self.entries.len() - connected)
    }

    /// What is due now, each in the order of keys: what is to expire, and at most `probes` to be probed, those first that have
    /// waited longest. A probe that is handed out counts as begun.
    pub fn due(&mut self, now: Duration, probes: usize) -> Vec<Due<K>> {
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
        let is_mesh_seen = self.is_mesh_seen(now);
        let is_dead = |found: Found| match found {
            Found::Nothing => false,
            Found::Refused => true,
            Found::Silent { count, first, last } => {
                is_mesh_seen && count >= SILENT_PROBES && last.saturating_sub(first) >= 2 * self.grace
            }
        };
        let mut expired = Vec::new();
        let mut waiting = Vec::new();
        for (key, entry) in &self.entries {
            let State::Lost { since, probed, found } = entry.state else { continue };
            let lost_for = now.saturating_sub(since);
            if lost_for < self.grace {
                continue;
            }
            if is_dead(found) || lost_for >= MASS_LIMIT || !entry.services.iter().any(mass) {
                expired.push((key.clone(), entry.generation));
            } else if probed.is_none_or(|at| now.saturating_sub(at) >= PROBE_INTERVAL) {
                waiting.push((probed, key.clone(), entry.generation));
            }
        }
        expired.sort();
        waiting.sort();
        waiting.truncate(probes);
        for (_, key, _) in &waiting {
            if let Some(Entry { state: State::Lost { probed, .. }, .. }) = self.entries.get_mut(key) {
                *probed = Some(now);
            }
        }
        let expired = expired.into_iter().map(|(key, generation)| Due::Expire(key, generation));
        expired.chain(waiting.into_iter().map(|(_, key, generation)| Due::Probe(key, generation))).collect()
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
            assert!(presence.connected(format!("i{i}"), 1, web(), i, s(0)));
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
            assert_eq!(presence.due(s(129), 9), []);
            assert_eq!(presence.due(s(130), 9), [expire("i0")], "{total} instances");
            assert!(!presence.is_overdue(&"i0".into(), s(129)) && presence.is_overdue(&"i0".into(), s(130)));
            presence.removed(&"i0".into(), 1);
            assert_eq!(presence.due(s(1000), 9), []);
        }
    }

    #[test]
    fn who_comes_back_in_time_stays() {
        let mut presence = service(2);
        presence.stream_lost(0, s(100));
        assert!(presence.connected("i0".into(), 1, web(), 7, s(110)));
        assert_eq!(presence.due(s(200), 9), []);
        assert!(!presence.is_overdue(&"i0".into(), s(200)));
        assert_eq!(presence.stream_lost(0, s(300)), [""; 0], "the old stream's end means nothing any more");
    }

    #[test]
    fn the_old_stream_of_a_replaced_proxy_takes_nothing_with_it() {
        let mut presence = service(1);
        assert!(presence.connected("i0".into(), 2, web(), 9, s(0)));
        presence.stream_lost(0, s(10));
        presence.removed(&"i0".into(), 1);
        assert_eq!(presence.lost_for(&"i0".into(), s(99)), Some(None));
        assert!(
            !presence.connected("i0".into(), 1, web(), 10, s(20)),
            "an older generation never replaces a newer one"
        );
    }

    #[test]
    fn records_found_at_start_have_their_grace_from_the_start() {
        let mut presence = Presence::new(GRACE);
        presence.found("a".to_owned(), 3, web(), s(0));
        presence.connected("b".to_owned(), 1, web(), 1, s(0));
        assert_eq!(presence.due(s(29), 9), []);
        assert_eq!(presence.due(s(30), 9), [Due::Expire("a".to_owned(), 3)]);
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
        assert_eq!(presence.due(s(130), 9), [probe("i0")]);
        assert_eq!(presence.due(s(131), 9), [probe("i1")], "the probe of the first is under way");
        presence.probed(&"i0".into(), 1, Probe::Silent, s(132));
        presence.probed(&"i1".into(), 1, Probe::Answered, s(132));
        assert_eq!(presence.due(s(140), 9), [probe("i0")]);
        presence.probed(&"i0".into(), 1, Probe::Refused, s(140));
        assert_eq!(presence.due(s(141), 9), [expire("i0"), probe("i1")]);
        presence.removed(&"i0".into(), 1);
        // Alone now, it is no mass any more.
        assert_eq!(presence.due(s(142), 9), [expire("i1")]);
    }

    #[test]
    fn a_small_share_expires_without_a_probe() {
        let mut presence = service(10);
        presence.stream_lost(0, s(0));
        presence.stream_lost(1, s(0));
        assert_eq!(presence.due(s(30), 9), [expire("i0"), expire("i1")], "20 % is not more than 20 %");
    }

    #[test]
    fn nobody_is_kept_for_ever() {
        let mut presence = service(3);
        for i in 0..3 {
            presence.stream_lost(i, s(0));
        }
        assert_eq!(presence.due(MASS_LIMIT - s(1), 9), [probe("i0"), probe("i1"), probe("i2")]);
        assert_eq!(presence.due(MASS_LIMIT, 9), [expire("i0"), expire("i1"), expire("i2")]);
    }

    /// Lets time go by from `from` to `to`, every probe answered by `outcome`; what expired, and when.
    fn silence(presence: &mut Presence<String>, outcome: Probe, from: u64, to: u64) -> Vec<(u64, String)> {
        let mut expired = Vec::new();
        for now in from..=to {
            for due in presence.due(s(now), 9) {
                match due {
                    Due::Probe(key, generation) => presence.probed(&key, generation, outcome, s(now)),
                    Due::Expire(key, generation) => {
                        presence.removed(&key, generation);
                        expired.push((now, key));
                    }
                }
            }
        }
        expired
    }

    #[test]
    fn hosts_without_power_expire_while_others_are_connected() {
        let mut presence = service(4);
        for i in 0..2 {
            presence.stream_lost(i, s(100));
        }
        // Lost at 100, probed from 130 on, silent for two graces at 190. The other is then lost alone.
        let expired = silence(&mut presence, Probe::Silent, 100, 1000);
        assert_eq!(expired, [(191, "i0".to_owned()), (191, "i1".to_owned())]);
        assert_eq!(presence.counts(), (2, 0));
    }

    #[test]
    fn who_answers_in_between_is_not_silent() {
        let mut presence = service(4);
        for i in 0..2 {
            presence.stream_lost(i, s(100));
        }
        assert_eq!(silence(&mut presence, Probe::Silent, 100, 185), []);
        assert_eq!(silence(&mut presence, Probe::Answered, 186, 195), []);
        assert_eq!(silence(&mut presence, Probe::Silent, 196, 259), [], "silence begins anew");
        assert_eq!(silence(&mut presence, Probe::Silent, 260, 400).len(), 2);
    }

    #[test]
    fn a_partition_of_the_control_plane_empties_nothing() {
        // Everybody is gone, or all but one of ten, which may be on this very host.
        for stay in [0, 2] {
            let mut presence = service(10);
            for i in stay..10 {
                presence.stream_lost(i, s(100));
            }
            assert_eq!(silence(&mut presence, Probe::Silent, 100, 4000), [], "{stay} of 10 are connected");
            // It ends: who comes back is connected at once, and those who are dead go a grace later.
            for i in stay..8 {
                presence.connected(format!("i{i}"), 1, web(), 100 + i, s(4001));
            }
            let expired = silence(&mut presence, Probe::Silent, 4001, 5000);
            let names: Vec<_> = expired.iter().map(|(_, name)| name.as_str()).collect();
            // Two of ten are no mass.
            assert_eq!(names, ["i8", "i9"], "{stay} of 10 were connected");
        }
    }

    #[test]
    fn after_a_restart_the_dead_go_once_the_living_are_back() {
        let mut presence = Presence::new(GRACE);
        for i in 0..4 {
            presence.found(format!("i{i}"), 1, web(), s(0));
        }
        for i in 0..2 {
            presence.connected(format!("i{i}"), 1, web(), i, s(5));
        }
        let expired = silence(&mut presence, Probe::Silent, 0, 1000);
        assert_eq!(expired, [(91, "i2".to_owned()), (91, "i3".to_owned())]);
    }

    #[test]
    fn probes_have_turns() {
        let mut presence = service(5);
        for i in 0..5 {
            presence.stream_lost(i, s(0));
        }
        assert_eq!(presence.due(s(30), 2), [probe("i0"), probe("i1")]);
        assert_eq!(presence.due(s(30), 2), [probe("i2"), probe("i3")]);
        assert_eq!(presence.due(s(40), 2), [probe("i4"), probe("i0")]);
        assert_eq!(presence.lost(), ["i0", "i1", "i2", "i3", "i4"]);
    }

    #[test]
    fn an_instance_of_several_services_is_kept_if_one_of_them_is_a_mass() {
        let mut presence = service(2);
        presence.connected("both".into(), 1, vec!["shop/web".into(), "shop/api".into()], 50, s(0));
        presence.stream_lost(0, s(0));
        presence.stream_lost(50, s(0));
        assert_eq!(presence.due(s(30), 9), [probe("both"), probe("i0")]);
    }
}
