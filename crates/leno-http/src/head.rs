//! Message heads: methods, header fields kept as the bytes they arrived in, request and response heads.
//!
//! A head is looked at, changed a little and written out again. So fields stay in the block they came in, with an index
//! beside it; an untouched run of lines is copied out in one piece. Names keep their case and are compared without it.

use std::fmt;

use bytes::Bytes;

use crate::spare::{SpareVec, stock};
use crate::{MAX_FIELDS, MAX_HEAD};

/// Why a head is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// More than [`MAX_FIELDS`].
    #[error("more than 100 header fields")]
    TooManyFields,
    /// More than [`MAX_HEAD`] bytes.
    #[error("a head of more than 65536 bytes")]
    TooLarge,
    /// A line without colon, with a name that is no token, or with whitespace around the name.
    #[error("a malformed header line")]
    Line,
    /// A control character in a value (RFC 9110 section 5.5).
    #[error("a control character in a header value")]
    Value,
    /// A method, target, authority or status that cannot be one.
    #[error("a malformed start line")]
    Start,
    /// A field that is for one connection, frames, or names the host where none may be.
    #[error("a connection, framing or host field")]
    Framing,
}

/// A request method (RFC 9110 section 9).
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
    /// `CONNECT`
    Connect,
    /// `OPTIONS`
    Options,
    /// `TRACE`
    Trace,
    /// `PATCH`
    Patch,
    /// Any other token, as it came.
    Other(Bytes),
}

/// Longest method of another name; the longest registered one has 17 bytes (`UPDATEREDIRECTREF`).
const MAX_METHOD: usize = 32;

impl Method {
    /// Parses a method; `None` if it is no token or longer than 32 bytes.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        Some(match text {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            other if is_token(other) && other.len() <= MAX_METHOD => Self::Other(Bytes::copy_from_slice(other)),
            _ => return None,
        })
    }

    /// As it is written on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Other(text) => std::str::from_utf8(text).expect("a token is ASCII"),
        }
    }

    /// Whether doing it twice is as good as once (RFC 9110 section 9.2.2).
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace)
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The version a message arrived in, for logs and for what an answer may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Version {
    /// HTTP/1.0: no chunks, no 1xx.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// As logs write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// What is known of a body's length from its head. Framing headers (`content-length`, `transfer-encoding`) are never in
/// [`Fields`]: readers turn them into this, writers make them from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyLength {
    /// No body, and no header about one.
    #[default]
    None,
    /// `content-length`; on the answer to a HEAD request or in a 304, the length that is not sent.
    Exact(u64),
    /// A body of unknown length.
    Unknown,
}

impl BodyLength {
    /// The length, if it is known; 0 without a body.
    #[must_use]
    pub fn exact(self) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Exact(n) => Some(n),
            Self::Unknown => None,
        }
    }
}

/// Where one field lies in its block.
#[derive(Debug, Clone, Copy)]
struct Slot {
    name_at: u32,
    value_at: u32,
    value_len: u32,
    /// Past the line's CRLF, so that neighbours can be copied together; `0` if the block is not in line form.
    line_end: u32,
    name_len: u16,
    /// In `added`, not in `block`.
    is_added: bool,
}

/// Header or trailer fields: the block they arrived in, an index, and what was added.
///
/// Order is kept: arrived fields first, added ones after them. Removing is forgetting the index entry.
#[derive(Clone, Default)]
pub struct Fields {
    block: Bytes,
    slots: SpareVec<Slot>,
    added: SpareVec<u8>,
}

stock!(SLOTS: Vec<Slot>);

/// `tchar` of RFC 9110 section 5.6.2.
const fn is_tchar(b: u8) -> bool {
    matches!(b, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~')
}

/// Whether `text` is a token (RFC 9110 section 5.6.2), as methods and field names are.
#[must_use]
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&b| is_tchar(b))
}

/// Whether `text` has no control character but tab (RFC 9110 section 5.5).
#[must_use]
pub fn is_field_value(text: &[u8]) -> bool {
    text.iter().all(|&b| (b >= 0x20 && b != 0x7f) || b == b'\t')
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn offset(block: &[u8], part: &[u8]) -> u32 {
    let at = (part.as_ptr() as usize).checked_sub(block.as_ptr() as usize).filter(|at| at + part.len() <= block.len());
    assert!(at.is_some() && block.len() <= MAX_HEAD, "a field lies inside its block of at most 64 KiB");
    at.and_then(|at| u32::try_from(at).ok()).expect("64 KiB fit in u32")
}

impl Fields {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes fields that another parser found in `block`: `(name, value)` slices *of that block*, already checked.
    ///
    /// Each field's line must be `name ":" OWS value OWS CRLF`, as `httparse` leaves it.
    #[must_use]
    pub fn from_parsed<'a>(block: &Bytes, parsed: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut slots = SpareVec::with_room(parsed.len());
        for (name, value) in parsed {
            let name_at = offset(block, name);
            let value_at = if value.is_empty() { name_at } else { offset(block, value) };
            let from = if value.is_empty() { name_at as usize + name.len() } else { value_at as usize + value.len() };
            let line_end = memchr::memchr(b'\n', &block[from..]).map_or(0, |n| from + n + 1);
            slots.push(Slot {
                name_at,
                value_at,
                value_len: u32::try_from(value.len()).expect("inside a block of 64 KiB"),
                line_end: u32::try_from(line_end).expect("inside a block of 64 KiB"),
                name_len: u16::try_from(name.len()).expect("httparse bounds names to 64 KiB"),
                is_added: false,
            });
        }
        Self { block: block.clone(), slots, added: SpareVec::default() }
    }

    /// Parses lines of `name: value CRLF`, strictly: no folding, no bare CR or LF, no space before the colon.
    pub fn parse(block: Bytes) -> Result<Self, HeadError> {
        if block.len() > MAX_HEAD {
            return Err(HeadError::TooLarge);
        }
        let mut slots = SpareVec::with_room(16);
        let mut at = 0;
        while at < block.len() {
            let end = memchr::memchr(b'\n', &block[at..]).map(|n| at + n).ok_or(HeadError::Line)?;
            let line = block[at..end].strip_suffix(b"\r").ok_or(HeadError::Line)?;
            let colon = memchr::memchr(b':', line).ok_or(HeadError::Line)?;
            let value = trim(&line[colon + 1..]);
            if !is_token(&line[..colon]) {
                return Err(HeadError::Line);
            }
            if !is_field_value(value) {
                return Err(HeadError::Value);
            }
            if slots.len() == MAX_FIELDS {
                return Err(HeadError::TooManyFields);
            }
            let narrow = |n: usize| u32::try_from(n).expect("inside a block of 64 KiB");
            slots.push(Slot {
                name_at: narrow(at),
                value_at: offset(&block, value),
                value_len: narrow(value.len()),
                line_end: narrow(end + 1),
                name_len: u16::try_from(colon).map_err(|_| HeadError::Line)?,
                is_added: false,
            });
            at = end + 1;
        }
        Ok(Self { block, slots, added: SpareVec::default() })
    }

    fn source(&self, slot: &Slot) -> &[u8] {
        if slot.is_added { &self.added } else { &self.block }
    }

    fn name(&self, slot: &Slot) -> &[u8] {
        &self.source(slot)[slot.name_at as usize..][..usize::from(slot.name_len)]
    }

    fn value(&self, slot: &Slot) -> &[u8] {
        &self.source(slot)[slot.value_at as usize..][..slot.value_len as usize]
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All `(name, value)` in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.slots.iter().map(|s| (self.name(s), self.value(s)))
    }

    fn find(&self, name: &str) -> Option<&Slot> {
        self.slots.iter().find(|s| self.name(s).eq_ignore_ascii_case(name.as_bytes()))
    }

    /// The first value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.find(name).map(|slot| self.value(slot))
    }

    /// The first value of `name` as text, if it is UTF-8.
    #[must_use]
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// The first value of `name`, shared with the block where it arrived.
    #[must_use]
    pub fn get_bytes(&self, name: &str) -> Option<Bytes> {
        let slot = self.find(name)?;
        if slot.is_added {
            return Some(Bytes::copy_from_slice(self.value(slot)));
        }
        let at = slot.value_at as usize;
        Some(self.block.slice(at..at + slot.value_len as usize))
    }

    /// Every value of `name`, in order. A decision on a header looks at all of them.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.slots
            .iter()
            .filter(move |s| usize::from(s.name_len) == name.len())
            .filter(move |s| self.name(s).eq_ignore_ascii_case(name.as_bytes()))
            .map(|s| self.value(s))
    }

    /// Whether a field of that name exists.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The elements of a comma-separated list over all lines of `name` (RFC 9110 section 5.6.1), empty ones left out.
    pub fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).flat_map(|v| v.split(|&b| b == b',')).map(trim).filter(|v| !v.is_empty())
    }

    /// Removes every field of that name; how many there were.
    pub fn remove(&mut self, name: &str) -> usize {
        self.remove_if(|n, _| n.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Removes the fields that `unwanted(name, value)` points at; how many there were.
    pub fn remove_if(&mut self, mut unwanted: impl FnMut(&[u8], &[u8]) -> bool) -> usize {
        let before = self.slots.len();
        let mut slots = std::mem::take(&mut self.slots);
        slots.retain(|s| !unwanted(self.name(s), self.value(s)));
        self.slots = slots;
        before - self.slots.len()
    }

    /// Adds a field at the end. Control characters in the value become spaces (RFC 9110 section 5.5); a name that is no
    /// token is a mistake of the program and is left out.
    pub fn append(&mut self, name: &str, value: &[u8]) {
        debug_assert!(is_token(name.as_bytes()), "a field name must be a token: {name:?}");
        let Ok(name_len) = u16::try_from(name.len()) else { return };
        if !is_token(name.as_bytes()) {
            return;
        }
        let narrow = |n: usize| u32::try_from(n).expect("added fields come from configuration and are small");
        self.added.prepare();
        self.slots.prepare();
        let name_at = self.added.len();
        self.added.extend_from_slice(name.as_bytes());
        self.added.extend_from_slice(b": ");
        let value_at = self.added.len();
        self.added.extend(trim(value).iter().map(|&b| if (b < 0x20 && b != b'\t') || b == 0x7f { b' ' } else { b }));
        let value_len = self.added.len() - value_at;
        self.added.extend_from_slice(b"\r\n");
        self.slots.push(Slot {
            name_at: narrow(name_at),
            value_at: narrow(value_at),
            value_len: narrow(value_len),
            line_end: narrow(self.added.len()),
            name_len,
            is_added: true,
        });
    }

    /// Replaces every field of that name by one.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        self.remove(name);
        self.append(name, value);
    }

    /// Appends the fields as lines of `name: value CRLF`; runs of untouched neighbours in one piece.
    pub fn write_lines(&self, out: &mut Vec<u8>) {
        let mut slots = self.slots.iter().peekable();
        while let Some(first) = slots.next() {
            if first.line_end == 0 {
                out.extend_from_slice(self.name(first));
                out.extend_from_slice(b": ");
                out.extend_from_slice(self.value(first));
                out.extend_from_slice(b"\r\n");
                continue;
            }
            let mut end = first.line_end;
            while let Some(next) =
                slots.next_if(|s| s.is_added == first.is_added && s.name_at == end && s.line_end != 0)
            {
                end = next.line_end;
            }
            out.extend_from_slice(&self.source(first)[first.name_at as usize..end as usize]);
        }
    }

    /// How many bytes [`Fields::write_lines`] appends at most.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.slots
            .iter()
            .map(|s| {
                let end = if s.line_end == 0 { s.value_at + s.value_len + 4 } else { s.line_end };
                end.saturating_sub(s.name_at) as usize
            })
            .sum()
    }
}

impl<'a> FromIterator<(&'a str, &'a [u8])> for Fields {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a [u8])>>(fields: I) -> Self {
        let mut all = Self::new();
        for (name, value) in fields {
            all.append(name, value);
        }
        all
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets (authorization, cookies): names are enough for a log.
        f.debug_list().entries(self.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned())).finish()
    }
}

/// Equal fields in equal order; names without case.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self.iter().zip(other.iter()).all(|(a, b)| a.0.eq_ignore_ascii_case(b.0) && a.1 == b.1)
    }
}

/// The head of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// `path?query` in origin form, `*` for a server-wide OPTIONS, or the authority of a CONNECT.
    pub target: Bytes,
    /// `Host` or `:authority`, as it came; empty if there was none (HTTP/1.0).
    pub authority: Bytes,
    /// Without Host, hop-by-hop and framing fields.
    pub fields: Fields,
    /// What is known of the body's length.
    pub length: BodyLength,
    /// `expect: 100-continue`, which is not in `fields`.
    pub expect_continue: bool,
    /// The protocol named by `connection: upgrade`, which is not in `fields`. The body is then what follows the switch.
    pub upgrade: Option<Bytes>,
    /// What it arrived in.
    pub version: Version,
}

impl RequestHead {
    /// A request without fields or body, HTTP/1.1.
    #[must_use]
    pub fn new(method: Method, authority: impl Into<Bytes>, target: impl Into<Bytes>) -> Self {
        Self {
            method,
            target: target.into(),
            authority: authority.into(),
            fields: Fields::new(),
            length: BodyLength::None,
            expect_continue: false,
            upgrade: None,
            version: Version::Http11,
        }
    }

    /// The path, without the query.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        let end = memchr::memchr(b'?', &self.target).unwrap_or(self.target.len());
        &self.target[..end]
    }

    /// Whether the content type says gRPC (`application/grpc`, also with `+proto` and the like).
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.fields.get("content-type").is_some_and(|v| {
            v.len() >= 16
                && v[..16].eq_ignore_ascii_case(b"application/grpc")
                && matches!(v.get(16), None | Some(b'+' | b';'))
        })
    }
}

/// The head of a response, interim (1xx) or final.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseHead {
    /// 100 to 599.
    pub status: u16,
    /// Without hop-by-hop and framing fields.
    pub fields: Fields,
    /// What is known of the body's length.
    pub length: BodyLength,
    /// The protocol that a 101 switches to.
    pub upgrade: Option<Bytes>,
}

impl ResponseHead {
    /// A response without fields or body.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self { status, fields: Fields::new(), length: BodyLength::None, upgrade: None }
    }

    /// 1xx other than 101: more will follow.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(fields: &Fields) -> String {
        let mut out = Vec::new();
        fields.write_lines(&mut out);
        assert!(out.len() <= fields.wire_len());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn untouched_fields_are_written_as_they_came() {
        let block = "Accept:*/*\r\nX-A:  1 \r\nX-Empty:\r\n";
        let fields = Fields::parse(Bytes::from_static(block.as_bytes())).unwrap();
        assert_eq!(lines(&fields), block);
        assert_eq!(fields.get("x-a"), Some(&b"1"[..]));
        assert_eq!(fields.get("X-EMPTY"), Some(&b""[..]));
        assert_eq!(fields.get_bytes("accept").unwrap(), "*/*");
        assert_eq!(fields.len(), 3);
    }

    #[test]
    fn removed_and_added_fields() {
        let mut fields = Fields::parse(Bytes::from_static(b"a: 1\r\nb: 2\r\nA: 3\r\nc: 4, ,5\r\n")).unwrap();
        assert_eq!(fields.get_all("a").collect::<Vec<_>>(), [b"1", b"3"]);
        assert_eq!(fields.list("c").collect::<Vec<_>>(), [b"4", b"5"]);
        assert_eq!(fields.remove("a"), 2);
        fields.append("d", b"6\r\nevil: 1");
        fields.set("b", b"7");
        assert_eq!(lines(&fields), "c: 4, ,5\r\nd: 6  evil: 1\r\nb: 7\r\n");
    }

    #[test]
    fn fields_of_another_parser_keep_their_lines() {
        let block = Bytes::from_static(b"GET / HTTP/1.1\r\nHost: x\r\nEmpty:\r\nB:  2  \r\n\r\n");
        let mut storage = [httparse::EMPTY_HEADER; 8];
        let mut request = httparse::Request::new(&mut storage);
        request.parse(&block).unwrap();
        let mut fields = Fields::from_parsed(&block, request.headers.iter().map(|h| (h.name.as_bytes(), h.value)));
        assert_eq!(fields.len(), 3);
        fields.remove("host");
        assert_eq!(lines(&fields), "Empty:\r\nB:  2  \r\n");
    }

    #[test]
    fn malformed_blocks_are_refused() {
        for (bad, why) in [
            (&b"a: 1"[..], HeadError::Line),
            (b"a: 1\n", HeadError::Line),
            (b"a : 1\r\n", HeadError::Line),
            (b" a: 1\r\n", HeadError::Line),
            (b": 1\r\n", HeadError::Line),
            (b"a\r\n", HeadError::Line),
            (b"\r\n", HeadError::Line),
            (b"a: 1\r2\r\n", HeadError::Value),
            (b"a: \x00\r\n", HeadError::Value),
            (b"a: 1\r\n b: folded\r\n", HeadError::Line),
        ] {
            assert_eq!(Fields::parse(Bytes::from_static(bad)).unwrap_err(), why, "{bad:?}");
        }
        assert_eq!(Fields::parse("a:1\r\n".repeat(101).into()).unwrap_err(), HeadError::TooManyFields);
        assert_eq!(Fields::parse(vec![b'a'; MAX_HEAD + 1].into()).unwrap_err(), HeadError::TooLarge);
    }

    #[test]
    fn methods_are_tokens() {
        for good in ["GET", "PURGE", "M-SEARCH"] {
            assert_eq!(Method::parse(good.as_bytes()).unwrap().as_str(), good);
        }
        for bad in ["", "GE T", "G\0", "a".repeat(33).as_str()] {
            assert_eq!(Method::parse(bad.as_bytes()), None);
        }
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let mut head = RequestHead::new(Method::Post, "x", "/a.B/C?d");
            head.fields.append("Content-Type", value.as_bytes());
            assert_eq!(head.is_grpc(), expected, "{value}");
            assert_eq!(head.path(), b"/a.B/C");
        }
    }
}
