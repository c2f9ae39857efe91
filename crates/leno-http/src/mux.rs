//! Streams multiplexed on one connection: what the hop and HTTP/2 have in common. Bytes in, bytes out, no sockets, no clock,
//! no tasks.
//!
//! ```text
//!            ┌─ receive(bytes) ─▶ frames ─▶ streams: inboxes, windows ─▶ readers woken
//!  Engine ───┤
//!            └─ produce(out)  ◀─ control frames first, then one DATA slice per stream in turn ◀─ writers
//!
//!  connection   New ──greeting──▶ Ready ──GOAWAY sent or received──▶ Draining ──last stream closed──▶ drained
//!               any ──protocol error, loss, close──▶ Failed: every stream is broken off
//! ```
//!
//! The origination opens streams (odd, increasing); the termination answers. What frames look like, and which one may come
//! when, is the [`Wire`]'s: the hop's is in `hop/wire.rs`, HTTP/2's in `h2/wire.rs`. What they say to a stream is in
//! `mux/receive.rs`, sending in `mux/send.rs`. Wakers are called from within: they must only schedule, never run.

pub(crate) mod chunks;
pub mod frame;
mod ids;
pub mod limits;
mod receive;
mod send;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod window;
pub mod wire;

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use leno_model::Reason;

use self::ids::Ids;
use self::limits::{Budget, CONNECTION_WINDOW, LATE_FRAMES, MAX_QUEUED_HEADS, MAX_STREAMS, Tolerance, WORKER_BUDGET};
pub use self::send::{Stopped, reason_of};
use self::stream::{Receiving, Sending, Stream, remember};
use self::table::Table;
use self::window::Growth;
pub use self::wire::{Fault, HeadKind, PeerLimits, ProtocolError, Wire};
use crate::body::{BodyError, Frame, PollFrame};
use crate::refusal::StreamError;

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Opens streams.
    Origination,
    /// Answers.
    Termination,
}

impl Side {
    /// The reason for a stream that the other side broke off without saying why.
    pub fn lost(self) -> Reason {
        match self {
            Self::Origination => Reason::UpstreamReset,
            Self::Termination => Reason::DownstreamReset,
        }
    }

    /// The reason when the other side breaks a rule.
    pub fn broken(self) -> Reason {
        match self {
            Self::Origination => Reason::UpstreamProtocolError,
            Self::Termination => Reason::MalformedRequest,
        }
    }
}

/// Names a stream as long as it lives; a stale one finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamKey {
    index: usize,
    id: u32,
}

/// A part of a response's beginning.
#[derive(Debug, PartialEq, Eq)]
pub enum HeadPart<T> {
    /// A 1xx head.
    Interim(T),
    /// The final head, and whether nothing follows it.
    Final(T, bool),
}

/// A stream that the peer opened.
#[derive(Debug)]
pub struct Accepted<T> {
    /// Its name from now on; whoever takes it releases it.
    pub key: StreamKey,
    /// Its head.
    pub head: T,
    /// The head ended the peer's direction.
    pub is_ended: bool,
}

/// The last id; a connection that has had it is replaced.
const MAX_ID: u32 = i32::MAX as u32;

/// One end of one connection. Bytes go in by [`Engine::receive`] and out by [`Engine::produce`]; time is an argument.
pub struct Engine<W: Wire> {
    /// The protocol, and what it keeps of the connection.
    pub(crate) wire: W,
    side: Side,
    /// The start of a frame whose rest has not arrived.
    partial: Vec<u8>,
    /// Frames that windows do not hold back, in order.
    control: Vec<u8>,
    /// Bytes of `control` that answer the peer, since the last flush.
    owed: usize,
    streams: Table<W>,
    by_id: Ids,
    /// Streams with something to send, in turn.
    round: VecDeque<StreamKey>,
    accepted: VecDeque<Accepted<W::Request>>,
    /// Open streams: those that count against the limit.
    open: u32,
    /// The highest id opened so far, by whichever side opens.
    newest_id: u32,
    /// The highest id whose HEAD was given to the socket.
    sent_id: u32,
    peer: Option<PeerLimits>,
    /// Streams that the peer may have open at once.
    max_streams: u32,
    send_window: i64,
    receive_window: u32,
    growth: Growth,
    /// Streams whose readers took half a window, which is given back with the next bytes that leave.
    credits: Vec<StreamKey>,
    /// Bytes of the heads of open streams.
    heads: usize,
    /// Something was asked or said since the last PING.
    is_used: bool,
    /// The lowest id that was said to be the last.
    last_said: u32,
    /// Seconds for which an answer that is queued to its end may not move.
    stall: Option<u32>,
    /// Bytes in inboxes.
    held: usize,
    budget: Rc<Budget>,
    /// Cost of the frames that may still cross a RESET or STOP of ours.
    late: u64,
    calm: Tolerance,
    resets: Tolerance,
    heard: Duration,
    /// The newest time that was told.
    now: Duration,
    pings: u64,
    /// The PING that waits for its answer, and since when.
    ping: Option<(u64, Duration)>,
    /// The PING that follows our GOAWAY: its answer means that the peer opens no more.
    farewell: Option<u64>,
    is_draining: bool,
    /// The peer knows that we drain, or opens no streams anyway.
    is_farewell_heard: bool,
    /// What the peer's GOAWAY gave as the reason, if it was not draining.
    blamed: Option<(Reason, String)>,
    failed: Option<StreamError>,
}

impl<W: Wire> Engine<W> {
    /// With what `wire` has to say first ready to be sent. `budget` is the worker's.
    #[must_use]
    pub fn with_wire(side: Side, budget: Rc<Budget>, wire: W) -> Self {
        let mut control = Vec::with_capacity(128);
        wire.put_greeting(&mut control);
        Self {
            max_streams: wire.max_streams(),
            wire,
            side,
            partial: Vec::new(),
            control,
            owed: 0,
            streams: Table::default(),
            by_id: Ids::default(),
            round: VecDeque::new(),
            accepted: VecDeque::new(),
            open: 0,
            newest_id: 0,
            sent_id: 0,
            peer: None,
            send_window: 0,
            receive_window: CONNECTION_WINDOW,
            growth: Growth::default(),
            credits: Vec::new(),
            heads: 0,
            is_used: false,
            last_said: MAX_ID,
            stall: None,
            held: 0,
            budget,
            late: 0,
            calm: Tolerance::CALM,
            resets: W::RESETS,
            heard: Duration::ZERO,
            now: Duration::ZERO,
            pings: 0,
            ping: None,
            farewell: None,
            is_draining: false,
            is_farewell_heard: side == Side::Origination,
            blamed: None,
            failed: None,
        }
    }

    /// Which end this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Whether the peer's greeting has come: it accepts us, and streams may be opened.
    pub fn is_ready(&self) -> bool {
        self.peer.is_some()
    }

    /// Whether no more streams are opened.
    pub fn is_draining(&self) -> bool {
        self.is_draining || self.failed.is_some() || (self.side == Side::Origination && self.newest_id >= MAX_ID - 1)
    }

    /// Whether nothing is left to do before closing.
    pub fn is_drained(&self) -> bool {
        self.failed.is_some()
            || (self.is_draining && self.is_farewell_heard && self.open == 0 && self.accepted.is_empty())
    }

    /// Why everything was broken off, if it was.
    pub fn failure(&self) -> Option<&StreamError> {
        self.failed.as_ref()
    }

    /// Whether so much waits for a peer which does not read that nothing more is to be taken from it: it would only be answered.
    pub fn is_backed_up(&self) -> bool {
        self.side == Side::Termination && self.control.len() >= MAX_QUEUED_HEADS
    }

    /// How long an answer that is queued to its end may not move before its stream is broken off.
    pub fn stall_after(&mut self, limit: Duration) {
        self.stall = Some(u32::try_from(limit.as_secs()).unwrap_or(u32::MAX));
    }

    /// Open streams.
    pub fn open_streams(&self) -> u32 {
        self.open
    }

    /// The highest stream id so far.
    pub fn newest_id(&self) -> u32 {
        self.newest_id
    }

    /// Bytes received for readers, and bytes queued by writers.
    #[cfg(test)]
    pub fn bytes_held(&self) -> (usize, usize) {
        (self.held, self.streams.iter().map(|(_, s)| s.queue.len()).sum())
    }

    /// Bytes on the heap, without what streams hold there.
    #[cfg(test)]
    pub fn heap(&self) -> usize {
        self.partial.capacity()
            + self.control.capacity()
            + self.streams.capacity() * size_of::<Stream<W>>()
            + self.by_id.heap()
            + (self.round.capacity() + self.credits.capacity()) * size_of::<StreamKey>()
            + self.accepted.capacity() * size_of::<Accepted<W::Request>>()
    }

    /// Whether a stream may be opened now; why not, otherwise.
    pub fn room(&self) -> Result<(), StreamError> {
        if let Some(failure) = &self.failed {
            return Err(StreamError { unprocessed: true, ..failure.clone() });
        }
        let refused = |detail| Err(StreamError::unprocessed(Reason::RefusedStream, detail));
        match &self.peer {
            None => refused("the connection is not ready"),
            Some(_) if self.is_draining() => refused("the connection is draining"),
            Some(peer) if self.open >= peer.max_streams.min(MAX_STREAMS) => {
                refused("the connection is at its stream limit")
            }
            Some(_) if self.control.len() >= MAX_QUEUED_HEADS => refused("the peer does not read"),
            Some(_) => Ok(()),
        }
    }

    fn get(&mut self, key: StreamKey) -> Option<&mut Stream<W>> {
        self.streams.get_mut(key.index).filter(|s| s.id == key.id)
    }

    fn find(&self, id: u32) -> Option<StreamKey> {
        self.by_id.get(id).map(|index| StreamKey { index, id })
    }

    /// A new stream; the limits were looked at.
    fn insert(&mut self, id: u32) -> (StreamKey, &mut Stream<W>) {
        let send_window = self.peer.map_or(0, |p| p.stream_window);
        let (index, stream) = self.streams.insert(id, send_window);
        self.by_id.insert(id, index);
        self.open += 1;
        (StreamKey { index, id }, stream)
    }

    /// Forgets a stream when it is over, and gives memory back when it was the last.
    fn settle(&mut self, key: StreamKey) {
        let Some(stream) = self.get(key) else { return };
        let is_unread = stream.sending == Sending::Ended && stream.is_released && stream.receiving != Receiving::Ended;
        if !W::HAS_STOP && is_unread && self.side == Side::Termination {
            // Answered, and the rest of the request is not wanted (RFC 9113 section 8.1).
            self.answer(|out| W::put_stop(out, key.id));
            if let Some(stream) = self.get(key) {
                stream.receiving = Receiving::Ended;
            }
        }
        let Some(stream) = self.get(key).filter(|s| s.is_closed()) else { return };
        let was_counted = std::mem::replace(&mut stream.is_counted, false);
        let (is_released, grown, head_len) = (stream.is_released, stream.growth(), stream.head_len);
        self.open -= u32::from(was_counted);
        if is_released {
            self.streams.remove(key.index);
            self.heads -= head_len as usize;
            if grown > 0 {
                self.shrunk(grown);
            }
            self.by_id.remove(key.id);
            if self.streams.is_empty() {
                self.shrink();
            }
        }
    }

    /// Gives a burst's memory back when the last stream is gone.
    fn shrink(&mut self) {
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
        if self.streams.capacity() > 16 {
            self.streams = Table::default();
            self.by_id = Ids::default();
            self.round = VecDeque::new();
            self.accepted = VecDeque::new();
        }
    }

    /// Takes `bytes` off what is held for readers.
    fn freed(&mut self, bytes: usize) {
        self.held -= bytes;
        self.budget.sub(bytes);
        self.replenish();
    }

    /// Lets the peer send more, within the worker's budget. The connection's window is what may be in flight *beyond* what
    /// slow readers hold, so that they do not stop the others; only when all of them hold too much does it shrink.
    fn replenish(&mut self) {
        let within = self.budget.held() < WORKER_BUDGET;
        let held = u32::try_from(self.held).unwrap_or(u32::MAX);
        let target = if within { self.growth.connection_window() } else { CONNECTION_WINDOW.saturating_sub(held) };
        if self.receive_window <= target / 2 && self.receive_window < target {
            let more = target - self.receive_window;
            self.receive_window = target;
            self.answer(|out| W::put_window(out, 0, more));
        }
    }

    fn kill(&mut self, key: StreamKey, error: StreamError) {
        let Some(stream) = self.get(key) else { return };
        let freed = stream.kill(error);
        if freed > 0 {
            self.freed(freed);
        }
        self.settle(key);
    }

    /// Breaks a stream off and says so to the peer.
    pub fn reset(&mut self, key: StreamKey, reason: Reason, unprocessed: bool, detail: &str) {
        let Some(stream) = self.get(key).filter(|s| !s.is_closed()) else { return };
        let (id, late) = (stream.id, u64::from(stream.receive_window) + LATE_FRAMES);
        self.late = self.late.saturating_add(late);
        self.put_reset(id, reason, unprocessed, detail);
        self.kill(key, StreamError { reason, unprocessed, detail: detail.to_owned().into() });
    }

    fn put_reset(&mut self, id: u32, reason: Reason, unprocessed: bool, detail: &str) {
        self.answer(|out| W::put_reset(out, id, reason, unprocessed, detail));
    }

    /// The reader goes away. Before the regular end the origination breaks the stream off, while the termination asks the
    /// peer to send no more and goes on answering.
    pub fn release(&mut self, key: StreamKey) {
        let side = self.side;
        let Some(stream) = self.get(key) else { return };
        if stream.is_released {
            return;
        }
        stream.is_released = true;
        stream.reader = None;
        let is_open = stream.receiving != Receiving::Ended;
        let late = u64::from(stream.receive_window) + LATE_FRAMES;
        let freed = stream.drop_inbox();
        if freed > 0 {
            self.freed(freed);
        }
        match (is_open, side) {
            (true, Side::Origination) => self.reset(key, Reason::DownstreamReset, false, ""),
            (true, Side::Termination) => {
                self.late = self.late.saturating_add(late);
                if W::HAS_STOP {
                    self.answer(|out| W::put_stop(out, key.id));
                }
                self.settle(key);
            }
            (false, _) => self.settle(key),
        }
    }

    /// The next part of a response's beginning.
    pub fn poll_head(&mut self, key: StreamKey, cx: &Context<'_>) -> Poll<Result<HeadPart<W::Response>, StreamError>> {
        let lost = self.side.lost();
        let Some(stream) = self.get(key) else {
            return Poll::Ready(Err(StreamError::in_flight(lost, "the stream is gone")));
        };
        if let Some(head) = stream.next_info() {
            return Poll::Ready(Ok(HeadPart::Interim(head)));
        }
        if let Some(head) = stream.head.take() {
            let is_ended = stream.receiving == Receiving::Ended && stream.inbox.is_empty();
            return Poll::Ready(Ok(HeadPart::Final(head, is_ended && stream.rare.is_none())));
        }
        if let Some(error) = stream.error() {
            return Poll::Ready(Err(error.clone()));
        }
        remember(&mut stream.reader, cx);
        Poll::Pending
    }

    /// The next frame of the body; taking it lets the peer send more.
    pub fn poll_body(&mut self, key: StreamKey, cx: &Context<'_>) -> PollFrame {
        let lost = self.side.lost();
        let Some(stream) = self.get(key) else {
            return Poll::Ready(Some(Err(BodyError::new(lost, "the stream is gone"))));
        };
        if let Some(bytes) = stream.inbox.pop() {
            self.took(key, u32::try_from(bytes.len()).expect("at most a stream's window"));
            self.freed(bytes.len());
            return Poll::Ready(Some(Ok(Frame::Data(bytes))));
        }
        if let Some(error) = stream.error().cloned() {
            return Poll::Ready(Some(Err(error.into())));
        }
        if let Some(trailers) = stream.take_trailers() {
            let reason = self.side.broken();
            return match W::read_trailers(trailers) {
                Ok(fields) => Poll::Ready(Some(Ok(Frame::Trailers(fields)))),
                Err(error) => {
                    let error = StreamError::in_flight(reason, format!("the trailers: {error}"));
                    self.reset(key, error.reason, false, &error.detail);
                    Poll::Ready(Some(Err(error.into())))
                }
            };
        }
        if stream.receiving == Receiving::Ended {
            return Poll::Ready(None);
        }
        remember(&mut stream.reader, cx);
        Poll::Pending
    }

    /// Ready when the stream was broken off or is over.
    pub fn poll_gone(&mut self, key: StreamKey, cx: &Context<'_>) -> Poll<()> {
        match self.get(key) {
            Some(stream) if !stream.is_reset => {
                remember(&mut stream.watcher, cx);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Whether [`Engine::next_accepted`] may give one.
    pub fn has_accepted(&self) -> bool {
        !self.accepted.is_empty()
    }

    /// Whether everything that the peer sent on a stream, and its end, was read.
    pub fn is_read(&mut self, key: StreamKey) -> bool {
        self.get(key).is_none_or(|s| s.receiving == Receiving::Ended && s.inbox.is_empty() && s.rare.is_none())
    }

    /// The next stream that the peer opened and did not break off at once.
    pub fn next_accepted(&mut self) -> Option<Accepted<W::Request>> {
        loop {
            let accepted = self.accepted.pop_front()?;
            match self.get(accepted.key) {
                Some(stream) if !stream.is_reset => return Some(accepted),
                _ => self.release(accepted.key),
            }
        }
    }

    /// Takes no new streams and tells the peer; those that cross the message are still served.
    pub fn drain(&mut self, reason: Reason, now: Duration) {
        if self.is_draining || self.failed.is_some() {
            return;
        }
        self.is_draining = true;
        self.put_goaway(MAX_ID, reason, "");
        if self.side == Side::Termination {
            let ping = self.put_ping(now);
            self.farewell = Some(ping);
        }
    }

    fn put_goaway(&mut self, last: u32, reason: Reason, detail: &str) {
        self.last_said = last.min(self.last_said);
        let last = self.last_said;
        self.wire.put_goaway(&mut self.control, last, reason, detail);
    }

    fn put_ping(&mut self, now: Duration) -> u64 {
        self.pings += 1;
        W::put_ping(&mut self.control, false, self.pings.to_be_bytes());
        self.ping = Some((self.pings, now));
        self.pings
    }

    /// Says why and breaks everything off.
    pub fn close(&mut self, reason: Reason, detail: &str) {
        if self.failed.is_none() {
            let last = if self.side == Side::Termination { self.newest_id } else { 0 };
            self.put_goaway(last, reason, detail);
            self.fail(reason, detail);
        }
    }

    /// Breaks everything off: the connection is lost. Streams that never left this side are `unprocessed`.
    pub fn fail(&mut self, reason: Reason, detail: &str) {
        if self.failed.is_some() {
            return;
        }
        let (reason, detail) = self.blamed.take().unwrap_or_else(|| (reason, detail.to_owned()));
        let error = StreamError { reason, unprocessed: self.peer.is_none(), detail: detail.into() };
        self.failed = Some(error.clone());
        self.partial = Vec::new();
        for key in self.keys() {
            let unsent = self.side == Side::Origination && key.id > self.sent_id;
            self.kill(key, StreamError { unprocessed: unsent, ..error.clone() });
        }
        while self.next_accepted().is_some() {}
    }

    /// Looks whether the peer still lives; `now` is the age of the connection. Returns when to look again.
    pub fn tick(&mut self, now: Duration) -> Result<Duration, ProtocolError> {
        if let Some(limit) = self.stall {
            self.end_stalled(now, limit);
        }
        let (after, within) = W::KEEPALIVE;
        if let Some((_, since)) = self.ping {
            // Whatever comes is a sign of life; the answer may wait behind a slow link's worth of it.
            let dead = since.max(self.heard) + within;
            return if now >= dead { wire::protocol_error("no sign of life") } else { Ok(dead) };
        }
        if self.open > 0 && now >= self.heard + after {
            self.put_ping(now);
            return Ok(now + within);
        }
        Ok(if self.open > 0 { self.heard } else { now } + after)
    }

    /// Breaks off streams whose answers were queued to their end long ago, and which the peer does not take.
    fn end_stalled(&mut self, now: Duration, limit: u32) {
        let now = receive::second(now);
        let is_stalled = |s: &Stream<W>| {
            s.sending == Sending::Ending && !s.queue.is_empty() && now.saturating_sub(s.sent_at) >= limit
        };
        let stalled: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, s)| is_stalled(s))
            .map(|(index, s)| StreamKey { index, id: s.id })
            .collect();
        for key in stalled {
            self.reset(key, Reason::DownstreamReset, false, "the peer took no more of the answer");
        }
    }
}

impl<W: Wire> Drop for Engine<W> {
    fn drop(&mut self) {
        self.budget.sub(self.held);
        self.budget.return_grant(self.growth.taken());
    }
}
