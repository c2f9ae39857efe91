//! A log-linear histogram of nanoseconds: 128 steps for every power of two, so a value is told to within 0.8 %.

/// Steps of one power of two, as bits.
const STEP_BITS: u32 = 7;
const STEPS: u64 = 1 << STEP_BITS;

/// Counts by size; memory is fixed, recording is two shifts and an increment.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; ((65 - STEP_BITS as usize) * STEPS as usize) + 1], total: 0 }
    }
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, nanoseconds: u64) {
        self.counts[place(nanoseconds)] += 1;
        self.total += 1;
    }

    /// How many were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The value in nanoseconds that this share (0 to 1) of all values does not exceed; 0 if there is none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (position, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return highest(position as u64);
            }
        }
        0
    }
}

fn place(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let shift = u64::from(63 - value.leading_zeros() - STEP_BITS);
    ((shift + 1) * STEPS + ((value >> shift) - STEPS)) as usize
}

/// The largest value that is counted there.
fn highest(place: u64) -> u64 {
    if place < STEPS {
        return place;
    }
    let shift = place / STEPS - 1;
    let low = (place % STEPS + STEPS) << shift;
    low + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_told_to_within_one_percent() {
        for value in [0, 1, 127, 128, 129, 1_000, 65_535, 65_536, 1_234_567, u64::from(u32::MAX), 1 << 62] {
            let told = highest(place(value) as u64);
            assert!(told >= value && told - value <= value / 100, "{value} is told as {told}");
        }
    }

    #[test]
    fn quantiles_are_ranks() {
        let mut histogram = Histogram::default();
        (1..=100).for_each(|v| histogram.record(v));
        assert_eq!([0.5, 0.99, 1.0].map(|q| histogram.quantile(q)), [50, 99, 100]);
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }
}
