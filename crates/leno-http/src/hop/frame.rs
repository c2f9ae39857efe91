//! Frames of the hop: bytes to frames and back (docs/reference/hop.md, "Frames").
//!
//! The nine bytes in front are [`crate::mux::frame`]'s. Every length is bounded by its kind before a payload byte is stored. Whatever arrives gives frames or a
//! [`FrameError`], never a panic.

use leno_model::Reason;

use crate::mux::frame as common;
pub use crate::mux::frame::{END, HEADER, MAX_DATA, missing, patch_flags, patch_length};

/// Most bytes of a HEAD, INFO or TRAILERS frame: 64 KiB of fields, and 4 KiB for the stream and start lines.
pub const MAX_HEAD_TEXT: usize = crate::MAX_HEAD + 4096;
/// Most bytes of any other frame; enough for a reason word with its detail.
pub const MAX_SMALL: usize = 1024;

/// PING: this is the answer.
pub const ACK: u8 = 0x01;
/// RESET: the request cannot have been processed.
pub const UNPROCESSED: u8 = 0x02;
/// Any kind: a receiver that does not know this kind, or what the bit means on it, must close the connection.
pub const CRITICAL: u8 = 0x80;

/// What a frame is. The numbers are the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes of a body.
    Data = 0,
    /// Opens a stream (request), or the final response.
    Head = 1,
    /// A 1xx response.
    Info = 2,
    /// Fields after the body; ends the direction.
    Trailers = 3,
    /// Ends a stream at once, both ways.
    Reset = 4,
    /// More bytes may be sent, on a stream or (0) on the connection.
    Window = 5,
    /// Asks for an echo.
    Ping = 6,
    /// No new streams.
    Goaway = 7,
    /// Versions and settings; the first frame of each side.
    Hello = 8,
    /// The sender reads no more of the stream; the receiver ends its direction.
    Stop = 9,
}

impl Kind {
    fn from_wire(kind: u8) -> Option<Self> {
        const KINDS: [Kind; 10] = [
            Kind::Data,
            Kind::Head,
            Kind::Info,
            Kind::Trailers,
            Kind::Reset,
            Kind::Window,
            Kind::Ping,
            Kind::Goaway,
            Kind::Hello,
            Kind::Stop,
        ];
        KINDS.get(usize::from(kind)).copied()
    }

    fn limit(self) -> usize {
        match self {
            Self::Data => MAX_DATA,
            Self::Head | Self::Info | Self::Trailers => MAX_HEAD_TEXT,
            Self::Reset | Self::Goaway | Self::Hello => MAX_SMALL,
            Self::Window => 4,
            Self::Ping => 8,
            Self::Stop => 0,
        }
    }

    /// Whether the kind belongs to a stream, to the connection, or (WINDOW) to either.
    fn fits(self, stream: u32) -> bool {
        match self {
            Self::Window => true,
            Self::Ping | Self::Goaway | Self::Hello => stream == 0,
            _ => stream != 0,
        }
    }
}

/// One frame, borrowed from the bytes it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is; `None` for a kind that this version does not know and may ignore.
    pub kind: Option<Kind>,
    /// The flags.
    pub flags: u8,
    /// The stream, or 0 for the connection.
    pub stream: u32,
    /// The payload.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Whether nothing follows in this direction.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.flags & END != 0
    }
}

/// Bytes that no peer of this protocol sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A payload over the bound of its kind.
    #[error("a frame of kind {kind} with {length} bytes is over its bound")]
    TooLong {
        /// The kind's number.
        kind: u8,
        /// The length it announced.
        length: usize,
    },
    /// A stream frame on the connection or the reverse.
    #[error("a frame of kind {kind} on stream {stream}")]
    WrongStream {
        /// The kind's number.
        kind: u8,
        /// The stream.
        stream: u32,
    },
    /// [`CRITICAL`] on something unknown.
    #[error("a critical frame of kind {kind} that this version does not know")]
    Critical {
        /// The kind's number.
        kind: u8,
    },
}

/// Takes the first frame off `input`; `Ok(None)` if it is not complete. The header is judged as soon as it is there.
pub fn take<'a>(input: &mut &'a [u8]) -> Result<Option<Frame<'a>>, FrameError> {
    let Some((header, rest)) = input.split_first_chunk::<HEADER>() else { return Ok(None) };
    let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *header;
    let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
    let known = Kind::from_wire(kind);
    if flags & CRITICAL != 0 {
        return Err(FrameError::Critical { kind });
    }
    // An unknown kind may be as long as DATA: it is held whole before it is skipped.
    if length > known.map_or(MAX_DATA, Kind::limit) {
        return Err(FrameError::TooLong { kind, length });
    }
    if known.is_some_and(|k| !k.fits(stream)) {
        return Err(FrameError::WrongStream { kind, stream });
    }
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    *input = &rest[length..];
    Ok(Some(Frame { kind: known, flags, stream, payload }))
}

/// Appends a frame header.
pub fn put_header(out: &mut Vec<u8>, length: usize, kind: Kind, flags: u8, stream: u32) {
    debug_assert!(length <= kind.limit(), "a {kind:?} of {length} bytes");
    common::put_header(out, length, kind as u8, flags, stream);
}

/// Appends a whole frame.
pub fn put(out: &mut Vec<u8>, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
    put_header(out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
}

/// The payload of HELLO: the range of versions and what the sender is ready to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Oldest minor version of `leno/1` that the sender speaks.
    pub oldest: u16,
    /// Newest.
    pub newest: u16,
    /// Bytes that may be sent on a new stream.
    pub stream_window: u32,
    /// Bytes that may be sent on all streams together.
    pub connection_window: u32,
    /// Streams that may be open at the same time.
    pub max_streams: u32,
}

/// The version spoken here. A change that older peers can ignore needs no new number.
pub const VERSION: u16 = 1;
/// Smallest windows a HELLO may announce; below it every body would crawl.
pub const MIN_WINDOW: u32 = 16 * 1024;
/// Largest window, as in HTTP/2 (RFC 9113 section 6.9.1): sums stay inside 32 bits.
pub const MAX_WINDOW: u32 = i32::MAX as u32;

const SETTING_STREAM_WINDOW: u16 = 1;
const SETTING_CONNECTION_WINDOW: u16 = 2;
const SETTING_MAX_STREAMS: u16 = 3;

impl Hello {
    /// Appends the frame.
    pub fn put(&self, out: &mut Vec<u8>) {
        let settings = [
            (SETTING_STREAM_WINDOW, self.stream_window),
            (SETTING_CONNECTION_WINDOW, self.connection_window),
            (SETTING_MAX_STREAMS, self.max_streams),
        ];
        put_header(out, 4 + 6 * settings.len(), Kind::Hello, 0, 0);
        out.extend_from_slice(&self.oldest.to_be_bytes());
        out.extend_from_slice(&self.newest.to_be_bytes());
        for (id, value) in settings {
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
    }

    /// Reads the payload; `None` if it is malformed. Settings with unknown numbers are left out.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (&[o0, o1, n0, n1], mut rest) = payload.split_first_chunk::<4>()?;
        let mut hello = Self {
            oldest: u16::from_be_bytes([o0, o1]),
            newest: u16::from_be_bytes([n0, n1]),
            stream_window: 64 * 1024,
            connection_window: 64 * 1024,
            max_streams: 1,
        };
        while let Some((&[i0, i1, v0, v1, v2, v3], tail)) = rest.split_first_chunk::<6>() {
            let value = u32::from_be_bytes([v0, v1, v2, v3]);
            match u16::from_be_bytes([i0, i1]) {
                SETTING_STREAM_WINDOW => hello.stream_window = value,
                SETTING_CONNECTION_WINDOW => hello.connection_window = value,
                SETTING_MAX_STREAMS => hello.max_streams = value,
                _ => {}
            }
            rest = tail;
        }
        let windows = [hello.stream_window, hello.connection_window];
        let fine = rest.is_empty() && hello.oldest <= hello.newest && hello.max_streams > 0;
        (fine && windows.iter().all(|w| (MIN_WINDOW..=MAX_WINDOW).contains(w))).then_some(hello)
    }

    /// The version that both speak: the newest common one.
    #[must_use]
    pub fn common_version(&self, peer: &Self) -> Option<u16> {
        let newest = self.newest.min(peer.newest);
        (newest >= self.oldest && newest >= peer.oldest).then_some(newest)
    }
}

/// Most bytes of detail that travel with a reason.
const MAX_DETAIL: usize = 256;

/// Appends `word detail`, the payload of RESET and the tail of GOAWAY. Words are from the closed set of reasons, so that the
/// order of that set can change; control characters in the detail become spaces.
pub fn put_reason(out: &mut Vec<u8>, reason: Reason, detail: &str) {
    out.extend_from_slice(reason.as_str().as_bytes());
    if !detail.is_empty() {
        let mut end = detail.len().min(MAX_DETAIL);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        out.push(b' ');
        out.extend(detail.bytes().take(end).map(|b| if b.is_ascii_control() { b' ' } else { b }));
    }
}

/// Reads what [`put_reason`] wrote. A word that this version does not know is `unknown`.
#[must_use]
pub fn parse_reason(payload: &[u8], unknown: Reason) -> (Reason, String) {
    let text = String::from_utf8_lossy(payload);
    let (word, detail) = text.split_once(' ').unwrap_or((&text, ""));
    let detail = detail.chars().take(MAX_DETAIL).map(|c| if c.is_control() { ' ' } else { c }).collect();
    match Reason::from_word(word) {
        Some(reason) => (reason, detail),
        None => (
            unknown,
            format!("the peer said: {}", word.chars().filter(|c| !c.is_control()).take(40).collect::<String>()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hello_round_trips_and_skips_what_it_does_not_know() {
        let hello =
            Hello { oldest: 1, newest: 3, stream_window: 1 << 18, connection_window: 1 << 20, max_streams: 1024 };
        let mut out = Vec::new();
        hello.put(&mut out);
        let mut input = &out[..];
        let frame = take(&mut input).unwrap().unwrap();
        assert_eq!(Hello::parse(frame.payload), Some(hello));
        let mut newer = frame.payload.to_vec();
        newer.extend_from_slice(&[0xff, 0xff, 0, 0, 0, 9]);
        assert_eq!(Hello::parse(&newer), Some(hello));
        newer.push(0);
        assert_eq!(Hello::parse(&newer), None);
    }

    #[test]
    fn versions_are_negotiated() {
        let speaks = |oldest, newest| Hello {
            oldest,
            newest,
            stream_window: MIN_WINDOW,
            connection_window: MIN_WINDOW,
            max_streams: 1,
        };
        for (ours, theirs, common) in [
            ((1, 1), (1, 1), Some(1)),
            ((1, 2), (1, 1), Some(1)),
            ((1, 2), (2, 5), Some(2)),
            ((1, 1), (2, 3), None),
            ((3, 4), (1, 2), None),
        ] {
            assert_eq!(speaks(ours.0, ours.1).common_version(&speaks(theirs.0, theirs.1)), common);
        }
    }

    #[test]
    fn reasons_travel_as_words() {
        let mut out = Vec::new();
        put_reason(&mut out, Reason::Draining, "bye\r\nnow");
        assert_eq!(out, b"draining bye  now");
        assert_eq!(parse_reason(&out, Reason::UpstreamReset), (Reason::Draining, "bye  now".to_owned()));
        assert_eq!(parse_reason(b"from_the_future x", Reason::UpstreamReset).0, Reason::UpstreamReset);
        assert_eq!(parse_reason(b"\xff\x00", Reason::UpstreamReset).0, Reason::UpstreamReset);
        out.clear();
        put_reason(&mut out, Reason::Draining, &"ä".repeat(1000));
        assert!(out.len() <= MAX_SMALL / 2 && std::str::from_utf8(&out).is_ok());
    }

    #[test]
    fn headers_out_of_bounds_are_refused_before_their_payload() {
        for (kind, flags, stream, length, expected) in [
            (0, 0, 1, MAX_DATA + 1, FrameError::TooLong { kind: 0, length: MAX_DATA + 1 }),
            (1, 0, 1, 0xff_ffff, FrameError::TooLong { kind: 1, length: 0xff_ffff }),
            (5, 0, 0, 5, FrameError::TooLong { kind: 5, length: 5 }),
            (77, 0, 0, MAX_DATA + 1, FrameError::TooLong { kind: 77, length: MAX_DATA + 1 }),
            (0, 0, 0, 1, FrameError::WrongStream { kind: 0, stream: 0 }),
            (8, 0, 1, 4, FrameError::WrongStream { kind: 8, stream: 1 }),
            (77, CRITICAL, 0, 0, FrameError::Critical { kind: 77 }),
            (0, CRITICAL, 1, 0, FrameError::Critical { kind: 0 }),
        ] {
            let [_, l0, l1, l2] = u32::try_from(length).unwrap().to_be_bytes();
            let [s0, s1, s2, s3] = u32::to_be_bytes(stream);
            let header = [l0, l1, l2, kind, flags, s0, s1, s2, s3];
            assert_eq!(take(&mut &header[..]), Err(expected));
        }
    }

    proptest! {
        #[test]
        fn anything_gives_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut input = &bytes[..];
            while let Ok(Some(frame)) = take(&mut input) {
                prop_assert!(frame.payload.len() <= MAX_HEAD_TEXT);
            }
        }

        #[test]
        fn frames_round_trip(kind in 0_u8..4, flags in 0_u8..0x80, stream in 1_u32.., payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let kind = Kind::from_wire(kind).unwrap();
            let mut out = Vec::new();
            put(&mut out, kind, flags, stream, &payload);
            for cut in 0..out.len() {
                prop_assert_eq!(take(&mut &out[..cut]), Ok(None));
                prop_assert!((1..=out.len() - cut).contains(&missing(&out[..cut])));
            }
            let mut input = &out[..];
            prop_assert_eq!(take(&mut input), Ok(Some(Frame { kind: Some(kind), flags, stream, payload: &payload })));
            prop_assert!(input.is_empty());
        }
    }
}
