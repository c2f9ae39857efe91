//! Request smuggling (BAD_INPUTS class 5), judged at the far end: whatever is sent, the application has seen one request or none, and never
//! one that hid in another's body.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use testbed::scene::{APP, Bound, Scene, UPSTREAM};
use testbed::skip::can_run;
use testbed::wire::{self, END, HEADERS_END, Reply, block, field, frame, kind};
use testbed::{Host, apps};

/// What a few hundred small connections may take, in MiB.
const SMALL: Bound = Bound { near: 8, far: 8 };

/// What hides in a body: a request of its own, if somebody takes another length for true.
const INNER: &str = "GET /inner HTTP/1.1\r\nHost: web\r\n\r\n";

/// The variants: a name, and the request's head and body. `N` in the target is replaced by the variant's number.
fn variants() -> Vec<(&'static str, String)> {
    let length = INNER.len();
    let post = |headers: &str, body: &str| format!("POST /case-N HTTP/1.1\r\nHost: web\r\n{headers}\r\n{body}");
    let chunked_end = format!("0\r\n\r\n{INNER}");
    let te = |value: &str| post(&format!("{value}\r\nContent-Length: {}\r\n", chunked_end.len()), &chunked_end);
    let mut found = vec![
        ("TE and CL", post(&format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), &chunked_end)),
        ("CL and TE", post(&format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"), &chunked_end)),
        ("two CL", post(&format!("Content-Length: 0\r\nContent-Length: {length}\r\n"), INNER)),
        ("two CL turned", post(&format!("Content-Length: {length}\r\nContent-Length: 0\r\n"), INNER)),
        ("CL list", post(&format!("Content-Length: 0, {length}\r\n"), INNER)),
        ("CL plus", post(&format!("Content-Length: +{length}\r\n"), INNER)),
        ("CL minus", post("Content-Length: -1\r\n", INNER)),
        ("CL hex", post("Content-Length: 0x10\r\n", INNER)),
        ("CL space inside", post("Content-Length: 1 0\r\n", INNER)),
        ("CL empty", post("Content-Length: \r\n", INNER)),
        ("CL too large", post("Content-Length: 18446744073709551616\r\n", INNER)),
        ("CL name with space", post("Content-Length : 0\r\n", INNER)),
        ("CL name with NUL", post("Content-Length\0: 0\r\n", INNER)),
        ("CL of letters", post("Content-Length: ten\r\n", INNER)),
        ("bare LF in a head", "POST /case-N HTTP/1.1\nHost: web\nContent-Length: 0\n\n".to_owned() + INNER),
        ("one bare LF", format!("POST /case-N HTTP/1.1\r\nHost: web\nContent-Length: {length}\r\n\r\n{INNER}")),
        ("bare CR", post("X: a\rContent-Length: 0\r\n", INNER)),
        ("CR CR LF", post("X: a\r\r\nContent-Length: 0\r\n", INNER)),
        ("obs-fold", post(&format!("X: a\r\n Content-Length: {length}\r\n"), INNER)),
        ("obs-fold of TE", post("Transfer-Encoding:\r\n chunked\r\n", &chunked_end)),
        ("space before the first field", format!("POST /case-N HTTP/1.1\r\n Host: web\r\n\r\n{INNER}")),
        ("NUL in a value", post("X: a\0b\r\n", INNER)),
        ("no colon", post("Content-Length 0\r\n", INNER)),
        (
            "HTTP/1.0 with TE",
            format!("POST /case-N HTTP/1.0\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n{chunked_end}"),
        ),
        ("unknown version", format!("POST /case-N HTTP/1.9\r\nHost: web\r\nContent-Length: {length}\r\n\r\n{INNER}")),
        ("two spaces", format!("POST  /case-N HTTP/1.1\r\nHost: web\r\n\r\n{INNER}")),
        ("LF in the target", format!("POST /case-N\nX HTTP/1.1\r\nHost: web\r\n\r\n{INNER}")),
        ("chunk size in decimal and more", post("Transfer-Encoding: chunked\r\n", &format!("0x0\r\n\r\n{INNER}"))),
        ("chunk size with sign", post("Transfer-Encoding: chunked\r\n", &format!("+0\r\n\r\n{INNER}"))),
        ("chunk size that wraps", post("Transfer-Encoding: chunked\r\n", &format!("10000000000000000\r\n\r\n{INNER}"))),
        ("chunk without its end", post("Transfer-Encoding: chunked\r\n", &format!("1\r\nab\r\n0\r\n\r\n{INNER}"))),
        ("chunk with bare LF", post("Transfer-Encoding: chunked\r\n", &format!("1\na\n0\n\n{INNER}"))),
        ("chunk extension with bare LF", post("Transfer-Encoding: chunked\r\n", &format!("0;a\n\r\n\r\n{INNER}"))),
        (
            "trailer that frames",
            post("Transfer-Encoding: chunked\r\n", &format!("0\r\nContent-Length 5\r\n\r\n{INNER}")),
        ),
    ];
    for (name, value) in [
        ("TE unknown", "Transfer-Encoding: xchunked"),
        ("TE list", "Transfer-Encoding: gzip, chunked"),
        ("TE list turned", "Transfer-Encoding: chunked, identity"),
        ("TE twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("TE twice, other", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
        ("TE name with space", "Transfer-Encoding : chunked"),
        ("TE with VT", "Transfer-Encoding:\x0bchunked"),
        ("TE with FF", "Transfer-Encoding: \x0cchunked"),
        ("TE with NUL", "Transfer-Encoding: chunked\0"),
        ("TE in quotes", "Transfer-Encoding: \"chunked\""),
        ("TE with parameter", "Transfer-Encoding: chunked;a=b"),
        ("TE empty", "Transfer-Encoding: "),
        ("TE with underscore beside CL", "Transfer-Encoding: chunked\r\nTransfer_Encoding: chunked"),
        ("TE chunked with CL", "Transfer-Encoding: chunked "),
    ] {
        found.push((name, te(value)));
    }
    found
}

/// Every variant behind one another's back: nothing of the body is a request, and a refusal ends the connection.
#[test]
fn the_application_sees_one_request_or_none() {
    if !can_run("smuggling_differential", apps::NEEDS) {
        return;
    }
    let mut scene = Scene::with_nginx("");
    let all = variants();
    let replies: Vec<Reply> = scene.attack("smuggling over HTTP/1", SMALL, |s| {
        let send = |(number, (_, request)): (usize, &(&str, String))| {
            let bytes = request.replace("case-N", &format!("case-{number}-"));
            wire::to_the_end(s.three(), Scene::local(UPSTREAM), bytes.as_bytes())
        };
        all.iter().enumerate().map(send).collect()
    });
    let log = apps::nginx_log(scene.network.folder(), "web");
    for (number, ((name, _), reply)) in all.iter().zip(&replies).enumerate() {
        let seen = log.iter().filter(|l| l.contains(&format!("/case-{number}-"))).count();
        assert!(reply.is_closed && reply.answers() <= 1, "{name}: {}", reply.text());
        assert!(seen <= 1, "{name}: the application saw {seen} requests");
        // A body that turns out to be broken is told when its head is with the application already.
        let status = reply.status();
        assert!(matches!(status, Some(400 | 501 | 502 | 505)), "{name}: {status:?}, {}", reply.text());
    }
    assert!(!log.iter().any(|l| l.contains("/inner")), "{log:#?}");
}

/// HTTP/2 in, HTTP/1 behind: what HTTP/2 can say and HTTP/1 would read as framing.
#[test]
fn what_http2_can_say_and_http1_cannot_is_refused() {
    if !can_run("smuggling_http2", apps::NEEDS) {
        return;
    }
    let mut scene = Scene::with_nginx("");
    let more = |fields: &[(&str, &str)]| block("POST", "/h2-N", fields);
    let path = |path: &str| {
        let pairs = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "web")];
        pairs.iter().flat_map(|(n, v)| field(n.as_bytes(), v.as_bytes())).collect::<Vec<u8>>()
    };
    let smuggled = "a\r\nContent-Length: 0\r\n\r\nGET /inner HTTP/1.1\r\nHost: web\r\n\r\n";
    let blocks: Vec<(&str, Vec<u8>)> = vec![
        ("transfer-encoding", more(&[("transfer-encoding", "chunked")])),
        ("connection", more(&[("connection", "keep-alive")])),
        ("te", more(&[("te", "gzip")])),
        ("upgrade", more(&[("upgrade", "websocket")])),
        ("keep-alive", more(&[("keep-alive", "5")])),
        ("proxy-connection", more(&[("proxy-connection", "x")])),
        ("upper case", more(&[("X-Upper", "a")])),
        ("CR LF in a value", more(&[("x", smuggled)])),
        ("LF in a value", more(&[("x", "a\nb: c")])),
        ("NUL in a value", more(&[("x", "a\0b")])),
        ("CR LF in a name", more(&[("x: a\r\ny", "b")])),
        ("colon in a name", more(&[("x:y", "b")])),
        ("space in a name", more(&[("x y", "b")])),
        ("empty name", more(&[("", "b")])),
        ("CL that is not the body's", more(&[("content-length", "5")])),
        ("two CLs", more(&[("content-length", "0"), ("content-length", "7")])),
        ("CL list", more(&[("content-length", "0, 7")])),
        ("CL with sign", more(&[("content-length", "+0")])),
        ("late pseudo-header", more(&[("x", "a"), (":path", "/inner")])),
        ("two paths", more(&[(":path", "/inner")])),
        ("unknown pseudo-header", more(&[(":secret", "x")])),
        ("host against authority", more(&[("host", "other")])),
        ("space in the path", path("/h2-N HTTP/1.1\r\nHost: web\r\n\r\nGET /inner")),
        ("LF in the path", path("/h2-N\nx")),
        ("empty path", path("")),
    ];
    let outcomes: Vec<wire::Flooded> = scene.attack("smuggling over HTTP/2", SMALL, |s| {
        let send = |(number, (_, block)): (usize, &(&str, Vec<u8>))| {
            let mut block = block.clone();
            if let Some(at) = block.windows(5).position(|w| w == b"/h2-N") {
                // As long as before, so that the lengths in the block stay true: numbers above 9 as letters.
                let letter = b'a' + u8::try_from(number).expect("few cases");
                block[at + 4] = letter;
            }
            let bytes = [frame(kind::HEADERS, HEADERS_END, 1, &block), frame(kind::DATA, END, 1, b"7 bytes")].concat();
            wire::one_stream(s.three(), Scene::local(UPSTREAM), &bytes)
        };
        blocks.iter().enumerate().map(send).collect()
    });
    let log = apps::nginx_log(scene.network.folder(), "web");
    assert!(!log.iter().any(|l| l.contains("/inner")), "{log:#?}");
    for (number, ((name, _), outcome)) in blocks.iter().zip(&outcomes).enumerate() {
        let letter = char::from(b'a' + u8::try_from(number).expect("few cases"));
        let passed = log.iter().filter(|l| l.contains(&format!("/h2-{letter}"))).count();
        let is_refused = outcome.is_closed || !outcome.resets.is_empty() || outcome.bad_requests == 1;
        assert!(is_refused, "{name}: {outcome:?}");
        assert_eq!(passed, 0, "{name}: the application has seen it");
    }
}

/// An application that keeps what it was sent, connection by connection, and answers every head with `answer`.
fn recorder(host: &Host, answer: &'static [u8]) -> Arc<Mutex<Vec<Vec<u8>>>> {
    let listener = host.listen(APP);
    let seen: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let record = Arc::clone(&seen);
    std::thread::spawn(move || {
        for io in listener.incoming().flatten() {
            let (record, index) = (Arc::clone(&record), {
                let mut all = record.lock().expect("no test panics with it");
                all.push(Vec::new());
                all.len() - 1
            });
            std::thread::spawn(move || keep(io, answer, &record, index));
        }
    });
    seen
}

fn keep(mut io: TcpStream, answer: &[u8], record: &Mutex<Vec<Vec<u8>>>, index: usize) {
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = io.read(&mut piece) {
        let mut all = record.lock().expect("no test panics with it");
        all[index].extend_from_slice(&piece[..length]);
        let is_head = all[index].ends_with(b"\r\n\r\n");
        drop(all);
        if is_head && io.write_all(answer).is_err() {
            return;
        }
    }
}

/// CVE-2025-64763: bytes that follow an upgrade or a CONNECT before anybody agreed to it are neither HTTP nor the other protocol.
#[test]
fn bytes_behind_an_upgrade_wait_for_the_agreement() {
    if !can_run("smuggling_upgrade", apps::NEEDS) {
        return;
    }
    let mut seen = None;
    let scene = Scene::start(&format!("{APP}/http"), &[], &[], |network| {
        seen = Some(recorder(network.host("two"), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"));
        None
    });
    let seen = seen.expect("made above");
    let three = scene.three();
    let upgrade = "GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let to = Scene::local(UPSTREAM);
    // The application answers the upgrade with 200: what was sent early must not become a request, nor what comes later a message.
    let early = wire::to_the_end(three, to, format!("{upgrade}{INNER}").as_bytes());
    assert!(matches!(early.status(), Some(400)) && early.is_closed, "{}", early.text());
    let refused = three.connect(to);
    let reply = wire::converse(&refused, upgrade.as_bytes(), |bytes| bytes.ends_with(b"no"));
    assert_eq!(reply.status(), Some(200), "{}", reply.text());
    // The connection is HTTP again: the next request is one, and has its own answer.
    let next = wire::converse(&refused, b"GET /next HTTP/1.1\r\nHost: web\r\n\r\n", |bytes| bytes.ends_with(b"no"));
    assert!(next.status() == Some(200) || next.is_closed, "{}", next.text());
    // CONNECT with early bytes.
    let connect = format!("CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\n{INNER}");
    let tunnel = wire::to_the_end(three, to, connect.as_bytes());
    assert!(tunnel.is_closed && tunnel.status().is_some_and(|s| s >= 400), "{}", tunnel.text());
    let all = seen.lock().expect("no test panics with it").concat();
    let all = String::from_utf8_lossy(&all);
    assert!(!all.contains("/inner"), "{all}");
    assert!(all.matches("GET /ws ").count() <= 2 && all.matches("GET /next ").count() <= 1, "{all}");
    scene.nobody_panicked();
}
