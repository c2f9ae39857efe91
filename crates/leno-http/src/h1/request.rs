//! From a whole request head to a [`RequestHead`]: what HTTP/1.1 lets a client say once, it says once, or the request is refused.

use std::ops::Range;

use bytes::Bytes;

use super::parse::{ParseError, WholeHead};
use crate::authority::Authority;
use crate::fields::Slot;
use crate::head::{BodyLength, Fields, Method, RequestHead, Version};
use crate::hygiene;
use crate::known::{Known, NameSet};

/// A request and what its head says about the connection.
#[derive(Debug)]
pub struct ParsedRequest {
    /// The head.
    pub head: RequestHead,
    /// The client keeps the connection for another request.
    pub keep_alive: bool,
    /// The body is chunked.
    pub chunked: bool,
}

/// What is said in a head's own members and taken out of its fields.
const MEMBERS: NameSet =
    NameSet::of(&[Known::Host, Known::Expect, Known::ContentLength, Known::TransferEncoding, Known::Connection]);

/// Parses a whole head, line end to line end.
///
/// # Errors
/// The rule that is broken. The connection cannot be used any further: where its next request begins is in doubt.
pub fn parse(block: &Bytes) -> Result<ParsedRequest, ParseError> {
    read(WholeHead::of(block)?)
}

/// Reads a head whose lines have been found.
///
/// # Errors
/// As [`parse`].
pub fn read(mut head: WholeHead) -> Result<ParsedRequest, ParseError> {
    let (method, target, minor) = head.request_line()?;
    let method = Method::parse(&head.block[method]).ok_or(ParseError::Malformed("invalid method"))?;
    let version = if minor == 1 { Version::Http11 } else { Version::Http10 };
    let mut lines = Lines::default();
    for slot in head.index.slots().iter().filter(|slot| MEMBERS.has(slot.known)) {
        lines.take(&head.block, slot)?;
    }
    head.forget_members(MEMBERS, lines.names_fields);
    let (length, chunked) = lines.length(version)?;
    let (target, authority) = split_target(&head.block, target, &method, lines.host.clone(), version)?;
    let mut fields = head.into_fields();
    let upgrade = lines.upgrade(&fields, version);
    if fields.names().meets(hygiene::HOP_BY_HOP.with(Known::Te)) {
        hygiene::strip_hop_by_hop(&mut fields);
    }
    let has_body = !matches!(length, BodyLength::None | BodyLength::Exact(0));
    if method == Method::Connect && has_body {
        return Err(ParseError::Malformed("CONNECT with a body"));
    }
    let keep_alive = match version {
        Version::Http10 => lines.keep_alive && !lines.close,
        _ => !lines.close,
    };
    // A request with a body may ignore the upgrade (RFC 9110 section 7.8); where the new protocol's bytes begin is in doubt then.
    let upgrade = upgrade.filter(|_| !has_body && method != Method::Connect);
    let expect_continue = lines.expect_continue && version == Version::Http11 && has_body;
    Ok(ParsedRequest {
        head: RequestHead { method, target, authority, fields, length, expect_continue, upgrade, version },
        keep_alive,
        chunked,
    })
}

/// What the special lines of a head said.
#[derive(Default)]
struct Lines {
    /// Where the host lies.
    host: Option<Range<usize>>,
    content_length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    has_upgrade_option: bool,
    expect_continue: bool,
    /// A connection option names other fields, or may.
    names_fields: bool,
}

impl Lines {
    /// Reads one line of those in [`MEMBERS`].
    fn take(&mut self, block: &[u8], slot: &Slot) -> Result<(), ParseError> {
        let value = &block[slot.value()];
        match slot.known {
            Known::Host => {
                let earlier = self.host.replace(slot.value());
                if earlier.is_some() {
                    return Err(ParseError::Malformed("more than one Host"));
                }
            }
            Known::Expect => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(ParseError::Malformed("unknown expectation"));
                }
                self.expect_continue = true;
            }
            Known::ContentLength => {
                let earlier = self.content_length.replace(content_length(value)?);
                if earlier.is_some() {
                    return Err(ParseError::Malformed("more than one Content-Length"));
                }
            }
            Known::TransferEncoding => {
                if self.chunked || !is_exactly_chunked(block, slot) {
                    return Err(ParseError::Malformed("Transfer-Encoding is not exactly chunked"));
                }
                self.chunked = true;
            }
            Known::Connection => self.connection(value),
            _ => {}
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) {
        // Nearly all that is ever said.
        if value == b"keep-alive" {
            self.keep_alive = true;
            return;
        }
        for option in connection_options(value) {
            match option {
                ConnectionOption::Close => self.close = true,
                ConnectionOption::KeepAlive => self.keep_alive = true,
                ConnectionOption::Upgrade => self.has_upgrade_option = true,
                ConnectionOption::Field => self.names_fields = true,
            }
        }
    }

    fn length(&self, version: Version) -> Result<(BodyLength, bool), ParseError> {
        match (self.content_length, self.chunked) {
            (Some(_), true) => Err(ParseError::Malformed("both Transfer-Encoding and Content-Length")),
            (None, true) if version == Version::Http10 => Err(ParseError::Malformed("Transfer-Encoding in HTTP/1.0")),
            (None, true) => Ok((BodyLength::Unknown, true)),
            (Some(length), false) => Ok((BodyLength::Exact(length), false)),
            (None, false) => Ok((BodyLength::None, false)),
        }
    }

    /// The protocol to switch to. HTTP/2 by upgrade is obsolete (RFC 9113 section 3.1) and TLS inside would hide the rest from us:
    /// both are ignored, as RFC 9110 section 7.8 lets a server do.
    fn upgrade(&self, fields: &Fields, version: Version) -> Option<Bytes> {
        if !self.has_upgrade_option || version != Version::Http11 {
            return None;
        }
        if fields.values(Known::Upgrade).count() != 1 {
            return None;
        }
        fields.get_bytes("upgrade").filter(|value| !value.is_empty() && hygiene::may_switch_to(value))
    }
}

/// What an element of `connection` says.
#[derive(Clone, Copy)]
pub(super) enum ConnectionOption {
    Close,
    KeepAlive,
    Upgrade,
    /// That a field of this name, if there is one, ends here.
    Field,
}

/// The elements of a `connection` line.
pub(super) fn connection_options(value: &[u8]) -> impl Iterator<Item = ConnectionOption> {
    let options = value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|o| !o.is_empty());
    options.map(|option| match Known::of(option) {
        Known::KeepAlive => ConnectionOption::KeepAlive,
        Known::Upgrade => ConnectionOption::Upgrade,
        _ if option.eq_ignore_ascii_case(b"close") => ConnectionOption::Close,
        _ => ConnectionOption::Field,
    })
}

/// A Content-Length is digits and nothing else: no sign, no list (RFC 9112 section 6.3 lets a recipient refuse them).
pub(crate) fn content_length(value: &[u8]) -> Result<u64, ParseError> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(ParseError::Malformed("invalid Content-Length"));
    }
    // 19 digits are below 2^64.
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Whether the line says `chunked` with at most one space before and nothing after. A tab, a second space or a parameter is
/// what one parser strips and another does not.
pub(super) fn is_exactly_chunked(block: &[u8], slot: &Slot) -> bool {
    let (name, value) = (slot.name(), slot.value());
    block[value.clone()].eq_ignore_ascii_case(b"chunked")
        && matches!(&block[name.end..value.start], b":" | b": ")
        && block[value.end..].starts_with(b"\r\n")
}

/// Splits the request target (RFC 9112 section 3.2) into what [`RequestHead`] calls target and authority.
fn split_target(
    block: &Bytes,
    span: Range<usize>,
    method: &Method,
    host: Option<Range<usize>>,
    version: Version,
) -> Result<(Bytes, Bytes), ParseError> {
    if host.is_none() && version == Version::Http11 {
        return Err(ParseError::Malformed("no Host"));
    }
    let text = &block[span.clone()];
    if text.starts_with(b"/") && *method != Method::Connect {
        // Nearly always.
        let Some(host) = host else { return Ok((block.slice(span), Bytes::new())) };
        Authority::check(&block[host.clone()]).map_err(ParseError::Malformed)?;
        return Ok((block.slice(span), block.slice(host)));
    }
    let checked_host = match &host {
        Some(host) => Some(Authority::parse(&block[host.clone()]).map_err(ParseError::Malformed)?),
        None => None,
    };
    let host = || host.map(|host| block.slice(host)).unwrap_or_default();
    if *method == Method::Connect {
        let authority = Authority::parse(text).map_err(ParseError::Malformed)?;
        let Some(port) = authority.port else { return Err(ParseError::Malformed("CONNECT without a port")) };
        // Clients differ in whether Host repeats the port.
        if checked_host.is_some_and(|host| !authority.is_same(&host, port)) {
            return Err(ParseError::Malformed("Host differs from the request target"));
        }
        let target = block.slice(span);
        return Ok((target.clone(), target));
    }
    if text == b"*" {
        return match method {
            Method::Options => Ok((block.slice(span), host())),
            _ => Err(ParseError::Malformed("target * with a method other than OPTIONS")),
        };
    }
    absolute(block, span, method, checked_host)
}

fn absolute(
    block: &Bytes,
    span: Range<usize>,
    method: &Method,
    host: Option<Authority<'_>>,
) -> Result<(Bytes, Bytes), ParseError> {
    const SCHEME: &[u8] = b"http://";
    let text = &block[span.clone()];
    if text.len() < SCHEME.len() || !text[..SCHEME.len()].eq_ignore_ascii_case(SCHEME) {
        return Err(ParseError::Malformed("request target is neither a path nor an http URL"));
    }
    let rest = &text[SCHEME.len()..];
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let authority = Authority::parse(&rest[..end]).map_err(ParseError::Malformed)?;
    if host.is_some_and(|host| !authority.is_same(&host, 80)) {
        return Err(ParseError::Malformed("Host differs from the request target"));
    }
    let start = span.start + SCHEME.len();
    let authority = block.slice(start..start + end);
    let target = match rest.get(end) {
        Some(b'/') => block.slice(start + end..span.end),
        Some(_) => Bytes::from([b"/", &rest[end..]].concat()),
        // RFC 9112 section 3.2.4: OPTIONS without a path means the server.
        None if *method == Method::Options => Bytes::from_static(b"*"),
        None => Bytes::from_static(b"/"),
    };
    Ok((target, authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<ParsedRequest, ParseError> {
        parse(&Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn smuggling_and_ambiguity_are_refused() {
        let cases = [
            ("Content-Length: 1\r\nTransfer-Encoding: chunked", "both"),
            ("Transfer-Encoding: chunked\r\nContent-Length: 1", "both"),
            ("Content-Length: 1\r\nContent-Length: 2", "more than one Content-Length"),
            ("Content-Length: 1\r\ncontent-length: 1", "more than one Content-Length"),
            ("Content-Length: 1, 1", "invalid Content-Length"),
            ("Content-Length: +1", "invalid Content-Length"),
            ("Content-Length: -1", "invalid Content-Length"),
            ("Content-Length: 0x1", "invalid Content-Length"),
            ("Content-Length: 1 1", "invalid Content-Length"),
            ("Content-Length:", "invalid Content-Length"),
            ("Content-Length: 99999999999999999999", "invalid Content-Length"),
            ("Transfer-Encoding: chunked ", "exactly chunked"),
            ("Transfer-Encoding: chunked\t", "exactly chunked"),
            ("Transfer-Encoding:  chunked", "exactly chunked"),
            ("Transfer-Encoding:\tchunked", "exactly chunked"),
            ("Transfer-Encoding: xchunked", "exactly chunked"),
            ("Transfer-Encoding: \"chunked\"", "exactly chunked"),
            ("Transfer-Encoding: chunked;a=b", "exactly chunked"),
            ("Transfer-Encoding: chunked, chunked", "exactly chunked"),
            ("Transfer-Encoding: chunked, identity", "exactly chunked"),
            ("Transfer-Encoding: identity", "exactly chunked"),
            ("Transfer-Encoding: gzip, chunked", "exactly chunked"),
            ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", "exactly chunked"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "exactly chunked"),
            ("Transfer-Encoding:", "exactly chunked"),
            ("Host: b", "more than one Host"),
            ("Expect: 200-maybe", "unknown expectation"),
        ];
        for (lines, rule) in cases {
            let error = check(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n")).expect_err(lines);
            assert!(error.to_string().contains(rule), "{lines:?}: {error}");
        }
        let old = check("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap_err();
        assert!(old.to_string().contains("HTTP/1.0"));
    }

    #[test]
    fn targets() {
        for (line, host, expected) in [
            ("GET /a?b", "Host: h\r\n", Ok(("/a?b", "h"))),
            ("GET //a/../b%2f\\", "Host: h:81\r\n", Ok(("//a/../b%2f\\", "h:81"))),
            ("OPTIONS *", "Host: h\r\n", Ok(("*", "h"))),
            ("GET *", "Host: h\r\n", Err("target *")),
            ("GET http://h/p", "Host: H:80\r\n", Ok(("/p", "h"))),
            ("GET HTTP://h?q", "Host: h\r\n", Ok(("/?q", "h"))),
            ("GET http://h", "Host: h\r\n", Ok(("/", "h"))),
            ("OPTIONS http://h", "Host: h\r\n", Ok(("*", "h"))),
            ("GET http://h/p", "Host: other\r\n", Err("Host differs")),
            ("GET http://h/p", "", Err("no Host")),
            ("GET http://u@h/p", "Host: h\r\n", Err("invalid character")),
            ("GET https://h/p", "Host: h\r\n", Err("neither")),
            ("GET a", "Host: h\r\n", Err("neither")),
            ("GET /a#b", "Host: h\r\n", Err("fragment")),
            ("GET /", "", Err("no Host")),
            ("GET /", "Host:\r\n", Err("host is empty")),
            ("GET /", "Host: a b\r\n", Err("invalid character")),
            ("CONNECT h:443", "Host: h:443\r\n", Ok(("h:443", "h:443"))),
            ("CONNECT h:443", "Host: h\r\n", Ok(("h:443", "h:443"))),
            ("CONNECT h:443", "Host: other:443\r\n", Err("Host differs")),
            ("CONNECT h", "Host: h\r\n", Err("without a port")),
            ("CONNECT /", "Host: h\r\n", Err("invalid character")),
            ("CONNECT http://h/", "Host: h\r\n", Err("invalid port")),
        ] {
            let found = check(&format!("{line} HTTP/1.1\r\n{host}\r\n"));
            match (found, expected) {
                (Ok(request), Ok((target, authority))) => {
                    assert_eq!(
                        (&request.head.target[..], &request.head.authority[..]),
                        (target.as_bytes(), authority.as_bytes()),
                        "{line}"
                    );
                }
                (Err(error), Err(rule)) => assert!(error.to_string().contains(rule), "{line}: {error}"),
                (found, expected) => panic!("{line} {host:?}: {found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn connection_options() {
        for (version, lines, keep_alive) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: x\r\nConnection: Close, y\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: keep-alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let request = check(&format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n")).unwrap();
            assert_eq!(request.keep_alive, keep_alive, "{version} {lines:?}");
            assert!(!request.head.fields.contains("connection"));
        }
    }

    #[test]
    fn fields_that_end_here_are_removed() {
        let request = check(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-one, te\r\nX-One: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\nProxy-Connection: a\r\nB: 2\r\n\r\n",
        )
        .unwrap();
        let names: Vec<_> =
            request.head.fields.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(names, ["TE", "B"]);
    }

    #[test]
    fn upgrades() {
        for (lines, expected) in [
            ("Connection: Upgrade\r\nUpgrade: websocket\r\n", Some("websocket")),
            ("Connection: keep-alive, upgrade\r\nUpgrade: a/1, b\r\n", Some("a/1, b")),
            ("Upgrade: websocket\r\n", None),
            ("Connection: upgrade\r\n", None),
            ("Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n", None),
            ("Connection: upgrade\r\nUpgrade: TLS/1.2\r\n", None),
            ("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n", None),
        ] {
            let request = check(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).unwrap();
            assert_eq!(request.head.upgrade.as_deref(), expected.map(str::as_bytes), "{lines:?}");
            assert!(!request.head.fields.contains("upgrade") && !request.head.fields.contains("http2-settings"));
        }
    }

    #[test]
    fn expectations_need_a_body_to_wait_for() {
        let with = check("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n").unwrap();
        let without = check("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n").unwrap();
        assert!(with.head.expect_continue && !without.head.expect_continue);
        assert!(!with.head.fields.contains("expect"));
    }
}
