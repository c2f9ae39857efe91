//! How far a peer may send ahead: receive windows that grow for proven bulk over long round trips, and fall back.
//!
//! ```text
//!   a window taken, or long waited ──▶ how many round trips does a window take at that pace?
//!                                       ≤ 2: the window is what holds the peer back      ──▶ twice the window, if the worker has it
//!                                       > 16: the peer or the reader is slower than that ──▶ half the window, down to the first
//!                                       else it fits
//! ```
//!
//! A window of twice what is in flight during a round trip never empties. Over a short round trip the first window is more than that, so nothing
//! grows there. What all windows of a worker may grow by is bounded, because it is memory as soon as a reader stalls.

#[cfg(test)]
mod simulation;

use std::time::Duration;

use leno_model::Reason;

use super::limits::{
    CONNECTION_WINDOW, FAST_ROUND_TRIPS, LONG_ROUND_TRIP, MAX_CONNECTION_GROWTH, MAX_STREAM_WINDOW, PROBE_EVERY,
    SLOW_ROUND_TRIPS, STREAM_WINDOW, UNREAD_FOR, WORKER_BUDGET,
};
use super::receive::second;
use super::wire::Wire;
use super::{Engine, Receiving, Stream, StreamKey};
use crate::refusal::StreamError;

/// What the time that a part of a window took says of its size.
#[derive(Debug, PartialEq, Eq)]
enum Pace {
    TooSmall,
    Fits,
    TooLarge,
}

/// `bytes` of a window took so long. `took` is unknown the first time.
fn pace(took: Option<Duration>, bytes: u32, window: u32, round_trip: Option<Duration>) -> Pace {
    let (Some(took), Some(round_trip)) = (took, round_trip) else { return Pace::Fits };
    let whole = took.mul_f64(f64::from(window) / f64::from(bytes.max(1)));
    match () {
        () if round_trip >= LONG_ROUND_TRIP && whole <= round_trip * FAST_ROUND_TRIPS => Pace::TooSmall,
        () if whole > round_trip.max(LONG_ROUND_TRIP) * SLOW_ROUND_TRIPS => Pace::TooLarge,
        () => Pace::Fits,
    }
}

impl<W: Wire> Stream<W> {
    /// What the time since the last judgement says of the window, if it is long enough to say anything. `credit` is what was
    /// taken since the last call.
    fn judge(&mut self, now: Duration, round_trip: Option<Duration>) -> Pace {
        self.taken = self.taken.saturating_add(u32::try_from(self.credit).unwrap_or(0));
        let took = self.judged.map(|since| now.saturating_sub(since));
        let is_slow = took > Some(round_trip.unwrap_or_default().max(LONG_ROUND_TRIP) * SLOW_ROUND_TRIPS);
        if took.is_some() && self.taken < self.window && !is_slow {
            return Pace::Fits;
        }
        self.judged = Some(now);
        pace(took, std::mem::take(&mut self.taken), self.window, round_trip)
    }

    /// What the window has grown by and may still hold.
    pub fn growth(&self) -> u32 {
        self.window - STREAM_WINDOW + u32::try_from(-self.credit).unwrap_or(0)
    }
}

/// The round trip, and what this connection's windows have grown by.
#[derive(Debug, Default)]
pub(super) struct Growth {
    /// The shortest that the kernel has seen: what waits in queues is no distance.
    round_trip: Option<Duration>,
    measured: Option<Duration>,
    wants_round_trip: bool,
    /// Of all streams together; the connection's window grows by the same, so that it stays larger than each.
    streams: u32,
    /// Of the connection beyond that: many streams that are small each.
    connection: u32,
    replenished: Option<Duration>,
}

impl Growth {
    /// What is taken from what the worker's windows may grow by.
    pub fn taken(&self) -> usize {
        2 * self.streams as usize + self.connection as usize
    }

    /// The connection's window.
    pub fn connection_window(&self) -> u32 {
        CONNECTION_WINDOW + self.streams + self.connection
    }

    /// There is bulk: the round trip matters, and is asked for now and then.
    fn probe(&mut self, now: Duration) {
        self.wants_round_trip = self.measured.is_none_or(|at| now >= at + PROBE_EVERY);
    }
}

impl<W: Wire> Engine<W> {
    /// What time it is: before [`Engine::produce`], if [`Engine::wants_time`].
    pub fn tell_time(&mut self, now: Duration) {
        self.now = now;
    }

    /// Whether what is to be sent depends on the time: windows are given back.
    pub fn wants_time(&self) -> bool {
        !self.credits.is_empty() || self.growth.wants_round_trip
    }

    /// Whether [`Engine::tell_round_trip`] would help.
    pub fn wants_round_trip(&self) -> bool {
        self.growth.wants_round_trip
    }

    /// The connection's shortest round trip; `None` if nobody knows, and then windows stay as they are.
    pub fn tell_round_trip(&mut self, round_trip: Option<Duration>) {
        self.growth.round_trip = round_trip;
        self.growth.measured = Some(self.now);
        self.growth.wants_round_trip = false;
    }

    /// The reader took `bytes` off a stream.
    pub(super) fn took(&mut self, key: StreamKey, bytes: u32) {
        let now = second(self.now);
        let Some(stream) = self.get(key) else { return };
        let debt = u32::try_from(-stream.credit).unwrap_or(0);
        stream.credit += i64::from(bytes);
        stream.read_at = now;
        if stream.credit >= i64::from(STREAM_WINDOW / 2) && stream.receiving == Receiving::Open && !stream.is_credited {
            stream.is_credited = true;
            self.credits.push(key);
        }
        if debt > 0 {
            self.shrunk(debt.min(bytes));
        }
    }

    /// Gives back what readers took, and more or less than that.
    pub(super) fn give_credit(&mut self) {
        let now = self.now;
        let mut credits = std::mem::take(&mut self.credits);
        for key in credits.drain(..) {
            let round_trip = self.growth.round_trip;
            let Some(stream) = self.get(key) else { continue };
            stream.is_credited = false;
            if stream.receiving != Receiving::Open {
                continue;
            }
            let window = stream.window;
            match stream.judge(now, round_trip) {
                Pace::TooSmall => {
                    let by = self.enlarged(window);
                    if let Some(stream) = self.get(key) {
                        stream.window += by;
                        stream.credit += i64::from(by);
                    }
                }
                // What was given cannot be taken back: readers pay for it before they are credited again.
                Pace::TooLarge => {
                    let by = window - (window / 2).max(STREAM_WINDOW);
                    let paid = u32::try_from(stream.credit).unwrap_or(0).min(by);
                    stream.window -= by;
                    stream.credit -= i64::from(by);
                    self.shrunk(paid);
                }
                Pace::Fits => {}
            }
            let Some(stream) = self.get(key) else { continue };
            if let Some(more) = u32::try_from(stream.credit).ok().filter(|more| *more > 0) {
                stream.credit = 0;
                stream.receive_window += more;
                self.answer(|out| W::put_window(out, key.id, more));
            }
        }
        // Kept for the next: few words, and only where there is bulk.
        self.credits = credits;
        self.growth.probe(now);
    }

    /// Whether the worker holds all that it may, and some of it here, or did when this connection last wanted to give its peer
    /// more: [`Engine::relieve`] is to be called in a while.
    pub fn wants_relief(&self) -> bool {
        let is_starved = self.receive_window <= self.growth.connection_window() / 2;
        self.held > 0 && (is_starved || self.budget.held() >= WORKER_BUDGET)
    }

    /// Breaks off streams whose readers have taken nothing for long, the longest first, until the worker holds a quarter less
    /// than it may. Without it they would stop all others: what they hold is what nobody else can get.
    pub fn relieve(&mut self, now: Duration) {
        self.now = now;
        // Others may have made room.
        self.replenish();
        if self.budget.held() < WORKER_BUDGET {
            return;
        }
        let now = second(now);
        let mut unread: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, s)| !s.inbox.is_empty() && now.saturating_sub(s.read_at) >= UNREAD_FOR)
            .map(|(index, s)| (s.read_at, StreamKey { index, id: s.id }))
            .collect();
        unread.sort_unstable_by_key(|(read_at, key)| (*read_at, key.id));
        for (_, key) in unread {
            if self.budget.held() <= WORKER_BUDGET / 4 * 3 {
                return;
            }
            let Some(stream) = self.get(key) else { continue };
            let is_closed = stream.is_closed();
            // Also what has come to its end is dropped, or it would be held for ever.
            stream.receiving = Receiving::Open;
            let detail = "nobody read it, and the memory for slow readers is used up";
            if is_closed {
                self.kill(key, StreamError::in_flight(Reason::Overloaded, detail));
            } else {
                self.reset(key, Reason::Overloaded, false, detail);
            }
        }
    }

    /// By how much a stream's window may grow.
    fn enlarged(&mut self, window: u32) -> u32 {
        let by = window.min(MAX_STREAM_WINDOW - window);
        if by == 0 || self.budget.held() > WORKER_BUDGET / 2 || !self.budget.grant(2 * by as usize) {
            return 0;
        }
        self.growth.streams += by;
        by
    }

    /// What a stream's window may hold became less, or its stream is over.
    pub(super) fn shrunk(&mut self, by: u32) {
        self.growth.streams -= by;
        self.budget.return_grant(2 * by as usize);
    }

    /// Half of the connection's window has arrived, or more.
    pub(super) fn pace_connection(&mut self) {
        let (now, window) = (self.now, self.growth.connection_window());
        let bytes = window.saturating_sub(self.receive_window);
        let took = self.growth.replenished.replace(now).map(|since| now.saturating_sub(since));
        let grown = self.growth.connection;
        match pace(took, bytes, window, self.growth.round_trip) {
            Pace::TooSmall => {
                let by = window.min(MAX_CONNECTION_GROWTH - grown);
                if by > 0 && self.budget.held() <= WORKER_BUDGET / 2 && self.budget.grant(by as usize) {
                    self.growth.connection += by;
                }
            }
            Pace::TooLarge => {
                self.growth.connection = grown / 2;
                self.budget.return_grant((grown - grown / 2) as usize);
            }
            Pace::Fits => {}
        }
        self.growth.probe(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_counted_in_round_trips() {
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(pace(None, 50, 100, ms(100)), Pace::Fits);
        assert_eq!(pace(ms(1), 50, 100, None), Pace::Fits);
        assert_eq!(pace(ms(100), 50, 100, ms(100)), Pace::TooSmall);
        assert_eq!(pace(ms(101), 50, 100, ms(100)), Pace::Fits);
        assert_eq!(pace(ms(200), 100, 100, ms(100)), Pace::TooSmall, "a whole window may take twice as long");
        assert_eq!(pace(ms(801), 50, 100, ms(100)), Pace::TooLarge);
        let short = Some(LONG_ROUND_TRIP / 2);
        assert_eq!(pace(ms(0), 50, 100, short), Pace::Fits, "over a short way the first window is enough");
    }
}
