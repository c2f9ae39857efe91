//! The HTTP/1 server against raw clients.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use leno_http::{Body, BodyLength, Frame, Refusal, Response, ResponseHead, ServerSettings};
use leno_model::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{
    Alive, End, Frames, Raw, Speaks, data, echo, read, response, run, serve, serve_with, text, trailers, until,
};

fn ok() -> impl Fn(leno_http::Request) -> std::future::Ready<Result<Response, Refusal>> {
    |_| std::future::ready(Ok(text("fine")))
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run(async {
        let server = serve(Speaks::Http1, echo).await;
        let mut client = Raw::connect(server.address).await;
        client
            .send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await;
        let all = client.read_all().await;
        let order: Vec<_> = ["GET /1 a", "POST /2 a\nabc", "GET /3 a"].iter().map(|part| all.find(part)).collect();
        assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{all}");
        assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 3);
        assert_eq!(all.matches("connection: close").count(), 1);
    });
}

#[test]
fn ten_thousand_pipelined_requests_wait_in_the_socket() {
    run(async {
        let server = serve(Speaks::Http1, ok()).await;
        let (mut reader, mut writer) = Raw::connect(server.address).await.0.into_split();
        tokio::task::spawn_local(async move {
            for _ in 0..10_000 {
                writer.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            }
            writer.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        });
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.unwrap();
        assert_eq!(String::from_utf8(all).unwrap().matches("fine").count(), 10_001);
    });
}

#[test]
fn malformed_requests_are_refused_and_the_connection_closed() {
    run(async {
        let server = serve(Speaks::Http1, ok()).await;
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(70_000));
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(101));
        let cases: &[(&str, u16)] = &[
            ("GET / HTTP/1.1\nHost: a\n\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
                400,
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked \r\n\r\n0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
            ("\u{16}\u{3}\u{1}\r\n\r\n", 400),
            ("PUT / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417),
            (&long, 431),
            (&many, 431),
        ];
        for (bytes, status) in cases {
            let mut client = Raw::connect(server.address).await;
            client.send(bytes).await;
            let all = client.read_all().await;
            assert!(all.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes:.80?}: {all}");
            assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "one answer, nothing smuggled: {all}");
            assert!(all.contains("leno-reason: ") && all.contains("connection: close\r\n"), "{all}");
        }
        assert_eq!(server.events.refused.borrow().len(), cases.len());
        assert_eq!(server.events.refused.borrow()[0], Reason::MalformedRequest);
        assert_eq!(server.events.refused.borrow().last(), Some(&Reason::HeadTooLarge));
    });
}

#[test]
fn a_slow_head_is_told_and_silence_is_not() {
    run(async {
        let settings = ServerSettings {
            head_timeout: Duration::from_millis(250),
            idle_timeout: Duration::from_millis(500),
            ..ServerSettings::default()
        };
        let server = serve_with(Speaks::Http1, settings, ok()).await;
        let mut slow = Raw::connect(server.address).await;
        slow.send("GET / HT").await;
        assert!(slow.read_all().await.starts_with("HTTP/1.1 408 "));
        assert_eq!(*server.events.refused.borrow(), [Reason::HeadTimeout]);
        let mut silent = Raw::connect(server.address).await;
        assert_eq!(silent.read_all().await, "");
        let mut idle = Raw::connect(server.address).await;
        idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let all = idle.read_all().await;
        assert!(all.ends_with("\r\n\r\nfine"), "{all}");
        assert_eq!(server.events.refused.borrow().len(), 1);
    });
}

#[test]
fn bodies_by_method_status_and_version() {
    run(async {
        let server = serve(Speaks::Http1, |request: leno_http::Request| async move {
            let stream = || Frames::new(vec![data("ab"), data("cd")], End::Regular).body();
            Ok(match &request.head.target[..] {
                b"/known" => response(200, BodyLength::Exact(4), stream()),
                b"/unknown" => response(200, BodyLength::Unknown, stream()),
                b"/trailers" => response(
                    200,
                    BodyLength::Unknown,
                    Frames::new(vec![data("x"), trailers(&[("sum", "1")])], End::Regular).body(),
                ),
                b"/204" => response(204, BodyLength::None, Body::Empty),
                b"/304" => response(304, BodyLength::Exact(9), Body::Empty),
                _ => response(200, BodyLength::None, Body::Empty),
            })
        })
        .await;
        for (request, has, lacks) in [
            ("GET /known HTTP/1.1", "content-length: 4\r\n\r\nabcd", "chunked"),
            ("HEAD /known HTTP/1.1", "content-length: 4\r\n\r\n", "abcd"),
            (
                "GET /unknown HTTP/1.1",
                "transfer-encoding: chunked\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n",
                "content-length",
            ),
            ("HEAD /unknown HTTP/1.1", "transfer-encoding: chunked\r\n\r\n", "ab"),
            ("GET /unknown HTTP/1.0", "connection: close\r\n\r\nabcd", "chunked"),
            ("GET /trailers HTTP/1.1", "1\r\nx\r\n0\r\nsum: 1\r\n\r\n", "content-length"),
            ("GET /204 HTTP/1.1", "HTTP/1.1 204 No Content\r\n", "content-length"),
            ("GET /304 HTTP/1.1", "content-length: 9\r\n\r\n", "chunked"),
            ("GET / HTTP/1.1", "content-length: 0\r\n\r\n", "chunked"),
        ] {
            let mut client = Raw::connect(server.address).await;
            client
                .send(format!("{request}\r\nHost: a\r\n\r\nGET /204 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
                .await;
            let all = client.read_all().await;
            // What an HTTP/1.0 client sends behind its request is not read.
            let expected = if request.ends_with("1.0") { 1 } else { 2 };
            assert_eq!(all.matches("HTTP/1.1 ").count(), expected, "{request}: {all}");
            let first = all.split("HTTP/1.1 204 No Content\r\nconnection").next().unwrap();
            assert!(first.contains(has) && !first.contains(lacks), "{request}: {first}");
        }
        let mut old = Raw::connect(server.address).await;
        for _ in 0..2 {
            old.send("GET /known HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
            assert!(old.read_until("abcd").await.contains("connection: keep-alive"));
        }
    });
}

#[test]
fn chunked_requests_with_trailers() {
    run(async {
        let server = serve(Speaks::Http1, echo).await;
        let wire = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;e=1\r\ndefg\r\n0\r\nSum: 7\r\nContent-Length: 1\r\n\r\n";
        for step in [1, 2, 7, wire.len()] {
            let mut client = Raw::connect(server.address).await;
            for piece in wire.chunks(step) {
                client.send(piece).await;
                tokio::task::yield_now().await;
            }
            assert!(client.read_until("Sum: 7\n").await.contains("POST /x a\nabcdefg\n"));
        }
        let mut bad = Raw::connect(server.address).await;
        bad.send("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n").await;
        let all = bad.read_all().await;
        assert!(all.starts_with("HTTP/1.1 400 ") && all.contains("malformed_request"), "{all}");
    });
}

#[test]
fn continue_is_said_when_the_body_is_wanted() {
    run(async {
        let server = serve(Speaks::Http1, |request: leno_http::Request| async move {
            match &request.head.target[..] {
                b"/no" => Ok(response(403, BodyLength::None, Body::Empty)),
                _ => echo(request).await,
            }
        })
        .await;
        let mut client = Raw::connect(server.address).await;
        client.send("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").await;
        assert_eq!(client.read_until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.send("abc").await;
        assert!(client.read_until("abc\n").await.starts_with("HTTP/1.1 200 "));
        client.send("PUT /no HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").await;
        let refused = client.read_all().await;
        assert!(refused.starts_with("HTTP/1.1 403 "), "no 100 for a body nobody wants: {refused}");
        assert!(refused.contains("connection: close\r\n"), "whether the body comes all the same is in doubt");
        // A body that is there already needs no permission.
        let mut eager = Raw::connect(server.address).await;
        eager.send("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc").await;
        assert!(eager.read_until("abc\n").await.starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn interim_responses_come_first() {
    run(async {
        let server = serve(Speaks::Http1, |request: leno_http::Request| async move {
            let interim = request.interim.clone();
            for link in ["<a>", "<b>"] {
                let mut head = ResponseHead::new(103);
                head.fields.append("link", link.as_bytes());
                if let Some(interim) = &interim {
                    interim.send(head);
                }
            }
            Ok(text("done"))
        })
        .await;
        let mut client = Raw::connect(server.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let all = client.read_until("done").await;
        assert!(
            all.starts_with(
                "HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: <b>\r\n\r\nHTTP/1.1 200"
            ),
            "{all}"
        );
        let mut old = Raw::connect(server.address).await;
        old.send("GET / HTTP/1.0\r\n\r\n").await;
        assert!(old.read_all().await.starts_with("HTTP/1.1 200"), "HTTP/1.0 knows no 1xx");
    });
}

#[test]
fn an_early_answer_arrives_whole_while_the_client_still_sends() {
    run(async {
        let server = serve(Speaks::Http1, |_| async { Ok(text("enough")) }).await;
        // A small rest is read away and the connection kept.
        let mut client = Raw::connect(server.address).await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n").await;
        client.read_until("enough").await;
        client.send("x".repeat(1000)).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.read_until("enough").await;
        // A large one is not: the answer arrives, then the connection ends.
        let (mut reader, mut writer) = Raw::connect(server.address).await.0.into_split();
        writer.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n").await.unwrap();
        tokio::task::spawn_local(async move { while writer.write_all(&[b'x'; 4096]).await.is_ok() {} });
        let mut seen = vec![0; 4096];
        let mut length = 0;
        while !seen[..length].ends_with(b"enough") {
            length += reader.read(&mut seen[length..]).await.unwrap();
        }
        until("the connection is over", || server.over.get() >= 1).await;
    });
}

#[test]
fn upgrades_become_tunnels_with_half_close() {
    run(async {
        let server = serve(Speaks::Http1, |mut request: leno_http::Request| async move {
            assert_eq!(request.head.upgrade.as_deref(), Some(&b"websocket"[..]));
            let mut head = ResponseHead::new(101);
            head.upgrade = request.head.upgrade.clone();
            head.length = BodyLength::Unknown;
            head.fields.append("sec-websocket-accept", b"k");
            // Echoes, and says goodbye after the client's end.
            let (sender, receiver) = tokio::sync::mpsc::channel(1);
            tokio::task::spawn_local(async move {
                while let Some(Ok(frame)) = request.body.next().await {
                    sender.send(frame).await.unwrap();
                }
                sender.send(data("bye")).await.unwrap();
            });
            Ok(Response::new(head, Body::custom(Channel(receiver))))
        })
        .await;
        let mut client = Raw::connect(server.address).await;
        client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n").await;
        let head = client.read_until("\r\n\r\n").await;
        assert!(
            head.starts_with("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"),
            "{head}"
        );
        assert!(
            head.contains("sec-websocket-accept: k\r\n")
                && !head.contains("content-length")
                && !head.contains("chunked")
        );
        client.send("ping").await;
        client.read_until("ping").await;
        client.0.shutdown().await.unwrap();
        assert_eq!(client.read_all().await, "bye");
        until("the tunnel is over", || server.over.get() == 1).await;
        assert!(server.events.cut.borrow().is_empty());
    });
}

struct Channel(tokio::sync::mpsc::Receiver<Frame>);

impl leno_http::BodyStream for Channel {
    fn poll_frame(&mut self, cx: &mut std::task::Context<'_>) -> leno_http::body::PollFrame {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

#[test]
fn bytes_before_a_switch_are_never_taken_for_requests() {
    run(async {
        let calls = Rc::new(Cell::new(0));
        let count = Rc::clone(&calls);
        let server = serve(Speaks::Http1, move |request: leno_http::Request| {
            count.set(count.get() + 1);
            async move {
                if request.head.target == *b"/wait".as_slice() {
                    std::future::pending::<()>().await;
                }
                Ok(text("no switch"))
            }
        })
        .await;
        let upgrade =
            |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        let connect = "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_owned();
        for head in [upgrade("/"), connect] {
            // Sent together: refused before the handler sees it.
            let mut client = Raw::connect(server.address).await;
            client.send(format!("{head}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            let all = client.read_all().await;
            assert!(all.starts_with("HTTP/1.1 400 ") && all.matches("HTTP/1.1").count() == 1, "{all}");
        }
        assert_eq!(calls.get(), 0);
        // Sent while the answer is awaited: cut.
        let mut client = Raw::connect(server.address).await;
        client.send(upgrade("/wait")).await;
        until("the handler is called", || calls.get() == 1).await;
        client.send("early").await;
        assert!(client.read_all().await.starts_with("HTTP/1.1 400 "));
        // Answered by 200: the answer, and the end.
        let mut client = Raw::connect(server.address).await;
        client.send(upgrade("/")).await;
        assert!(client.read_all().await.ends_with("no switch"));
    });
}

#[test]
fn a_client_that_goes_away_is_noticed_once() {
    run(async {
        let alive = Alive::default();
        let watch = alive.clone();
        let settings = ServerSettings { half_close_grace: Duration::from_millis(20), ..ServerSettings::default() };
        let server = serve_with(Speaks::Http1, settings, move |_| {
            let guard = watch.guard();
            async move {
                std::future::pending::<()>().await;
                drop(guard);
                Ok(text(""))
            }
        })
        .await;
        for (turn, is_reset) in [(1, true), (2, false)] {
            let mut client = Raw::connect(server.address).await;
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
            until("the handler runs", || alive.begun() == turn).await;
            if is_reset {
                client.reset()
            } else {
                drop(client)
            }
            until("the handler is dropped", || alive.dropped() == turn).await;
            until("the connection is over", || server.over.get() == turn).await;
            // The body of this handler was never read, so only a reset or the silence after FIN can tell.
            assert_eq!(*server.events.cut.borrow(), vec![Reason::DownstreamReset; turn]);
        }
    });
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    run(async {
        let server = serve(Speaks::Http1, |mut request: leno_http::Request| async move {
            read(&mut request.body).await.unwrap();
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            Ok(response(200, BodyLength::Unknown, Frames::new(vec![data("late"), data("r")], End::Regular).body()))
        })
        .await;
        let mut client = Raw::connect(server.address).await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
        client.0.shutdown().await.unwrap();
        assert!(client.read_all().await.ends_with("4\r\nlate\r\n1\r\nr\r\n0\r\n\r\n"));
        assert!(server.events.cut.borrow().is_empty());
    });
}

#[test]
fn a_broken_answer_is_never_taken_for_a_whole_one() {
    run(async {
        let server = serve(Speaks::Http1, |request: leno_http::Request| async move {
            let frames = |end| Frames::new(vec![data("some")], end).body();
            Ok(match &request.head.target[..] {
                b"/at-once" => response(200, BodyLength::Unknown, Frames::new(vec![], End::Error).body()),
                b"/chunked" => response(200, BodyLength::Unknown, frames(End::Error)),
                b"/short" => response(200, BodyLength::Exact(5), frames(End::Regular)),
                _ => response(200, BodyLength::Exact(3), frames(End::Regular)),
            })
        })
        .await;
        for path in ["/chunked", "/short", "/long", "/at-once"] {
            let mut client = Raw::connect(server.address).await;
            client.send(format!("GET {path} HTTP/1.0\r\nHost: a\r\n\r\n")).await;
            assert!(client.is_reset().await, "{path}");
        }
    });
}

#[test]
fn a_drain_ends_idle_connections_and_lets_requests_finish() {
    run(async {
        let server = serve(Speaks::Http1, |mut request: leno_http::Request| async move {
            read(&mut request.body).await.unwrap();
            Ok(text("last"))
        })
        .await;
        let mut idle = Raw::connect(server.address).await;
        idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        idle.read_until("last").await;
        let mut busy = Raw::connect(server.address).await;
        busy.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na").await;
        until("both are accepted", || server.accepted.get() == 2).await;
        tokio::task::yield_now().await;
        server.drain.drain();
        assert_eq!(idle.read_all().await, "");
        busy.send("b").await;
        let all = busy.read_all().await;
        assert!(all.contains("connection: close\r\n") && all.ends_with("last"), "{all}");
    });
}

/// BAD_INPUTS 13: the client resets after each byte of its request, and at several points of the answer.
#[test]
fn resets_at_every_point_leave_nothing_behind() {
    run(async {
        let alive = Alive::default();
        let watch = alive.clone();
        let server = serve(Speaks::Http1, move |mut request: leno_http::Request| {
            let guard = watch.guard();
            let watch = watch.clone();
            async move {
                let _guard = guard;
                if let Some(interim) = &request.interim {
                    interim.send(ResponseHead::new(102));
                }
                tokio::task::yield_now().await;
                let _ = read(&mut request.body).await;
                let frames = vec![Frame::Data(Bytes::from(vec![b'x'; 20_000])); 20];
                Ok(response(200, BodyLength::Unknown, Frames::new(frames, End::Regular).watched(&watch).body()))
            }
        })
        .await;
        let wire = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let mut connections = 0;
        for cut in 0..=wire.len() {
            let mut client = Raw::connect(server.address).await;
            client.send(&wire[..cut]).await;
            for _ in 0..cut % 4 {
                tokio::task::yield_now().await;
            }
            client.reset();
            connections += 1;
        }
        for read in [1, 30, 100, 5000, 70_000] {
            let mut client = Raw::connect(server.address).await;
            client.send(wire).await;
            let mut seen = vec![0; read];
            client.0.read_exact(&mut seen).await.unwrap();
            client.reset();
            connections += 1;
        }
        until("all connections are over", || server.over.get() == connections).await;
        assert_eq!(alive.begun(), alive.dropped());
        let mut after = Raw::connect(server.address).await;
        after.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert!(after.read_all().await.contains("HTTP/1.1 200 OK"));
    });
}

#[test]
fn a_slow_reader_holds_the_body_back() {
    run(async {
        let frames = Frames::new(vec![Frame::Data(Bytes::from(vec![b'x'; 64 * 1024])); 1000], End::Regular);
        let given = Rc::clone(&frames.given);
        let body = Cell::new(Some(frames.body()));
        let server = serve(Speaks::Http1, move |_| {
            let body = body.take().unwrap_or_default();
            async move { Ok(response(200, BodyLength::Unknown, body)) }
        })
        .await;
        let mut client = Raw::connect(server.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        // As many turns as would send it all, were it not for the socket's buffers.
        for _ in 0..5000 {
            tokio::task::yield_now().await;
        }
        let held = given.get();
        assert!(held < 500, "{held} frames of 64 KiB went into the socket");
        let mut all = vec![0; 64 * 1024 * 1000];
        client.0.read_exact(&mut all).await.unwrap();
        assert!(given.get() > held);
    });
}
