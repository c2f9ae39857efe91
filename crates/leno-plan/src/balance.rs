//! Which endpoint a request goes to.
//!
//! A [`Balancer`] is one worker's view of one service port: endpoints with what this worker measured of them. A pick costs the
//! same for three endpoints and for ten thousand: it draws a few by chance (by weight, if weights differ) and takes the better
//! of two. Latency and outstanding requests are the worker's own, in cells; ejection is the process's ([`crate::ejection`]).
//!
//! With several workers and many endpoints each worker keeps to a part of them ([`Part`]), as long as enough of it is ready.
//!
//! An endpoint that is ejected is never returned, one that this request already tried only if there is no other.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crate::defaults;
use crate::destination::{Endpoint, EndpointSet};
use crate::ejection::{EndpointHealth, Outcome};

mod parts;
mod shares;

pub use parts::Part;
use shares::{Draws, Shares};

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// Power of two choices over peak-EWMA latency × (outstanding + 1).
    #[default]
    PeakEwma,
    /// Power of two choices over outstanding requests.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// By chance.
    Random,
}

/// Balancing of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalancePolicy {
    /// How an endpoint is chosen.
    pub algorithm: Algorithm,
    /// Endpoints of the caller's zone are preferred while at least this share of them is ready; below, requests spill over
    /// to other zones in proportion to what is missing. `None` ignores zones.
    pub zone_spill_percent: Option<u8>,
}

impl Default for BalancePolicy {
    fn default() -> Self {
        Self { algorithm: Algorithm::default(), zone_spill_percent: Some(defaults::ZONE_SPILL_PERCENT) }
    }
}

/// How many draws look for two usable endpoints before all are walked. With the half of them ejected (the default's most) all
/// eight miss once in 256 picks.
const DRAWS: usize = 8;
/// How long the ready share of a zone is believed, in nanoseconds: counting it walks all endpoints.
const SHARE_AGE: u64 = 100_000_000;

/// What one worker knows of one endpoint.
#[derive(Debug, Default)]
struct Load {
    outstanding: Cell<u32>,
    /// Peak-EWMA in nanoseconds, and when it was measured; `None` before the first answer.
    latency: Cell<Option<(f64, u64)>>,
}

impl Load {
    /// Decays while nothing is measured, so that an endpoint that was slow once is tried again.
    fn latency_at(&self, now: u64) -> Option<f64> {
        self.latency.get().map(|(latency, at)| latency * decay(now.saturating_sub(at)))
    }

    /// Jumps to a higher latency at once and forgets it slowly (peak EWMA, after Finagle). A failure counts as slow: an endpoint
    /// that refuses within a millisecond would otherwise look like the fastest and draw the traffic to it.
    fn measure(&self, nanos: u64, outcome: Outcome, now: u64) {
        let sample = match outcome {
            Outcome::Success | Outcome::Nothing => nanos as f64,
            Outcome::Failure | Outcome::Overload => (nanos as f64).max(defaults::FAILURE_LATENCY.as_nanos() as f64),
        };
        let next = match self.latency.get() {
            None => sample,
            Some((old, _)) if sample >= old => sample,
            Some((old, at)) => {
                let weight = decay(now.saturating_sub(at));
                old * weight + sample * (1.0 - weight)
            }
        };
        self.latency.set(Some((next, now)));
    }
}

fn decay(elapsed: u64) -> f64 {
    (-(elapsed as f64) / defaults::EWMA_DECAY.as_nanos() as f64).exp()
}

/// An endpoint in a balancer.
#[derive(Debug)]
struct Slot {
    endpoint: Arc<Endpoint>,
    /// Its position in the set.
    place: usize,
    /// Its weight in its group.
    weight: u32,
    health: Arc<EndpointHealth>,
    load: Rc<Load>,
}

impl Slot {
    fn usable(&self, now: u64, tried: &[Arc<str>]) -> bool {
        self.health.is_ready(now) && !tried.contains(&self.endpoint.key)
    }
}

/// Endpoints of the own zone, or of the others.
#[derive(Debug)]
struct Zone {
    /// The worker's own.
    part: Group,
    /// Those of other workers; none if the endpoints are not parted.
    rest: Group,
}

/// Endpoints among which to choose.
#[derive(Debug)]
struct Group {
    members: Vec<Rc<Slot>>,
    shares: Shares,
    mean_weight: f64,
    /// The ready share of its members, and when it was counted.
    ready: Cell<Option<(f64, u64)>>,
    turn: Cell<u64>,
}

/// A request in flight to an endpoint, counted until dropped.
#[derive(Debug)]
pub struct InFlight {
    slot: Rc<Slot>,
    started: u64,
    /// The request had tried it before: there is no other, so pause first.
    pub again: bool,
}

impl InFlight {
    /// Where it goes.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.slot.endpoint
    }

    /// Its position in the set that the balancer was made of.
    #[must_use]
    pub fn place(&self) -> usize {
        self.slot.place
    }

    /// The endpoint's health, to record the outcome in.
    #[must_use]
    pub fn health(&self) -> &Arc<EndpointHealth> {
        &self.slot.health
    }

    /// Measures the time from the pick to the answer's head (TCP: to the connection). Call it once; a request whose caller
    /// went away first is not measured.
    pub fn answered(&self, outcome: Outcome, now: u64) {
        self.slot.load.measure(now.saturating_sub(self.started), outcome, now);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let outstanding = &self.slot.load.outstanding;
        outstanding.set(outstanding.get().saturating_sub(1));
    }
}

/// One endpoint as a worker sees it, for plan dumps.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointView {
    /// The instance.
    pub key: Arc<str>,
    /// Requests in flight from this worker.
    pub outstanding: u32,
    /// Decayed peak-EWMA in nanoseconds.
    pub latency: Option<f64>,
    /// Not ejected.
    pub ready: bool,
    /// Of those that this worker prefers.
    pub own: bool,
}

/// One worker's choice among the endpoints of a service port.
#[derive(Debug)]
pub struct Balancer {
    policy: BalancePolicy,
    own: Zone,
    other: Zone,
}

impl Balancer {
    /// Makes a balancer. `health` is what [`crate::ejection::ServiceHealth::update`] returned for `set`; what `previous`
    /// measured of endpoints that stay is kept. `part` says for which worker it is. `seed` differs between workers, so that they do not take turns in step.
    #[must_use]
    pub fn new(
        policy: BalancePolicy,
        set: &EndpointSet,
        health: &[Arc<EndpointHealth>],
        own_zone: Option<&str>,
        previous: Option<&Self>,
        part: Part,
        seed: u64,
    ) -> Self {
        let mut known: Vec<_> = previous.iter().flat_map(|b| b.slots()).map(|s| (&s.endpoint.key, &s.load)).collect();
        known.sort_by_key(|(key, _)| *key);
        let mut draws = Draws::new(seed);
        let (mut own, mut other) = (Vec::new(), Vec::new());
        let zones = policy.zone_spill_percent.is_some() && own_zone.is_some();
        let with_health = set.as_slice().iter().zip(health).enumerate();
        for (place, (endpoint, health)) in with_health.filter(|(_, (e, _))| e.weight > 0) {
            let load = match known.binary_search_by_key(&&endpoint.key, |(key, _)| *key) {
                Ok(at) => known[at].1.clone(),
                Err(_) => Rc::default(),
            };
            let slot =
                Slot { endpoint: endpoint.clone(), place, weight: endpoint.weight, health: health.clone(), load };
            let near = !zones || endpoint.zone.as_deref() == own_zone;
            if near { own.push(slot) } else { other.push(slot) }
        }
        Self { policy, own: Zone::new(own, part, &mut draws), other: Zone::new(other, part, &mut draws) }
    }

    /// Chooses an endpoint. `random` is uniform over all of `u64`, `now` monotonic nanoseconds, `tried` the keys of endpoints
    /// that this request has been sent to. `None` is `no_healthy_endpoint`.
    #[must_use]
    pub fn pick(&self, now: u64, random: u64, tried: &[Arc<str>]) -> Option<InFlight> {
        let mut draws = Draws::new(random);
        let (first, second) = self.order(now, &mut draws);
        let algorithm = self.policy.algorithm;
        let mut pick = |tried: &[Arc<str>]| {
            let picked = first.pick(algorithm, now, &mut draws, tried);
            picked.or_else(|| second.pick(algorithm, now, &mut draws, tried))
        };
        let fresh = pick(tried);
        let again = fresh.is_none();
        let slot = match fresh {
            Some(slot) => slot,
            None if tried.is_empty() => return None,
            None => pick(&[])?,
        };
        let outstanding = &slot.load.outstanding;
        outstanding.set(outstanding.get().saturating_add(1));
        Some(InFlight { slot: slot.clone(), started: now, again })
    }

    /// The group to try first: the own zone, or by chance the others in proportion to what the own zone lacks.
    fn order(&self, now: u64, draws: &mut Draws) -> (&Zone, &Zone) {
        let near_first = (&self.own, &self.other);
        if self.other.is_empty() {
            return near_first;
        }
        if self.own.is_empty() {
            return (&self.other, &self.own);
        }
        let wanted = self.policy.zone_spill_percent.unwrap_or(0);
        if keeps(self.own.ready_share(now), wanted, draws) { near_first } else { (&self.other, &self.own) }
    }

    /// The number of endpoints that can be chosen when all are ready.
    #[must_use]
    pub fn len(&self) -> usize {
        self.own.len() + self.other.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every endpoint as this worker sees it.
    #[must_use]
    pub fn view(&self, now: u64) -> Vec<EndpointView> {
        let view = |(slot, own): (&Rc<Slot>, bool)| EndpointView {
            key: slot.endpoint.key.clone(),
            outstanding: slot.load.outstanding.get(),
            latency: slot.load.latency_at(now),
            ready: slot.health.is_ready(now),
            own,
        };
        let parts = self.zones().flat_map(|zone| [(&zone.part, true), (&zone.rest, false)]);
        parts.flat_map(|(group, own)| group.members.iter().map(move |slot| (slot, own))).map(view).collect()
    }

    fn zones(&self) -> impl Iterator<Item = &Zone> {
        [&self.own, &self.other].into_iter()
    }

    fn slots(&self) -> impl Iterator<Item = &Rc<Slot>> {
        self.zones().flat_map(|zone| zone.part.members.iter().chain(&zone.rest.members))
    }
}

/// Whether a request stays with endpoints of which such a share is ready: always if it is the wanted percentage, below that by
/// chance in proportion, so that what is ready gets no more than its share.
fn keeps(ready: f64, wanted_percent: u8, draws: &mut Draws) -> bool {
    let wanted = f64::from(wanted_percent.min(100)) / 100.0;
    ready >= wanted || draws.fraction() * wanted < ready
}

impl Zone {
    fn new(slots: Vec<Slot>, part: Part, draws: &mut Draws) -> Self {
        let weights = parts::weights(part, slots.iter().map(|s| &*s.endpoint));
        let weights = weights.unwrap_or_else(|| slots.iter().map(|s| s.weight).collect());
        let (mut own, mut rest) = (Vec::new(), Vec::new());
        for (slot, weight) in slots.into_iter().zip(weights) {
            match weight {
                0 => rest.push(slot),
                weight => own.push(Slot { weight, ..slot }),
            }
        }
        Self { part: Group::new(own, draws.next()), rest: Group::new(rest, draws.next()) }
    }

    fn len(&self) -> usize {
        self.part.members.len() + self.rest.members.len()
    }

    fn is_empty(&self) -> bool {
        self.part.members.is_empty()
    }

    /// The ready share of all its endpoints.
    fn ready_share(&self, now: u64) -> f64 {
        if self.rest.members.is_empty() {
            return self.part.ready_share(now);
        }
        let ready = |group: &Group| group.ready_share(now) * group.members.len() as f64;
        (ready(&self.part) + ready(&self.rest)) / self.len() as f64
    }

    /// From the worker's own part while enough of it is ready, else also from the rest.
    fn pick(&self, algorithm: Algorithm, now: u64, draws: &mut Draws, tried: &[Arc<str>]) -> Option<&Rc<Slot>> {
        if self.rest.members.is_empty() {
            return self.part.pick(algorithm, now, draws, tried);
        }
        let is_kept = keeps(self.part.ready_share(now), defaults::PART_SPILL_PERCENT, draws);
        let (first, second) = if is_kept { (&self.part, &self.rest) } else { (&self.rest, &self.part) };
        first.pick(algorithm, now, draws, tried).or_else(|| second.pick(algorithm, now, draws, tried))
    }
}

impl Group {
    fn new(members: Vec<Slot>, seed: u64) -> Self {
        let members: Vec<_> = members.into_iter().map(Rc::new).collect();
        let weights: Vec<u32> = members.iter().map(|s| s.weight).collect();
        let mean_weight = weights.iter().map(|w| f64::from(*w)).sum::<f64>() / weights.len().max(1) as f64;
        Self { shares: Shares::new(&weights), members, mean_weight, ready: Cell::new(None), turn: Cell::new(seed) }
    }

    fn ready_share(&self, now: u64) -> f64 {
        match self.ready.get() {
            Some((share, at)) if now.saturating_sub(at) < SHARE_AGE => share,
            _ => {
                let ready = self.members.iter().filter(|s| s.health.is_ready(now)).count();
                let share = ready as f64 / self.members.len() as f64;
                self.ready.set(Some((share, now)));
                share
            }
        }
    }

    fn pick(&self, algorithm: Algorithm, now: u64, draws: &mut Draws, tried: &[Arc<str>]) -> Option<&Rc<Slot>> {
        if self.members.is_empty() {
            return None;
        }
        let mut first: Option<usize> = None;
        for _ in 0..DRAWS {
            let at = match algorithm {
                Algorithm::RoundRobin => {
                    let turn = self.turn.get();
                    self.turn.set(turn.wrapping_add(1));
                    self.shares.in_turn(turn)
                }
                _ => self.shares.draw(draws),
            };
            if first == Some(at) || !self.members[at].usable(now, tried) {
                continue;
            }
            let (Algorithm::PeakEwma | Algorithm::LeastRequest) = algorithm else { return Some(&self.members[at]) };
            match first {
                Some(other) => return Some(self.better(algorithm, other, at, now)),
                None if self.members.len() == 1 => return Some(&self.members[at]),
                None => first = Some(at),
            }
        }
        let start = first.unwrap_or_else(|| self.shares.draw(draws));
        let (before, from) = self.members.split_at(start);
        from.iter().chain(before).find(|s| s.usable(now, tried))
    }

    /// The less loaded of two; on equal terms the one that was drawn first, which keeps weights.
    fn better(&self, algorithm: Algorithm, first: usize, second: usize, now: u64) -> &Rc<Slot> {
        let (a, b) = (&self.members[first], &self.members[second]);
        // Relative to the weight, so that what is in flight settles in proportion to it.
        let waiting =
            |slot: &Slot| f64::from(slot.load.outstanding.get()) * self.mean_weight / f64::from(slot.weight) + 1.0;
        let latencies = match algorithm {
            Algorithm::PeakEwma => a.load.latency_at(now).zip(b.load.latency_at(now)),
            _ => None,
        };
        // A new endpoint has no latency yet: it is compared by what is waiting, which gives it its share at once and no more.
        let (latency_a, latency_b) = latencies.unwrap_or((1.0, 1.0));
        if latency_b * waiting(b) < latency_a * waiting(a) { b } else { a }
    }
}

#[cfg(test)]
mod tests;
