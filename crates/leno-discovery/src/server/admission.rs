//! How many streams may open per second: a token bucket over an injected clock.

use std::time::Instant;

/// See the module.
#[derive(Debug)]
pub(super) struct Admission {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Admission {
    pub(super) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self { per_second: per_second.into(), burst: burst.into(), tokens: burst.into(), at: now }
    }

    /// Whether one more may open now.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        let fine = self.tokens >= 1.0;
        if fine {
            self.tokens -= 1.0;
        }
        fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_passes_then_the_rate() {
        let start = Instant::now();
        let mut admission = Admission::new(10, 5, start);
        let admitted = |a: &mut Admission, at| (0..100).filter(|_| a.admit(at)).count();
        assert_eq!(admitted(&mut admission, start), 5);
        assert_eq!(admitted(&mut admission, start + Duration::from_millis(200)), 2);
        assert_eq!(admitted(&mut admission, start + Duration::from_secs(3600)), 5);
        assert_eq!(admitted(&mut admission, start), 0, "a clock that steps back gives nothing");
    }
}
