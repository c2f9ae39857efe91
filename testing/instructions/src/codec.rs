//! Heads of HTTP/1 and of the hop, and a whole exchange between two ends of a hop.

use std::hint::black_box;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use leno_http::h1::parse::{HeadScanner, WholeHead};
use leno_http::h1::response::{self, Asked};
use leno_http::h1::{request, write};
use leno_http::hop::Engine;
use leno_http::hop::{StreamKind, StreamMeta, head_text};
use leno_http::mux::limits::Budget;
use leno_http::mux::{HeadPart, Side};
use leno_http::{Frame, Method, RequestHead, Version, hygiene};
use leno_model::AppProtocol;

/// What a browser or a client library sends: ten lines.
const REQUEST: &[u8] = b"GET /api/v1/items/4711?expand=price,stock HTTP/1.1\r\nHost: web.shop\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101\r\nAccept: application/json, text/plain;q=0.9, */*;q=0.8\r\nAccept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nReferer: http://web.shop/items\r\nCookie: session=6d7f3c1a9b; theme=dark\r\nX-Request-Start: t=1700000000000\r\nIf-None-Match: \"abc123\"\r\nConnection: keep-alive\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nServer: app/1.0\r\nContent-Type: application/json\r\nCache-Control: no-cache\r\nETag: \"abc123\"\r\nContent-Length: 1024\r\n\r\n";
/// What a load generator sends on a connection that it keeps.
const SMALL_REQUEST: &[u8] = b"GET /1k HTTP/1.1\r\nHost: web.shop\r\nUser-Agent: load/1\r\nAccept: */*\r\n\r\n";
/// What nginx answers with a file.
const SMALL_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.26.0\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: application/octet-stream\r\nContent-Length: 1024\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nConnection: keep-alive\r\nETag: \"65920080-400\"\r\nAccept-Ranges: bytes\r\n\r\n";
const TRACE: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const GET: Asked = Asked { is_head: false, is_connect: false };

fn parsed(bytes: &Bytes) -> RequestHead {
    request::read(whole(bytes)).unwrap().head
}

/// As a connection does it with what it has read.
fn whole(bytes: &Bytes) -> WholeHead {
    let mut scanner = HeadScanner::default();
    let range = scanner.scan(bytes).unwrap().unwrap();
    scanner.into_head(bytes.slice(..range.end))
}

/// From bytes to a head.
pub fn h1_request_parse() -> Box<dyn FnMut()> {
    let bytes = Bytes::from(REQUEST.to_vec());
    Box::new(move || drop(black_box(parsed(black_box(&bytes)))))
}

/// The same of a small head.
pub fn h1_small_request_parse() -> Box<dyn FnMut()> {
    let bytes = Bytes::from(SMALL_REQUEST.to_vec());
    Box::new(move || drop(black_box(parsed(black_box(&bytes)))))
}

/// From bytes to a response's head.
pub fn h1_small_response_parse() -> Box<dyn FnMut()> {
    let bytes = Bytes::from(SMALL_RESPONSE.to_vec());
    Box::new(move || drop(black_box(response::read(whole(black_box(&bytes)), GET).unwrap())))
}

/// From bytes to a head, what every request is given and loses, and to bytes again.
pub fn h1_request_forward() -> Box<dyn FnMut()> {
    let bytes = Bytes::from(REQUEST.to_vec());
    let mut out = Vec::with_capacity(4096);
    let address = SocketAddr::from(([127, 0, 0, 1], 80));
    Box::new(move || {
        let mut head = parsed(black_box(&bytes));
        hygiene::strip_internal(&mut head.fields);
        head.fields.set("traceparent", TRACE);
        out.clear();
        black_box(write::request(&head, address, &mut out));
        black_box(&out);
    })
}

/// The same for an answer.
pub fn h1_response_forward() -> Box<dyn FnMut()> {
    let bytes = Bytes::from(RESPONSE.to_vec());
    let mut out = Vec::with_capacity(4096);
    Box::new(move || {
        let mut head = response::read(whole(black_box(&bytes)), GET).unwrap().head;
        hygiene::strip_internal(&mut head.fields);
        out.clear();
        black_box(write::response(&head, Version::Http11, false, false, true, &mut out));
        black_box(&out);
    })
}

fn meta() -> StreamMeta {
    StreamMeta {
        service: Bytes::from_static(b"shop/web"),
        port: 80,
        kind: StreamKind::Http,
        protocol: AppProtocol::Http,
        attempt: 0,
        deadline_ms: Some(10_000),
    }
}

/// A request's head to the text of the hop.
pub fn hop_head_encode() -> Box<dyn FnMut()> {
    let head = parsed(&Bytes::from_static(REQUEST));
    let (meta, mut out) = (meta(), Vec::with_capacity(4096));
    Box::new(move || {
        out.clear();
        head_text::put_request(&mut out, &meta, black_box(&head)).unwrap();
        black_box(&out);
    })
}

/// The text of the hop to a request's head.
pub fn hop_head_decode() -> Box<dyn FnMut()> {
    decode(&parsed(&Bytes::from_static(REQUEST)))
}

/// The same of a small one, traced.
pub fn hop_small_head_decode() -> Box<dyn FnMut()> {
    let mut head = parsed(&Bytes::from_static(SMALL_REQUEST));
    head.fields.set("traceparent", TRACE);
    decode(&head)
}

fn decode(head: &RequestHead) -> Box<dyn FnMut()> {
    let mut text = Vec::new();
    head_text::put_request(&mut text, &meta(), head).unwrap();
    let text = Bytes::from(text);
    Box::new(move || drop(black_box(head_text::parse_request(black_box(&text)).unwrap())))
}

/// A request without a body and an answer of 1 KiB between two ends: every frame, both ways, without TLS and sockets.
pub fn hop_exchange() -> Box<dyn FnMut()> {
    const NOW: Duration = Duration::ZERO;
    let budget = Rc::new(Budget::default());
    let mut client = Engine::new(Side::Origination, Rc::clone(&budget));
    let mut server = Engine::new(Side::Termination, budget);
    let mut wire = Vec::with_capacity(64 * 1024);
    let meta = meta();
    let head = RequestHead::new(Method::Get, "web.shop", "/api/v1/items/4711");
    let answer = response::parse(&Bytes::from_static(RESPONSE), GET).unwrap().head;
    let body = Bytes::from(vec![b'x'; 1024]);
    let cross = move |from: &mut Engine, to: &mut Engine| {
        wire.clear();
        from.produce(&mut wire, 64 * 1024);
        to.receive(&wire, NOW).unwrap();
    };
    let mut cross = cross;
    cross(&mut client, &mut server);
    cross(&mut server, &mut client);
    Box::new(move || {
        let cx = Context::from_waker(Waker::noop());
        let ours = client.open(|out| head_text::put_request(out, &meta, &head), true).unwrap();
        cross(&mut client, &mut server);
        let accepted = server.next_accepted().unwrap();
        black_box(head_text::parse_request(&accepted.head).unwrap());
        server.release(accepted.key);
        server.send_head(accepted.key, false, |out| head_text::put_response(out, &answer)).unwrap();
        server.send_data(accepted.key, body.clone());
        server.send_end(accepted.key, None);
        cross(&mut server, &mut client);
        let Poll::Ready(Ok(HeadPart::Final(text, _))) = client.poll_head(ours, &cx) else { panic!("no head") };
        black_box(head_text::parse_response(&text).unwrap());
        let Poll::Ready(Some(Ok(Frame::Data(data)))) = client.poll_body(ours, &cx) else { panic!("no body") };
        assert!(data.len() == 1024 && client.poll_body(ours, &cx) == Poll::Ready(None));
        client.release(ours);
        // Window updates.
        cross(&mut client, &mut server);
    })
}

/// So many streams in one turn, without TLS, sockets and the text of heads: opened, answered with 1 KiB each, read and closed.
/// What the state of both ends costs for 16 streams.
pub fn hop_16_streams() -> Box<dyn FnMut()> {
    const STREAMS: usize = 16;
    let budget = Rc::new(Budget::default());
    let mut client = Engine::new(Side::Origination, Rc::clone(&budget));
    let mut server = Engine::new(Side::Termination, budget);
    let mut wire = Vec::with_capacity(64 * 1024);
    let body = Bytes::from(vec![b'x'; 1024]);
    let mut cross = move |from: &mut Engine, to: &mut Engine| {
        wire.clear();
        from.produce(&mut wire, 64 * 1024);
        to.receive(&wire, Duration::ZERO).unwrap();
    };
    cross(&mut client, &mut server);
    cross(&mut server, &mut client);
    let mut open = Vec::with_capacity(STREAMS);
    Box::new(move || {
        let cx = Context::from_waker(Waker::noop());
        let write = |text: &'static [u8]| {
            move |out: &mut Vec<u8>| {
                out.extend_from_slice(text);
                Ok(())
            }
        };
        open.extend((0..STREAMS).map(|_| client.open(write(b"shop/web 80 http http"), true).unwrap()));
        cross(&mut client, &mut server);
        while let Some(accepted) = server.next_accepted() {
            server.release(accepted.key);
            assert!(server.poll_gone(accepted.key, &cx).is_pending());
            server.send_head(accepted.key, false, write(b"200 l=1024")).unwrap();
            server.send_data(accepted.key, body.clone());
            server.send_end(accepted.key, None);
        }
        cross(&mut server, &mut client);
        for key in open.drain(..) {
            let Poll::Ready(Ok(HeadPart::Final(..))) = client.poll_head(key, &cx) else { panic!("no head") };
            let Poll::Ready(Some(Ok(Frame::Data(data)))) = client.poll_body(key, &cx) else { panic!("no body") };
            assert!(data.len() == 1024 && client.poll_body(key, &cx) == Poll::Ready(None));
            client.release(key);
        }
        cross(&mut client, &mut server);
    })
}
