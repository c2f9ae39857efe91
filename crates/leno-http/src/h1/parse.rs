//! Where a head begins and ends, and where its parts lie: strict, sans-I/O, without a copy.
//!
//! Two parsers that disagree about one byte are a request-smuggling hole, so whatever two parsers *could* read differently is
//! refused before anything is interpreted: bare LF or CR, folded lines, whitespace before the colon, NUL (RFC 9112 section 2.2, 5).
//!
//! ```text
//!  bytes ──► HeadScanner ──► whole head? ──no──► more bytes
//!               │ refuses         │ yes
//!               ▼                 ▼
//!           ParseError         httparse ──► spans into the same bytes
//! ```

use std::mem::MaybeUninit;
use std::ops::Range;

use memchr::{memchr, memchr2};
use smallvec::SmallVec;

/// Header lines in one head. 100 is what the common servers allow (DESIGN section 7).
pub const MAX_FIELDS: usize = 100;
/// Bytes in one head, request or status line included (DESIGN section 7).
pub const MAX_HEAD: usize = 64 * 1024;

/// Why a head is refused. The text names the rule and never quotes the peer, so that it can be logged as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Ambiguous or invalid.
    #[error("{0}")]
    Malformed(&'static str),
    /// Over [`MAX_FIELDS`] or [`MAX_HEAD`].
    #[error("{0}")]
    TooLarge(&'static str),
}

/// One header line as ranges of the head's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldSpan {
    /// The name, in the case it arrived in.
    pub name: Range<usize>,
    /// The value without the whitespace around it.
    pub value: Range<usize>,
}

/// The header lines of one head.
pub type FieldSpans = SmallVec<[FieldSpan; 24]>;

/// A request line and header lines as ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSpans {
    /// The method, a token.
    pub method: Range<usize>,
    /// The request target, in whatever form.
    pub target: Range<usize>,
    /// `1` for HTTP/1.1, `0` for HTTP/1.0.
    pub minor: u8,
    /// Header lines in order.
    pub fields: FieldSpans,
}

/// A status line and header lines as ranges. The reason phrase is not kept: no protocol behind the hop has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusSpans {
    /// The status code, 100 to 999.
    pub status: u16,
    /// `1` for HTTP/1.1, `0` for HTTP/1.0.
    pub minor: u8,
    /// Header lines in order.
    pub fields: FieldSpans,
}

/// Finds the end of a head in bytes that arrive in pieces, looking at each byte once and refusing at the first ambiguous one.
#[derive(Debug, Default, Clone)]
pub struct HeadScanner {
    /// Everything before has been looked at.
    position: usize,
    /// Where the line begins that `position` is in.
    line: usize,
    /// Where the first line began; an empty line may come before it.
    start: usize,
    /// Whole lines seen, the first included.
    lines: usize,
}

impl HeadScanner {
    /// Looks at what is new in `bytes`, which must begin with everything given before. `Some(range)` is a whole head with its
    /// empty line; bytes before the range are to be thrown away.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Option<Range<usize>>, ParseError> {
        loop {
            let Some(offset) = memchr2(b'\r', b'\n', &bytes[self.position..]) else {
                self.position = bytes.len();
                return self.partial(bytes);
            };
            let at = self.position + offset;
            if bytes[at] == b'\n' {
                return Err(ParseError::Malformed("bare LF in the head"));
            }
            match bytes.get(at + 1) {
                None => {
                    self.position = at;
                    return self.partial(bytes);
                }
                Some(b'\n') => {}
                Some(_) => return Err(ParseError::Malformed("bare CR in the head")),
            }
            let line = &bytes[self.line..at];
            self.position = at + 2;
            if line.is_empty() {
                if self.lines > 0 {
                    return self.whole();
                }
                // RFC 9112 section 2.2: one empty line before a request line is from clients that end a body with one too many.
                if self.start > 0 {
                    return Err(ParseError::Malformed("empty lines before the request line"));
                }
                self.start = self.position;
            } else {
                check_line(line, self.lines == 0)?;
                self.lines += 1;
                if self.lines > MAX_FIELDS + 1 {
                    return Err(ParseError::TooLarge("more than 100 header lines"));
                }
            }
            self.line = self.position;
        }
    }

    fn whole(&self) -> Result<Option<Range<usize>>, ParseError> {
        if self.position - self.start > MAX_HEAD {
            return Err(ParseError::TooLarge("head over 64 KiB"));
        }
        Ok(Some(self.start..self.position))
    }

    fn partial(&self, bytes: &[u8]) -> Result<Option<Range<usize>>, ParseError> {
        let line = &bytes[self.line..];
        if memchr(0, line).is_some() {
            return Err(ParseError::Malformed("NUL in the head"));
        }
        if self.lines > 0 && matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(ParseError::Malformed("folded header line"));
        }
        if bytes.len() - self.start > MAX_HEAD {
            return Err(ParseError::TooLarge("head over 64 KiB"));
        }
        Ok(None)
    }
}

fn check_line(line: &[u8], first: bool) -> Result<(), ParseError> {
    if memchr(0, line).is_some() {
        return Err(ParseError::Malformed("NUL in the head"));
    }
    let blank = matches!(line[0], b' ' | b'\t');
    if first {
        return if blank { Err(ParseError::Malformed("whitespace before the first line")) } else { Ok(()) };
    }
    if blank {
        return Err(ParseError::Malformed("folded header line"));
    }
    match memchr(b':', line) {
        None => Err(ParseError::Malformed("header line without a colon")),
        Some(0) => Err(ParseError::Malformed("header line without a name")),
        Some(colon) if matches!(line[colon - 1], b' ' | b'\t') => {
            Err(ParseError::Malformed("whitespace before the colon"))
        }
        Some(_) => Ok(()),
    }
}

/// Parses a whole head that [`HeadScanner`] has accepted.
///
/// # Errors
/// What httparse refuses.
pub fn request(head: &[u8]) -> Result<RequestSpans, ParseError> {
    let mut storage = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut storage) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(ParseError::Malformed("head ends early")),
        Err(error) => return Err(describe(error)),
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(ParseError::Malformed("incomplete request line"));
    };
    Ok(RequestSpans {
        method: span(head, method.as_bytes()),
        target: span(head, target.as_bytes()),
        minor,
        fields: spans(head, parsed.headers),
    })
}

/// Parses a whole response head that [`HeadScanner`] has accepted.
///
/// # Errors
/// What httparse refuses.
pub fn status(head: &[u8]) -> Result<StatusSpans, ParseError> {
    let mut storage = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, head, &mut storage) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(ParseError::Malformed("head ends early")),
        Err(error) => return Err(describe(error)),
    }
    let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(ParseError::Malformed("incomplete status line"));
    };
    if status < 100 {
        return Err(ParseError::Malformed("status below 100"));
    }
    Ok(StatusSpans { status, minor, fields: spans(head, parsed.headers) })
}

/// Parses trailer lines; `block` ends with the empty line and has been accepted by [`HeadScanner`] behind a stand-in first line.
///
/// # Errors
/// What httparse refuses.
pub fn trailers(block: &[u8]) -> Result<FieldSpans, ParseError> {
    let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(block, &mut storage) {
        Ok(httparse::Status::Complete((length, fields))) if length == block.len() => Ok(spans(block, fields)),
        Ok(_) => Err(ParseError::Malformed("trailers end early")),
        Err(error) => Err(describe(error)),
    }
}

fn spans(head: &[u8], fields: &[httparse::Header<'_>]) -> FieldSpans {
    fields.iter().map(|f| FieldSpan { name: span(head, f.name.as_bytes()), value: span(head, f.value) }).collect()
}

/// The range of `part` in `head`; httparse returns slices of what it was given, or an empty one from elsewhere.
fn span(head: &[u8], part: &[u8]) -> Range<usize> {
    if part.is_empty() {
        return 0..0;
    }
    let start = part.as_ptr().addr() - head.as_ptr().addr();
    start..start + part.len()
}

fn describe(error: httparse::Error) -> ParseError {
    match error {
        httparse::Error::HeaderName => ParseError::Malformed("invalid header name"),
        httparse::Error::HeaderValue => ParseError::Malformed("invalid header value"),
        httparse::Error::NewLine => ParseError::Malformed("invalid line end"),
        httparse::Error::Status => ParseError::Malformed("invalid status line"),
        httparse::Error::Token => ParseError::Malformed("invalid method, target or first line"),
        httparse::Error::TooManyHeaders => ParseError::TooLarge("more than 100 header lines"),
        httparse::Error::Version => ParseError::Malformed("unknown HTTP version"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan_all(bytes: &[u8]) -> Result<Option<Range<usize>>, ParseError> {
        HeadScanner::default().scan(bytes)
    }

    #[test]
    fn ambiguous_heads_are_refused_before_they_are_whole() {
        let cases: &[(&[u8], &str)] = &[
            (b"GET / HTTP/1.1\nHost: a\n\n", "bare LF in the head"),
            (b"GET / HTTP/1.1\r\nHost: a\nx: y\r\n\r\n", "bare LF in the head"),
            (b"GET / HTTP/1.1\rHost: a\r\n\r\n", "bare CR in the head"),
            (b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", "bare CR in the head"),
            (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n", "folded header line"),
            (b"GET / HTTP/1.1\r\nA: b\r\n\tc", "folded header line"),
            (b"GET / HTTP/1.1\r\nHost : a\r\n", "whitespace before the colon"),
            (b"GET / HTTP/1.1\r\nHost\t: a\r\n", "whitespace before the colon"),
            (b"GET / HTTP/1.1\r\nHost\r\n", "header line without a colon"),
            (b"GET / HTTP/1.1\r\n: a\r\n", "header line without a name"),
            (b"GET /\0 HTTP/1.1\r\n", "NUL in the head"),
            (b"GET / HTTP/1.1\r\nA: b\0", "NUL in the head"),
            (b" GET / HTTP/1.1\r\n", "whitespace before the first line"),
            (b"\r\n\r\nGET / HTTP/1.1\r\n", "empty lines before the request line"),
        ];
        for (bytes, rule) in cases {
            assert_eq!(scan_all(bytes), Err(ParseError::Malformed(rule)), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn httparse_refuses_what_is_left() {
        let cases: &[&[u8]] = &[
            b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
            b"GET / http/1.1\r\nHost: a\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/1.1\r\nHo st: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\x01b\r\n\r\n",
            b"GET / HTTP/1.1\r\nH\x80st: ab\r\n\r\n",
            b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        ];
        for bytes in cases {
            let range = scan_all(bytes).unwrap().unwrap();
            assert!(
                matches!(request(&bytes[range]), Err(ParseError::Malformed(_))),
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn limits_hold_before_the_head_is_whole() {
        let mut many = b"GET / HTTP/1.1\r\n".to_vec();
        for number in 0..101 {
            many.extend_from_slice(format!("h{number}: x\r\n").as_bytes());
        }
        assert_eq!(scan_all(&many), Err(ParseError::TooLarge("more than 100 header lines")));
        let mut long = b"GET / HTTP/1.1\r\nh: ".to_vec();
        long.resize(MAX_HEAD + 1, b'x');
        assert_eq!(scan_all(&long), Err(ParseError::TooLarge("head over 64 KiB")));
        let mut exact = b"GET / HTTP/1.1\r\n".to_vec();
        for number in 0..100 {
            exact.extend_from_slice(format!("h{number}: x\r\n").as_bytes());
        }
        exact.extend_from_slice(b"\r\n");
        assert_eq!(request(&exact[scan_all(&exact).unwrap().unwrap()]).unwrap().fields.len(), 100);
    }

    #[test]
    fn one_empty_line_may_come_first() {
        assert_eq!(scan_all(b"\r\nGET / HTTP/1.1\r\n\r\nrest"), Ok(Some(2..20)));
    }

    proptest! {
        /// Any split of the input gives the same answer as the input in one piece.
        #[test]
        fn splits_do_not_matter(bytes in "[GETA:/ \r\n\t\\x00x]{0,60}", step in 1usize..9) {
            let whole = scan_all(bytes.as_bytes());
            let mut scanner = HeadScanner::default();
            let mut end = 0;
            let mut split = Ok(None);
            while end < bytes.len() && matches!(split, Ok(None)) {
                end = (end + step).min(bytes.len());
                split = scanner.scan(&bytes.as_bytes()[..end]);
            }
            match (&whole, &split) {
                // A piece may end inside the byte that breaks a later rule, so the rule named can differ; the verdict cannot.
                (Err(_), Err(_)) => {}
                _ => prop_assert_eq!(whole, split),
            }
        }
    }
}
