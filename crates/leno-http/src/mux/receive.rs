//! What arrives, once the wire has read it: events on streams. Every rule about streams and windows that a peer can break is
//! here.

use std::time::Duration;

use leno_model::Reason;

use super::frame::{self, DATA, END};
use super::limits::{LATE_FRAMES, MAX_HEADS, MAX_OWED, MAX_STREAMS, STREAM_WINDOW};
use super::stream::{Receiving, Sending, wake};
use super::wire::{Fault, PeerLimits, ProtocolError, Wire, broken, protocol_error};
use super::{Accepted, Engine, Side, StreamKey};
use crate::body::MAX_INTERIM;
use crate::refusal::StreamError;

/// Largest window (RFC 9113 section 6.9.1, and the hop's).
pub(crate) const MAX_WINDOW: u32 = i32::MAX as u32;

/// The second of a connection's age.
pub(super) fn second(now: Duration) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

impl<W: Wire> Engine<W> {
    /// Takes bytes as they come, cut anywhere. `now` is the age of the connection. After an error nothing more is taken.
    pub fn receive(&mut self, plain: &[u8], now: Duration) -> Result<(), ProtocolError> {
        if self.failed.is_some() {
            return Ok(());
        }
        self.heard = now;
        self.now = now;
        let mut rest = plain;
        self.complete_partial(&mut rest, now)?;
        while let Some(frame) = self.wire.take(&mut rest)? {
            W::receive(self, &frame, now)?;
        }
        self.partial.extend_from_slice(rest);
        if self.owed > MAX_OWED {
            return broken(Fault::Calm, "the peer asks for more answers than it reads");
        }
        Ok(())
    }

    /// Takes from `rest` what the frame that was cut needs, and no more: the others are read where they lie.
    fn complete_partial(&mut self, rest: &mut &[u8], now: Duration) -> Result<(), ProtocolError> {
        while !self.partial.is_empty() && !rest.is_empty() {
            let missing = self.wire.missing(&self.partial).min(rest.len());
            self.partial.extend_from_slice(&rest[..missing]);
            *rest = &rest[missing..];
            let mut bytes = std::mem::take(&mut self.partial);
            let mut whole = &bytes[..];
            if let Some(frame) = self.wire.take(&mut whole)? {
                W::receive(self, &frame, now)?;
            }
            if whole.is_empty() {
                bytes.clear();
            }
            self.partial = bytes;
        }
        Ok(())
    }

    /// Spends tolerance on what serves nobody.
    pub(crate) fn keep_calm(&mut self, now: Duration, what: &str) -> Result<(), ProtocolError> {
        if self.calm.take(now) { Ok(()) } else { broken(Fault::Calm, what) }
    }

    /// The peer's greeting has come. `connection_window` is what it lets us send on all streams.
    pub(crate) fn on_greeting(&mut self, limits: PeerLimits, connection_window: u32) {
        self.send_window = i64::from(connection_window);
        self.peer = Some(limits);
    }

    /// What the peer is ready to receive; `None` before its greeting.
    pub(crate) fn peer_limits(&self) -> Option<PeerLimits> {
        self.peer
    }

    /// The peer changed what it is ready to receive, which is also about streams that are open (RFC 9113 section 6.9.2).
    pub(crate) fn on_limits(&mut self, before: PeerLimits, limits: PeerLimits) -> Result<(), ProtocolError> {
        self.peer = Some(limits);
        let by = i64::from(limits.stream_window) - i64::from(before.stream_window);
        if by == 0 {
            return Ok(());
        }
        for key in self.keys() {
            let Some(stream) = self.get(key) else { continue };
            stream.send_window += by;
            if stream.send_window > i64::from(MAX_WINDOW) {
                return broken(Fault::FlowControl, "a window out of range");
            }
            if by > 0 {
                stream.offer_room();
                self.join_round(key);
            }
        }
        Ok(())
    }

    /// Puts an answer to the peer behind what is to be sent.
    pub(crate) fn answer(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        let at = self.control.len();
        put(&mut self.control);
        self.owed += self.control.len() - at;
    }

    /// The stream that a frame is about. `None` if it is over; an error if it was never opened.
    pub(crate) fn stream_of(&self, id: u32) -> Result<Option<StreamKey>, ProtocolError> {
        match self.find(id) {
            Some(key) => Ok(Some(key)),
            None if id % 2 == 1 && id <= self.newest_id => Ok(None),
            None => protocol_error(format!("a frame on stream {id}, which was never opened")),
        }
    }

    /// A frame that may have crossed our reset or stop; more of them than can have crossed are an error.
    fn late(&mut self, length: usize) -> Result<(), ProtocolError> {
        match self.late.checked_sub(length.max(1) as u64) {
            Some(left) => self.late = left,
            None => return protocol_error("a frame on a closed stream"),
        }
        Ok(())
    }

    /// Whether the head of the response, or of the request, has come: what comes now can only be trailers.
    pub(crate) fn has_head(&mut self, id: u32) -> bool {
        self.find(id).and_then(|key| self.get(key)).is_none_or(|stream| stream.receiving != Receiving::Idle)
    }

    /// A head or trailers that break a rule: the stream is broken off for it.
    pub(crate) fn on_malformed(&mut self, id: u32, rule: &str) -> Result<(), ProtocolError> {
        match self.stream_of(id)? {
            Some(key) => self.reset(key, self.side.broken(), false, rule),
            None => self.late(1)?,
        }
        Ok(())
    }

    /// The head of a response.
    pub(crate) fn on_head(
        &mut self,
        id: u32,
        is_end: bool,
        head: impl FnOnce() -> W::Response,
    ) -> Result<(), ProtocolError> {
        let Some(key) = self.stream_of(id)? else { return self.late(1) };
        let Some(stream) = self.get(key) else { return Ok(()) };
        if stream.is_reset || stream.receiving != Receiving::Idle {
            return if stream.is_reset { self.late(1) } else { protocol_error("a second head on a stream") };
        }
        stream.head = Some(head());
        stream.receiving = if is_end { Receiving::Ended } else { Receiving::Open };
        wake(&mut stream.reader);
        self.settle(key);
        Ok(())
    }

    /// A new stream. `length` is that of its head, decoded.
    pub(crate) fn on_request(
        &mut self,
        id: u32,
        is_end: bool,
        length: usize,
        head: impl FnOnce() -> W::Request,
    ) -> Result<(), ProtocolError> {
        if id.is_multiple_of(2) || id <= self.newest_id || id > i32::MAX as u32 {
            return protocol_error(format!("stream {id} opened after {}", self.newest_id));
        }
        self.newest_id = id;
        if self.is_draining && self.is_farewell_heard {
            if W::SAYS_LAST {
                self.refuse(id, is_end, "the connection is draining");
                return Ok(());
            }
            return protocol_error("a stream opened after GOAWAY was acknowledged");
        }
        // Streams that are over for the peer while their handlers still end are few, unless somebody makes them so.
        if self.open >= self.max_streams || self.streams.len() >= 2 * MAX_STREAMS as usize {
            self.refuse(id, is_end, "too many streams");
            // A peer that counts does not do this.
            let (now, what) = (self.now, "too many streams beyond the limit");
            return if self.resets.take(now) { Ok(()) } else { broken(Fault::Calm, what) };
        }
        if self.heads + length > MAX_HEADS {
            self.refuse(id, is_end, "the heads of the open streams are too large");
            return Ok(());
        }
        self.heads += length;
        self.is_used = true;
        let (key, stream) = self.insert(id);
        stream.head_len = u32::try_from(length).expect("a head is bounded");
        stream.sending = Sending::Open;
        stream.receiving = if is_end { Receiving::Ended } else { Receiving::Open };
        self.accepted.push_back(Accepted { key, head: head(), is_ended: is_end });
        Ok(())
    }

    /// Breaks off a stream that was not begun.
    fn refuse(&mut self, id: u32, is_end: bool, detail: &str) {
        if !is_end {
            self.late = self.late.saturating_add(u64::from(STREAM_WINDOW) + LATE_FRAMES);
        }
        self.put_reset(id, Reason::RefusedStream, true, detail);
    }

    /// A 1xx head. `length` is how much it holds. It is advice: what would be too much is left out.
    pub(crate) fn on_interim(
        &mut self,
        id: u32,
        length: usize,
        head: impl FnOnce() -> W::Response,
    ) -> Result<(), ProtocolError> {
        if self.side == Side::Termination {
            return protocol_error("an interim head from the origination");
        }
        let heads = self.heads + length;
        let Some(key) = self.stream_of(id)? else { return self.late(1) };
        let Some(stream) = self.get(key) else { return Ok(()) };
        if stream.is_reset {
            return self.late(1);
        }
        if stream.receiving != Receiving::Idle {
            return protocol_error("an interim head after the final one");
        }
        let is_wanted = stream.rare.as_ref().is_none_or(|rare| rare.infos.len() < usize::from(MAX_INTERIM));
        if is_wanted && heads <= MAX_HEADS {
            stream.head_len += u32::try_from(length).expect("a head is bounded");
            stream.rare().infos.push(head());
            wake(&mut stream.reader);
            self.heads = heads;
        }
        Ok(())
    }

    /// Data. `padding` counts against the windows and is nothing else.
    pub(crate) fn on_data(
        &mut self,
        id: u32,
        is_end: bool,
        payload: &[u8],
        padding: usize,
        now: Duration,
    ) -> Result<(), ProtocolError> {
        let length = u32::try_from(payload.len() + padding).expect("bounded by the kind");
        let Some(left) = self.receive_window.checked_sub(length) else {
            return broken(Fault::FlowControl, "more DATA than the connection's window");
        };
        self.receive_window = left;
        if left <= self.growth.connection_window() / 2 {
            self.pace_connection();
        }
        if payload.is_empty() && !is_end {
            self.keep_calm(now, "too many empty DATA frames")?;
        }
        let Some(key) = self.stream_of(id)? else {
            self.replenish();
            return self.late(length as usize);
        };
        let Some(stream) = self.get(key) else { return Ok(()) };
        if stream.is_reset {
            self.replenish();
            return self.late(length as usize);
        }
        if stream.receiving != Receiving::Open {
            return protocol_error(format!("DATA on stream {id} before its head or after its end"));
        }
        let Some(left) = stream.receive_window.checked_sub(length) else {
            return broken(Fault::FlowControl, format!("more DATA than the window of stream {id}"));
        };
        stream.receive_window = left;
        let is_kept = !payload.is_empty() && !stream.is_released;
        if is_kept {
            if stream.inbox.is_empty() {
                stream.read_at = second(now);
            }
            stream.inbox.push_copy(payload);
        }
        if is_end {
            stream.receiving = Receiving::Ended;
        }
        wake(&mut stream.reader);
        if is_kept {
            self.is_used = true;
            self.held += payload.len();
            self.budget.add(payload.len());
        }
        if padding > 0 {
            self.took(key, u32::try_from(padding).expect("at most 256"));
        }
        // The connection's window follows what is held, not what is read: a slow reader does not stop the others.
        self.replenish();
        self.settle(key);
        Ok(())
    }

    /// Trailers, which end the peer's direction.
    pub(crate) fn on_trailers(&mut self, id: u32, trailers: impl FnOnce() -> W::Trailers) -> Result<(), ProtocolError> {
        let Some(key) = self.stream_of(id)? else { return self.late(1) };
        let Some(stream) = self.get(key) else { return Ok(()) };
        if stream.is_reset {
            return self.late(1);
        }
        if stream.receiving != Receiving::Open {
            return protocol_error(format!("trailers on stream {id} before its head or after its end"));
        }
        if !stream.is_released {
            stream.rare().trailers = Some(trailers());
        }
        stream.receiving = Receiving::Ended;
        wake(&mut stream.reader);
        self.settle(key);
        Ok(())
    }

    /// The peer broke a stream off.
    pub(crate) fn on_reset(
        &mut self,
        id: u32,
        now: Duration,
        error: impl FnOnce(Side) -> StreamError,
    ) -> Result<(), ProtocolError> {
        let Some(key) = self.stream_of(id)? else { return Ok(()) };
        // What was answered was worth its while, whether or not the peer takes all of it.
        let is_vain = self.side == Side::Termination && self.get(key).is_some_and(|s| !s.is_reset && !s.is_answered);
        if is_vain && !self.resets.take(now) {
            return broken(Fault::Calm, "too many streams reset");
        }
        self.kill(key, error(self.side));
        Ok(())
    }

    /// A window became larger by `more`; stream 0 is the connection.
    pub(crate) fn on_window(&mut self, id: u32, more: u32) -> Result<(), ProtocolError> {
        let more = i64::from(more);
        let in_range = |window: i64| (1..=i64::from(MAX_WINDOW)).contains(&more) && window <= i64::from(MAX_WINDOW);
        if id == 0 {
            self.send_window += more;
            let is_fine = in_range(self.send_window);
            return if is_fine { Ok(()) } else { broken(Fault::FlowControl, "a WINDOW out of range") };
        }
        let Some(key) = self.stream_of(id)? else { return Ok(()) };
        let Some(stream) = self.get(key) else { return Ok(()) };
        stream.send_window += more;
        if !in_range(stream.send_window) {
            return broken(Fault::FlowControl, "a WINDOW out of range");
        }
        stream.offer_room();
        self.join_round(key);
        Ok(())
    }

    /// Answers a ping.
    pub(crate) fn on_ping(&mut self, opaque: [u8; 8], now: Duration) -> Result<(), ProtocolError> {
        // Some ask for one with each round trip of data, to learn how long it takes.
        if !std::mem::replace(&mut self.is_used, false) {
            self.keep_calm(now, "too many PINGs")?;
        }
        self.answer(|out| W::put_ping(out, true, opaque));
        Ok(())
    }

    /// The answer to a ping; `false` if none was sent like that.
    pub(crate) fn on_pong(&mut self, opaque: [u8; 8]) -> bool {
        let number = u64::from_be_bytes(opaque);
        if number == 0 || number > self.pings {
            return false;
        }
        self.ping = self.ping.filter(|(sent, _)| *sent > number);
        if !self.is_farewell_heard && self.farewell.is_some_and(|sent| number >= sent) {
            self.is_farewell_heard = true;
            if W::SAYS_LAST {
                self.put_goaway(self.newest_id, Reason::Draining, "");
            }
        }
        true
    }

    /// The peer takes no streams above `last`. What it gives as the reason is ours too, unless it is draining.
    pub(crate) fn on_goaway(&mut self, last: u32, reason: Reason, detail: String) {
        if reason != Reason::Draining {
            self.blamed = Some((reason, detail));
        }
        self.is_draining = true;
        // The peer opens no more, or never did.
        self.is_farewell_heard = true;
        if self.side == Side::Origination {
            for key in self.keys().into_iter().filter(|key| key.id > last) {
                let detail = "the peer went away before it saw the stream";
                self.kill(key, StreamError::unprocessed(Reason::RefusedStream, detail));
            }
        }
    }

    /// The peer wants no more of what we send on a stream: it ends here.
    pub(crate) fn on_stop(&mut self, id: u32) -> Result<(), ProtocolError> {
        if self.side == Side::Termination {
            return protocol_error("STOP from the origination");
        }
        let Some(key) = self.stream_of(id)? else { return Ok(()) };
        let Some(stream) = self.get(key).filter(|s| s.sending != Sending::Ended) else { return Ok(()) };
        stream.cut_sending();
        self.answer(|out| frame::put_header(out, 0, DATA, END, id));
        self.settle(key);
        Ok(())
    }

    pub(super) fn keys(&self) -> Vec<StreamKey> {
        self.streams.iter().map(|(index, s)| StreamKey { index, id: s.id }).collect()
    }
}
