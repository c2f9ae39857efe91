//! The chunked transfer coding (RFC 9112 section 7.1), strict, sans-I/O.
//!
//! ```text
//!        ┌──────────────────────────────────────────────┐
//!        ▼                                              │
//!      Size ──';'──► Extension ──CRLF──► Data ──CRLF────┘
//!        │                 │
//!        └──── size 0, CRLF┴──► Trailers ──empty line──► Done
//! ```
//!
//! Extensions mean nothing to anyone we know and two peers that bound them differently disagree about the body: they are dropped, and bounded.

use bytes::{Bytes, BytesMut};

use super::parse::{HeadScanner, ParseError};
use crate::head::Fields;

/// Bytes of one chunk's extension. Signatures, the only ones ever seen in use (AWS streaming uploads), take about 90.
const MAX_EXTENSION: usize = 256;
/// Bytes of all extensions of one body beyond [`EXTENSION_SHARE`] of its data; else extensions are a way to send much and be counted little.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// One byte of extension is free for so many bytes of data.
const EXTENSION_SHARE: u64 = 8;
/// Bytes of a trailer block. Trailers are buffered whole, unlike the body.
const MAX_TRAILERS: usize = 16 * 1024;
/// Stands where [`HeadScanner`] expects a first line.
const STAND_IN: &[u8] = b"t\r\n";

/// What the decoder found next.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A piece of the body, at most one chunk.
    Data(Bytes),
    /// The end, with its trailers as they came.
    End(Fields),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the hexadecimal digits; how many so far.
    Size(u8),
    /// In the extension; its bytes so far.
    Extension(usize),
    /// The CR of the size line is past.
    SizeLf,
    /// In the data.
    Data,
    /// Behind the data.
    DataCr,
    DataLf,
    Trailers,
    Done,
}

/// Decodes one body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Bytes left of this chunk, or its size while that is being read.
    left: u64,
    data: u64,
    extensions: usize,
    trailers: BytesMut,
    scanner: HeadScanner,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            state: State::Size(0),
            left: 0,
            data: 0,
            extensions: 0,
            trailers: BytesMut::new(),
            scanner: HeadScanner::default(),
        }
    }
}

impl Decoder {
    /// Whether the end has been returned.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the next event from the front of `input`; `None` asks for more input. What follows the body stays in `input`.
    ///
    /// # Errors
    /// The first rule that is broken; the connection's framing is lost then.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Event>, ParseError> {
        loop {
            match self.state {
                State::Data => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
                    let piece = input.split_to(take);
                    self.left -= take as u64;
                    self.data += take as u64;
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                    return Ok(Some(Event::Data(piece)));
                }
                State::Trailers => return self.trailers(input),
                State::Done => return Ok(None),
                _ => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let line = self.line(input)?;
                    let _ = input.split_to(line);
                }
            }
        }
    }

    /// Reads framing bytes until data or trailers begin; returns how many.
    fn line(&mut self, input: &[u8]) -> Result<usize, ParseError> {
        for (index, byte) in input.iter().copied().enumerate() {
            self.state = match (self.state, byte) {
                (State::Size(digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                    if digits == 15 {
                        return Err(ParseError::Malformed("chunk size over 60 bits"));
                    }
                    let digit = char::from(byte).to_digit(16).expect("matched as a hexadecimal digit");
                    self.left = self.left << 4 | u64::from(digit);
                    State::Size(digits + 1)
                }
                (State::Size(1..), b'\r') => State::SizeLf,
                (State::Size(1..), b';') => State::Extension(0),
                (State::Size(_), _) => return Err(ParseError::Malformed("invalid chunk size")),
                (State::Extension(_), b'\r') => State::SizeLf,
                (State::Extension(length), b'\t' | b' '..=b'~' | 0x80..) => self.extension(length)?,
                (State::Extension(_), _) => {
                    return Err(ParseError::Malformed("control character in a chunk extension"));
                }
                (State::SizeLf, b'\n') if self.left == 0 => {
                    self.trailers.extend_from_slice(STAND_IN);
                    State::Trailers
                }
                (State::SizeLf, b'\n') => State::Data,
                (State::SizeLf, _) => return Err(ParseError::Malformed("bare CR in a chunk size line")),
                (State::DataCr, b'\r') => State::DataLf,
                (State::DataLf, b'\n') => State::Size(0),
                (State::DataCr | State::DataLf, _) => {
                    return Err(ParseError::Malformed("chunk data longer than its size"));
                }
                (state @ (State::Data | State::Trailers | State::Done), _) => state,
            };
            if matches!(self.state, State::Data | State::Trailers) {
                return Ok(index + 1);
            }
        }
        Ok(input.len())
    }

    fn extension(&mut self, length: usize) -> Result<State, ParseError> {
        self.extensions += 1;
        let allowed = MAX_EXTENSIONS as u64 + self.data / EXTENSION_SHARE;
        if length == MAX_EXTENSION || self.extensions as u64 > allowed {
            return Err(ParseError::Malformed("chunk extensions too long"));
        }
        Ok(State::Extension(length + 1))
    }

    fn trailers(&mut self, input: &mut Bytes) -> Result<Option<Event>, ParseError> {
        // The usual end costs no copy.
        if self.trailers.len() == STAND_IN.len() && input.starts_with(b"\r\n") {
            let _ = input.split_to(2);
            self.state = State::Done;
            return Ok(Some(Event::End(Fields::new())));
        }
        if input.is_empty() {
            return Ok(None);
        }
        let before = self.trailers.len();
        let room = MAX_TRAILERS + 1 - before.min(MAX_TRAILERS);
        self.trailers.extend_from_slice(&input[..input.len().min(room)]);
        let whole = self.scanner.scan(&self.trailers)?;
        let Some(range) = whole else {
            let _ = input.split_to(self.trailers.len() - before);
            if self.trailers.len() > MAX_TRAILERS {
                return Err(ParseError::TooLarge("trailers over 16 KiB"));
            }
            return Ok(None);
        };
        let _ = input.split_to(range.end - before);
        self.trailers.truncate(range.end);
        let block = std::mem::take(&mut self.trailers).freeze();
        self.state = State::Done;
        Ok(Some(Event::End(std::mem::take(&mut self.scanner).into_head(block).into_fields())))
    }
}

/// Appends the size line of a chunk of `length` bytes, which must not be 0: that is the end.
pub fn write_size(length: usize, out: &mut Vec<u8>) {
    debug_assert_ne!(length, 0, "an empty chunk ends the body");
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4);
    for index in (0..digits).rev() {
        let digit = (length >> (index * 4) & 0xf) as u8;
        out.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Decoded = (Vec<u8>, Option<usize>, Vec<u8>);

    /// Feeds `input` in pieces of `step`; returns body, trailer names and what is left.
    fn decode(input: &[u8], step: usize) -> Result<Decoded, ParseError> {
        let mut decoder = Decoder::default();
        let (mut body, mut end, mut pending) = (Vec::new(), None, Bytes::new());
        let mut pieces = input.chunks(step);
        loop {
            match decoder.next(&mut pending)? {
                Some(Event::Data(data)) => body.extend_from_slice(&data),
                Some(Event::End(trailers)) => {
                    end = Some(trailers.len());
                    let rest = pending.iter().copied().chain(pieces.flatten().copied()).collect();
                    return Ok((body, end, rest));
                }
                None => match pieces.next() {
                    Some(piece) => pending = [&pending[..], piece].concat().into(),
                    None => return Ok((body, end, pending.to_vec())),
                },
            }
        }
    }

    #[test]
    fn accepts() {
        for step in [1, 2, 3, 100] {
            let cases: &[(&str, &str, Option<usize>, &str)] = &[
                ("0\r\n\r\n", "", Some(0), ""),
                ("5\r\nhello\r\n0\r\n\r\nGET", "hello", Some(0), "GET"),
                ("A\r\n0123456789\r\n1\r\nx\r\n00\r\n\r\n", "0123456789x", Some(0), ""),
                ("1;a=b;c=\"d e\"\r\nx\r\n0;z\r\n\r\n", "x", Some(0), ""),
                ("1\r\nx\r\n0\r\nDigest: abc\r\nB: \r\n\r\nnext", "x", Some(2), "next"),
                ("5\r\nhel", "hel", None, ""),
                ("5\r\nhello\r\n", "hello", None, ""),
            ];
            for (input, body, end, rest) in cases {
                let expected = (body.as_bytes().to_vec(), *end, rest.as_bytes().to_vec());
                assert_eq!(decode(input.as_bytes(), step), Ok(expected), "{input:?} by {step}");
            }
        }
    }

    #[test]
    fn refuses() {
        let cases: &[&[u8]] = &[
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b"5 ;x\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"-1\r\nhello\r\n0\r\n\r\n",
            b"\r\n5\r\nhello\r\n0\r\n\r\n",
            b";x\r\n\r\n",
            b"5\nhello\r\n0\r\n\r\n",
            b"5\rxhello\r\n",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhello\r0\r\n\r\n",
            b"1;a\nb\r\nx\r\n0\r\n\r\n",
            b"1;a\0\r\nx\r\n0\r\n\r\n",
            b"10000000000000000\r\n",
            b"fffffffffffffffff\r\n",
            b"0\r\n\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\nA : b\r\n\r\n",
            b"0\r\nA: b\r\n c\r\n\r\n",
        ];
        for input in cases {
            for step in [1, 3, 100] {
                assert!(decode(input, step).is_err(), "{:?} by {step}", String::from_utf8_lossy(input));
            }
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let long = format!("1;{}\r\n", "e".repeat(257));
        assert!(decode(long.as_bytes(), 100).is_err());
        let many = format!("1;{}\r\nx\r\n", "e".repeat(200)).repeat(100);
        assert!(decode(many.as_bytes(), 1000).is_err(), "20 KB of extensions for 100 bytes of data");
        let trailers = format!("0\r\n{}", "name: value\r\n".repeat(90) + &format!("n: {}\r\n", "v".repeat(16 * 1024)));
        for step in [1000, 100_000] {
            assert_eq!(decode(trailers.as_bytes(), step), Err(ParseError::TooLarge("trailers over 16 KiB")));
        }
    }

    #[test]
    fn sizes_are_written_in_hexadecimal() {
        for length in [1, 9, 10, 15, 16, 255, 4096, 65_535, 1 << 40] {
            let mut out = Vec::new();
            write_size(length, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{length:x}\r\n"));
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8), step in 1usize..700) {
            let mut wire = Vec::new();
            for piece in &pieces {
                write_size(piece.len(), &mut wire);
                wire.extend_from_slice(piece);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\nrest");
            prop_assert_eq!(decode(&wire, step), Ok((pieces.concat(), Some(0), b"rest".to_vec())));
        }

        #[test]
        fn splits_do_not_matter(input in "[0-9a-f;x\r\n: A]{0,40}", step in 1usize..6) {
            let (whole, split) = (decode(input.as_bytes(), 1000), decode(input.as_bytes(), step));
            prop_assert_eq!(whole.is_err(), split.is_err());
            if whole.is_ok() {
                prop_assert_eq!(whole, split);
            }
        }
    }
}
