//! Heads of the hop as compact text (docs/reference/hop.md, "Heads").
//!
//! ```text
//! request                                           response
//!   shop/web 80 http grpc a=1 d=2500 CRLF             200 l=12 CRLF
//!   POST /a.B/C?d h=web.shop v=2 l=* CRLF             name: value CRLF …
//!   name: value CRLF …
//! ```
//!
//! A TCP stream has the first line only. Keys that a reader does not know are skipped. Nothing in a head frames: lengths are
//! data for the writer at the far end.

use std::ops::Range;

use bytes::Bytes;
use leno_model::AppProtocol;

use super::frame::MAX_HEAD_TEXT;
use crate::authority::Authority;
use crate::h1::write::write_decimal;
use crate::head::{BodyLength, Fields, HeadError, Method, RequestHead, ResponseHead, Version};
use crate::hygiene;
use crate::known::{Known, NameSet};
use crate::lines::{is_plain_target, is_target, is_word, word_end};

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// A request.
    Http,
    /// Opaque bytes.
    Tcp,
}

/// What the origination says about a stream. Nothing of it is proof of anything: who calls is what TLS says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamMeta {
    /// `namespace/name` of the service that is called; both parts are DNS labels.
    pub service: Bytes,
    /// The service's port.
    pub port: u16,
    /// Requests or bytes.
    pub kind: StreamKind,
    /// What the origination took the port's protocol to be.
    pub protocol: AppProtocol,
    /// 0 for the first attempt.
    pub attempt: u32,
    /// Milliseconds that the origination will still wait.
    pub deadline_ms: Option<u64>,
}

impl StreamMeta {
    /// Namespace and name of the service.
    #[must_use]
    pub fn service_parts(&self) -> (&str, &str) {
        let text = std::str::from_utf8(&self.service).unwrap_or_default();
        text.split_once('/').unwrap_or(("", text))
    }
}

/// Two DNS labels with a slash between them, each as [`leno_model::Name::check`] has it.
fn is_service(text: &[u8]) -> bool {
    let is_label = |text: &[u8]| {
        (1..=63).contains(&text.len())
            && text.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && text[0] != b'-'
            && text[text.len() - 1] != b'-'
    };
    let slash = text.iter().position(|b| *b == b'/');
    slash.is_some_and(|at| is_label(&text[..at]) && is_label(&text[at + 1..]))
}

fn put_length(out: &mut Vec<u8>, length: BodyLength) {
    match length {
        BodyLength::None => {}
        BodyLength::Exact(n) => {
            out.extend_from_slice(b" l=");
            write_decimal(out, n);
        }
        BodyLength::Unknown => out.extend_from_slice(b" l=*"),
    }
}

fn put_upgrade(out: &mut Vec<u8>, upgrade: Option<&Bytes>) -> Result<(), HeadError> {
    let Some(upgrade) = upgrade else { return Ok(()) };
    out.extend_from_slice(b" u=");
    let from = out.len();
    // A list of protocols, in which whitespace is optional and only around commas (RFC 9110 section 7.8).
    out.extend(upgrade.iter().filter(|b| !matches!(b, b' ' | b'\t')));
    if is_word(&out[from..]) && out.len() > from { Ok(()) } else { Err(HeadError::Start) }
}

fn put_meta(out: &mut Vec<u8>, meta: &StreamMeta) -> Result<(), HeadError> {
    if !is_word(&meta.service) {
        return Err(HeadError::Start);
    }
    out.extend_from_slice(&meta.service);
    out.push(b' ');
    write_decimal(out, u64::from(meta.port));
    out.extend_from_slice(match meta.kind {
        StreamKind::Http => b" http ",
        StreamKind::Tcp => b" tcp ",
    });
    out.extend_from_slice(meta.protocol.as_str().as_bytes());
    if meta.attempt > 0 {
        out.extend_from_slice(b" a=");
        write_decimal(out, u64::from(meta.attempt));
    }
    if let Some(deadline) = meta.deadline_ms {
        out.extend_from_slice(b" d=");
        write_decimal(out, deadline);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn bounded(out: &[u8], from: usize) -> Result<(), HeadError> {
    if out.len() - from > MAX_HEAD_TEXT { Err(HeadError::TooLarge) } else { Ok(()) }
}

/// Appends the text of a request's head. On an error `out` holds a part of it, which the caller cuts off.
pub fn put_request(out: &mut Vec<u8>, meta: &StreamMeta, head: &RequestHead) -> Result<(), HeadError> {
    let from = out.len();
    put_meta(out, meta)?;
    if meta.kind == StreamKind::Tcp {
        return Ok(());
    }
    if !is_word(&head.target) || head.target.is_empty() || !is_word(&head.authority) {
        return Err(HeadError::Start);
    }
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(&head.target);
    if !head.authority.is_empty() {
        out.extend_from_slice(b" h=");
        out.extend_from_slice(&head.authority);
    }
    match head.version {
        Version::Http10 => out.extend_from_slice(b" v=10"),
        Version::Http11 => {}
        Version::Http2 => out.extend_from_slice(b" v=2"),
    }
    put_length(out, head.length);
    if head.expect_continue {
        out.extend_from_slice(b" e=1");
    }
    put_upgrade(out, head.upgrade.as_ref())?;
    out.extend_from_slice(b"\r\n");
    hygiene::write_lines(&head.fields, hygiene::OWNED_BY_WRITERS, out);
    bounded(out, from)
}

/// Appends the text of a response's head, interim or final.
pub fn put_response(out: &mut Vec<u8>, head: &ResponseHead) -> Result<(), HeadError> {
    let from = out.len();
    write_decimal(out, u64::from(head.status));
    put_length(out, head.length);
    put_upgrade(out, head.upgrade.as_ref())?;
    out.extend_from_slice(b"\r\n");
    hygiene::write_lines(&head.fields, hygiene::OWNED_BY_WRITERS, out);
    bounded(out, from)
}

/// A key, and where its value lies.
type Pair<'a> = (&'a [u8], Range<usize>);

/// Lines of words with single spaces between them; places are in the whole text, of which parts are then shared.
struct Words<'a> {
    text: &'a [u8],
    at: usize,
    is_line_over: bool,
}

impl<'a> Words<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, is_line_over: false }
    }

    /// The line's next word.
    fn next(&mut self) -> Result<Option<Range<usize>>, HeadError> {
        if self.is_line_over {
            return Ok(None);
        }
        let start = self.at;
        let (end, stop) = word_end(self.text, start);
        match stop {
            b' ' => self.at = end + 1,
            b'\r' if self.text.get(end + 1) == Some(&b'\n') => (self.at, self.is_line_over) = (end + 2, true),
            _ => return Err(HeadError::Start),
        }
        Ok(Some(start..end))
    }

    fn need(&mut self) -> Result<Range<usize>, HeadError> {
        self.next()?.ok_or(HeadError::Start)
    }

    /// The next `key=value`; the key is one letter here, but future keys may be longer.
    fn pair(&mut self) -> Result<Option<Pair<'a>>, HeadError> {
        let Some(word) = self.next()? else { return Ok(None) };
        let bytes = &self.text[word.clone()];
        let key = bytes.iter().position(|b| *b == b'=').ok_or(HeadError::Start)?;
        Ok(Some((&bytes[..key], word.start + key + 1..word.end)))
    }

    /// Goes on to the next line, when this one is over.
    fn next_line(&mut self) -> usize {
        debug_assert!(self.is_line_over, "the words behind would not be checked");
        self.is_line_over = false;
        self.at
    }
}

fn number(text: &[u8]) -> Result<u64, HeadError> {
    if text.is_empty() || text.len() > 19 {
        return Err(HeadError::Start);
    }
    // 19 digits are below 2^64.
    text.iter().try_fold(0, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 { Ok(sum * 10 + u64::from(digit)) } else { Err(HeadError::Start) }
    })
}

fn parse_length(value: &[u8]) -> Result<BodyLength, HeadError> {
    if value == b"*" { Ok(BodyLength::Unknown) } else { number(value).map(BodyLength::Exact) }
}

fn parse_meta(text: &Bytes, words: &mut Words<'_>) -> Result<StreamMeta, HeadError> {
    let service = words.need()?;
    if !is_service(&text[service.clone()]) {
        return Err(HeadError::Start);
    }
    let mut meta = StreamMeta {
        service: text.slice(service),
        port: u16::try_from(number(&text[words.need()?])?).map_err(|_| HeadError::Start)?,
        kind: match &text[words.need()?] {
            b"http" => StreamKind::Http,
            b"tcp" => StreamKind::Tcp,
            _ => return Err(HeadError::Start),
        },
        protocol: {
            let word = &text[words.need()?];
            *AppProtocol::ALL.iter().find(|p| p.as_str().as_bytes() == word).ok_or(HeadError::Start)?
        },
        attempt: 0,
        deadline_ms: None,
    };
    while let Some((key, value)) = words.pair()? {
        match key {
            b"a" => meta.attempt = u32::try_from(number(&text[value])?).map_err(|_| HeadError::Start)?,
            b"d" => meta.deadline_ms = Some(number(&text[value])?),
            _ => {}
        }
    }
    Ok(meta)
}

/// Reads a request's head. A TCP stream is given the head of a CONNECT without target.
pub fn parse_request(text: &Bytes) -> Result<(StreamMeta, RequestHead), HeadError> {
    let mut words = Words::new(text);
    let meta = parse_meta(text, &mut words)?;
    let second = words.next_line();
    if meta.kind == StreamKind::Tcp {
        let mut head = RequestHead::new(Method::Connect, Bytes::new(), Bytes::new());
        head.length = BodyLength::Unknown;
        return if second == text.len() { Ok((meta, head)) } else { Err(HeadError::Start) };
    }
    let method = Method::parse(&text[words.need()?]).ok_or(HeadError::Start)?;
    let target = text.slice(words.need()?);
    let mut head = RequestHead::new(method, Bytes::new(), target);
    while let Some((key, value)) = words.pair()? {
        match (key, &text[value.clone()]) {
            (b"h", _) => head.authority = text.slice(value),
            (b"v", b"10") => head.version = Version::Http10,
            (b"v", b"2") => head.version = Version::Http2,
            (b"l", length) => head.length = parse_length(length)?,
            (b"e", b"1") => head.expect_continue = true,
            (b"u", [_, ..]) => head.upgrade = Some(text.slice(value)),
            _ => {}
        }
    }
    check_request(&head)?;
    // An expectation needs a body to wait for, as the readers of HTTP/1 have it: our writers would pass on one that nobody keeps.
    head.expect_continue &= head.length.exact() != Some(0);
    head.fields = parse_fields(text.clone(), words.next_line(), hygiene::OWNED_BY_WRITERS)?;
    // Codings are between neighbours; only the word about trailers crosses the mesh.
    if head.fields.values(Known::Te).any(|value| !value.eq_ignore_ascii_case(b"trailers")) {
        return Err(HeadError::Framing);
    }
    Ok((meta, head))
}

/// What the readers of HTTP/1 and HTTP/2 refuse, a peer that reads nothing may not slip past them: our writers rely on it.
fn check_request(head: &RequestHead) -> Result<(), HeadError> {
    let is_authority = |text: &[u8]| Authority::check(text).is_ok();
    let is_target = match head.method {
        Method::Connect => Authority::parse(&head.target).is_ok_and(|target| {
            let is_same = |port| Authority::parse(&head.authority).is_ok_and(|host| target.is_same(&host, port));
            target.port.is_some_and(|port| head.authority.is_empty() || is_same(port))
        }),
        Method::Options if head.target == "*" => true,
        _ => {
            let is_odd = || is_target(&head.target) && !head.target.contains(&b'#');
            head.target.starts_with(b"/") && (is_plain_target(&head.target) || is_odd())
        }
    };
    // A request with a body, or CONNECT, does not switch; h2c and TLS inside would hide requests from the policy.
    let may_switch = head.method != Method::Connect && head.length.exact() == Some(0);
    let is_switch = head.upgrade.as_ref().is_none_or(|u| may_switch && hygiene::may_switch_to(u));
    // What follows a CONNECT is the tunnel's: nobody may take a part of it for a body.
    let is_tunnel_bare =
        head.method != Method::Connect || (matches!(head.length.exact(), None | Some(0)) && !head.expect_continue);
    let is_fine =
        is_target && is_switch && is_tunnel_bare && (head.authority.is_empty() || is_authority(&head.authority));
    if is_fine { Ok(()) } else { Err(HeadError::Start) }
}

/// Field lines of a peer from `at` on, none of which is of the kinds in `forbidden`.
fn parse_fields(text: Bytes, at: usize, forbidden: NameSet) -> Result<Fields, HeadError> {
    let fields = Fields::parse_from(text, at)?;
    if fields.names().meets(forbidden) { Err(HeadError::Framing) } else { Ok(fields) }
}

/// Reads a peer's trailers.
pub fn parse_trailers(lines: Bytes) -> Result<Fields, HeadError> {
    parse_fields(lines, 0, hygiene::FORBIDDEN_IN_TRAILERS)
}

/// Reads the head of a final response.
pub fn parse_response(text: &Bytes) -> Result<ResponseHead, HeadError> {
    // A caller would take a 1xx for one that is followed by the final response: by whatever comes next on its connection.
    parse_any_response(text).and_then(|head| if head.is_interim() { Err(HeadError::Start) } else { Ok(head) })
}

/// Reads the head of an interim response.
pub fn parse_interim(text: &Bytes) -> Result<ResponseHead, HeadError> {
    parse_any_response(text).and_then(|head| if head.is_interim() { Ok(head) } else { Err(HeadError::Start) })
}

fn parse_any_response(text: &Bytes) -> Result<ResponseHead, HeadError> {
    let mut words = Words::new(text);
    let status = number(&text[words.need()?])?;
    let status = u16::try_from(status).ok().filter(|s| (100..1000).contains(s)).ok_or(HeadError::Start)?;
    let mut head = ResponseHead::new(status);
    while let Some((key, value)) = words.pair()? {
        match (key, &text[value.clone()]) {
            (b"l", length) => head.length = parse_length(length)?,
            (b"u", [_, ..]) => head.upgrade = Some(text.slice(value)),
            _ => {}
        }
    }
    if (head.status == 101) != head.upgrade.is_some() {
        return Err(HeadError::Start);
    }
    head.fields = parse_fields(text.clone(), words.next_line(), hygiene::OWNED_BY_WRITERS)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meta() -> StreamMeta {
        StreamMeta {
            service: Bytes::from_static(b"shop/web"),
            port: 80,
            kind: StreamKind::Http,
            protocol: AppProtocol::Grpc,
            attempt: 1,
            deadline_ms: Some(2500),
        }
    }

    #[test]
    fn a_request_as_text() {
        let mut head = RequestHead::new(Method::Post, "web.shop", "/a.B/C?d=%20");
        head.version = Version::Http2;
        head.length = BodyLength::Unknown;
        head.expect_continue = true;
        head.fields.append("te", b"trailers");
        let mut out = Vec::new();
        put_request(&mut out, &meta(), &head).unwrap();
        assert_eq!(
            String::from_utf8(out.clone()).unwrap(),
            "shop/web 80 http grpc a=1 d=2500\r\nPOST /a.B/C?d=%20 h=web.shop v=2 l=* e=1\r\nte: trailers\r\n"
        );
        assert_eq!(parse_request(&out.into()).unwrap(), (meta(), head.clone()));
        (head.length, head.expect_continue) = (BodyLength::None, false);
        head.upgrade = Some(Bytes::from_static(b"websocket"));
        let mut out = Vec::new();
        put_request(&mut out, &meta(), &head).unwrap();
        assert_eq!(parse_request(&out.into()).unwrap(), (meta(), head));
    }

    #[test]
    fn an_upgrade_is_one_word() {
        for (given, expected) in
            [("websocket", Some("websocket")), ("a/1, b", Some("a/1,b")), (" ", None), ("a\r\nb", None)]
        {
            let mut head = ResponseHead::new(101);
            head.upgrade = Some(Bytes::from_static(given.as_bytes()));
            let mut out = Vec::new();
            let written = put_response(&mut out, &head).is_ok();
            let read = written.then(|| parse_response(&out.into()).unwrap().upgrade.unwrap());
            assert_eq!(read.as_deref(), expected.map(str::as_bytes), "{given:?}");
        }
    }

    #[test]
    fn a_service_is_two_names() {
        let is_name = |text: &str| leno_model::Name::check(text).is_ok();
        let long = "a".repeat(64);
        let labels = ["", "a", "a-b", "-a", "a-", "0", "A", "a.b", "a_b", "a/b", "\u{e9}", &long[1..], &long];
        for (namespace, name) in labels.iter().flat_map(|a| labels.iter().map(move |b| (*a, *b))) {
            let text = format!("{namespace}/{name}");
            assert_eq!(is_service(text.as_bytes()), is_name(namespace) && is_name(name), "{text}");
        }
        assert!(!is_service(b"") && !is_service(b"a") && !is_service(b"a/\xff"));
    }

    #[test]
    fn a_tcp_stream_has_one_line() {
        let meta =
            StreamMeta { kind: StreamKind::Tcp, protocol: AppProtocol::Tcp, attempt: 0, deadline_ms: None, ..meta() };
        let mut out = Vec::new();
        put_request(&mut out, &meta, &RequestHead::new(Method::Connect, "", "")).unwrap();
        assert_eq!(out, b"shop/web 80 tcp tcp\r\n");
        let (parsed, head) = parse_request(&out.into()).unwrap();
        assert_eq!((parsed, head.method), (meta, Method::Connect));
    }

    #[test]
    fn unknown_keys_are_skipped() {
        let text = Bytes::from_static(b"shop/web 80 http http zone=a\r\nGET / q=1 h=x\r\n");
        assert_eq!(parse_request(&text).unwrap().1.authority, "x");
        assert_eq!(parse_response(&Bytes::from_static(b"200 x=1\r\n")).unwrap().status, 200);
    }

    #[test]
    fn malformed_heads_are_refused() {
        for bad in [
            "",
            "\r\n",
            "shop/web 80 http http\r\n",
            "shop/web 80 http http\nGET / h=x\r\n",
            "web 80 http http\r\nGET /\r\n",
            "shop/we_b 80 http http\r\nGET /\r\n",
            "shop/web 65536 http http\r\nGET /\r\n",
            "shop/web -1 http http\r\nGET /\r\n",
            "shop/web 80 udp http\r\nGET /\r\n",
            "shop/web 80 http smtp\r\nGET /\r\n",
            "shop/web 80 http http a=x\r\nGET /\r\n",
            "shop/web 80 http http\r\nG@T /\r\n",
            "shop/web 80 http http\r\nGET\r\n",
            "shop/web 80 http http\r\nGET  h=x\r\n",
            "shop/web 80 http http\r\nGET / x\r\n",
            "shop/web 80 http http\r\nGET /\0 h=x\r\n",
            "shop/web 80 http http\r\nGET / l=99999999999999999999\r\n",
            "shop/web 80 http http\r\nGET /\r\nno colon\r\n",
            "shop/web 80 tcp tcp\r\nGET /\r\n",
            "shop/web 80 http http\r\nGET http://web/\r\n",
            "shop/web 80 http http\r\nGET *\r\n",
            "shop/web 80 http http\r\nGET /#a\r\n",
            "shop/web 80 http http\r\nGET web:80\r\n",
            "shop/web 80 http http\r\nCONNECT /\r\n",
            "shop/web 80 http http\r\nCONNECT web\r\n",
            "shop/web 80 http http\r\nGET / h=a@b\r\n",
            "shop/web 80 http http\r\nGET / h=web,b\r\n",
            "shop/web 80 http http\r\nGET / u=h2c\r\n",
            "shop/web 80 http http\r\nGET / u=websocket,TLS/1.0\r\n",
            "shop/web 80 http http\r\nGET / u=websocket l=3\r\n",
            "shop/web 80 http http\r\nGET / u=websocket l=*\r\n",
            "shop/web 80 http http\r\nCONNECT web:80 u=websocket\r\n",
            "shop/web 80 http http\r\nGET /\r\nte: trailers\r\nte: gzip\r\n",
            "shop/web 80 http http\r\nCONNECT web:80 h=other:80\r\n",
            "shop/web 80 http http\r\nCONNECT web:80 l=3\r\n",
            "shop/web 80 http http\r\nCONNECT web:80 l=* e=1\r\n",
        ] {
            assert!(parse_request(&Bytes::from(bad.to_owned())).is_err(), "{bad:?}");
        }
        assert!(parse_request(&Bytes::from_static(b"shop/web 80 http http\r\nGET /\xff h=web\r\n")).is_err());
        for bad in [
            "",
            "abc\r\n",
            "99\r\n",
            "1000\r\n",
            "200 l=-1\r\n",
            "200\r\nx\r\n",
            "103\r\n",
            "101\r\n",
            "200 u=websocket\r\n",
        ] {
            assert!(parse_response(&Bytes::from(bad.to_owned())).is_err(), "{bad:?}");
        }
        for (bad, is_fine) in [("103\r\n", true), ("100\r\n", true), ("101 u=websocket\r\n", false), ("200\r\n", false)]
        {
            assert_eq!(parse_interim(&Bytes::from(bad.to_owned())).is_ok(), is_fine, "{bad:?}");
        }
    }

    #[test]
    fn expectations_need_a_body_to_wait_for() {
        for (words, expected) in
            [("l=3 e=1", true), ("l=* e=1", true), ("e=1", false), ("l=0 e=1", false), ("e=1 u=websocket", false)]
        {
            let text = Bytes::from(format!("shop/web 80 http http\r\nPUT / h=web {words}\r\n"));
            assert_eq!(parse_request(&text).unwrap().1.expect_continue, expected, "{words}");
        }
    }

    #[test]
    fn every_form_of_target_is_read() {
        for good in [
            "GET / h=web",
            "OPTIONS * h=web:80",
            "OPTIONS /a",
            "CONNECT web:443 h=web:443 l=*",
            "GET /a?b=/ h=[::1]:80",
        ] {
            let text = Bytes::from(format!("shop/web 80 http http\r\n{good}\r\n"));
            assert!(parse_request(&text).is_ok(), "{good}");
        }
    }

    #[test]
    fn nothing_in_a_head_frames() {
        for name in
            ["content-length", "Transfer-Encoding", "HOST", "connection", "keep-alive", "upgrade", "proxy-connection"]
        {
            let text = |first: &str| Bytes::from(format!("{first}\r\na: 1\r\n{name}: 1\r\n"));
            let request = parse_request(&text("shop/web 80 http http\r\nPOST / h=x l=*")).unwrap_err();
            let found = [
                request,
                parse_response(&text("200 l=*")).unwrap_err(),
                parse_interim(&text("103")).unwrap_err(),
                parse_trailers(format!("a: 1\r\n{name}: 1\r\n").into()).unwrap_err(),
            ];
            assert_eq!(found, [HeadError::Framing; 4], "{name}");
            // An application's response may say what it likes: our end leaves it out.
            let mut head = ResponseHead::new(200);
            head.fields.append(name, b"1");
            let mut out = Vec::new();
            put_response(&mut out, &head).unwrap();
            assert_eq!(out, b"200\r\n", "{name}");
        }
    }

    #[test]
    fn a_head_cannot_smuggle_a_line() {
        let mut out = Vec::new();
        for target in ["/a b", "/a\r\nx", "", "/\0"] {
            let head = RequestHead::new(Method::Get, "x", target.to_owned());
            assert_eq!(put_request(&mut out, &meta(), &head), Err(HeadError::Start), "{target:?}");
        }
        let head = RequestHead::new(Method::Get, "x y", "/");
        assert_eq!(put_request(&mut out, &meta(), &head), Err(HeadError::Start));
        let mut head = RequestHead::new(Method::Get, "x", "/");
        head.fields.append("a", &[b'x'; MAX_HEAD_TEXT]);
        assert_eq!(put_request(&mut out, &meta(), &head), Err(HeadError::TooLarge));
    }

    proptest! {
        #[test]
        fn requests_round_trip(target in "/[!\"$-~]{0,40}", authority in "[a-z0-9]{0,20}", port: u16, attempt: u32, deadline in proptest::option::of(0_u64..1 << 40), length in proptest::option::of(0_u64..1 << 60), value in "[ -~]{0,30}") {
            let meta = StreamMeta { port, attempt, deadline_ms: deadline, ..meta() };
            let mut head = RequestHead::new(Method::Get, authority, target);
            head.length = length.map_or(BodyLength::None, BodyLength::Exact);
            head.fields.append("x-value", value.as_bytes());
            let mut out = Vec::new();
            put_request(&mut out, &meta, &head).unwrap();
            prop_assert_eq!(parse_request(&out.into()).unwrap(), (meta, head));
        }

        #[test]
        fn anything_parses_or_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = Bytes::from(bytes);
            let _ = parse_request(&text);
            let _ = parse_response(&text);
        }
    }
}
