//! What leaves: control frames first, then DATA in slices, one per stream in turn, so that a bulk stream costs a small one
//! 16 KiB and not its whole queue.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::Bytes;
use leno_model::Reason;

use super::frame::{self, DATA, END, MAX_DATA};
use super::receive::second;
use super::stream::{Sending, Stream, Tail, remember};
use super::wire::{HeadKind, Wire};
use super::{Engine, StreamKey};
use crate::body::MAX_INTERIM;
use crate::head::{Fields, HeadError};
use crate::refusal::StreamError;
use crate::spare::SpareVec;

/// Bytes of memory for frames that are kept for the next turn.
const KEPT: usize = 16 * 1024;
/// The same without streams.
const KEPT_IDLE: usize = 2048;

/// The stream takes no more: it was reset, stopped by its reader, or is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

impl<W: Wire> Engine<W> {
    /// Opens a stream with the head that `write` appends.
    pub fn open(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), HeadError>,
        is_end: bool,
    ) -> Result<StreamKey, StreamError> {
        self.room()?;
        let id = if self.newest_id == 0 { 1 } else { self.newest_id + 2 };
        self.put_head(HeadKind::Final, id, is_end, write)
            .map_err(|e| StreamError::unprocessed(reason_of(e), e.to_string()))?;
        self.newest_id = id;
        let (key, stream) = self.insert(id);
        stream.sending = if is_end { Sending::Ended } else { Sending::Open };
        Ok(key)
    }

    fn put_head(
        &mut self,
        kind: HeadKind,
        id: u32,
        is_end: bool,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), HeadError>,
    ) -> Result<(), HeadError> {
        let at = self.wire.begin_head(&mut self.control, kind, id, is_end);
        if let Err(error) = write(&mut self.control) {
            self.control.truncate(at);
            return Err(error);
        }
        self.wire.end_head(&mut self.control, at);
        self.is_used = true;
        Ok(())
    }

    /// Sends the final response's head; nothing if the stream was broken off meanwhile.
    pub fn send_head(
        &mut self,
        key: StreamKey,
        is_end: bool,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), HeadError>,
    ) -> Result<(), HeadError> {
        if self.get(key).is_none_or(|s| s.sending != Sending::Open) {
            return Ok(());
        }
        self.put_head(HeadKind::Final, key.id, is_end, write)?;
        if let Some(stream) = self.get(key) {
            stream.is_answered = true;
        }
        if is_end && let Some(stream) = self.get(key) {
            stream.sending = Sending::Ended;
            self.settle(key);
        }
        Ok(())
    }

    /// Sends a 1xx head; `false` if the stream has had as many as one may have.
    pub fn send_info(
        &mut self,
        key: StreamKey,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), HeadError>,
    ) -> Result<bool, HeadError> {
        let Some(stream) = self.get(key).filter(|s| s.sending == Sending::Open) else { return Ok(true) };
        if stream.is_answered {
            return Ok(true);
        }
        if stream.infos_sent >= MAX_INTERIM {
            return Ok(false);
        }
        stream.infos_sent += 1;
        self.put_head(HeadKind::Interim, key.id, false, write).map(|()| true)
    }

    /// Whether nobody has said 100 on this stream; from now on somebody has.
    pub(crate) fn continue_once(&mut self, key: StreamKey) -> bool {
        self.get(key).is_some_and(|s| !std::mem::replace(&mut s.is_continued, true))
    }

    /// Whether more may be queued.
    pub fn has_room(&mut self, key: StreamKey) -> Result<bool, Stopped> {
        self.get(key).filter(|s| s.sending == Sending::Open).map(|s| s.has_room()).ok_or(Stopped)
    }

    /// Ready when more may be queued. The caller is woken for room if it was refused, and in any case when the stream takes
    /// no more, so it may go on to wait for its source.
    pub fn poll_room(&mut self, key: StreamKey, cx: &Context<'_>) -> Poll<Result<(), Stopped>> {
        let Some(stream) = self.get(key).filter(|s| s.sending == Sending::Open) else {
            return Poll::Ready(Err(Stopped));
        };
        remember(&mut stream.writer, cx);
        stream.wants_room = !stream.has_room();
        if stream.wants_room { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Queues bytes, all of them: whoever has them in memory already may as well hand them over.
    pub fn send_data(&mut self, key: StreamKey, bytes: Bytes) {
        let Some(stream) = self.get(key).filter(|s| s.sending == Sending::Open) else { return };
        if !bytes.is_empty() {
            stream.queue.push(bytes);
            self.join_round(key);
        }
    }

    /// Ends this direction once the queue is sent.
    pub fn send_end(&mut self, key: StreamKey, trailers: Option<&Fields>) {
        let now = second(self.now);
        let Some(stream) = self.get(key).filter(|s| s.sending == Sending::Open) else { return };
        stream.sending = Sending::Ending;
        stream.sent_at = now;
        stream.tail = match trailers {
            None => Tail::End,
            Some(fields) => {
                let mut written = SpareVec::with_room(fields.wire_len());
                W::write_trailers(fields, &mut written);
                if written.len() > crate::MAX_HEAD { Tail::End } else { Tail::Trailers(written) }
            }
        };
        self.join_round(key);
    }

    /// Puts a stream into the round if it has data that it may send; an end without data goes out with the next flush,
    /// since no window holds it back.
    pub(super) fn join_round(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key.index).filter(|s| s.id == key.id) else { return };
        if stream.queue.is_empty() {
            put_tail(stream, &mut self.control);
            self.settle(key);
        } else if stream.send_window > 0 && !stream.is_in_round {
            stream.is_in_round = true;
            self.round.push_back(key);
        }
    }

    /// Whether [`Engine::produce`] would give anything.
    pub fn has_output(&self) -> bool {
        !self.control.is_empty() || !self.credits.is_empty() || (!self.round.is_empty() && self.send_window > 0)
    }

    /// Appends what may be sent now, up to about `budget` bytes of DATA.
    pub fn produce(&mut self, out: &mut Vec<u8>, budget: usize) {
        if !self.credits.is_empty() {
            self.give_credit();
        }
        out.extend_from_slice(&self.control);
        // A burst's memory is not kept, and an idle connection keeps what one request needs.
        let kept = if self.streams.is_empty() { KEPT_IDLE } else { KEPT };
        if self.control.capacity() > kept {
            self.control = Vec::new()
        } else {
            self.control.clear()
        }
        self.owed = 0;
        self.sent_id = self.newest_id;
        let (limit, now) = (out.len() + budget, second(self.now));
        self.is_used |= !self.round.is_empty();
        while out.len() < limit && self.send_window > 0 {
            let Some(key) = self.round.pop_front() else { break };
            let window = self.send_window;
            let Some(stream) = self.get(key) else { continue };
            stream.is_in_round = false;
            let sent = put_slice(stream, window, out);
            stream.sent_at = now;
            stream.offer_room();
            self.send_window -= sent;
            if self.get(key).is_some_and(|s| s.queue.is_empty()) { self.settle(key) } else { self.join_round(key) }
        }
        if self.round.is_empty() && self.round.capacity() > 256 {
            self.round = VecDeque::new();
        }
    }
}

/// Appends a slice of the stream's queue, and its tail if that was all. Returns the bytes that count against windows.
fn put_slice<W: Wire>(stream: &mut Stream<W>, connection_window: i64, out: &mut Vec<u8>) -> i64 {
    let allowed = usize::try_from(stream.send_window.min(connection_window)).unwrap_or(0).min(MAX_DATA);
    if allowed == 0 || stream.queue.is_empty() {
        return 0;
    }
    let at = out.len();
    frame::put_header(out, 0, DATA, 0, stream.id);
    let sent = stream.queue.move_to(out, allowed);
    frame::patch_length(&mut out[at..], 0);
    let sent = i64::try_from(sent).expect("at most 16 KiB");
    stream.send_window -= sent;
    if stream.queue.is_empty() {
        if matches!(stream.tail, Tail::End) {
            frame::patch_flags(&mut out[at..], 0, END);
            stream.tail = Tail::None;
            stream.sending = Sending::Ended;
        } else {
            put_tail(stream, out);
        }
    }
    sent
}

/// Appends what ends the stream's sending half, if it is to end.
fn put_tail<W: Wire>(stream: &mut Stream<W>, out: &mut Vec<u8>) {
    match std::mem::replace(&mut stream.tail, Tail::None) {
        Tail::None => return,
        Tail::End => frame::put_header(out, 0, DATA, END, stream.id),
        Tail::Trailers(written) => W::put_trailers(out, stream.id, &written),
    }
    stream.sending = Sending::Ended;
}

/// Whose fault a head is that cannot be carried.
pub fn reason_of(error: HeadError) -> Reason {
    match error {
        HeadError::TooLarge | HeadError::TooManyFields => Reason::HeadTooLarge,
        HeadError::Line | HeadError::Value | HeadError::Start | HeadError::Framing => Reason::MalformedRequest,
    }
}
