//! The HTTP/1 codec: a connection's bytes, cut in two ways, give the same messages; what is accepted is understood the same
//! by whoever reads what we write.
//!
//! Input: one byte of options, one that says how many bytes of a cutting pattern follow, the pattern, the connection.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use leno_http::h1::chunked::{Decoder, Event};
use leno_http::h1::parse::{HeadScanner, WholeHead};
use leno_http::h1::response::{Asked, ResponseBody};
use leno_http::h1::{request, response, write};
use leno_http::{BodyLength, Method, RequestHead, ResponseHead, Version};

/// What a connection gave, until it ended or broke a rule.
#[derive(Debug, PartialEq)]
pub enum Seen {
    /// A request's head, and whether the connection stays.
    Request(Box<RequestHead>, bool),
    /// A response's head, what follows it, and whether the connection stays.
    Response(Box<ResponseHead>, ResponseBody, bool),
    /// Bytes of a body, as far as they came.
    Body(Vec<u8>),
    /// The end of a chunked body, with its lines.
    Trailers(Vec<u8>),
    /// The rest is not HTTP.
    Raw,
    /// A rule was broken.
    Refused,
}

/// Reads a connection that comes in pieces: requests if `options` is even, else responses.
pub fn read<'a>(options: u8, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Seen> {
    let mut reader = Reader::new(options);
    pieces.for_each(|piece| reader.feed(piece));
    reader.seen
}

/// Reads one side of a connection as the server and the client do, without their sockets.
struct Reader {
    is_request: bool,
    asked: Asked,
    pending: BytesMut,
    scanner: HeadScanner,
    body: Body,
    seen: Vec<Seen>,
    is_over: bool,
}

enum Body {
    None,
    Length(u64),
    Chunked(Box<Decoder>),
}

impl Reader {
    fn new(options: u8) -> Self {
        Self {
            is_request: options & 1 == 0,
            asked: Asked { is_head: options & 2 != 0, is_connect: options & 4 != 0 },
            pending: BytesMut::new(),
            scanner: HeadScanner::default(),
            body: Body::None,
            seen: Vec::new(),
            is_over: false,
        }
    }

    fn feed(&mut self, piece: &[u8]) {
        self.pending.extend_from_slice(piece);
        while !self.is_over && self.step() {}
    }

    /// Takes one thing from what is pending; `false` if that needs more bytes.
    fn step(&mut self) -> bool {
        match &mut self.body {
            Body::None => self.head(),
            Body::Length(left) => {
                if self.pending.is_empty() {
                    return false;
                }
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(self.pending.len());
                let piece = self.pending.split_to(take);
                *left -= take as u64;
                if *left == 0 {
                    self.body = Body::None;
                }
                self.data(&piece);
                true
            }
            Body::Chunked(decoder) => {
                let mut input = self.pending.split().freeze();
                let event = decoder.next(&mut input);
                self.pending = BytesMut::from(&input[..]);
                match event {
                    Ok(None) => false,
                    Ok(Some(Event::Data(data))) => {
                        self.data(&data);
                        true
                    }
                    Ok(Some(Event::End(trailers))) => {
                        for (name, _) in trailers.iter() {
                            assert!(name.iter().all(|b| b.is_ascii_graphic()), "a name is a token");
                        }
                        let mut lines = Vec::new();
                        trailers.write_lines(&mut lines);
                        self.seen.push(Seen::Trailers(lines));
                        self.body = Body::None;
                        true
                    }
                    Err(_) => self.refuse(),
                }
            }
        }
    }

    fn refuse(&mut self) -> bool {
        self.seen.push(Seen::Refused);
        self.is_over = true;
        false
    }

    /// Bodies are compared as a whole: where pieces end is nobody's promise.
    fn data(&mut self, piece: &[u8]) {
        match self.seen.last_mut() {
            Some(Seen::Body(body)) => body.extend_from_slice(piece),
            _ => self.seen.push(Seen::Body(piece.to_vec())),
        }
    }

    fn head(&mut self) -> bool {
        let range = match self.scanner.scan(&self.pending) {
            Ok(None) => return false,
            Ok(Some(range)) => range,
            Err(_) => return self.refuse(),
        };
        let block = self.pending.split_to(range.end).freeze();
        let head = std::mem::take(&mut self.scanner).into_head(block);
        if self.is_request { self.request(head) } else { self.response(head) }
    }

    fn request(&mut self, head: WholeHead) -> bool {
        let Ok(parsed) = request::read(head) else { return self.refuse() };
        same_when_forwarded(&parsed.head);
        self.body = match parsed.head.length {
            BodyLength::None => Body::None,
            BodyLength::Exact(0) => Body::None,
            BodyLength::Exact(length) => Body::Length(length),
            BodyLength::Unknown => Body::Chunked(Box::default()),
        };
        assert_eq!(parsed.chunked, parsed.head.length == BodyLength::Unknown);
        let is_raw = parsed.head.method == Method::Connect || parsed.head.upgrade.is_some();
        self.seen.push(Seen::Request(Box::new(parsed.head), parsed.keep_alive));
        self.goes_on(is_raw || !parsed.keep_alive && matches!(self.body, Body::None))
    }

    fn response(&mut self, head: WholeHead) -> bool {
        let Ok(parsed) = response::read(head, self.asked) else { return self.refuse() };
        same_when_answered(&parsed.head, self.asked);
        self.body = match parsed.body {
            ResponseBody::Length(length) => Body::Length(length),
            ResponseBody::Chunked => Body::Chunked(Box::default()),
            _ => Body::None,
        };
        let is_raw = matches!(parsed.body, ResponseBody::Raw | ResponseBody::UntilClose);
        self.seen.push(Seen::Response(Box::new(parsed.head), parsed.body, parsed.keep_alive));
        self.goes_on(is_raw)
    }

    fn goes_on(&mut self, is_raw: bool) -> bool {
        if is_raw {
            self.seen.push(Seen::Raw);
            self.is_over = true;
        }
        !is_raw
    }
}

fn address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 80))
}

/// The application must see the request that the policy saw: what we write for it, read again, is the same request.
pub(crate) fn same_when_forwarded(head: &RequestHead) {
    let mut wire = Vec::new();
    write::request(head, address(), &mut wire);
    let wire = Bytes::from(wire);
    let range = match HeadScanner::default().scan(&wire) {
        Ok(range) => range.expect("a whole head"),
        // Our own lines may push a head that just fits over a limit; the far end refuses it then.
        Err(error) => return assert!(matches!(error, leno_http::h1::parse::ParseError::TooLarge(_)), "{error}"),
    };
    assert_eq!(range, 0..wire.len(), "one head, and nothing behind it");
    let read = match request::parse(&wire) {
        Ok(read) => read.head,
        Err(error) => panic!("written but not read: {error}: {:?}", String::from_utf8_lossy(&wire)),
    };
    let mut expected = head.clone();
    expected.fields.remove_if(|name, _| leno_http::hygiene::is_owned_by_writers(name));
    expected.version = Version::Http11;
    if head.method == Method::Connect {
        expected.length = BodyLength::None;
        // Clients differ in whether Host repeats the port; the target says all.
        expected.authority = expected.target.clone();
    }
    if expected.authority.is_empty() {
        expected.authority = read.authority.clone();
    }
    assert_eq!(read, expected, "{:?}", String::from_utf8_lossy(&wire));
}

/// The same for what the application answered.
fn same_when_answered(head: &ResponseHead, asked: Asked) {
    if head.status == 101 || asked.is_connect {
        return;
    }
    let mut wire = Vec::new();
    if head.is_interim() {
        write::interim(head, &mut wire);
    } else {
        write::response(head, Version::Http11, asked.is_head, false, true, &mut wire);
    }
    let wire = Bytes::from(wire);
    let Ok(range) = HeadScanner::default().scan(&wire) else { return };
    assert_eq!(range, Some(0..wire.len()), "one head, and nothing behind it");
    let read = match response::parse(&wire, asked) {
        Ok(read) => read.head,
        Err(error) => panic!("written but not read: {error}: {:?}", String::from_utf8_lossy(&wire)),
    };
    // What a response has no business to say is left out.
    let mut fields = head.fields.clone();
    fields.remove_if(|name, _| leno_http::hygiene::is_owned_by_writers(name));
    assert_eq!((read.status, &read.fields), (head.status, &fields), "{:?}", String::from_utf8_lossy(&wire));
}

/// See the module.
pub fn run(data: &[u8]) {
    let [options, count, rest @ ..] = data else { return };
    let (pattern, bytes) = rest.split_at(usize::from(*count).min(rest.len()).min(8));
    let (whole, pieces) = (read(*options, std::iter::once(bytes)), read(*options, crate::cut(bytes, pattern)));
    assert_eq!(whole, pieces, "the cut decides what is seen");
}
