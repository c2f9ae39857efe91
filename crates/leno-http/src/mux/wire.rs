//! What one protocol differs in from the other: its frames.

use std::time::Duration;

use leno_model::Reason;

use super::Engine;
use super::limits::Tolerance;
use crate::head::{Fields, HeadError};

/// What kind of rule a peer broke; HTTP/2 has codes for it (RFC 9113 section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A frame that has no place where it came, or says what it may not.
    Protocol,
    /// More data than a window, or a window out of range.
    FlowControl,
    /// A frame of a wrong size.
    FrameSize,
    /// A header block that cannot be decoded.
    Compression,
    /// More of what costs us and serves nobody than is tolerated.
    Calm,
}

/// What the peer did that no version of the protocol allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ProtocolError {
    /// Which kind of rule.
    pub fault: Fault,
    /// What exactly.
    pub text: String,
}

/// Fails with a broken rule.
pub(crate) fn broken<T>(fault: Fault, text: impl Into<String>) -> Result<T, ProtocolError> {
    Err(ProtocolError { fault, text: text.into() })
}

/// [`broken`] for the rules about which frame may come when.
pub(crate) fn protocol_error<T>(text: impl Into<String>) -> Result<T, ProtocolError> {
    broken(Fault::Protocol, text)
}

/// What the peer is ready to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerLimits {
    /// Bytes that we may send on a new stream before the peer gives more.
    pub stream_window: u32,
    /// Streams that may be open at once.
    pub max_streams: u32,
}

/// Which head is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    /// A request's, or a response's final one.
    Final,
    /// 1xx.
    Interim,
}

/// The frames of a protocol. The value is what it keeps of a connection.
///
/// Frames of both protocols have the same nine bytes in front and the same DATA frame, see [`super::frame`].
pub trait Wire: Sized {
    /// A frame where it lies.
    type Frame<'a>;
    /// The head of a request, as it waits to be taken.
    type Request: std::fmt::Debug;
    /// The head of a response.
    type Response: std::fmt::Debug;
    /// Trailers, as they wait to be taken.
    type Trailers: std::fmt::Debug;

    /// Silence with streams open after which the peer is asked for a sign of life, and how long it may take to give it.
    const KEEPALIVE: (Duration, Duration);
    /// There is a frame that asks the peer to send no more on a stream that is still answered.
    const HAS_STOP: bool;
    /// Streams that the peer may reset.
    const RESETS: Tolerance;
    /// Once the peer has heard that we drain, it is told which stream was the last.
    const SAYS_LAST: bool;

    /// What is said first.
    fn put_greeting(&self, out: &mut Vec<u8>);
    /// Streams that the peer may have open at once.
    fn max_streams(&self) -> u32;

    /// Takes one whole frame off the input; `None` if it is cut.
    fn take<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Self::Frame<'a>>, ProtocolError>;
    /// Bytes that a cut frame needs, at least; more than 0.
    fn missing(&self, start: &[u8]) -> usize;
    /// Acts on a frame. `now` is the age of the connection.
    fn receive(engine: &mut Engine<Self>, frame: &Self::Frame<'_>, now: Duration) -> Result<(), ProtocolError>;
    /// What trailers say.
    fn read_trailers(trailers: Self::Trailers) -> Result<Fields, HeadError>;

    /// Begins the frame of a head, whose text or block is appended next; where it begins.
    fn begin_head(&mut self, out: &mut Vec<u8>, kind: HeadKind, id: u32, is_end: bool) -> usize;
    /// Ends what [`Wire::begin_head`] began at `at`.
    fn end_head(&mut self, out: &mut Vec<u8>, at: usize);
    /// Appends trailers as [`Wire::put_trailers`] wants them.
    fn write_trailers(fields: &Fields, out: &mut Vec<u8>);
    /// Trailers, which end the stream.
    fn put_trailers(out: &mut Vec<u8>, id: u32, written: &[u8]);
    /// Lets the peer send `more` bytes on a stream, or with 0 on the connection.
    fn put_window(out: &mut Vec<u8>, id: u32, more: u32);
    /// Breaks a stream off.
    fn put_reset(out: &mut Vec<u8>, id: u32, reason: Reason, unprocessed: bool, detail: &str);
    /// Asks the peer to send no more on a stream: at once if there is a frame for it, else after the answer's end.
    fn put_stop(out: &mut Vec<u8>, id: u32);
    /// A ping, or the answer to one.
    fn put_ping(out: &mut Vec<u8>, is_answer: bool, opaque: [u8; 8]);
    /// Takes no streams above `last`.
    fn put_goaway(&self, out: &mut Vec<u8>, last: u32, reason: Reason, detail: &str);
}
