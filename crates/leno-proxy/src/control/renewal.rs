//! When a certificate is renewed: at half of what was left of it when it came, give or take a tenth, and again soon after a
//! failure. Pure; times are Unix seconds with fractions, because leaves may live for seconds.

use std::time::Duration;

/// Shortest and longest pause after a failed renewal.
const RETRY: (f64, f64) = (0.5, 300.0);
/// Longest wait before a renewal that a new root asks for: everybody gets that bundle at once.
const SPREAD: f64 = 30.0;

/// The renewal that is due next. `chance` is a random number of 0 to 1 each time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Renewal {
    not_after: f64,
    due: f64,
}

impl Renewal {
    /// For a leaf that is held from `now` on.
    pub fn of(not_after: u64, now: Duration, chance: f64) -> Self {
        let (not_after, now) = (not_after as f64, now.as_secs_f64());
        let left = (not_after - now).max(0.0);
        Self { not_after, due: now + left * (0.5 + 0.1 * (2.0 * chance - 1.0)) }
    }

    /// A try has failed: half a second to five minutes from now, sooner the less is left.
    pub fn failed(&mut self, now: Duration, chance: f64) {
        let now = now.as_secs_f64();
        let pause = ((self.not_after - now) / 8.0).clamp(RETRY.0, RETRY.1);
        self.due = now + pause * (0.75 + 0.5 * chance);
    }

    /// The issuing root has changed: soon, spread over what the leaf's life allows.
    pub fn hasten(&mut self, now: Duration, chance: f64) {
        let now = now.as_secs_f64();
        let spread = ((self.not_after - now) / 10.0).clamp(0.0, SPREAD);
        self.due = self.due.min(now + spread * chance);
    }

    /// The control plane says that the leaf has expired: its clock decides, not ours.
    pub fn expire(&mut self) {
        self.not_after = 0.0;
    }

    /// How long until it is due.
    pub fn wait(&self, now: Duration) -> Duration {
        Duration::from_secs_f64((self.due - now.as_secs_f64()).max(0.0))
    }

    /// Whether the leaf is past its end.
    pub fn is_expired(&self, now: Duration) -> bool {
        now.as_secs_f64() > self.not_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn half_of_what_is_left_give_or_take_a_tenth() {
        for (chance, expected) in [(0.0, 400), (0.5, 500), (1.0, 600)] {
            assert_eq!(Renewal::of(2000, at(1000), chance).wait(at(1000)).as_secs(), expected);
        }
        assert_eq!(Renewal::of(10, at(1000), 0.5).wait(at(1000)), Duration::ZERO, "an expired one is due at once");
        assert!(Renewal::of(10, at(11), 0.5).is_expired(at(11)) && !Renewal::of(10, at(1), 0.5).is_expired(at(10)));
    }

    #[test]
    fn whoever_judges_the_leaf_says_when_it_has_expired() {
        let mut renewal = Renewal::of(2000, at(1000), 0.5);
        renewal.expire();
        assert!(renewal.is_expired(at(1000)));
        renewal.failed(at(1000), 0.5);
        assert_eq!(renewal.wait(at(1000)), Duration::from_millis(500));
    }

    #[test]
    fn failures_are_repeated_in_time() {
        let mut short = Renewal::of(10, at(0), 0.5);
        short.failed(at(5), 0.5);
        assert_eq!(short.wait(at(5)), Duration::from_secs_f64(0.625));
        short.failed(at(9), 0.5);
        assert_eq!(short.wait(at(9)), Duration::from_millis(500));
        let mut long = Renewal::of(86_400, at(0), 0.5);
        long.failed(at(43_200), 1.0);
        assert_eq!(long.wait(at(43_200)), at(375));
    }

    #[test]
    fn a_new_root_hastens_and_never_delays() {
        let mut long = Renewal::of(86_400, at(0), 0.5);
        long.hasten(at(0), 0.5);
        assert_eq!(long.wait(at(0)), at(15));
        let mut soon = Renewal::of(10, at(0), 0.5);
        soon.hasten(at(4), 1.0);
        assert!(soon.wait(at(4)) <= at(1));
    }
}
