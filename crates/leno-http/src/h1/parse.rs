//! Where a head begins and ends, and where its parts lie: strict, sans-I/O, without a copy, each byte looked at once.
//!
//! Two parsers that disagree about one byte are a request-smuggling hole, so whatever two parsers *could* read differently is
//! refused before anything is interpreted: bare LF or CR, folded lines, whitespace before the colon, control characters
//! (RFC 9112 section 2.2, 5).
//!
//! ```text
//!  bytes ──► HeadScanner ──► whole head? ──no──► more bytes
//!               │ refuses         │ yes
//!               ▼                 ▼
//!           ParseError        WholeHead: the bytes and where each line lies ──► request::read, response::read
//! ```

use std::ops::Range;

use bytes::Bytes;
use memchr::memchr;

use crate::fields::{Fields, Index};
use crate::known::{Known, NameSet};
use crate::lines::{self, Stop};

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

/// Finds the lines and the end of a head in bytes that arrive in pieces, refusing at the first ambiguous byte.
#[derive(Debug, Default, Clone)]
pub struct HeadScanner {
    /// Where the first line begins; an empty line may come before it.
    start: usize,
    /// Where the first line ends, once it is whole.
    first_end: usize,
    /// Where the line begins that is not whole yet.
    line: usize,
    /// Everything before has been looked at, so that a line that comes in many pieces is not read anew for each of them.
    seen: usize,
    /// What has been looked at of that line has its colon.
    has_colon: bool,
    index: Index,
}

impl HeadScanner {
    /// Looks at what is new in `bytes`, which must begin with everything given before. `Some(range)` is a whole head with its
    /// empty line; bytes before the range are to be thrown away.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Option<Range<usize>>, ParseError> {
        if self.first_end == 0 && !self.first_line(bytes)? {
            return self.partial(bytes);
        }
        if self.seen > self.line && self.goes_on(bytes) {
            return self.partial(bytes);
        }
        // Taken along, so that no line is written down twice.
        let mut index = std::mem::take(&mut self.index);
        index.prepare();
        let mut at = self.line;
        let ended = loop {
            match lines::field(bytes, at) {
                // What lies further on than a head goes may not fit in the index, but such a head is refused when it is whole.
                Ok(line) if index.len() < MAX_FIELDS => {
                    index.push_line(bytes, line);
                    at = line.end;
                }
                Ok(_) => return Err(ParseError::TooLarge("more than 100 header lines")),
                Err(stop) => break stop,
            }
        };
        (self.index, self.line) = (index, at);
        match ended {
            Stop::Empty => self.whole(),
            Stop::Partial => {
                self.has_colon = memchr(b':', &bytes[self.line..]).is_some();
                // A CR is looked at again with what follows it.
                self.seen = bytes.strip_suffix(b"\r").unwrap_or(bytes).len();
                self.partial(bytes)
            }
            stop => Err(refusal(stop)),
        }
    }

    /// What was found, with the bytes in which it was: `block` must begin with those that were scanned.
    #[must_use]
    pub fn into_head(self, block: Bytes) -> WholeHead {
        WholeHead { block, first: self.start..self.first_end, index: self.index }
    }

    /// Looks for the end of the first line; whether it is there.
    fn first_line(&mut self, bytes: &[u8]) -> Result<bool, ParseError> {
        if self.seen == self.start && bytes[self.start..].starts_with(b"\r\n") {
            // RFC 9112 section 2.2: one empty line before a request line is from clients that end a body with one too many.
            if self.start > 0 {
                return Err(ParseError::Malformed("empty lines before the request line"));
            }
            (self.start, self.seen) = (2, 2);
            return self.first_line(bytes);
        }
        if let Some(b' ' | b'\t') = bytes.get(self.start) {
            return Err(ParseError::Malformed("whitespace before the first line"));
        }
        self.seen = lines::value_end(bytes, self.seen);
        if !bytes[self.seen..].starts_with(b"\r\n") {
            return match lines::without_end(bytes, self.seen, Stop::Value) {
                Stop::Partial => Ok(false),
                Stop::Value => Err(ParseError::Malformed("control character in the first line")),
                stop => Err(refusal(stop)),
            };
        }
        (self.first_end, self.line, self.seen) = (self.seen, self.seen + 2, 0);
        Ok(true)
    }

    /// Looks at what is new of a line that was not whole; whether it is still not, and breaks no rule so far.
    fn goes_on(&mut self, bytes: &[u8]) -> bool {
        if !self.has_colon {
            self.seen = lines::name_end(bytes, self.seen);
            self.has_colon = bytes.get(self.seen) == Some(&b':');
        }
        if self.has_colon {
            self.seen = lines::value_end(bytes, self.seen);
        }
        self.seen == bytes.len()
    }

    fn whole(&self) -> Result<Option<Range<usize>>, ParseError> {
        let end = self.line + 2;
        if end - self.start > MAX_HEAD { Err(TOO_LONG) } else { Ok(Some(self.start..end)) }
    }

    fn partial(&self, bytes: &[u8]) -> Result<Option<Range<usize>>, ParseError> {
        if bytes.len().saturating_sub(self.start) > MAX_HEAD { Err(TOO_LONG) } else { Ok(None) }
    }
}

const TOO_LONG: ParseError = ParseError::TooLarge("head over 64 KiB");

#[cold]
fn refusal(stop: Stop) -> ParseError {
    ParseError::Malformed(match stop {
        Stop::Folded => "folded header line",
        Stop::NoName => "header line without a name",
        Stop::NoColon => "header line without a colon",
        Stop::Blank => "whitespace before the colon",
        Stop::Name => "invalid header name",
        Stop::Value => "invalid header value",
        Stop::Nul => "NUL in the head",
        Stop::BareLf => "bare LF in the head",
        Stop::BareCr => "bare CR in the head",
        Stop::Partial | Stop::Empty => "head ends early",
    })
}

/// A whole head: its bytes, and where its lines lie.
#[derive(Debug)]
pub struct WholeHead {
    pub(super) block: Bytes,
    /// The first line, without its CRLF.
    pub(super) first: Range<usize>,
    pub(super) index: Index,
}

impl WholeHead {
    /// Scans a block that is one head and nothing else.
    ///
    /// # Errors
    /// What [`HeadScanner`] refuses, and a block that is not one head.
    pub fn of(block: &Bytes) -> Result<Self, ParseError> {
        let mut scanner = HeadScanner::default();
        match scanner.scan(block)? {
            Some(range) if range.end == block.len() => Ok(scanner.into_head(block.clone())),
            _ => Err(ParseError::Malformed("head ends early")),
        }
    }

    /// The lines without the first one.
    #[must_use]
    pub fn into_fields(self) -> Fields {
        Fields::of_index(self.block, self.index)
    }

    /// Forgets the lines of these kinds; a `connection` that names other fields is still needed to remove those.
    pub(super) fn forget_members(&mut self, members: NameSet, connection_names_fields: bool) {
        const CONNECTION: NameSet = NameSet::of(&[Known::Connection]);
        self.index.forget_all(if connection_names_fields { members.without(CONNECTION) } else { members });
    }

    /// Method, target, and `1` for HTTP/1.1 or `0` for HTTP/1.0.
    pub(super) fn request_line(&self) -> Result<(Range<usize>, Range<usize>, u8), ParseError> {
        const WRONG: ParseError = ParseError::Malformed("invalid method, target or first line");
        let line = &self.block[self.first.clone()];
        let (rest, version) = line.split_last_chunk::<8>().ok_or(WRONG)?;
        let minor = minor(version)?;
        // Most methods.
        let method = match line {
            [b'G', b'E', b'T', b' ', ..] => 3,
            [b'P', b'O', b'S', b'T', b' ', ..] => 4,
            _ => lines::name_end(line, 0),
        };
        if method == 0 || line[method] != b' ' || rest.len() < method + 2 || rest.last() != Some(&b' ') {
            return Err(WRONG);
        }
        let (from, to) = (method + 1, rest.len() - 1);
        let target = &line[from..to];
        if !lines::is_plain_target(target) {
            if !lines::is_target(target) {
                return Err(WRONG);
            }
            if target.contains(&b'#') {
                return Err(ParseError::Malformed("fragment in the request target"));
            }
        }
        let start = self.first.start;
        Ok((start..start + method, start + from..start + to, minor))
    }

    /// The status, and the version as [`WholeHead::request_line`] gives it. The reason phrase is not kept: no protocol behind the
    /// hop has one.
    pub(super) fn status_line(&self) -> Result<(u16, u8), ParseError> {
        const WRONG: ParseError = ParseError::Malformed("invalid status line");
        let line = &self.block[self.first.clone()];
        let (version, rest) = line.split_first_chunk::<8>().ok_or(WRONG)?;
        let minor = minor(version)?;
        let &[b' ', hundreds @ b'0'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9', ref phrase @ ..] = rest else {
            return Err(WRONG);
        };
        // The space is for the phrase and may be missing with it.
        if !matches!(phrase.first(), None | Some(b' ')) {
            return Err(WRONG);
        }
        let digit = |b: u8| u16::from(b - b'0');
        let status = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
        if status < 100 { Err(ParseError::Malformed("status below 100")) } else { Ok((status, minor)) }
    }
}

fn minor(version: &[u8; 8]) -> Result<u8, ParseError> {
    match version {
        b"HTTP/1.1" => Ok(1),
        b"HTTP/1.0" => Ok(0),
        _ => Err(ParseError::Malformed("unknown HTTP version")),
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
    fn what_no_head_has_is_refused() {
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
            let read = WholeHead::of(&Bytes::from_static(bytes)).and_then(|head| head.request_line());
            assert!(matches!(read, Err(ParseError::Malformed(_))), "{:?}", String::from_utf8_lossy(bytes));
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
        assert_eq!(WholeHead::of(&exact.into()).unwrap().into_fields().len(), 100);
    }

    #[test]
    fn one_empty_line_may_come_first() {
        assert_eq!(scan_all(b"\r\nGET / HTTP/1.1\r\n\r\nrest"), Ok(Some(2..20)));
    }

    /// What httparse makes of a block that our scanner takes for one head: first line, names and values.
    type Parts = (Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

    fn lines_of(fields: &[httparse::Header<'_>]) -> Vec<(Vec<u8>, Vec<u8>)> {
        fields.iter().map(|f| (f.name.as_bytes().to_vec(), f.value.to_vec())).collect()
    }

    fn foreign_request(block: &[u8]) -> Option<Parts> {
        let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut storage);
        let length = request.parse(block).ok()?;
        (length == httparse::Status::Complete(block.len())).then(|| {
            let first = format!("{} {} {}", request.method.unwrap(), request.path.unwrap(), request.version.unwrap());
            (first.into_bytes(), lines_of(request.headers))
        })
    }

    fn foreign_status(block: &[u8]) -> Option<Parts> {
        let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut storage);
        let length = response.parse(block).ok()?;
        (length == httparse::Status::Complete(block.len())).then(|| {
            let first = format!("{} {}", response.code.unwrap(), response.version.unwrap());
            (first.into_bytes(), lines_of(response.headers))
        })
    }

    /// The same of ours.
    fn own(block: &[u8], first: impl Fn(&WholeHead) -> Result<String, ParseError>) -> Option<Parts> {
        let head = WholeHead::of(&Bytes::copy_from_slice(block)).ok()?;
        let first = first(&head).ok()?.into_bytes();
        Some((first, head.into_fields().iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect()))
    }

    fn own_request(block: &[u8]) -> Option<Parts> {
        own(block, |head| {
            let (method, target, minor) = head.request_line()?;
            let text = |range| String::from_utf8(head.block.slice(range).to_vec()).unwrap();
            Ok(format!("{} {} {minor}", text(method), text(target)))
        })
    }

    fn own_status(block: &[u8]) -> Option<Parts> {
        own(block, |head| head.status_line().map(|(status, minor)| format!("{status} {minor}")))
    }

    /// What httparse lets pass and we do not: what two parsers could read differently.
    fn is_ambiguous(block: &[u8]) -> bool {
        let lines: Vec<_> = block.split(|b| *b == b'\n').collect();
        let has_fragment = lines[0].contains(&b'#');
        let ends_bare = lines.iter().rev().skip(1).any(|line| line.last() != Some(&b'\r'));
        ends_bare
            || has_fragment
            || block.starts_with(b"\r\n\r\n")
            || block.starts_with(b"HTTP/1.1 0")
            || block.starts_with(b"HTTP/1.0 0")
    }

    fn check_against_httparse(block: &[u8]) {
        for (own, foreign) in [(own_request(block), foreign_request(block)), (own_status(block), foreign_status(block))]
        {
            if own.is_some() || !is_ambiguous(block) {
                assert_eq!(own, foreign, "{:?}", String::from_utf8_lossy(block));
            }
        }
    }

    #[test]
    fn first_lines_are_read_as_httparse_reads_them() {
        for line in [
            "GET / HTTP/1.1",
            "M-SEARCH * HTTP/1.0",
            "GET  / HTTP/1.1",
            "GET /  HTTP/1.1",
            "GET HTTP/1.1",
            " HTTP/1.1",
            "HTTP/1.1",
            "GET /a\tb HTTP/1.1",
            "GET /\u{e9} HTTP/1.1",
            "G\u{e9}T / HTTP/1.1",
            "GET / HTTP/1.1\t",
            "GET / HTTP/1.12",
            "/ HTTP/1.1",
            "GET / xHTTP/1.1",
            "GET /HTTP/1.1",
            "GETHTTP/1.1",
            "G:T / HTTP/1.1",
            "GET \x7f HTTP/1.1",
            "x",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200",
            "HTTP/1.1 200 ",
            "HTTP/1.1  200",
            "HTTP/1.1 20",
            "HTTP/1.1 2000",
            "HTTP/1.0 999 \u{e9}\tx",
            "HTTP/1.1 200\tOK",
            "HTTP/1.2 200 OK",
            "HTTP/1.1",
            "HTTP/1.1 ",
            "HTTP/1.1200 OK",
            "HTTP/1.1 20x OK",
            "HTTP/1.1 200 \x01",
        ] {
            check_against_httparse(format!("{line}\r\nHost: a\r\n\r\n").as_bytes());
        }
        check_against_httparse(b"GET /\xff HTTP/1.1\r\n\r\n");
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

        /// Whatever we accept, httparse reads as the same; and what it accepts we accept, unless it is ambiguous.
        #[test]
        fn heads_are_read_as_httparse_reads_them(
            first in prop_oneof![
                Just("GET / HTTP/1.1".to_owned()),
                Just("HTTP/1.1 200 OK".to_owned()),
                "(GET|P-1|H[(]|) [/*a?\u{e9} ]{0,4} HTTP/1\\.[012]",
                "HTTP/1\\.[01] [0-9 ]{2,4}[ a\t\u{e9}]{0,3}",
            ],
            lines in prop::collection::vec(("[a-zA-Z0-9!#$%&'*+.^_`|~-]{0,20}[a(@ \u{e9}-]?", "[:: ][ \t]{0,2}[!-~\t \u{80}-\u{ff}\x00-\x1f]{0,40}[ \t]{0,2}", "\r\n|\r\n|\r\n|\r\n|\r\n|\n|\r"), 0..6),
        ) {
            let mut block = first.into_bytes();
            block.extend_from_slice(b"\r\n");
            for (name, value, end) in lines {
                block.extend_from_slice(&[name.as_bytes(), value.as_bytes(), end.as_bytes()].concat());
            }
            block.extend_from_slice(b"\r\n");
            check_against_httparse(&block);
        }

        /// The same of lines that nothing is wrong with, which the other property seldom makes.
        #[test]
        fn fine_heads_are_read_as_httparse_reads_them(lines in prop::collection::vec(("[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,40}", "[ \t]{0,3}([!-~\u{80}-\u{ff}][!-~\t \u{80}-\u{ff}]{0,60})?[ \t]{0,3}"), 0..30)) {
            let mut block = b"GET /a?b HTTP/1.1\r\n".to_vec();
            for (name, value) in &lines {
                block.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
            }
            block.extend_from_slice(b"\r\n");
            let found = own_request(&block);
            prop_assert_eq!(found.as_ref().map(|(_, fields)| fields.len()), Some(lines.len()));
            prop_assert_eq!(found, foreign_request(&block));
        }
    }
}
