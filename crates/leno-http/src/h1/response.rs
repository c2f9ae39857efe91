//! From a whole response head to a [`ResponseHead`] and how its body ends (RFC 9112 section 6.3).

use bytes::Bytes;

use super::parse::{ParseError, WholeHead};
use super::request::{ConnectionOption, connection_options, content_length, is_exactly_chunked};
use crate::head::{BodyLength, Method, ResponseHead};
use crate::hygiene;
use crate::known::{Known, NameSet};

/// What a response is an answer to; its own bytes do not say whether it has a body.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The request was a HEAD: lengths are told, nothing is sent.
    pub is_head: bool,
    /// The request was a CONNECT: a 2xx is followed by the tunnel.
    pub is_connect: bool,
}

impl Asked {
    /// What a request of `method` asks for.
    #[must_use]
    pub fn by(method: &Method) -> Self {
        Self { is_head: *method == Method::Head, is_connect: *method == Method::Connect }
    }
}

/// How the body of a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseBody {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
    /// Not HTTP any more: after a 101, or a 2xx to CONNECT.
    Raw,
}

/// A response and what its head says about the connection.
#[derive(Debug)]
pub struct ParsedResponse {
    /// The head.
    pub head: ResponseHead,
    /// How the body ends.
    pub body: ResponseBody,
    /// The server keeps the connection for another request.
    pub keep_alive: bool,
    /// The server's `Keep-Alive: timeout=…` in seconds.
    pub keep_alive_seconds: Option<u64>,
}

/// What is said in a head's own members and taken out of its fields.
const MEMBERS: NameSet = NameSet::of(&[Known::ContentLength, Known::TransferEncoding, Known::Connection]);
/// What is read besides.
const READ: NameSet = MEMBERS.with(Known::Upgrade).with(Known::KeepAlive);

/// Parses a whole response head.
///
/// # Errors
/// The rule that is broken; the connection cannot be used any further.
pub fn parse(block: &Bytes, asked: Asked) -> Result<ParsedResponse, ParseError> {
    read(WholeHead::of(block)?, asked)
}

/// Reads a head whose lines have been found.
///
/// # Errors
/// As [`parse`].
pub fn read(mut head: WholeHead, asked: Asked) -> Result<ParsedResponse, ParseError> {
    let (status, minor) = head.status_line()?;
    let (mut length, mut chunked, mut close, mut keep_alive, mut upgrade) = (None, false, false, false, None);
    let (mut seconds, mut names_fields) = (None, false);
    for slot in head.index.slots().iter().filter(|slot| READ.has(slot.known)) {
        let value = &head.block[slot.value()];
        match slot.known {
            Known::ContentLength => {
                let earlier = length.replace(content_length(value)?);
                if earlier.is_some() {
                    return Err(ParseError::Malformed("more than one Content-Length"));
                }
            }
            Known::TransferEncoding => {
                if chunked || !is_exactly_chunked(&head.block, slot) {
                    return Err(ParseError::Malformed("Transfer-Encoding is not exactly chunked"));
                }
                chunked = true;
            }
            // Nearly all that is ever said.
            Known::Connection if value == b"keep-alive" => keep_alive = true,
            Known::Connection => {
                for option in connection_options(value) {
                    match option {
                        ConnectionOption::Close => close = true,
                        ConnectionOption::KeepAlive => keep_alive = true,
                        ConnectionOption::Upgrade => {}
                        ConnectionOption::Field => names_fields = true,
                    }
                }
            }
            Known::Upgrade if status == 101 => upgrade = Some(head.block.slice(slot.value())),
            Known::KeepAlive => seconds = timeout_parameter(value),
            _ => {}
        }
    }
    if status == 101 && upgrade.is_none() {
        return Err(ParseError::Malformed("101 without Upgrade"));
    }
    head.forget_members(MEMBERS, names_fields);
    let mut fields = head.into_fields();
    if fields.names().meets(hygiene::HOP_BY_HOP) {
        hygiene::strip_hop_by_hop(&mut fields);
    }
    let (body_length, body) = body(status, asked, length, chunked, minor)?;
    let persistent = if minor == 1 { !close } else { keep_alive && !close };
    Ok(ParsedResponse {
        head: ResponseHead { status, fields, length: body_length, upgrade },
        body,
        keep_alive: persistent && !matches!(body, ResponseBody::UntilClose | ResponseBody::Raw),
        keep_alive_seconds: seconds,
    })
}

fn body(
    status: u16,
    asked: Asked,
    length: Option<u64>,
    chunked: bool,
    minor: u8,
) -> Result<(BodyLength, ResponseBody), ParseError> {
    if chunked && (length.is_some() || minor == 0) {
        return Err(ParseError::Malformed("Transfer-Encoding beside Content-Length or in HTTP/1.0"));
    }
    if status == 101 || (asked.is_connect && (200..300).contains(&status)) {
        if chunked || length.is_some_and(|l| l > 0) {
            return Err(ParseError::Malformed("body length beside a switch of protocols"));
        }
        return Ok((BodyLength::Unknown, ResponseBody::Raw));
    }
    if status < 200 || status == 204 {
        if chunked || length.is_some_and(|l| l > 0) {
            return Err(ParseError::Malformed("body in a response that has none"));
        }
        return Ok((BodyLength::None, ResponseBody::None));
    }
    let told = match (length, chunked) {
        (Some(length), _) => BodyLength::Exact(length),
        (None, true) => BodyLength::Unknown,
        (None, false) => BodyLength::None,
    };
    if asked.is_head || status == 304 {
        return Ok((told, ResponseBody::None));
    }
    Ok(match told {
        BodyLength::Exact(0) => (told, ResponseBody::None),
        BodyLength::Exact(length) => (told, ResponseBody::Length(length)),
        BodyLength::Unknown => (told, ResponseBody::Chunked),
        BodyLength::None => (BodyLength::Unknown, ResponseBody::UntilClose),
    })
}

/// `timeout` of a Keep-Alive field (RFC 2068 section 19.7.1.1).
fn timeout_parameter(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    text.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Asked = Asked { is_head: false, is_connect: false };
    const HEAD: Asked = Asked { is_head: true, is_connect: false };
    const CONNECT: Asked = Asked { is_head: false, is_connect: true };

    fn check(text: &str, asked: Asked) -> Result<ParsedResponse, ParseError> {
        parse(&Bytes::copy_from_slice(text.as_bytes()), asked)
    }

    #[test]
    fn how_bodies_end() {
        for (head, asked, length, body, keep_alive) in [
            ("1.1 200 OK\r\nContent-Length: 5\r\n", GET, BodyLength::Exact(5), ResponseBody::Length(5), true),
            ("1.1 200\r\nContent-Length: 0\r\n", GET, BodyLength::Exact(0), ResponseBody::None, true),
            ("1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", GET, BodyLength::Unknown, ResponseBody::Chunked, true),
            ("1.1 200 OK\r\n", GET, BodyLength::Unknown, ResponseBody::UntilClose, false),
            ("1.0 200 OK\r\nContent-Length: 5\r\n", GET, BodyLength::Exact(5), ResponseBody::Length(5), false),
            (
                "1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n",
                GET,
                BodyLength::Exact(5),
                ResponseBody::Length(5),
                true,
            ),
            (
                "1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n",
                GET,
                BodyLength::Exact(5),
                ResponseBody::Length(5),
                false,
            ),
            ("1.1 200 OK\r\nContent-Length: 5\r\n", HEAD, BodyLength::Exact(5), ResponseBody::None, true),
            ("1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", HEAD, BodyLength::Unknown, ResponseBody::None, true),
            ("1.1 200 OK\r\n", HEAD, BodyLength::None, ResponseBody::None, true),
            ("1.1 204 No Content\r\n", GET, BodyLength::None, ResponseBody::None, true),
            ("1.1 304 Not Modified\r\nContent-Length: 7\r\n", GET, BodyLength::Exact(7), ResponseBody::None, true),
            ("1.1 103 Early Hints\r\nLink: x\r\n", GET, BodyLength::None, ResponseBody::None, true),
            (
                "1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
                GET,
                BodyLength::Unknown,
                ResponseBody::Raw,
                false,
            ),
            ("1.1 200 OK\r\n", CONNECT, BodyLength::Unknown, ResponseBody::Raw, false),
            ("1.1 403 No\r\nContent-Length: 2\r\n", CONNECT, BodyLength::Exact(2), ResponseBody::Length(2), true),
        ] {
            let found = check(&format!("HTTP/{head}\r\n"), asked).unwrap();
            assert_eq!((found.head.length, found.body, found.keep_alive), (length, body, keep_alive), "{head:?}");
        }
    }

    #[test]
    fn refused() {
        for head in [
            "1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
            "1.1 200 OK\r\nContent-Length: 5, 5\r\n",
            "1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n",
            "1.1 200 OK\r\nTransfer-Encoding: chunked \r\n",
            "1.0 200 OK\r\nTransfer-Encoding: chunked\r\n",
            "1.1 204 No\r\nContent-Length: 5\r\n",
            "1.1 101 Switching\r\n",
            "1.1 099 Low\r\n",
            "1.1 2000 High\r\n",
            "1.1 20x Odd\r\n",
        ] {
            assert!(check(&format!("HTTP/{head}\r\n"), GET).is_err(), "{head:?}");
        }
    }

    #[test]
    fn fields_of_the_connection_stay_with_it() {
        let found = check("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=9\r\nConnection: x-a\r\nX-A: 1\r\nB: 2\r\nContent-Length: 0\r\n\r\n", GET).unwrap();
        assert_eq!(found.keep_alive_seconds, Some(5));
        assert_eq!(found.head.fields.iter().map(|(n, _)| n.to_vec()).collect::<Vec<_>>(), [b"B".to_vec()]);
    }
}
