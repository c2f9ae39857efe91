//! The HTTP/2 server and client against each other, against the `h2` crate and against raw frames.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use leno_http::h2::{Client, ClientSettings};
use leno_http::{
    Body, BodyLength, BodyStream, Frame, InterimSink, Method, Refusal, Request, RequestHead, Response, ResponseHead,
    ServerSettings,
};
use leno_model::Reason;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::support::{
    Alive, End, Frames, Raw, Speaks, data, echo, read, response, run, serve, serve_with, text, trailers, until,
};

fn client() -> Client {
    Client::new(ClientSettings { continue_timeout: Duration::from_millis(50), ..ClientSettings::default() })
}

fn call(body: Body) -> Request {
    let mut head = RequestHead::new(Method::Post, "app:50051", "/shop.Cart/Add");
    head.length = BodyLength::Unknown;
    head.fields.append("content-type", b"application/grpc");
    head.fields.append("te", b"trailers");
    Request::new(head, body)
}

struct Channel(tokio::sync::mpsc::Receiver<Frame>);

impl BodyStream for Channel {
    fn poll_frame(&mut self, cx: &mut std::task::Context<'_>) -> leno_http::body::PollFrame {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

fn channel() -> (tokio::sync::mpsc::Sender<Frame>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    (sender, Body::custom(Channel(receiver)))
}

#[test]
fn a_unary_call_with_trailers() {
    run(async {
        let server = serve(Speaks::Http2, |mut request: Request| async move {
            assert_eq!(request.head.fields.get("te"), Some(&b"trailers"[..]));
            assert_eq!((&request.head.authority[..], request.head.version.as_str()), (&b"app:50051"[..], "HTTP/2"));
            let (body, end) = read(&mut request.body).await.unwrap();
            assert_eq!((body.as_str(), end.is_some()), ("hello", false));
            let frames = vec![data("world"), trailers(&[("grpc-status", "0")])];
            let mut answer = response(200, BodyLength::Unknown, Frames::new(frames, End::Regular).body());
            answer.head.fields.append("Content-Type", b"application/grpc");
            Ok(answer)
        })
        .await;
        let client = client();
        for _ in 0..3 {
            let mut answer = client
                .send(server.address, call(Frames::new(vec![data("hel"), data("lo")], End::Regular).body()))
                .await
                .unwrap();
            assert_eq!(answer.head.fields.get("content-type"), Some(&b"application/grpc"[..]));
            let (body, end) = read(&mut answer.body).await.unwrap();
            assert_eq!((body.as_str(), end.unwrap().get("grpc-status")), ("world", Some(&b"0"[..])));
        }
        assert_eq!((server.accepted.get(), client.connections()), (1, 1));
    });
}

#[test]
fn both_sides_stream_in_turns() {
    run(async {
        let server = serve(Speaks::Http2, |mut request: Request| async move {
            let (sender, body) = channel();
            tokio::task::spawn_local(async move {
                while let Some(Ok(frame)) = request.body.next().await {
                    sender.send(frame).await.unwrap();
                }
                sender.send(trailers(&[("grpc-status", "0")])).await.unwrap();
            });
            Ok(response(200, BodyLength::Unknown, body))
        })
        .await;
        let (sender, body) = channel();
        let mut answer = client().send(server.address, call(body)).await.unwrap();
        for word in ["a", "b", "c"] {
            sender.send(data(word)).await.unwrap();
            assert_eq!(answer.body.next().await, Some(Ok(data(word))));
        }
        drop(sender);
        assert!(matches!(answer.body.next().await, Some(Ok(Frame::Trailers(_)))));
    });
}

#[test]
fn cancellation_reaches_the_handler_and_the_bodies() {
    run(async {
        let alive = Alive::default();
        let watch = alive.clone();
        let server = serve(Speaks::Http2, move |request: Request| {
            let watch = watch.clone();
            async move {
                let _guard = watch.guard();
                if request.head.path() == b"/hang" {
                    std::future::pending::<()>().await;
                }
                Ok(response(200, BodyLength::Unknown, Frames::new(vec![data("x")], End::Never).watched(&watch).body()))
            }
        })
        .await;
        let client = client();
        let mut request = call(Body::Empty);
        request.head.target = Bytes::from_static(b"/hang");
        tokio::select! {
            _ = client.send(server.address, request) => panic!("the handler hangs"),
            () = until("the handler runs", || alive.begun() == 1) => {}
        }
        until("the handler is dropped", || alive.begun() == 1 && alive.dropped() == 1).await;
        let upload = Alive::default();
        let body = Frames::new(vec![data("y")], End::Never).watched(&upload).body();
        let mut answer = client.send(server.address, call(body)).await.unwrap();
        assert_eq!(answer.body.next().await, Some(Ok(data("x"))));
        drop(answer);
        until("the response body is dropped", || alive.begun() == 3 && alive.dropped() == 3).await;
        until("the request body is dropped", || upload.dropped() == 1).await;
        until("both were told", || server.events.cut.borrow().len() == 2).await;
        assert_eq!(*server.events.cut.borrow(), [Reason::DownstreamReset; 2]);
        assert_eq!(client.connections(), 1, "the connection is none the worse");
    });
}

#[test]
fn refusals_speak_the_callers_protocol() {
    run(async {
        let server = serve(Speaks::Http2, |_| async { Err(Refusal::new(Reason::DeniedByPolicy, "not you")) }).await;
        let answer = client().send(server.address, call(Body::Empty)).await.unwrap();
        assert_eq!((answer.head.status, answer.head.fields.get("grpc-status")), (200, Some(&b"7"[..])));
        assert!(answer.body.is_end(), "trailers-only");
        let mut answer = client()
            .send(server.address, Request::new(RequestHead::new(Method::Get, "a", "/"), Body::Empty))
            .await
            .unwrap();
        assert_eq!((answer.head.status, answer.head.fields.get("leno-reason")), (403, Some(&b"denied_by_policy"[..])));
        assert_eq!(read(&mut answer.body).await.unwrap().0, "denied_by_policy: not you\n");
    });
}

#[test]
fn what_a_reset_says_about_the_request() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let io = listener.accept().await.unwrap().0;
            let mut connection = h2::server::handshake(io).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                respond.send_reset(match request.uri().path() {
                    "/refused" => h2::Reason::REFUSED_STREAM,
                    "/cancel" => h2::Reason::CANCEL,
                    _ => h2::Reason::INTERNAL_ERROR,
                });
            }
        });
        let client = client();
        for (path, reason, unprocessed) in [
            ("/refused", Reason::RefusedStream, true),
            ("/cancel", Reason::UpstreamReset, false),
            ("/internal", Reason::UpstreamReset, false),
        ] {
            let mut request = call(Body::Empty);
            request.head.target = Bytes::from_static(path.as_bytes());
            let error = client.send(address, request).await.unwrap_err();
            assert_eq!((error.reason, error.unprocessed), (reason, unprocessed), "{path}");
        }
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = client.send(free, call(Body::Empty)).await.unwrap_err();
        assert_eq!((error.reason, error.unprocessed), (Reason::ConnectRefused, true));
    });
}

#[test]
fn a_server_that_drains_loses_no_request() {
    run(async {
        let begun = Rc::new(Cell::new(0));
        let count = Rc::clone(&begun);
        let first = serve(Speaks::Http2, move |mut request: Request| {
            count.set(count.get() + 1);
            async move {
                let (body, _) = read(&mut request.body).await.unwrap();
                Ok(text(body))
            }
        })
        .await;
        let client = client();
        let (sender, body) = channel();
        let address = first.address;
        let under_way = {
            let client = client.clone();
            tokio::task::spawn_local(async move {
                let mut answer = client.send(address, call(body)).await.unwrap();
                read(&mut answer.body).await.unwrap().0
            })
        };
        sender.send(data("la")).await.unwrap();
        until("the request has begun", || begun.get() == 1).await;
        first.drain.drain();
        sender.send(data("st")).await.unwrap();
        drop(sender);
        assert_eq!(under_way.await.unwrap(), "last");
        until("the connection is over", || first.over.get() == 1).await;
        // The client finds that the connection is gone and makes another; this server drains that one too, after its request.
        let mut answer = client.send(address, call(Frames::new(vec![data("x")], End::Regular).body())).await;
        if let Ok(answer) = &mut answer {
            assert_eq!(read(&mut answer.body).await.unwrap().0, "x");
        } else {
            assert!(answer.unwrap_err().unprocessed, "refused before it was begun");
        }
        assert_eq!(first.accepted.get(), 2);
    });
}

#[test]
fn more_calls_than_the_server_takes_streams() {
    run(async {
        let settings = ServerSettings { max_streams: 2, ..ServerSettings::default() };
        let server = serve_with(Speaks::Http2, settings, echo).await;
        let client = client();
        client.send(server.address, call(Body::Empty)).await.unwrap();
        let calls = (0..40).map(|_| {
            let client = client.clone();
            let address = server.address;
            tokio::task::spawn_local(async move {
                let body = Frames::new(vec![data("a"), data("b")], End::Regular).body();
                let mut answer = client.send(address, call(body)).await.unwrap();
                read(&mut answer.body).await.unwrap().0
            })
        });
        for call in calls.collect::<Vec<_>>() {
            assert!(call.await.unwrap().contains("\nab\n"));
        }
        assert!((2..=4).contains(&server.accepted.get()), "{} connections", server.accepted.get());
    });
}

#[test]
fn a_server_that_takes_no_streams_is_not_waited_for() {
    run(async {
        let settings = ServerSettings { max_streams: 0, ..ServerSettings::default() };
        let server = serve_with(Speaks::Http2, settings, echo).await;
        let client =
            Client::new(ClientSettings { connect_timeout: Duration::from_millis(500), ..ClientSettings::default() });
        for _ in 0..3 {
            let error = client.send(server.address, call(Body::Empty)).await.unwrap_err();
            assert_eq!((error.reason, error.unprocessed), (Reason::RefusedStream, true));
        }
        assert!(server.accepted.get() <= 4);
        let http1 = serve(Speaks::Http1, echo).await;
        let error = client.send(http1.address, call(Body::Empty)).await.unwrap_err();
        assert_eq!((error.reason, error.unprocessed), (Reason::UpstreamProtocolError, true));
    });
}

#[test]
fn interim_responses_and_100_continue() {
    run(async {
        let server = serve(Speaks::Http2, |mut request: Request| async move {
            let mut early = ResponseHead::new(103);
            early.fields.append("link", b"<a>");
            request.interim.as_ref().unwrap().send(early);
            assert!(request.head.expect_continue);
            let (body, _) = read(&mut request.body).await.unwrap();
            Ok(text(body))
        })
        .await;
        let seen = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&seen);
        let mut request = call(Frames::new(vec![data("abc")], End::Regular).body());
        request.head.expect_continue = true;
        request.interim = Some(InterimSink::new(move |head| log.borrow_mut().push(head.status)));
        let mut answer = client().send(server.address, request).await.unwrap();
        assert_eq!(read(&mut answer.body).await.unwrap().0, "abc");
        assert_eq!(*seen.borrow(), [103, 100]);
    });
}

/// Breaks off once the server has begun to read; a request that is broken off before is never handled.
struct BreaksWhenRead {
    is_read: Rc<Cell<bool>>,
    is_begun: bool,
}

impl BodyStream for BreaksWhenRead {
    fn poll_frame(&mut self, cx: &mut std::task::Context<'_>) -> leno_http::body::PollFrame {
        if !std::mem::replace(&mut self.is_begun, true) {
            return std::task::Poll::Ready(Some(Ok(data("x"))));
        }
        if self.is_read.get() {
            let error = leno_http::BodyError::new(Reason::UpstreamReset, "broken on purpose");
            return std::task::Poll::Ready(Some(Err(error)));
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    }
}

#[test]
fn broken_bodies_reset_the_stream() {
    run(async {
        let broken = Rc::new(Cell::new(None));
        let is_read = Rc::new(Cell::new(false));
        let (log, begun) = (Rc::clone(&broken), Rc::clone(&is_read));
        let server = serve(Speaks::Http2, move |mut request: Request| {
            let (log, begun) = (Rc::clone(&log), Rc::clone(&begun));
            async move {
                match request.head.path() {
                    b"/up" => {
                        begun.set(true);
                        log.set(Some(read(&mut request.body).await.unwrap_err().reason));
                        Err(Refusal::new(Reason::DownstreamReset, ""))
                    }
                    b"/short" => {
                        Ok(response(200, BodyLength::Exact(9), Frames::new(vec![data("x")], End::Regular).body()))
                    }
                    b"/long" => {
                        Ok(response(200, BodyLength::Exact(1), Frames::new(vec![data("xyz")], End::Regular).body()))
                    }
                    _ => Ok(response(200, BodyLength::Unknown, Frames::new(vec![data("x")], End::Error).body())),
                }
            }
        })
        .await;
        let client = client();
        let with = |path: &'static str, body| {
            let mut request = call(body);
            request.head.target = Bytes::from_static(path.as_bytes());
            request
        };
        let error = client
            .send(server.address, with("/up", Body::custom(BreaksWhenRead { is_read, is_begun: false })))
            .await
            .unwrap_err();
        assert_eq!(error.detail, "broken on purpose");
        until("the server has seen it", || broken.get().is_some()).await;
        assert_eq!(broken.take(), Some(Reason::DownstreamReset));
        for path in ["/short", "/long", "/broken"] {
            // An answer that is broken off in the turn in which it comes is none.
            let reason = match client.send(server.address, with(path, Body::Empty)).await {
                Ok(mut answer) => read(&mut answer.body).await.unwrap_err().reason,
                Err(error) => error.reason,
            };
            assert_eq!(reason, Reason::UpstreamReset, "{path}");
        }
        assert_eq!(client.connections(), 1);
    });
}

#[test]
fn a_slow_reader_holds_the_body_back() {
    run(async {
        let frames = Frames::new(vec![Frame::Data(Bytes::from(vec![b'x'; 64 * 1024])); 1000], End::Regular);
        let given = Rc::clone(&frames.given);
        let body = Cell::new(Some(frames.body()));
        let server = serve(Speaks::Http2, move |request: Request| {
            let body = if request.head.path() == b"/other" { Body::Empty } else { body.take().unwrap_or_default() };
            async move { Ok(response(200, BodyLength::Unknown, body)) }
        })
        .await;
        let client = client();
        let mut answer = client.send(server.address, call(Body::Empty)).await.unwrap();
        for _ in 0..3000 {
            tokio::task::yield_now().await;
        }
        let held = given.get();
        assert!(held <= 8, "{held} frames of 64 KiB against a window of 256 KiB");
        // Beside it, others get through.
        let mut other = call(Body::Empty);
        other.head.target = Bytes::from_static(b"/other");
        assert_eq!(client.send(server.address, other).await.unwrap().head.status, 200);
        assert_eq!(read(&mut answer.body).await.unwrap().0.len(), 64 * 1024 * 1000);
    });
}

#[test]
fn a_rapid_reset_flood_ends_the_connection() {
    run(async {
        let alive = Alive::default();
        let watch = alive.clone();
        let server = serve(Speaks::Http2, move |_| {
            let guard = watch.guard();
            async move {
                std::future::pending::<()>().await;
                drop(guard);
                Ok(text(""))
            }
        })
        .await;
        let io = TcpStream::connect(server.address).await.unwrap();
        let (mut send, connection) = h2::client::handshake(io).await.unwrap();
        let connection = tokio::task::spawn_local(connection);
        for _ in 0..10_000 {
            if poll_fn(|cx| send.poll_ready(cx)).await.is_err() {
                break;
            }
            let request = http::Request::post("http://a/").body(()).unwrap();
            let Ok((_, mut stream)) = send.send_request(request, false) else { break };
            tokio::task::yield_now().await;
            stream.send_reset(h2::Reason::CANCEL);
        }
        let error = connection.await.unwrap().unwrap_err();
        // What is still on its way when the server closes turns into a TCP reset, which may overtake the GOAWAY.
        assert!(error.is_io() || error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM), "{error}");
        until("the connection is over", || server.over.get() == 1).await;
        assert!(alive.begun() < 5000, "{} handlers were begun", alive.begun());
        assert_eq!(alive.begun(), alive.dropped());
    });
}

// --- raw frames ---

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as literals without indexing or Huffman coding (RFC 7541 section 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            out.push(u8::try_from(text.len()).unwrap());
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

const HEAD: &[(&str, &str)] = &[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

/// Sends one head and returns what came back: `(kind, stream or 0, code)` of the first RST_STREAM or GOAWAY, or the HEADERS' first byte.
async fn answer_to(client: &mut Raw) -> (u8, Option<u32>) {
    loop {
        let mut header = [0; 9];
        if client.0.read_exact(&mut header).await.is_err() {
            return (0xff, None);
        }
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let mut payload = vec![0; length];
        client.0.read_exact(&mut payload).await.unwrap();
        let code = |at: usize| Some(u32::from_be_bytes(payload[at..at + 4].try_into().unwrap()));
        match header[3] {
            1 => return (1, None),
            3 => return (3, code(0)),
            7 => return (7, code(4)),
            _ => {}
        }
    }
}

#[test]
fn invalid_heads_are_stream_errors() {
    run(async {
        let calls = Rc::new(Cell::new(0));
        let count = Rc::clone(&calls);
        let server = serve(Speaks::Http2, move |_| {
            count.set(count.get() + 1);
            async { Ok(text("")) }
        })
        .await;
        const PROTOCOL_ERROR: u32 = 1;
        let bad: &[&[(&str, &str)]] = &[
            &[("connection", "close")],
            &[("transfer-encoding", "chunked")],
            &[("upgrade", "h2c")],
            &[("te", "gzip")],
            &[("Upper", "case")],
            &[("content-length", "1"), ("content-length", "2")],
            &[("content-length", "x")],
            &[("host", "b")],
            &[("host", "a"), ("host", "a")],
            &[("bad name", "x")],
            &[("name", "a\r\nb: c")],
            &[(":late", "pseudo")],
            &[(":path", "/again")],
        ];
        for extra in bad {
            let mut client = Raw::connect(server.address).await;
            let head = block(&[HEAD, extra].concat());
            client.send([PREFACE, &frame(4, 0, 0, &[]), &frame(1, 0x4, 1, &head)].concat()).await;
            match answer_to(&mut client).await {
                (3 | 7, code) => assert_eq!(code, Some(PROTOCOL_ERROR), "{extra:?}"),
                // Our own rules answer with a 400.
                (1, None) => {}
                other => panic!("{extra:?}: {other:?}"),
            }
        }
        assert_eq!(calls.get(), 0, "no handler sees an invalid head");
        assert!(!server.events.refused.borrow().is_empty());
        let mut fine = Raw::connect(server.address).await;
        fine.send([PREFACE, &frame(4, 0, 0, &[]), &frame(1, 0x5, 1, &block(HEAD))].concat()).await;
        assert_eq!(answer_to(&mut fine).await, (1, None));
        assert_eq!(calls.get(), 1);
    });
}

#[test]
fn frame_floods_end_the_connection() {
    run(async {
        let calls = Rc::new(Cell::new(0));
        let count = Rc::clone(&calls);
        let server = serve(Speaks::Http2, move |request: Request| {
            count.set(
                count.get() + usize::from(request.head.fields.contains("cookie") || request.head.fields.contains("x")),
            );
            async { Ok(text("")) }
        })
        .await;
        let open = [PREFACE, &frame(4, 0, 0, &[])].concat();
        let endless_head: Vec<u8> =
            [frame(1, 0, 1, &block(HEAD)), frame(9, 0, 1, &block(&[("x", &"y".repeat(100))])).repeat(2000)].concat();
        let cookie_bomb: Vec<u8> = {
            // One entry in the dynamic table, then references to it: 1 byte each, 4 KB decoded.
            let mut head = block(HEAD);
            head.extend_from_slice(&[0x40, 6]);
            head.extend_from_slice(b"cookie");
            head.extend_from_slice(&[0x7f, 0x81, 0x17]);
            head.extend_from_slice(&[b'c'; 3072]);
            head.extend(std::iter::repeat_n(0xbe, 10_000));
            frame(1, 0x5, 1, &head)
        };
        let empty_data: Vec<u8> = [frame(1, 0x4, 1, &block(HEAD)), frame(0, 0, 1, &[]).repeat(100_000)].concat();
        for (name, flood) in [("CONTINUATION", endless_head), ("cookies", cookie_bomb), ("empty DATA", empty_data)] {
            let mut client = Raw::connect(server.address).await;
            // Stops when the server resets the connection.
            for piece in [open.clone(), flood].concat().chunks(4096) {
                if tokio::io::AsyncWriteExt::write_all(&mut client.0, piece).await.is_err() {
                    break;
                }
            }
            let (kind, code) = answer_to(&mut client).await;
            // A 431, a reset of the stream or the end of the connection: but an answer, and no handler.
            assert!(matches!((kind, code), (1, None) | (3 | 7, Some(1..)) | (0xff, None)), "{name}: {kind} {code:?}");
        }
        let answer = client().send(server.address, call(Body::Empty)).await.unwrap();
        assert_eq!((answer.head.status, calls.get()), (200, 0), "others are served, the floods reach no handler");
    });
}

/// Cheap frames that each want an answer: they are answered or the connection ends, and others do not notice.
#[test]
fn control_frame_floods() {
    run(async {
        let server = serve(Speaks::Http2, echo).await;
        let kinds = [
            ("PING", frame(6, 0, 0, &[0; 8])),
            ("SETTINGS", frame(4, 0, 0, &[])),
            ("PRIORITY", frame(2, 0, 1, &[0, 0, 0, 3, 7])),
            ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 0, 1])),
        ];
        for (name, one) in kinds {
            let (mut reader, mut writer) = Raw::connect(server.address).await.0.into_split();
            let flood = [PREFACE, &frame(4, 0, 0, &[]), &one.repeat(50_000), &frame(7, 0, 0, &[0; 8])].concat();
            let sent = tokio::task::spawn_local(async move {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut writer, &flood).await;
                writer
            });
            let mut answers = Vec::new();
            let _ = reader.read_to_end(&mut answers).await;
            assert!(answers.len() <= 50_100 * 17, "{name}: no more answers than questions");
            drop(sent.await.unwrap());
        }
        until("the connections are over", || server.over.get() == 4).await;
        assert_eq!(client().send(server.address, call(Body::Empty)).await.unwrap().head.status, 200);
    });
}

/// BAD_INPUTS 13, for HTTP/2: the connection breaks after each byte of an exchange.
#[test]
fn breaks_at_every_point_leave_nothing_behind() {
    run(async {
        let alive = Alive::default();
        let watch = alive.clone();
        let server = serve(Speaks::Http2, move |mut request: Request| {
            let guard = watch.guard();
            let watch = watch.clone();
            async move {
                let _guard = guard;
                let _ = read(&mut request.body).await;
                Ok::<Response, Refusal>(response(
                    200,
                    BodyLength::Unknown,
                    Frames::new(vec![data("x")], End::Never).watched(&watch).body(),
                ))
            }
        })
        .await;
        let wire = [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 0x4, 1, &block(HEAD)), &frame(0, 1, 1, b"body")].concat();
        for cut in 0..=wire.len() {
            let mut client = Raw::connect(server.address).await;
            client.send(&wire[..cut]).await;
            for _ in 0..cut % 5 {
                tokio::task::yield_now().await;
            }
            client.reset();
        }
        until("all connections are over", || server.over.get() == wire.len() + 1).await;
        assert_eq!(alive.begun(), alive.dropped());
    });
}
