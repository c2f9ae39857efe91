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

use bytes::Bytes;
use leno_model::{AppProtocol, Name};

use super::frame::MAX_HEAD_TEXT;
use crate::authority::Authority;
use crate::h1::write::write_decimal;
use crate::head::{BodyLength, Fields, HeadError, Method, RequestHead, ResponseHead, Version};
use crate::hygiene;

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

fn is_service(text: &str) -> bool {
    text.split_once('/').is_some_and(|(namespace, name)| Name::check(namespace).is_ok() && Name::check(name).is_ok())
}

/// Whether `text` can stand between spaces on a line.
fn is_word(text: &[u8]) -> bool {
    text.iter().all(|&b| b > b' ' && b != 0x7f)
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
    hygiene::write_lines(&head.fields, hygiene::is_owned_by_writers, out);
    bounded(out, from)
}

/// Appends the text of a response's head, interim or final.
pub fn put_response(out: &mut Vec<u8>, head: &ResponseHead) -> Result<(), HeadError> {
    let from = out.len();
    write_decimal(out, u64::from(head.status));
    put_length(out, head.length);
    put_upgrade(out, head.upgrade.as_ref())?;
    out.extend_from_slice(b"\r\n");
    hygiene::write_lines(&head.fields, hygiene::is_owned_by_writers, out);
    bounded(out, from)
}

/// The text up to the next CRLF, and what follows it.
fn split_line(text: &Bytes) -> Result<(Bytes, Bytes), HeadError> {
    let end = memchr::memchr(b'\n', text).ok_or(HeadError::Start)?;
    let line = text[..end].strip_suffix(b"\r").ok_or(HeadError::Start)?;
    if !line.iter().all(|&b| b >= b' ' && b != 0x7f) {
        return Err(HeadError::Start);
    }
    Ok((text.slice(..line.len()), text.slice(end + 1..)))
}

fn number(text: &[u8]) -> Result<u64, HeadError> {
    let digits = !text.is_empty() && text.len() <= 19 && text.iter().all(u8::is_ascii_digit);
    if !digits {
        return Err(HeadError::Start);
    }
    Ok(text.iter().fold(0, |n, b| n * 10 + u64::from(b - b'0')))
}

/// Splits `key=value`; the key is one letter here, but future keys may be longer.
fn pair(word: &[u8]) -> Result<(&[u8], &[u8]), HeadError> {
    let at = memchr::memchr(b'=', word).ok_or(HeadError::Start)?;
    Ok((&word[..at], &word[at + 1..]))
}

fn length(value: &[u8]) -> Result<BodyLength, HeadError> {
    if value == b"*" { Ok(BodyLength::Unknown) } else { number(value).map(BodyLength::Exact) }
}

fn parse_meta(line: &Bytes) -> Result<StreamMeta, HeadError> {
    let mut words = line.split(|&b| b == b' ');
    let mut next = || words.next().ok_or(HeadError::Start);
    let service = next()?;
    if !std::str::from_utf8(service).is_ok_and(is_service) {
        return Err(HeadError::Start);
    }
    let mut meta = StreamMeta {
        service: line.slice(..service.len()),
        port: u16::try_from(number(next()?)?).map_err(|_| HeadError::Start)?,
        kind: match next()? {
            b"http" => StreamKind::Http,
            b"tcp" => StreamKind::Tcp,
            _ => return Err(HeadError::Start),
        },
        protocol: {
            let word = next()?;
            AppProtocol::ALL.into_iter().find(|p| p.as_str().as_bytes() == word).ok_or(HeadError::Start)?
        },
        attempt: 0,
        deadline_ms: None,
    };
    for word in words {
        match pair(word)? {
            (b"a", value) => meta.attempt = u32::try_from(number(value)?).map_err(|_| HeadError::Start)?,
            (b"d", value) => meta.deadline_ms = Some(number(value)?),
            _ => {}
        }
    }
    Ok(meta)
}

/// Reads a request's head. A TCP stream is given the head of a CONNECT without target.
pub fn parse_request(text: &Bytes) -> Result<(StreamMeta, RequestHead), HeadError> {
    let (line, rest) = split_line(text)?;
    let meta = parse_meta(&line)?;
    if meta.kind == StreamKind::Tcp {
        let mut head = RequestHead::new(Method::Connect, Bytes::new(), Bytes::new());
        head.length = BodyLength::Unknown;
        return if rest.is_empty() { Ok((meta, head)) } else { Err(HeadError::Start) };
    }
    let (line, rest) = split_line(&rest)?;
    let mut words = line.split(|&b| b == b' ');
    let method = words.next().and_then(Method::parse).ok_or(HeadError::Start)?;
    let target = words.next().filter(|t| !t.is_empty()).ok_or(HeadError::Start)?;
    let mut head = RequestHead::new(method, Bytes::new(), line.slice_ref(target));
    for word in words {
        match pair(word)? {
            (b"h", value) => head.authority = line.slice_ref(value),
            (b"v", b"10") => head.version = Version::Http10,
            (b"v", b"2") => head.version = Version::Http2,
            (b"l", value) => head.length = length(value)?,
            (b"e", b"1") => head.expect_continue = true,
            (b"u", value) if !value.is_empty() => head.upgrade = Some(line.slice_ref(value)),
            _ => {}
        }
    }
    check_request(&head)?;
    head.fields = parse_fields(rest, hygiene::is_owned_by_writers)?;
    // Codings are between neighbours; only the word about trailers crosses the mesh.
    if head.fields.get_all("te").any(|value| !value.eq_ignore_ascii_case(b"trailers")) {
        return Err(HeadError::Framing);
    }
    Ok((meta, head))
}

/// What the readers of HTTP/1 and HTTP/2 refuse, a peer that reads nothing may not slip past them: our writers rely on it.
fn check_request(head: &RequestHead) -> Result<(), HeadError> {
    let is_authority = |text: &[u8]| Authority::parse(text).is_ok();
    let is_target = match head.method {
        Method::Connect => Authority::parse(&head.target).is_ok_and(|target| {
            let is_same = |port| Authority::parse(&head.authority).is_ok_and(|host| target.is_same(&host, port));
            target.port.is_some_and(|port| head.authority.is_empty() || is_same(port))
        }),
        Method::Options if head.target == "*" => true,
        // UTF-8, because the readers of HTTP/1 take nothing else.
        _ => head.target.starts_with(b"/") && !head.target.contains(&b'#') && str::from_utf8(&head.target).is_ok(),
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

/// Field lines of a peer, none of which `forbidden` points at.
fn parse_fields(lines: Bytes, forbidden: fn(&[u8]) -> bool) -> Result<Fields, HeadError> {
    let fields = Fields::parse(lines)?;
    if fields.iter().any(|(name, _)| forbidden(name)) { Err(HeadError::Framing) } else { Ok(fields) }
}

/// Reads a peer's trailers.
pub fn parse_trailers(lines: Bytes) -> Result<Fields, HeadError> {
    parse_fields(lines, hygiene::forbidden_in_trailers)
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
    let (line, rest) = split_line(text)?;
    let mut words = line.split(|&b| b == b' ');
    let status = words.next().map(number).ok_or(HeadError::Start)??;
    let status = u16::try_from(status).ok().filter(|s| (100..1000).contains(s)).ok_or(HeadError::Start)?;
    let mut head = ResponseHead::new(status);
    for word in words {
        match pair(word)? {
            (b"l", value) => head.length = length(value)?,
            (b"u", value) if !value.is_empty() => head.upgrade = Some(line.slice_ref(value)),
            _ => {}
        }
    }
    if (head.status == 101) != head.upgrade.is_some() {
        return Err(HeadError::Start);
    }
    head.fields = parse_fields(rest, hygiene::is_owned_by_writers)?;
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
        (head.length, head.upgrade) = (BodyLength::None, Some(Bytes::from_static(b"websocket")));
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
