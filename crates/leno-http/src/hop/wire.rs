//! The hop's frames as a [`Wire`]: which may come when, and what they say to streams (docs/reference/hop.md).

use std::time::Duration;

use bytes::Bytes;
use leno_model::Reason;

use super::frame::{self, Frame, Hello, Kind};
use super::head_text::parse_trailers;
use crate::head::{Fields, HeadError};
use crate::hygiene;
use crate::mux::limits::{CONNECTION_WINDOW, KEEPALIVE_AFTER, KEEPALIVE_WITHIN, MAX_STREAMS, STREAM_WINDOW, Tolerance};
use crate::mux::wire::protocol_error;
use crate::mux::{Engine, Fault, HeadKind, PeerLimits, ProtocolError, Side, Wire};
use crate::refusal::StreamError;
use crate::spare;

/// What this side is ready to receive.
const OURS: Hello = Hello {
    oldest: frame::VERSION,
    newest: frame::VERSION,
    stream_window: STREAM_WINDOW,
    connection_window: CONNECTION_WINDOW,
    max_streams: MAX_STREAMS,
};

/// The hop's protocol, which keeps nothing of a connection.
#[derive(Debug, Default)]
pub struct HopWire;

impl Engine<HopWire> {
    /// With HELLO ready to be sent. `budget` is the worker's.
    #[must_use]
    pub fn new(side: Side, budget: std::rc::Rc<crate::mux::limits::Budget>) -> Self {
        Self::with_wire(side, budget, HopWire)
    }
}

impl From<frame::FrameError> for ProtocolError {
    fn from(error: frame::FrameError) -> Self {
        Self { fault: Fault::Protocol, text: error.to_string() }
    }
}

impl Wire for HopWire {
    type Frame<'a> = Frame<'a>;
    /// The text of the head.
    type Request = Bytes;
    type Response = Bytes;
    type Trailers = Bytes;

    const KEEPALIVE: (Duration, Duration) = (KEEPALIVE_AFTER, KEEPALIVE_WITHIN);
    /// CVE-2023-44487. Generous, because an origination carries many callers, and all of them may go away at once; streams at one
    /// time are bounded apart from it.
    const RESETS: Tolerance = Tolerance::new(10_000, 2000);
    const HAS_STOP: bool = true;
    const SAYS_LAST: bool = false;

    fn put_greeting(&self, out: &mut Vec<u8>) {
        OURS.put(out);
    }

    fn max_streams(&self) -> u32 {
        MAX_STREAMS
    }

    fn take<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Frame<'a>>, ProtocolError> {
        Ok(frame::take(input)?)
    }

    fn missing(&self, start: &[u8]) -> usize {
        frame::missing(start)
    }

    fn receive(engine: &mut Engine<Self>, frame: &Frame<'_>, now: Duration) -> Result<(), ProtocolError> {
        if !engine.is_ready() && frame.kind != Some(Kind::Hello) {
            return protocol_error("the first frame is not HELLO");
        }
        let (id, is_end, length) = (frame.stream, frame.is_end(), frame.payload.len());
        let text = || spare::copy(frame.payload);
        match frame.kind {
            Some(Kind::Data) => engine.on_data(id, is_end, frame.payload, 0, now),
            Some(Kind::Head) if engine.side() == Side::Termination => engine.on_request(id, is_end, length, text),
            Some(Kind::Head) => engine.on_head(id, is_end, text),
            Some(Kind::Info) => engine.on_interim(id, length, text),
            Some(Kind::Trailers) => engine.on_trailers(id, text),
            Some(Kind::Reset) => on_reset(engine, frame, now),
            Some(Kind::Window) => match <[u8; 4]>::try_from(frame.payload) {
                Ok(more) => engine.on_window(id, u32::from_be_bytes(more)),
                Err(_) => protocol_error("a malformed WINDOW"),
            },
            Some(Kind::Ping) => on_ping(engine, frame, now),
            Some(Kind::Goaway) => on_goaway(engine, frame),
            Some(Kind::Hello) => on_hello(engine, frame),
            Some(Kind::Stop) => engine.on_stop(id),
            None => engine.keep_calm(now, "too many unknown frames"),
        }
    }

    fn read_trailers(trailers: Bytes) -> Result<Fields, HeadError> {
        parse_trailers(trailers)
    }

    fn begin_head(&mut self, out: &mut Vec<u8>, kind: HeadKind, id: u32, is_end: bool) -> usize {
        let at = out.len();
        let kind = if kind == HeadKind::Final { Kind::Head } else { Kind::Info };
        frame::put_header(out, 0, kind, if is_end { frame::END } else { 0 }, id);
        at
    }

    fn end_head(&mut self, out: &mut Vec<u8>, at: usize) {
        frame::patch_length(&mut out[at..], 0);
    }

    fn write_trailers(fields: &Fields, out: &mut Vec<u8>) {
        hygiene::write_lines(fields, hygiene::FORBIDDEN_IN_TRAILERS, out);
    }

    fn put_trailers(out: &mut Vec<u8>, id: u32, written: &[u8]) {
        frame::put(out, Kind::Trailers, 0, id, written);
    }

    fn put_window(out: &mut Vec<u8>, id: u32, more: u32) {
        frame::put(out, Kind::Window, 0, id, &more.to_be_bytes());
    }

    fn put_reset(out: &mut Vec<u8>, id: u32, reason: Reason, unprocessed: bool, detail: &str) {
        let at = out.len();
        frame::put_header(out, 0, Kind::Reset, if unprocessed { frame::UNPROCESSED } else { 0 }, id);
        frame::put_reason(out, reason, detail);
        frame::patch_length(&mut out[at..], 0);
    }

    fn put_stop(out: &mut Vec<u8>, id: u32) {
        frame::put(out, Kind::Stop, 0, id, &[]);
    }

    fn put_ping(out: &mut Vec<u8>, is_answer: bool, opaque: [u8; 8]) {
        frame::put(out, Kind::Ping, if is_answer { frame::ACK } else { 0 }, 0, &opaque);
    }

    fn put_goaway(&self, out: &mut Vec<u8>, last: u32, reason: Reason, detail: &str) {
        let at = out.len();
        frame::put_header(out, 0, Kind::Goaway, 0, 0);
        out.extend_from_slice(&last.to_be_bytes());
        frame::put_reason(out, reason, detail);
        frame::patch_length(&mut out[at..], 0);
    }
}

fn on_hello(engine: &mut Engine<HopWire>, frame: &Frame<'_>) -> Result<(), ProtocolError> {
    if engine.is_ready() {
        return protocol_error("a second HELLO");
    }
    let Some(hello) = Hello::parse(frame.payload) else { return protocol_error("a malformed HELLO") };
    if OURS.common_version(&hello).is_none() {
        let (o, n) = (hello.oldest, hello.newest);
        return protocol_error(format!("no common version: the peer speaks {o} to {n}, we speak {}", frame::VERSION));
    }
    let limits = PeerLimits { stream_window: hello.stream_window, max_streams: hello.max_streams };
    engine.on_greeting(limits, hello.connection_window);
    Ok(())
}

fn on_reset(engine: &mut Engine<HopWire>, frame: &Frame<'_>, now: Duration) -> Result<(), ProtocolError> {
    engine.on_reset(frame.stream, now, |side| {
        let (reason, detail) = frame::parse_reason(frame.payload, side.lost());
        StreamError { reason, unprocessed: frame.flags & frame::UNPROCESSED != 0, detail: detail.into() }
    })
}

fn on_ping(engine: &mut Engine<HopWire>, frame: &Frame<'_>, now: Duration) -> Result<(), ProtocolError> {
    let Ok(opaque) = <[u8; 8]>::try_from(frame.payload) else { return protocol_error("a malformed PING") };
    if frame.flags & frame::ACK == 0 {
        engine.on_ping(opaque, now)
    } else if engine.on_pong(opaque) {
        Ok(())
    } else {
        protocol_error("the answer to a PING that was not sent")
    }
}

fn on_goaway(engine: &mut Engine<HopWire>, frame: &Frame<'_>) -> Result<(), ProtocolError> {
    let Some((last, text)) = frame.payload.split_first_chunk::<4>() else {
        return protocol_error("a malformed GOAWAY");
    };
    let (reason, detail) = frame::parse_reason(text, engine.side().lost());
    engine.on_goaway(u32::from_be_bytes(*last), reason, detail);
    Ok(())
}
