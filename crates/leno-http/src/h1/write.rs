//! Heads of HTTP/1 as bytes, sans-I/O. What is written here is the only framing of a message: lines that frame, and that
//! somebody left among the fields, are not copied.

use std::net::SocketAddr;

use crate::head::{BodyLength, Fields, Method, RequestHead, ResponseHead, Version};
use crate::hygiene;
use crate::known::Known;

/// How the body is framed on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Nothing is sent, whatever the head says (HEAD, 204, 304).
    None,
    /// So many bytes are still to come.
    Length(u64),
    /// In chunks.
    Chunked,
    /// The connection's end is the body's.
    UntilClose,
}

/// Appends the head of a request. `address` stands in for a missing authority (HTTP/1.0 callers).
pub fn request(head: &RequestHead, address: SocketAddr, out: &mut Vec<u8>) -> Coding {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(&head.target);
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    match &head.authority[..] {
        [] if head.method == Method::Connect => out.extend_from_slice(&head.target),
        [] => out.extend_from_slice(address.to_string().as_bytes()),
        authority => out.extend_from_slice(authority),
    }
    out.extend_from_slice(b"\r\n");
    write_fields(&head.fields, out);
    let is_te = head.fields.names().has(Known::Te);
    if let Some(protocol) = &head.upgrade {
        out.extend_from_slice(if is_te {
            b"connection: upgrade, te\r\nupgrade: "
        } else {
            b"connection: upgrade\r\nupgrade: "
        });
        out.extend_from_slice(protocol);
        out.extend_from_slice(b"\r\n");
    } else if is_te {
        out.extend_from_slice(b"connection: te\r\n");
    }
    if head.expect_continue {
        out.extend_from_slice(b"expect: 100-continue\r\n");
    }
    // What follows a CONNECT is the tunnel's, and never framed.
    let length = if head.method == Method::Connect { BodyLength::None } else { head.length };
    let coding = match length {
        BodyLength::None => Coding::None,
        BodyLength::Exact(length) => {
            write_length(out, length);
            Coding::Length(length)
        }
        BodyLength::Unknown => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Coding::Chunked
        }
    };
    out.extend_from_slice(b"\r\n");
    coding
}

/// Appends an interim response.
pub fn interim(head: &ResponseHead, out: &mut Vec<u8>) {
    write_status(out, head.status);
    write_fields(&head.fields, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a switch of protocols: a 101, or a 2xx to CONNECT. What follows is not HTTP.
pub fn switch(head: &ResponseHead, out: &mut Vec<u8>) {
    write_status(out, head.status);
    if let Some(protocol) = &head.upgrade {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
        out.extend_from_slice(protocol);
        out.extend_from_slice(b"\r\n");
    }
    write_fields(&head.fields, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a final response to a caller of `version`; `is_empty` tells that the body is known to hold nothing.
/// Returns the body's framing, and whether the connection can be kept.
pub fn response(
    head: &ResponseHead,
    version: Version,
    is_head: bool,
    is_empty: bool,
    keep_alive: bool,
    out: &mut Vec<u8>,
) -> (Coding, bool) {
    write_status(out, head.status);
    write_fields(&head.fields, out);
    let bodiless = head.status == 204 || head.status < 200;
    let told_only = is_head || head.status == 304;
    let length = match head.length {
        _ if bodiless => BodyLength::None,
        BodyLength::Unknown if is_empty && !told_only => BodyLength::Exact(0),
        BodyLength::None if !told_only => BodyLength::Exact(0),
        other => other,
    };
    let mut keep_alive = keep_alive;
    let mut coding = match length {
        BodyLength::None => Coding::None,
        BodyLength::Exact(length) => {
            write_length(out, length);
            Coding::Length(length)
        }
        BodyLength::Unknown if version == Version::Http10 => {
            keep_alive &= told_only;
            Coding::UntilClose
        }
        BodyLength::Unknown => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Coding::Chunked
        }
    };
    if told_only {
        coding = Coding::None;
    }
    if !keep_alive {
        out.extend_from_slice(b"connection: close\r\n");
    } else if version == Version::Http10 {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
    (coding, keep_alive)
}

/// Appends the end of a chunked body.
pub fn last_chunk(trailers: Option<&Fields>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(fields) = trailers {
        hygiene::write_lines(fields, hygiene::FORBIDDEN_IN_TRAILERS, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Readers leave no framing among the fields. If one did, whoever wrote it would decide where our message ends.
fn write_fields(fields: &Fields, out: &mut Vec<u8>) {
    hygiene::write_lines(fields, hygiene::OWNED_BY_WRITERS, out);
}

fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    write_decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal digits, without a detour through a string.
pub(crate) fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    // Two digits to a division.
    while number >= 100 {
        at -= 2;
        [digits[at], digits[at + 1]] = two_digits((number % 100) as u8);
        number /= 100;
    }
    let [tens, ones] = two_digits(number as u8);
    at -= 1;
    digits[at] = ones;
    if tens > b'0' {
        at -= 1;
        digits[at] = tens;
    }
    out.extend_from_slice(&digits[at..]);
}

fn two_digits(below_100: u8) -> [u8; 2] {
    [b'0' + below_100 / 10, b'0' + below_100 % 10]
}

fn write_status(out: &mut Vec<u8>, status: u16) {
    // Most answers.
    if status == 200 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(out, u64::from(status));
    out.push(b' ');
    let phrase = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("");
    out.extend_from_slice(phrase.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::h1::parse::HeadScanner;
    use crate::h1::request::parse;

    #[test]
    fn numbers() {
        for number in (0..=1_000).chain([1_234, 99_999, 100_000, 1_000_000_007, u64::MAX]) {
            let mut out = Vec::new();
            write_decimal(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }

    #[test]
    fn heads() {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let text = |act: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            act(&mut out);
            String::from_utf8(out).unwrap()
        };
        let mut head = RequestHead::new(Method::Post, "web:80", "/a?b");
        head.fields.append("te", b"trailers");
        head.length = BodyLength::Unknown;
        head.expect_continue = true;
        assert_eq!(
            text(&|w| _ = request(&head, address, w)),
            "POST /a?b HTTP/1.1\r\nhost: web:80\r\nte: trailers\r\nconnection: te\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let old = RequestHead::new(Method::Get, "", "/");
        assert_eq!(text(&|w| _ = request(&old, address, w)), "GET / HTTP/1.1\r\nhost: 10.0.0.1:80\r\n\r\n");
        let mut tunnel = RequestHead::new(Method::Connect, "", "web:443");
        tunnel.length = BodyLength::Unknown;
        assert_eq!(text(&|w| _ = request(&tunnel, address, w)), "CONNECT web:443 HTTP/1.1\r\nhost: web:443\r\n\r\n");
        for (status, length, version, is_head, keep, expected) in [
            (200, BodyLength::Exact(3), Version::Http11, false, true, "content-length: 3\r\n\r\n"),
            (200, BodyLength::None, Version::Http11, false, true, "content-length: 0\r\n\r\n"),
            (200, BodyLength::Unknown, Version::Http11, false, true, "transfer-encoding: chunked\r\n\r\n"),
            (200, BodyLength::Unknown, Version::Http10, false, true, "connection: close\r\n\r\n"),
            (
                200,
                BodyLength::Exact(3),
                Version::Http10,
                false,
                true,
                "content-length: 3\r\nconnection: keep-alive\r\n\r\n",
            ),
            (200, BodyLength::Exact(3), Version::Http11, true, false, "content-length: 3\r\nconnection: close\r\n\r\n"),
            (200, BodyLength::None, Version::Http11, true, true, "\r\n"),
            (204, BodyLength::Exact(3), Version::Http11, false, true, "\r\n"),
            (304, BodyLength::Exact(3), Version::Http11, false, true, "content-length: 3\r\n\r\n"),
        ] {
            let mut head = ResponseHead::new(status);
            head.length = length;
            let found = text(&|w| _ = response(&head, version, is_head, false, keep, w));
            let (line, rest) = found.split_once("\r\n").unwrap();
            assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{line}");
            assert_eq!(rest.trim_start(), expected.trim_start(), "{status} {length:?} {version:?} {is_head}");
        }
    }

    #[test]
    fn framing_among_the_fields_is_left_out() {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let mut fields = Fields::new();
        for name in ["Content-Length", "transfer-encoding", "Host", "connection", "upgrade", "x-a", "keep-alive"] {
            fields.append(name, b"1");
        }
        let (mut asked, mut answer) = (RequestHead::new(Method::Get, "web", "/"), ResponseHead::new(200));
        asked.fields = fields.clone();
        answer.fields = fields.clone();
        let mut out = Vec::new();
        request(&asked, address, &mut out);
        assert_eq!(out, b"GET / HTTP/1.1\r\nhost: web\r\nx-a: 1\r\n\r\n");
        out.clear();
        response(&answer, Version::Http11, false, false, true, &mut out);
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 0\r\n\r\n");
        out.clear();
        interim(&ResponseHead { status: 103, ..answer }, &mut out);
        assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\nx-a: 1\r\n\r\n");
        out.clear();
        last_chunk(Some(&fields), &mut out);
        assert_eq!(out, b"0\r\nx-a: 1\r\n\r\n");
    }

    proptest! {
        /// What is written is read as the same request.
        #[test]
        fn requests_round_trip(
            target in "/[!-\"$-~]{0,20}",
            names in prop::collection::vec("x-[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,12}", 0..20),
            values in prop::collection::vec("[!-~\u{80}-\u{ff}]([ -~\t]{0,20}[!-~])?", 20),
            length in prop_oneof![Just(BodyLength::None), any::<u32>().prop_map(|n| BodyLength::Exact(n.into())), Just(BodyLength::Unknown)],
            expect in any::<bool>(),
            upgrade in any::<bool>(),
        ) {
            let mut head = RequestHead::new(Method::Put, "Web.shop:80", target.into_bytes());
            for (name, value) in names.iter().zip(&values) {
                head.fields.append(name, value.as_bytes());
            }
            head.length = length;
            let has_body = !matches!(length, BodyLength::None | BodyLength::Exact(0));
            head.expect_continue = expect && has_body;
            head.upgrade = (upgrade && !has_body).then(|| Bytes::from_static(b"websocket"));
            let wire = Bytes::from(wire_of(&head));
            let range = HeadScanner::default().scan(&wire).unwrap().unwrap();
            prop_assert_eq!(range.clone(), 0..wire.len());
            let parsed = parse(&wire).unwrap();
            prop_assert!(parsed.keep_alive && parsed.chunked == (length == BodyLength::Unknown));
            prop_assert_eq!(parsed.head, head);
        }
    }

    fn wire_of(head: &RequestHead) -> Vec<u8> {
        let mut out = Vec::new();
        request(head, SocketAddr::from(([127, 0, 0, 1], 80)), &mut out);
        out
    }
}
