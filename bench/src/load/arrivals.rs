//! When requests of an open loop are due.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

/// A Poisson process with a timer that becomes readable when the next arrival is due. Times are nanoseconds since the load
/// began; the kernel's timer is exact to microseconds where epoll's own limit is to milliseconds.
pub struct Arrivals {
    timer: OwnedFd,
    mean_gap: f64,
    next: u64,
    random: u64,
}

impl Arrivals {
    /// So many a second on average. The same seed gives the same gaps, so every pair meets the same arrivals.
    pub fn new(per_second: f64, seed: u64) -> std::io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Ok(Self { timer, mean_gap: 1e9 / per_second, next: 0, random })
    }

    /// To wait on.
    #[must_use]
    pub fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// The next time that is due at `now`, if one is.
    pub fn due(&mut self, now: u64) -> Option<u64> {
        (self.next <= now).then(|| {
            let due = self.next;
            self.next += self.gap();
            due
        })
    }

    /// Sets the timer to the next arrival, which also empties it.
    pub fn arm(&self, now: u64) -> std::io::Result<()> {
        // A timer set to 0 is off; an arrival that is due already fires in a nanosecond.
        let wait = self.next.saturating_sub(now).max(1);
        let value = Timespec { tv_sec: (wait / 1_000_000_000) as i64, tv_nsec: (wait % 1_000_000_000) as i64 };
        let off = Timespec { tv_sec: 0, tv_nsec: 0 };
        let set = Itimerspec { it_interval: off, it_value: value };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &set)?;
        Ok(())
    }

    fn gap(&mut self) -> u64 {
        // xorshift64*: plenty for gaps.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let mixed = self.random.wrapping_mul(0x2545_F491_4F6C_DD1D);
        let share = ((mixed >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        (-share.ln() * self.mean_gap) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_exponential_and_the_same_for_a_seed() {
        let mut arrivals = Arrivals::new(1_000.0, 7).unwrap();
        let gaps: Vec<f64> = (0..100_000).map(|_| arrivals.gap() as f64 / 1e6).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let spread = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((mean - 1.0).abs() < 0.02 && (spread - 1.0).abs() < 0.02, "mean {mean} ms, deviation {spread} ms");
        let mut again = Arrivals::new(1_000.0, 7).unwrap();
        assert_eq!(again.gap() as f64 / 1e6, gaps[0]);
    }
}
