//! Waiting longer after each failure, with jitter so that a crowd does not come back together. Pure.

use std::time::Duration;

use crate::random::Random;

/// Exponential, doubling from `base` up to `max`; each wait is drawn from its upper half.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// First wait about `base`, none longer than `max`.
    #[must_use]
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, failures: 0 }
    }

    /// Notes a failure and returns how long to wait.
    pub fn next(&mut self, random: &mut dyn Random) -> Duration {
        let full = self.base.saturating_mul(1u32.checked_shl(self.failures.min(31)).unwrap_or(u32::MAX)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        // Equal jitter: half is certain, so that a retry is never immediate; half spreads the crowd.
        full / 2 + (full / 2).mul_f64(random.unit())
    }

    /// Notes a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    #[test]
    fn waits_double_up_to_their_bound() {
        let mut random = SeededRandom::new(3);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for full in [100u64, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let wait = backoff.next(&mut random);
            assert!(
                wait >= Duration::from_millis(full / 2) && wait <= Duration::from_millis(full),
                "{wait:?} of {full}"
            );
        }
        backoff.reset();
        assert!(backoff.next(&mut random) <= Duration::from_millis(100));
        for _ in 0..100 {
            assert!(backoff.next(&mut random) <= Duration::from_secs(5));
        }
    }
}
