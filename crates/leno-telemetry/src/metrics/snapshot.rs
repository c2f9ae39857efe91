//! All metrics at one moment, summed over workers: what the exposition, `leno top` and the demo's live view read.

use std::collections::BTreeMap;

use super::process::Process;
use super::{Edge, Listener, Outcome, Shard, lock};
use crate::histogram::Summary;

/// The sums of one edge.
#[derive(Debug, Clone, Default)]
pub struct EdgeTotals {
    /// Requests and TCP streams by how they ended.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Their durations.
    pub duration: Summary,
    /// Requests that began.
    pub began: u64,
    /// Requests that ended or were abandoned.
    pub ended: u64,
    /// Body bytes from callers.
    pub bytes_in: u64,
    /// Body bytes to callers.
    pub bytes_out: u64,
    /// TCP and upgraded streams opened.
    pub opened: u64,
    /// TCP and upgraded streams closed.
    pub closed: u64,
    /// Retries.
    pub retries: u64,
}

impl EdgeTotals {
    /// Requests and TCP streams that ended.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// Those that did not fail ([`Outcome::is_success`]).
    #[must_use]
    pub fn successes(&self) -> u64 {
        self.outcomes.iter().filter(|(o, _)| o.is_success()).map(|(_, n)| n).sum()
    }

    /// Requests in flight.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.began.saturating_sub(self.ended)
    }
}

/// All metrics at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// By edge.
    pub edges: BTreeMap<Edge, EdgeTotals>,
    pub(super) process: Process,
    pub(super) log_drops: u64,
    pub(super) overflowed: u64,
    /// Accepted and ended connections.
    pub(super) listeners: [(u64, u64); Listener::ALL.len()],
}

impl Snapshot {
    pub(super) fn add(&mut self, shard: &Shard) {
        self.overflowed += shard.overflowed.get();
        for (at, (accepted, ended)) in self.listeners.iter_mut().enumerate() {
            // Ends first: what ends in between has begun before.
            *ended += shard.ended[at].get();
            *accepted += shard.accepted[at].get();
        }
        for cells in lock(&shard.edges).iter() {
            let totals = self.edges.entry(cells.edge.clone()).or_default();
            for (outcome, count) in lock(&cells.outcomes).iter() {
                *totals.outcomes.entry(*outcome).or_default() += count.get();
            }
            cells.duration.add_to(&mut totals.duration);
            totals.closed += cells.closed.get();
            totals.opened += cells.opened.get();
            totals.ended += cells.ended.get();
            totals.began += cells.began.get();
            totals.bytes_in += cells.bytes_in.get();
            totals.bytes_out += cells.bytes_out.get();
            totals.retries += cells.retries.get();
        }
    }
}
