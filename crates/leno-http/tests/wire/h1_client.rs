//! The HTTP/1 client against scripted servers.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use leno_http::body::Frame;
use leno_http::h1::{Client, ClientSettings};
use leno_http::{Body, BodyLength, InterimSink, Method, Request, RequestHead};
use leno_model::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::support::{Alive, End, Frames, Raw, data, read, run, trailers, until};

fn get(path: &'static str) -> Request {
    Request::new(RequestHead::new(Method::Get, "app", path), Body::Empty)
}

fn post(length: BodyLength, body: Body) -> Request {
    let mut head = RequestHead::new(Method::Post, "app", "/post");
    head.length = length;
    Request::new(head, body)
}

fn client() -> Client {
    Client::new(ClientSettings { continue_timeout: Duration::from_millis(50), ..ClientSettings::default() })
}

/// A timeout that no test waits for.
const TOO_LONG: Duration = Duration::from_secs(60);

/// A server that, on each connection, waits for each first string and answers with the second.
struct Script {
    address: SocketAddr,
    connections: Rc<Cell<usize>>,
    seen: Rc<RefCell<String>>,
    /// Connections that have ended, by either side.
    over: Rc<Cell<usize>>,
}

#[derive(Clone, Copy)]
enum Then {
    Keep,
    Close,
    Reset,
}

async fn script(steps: &'static [(&'static str, &'static str)], then: Then) -> Script {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, seen) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(String::new())));
    let over = Rc::new(Cell::new(0));
    let (count, log, ended) = (Rc::clone(&connections), Rc::clone(&seen), Rc::clone(&over));
    tokio::task::spawn_local(async move {
        loop {
            let mut io = Raw(listener.accept().await.unwrap().0);
            count.set(count.get() + 1);
            let (log, ended) = (Rc::clone(&log), Rc::clone(&ended));
            tokio::task::spawn_local(async move {
                for (wait, answer) in steps {
                    let read = io.read_until(wait).await;
                    log.borrow_mut().push_str(&read);
                    io.send(answer).await;
                }
                match then {
                    Then::Keep => {
                        let mut piece = [0; 1024];
                        while let Ok(length @ 1..) = io.0.read(&mut piece).await {
                            log.borrow_mut().push_str(&String::from_utf8_lossy(&piece[..length]));
                        }
                    }
                    // Said, not only dropped: a program that another test starts holds a copy of the socket until it execs.
                    Then::Close => io.0.shutdown().await.unwrap(),
                    Then::Reset => io.reset(),
                }
                ended.set(ended.get() + 1);
            });
        }
    });
    Script { address, connections, seen, over }
}

const END: &str = "\r\n\r\n";

#[test]
fn connections_are_used_again() {
    run(async {
        let steps = &[
            (END, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"),
            (END, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nc\r\n0\r\nSum: 1\r\n\r\n"),
            (END, "HTTP/1.1 204 No Content\r\n\r\n"),
            (END, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
            (END, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
            (END, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        ];
        let server = script(steps, Then::Keep).await;
        let client = client();
        for (turn, (status, length, body)) in [
            (200, BodyLength::Exact(2), "ab"),
            (200, BodyLength::Unknown, "c"),
            (204, BodyLength::None, ""),
            (200, BodyLength::Exact(5), ""),
            (304, BodyLength::Exact(5), ""),
            (200, BodyLength::Exact(0), ""),
        ]
        .into_iter()
        .enumerate()
        {
            let mut request = get("/x");
            if turn == 3 {
                request.head.method = Method::Head;
            }
            let mut response = client.send(server.address, request).await.unwrap();
            assert_eq!((response.head.status, response.head.length), (status, length), "{turn}");
            let (found, end) = read(&mut response.body).await.unwrap();
            assert_eq!(found, body);
            assert_eq!(end.is_some(), turn == 1);
            assert_eq!(client.idle_connections(), usize::from(turn < 5), "{turn}");
        }
        assert_eq!(server.connections.get(), 1);
        assert!(server.seen.borrow().starts_with("GET /x HTTP/1.1\r\nhost: app\r\n\r\nGET /x"));
    });
}

/// Who reads slowly asks for a body's end long after its last byte, and the connection serves somebody else by then.
#[test]
fn a_body_has_its_end_although_its_connection_is_in_use_again() {
    run(async {
        let steps = &[
            (END, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"),
            (END, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n"),
            (END, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthree"),
        ];
        let server = script(steps, Then::Keep).await;
        let client = client();
        let mut waiting = Vec::new();
        for body in ["one", "two", "three"] {
            let mut response = client.send(server.address, get("/x")).await.unwrap();
            let Some(Ok(Frame::Data(bytes))) = response.body.next().await else { panic!("no data of {body}") };
            assert_eq!(bytes, body);
            if body == "two" {
                assert!(response.body.next().await.is_none(), "the end of chunks is read, not known");
            }
            waiting.push(response);
        }
        assert_eq!(server.connections.get(), 1);
        for mut response in waiting {
            assert!(response.body.next().await.is_none());
        }
    });
}

#[test]
fn a_connection_the_server_has_closed_is_not_used() {
    run(async {
        let server = script(&[(END, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")], Then::Close).await;
        let client = client();
        for turn in 1..4 {
            client.send(server.address, get("/")).await.unwrap();
            assert_eq!(server.connections.get(), turn);
            assert_eq!(client.idle_connections(), 1);
            until("the server has said that it closes", || server.over.get() == turn).await;
            // The server's FIN is ahead of this handshake, and a turn of the loop that accepts sees both.
            let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (_client, _server) = (Raw::connect(other.local_addr().unwrap()).await, other.accept().await.unwrap());
        }
    });
}

#[test]
fn idle_connections_age_out() {
    run(async {
        let server = script(&[(END, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")], Then::Keep).await;
        let client =
            Client::new(ClientSettings { idle_timeout: Duration::from_millis(20), ..ClientSettings::default() });
        client.send(server.address, get("/")).await.unwrap();
        assert_eq!(client.idle_connections(), 1);
        until("the idle connection is closed", || client.idle_connections() == 0).await;
        let short =
            script(&[(END, "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 0\r\n\r\n")], Then::Keep).await;
        client.send(short.address, get("/")).await.unwrap();
        assert_eq!(client.idle_connections(), 0, "the server keeps it for a second only");
    });
}

#[test]
fn failures_say_whether_the_request_may_have_run() {
    run(async {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = client().send(free, get("/")).await.unwrap_err();
        assert_eq!((error.reason, error.unprocessed), (Reason::ConnectRefused, true));
        for (answer, then, reason) in [
            ("", Then::Reset, Reason::UpstreamReset),
            ("", Then::Close, Reason::UpstreamReset),
            ("HTTP/1.1 200 OK\r\nConte", Then::Close, Reason::UpstreamReset),
            ("HTTP/1.1 200 OK\nContent-Length: 0\n\n", Then::Keep, Reason::UpstreamProtocolError),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                Then::Keep,
                Reason::UpstreamProtocolError,
            ),
            (
                "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
                Then::Keep,
                Reason::UpstreamProtocolError,
            ),
            ("SSH-2.0-OpenSSH\r\n\r\n", Then::Keep, Reason::UpstreamProtocolError),
        ] {
            let steps: &'static [(&str, &str)] = Box::leak(Box::new([(END, answer)]));
            let server = script(steps, then).await;
            let error = client().send(server.address, post(BodyLength::Exact(0), Body::Empty)).await.unwrap_err();
            assert_eq!((error.reason, error.unprocessed), (reason, false), "{answer:?}");
            assert_eq!(server.connections.get(), 1, "a POST is sent once");
        }
    });
}

/// A kept connection that dies under a request: whether the application has seen it cannot be known, so it is not repeated.
#[test]
fn a_request_on_a_dying_kept_connection_is_not_repeated() {
    run(async {
        let server = script(&[(END, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), (END, "")], Then::Reset).await;
        let client = client();
        client.send(server.address, get("/")).await.unwrap();
        let error = client.send(server.address, post(BodyLength::Exact(0), Body::Empty)).await.unwrap_err();
        assert_eq!((error.reason, error.unprocessed), (Reason::UpstreamReset, false));
        assert_eq!(server.connections.get(), 1);
    });
}

#[test]
fn bodies_are_written_as_their_heads_say() {
    run(async {
        for (length, frames, expected) in [
            (BodyLength::Exact(4), vec![data("ab"), data("cd")], "content-length: 4\r\n\r\nabcd"),
            (
                BodyLength::Unknown,
                vec![data("ab"), data("c")],
                "transfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            ),
            (BodyLength::Unknown, vec![data("ab"), trailers(&[("sum", "2")])], "2\r\nab\r\n0\r\nsum: 2\r\n\r\n"),
        ] {
            let steps: &'static [(&str, &str)] =
                Box::leak(Box::new([(expected, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")]));
            let server = script(steps, Then::Keep).await;
            let client = client();
            let response =
                client.send(server.address, post(length, Frames::new(frames, End::Regular).body())).await.unwrap();
            assert_eq!(response.head.status, 200);
            assert_eq!(client.idle_connections(), 1, "{expected:?}");
        }
    });
}

#[test]
fn a_body_that_is_not_as_long_as_it_says_ends_the_connection() {
    run(async {
        for frames in [vec![data("abc")], vec![data("abcdeZ")], vec![data("abcd"), data("Z")]] {
            let is_excess_last = frames.len() == 2;
            let server = script(&[(END, "")], Then::Keep).await;
            let request = post(BodyLength::Exact(4), Frames::new(frames, End::Regular).body());
            let client = client();
            if is_excess_last {
                // The excess is not asked for: what there is was sent, and the answer is waited for.
                tokio::select! {
                    _ = client.send(server.address, request) => panic!("nobody has answered"),
                    () = until("the body has come", || server.seen.borrow().ends_with("abcd")) => {}
                }
                until("the connection is over", || server.over.get() == 1).await;
            } else {
                let error = client.send(server.address, request).await.unwrap_err();
                assert_eq!((error.reason, error.unprocessed), (Reason::MalformedRequest, false));
            }
            assert!(!server.seen.borrow().contains('Z'), "not a byte more than announced: {}", server.seen.borrow());
        }
    });
}

#[test]
fn a_caller_that_breaks_off_ends_the_request() {
    run(async {
        let server = script(&[(END, "")], Then::Keep).await;
        let request = post(BodyLength::Unknown, Frames::new(vec![data("ab")], End::Error).body());
        let error = client().send(server.address, request).await.unwrap_err();
        assert_eq!(error.detail, "broken on purpose");
        assert!(!server.seen.borrow().contains("0\r\n\r\n"), "the body must not look whole");
    });
}

#[test]
fn interim_responses_are_passed_on() {
    run(async {
        let server = script(
            &[(END, "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")],
            Then::Keep,
        )
        .await;
        let seen = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&seen);
        let mut request = get("/");
        request.interim = Some(InterimSink::new(move |head| log.borrow_mut().push((head.status, head.fields.len()))));
        assert_eq!(client().send(server.address, request).await.unwrap().head.status, 200);
        assert_eq!(*seen.borrow(), [(102, 0), (103, 1)]);
        let endless: &'static [(&str, &str)] =
            Box::leak(Box::new([(END, &*"HTTP/1.1 102 Processing\r\n\r\n".repeat(40).leak())]));
        let server = script(endless, Then::Keep).await;
        assert_eq!(client().send(server.address, get("/")).await.unwrap_err().reason, Reason::UpstreamProtocolError);
    });
}

#[test]
fn a_body_waits_for_its_100() {
    run(async {
        let fine = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let said: &'static [(&str, &str)] =
            Box::leak(Box::new([(END, "HTTP/1.1 100 Continue\r\n\r\n"), ("abc", fine)]));
        let silent: &'static [(&str, &str)] = Box::leak(Box::new([(END, ""), ("abc", fine)]));
        let refused: &'static [(&str, &str)] = &[(END, "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")];
        // Only the server that says nothing may be given up on.
        let patient = || Client::new(ClientSettings { continue_timeout: TOO_LONG, ..ClientSettings::default() });
        for (steps, status, client) in [(said, 200, patient()), (silent, 200, client()), (refused, 417, patient())] {
            let server = script(steps, Then::Keep).await;
            let frames = Frames::new(vec![data("abc")], End::Regular);
            let given = Rc::clone(&frames.given);
            let mut request = post(BodyLength::Exact(3), frames.body());
            request.head.expect_continue = true;
            let response = client.send(server.address, request).await.unwrap();
            assert_eq!(response.head.status, status);
            assert_eq!(given.get(), usize::from(status == 200), "the body is asked for only when wanted");
            assert!(server.seen.borrow().contains("expect: 100-continue\r\n"));
            drop(response);
            assert_eq!(client.idle_connections(), usize::from(status == 200));
        }
    });
}

#[test]
fn a_response_that_is_dropped_closes_the_connection_and_frees_the_body() {
    run(async {
        let server = script(&[(END, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")], Then::Keep).await;
        let alive = Alive::default();
        let client = client();
        let body = Frames::new(vec![data("x")], End::Never).watched(&alive).body();
        let mut response = client.send(server.address, post(BodyLength::Unknown, body)).await.unwrap();
        assert!(response.body.next().await.unwrap().is_ok());
        assert_eq!(alive.dropped(), 0);
        drop(response);
        until("the request's body is dropped", || alive.dropped() == 1).await;
        assert_eq!(client.idle_connections(), 0);
    });
}

#[test]
fn broken_response_bodies() {
    run(async {
        for (answer, reason) in [
            ("Content-Length: 5\r\n\r\nabc", Reason::UpstreamReset),
            ("Transfer-Encoding: chunked\r\n\r\n5\r\nabc", Reason::UpstreamReset),
            ("Transfer-Encoding: chunked\r\n\r\n3\r\nabcX", Reason::UpstreamProtocolError),
        ] {
            let steps: &'static [(&str, &str)] =
                Box::leak(Box::new([(END, &*format!("HTTP/1.1 200 OK\r\n{answer}").leak())]));
            let server = script(steps, Then::Close).await;
            let client = client();
            let mut response = client.send(server.address, get("/")).await.unwrap();
            assert_eq!(read(&mut response.body).await.unwrap_err().reason, reason, "{answer:?}");
            assert_eq!(client.idle_connections(), 0);
        }
        let server = script(&[(END, "HTTP/1.1 200 OK\r\n\r\nuntil the end")], Then::Close).await;
        let mut response = client().send(server.address, get("/")).await.unwrap();
        assert_eq!(response.head.length, BodyLength::Unknown);
        assert_eq!(read(&mut response.body).await.unwrap().0, "until the end");
    });
}

#[test]
fn upgrades_become_tunnels_with_half_close() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::task::spawn_local(async move {
            let mut io = Raw(listener.accept().await.unwrap().0);
            let head = io.read_until(END).await;
            assert!(head.contains("connection: upgrade\r\nupgrade: websocket\r\n"), "{head}");
            io.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello").await;
            // The server ends its side first; the caller's bytes still come.
            io.0.shutdown().await.unwrap();
            io.read_all().await
        });
        let (sender, receiver) = tokio::sync::mpsc::channel::<&'static str>(1);
        let mut head = RequestHead::new(Method::Get, "app", "/ws");
        head.upgrade = Some(Bytes::from_static(b"websocket"));
        let mut response = client().send(address, Request::new(head, Body::custom(Words(receiver)))).await.unwrap();
        assert_eq!((response.head.status, response.head.upgrade.as_deref()), (101, Some(&b"websocket"[..])));
        assert_eq!(read(&mut response.body).await.unwrap().0, "hello");
        drop(response);
        sender.send("still ").await.unwrap();
        sender.send("there").await.unwrap();
        drop(sender);
        assert_eq!(server.await.unwrap(), "still there");
    });
}

struct Words(tokio::sync::mpsc::Receiver<&'static str>);

impl leno_http::BodyStream for Words {
    fn poll_frame(&mut self, cx: &mut std::task::Context<'_>) -> leno_http::body::PollFrame {
        self.0.poll_recv(cx).map(|word| word.map(|word| Ok(data(word))))
    }
}

#[test]
fn a_large_body_goes_out_while_the_answer_comes_back() {
    run(async {
        // An echo server that answers as it reads: both directions must flow at once.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let mut io = Raw(listener.accept().await.unwrap().0);
            io.read_until(END).await;
            io.send("HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n").await;
            let (mut reader, mut writer) = io.0.into_split();
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let body = Body::Full(Bytes::from(vec![b'x'; 8_000_000]));
        let mut response = client().send(address, post(BodyLength::Exact(8_000_000), body)).await.unwrap();
        assert_eq!(read(&mut response.body).await.unwrap().0.len(), 8_000_000);
    });
}
