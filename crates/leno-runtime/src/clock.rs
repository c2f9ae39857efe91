//! Time as an argument: a monotonic clock for durations, a wall clock for certificates and logs.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where time comes from.
pub trait Clock: Debug + Send + Sync {
    /// Nanoseconds since a fixed moment of this process; never goes back.
    fn monotonic_nanos(&self) -> u64;
    /// Time since the Unix epoch; may jump.
    fn unix_time(&self) -> Duration;
    /// Whole seconds since the Unix epoch, as certificates count.
    fn unix_seconds(&self) -> u64 {
        self.unix_time().as_secs()
    }
}

/// The system's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// The monotonic clock counts from here.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// For those who share it.
    #[must_use]
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::new())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn monotonic_nanos(&self) -> u64 {
        // 584 years fit.
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn unix_time(&self) -> Duration {
        // A clock before 1970 is a clock that was never set; certificates then say `clock_skew`.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// A clock that moves only when told to. Clones share the time.
#[derive(Debug, Clone)]
pub struct ManualClock {
    inner: Arc<Manual>,
}

#[derive(Debug)]
struct Manual {
    monotonic: AtomicU64,
    unix_nanos: AtomicU64,
}

impl ManualClock {
    /// Starts at this wall time, monotonic zero.
    #[must_use]
    pub fn at(unix_seconds: u64) -> Self {
        let unix_nanos = AtomicU64::new(unix_seconds * 1_000_000_000);
        Self { inner: Arc::new(Manual { monotonic: AtomicU64::new(0), unix_nanos }) }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.inner.monotonic.fetch_add(nanos, Ordering::SeqCst);
        self.inner.unix_nanos.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Sets the wall clock alone, as an administrator or NTP does.
    pub fn set_unix_seconds(&self, seconds: u64) {
        self.inner.unix_nanos.store(seconds * 1_000_000_000, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn monotonic_nanos(&self) -> u64 {
        self.inner.monotonic.load(Ordering::SeqCst)
    }

    fn unix_time(&self) -> Duration {
        Duration::from_nanos(self.inner.unix_nanos.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_clock_moves_when_told() {
        let clock = ManualClock::at(1000);
        let same = clock.clone();
        clock.advance(Duration::from_millis(1500));
        assert_eq!((same.monotonic_nanos(), same.unix_seconds()), (1_500_000_000, 1001));
        clock.set_unix_seconds(5);
        assert_eq!((same.monotonic_nanos(), same.unix_seconds()), (1_500_000_000, 5));
    }

    #[test]
    fn the_system_clock_never_goes_back() {
        let clock = SystemClock::new();
        let first = clock.monotonic_nanos();
        assert!(clock.monotonic_nanos() >= first);
        assert!(clock.unix_seconds() > 1_700_000_000);
    }
}
