//! What bounds a hop: windows, queues, and how much nonsense a peer may send before it is cut off.

use std::cell::Cell;
use std::time::Duration;

/// Bytes that a peer may send on one stream ahead of its reader (DESIGN section 6).
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes that a peer may send on all streams beyond what slow readers hold; larger than a stream's window, because equal
/// windows deadlock.
pub const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Streams that a peer may have open at once (DESIGN section 7).
pub const MAX_STREAMS: u32 = 1024;
/// Bytes that a stream's sender may queue: two turns' worth, so that the wire never waits for the sender.
pub const SEND_QUEUE: usize = 64 * 1024;
/// Bytes that all hops of a worker may hold for slow readers before their connection windows shrink.
pub const WORKER_BUDGET: usize = 64 * 1024 * 1024;
/// Bytes of answers (PONG, RESET, WINDOW) owed to a peer that does not read them.
pub const MAX_OWED: usize = 256 * 1024;
/// Bytes of heads that may wait for a peer that does not read them before no more streams are opened.
pub const MAX_QUEUED_HEADS: usize = 1024 * 1024;
/// What may cross a RESET or STOP: a stream's window of DATA, and some frames that count 1 each.
pub const LATE_BYTES: u64 = STREAM_WINDOW as u64 + 64;
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
    /// PING, empty DATA and unknown frames: a well-behaved peer sends a few in a minute.
    pub const CALM: Self = Self::new(1000, 100);
    /// Streams reset by the peer (CVE-2023-44487). Generous, because an origination carries many callers, and all of them
    /// may go away at once; streams at one time are bounded apart from it.
    pub const RESETS: Self = Self::new(10_000, 2000);

    const fn new(burst: u32, per_second: u32) -> Self {
        Self { left: burst, burst, per_second, refilled: Duration::ZERO }
    }

    /// Takes one; `false` if there is none left. `now` is the age of the connection.
    pub fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.refilled).as_millis();
        let earned = passed.saturating_mul(u128::from(self.per_second)) / 1000;
        if earned > 0 {
            self.left = self.burst.min(self.left.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)));
            self.refilled = now;
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

/// Bytes that the hops of one worker hold for slow readers.
#[derive(Debug, Default)]
pub struct Budget(Cell<usize>);

impl Budget {
    /// Bytes held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.get()
    }

    pub(super) fn add(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes);
    }

    pub(super) fn sub(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_sub(bytes));
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
        assert!(calm.take(Duration::from_millis(19)) && !calm.take(Duration::from_millis(19)));
        assert_eq!((0..2000).filter(|_| calm.take(Duration::from_secs(1000))).count(), 1000);
    }
}
