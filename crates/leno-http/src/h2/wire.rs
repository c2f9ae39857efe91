//! HTTP/2's frames as a [`Wire`]: which may come when, and what they say to streams (RFC 9113).
//!
//! ```text
//!   preface, SETTINGS ──▶ greeting       HEADERS CONTINUATION … ──▶ block ──hpack──▶ head.rs ──▶ request, response, trailers
//! ```
//!
//! Where a rule allows a stream to be broken off instead of the connection, malformed messages do that: others on the
//! connection are not to blame. A block that cannot be decoded and frames out of place end the connection.

#[cfg(test)]
mod tests;

use std::time::Duration;

use leno_model::Reason;

pub use super::frame::PREFACE;
use super::frame::{
    self, ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HAS_PRIORITY, HEADERS, MAX_FRAME, PING,
    PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, code, setting,
};
use super::head::{self, Message};
pub use super::head::{put_request, put_response};
use super::hpack::encode::put_no_table;
use super::hpack::{Decoder, HpackError};
use crate::head::{Fields, HeadError, RequestHead, ResponseHead};
use crate::mux::frame::{HEADER, missing, patch_length, put, put_header};
use crate::mux::limits::{CONNECTION_WINDOW, STREAM_WINDOW, Tolerance};
use crate::mux::wire::{broken, protocol_error};
use crate::mux::{Engine, Fault, HeadKind, PeerLimits, ProtocolError, Side, Wire};
use crate::refusal::{Refusal, StreamError};

/// Our table for what the peer's encoder refers to: the default, since a reference costs us less than the text.
const TABLE: usize = 4096;
/// Bytes of a window before anything was said about it (RFC 9113 section 6.9.2).
const FIRST_WINDOW: u32 = 65_535;
/// Most bytes of a header block as it travels: a head that is too large by less is answered, by more ends the connection.
const MAX_BLOCK: usize = 2 * crate::MAX_HEAD;
/// Most frames of a header block: those that fill it, and as many that do not.
const MAX_CONTINUATIONS: u8 = 16;

/// A header block that goes on in another frame.
struct OpenBlock {
    stream: u32,
    flags: u8,
    bytes: Vec<u8>,
    frames: u8,
}

/// What HTTP/2 keeps of a connection.
pub struct Http2Wire {
    side: Side,
    max_streams: u32,
    /// The client's preface has not come.
    wants_preface: bool,
    decoder: Decoder,
    open_block: Option<Box<OpenBlock>>,
    /// The peer knows that we refer to no table of its.
    has_said_table: bool,
    /// What a GOAWAY blames the peer for.
    fault: Option<Fault>,
}

impl Http2Wire {
    /// `max_streams` is how many the peer may have open at once.
    pub fn new(side: Side, max_streams: u32) -> Self {
        Self {
            side,
            max_streams,
            wants_preface: side == Side::Termination,
            decoder: Decoder::new(TABLE),
            open_block: None,
            has_said_table: false,
            fault: None,
        }
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub fn heap(&self) -> usize {
        self.decoder.heap() + self.open_block.as_ref().map_or(0, |b| b.bytes.capacity())
    }
}

impl Engine<Http2Wire> {
    /// Ends the connection for what the peer did.
    pub fn close_for(&mut self, error: &ProtocolError) {
        self.wire.fault = Some(error.fault);
        self.close(self.side().broken(), &error.text);
    }
}

impl From<HpackError> for ProtocolError {
    fn from(error: HpackError) -> Self {
        Self { fault: Fault::Compression, text: error.to_string() }
    }
}

fn code_of(fault: Fault) -> u32 {
    match fault {
        Fault::Protocol => code::PROTOCOL_ERROR,
        Fault::FlowControl => code::FLOW_CONTROL_ERROR,
        Fault::FrameSize => code::FRAME_SIZE_ERROR,
        Fault::Compression => code::COMPRESSION_ERROR,
        Fault::Calm => code::ENHANCE_YOUR_CALM,
    }
}

impl Wire for Http2Wire {
    type Frame<'a> = Frame<'a>;
    /// A malformed one is answered, not cut off: whoever sent it learns why.
    type Request = Result<RequestHead, Refusal>;
    type Response = ResponseHead;
    type Trailers = Fields;

    /// Of a client with streams that vanished without a FIN. Ours sends none: gRPC servers take frequent ones for an attack.
    const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));
    /// A whole connection's worth of calls may run into one deadline together; a rapid-reset flood (CVE-2023-44487) is more,
    /// second after second.
    const RESETS: Tolerance = Tolerance::new(1024, 1024);
    const HAS_STOP: bool = false;
    const SAYS_LAST: bool = true;

    fn put_greeting(&self, out: &mut Vec<u8>) {
        let is_client = self.side == Side::Origination;
        if is_client {
            out.extend_from_slice(PREFACE);
        }
        let own =
            if is_client { (setting::ENABLE_PUSH, 0) } else { (setting::MAX_CONCURRENT_STREAMS, self.max_streams) };
        let settings = [
            own,
            (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (setting::MAX_HEADER_LIST_SIZE, head::HEADER_LIST as u32),
        ];
        put_header(out, 6 * settings.len(), SETTINGS, 0, 0);
        for (id, value) in settings {
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
        Self::put_window(out, 0, CONNECTION_WINDOW - FIRST_WINDOW);
    }

    fn max_streams(&self) -> u32 {
        self.max_streams
    }

    fn take<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Frame<'a>>, ProtocolError> {
        if self.wants_preface {
            let length = PREFACE.len().min(input.len());
            if input[..length] != PREFACE[..length] {
                return protocol_error("not the preface of HTTP/2");
            }
            if length < PREFACE.len() {
                return Ok(None);
            }
            self.wants_preface = false;
            *input = &input[length..];
        }
        frame::take(input)
    }

    fn missing(&self, start: &[u8]) -> usize {
        if self.wants_preface { PREFACE.len() - start.len() } else { missing(start) }
    }

    fn receive(engine: &mut Engine<Self>, frame: &Frame<'_>, now: Duration) -> Result<(), ProtocolError> {
        if let Some(open) = &engine.wire.open_block
            && (frame.kind != CONTINUATION || frame.stream != open.stream)
        {
            return protocol_error("another frame within a header block");
        }
        if !engine.is_ready() && (frame.kind != SETTINGS || frame.has(ACK)) {
            return protocol_error("the first frame is not SETTINGS");
        }
        check_place(frame)?;
        match frame.kind {
            DATA => {
                let (payload, padding) = frame.unpadded()?;
                engine.on_data(frame.stream, frame.has(END_STREAM), payload, padding, now)
            }
            HEADERS => on_headers(engine, frame),
            CONTINUATION => on_continuation(engine, frame),
            PRIORITY => engine.keep_calm(now, "too many PRIORITY frames"),
            RST_STREAM => {
                let code = four(frame.payload)?;
                engine.on_reset(frame.stream, now, |side| reset_error(side, code))
            }
            SETTINGS => on_settings(engine, frame, now),
            PUSH_PROMISE => protocol_error("PUSH_PROMISE, which is not enabled"),
            PING => on_ping(engine, frame, now),
            GOAWAY => on_goaway(engine, frame, now),
            WINDOW_UPDATE => match four(frame.payload)? & i32::MAX as u32 {
                0 => protocol_error("a WINDOW_UPDATE by nothing"),
                more => engine.on_window(frame.stream, more),
            },
            _ => engine.keep_calm(now, "too many unknown frames"),
        }
    }

    fn read_trailers(trailers: Fields) -> Result<Fields, HeadError> {
        Ok(trailers)
    }

    fn begin_head(&mut self, out: &mut Vec<u8>, _: HeadKind, id: u32, is_end: bool) -> usize {
        let at = out.len();
        put_header(out, 0, HEADERS, END_HEADERS | if is_end { END_STREAM } else { 0 }, id);
        if !self.has_said_table {
            put_no_table(out);
        }
        at
    }

    fn end_head(&mut self, out: &mut Vec<u8>, at: usize) {
        self.has_said_table = true;
        end_block(out, at);
    }

    fn write_trailers(fields: &Fields, out: &mut Vec<u8>) {
        head::put_trailers(fields, out);
    }

    fn put_trailers(out: &mut Vec<u8>, id: u32, written: &[u8]) {
        let at = out.len();
        put_header(out, 0, HEADERS, END_HEADERS | END_STREAM, id);
        out.extend_from_slice(written);
        end_block(out, at);
    }

    fn put_window(out: &mut Vec<u8>, id: u32, more: u32) {
        put(out, WINDOW_UPDATE, 0, id, &more.to_be_bytes());
    }

    fn put_reset(out: &mut Vec<u8>, id: u32, reason: Reason, unprocessed: bool, _: &str) {
        let code = match reason {
            _ if unprocessed => code::REFUSED_STREAM,
            Reason::MalformedRequest | Reason::UpstreamProtocolError => code::PROTOCOL_ERROR,
            Reason::DownstreamReset => code::CANCEL,
            _ => code::INTERNAL_ERROR,
        };
        put(out, RST_STREAM, 0, id, &code.to_be_bytes());
    }

    fn put_stop(out: &mut Vec<u8>, id: u32) {
        put(out, RST_STREAM, 0, id, &code::NO_ERROR.to_be_bytes());
    }

    fn put_ping(out: &mut Vec<u8>, is_answer: bool, opaque: [u8; 8]) {
        put(out, PING, if is_answer { ACK } else { 0 }, 0, &opaque);
    }

    fn put_goaway(&self, out: &mut Vec<u8>, last: u32, reason: Reason, detail: &str) {
        // A client's GOAWAY is about pushed streams, of which there are none.
        let last = if self.side == Side::Termination { last } else { 0 };
        let code = match (self.fault, reason) {
            (Some(fault), _) => code_of(fault),
            (None, Reason::Draining) => code::NO_ERROR,
            (None, _) => code::INTERNAL_ERROR,
        };
        put_header(out, 8 + detail.len(), GOAWAY, 0, 0);
        out.extend_from_slice(&last.to_be_bytes());
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(detail.as_bytes());
    }
}

/// Whether a frame belongs on the connection or on a stream, and its size where that is fixed.
fn check_place(frame: &Frame<'_>) -> Result<(), ProtocolError> {
    let (is_of_stream, size) = match frame.kind {
        DATA | HEADERS | CONTINUATION | PUSH_PROMISE => (true, None),
        PRIORITY => (true, Some(5)),
        RST_STREAM => (true, Some(4)),
        SETTINGS | GOAWAY => (false, None),
        PING => (false, Some(8)),
        _ => return Ok(()),
    };
    if is_of_stream != (frame.stream != 0) {
        return protocol_error(format!("a frame of kind {} on stream {}", frame.kind, frame.stream));
    }
    if size.is_some_and(|size| frame.payload.len() != size) {
        return broken(Fault::FrameSize, format!("a frame of kind {} with {} bytes", frame.kind, frame.payload.len()));
    }
    Ok(())
}

fn four(payload: &[u8]) -> Result<u32, ProtocolError> {
    match payload.try_into() {
        Ok(bytes) => Ok(u32::from_be_bytes(bytes)),
        Err(_) => broken(Fault::FrameSize, "a frame that should have 4 bytes"),
    }
}

/// Ends a header block that begins with its frame at `at`: cut into frames if it must be.
fn end_block(out: &mut Vec<u8>, at: usize) {
    if out.len() - at - HEADER <= MAX_FRAME {
        return patch_length(&mut out[at..], 0);
    }
    let block = out.split_off(at + HEADER);
    let stream = u32::from_be_bytes([out[at + 5], out[at + 6], out[at + 7], out[at + 8]]);
    let flags = out[at + 4] & !END_HEADERS;
    out.truncate(at);
    let mut pieces = block.chunks(MAX_FRAME).peekable();
    let (mut kind, mut flags) = (HEADERS, flags);
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        put(out, kind, flags | last, stream, piece);
        (kind, flags) = (CONTINUATION, 0);
    }
}

fn on_headers(engine: &mut Engine<Http2Wire>, frame: &Frame<'_>) -> Result<(), ProtocolError> {
    let (mut block, _) = frame.unpadded()?;
    if frame.has(HAS_PRIORITY) {
        block = match block.split_first_chunk::<5>() {
            Some((_, rest)) => rest,
            None => return broken(Fault::FrameSize, "HEADERS without the priority that is announced"),
        };
    }
    if frame.has(END_HEADERS) {
        return on_block(engine, frame.stream, frame.flags, block);
    }
    let open = OpenBlock { stream: frame.stream, flags: frame.flags, bytes: block.to_vec(), frames: 0 };
    engine.wire.open_block = Some(Box::new(open));
    Ok(())
}

fn on_continuation(engine: &mut Engine<Http2Wire>, frame: &Frame<'_>) -> Result<(), ProtocolError> {
    let Some(mut open) = engine.wire.open_block.take() else {
        return protocol_error("CONTINUATION without HEADERS");
    };
    open.frames += 1;
    if open.bytes.len() + frame.payload.len() > MAX_BLOCK || open.frames > MAX_CONTINUATIONS {
        return broken(Fault::Calm, "a header block of too many bytes or frames");
    }
    open.bytes.extend_from_slice(frame.payload);
    if frame.has(END_HEADERS) {
        return on_block(engine, open.stream, open.flags, &open.bytes);
    }
    engine.wire.open_block = Some(open);
    Ok(())
}

/// A whole header block. It is decoded whatever becomes of it: the next one refers to what this one put into the table.
fn on_block(engine: &mut Engine<Http2Wire>, id: u32, flags: u8, block: &[u8]) -> Result<(), ProtocolError> {
    let is_end = flags & END_STREAM != 0;
    let message = match engine.side() {
        Side::Termination if id <= engine.newest_id() => Message::Trailers,
        Side::Termination => Message::Request,
        Side::Origination if engine.has_head(id) => Message::Trailers,
        Side::Origination => Message::Response,
    };
    let decoder = &mut engine.wire.decoder;
    match message {
        Message::Request => {
            let head = head::read_request(decoder, block, is_end)?;
            let length = head.as_ref().map_or(0, head::size);
            engine.on_request(id, is_end, length, || head)
        }
        Message::Response => match head::read_response(decoder, block, is_end)? {
            Ok(head) if head.is_interim() => engine.on_interim(id, head.fields.wire_len(), || head),
            Ok(head) => engine.on_head(id, is_end, || head),
            Err(rule) => engine.on_malformed(id, rule),
        },
        Message::Trailers => match head::read_trailers(decoder, block)? {
            Ok(trailers) if is_end => engine.on_trailers(id, || trailers),
            Ok(_) => engine.on_malformed(id, "trailers that do not end the stream"),
            Err(rule) => engine.on_malformed(id, rule),
        },
    }
}

fn on_settings(engine: &mut Engine<Http2Wire>, frame: &Frame<'_>, now: Duration) -> Result<(), ProtocolError> {
    if frame.has(ACK) {
        let is_fine = frame.payload.is_empty();
        return if is_fine {
            engine.keep_calm(now, "too many SETTINGS")
        } else {
            broken(Fault::FrameSize, "an acknowledgement of SETTINGS with bytes")
        };
    }
    engine.keep_calm(now, "too many SETTINGS")?;
    let before = engine.peer_limits();
    let mut limits = before.unwrap_or(PeerLimits { stream_window: FIRST_WINDOW, max_streams: u32::MAX });
    let mut rest = frame.payload;
    while let Some((&[i0, i1, v0, v1, v2, v3], tail)) = rest.split_first_chunk::<6>() {
        rest = tail;
        let value = u32::from_be_bytes([v0, v1, v2, v3]);
        match u16::from_be_bytes([i0, i1]) {
            setting::MAX_CONCURRENT_STREAMS => limits.max_streams = value,
            setting::INITIAL_WINDOW_SIZE if value > i32::MAX as u32 => {
                return broken(Fault::FlowControl, "an initial window out of range");
            }
            setting::INITIAL_WINDOW_SIZE => limits.stream_window = value,
            setting::MAX_FRAME_SIZE if !(MAX_FRAME as u32..=0xff_ffff).contains(&value) => {
                return protocol_error("a frame size out of range");
            }
            setting::ENABLE_PUSH if value > 1 => return protocol_error("ENABLE_PUSH is neither 0 nor 1"),
            // We send no larger frames than everybody takes, and refer to no table.
            _ => {}
        }
    }
    if !rest.is_empty() {
        return broken(Fault::FrameSize, "SETTINGS with half a setting");
    }
    match before {
        None => engine.on_greeting(limits, FIRST_WINDOW),
        Some(before) => engine.on_limits(before, limits)?,
    }
    engine.answer(|out| put_header(out, 0, SETTINGS, ACK, 0));
    Ok(())
}

fn on_ping(engine: &mut Engine<Http2Wire>, frame: &Frame<'_>, now: Duration) -> Result<(), ProtocolError> {
    let opaque = frame.payload.try_into().expect("the size was checked");
    if !frame.has(ACK) {
        return engine.on_ping(opaque, now);
    }
    if engine.on_pong(opaque) { Ok(()) } else { engine.keep_calm(now, "too many answers to no PING") }
}

fn on_goaway(engine: &mut Engine<Http2Wire>, frame: &Frame<'_>, now: Duration) -> Result<(), ProtocolError> {
    engine.keep_calm(now, "too many GOAWAYs")?;
    let Some((&[l0, l1, l2, l3, c0, c1, c2, c3], detail)) = frame.payload.split_first_chunk::<8>() else {
        return broken(Fault::FrameSize, "a GOAWAY of less than 8 bytes");
    };
    let last = u32::from_be_bytes([l0, l1, l2, l3]) & i32::MAX as u32;
    let code = u32::from_be_bytes([c0, c1, c2, c3]);
    let reason = if code == code::NO_ERROR { Reason::Draining } else { engine.side().lost() };
    engine.on_goaway(last, reason, said(code, detail));
    Ok(())
}

/// What a peer gave as its reason, for people.
fn said(code: u32, detail: &[u8]) -> String {
    let text: String =
        String::from_utf8_lossy(detail).chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.is_empty() { code::name(code).to_owned() } else { format!("{}: {text}", code::name(code)) }
}

/// What a stream that the peer broke off means.
fn reset_error(side: Side, code: u32) -> StreamError {
    match (side, code) {
        // RFC 9113 section 8.7: the stream was not processed.
        (Side::Origination, code::REFUSED_STREAM) => {
            StreamError::unprocessed(Reason::RefusedStream, "the stream was refused")
        }
        _ => StreamError::in_flight(side.lost(), format!("the stream was reset: {}", code::name(code))),
    }
}
