//! Latency histograms with fixed log-linear buckets: no configuration, mergeable, off by an eighth at most.
//!
//! Values are counted in microseconds: one bucket each below 8 µs, then eight per power of two, up to 134 s. That is 200
//! words (1.6 KB) per histogram.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets per power of two, as a power of two.
const SUB_BITS: u32 = 3;
const SUB: usize = 1 << SUB_BITS;
/// Exponent of the last power of two; longer times are counted in the last bucket.
const LAST_EXPONENT: u32 = 26;
/// Number of buckets.
pub const BUCKETS: usize = (LAST_EXPONENT - SUB_BITS + 2) as usize * SUB;

/// The bucket of a time in microseconds.
fn bucket(micros: u64) -> usize {
    if micros < SUB as u64 {
        return micros as usize;
    }
    let exponent = micros.ilog2();
    if exponent > LAST_EXPONENT {
        return BUCKETS - 1;
    }
    let sub = (micros >> (exponent - SUB_BITS)) as usize & (SUB - 1);
    (exponent - SUB_BITS + 1) as usize * SUB + sub
}

/// The first time, in microseconds, that is beyond a bucket.
fn end(bucket: usize) -> u64 {
    let next = bucket + 1;
    if next < SUB {
        return next as u64;
    }
    ((SUB + next % SUB) as u64) << (next / SUB - 1)
}

/// A histogram that one thread writes and others read.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64; BUCKETS]>,
    nanos: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([const { AtomicU64::new(0) }; BUCKETS]), nanos: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts a time. Only its one writer may call this: load and store, no locked instruction.
    pub fn record(&self, nanos: u64) {
        let cell = &self.buckets[bucket(nanos / 1000)];
        cell.store(cell.load(Relaxed) + 1, Relaxed);
        self.nanos.store(self.nanos.load(Relaxed).saturating_add(nanos), Relaxed);
    }

    /// Adds what was counted so far to a summary.
    pub fn add_to(&self, summary: &mut Summary) {
        for (sum, cell) in summary.buckets.iter_mut().zip(self.buckets.iter()) {
            *sum += cell.load(Relaxed);
        }
        summary.nanos = summary.nanos.saturating_add(self.nanos.load(Relaxed));
    }
}

/// Counts read from one or more histograms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    buckets: Vec<u64>,
    nanos: u64,
}

impl Default for Summary {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], nanos: 0 }
    }
}

impl Summary {
    /// Adds another summary's counts.
    pub fn merge(&mut self, other: &Self) {
        for (a, b) in self.buckets.iter_mut().zip(&other.buckets) {
            *a += b;
        }
        self.nanos = self.nanos.saturating_add(other.nanos);
    }

    /// The counts since an earlier summary of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let buckets = self.buckets.iter().zip(&earlier.buckets).map(|(a, b)| a.saturating_sub(*b)).collect();
        Self { buckets, nanos: self.nanos.saturating_sub(earlier.nanos) }
    }

    /// How many times were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum in nanoseconds.
    #[must_use]
    pub fn nanos(&self) -> u64 {
        self.nanos
    }

    /// The time in nanoseconds below which the share `q` (0 to 1) of all lies, interpolated within its bucket; `None` if
    /// nothing was counted.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = q.clamp(0.0, 1.0) * self.count() as f64;
        let mut below = 0.0;
        let mut start = 0;
        for (at, count) in self.buckets.iter().enumerate().filter(|(_, c)| **c > 0) {
            let count = *count as f64;
            start = if at == 0 { 0 } else { end(at - 1) };
            if below + count >= rank {
                let inside = ((rank - below) / count).max(0.0);
                return Some((start as f64 + inside * (end(at) - start) as f64) * 1000.0);
            }
            below += count;
        }
        // Rounding of a rank near the count.
        (below > 0.0).then_some(start as f64 * 1000.0)
    }

    /// Cumulative counts for exposition: upper bound in microseconds and how many lie below. Two bounds per power of two
    /// where services live (256 µs to 6 s), one elsewhere; all are bounds of our own buckets, so the counts are exact.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut sum = 0;
        self.buckets.iter().enumerate().filter_map(move |(at, count)| {
            sum += count;
            exposed(end(at)).then_some((end(at), sum))
        })
    }
}

/// Whether a bound is shown to Prometheus.
fn exposed(bound: u64) -> bool {
    let exponent = bound.ilog2();
    let power = bound.is_power_of_two();
    let half = bound == 3 << exponent.saturating_sub(1);
    match exponent {
        0..=5 => false,
        8..=22 => power || half,
        _ => power && exponent <= LAST_EXPONENT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_without_gap() {
        let mut start = 0;
        for at in 0..BUCKETS {
            assert_eq!(bucket(start), at, "first of {at}");
            assert_eq!(bucket(end(at) - 1), at, "last of {at}");
            start = end(at);
        }
        assert_eq!(start, 1 << (LAST_EXPONENT + 1));
        assert_eq!((bucket(start), bucket(u64::MAX)), (BUCKETS - 1, BUCKETS - 1));
    }

    #[test]
    fn exposed_bounds_are_few_and_grow() {
        let histogram = Histogram::default();
        for nanos in [0, 1_000_000, 2_000_000, 40_000_000_000, u64::MAX / 2] {
            histogram.record(nanos);
        }
        let mut summary = Summary::default();
        histogram.add_to(&mut summary);
        let shown: Vec<_> = summary.cumulative().collect();
        assert_eq!(shown.len(), 36, "{shown:?}");
        assert!(shown.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1));
        assert_eq!(shown.iter().find(|(bound, _)| *bound == 1024), Some(&(1024, 2)));
        assert_eq!(shown.last(), Some(&(1 << LAST_EXPONENT, 4)));
        assert_eq!(summary.count(), 5);
    }

    #[test]
    fn nothing_has_no_quantile() {
        assert_eq!(Summary::default().quantile(0.5), None);
    }

    fn summary_of(values: &[u64]) -> Summary {
        let histogram = Histogram::default();
        values.iter().for_each(|v| histogram.record(*v));
        let mut summary = Summary::default();
        histogram.add_to(&mut summary);
        summary
    }

    proptest! {
        #[test]
        fn quantiles_are_within_an_eighth(mut values in proptest::collection::vec(0_u64..100_000_000_000, 1..300), q in 0.0..=1.0) {
            let got = summary_of(&values).quantile(q).expect("there are values");
            values.sort_unstable();
            // Any value between the ranks around q is right.
            let rank = q * values.len() as f64;
            let low = values[(rank.ceil() as usize).saturating_sub(1).min(values.len() - 1)] as f64;
            let high = values[(rank.floor() as usize).min(values.len() - 1)] as f64;
            prop_assert!(got >= low * 0.875 - 1000.0 && got <= high * 1.125 + 1000.0, "{got} for {low} to {high}");
        }

        #[test]
        fn merging_is_counting_together(a in proptest::collection::vec(any::<u32>(), 0..50), b in proptest::collection::vec(any::<u32>(), 0..50)) {
            let wide = |v: &[u32]| v.iter().map(|n| u64::from(*n) * 100).collect::<Vec<_>>();
            let (a, b) = (wide(&a), wide(&b));
            let mut merged = summary_of(&a);
            merged.merge(&summary_of(&b));
            let together = summary_of(&[a.clone(), b.clone()].concat());
            prop_assert_eq!(&merged, &together);
            prop_assert_eq!(merged.since(&summary_of(&a)), summary_of(&b));
            prop_assert_eq!(together.nanos(), a.iter().chain(&b).sum::<u64>());
        }
    }
}
