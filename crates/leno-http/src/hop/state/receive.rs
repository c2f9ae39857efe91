//! What arrives: frames to events on streams. Every rule that a peer can break is here.

use std::time::Duration;

use leno_model::Reason;

use super::stream::{Receiving, Sending, wake};
use super::{Accepted, Engine, OURS, ProtocolError, Side, StreamKey, protocol_error};
use crate::body::MAX_INTERIM;
use crate::hop::frame::{self, Hello, Kind, MAX_WINDOW};
use crate::hop::limits::{LATE_FRAMES, MAX_OWED, MAX_STREAMS, STREAM_WINDOW};
use crate::refusal::StreamError;
use crate::spare;

impl Engine {
    /// Takes bytes as they come, cut anywhere. `now` is the age of the connection. After an error nothing more is taken.
    pub fn receive(&mut self, plain: &[u8], now: Duration) -> Result<(), ProtocolError> {
        if self.failed.is_some() {
            return Ok(());
        }
        self.heard = now;
        self.now = now;
        let mut rest = plain;
        self.complete_partial(&mut rest, now)?;
        while let Some(frame) = frame::take(&mut rest)? {
            self.frame(&frame, now)?;
        }
        self.partial.extend_from_slice(rest);
        if self.owed > MAX_OWED {
            return protocol_error("the peer asks for more answers than it reads");
        }
        Ok(())
    }

    /// Takes from `rest` what the frame that was cut needs, and no more: the others are read where they lie.
    fn complete_partial(&mut self, rest: &mut &[u8], now: Duration) -> Result<(), ProtocolError> {
        while !self.partial.is_empty() && !rest.is_empty() {
            let missing = frame::missing(&self.partial).min(rest.len());
            self.partial.extend_from_slice(&rest[..missing]);
            *rest = &rest[missing..];
            let mut bytes = std::mem::take(&mut self.partial);
            if let Some(frame) = frame::take(&mut &bytes[..])? {
                self.frame(&frame, now)?;
                bytes.clear();
            }
            self.partial = bytes;
        }
        Ok(())
    }

    fn frame(&mut self, frame: &frame::Frame<'_>, now: Duration) -> Result<(), ProtocolError> {
        if self.peer.is_none() && frame.kind != Some(Kind::Hello) {
            return protocol_error("the first frame is not HELLO");
        }
        match frame.kind {
            Some(Kind::Data) => self.on_data(frame, now),
            Some(Kind::Head) => self.on_head(frame),
            Some(Kind::Info) => self.on_info(frame),
            Some(Kind::Trailers) => self.on_trailers(frame),
            Some(Kind::Reset) => self.on_reset(frame, now),
            Some(Kind::Window) => self.on_window(frame),
            Some(Kind::Ping) => self.on_ping(frame, now),
            Some(Kind::Goaway) => self.on_goaway(frame),
            Some(Kind::Hello) => self.on_hello(frame),
            Some(Kind::Stop) => self.on_stop(frame),
            None => self.keep_calm(now, "too many unknown frames"),
        }
    }

    fn keep_calm(&mut self, now: Duration, what: &str) -> Result<(), ProtocolError> {
        if self.calm.take(now) { Ok(()) } else { protocol_error(what) }
    }

    fn on_hello(&mut self, frame: &frame::Frame<'_>) -> Result<(), ProtocolError> {
        if self.peer.is_some() {
            return protocol_error("a second HELLO");
        }
        let Some(hello) = Hello::parse(frame.payload) else { return protocol_error("a malformed HELLO") };
        if OURS.common_version(&hello).is_none() {
            let (o, n) = (hello.oldest, hello.newest);
            return protocol_error(format!(
                "no common version: the peer speaks {o} to {n}, we speak {}",
                frame::VERSION
            ));
        }
        self.send_window = i64::from(hello.connection_window);
        self.peer = Some(hello);
        Ok(())
    }

    /// The stream that a frame is about. `None` if it is over; an error if it was never opened.
    fn stream_of(&self, frame: &frame::Frame<'_>) -> Result<Option<StreamKey>, ProtocolError> {
        match self.find(frame.stream) {
            Some(key) => Ok(Some(key)),
            None if frame.stream % 2 == 1 && frame.stream <= self.newest_id => Ok(None),
            None => protocol_error(format!("a frame on stream {}, which was never opened", frame.stream)),
        }
    }

    /// A frame that may have crossed our RESET or STOP; more of them than can have crossed are an error.
    fn late(&mut self, frame: &frame::Frame<'_>) -> Result<(), ProtocolError> {
        match self.late.checked_sub(frame.payload.len().max(1) as u64) {
            Some(left) => self.late = left,
            None => return protocol_error("a frame on a closed stream"),
        }
        Ok(())
    }

    fn on_head(&mut self, frame: &frame::Frame<'_>) -> Result<(), ProtocolError> {
        if self.side == Side::Termination {
            return self.on_request(frame);
        }
        let Some(key) = self.stream_of(frame)? else { return self.late(frame) };
        let is_end = frame.is_end();
        let Some(stream) = self.get(key) else { return Ok(()) };
        if stream.is_reset || stream.receiving != Receiving::Idle {
            return if stream.is_reset { self.late(frame) } else { protocol_error("a second HEAD on a stream") };
        }
        stream.head = Some(spare::copy(frame.payload));
        stream.receiving = if is_end { Receiving::Ended } else { Receiving::Open };
        wake(&mut stream.reader);
        self.settle(key);
        Ok(())
    }

    fn on_request(&mut self, frame: &frame::Frame<'_>) -> Result<(), ProtocolError> {
        let id = frame.stream;
        if id.is_multiple_of(2) || id <= self.newest_id || id > i32::MAX as u32 {
            return protocol_error(format!("stream {id} opened after {}", self.newest_id));
        }
        self.newest_id = id;
        if self.is_draining && self.is_farewell_heard {
            return protocol_error("a stream opened after GOAWAY was acknowledged");
        }
        // Streams that are over for the peer while their handlers still end are few, unless somebody makes them so.
        if self.open >= MAX_STREAMS || self.streams.len() >= 2 * MAX_STREAMS as usize {
            if !frame.is_end() {
                self.late = self.late.saturating_add(u64::from(STREAM_WINDOW) + LATE_FRAMES);
            }
            self.put_reset(id, Reason::RefusedStream, true, "too many streams");
            return Ok(());
        }
        let (key, stream) = self.insert(id);
        stream.sending = Sending::Open;
        stream.receiving = if frame.is_end() { Receiving::Ended } else { Receiving::Open };
        let text = spare::copy(frame.payload);
        self.accepted.push_back(Accepted { key, text, is_ended: frame.is_end() });
        Ok(())
    }

    fn on_info(&mut self, frame: &frame::Frame<'_>) -> Result<(), ProtocolError> {
        if self.side == Side::Termination {
            return protocol_error("INFO from the origination");
        }
        let Some(key) = self.stream_of(frame)? else { return self.late(frame) };
        let Some(stream) = self.get(key) else { return Ok(()) };
        if stream.is_reset {
            return self.late(frame);
        }
        if stream.receiving != Receiving::Idle {
            return protocol_error("INFO after HEAD");
        }
        let infos = &mut stream.rare().infos;
        if infos.len() < usize::from(MAX_INTERIM) {
            infos.push(spare::copy(frame.payload));
            wake(&mut stream.reader);
        }
        Ok(())
    }

    fn on_data(&mut self, frame: &frame::Frame<'_>, now: Duration) -> Result<(), ProtocolError> {
        let length = u32::try_from(frame.payload.len()).expect("bounded by the kind");
        let Some(left) = self.receive_window.checked_sub(length) else {
            return protocol_error("more DATA than the connection's window");
        };
        self.receive_window = left;
        if left <= self.growth.connection_window() / 2 {
            self.pace_connection();
        }
        if length == 0 && !frame.is_end() {
            self.keep_calm(now, "too many empty DATA frames")?;
        }
        let Some(key) = self.stream_of(frame)? else {
            self.replenish();
            return self.late(frame);
        };
        let is_end = frame.is_end();
        let Some(stream) = self.get(key) else { return Ok(()) };
        if stream.is_reset {
            self.replenish();
            return self.late(frame);
        }
        if stream.receiving != Receiving::Open {
            return protocol_error(format!("DATA on stream {} before its HEAD or after its end", frame.stream));
        }
        let Some(left) = stream.receive_window.checked_sub(length) else {
            return protocol_error(format!("more DATA than the window of stream {}", frame.stream));
        };
        stream.receive_window = left;
        let is_kept = length > 0 && !stream.is_released;
        if is_kept {
            stream.inbox.push_copy(frame.payload);
        }
        if is_end {
            stream.receiving = Receiving::Ended;
        }
        wake(&mut stream.reader);
        if is_kept {
            self.held += frame.payload.len();
            self.budget.add(frame.payload.len());
        }
        // The connection's window follows what is held, not what is read: a slow reader does not stop the others.
        self.replenish();
        self.settle(key);
        Ok(())
    }

    fn on_trailers(&mut self, frame: &frame::Frame<'_>) -> Result<(), ProtocolError> {
        let Some(key) = self.stream_of(frame)? else { return self.late(frame) };
        let Some(stream) = self.get(key) else { return Ok(()) };
        if stream.is_reset {
            return self.late(frame);
        }
        if stream.receiving != Receiving::Open {
            return protocol_error(format!("TRAILERS on stream {} before its HEAD or after its end", frame.stream));
        }
        if !stream.is_released {
            stream.rare().trailers = Some(spare::copy(frame.payload));
        }
        stream.receiving = Receiving::Ended;
        wake(&mut stream.reader);
        self.settle(key);
        Ok(())
    }

    fn on_reset(&mut self, frame: &frame::Frame<'_>, now: Duration) -> Result<(), ProtocolError> {
        if self.side == Side::Termination && !self.resets.take(now) {
            return protocol_error("too many streams reset");
        }
        let Some(key) = self.stream_of(frame)? else { return Ok(()) };
        let (reason, detail) = frame::parse_reason(frame.payload, self.side.lost());
        let unprocessed = frame.flags & frame::UNPROCESSED != 0;
        self.kill(key, StreamError { reason, unprocessed, detail: detail.into() });
        Ok(())
    }

    fn on_window(&mut self, frame: &frame::Frame<'_>) -> Result<(), ProtocolError> {
        let Ok(bytes) = <[u8; 4]>::try_from(frame.payload) else { return protocol_error("a malformed WINDOW") };
        let more = i64::from(u32::from_be_bytes(bytes));
        let in_range = |window: i64| (1..=i64::from(MAX_WINDOW)).contains(&more) && window <= i64::from(MAX_WINDOW);
        if frame.stream == 0 {
            self.send_window += more;
            return if in_range(self.send_window) { Ok(()) } else { protocol_error("a WINDOW out of range") };
        }
        let Some(key) = self.stream_of(frame)? else { return Ok(()) };
        let Some(stream) = self.get(key) else { return Ok(()) };
        stream.send_window += more;
        if !in_range(stream.send_window) {
            return protocol_error("a WINDOW out of range");
        }
        stream.offer_room();
        self.join_round(key);
        Ok(())
    }

    fn on_ping(&mut self, frame: &frame::Frame<'_>, now: Duration) -> Result<(), ProtocolError> {
        let Ok(bytes) = <[u8; 8]>::try_from(frame.payload) else { return protocol_error("a malformed PING") };
        if frame.flags & frame::ACK == 0 {
            self.keep_calm(now, "too many PINGs")?;
            self.answer(Kind::Ping, frame::ACK, 0, &bytes);
            return Ok(());
        }
        let number = u64::from_be_bytes(bytes);
        if number == 0 || number > self.pings {
            return protocol_error("the answer to a PING that was not sent");
        }
        self.ping = self.ping.filter(|(sent, _)| *sent > number);
        if self.farewell.is_some_and(|sent| number >= sent) {
            self.is_farewell_heard = true;
        }
        Ok(())
    }

    fn on_goaway(&mut self, frame: &frame::Frame<'_>) -> Result<(), ProtocolError> {
        let Some((last, text)) = frame.payload.split_first_chunk::<4>() else {
            return protocol_error("a malformed GOAWAY");
        };
        let last = u32::from_be_bytes(*last);
        let (reason, detail) = frame::parse_reason(text, self.side.lost());
        if reason != Reason::Draining {
            self.blamed = Some((reason, detail));
        }
        self.is_draining = true;
        // The peer opens no more, or never did.
        self.is_farewell_heard = true;
        if self.side == Side::Origination {
            let refused: Vec<_> = self
                .streams
                .iter()
                .filter(|(_, s)| s.id > last)
                .map(|(index, s)| StreamKey { index, id: s.id })
                .collect();
            for key in refused {
                self.kill(
                    key,
                    StreamError::unprocessed(Reason::RefusedStream, "the peer went away before it saw the stream"),
                );
            }
        }
        Ok(())
    }

    fn on_stop(&mut self, frame: &frame::Frame<'_>) -> Result<(), ProtocolError> {
        if self.side == Side::Termination {
            return protocol_error("STOP from the origination");
        }
        let Some(key) = self.stream_of(frame)? else { return Ok(()) };
        let Some(stream) = self.get(key) else { return Ok(()) };
        if stream.sending != Sending::Ended {
            stream.cut_sending();
            self.answer(Kind::Data, frame::END, key.id, &[]);
            self.settle(key);
        }
        Ok(())
    }
}
