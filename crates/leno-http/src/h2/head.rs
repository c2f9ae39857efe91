//! Between header blocks and heads (RFC 9113 section 8).
//!
//! A block is decoded into one piece of text in which everything of the head lies: the path, the authority, and the fields as
//! lines, as HTTP/1 and the hop have them. What is malformed is found out here, and told by its rule.

use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;
use leno_model::Reason;

use super::hpack::encode::{put_authority, put_field, put_method, put_path, put_scheme, put_status};
use super::hpack::{Decoder, Field, HpackError, Name};
use crate::authority::Authority;
use crate::fields::Index;
use crate::h1::write::write_decimal;
use crate::head::{BodyLength, Fields, HeadError, Method, RequestHead, ResponseHead, Version};
use crate::hygiene::{FORBIDDEN_IN_TRAILERS, HOP_BY_HOP, OWNED_BY_WRITERS};
use crate::known::{Known, NameSet};
use crate::lines::{self, Line};
use crate::refusal::Refusal;
use crate::spare::SpareVec;
use crate::{MAX_FIELDS, MAX_HEAD, spare};

/// Which part of a message a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    Request,
    Response,
    Trailers,
}

/// What a field counts beside its bytes (RFC 9113 section 6.5.2).
const FIELD_OVERHEAD: usize = 32;
/// Size of a header list that we take: 64 KiB of head and 100 fields.
pub const HEADER_LIST: usize = MAX_HEAD + MAX_FIELDS * FIELD_OVERHEAD;
/// Bytes of memory for decoded text that a thread keeps.
const KEPT: usize = 16 * 1024;

thread_local! {
    static TEXT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A rule that a message breaks.
type Rule = &'static str;

/// What was read of a block so far.
struct Reader {
    message: Message,
    text: Vec<u8>,
    index: Index,
    method: Option<Method>,
    has_scheme: bool,
    path: Option<Range<usize>>,
    authority: Option<Range<usize>>,
    host: Option<Range<usize>>,
    status: Option<u16>,
    length: Option<u64>,
    expects: Option<bool>,
    /// Crumbs of cookies, which become one field again (RFC 9113 section 8.2.3).
    cookies: Vec<u8>,
    has_fields: bool,
    /// The size of what was decoded, as `SETTINGS_MAX_HEADER_LIST_SIZE` counts it.
    list: usize,
    /// The first rule that is broken.
    malformed: Option<Rule>,
    too_large: Option<Rule>,
}

impl Reader {
    /// Decodes all of a block.
    fn read(decoder: &mut Decoder, block: &[u8], message: Message) -> Result<Self, HpackError> {
        let mut text = TEXT.take();
        text.clear();
        let mut reader = Self {
            message,
            text,
            index: Index::default(),
            method: None,
            has_scheme: false,
            path: None,
            authority: None,
            host: None,
            status: None,
            length: None,
            expects: None,
            cookies: Vec::new(),
            has_fields: false,
            list: 0,
            malformed: None,
            too_large: None,
        };
        reader.index.prepare();
        decoder.decode(block, |field| reader.field(&field))?;
        if !reader.cookies.is_empty() {
            let cookies = std::mem::take(&mut reader.cookies);
            reader.line(b"cookie", Known::Cookie, &cookies);
        }
        Ok(reader)
    }

    fn broken(&mut self, rule: Rule) {
        self.malformed.get_or_insert(rule);
    }

    fn field(&mut self, field: &Field<'_>) {
        self.list += field.text.len() + field.value.len() + FIELD_OVERHEAD;
        if self.list > HEADER_LIST {
            self.too_large.get_or_insert("more than 64 KiB or 100 header fields");
            return;
        }
        match field.name {
            Name::Regular(known) => self.regular(known, field),
            Name::Malformed => self.broken("malformed header field"),
            _ if self.has_fields => self.broken("pseudo-header behind a field"),
            pseudo => self.pseudo(pseudo, field.value),
        }
    }

    fn pseudo(&mut self, name: Name, value: &[u8]) {
        let is_new = match (self.message, name) {
            (Message::Request, Name::Method) => {
                let method = Method::parse(value);
                if method.is_none() {
                    self.broken("invalid method");
                }
                std::mem::replace(&mut self.method, method).is_none()
            }
            (Message::Request, Name::Scheme) => !std::mem::replace(&mut self.has_scheme, true),
            (Message::Request, Name::Path) => self.piece(value).is_some_and(|at| self.path.replace(at).is_none()),
            (Message::Request, Name::Authority) => {
                self.piece(value).is_some_and(|at| self.authority.replace(at).is_none())
            }
            (Message::Request, Name::Protocol) => return self.broken("extended CONNECT, which is not offered"),
            (Message::Response, Name::Status) => match *value {
                [a @ b'1'..=b'5', b, c] if b.is_ascii_digit() && c.is_ascii_digit() => {
                    let status = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
                    self.status.replace(status).is_none()
                }
                _ => return self.broken("invalid status"),
            },
            _ => return self.broken("pseudo-header that has no place here"),
        };
        if !is_new {
            self.broken("pseudo-header more than once");
        }
    }

    /// Adds a piece of text that is no line.
    #[expect(clippy::unnecessary_wraps, reason = "so that callers are one expression")]
    fn piece(&mut self, value: &[u8]) -> Option<Range<usize>> {
        let at = self.text.len();
        self.text.extend_from_slice(value);
        Some(at..self.text.len())
    }

    fn regular(&mut self, known: Known, field: &Field<'_>) {
        self.has_fields = true;
        let value = trimmed(field.value);
        match known {
            Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Upgrade => return self.broken("connection-specific field"),
            Known::Te if value != b"trailers" => return self.broken("te other than trailers"),
            _ if self.message == Message::Trailers && FORBIDDEN_IN_TRAILERS.has(known) => return,
            _ if self.message == Message::Trailers => {}
            Known::ContentLength => {
                return match crate::h1::content_length(value) {
                    Ok(length) if self.length.replace(length).is_none() => {}
                    Ok(_) => self.broken("more than one Content-Length"),
                    Err(_) => self.broken("invalid Content-Length"),
                };
            }
            Known::Host if self.message == Message::Request => {
                let at = self.piece(value);
                if std::mem::replace(&mut self.host, at).is_some() {
                    self.broken("more than one Host");
                }
                return;
            }
            Known::Expect if self.message == Message::Request => {
                self.expects = Some(value.eq_ignore_ascii_case(b"100-continue"));
                return;
            }
            // A crumb of nothing would leave a separator behind.
            Known::Cookie if value.is_empty() => return,
            Known::Cookie => {
                if !self.cookies.is_empty() {
                    self.cookies.extend_from_slice(b"; ");
                }
                return self.cookies.extend_from_slice(value);
            }
            _ if HOP_BY_HOP.has(known) => return,
            _ => {}
        }
        self.line(field.text, known, value);
    }

    fn line(&mut self, name: &[u8], known: Known, value: &[u8]) {
        if self.index.len() >= MAX_FIELDS {
            self.too_large = Some("more than 100 header fields");
            return;
        }
        let Self { text, index, .. } = self;
        let at = text.len();
        text.reserve(name.len() + value.len() + 4);
        text.extend_from_slice(name);
        let name_end = text.len();
        text.extend_from_slice(b": ");
        let value_at = text.len();
        text.extend_from_slice(value);
        let value_end = text.len();
        text.extend_from_slice(b"\r\n");
        index.push_known(known, Line { at, name_end, value_at, value_end, end: value_end + 2 });
    }

    /// All text as one piece.
    fn share(&mut self) -> Bytes {
        let text = std::mem::take(&mut self.text);
        let shared = spare::copy(&text);
        if text.capacity() <= KEPT {
            TEXT.set(text);
        }
        shared
    }

    fn too_large(&self) -> Option<Rule> {
        // Cookies, or the last field, may have made it so.
        if self.text.len() > MAX_HEAD { Some("head over 64 KiB") } else { self.too_large }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Of a head that was refused.
        if self.text.capacity() > 0 && self.text.capacity() <= KEPT {
            TEXT.set(std::mem::take(&mut self.text));
        }
    }
}

/// Values have no whitespace around them (RFC 9113 section 8.2.1), but not everybody keeps to it.
fn trimmed(value: &[u8]) -> &[u8] {
    match value {
        [b' ' | b'\t', ..] | [.., b' ' | b'\t'] => value.trim_ascii(),
        _ => value,
    }
}

/// About how many bytes a head holds.
pub fn size(head: &RequestHead) -> usize {
    head.target.len() + head.authority.len() + head.fields.wire_len()
}

/// Reads a request's head. The inner error is answered, the outer one ends the connection.
pub fn read_request(
    decoder: &mut Decoder,
    block: &[u8],
    is_end: bool,
) -> Result<Result<RequestHead, Refusal>, HpackError> {
    let mut reader = Reader::read(decoder, block, Message::Request)?;
    if let Some(rule) = reader.malformed {
        return Ok(Err(malformed(rule)));
    }
    if let Some(rule) = reader.too_large() {
        return Ok(Err(Refusal::new(Reason::HeadTooLarge, rule)));
    }
    let text = reader.share();
    Ok(request(&mut reader, &text, is_end))
}

fn request(reader: &mut Reader, text: &Bytes, is_end: bool) -> Result<RequestHead, Refusal> {
    let method = reader.method.take().ok_or_else(|| malformed("no method"))?;
    let authority = authority(reader, text).map_err(malformed)?;
    let target = if method == Method::Connect {
        if reader.path.is_some() || reader.has_scheme {
            return Err(malformed("CONNECT with a scheme or path"));
        }
        let parsed = Authority::parse(&authority).map_err(malformed)?;
        parsed.port.ok_or_else(|| malformed("CONNECT without a port"))?;
        authority.clone()
    } else {
        if !reader.has_scheme {
            return Err(malformed("no scheme"));
        }
        let path = reader.path.take().ok_or_else(|| malformed("no path"))?;
        target(text.slice(path), &method).map_err(malformed)?
    };
    let expect_continue = match reader.expects {
        None => false,
        Some(true) => !is_end,
        Some(false) => return Err(Refusal { status: Some(417), ..malformed("unknown expectation") }),
    };
    let length = match reader.length {
        None if is_end => BodyLength::None,
        None => BodyLength::Unknown,
        Some(1..) if is_end => return Err(malformed("no body where content-length tells of one")),
        Some(length) => BodyLength::Exact(length),
    };
    Ok(RequestHead {
        method,
        target,
        authority,
        fields: Fields::of_index(text.clone(), std::mem::take(&mut reader.index)),
        length,
        expect_continue,
        upgrade: None,
        version: Version::Http2,
    })
}

/// `:path`, by the rules that HTTP/1 has for its target: the request may go on in it.
fn target(path: Bytes, method: &Method) -> Result<Bytes, Rule> {
    let is_server_wide = path == "*" && *method == Method::Options;
    if !path.starts_with(b"/") && !is_server_wide {
        return Err("path does not begin with a slash");
    }
    if !lines::is_plain_target(&path) && (!lines::is_target(&path) || path.contains(&b'#')) {
        return Err("invalid character in the path");
    }
    Ok(path)
}

/// `:authority`, or `host` in its place; where there are both they must agree (RFC 9113 section 8.3.1).
fn authority(reader: &Reader, text: &Bytes) -> Result<Bytes, Rule> {
    let (given, host) = (reader.authority.clone(), reader.host.clone());
    let found = match (given, host) {
        (Some(given), Some(host)) => {
            if !Authority::parse(&text[given.clone()])?.is_same(&Authority::parse(&text[host])?, 80) {
                return Err("Host differs from :authority");
            }
            given
        }
        (Some(one), None) | (None, Some(one)) => {
            Authority::check(&text[one.clone()])?;
            one
        }
        (None, None) => return Err("no authority"),
    };
    Ok(text.slice(found))
}

/// Reads a response's head. The inner error breaks off the stream, the outer one the connection.
pub fn read_response(
    decoder: &mut Decoder,
    block: &[u8],
    is_end: bool,
) -> Result<Result<ResponseHead, Rule>, HpackError> {
    let mut reader = Reader::read(decoder, block, Message::Response)?;
    if let Some(rule) = reader.malformed.or_else(|| reader.too_large()) {
        return Ok(Err(rule));
    }
    let Some(status) = reader.status else { return Ok(Err("no status")) };
    if status == 101 {
        return Ok(Err("101 in HTTP/2"));
    }
    if status < 200 && is_end {
        return Ok(Err("an interim head that ends the stream"));
    }
    let text = reader.share();
    let length = match reader.length {
        _ if status < 200 => BodyLength::None,
        Some(length) => BodyLength::Exact(length),
        None if is_end => BodyLength::None,
        None => BodyLength::Unknown,
    };
    let fields = Fields::of_index(text, std::mem::take(&mut reader.index));
    Ok(Ok(ResponseHead { status, fields, length, upgrade: None }))
}

/// Reads trailers, without those that have no place there. The inner error breaks off the stream, the outer one the connection.
pub fn read_trailers(decoder: &mut Decoder, block: &[u8]) -> Result<Result<Fields, Rule>, HpackError> {
    let mut reader = Reader::read(decoder, block, Message::Trailers)?;
    if let Some(rule) = reader.malformed.or_else(|| reader.too_large()) {
        return Ok(Err(rule));
    }
    let text = reader.share();
    Ok(Ok(Fields::of_index(text, std::mem::take(&mut reader.index))))
}

/// Appends a request's head. The address stands in for a missing authority.
pub fn put_request(out: &mut Vec<u8>, head: &RequestHead, address: SocketAddr) {
    put_method(out, head.method.as_str());
    if head.method != Method::Connect {
        put_scheme(out, "http");
        put_path(out, &head.target);
    }
    if head.authority.is_empty() {
        put_authority(out, address.to_string().as_bytes());
    } else {
        put_authority(out, &head.authority);
    }
    put_fields(out, &head.fields, OWNED_BY_WRITERS);
    put_length(out, head.length);
    if head.expect_continue {
        put_field(out, Known::Expect, b"expect", b"100-continue");
    }
}

/// Appends a response's head.
///
/// # Errors
/// A head that HTTP/2 has no way to say: a switch of protocols.
pub fn put_response(out: &mut Vec<u8>, head: &ResponseHead) -> Result<(), HeadError> {
    if head.status == 101 || !(100..600).contains(&head.status) {
        return Err(HeadError::Start);
    }
    put_status(out, head.status);
    put_fields(out, &head.fields, OWNED_BY_WRITERS);
    if head.status >= 200 && head.status != 204 {
        put_length(out, head.length);
    }
    Ok(())
}

/// Appends trailers.
pub fn put_trailers(fields: &Fields, out: &mut Vec<u8>) {
    put_fields(out, fields, FORBIDDEN_IN_TRAILERS);
}

fn put_length(out: &mut Vec<u8>, length: BodyLength) {
    if let BodyLength::Exact(length) = length {
        let mut digits = SpareVec::with_room(20);
        write_decimal(&mut digits, length);
        put_field(out, Known::ContentLength, b"content-length", &digits);
    }
}

fn put_fields(out: &mut Vec<u8>, fields: &Fields, unwanted: NameSet) {
    for (known, name, value) in fields.iter_known().filter(|(known, _, _)| !unwanted.has(*known)) {
        put_field(out, known, name, value);
    }
}

fn malformed(rule: Rule) -> Refusal {
    Refusal::new(Reason::MalformedRequest, rule)
}
