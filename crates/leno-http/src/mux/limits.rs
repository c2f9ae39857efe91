//! What bounds a connection of many streams: windows, queues, and how much nonsense a peer may send before it is cut off.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::Duration;

/// Bytes that a peer may send on one stream ahead of its reader (DESIGN section 6).
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes that a peer may send on all streams beyond what slow readers hold; larger than a stream's window, because equal
/// windows deadlock.
pub const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Largest window of a stream: 80 MB/s at a round trip of 100 ms.
pub const MAX_STREAM_WINDOW: u32 = 8 * 1024 * 1024;
/// What a connection's window may grow by beyond its streams': as much in flight as one large stream has.
pub const MAX_CONNECTION_GROWTH: u32 = 8 * 1024 * 1024;
/// Shorter round trips need no more than the first window: it is 2 Gbit/s over a millisecond.
pub const LONG_ROUND_TRIP: Duration = Duration::from_millis(1);
/// A window that is taken within so many round trips is what holds its sender back; one of twice what is on its way is not.
pub const FAST_ROUND_TRIPS: u32 = 2;
/// A window that takes more round trips than this is too large: eight times what keeps a link full.
pub const SLOW_ROUND_TRIPS: u32 = 16;
/// The round trip is measured no more often than this, and only while there is bulk.
pub const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Streams that a peer may have open at once (DESIGN section 7).
pub const MAX_STREAMS: u32 = 1024;
/// Bytes that a stream's sender may queue: two turns' worth, so that the wire never waits for the sender.
pub const SEND_QUEUE: usize = 64 * 1024;
/// Bytes that all hops of a worker may hold for slow readers before their connection windows shrink.
pub const WORKER_BUDGET: usize = 64 * 1024 * 1024;
/// Seconds for which a reader may take nothing of what is held for it while the worker holds all that it may: then its stream is
/// broken off, so that those who read go on.
pub const UNREAD_FOR: u32 = 5;
/// How often is looked for such readers, while there is need to.
pub const RELIEVE_EVERY: Duration = Duration::from_secs(1);
/// Bytes that all windows of a worker may grow by: half of what it may hold.
pub const WORKER_GROWTH: usize = WORKER_BUDGET / 2;
/// Bytes of answers (PONG, RESET, WINDOW) owed to a peer that does not read them.
pub const MAX_OWED: usize = 256 * 1024;
/// Bytes of heads that may wait for a peer that does not read them before no more streams are opened.
pub const MAX_QUEUED_HEADS: usize = 1024 * 1024;
/// Bytes of the heads of a connection's open streams. A head of HTTP/2 may be much larger than what it takes on the wire.
pub const MAX_HEADS: usize = 8 * 1024 * 1024;
/// What may cross a RESET or STOP besides the DATA that the stream's window lets pass: some frames that count 1 each.
pub const LATE_FRAMES: u64 = 64;
/// Silence with streams open after which the peer is asked for a sign of life.
pub const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// How long it may take to give it.
pub const KEEPALIVE_WITHIN: Duration = Duration::from_secs(15);

/// How much of what costs us and serves nobody is tolerated, as a token bucket.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    left: u32,
    burst: u32,
    per_second: u32,
    refilled: Duration,
}

impl Tolerance {
    /// PING that asks about nothing, empty DATA, unknown frames and their like: a well-behaved peer sends a few in a minute.
    pub const CALM: Self = Self::new(1000, 100);
    /// So many at once, and so many more in a second.
    pub(crate) const fn new(burst: u32, per_second: u32) -> Self {
        Self { left: burst, burst, per_second, refilled: Duration::ZERO }
    }

    /// Takes one; `false` if there is none left. `now` is the age of the connection.
    pub fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.refilled).as_micros();
        let earned = passed.saturating_mul(u128::from(self.per_second)) / 1_000_000;
        if earned > 0 {
            self.left = self.burst.min(self.left.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)));
            // What was not enough for one more counts for the next.
            let rest = passed - earned.saturating_mul(1_000_000) / u128::from(self.per_second);
            self.refilled = now.saturating_sub(Duration::from_micros(u64::try_from(rest).unwrap_or(0)));
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

/// Bytes that the hops of one worker hold for slow readers, and what they let their windows grow by.
#[derive(Debug, Default)]
pub struct Budget {
    held: Cell<usize>,
    granted: Cell<usize>,
    /// The drivers of the worker's connections, to be woken when all that may be held is held.
    drivers: RefCell<Vec<Weak<WakerSlot>>>,
}

/// Where a driver leaves whom to wake.
pub(crate) type WakerSlot = RefCell<Option<Waker>>;

impl Budget {
    /// Bytes held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// Bytes by which windows have grown.
    #[must_use]
    pub fn granted(&self) -> usize {
        self.granted.get()
    }

    /// Lets a window grow, if that is within half of what is left of what all may grow by: credit cannot be taken back from a
    /// stream that has gone quiet, so that no few may have it all.
    pub(super) fn grant(&self, bytes: usize) -> bool {
        let granted = self.granted.get();
        let is_within = 2 * bytes <= WORKER_GROWTH.saturating_sub(granted);
        if is_within {
            self.granted.set(granted + bytes);
        }
        is_within
    }

    pub(super) fn return_grant(&self, bytes: usize) {
        self.granted.set(self.granted.get().saturating_sub(bytes));
    }

    /// Enters a driver.
    pub(crate) fn enter(&self, driver: &Rc<WakerSlot>) {
        let mut drivers = self.drivers.borrow_mut();
        if drivers.len() == drivers.capacity() {
            drivers.retain(|driver| driver.strong_count() > 0);
        }
        drivers.push(Rc::downgrade(driver));
    }

    pub(super) fn add(&self, bytes: usize) {
        let before = self.held.get();
        self.held.set(before + bytes);
        if before < WORKER_BUDGET && before + bytes >= WORKER_BUDGET {
            // Those that hold it may have nothing else to do than to hold it.
            for driver in self.drivers.borrow().iter().filter_map(Weak::upgrade) {
                if let Some(waker) = &*driver.borrow() {
                    waker.wake_by_ref();
                }
            }
        }
    }

    pub(super) fn sub(&self, bytes: usize) {
        self.held.set(self.held.get().saturating_sub(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerance_ends_and_returns() {
        let mut calm = Tolerance::CALM;
        assert_eq!((0..2000).filter(|_| calm.take(Duration::ZERO)).count(), 1000);
        assert!(!calm.take(Duration::from_millis(9)));
        let mut often = Tolerance { left: 0, ..Tolerance::CALM };
        let taken = (0..10_000).filter(|n| often.take(Duration::from_micros(n * 100))).count();
        assert!((98..=100).contains(&taken), "{taken} in a second");
        assert!(calm.take(Duration::from_millis(19)) && !calm.take(Duration::from_millis(19)));
        assert_eq!((0..2000).filter(|_| calm.take(Duration::from_secs(1000))).count(), 1000);
    }
}
