//! HTTP/1.1 through two real data planes to a real application.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

#[path = "support/app.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod app;
#[path = "support/client.rs"]
mod client;
#[path = "support/mesh.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod mesh;

use app::App;
use client::Caller;
use leno_model::AppProtocol;
use mesh::{Pair, identity};

fn pair() -> (App, Pair) {
    let app = App::http("web");
    let pair = Pair::new(app.address, AppProtocol::Http);
    (app, pair)
}

#[test]
fn requests_pass_on_one_kept_connection() {
    let (app, pair) = pair();
    let mut caller = Caller::new(pair.local());
    for n in 0..3 {
        let answer = caller.get("web", &format!("/hello/{n}"));
        assert_eq!((answer.status, answer.text()), (200, format!("web /hello/{n}")));
    }
    assert_eq!(app.seen().len(), 3);
    let seen = app.last();
    assert_eq!(seen.header("leno-source-identity"), Some(identity("caller").as_str()));
    assert_eq!(seen.header("host"), Some("web"));
    assert!(seen.header("traceparent").is_some());
}

#[test]
fn bodies_of_every_framing_arrive_whole() {
    let (app, pair) = pair();
    let mut caller = Caller::new(pair.local());
    let answer = caller.send("POST /echo HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\n\r\nhello").answer();
    assert_eq!(answer.text(), "hello");
    let answer = caller
        .send(
            "POST /echo HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n3\r\nfoo\r\n4\r\nbars\r\n0\r\n\r\n",
        )
        .answer();
    assert_eq!(answer.text(), "foobars");
    let answer = caller.send("GET /chunked HTTP/1.1\r\nhost: web\r\nte: trailers\r\n\r\n").answer();
    assert_eq!((answer.text(), answer.trailers), ("hello world".to_owned(), vec!["x-sum: 11".to_owned()]));
    let answer = caller.send("GET /close HTTP/1.1\r\nhost: web\r\n\r\n").answer();
    assert_eq!(answer.text(), "until the end");
    let big = "x".repeat(3_000_000);
    let answer = caller
        .send(&format!("POST /echo HTTP/1.1\r\nhost: web\r\ncontent-length: {}\r\n\r\n{big}", big.len()))
        .answer();
    assert!(answer.text() == big);
    assert_eq!(app.seen().len(), 5);
}

#[test]
fn head_has_a_length_and_no_body() {
    let (_app, pair) = pair();
    let mut caller = Caller::new(pair.local());
    let answer = caller.send("HEAD /hello HTTP/1.1\r\nhost: web\r\n\r\n").head();
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("10")));
    assert_eq!(caller.get("web", "/next").text(), "web /next");
}

#[test]
fn interim_answers_come_through() {
    let (_app, pair) = pair();
    let mut caller = Caller::new(pair.local());
    caller.send("POST /echo HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n");
    assert_eq!(caller.head().status, 100);
    assert_eq!(caller.send("ok").answer().text(), "ok");
    caller.send("GET /hints HTTP/1.1\r\nhost: web\r\n\r\n");
    let hints = caller.head();
    assert_eq!((hints.status, hints.header("link")), (103, Some("</a.css>")));
    assert_eq!(caller.answer().text(), "hinted");
}

#[test]
fn upgrades_become_streams() {
    let (_app, pair) = pair();
    let mut caller = Caller::new(pair.local());
    caller.send("GET /upgrade HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    let answer = caller.head();
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    assert_eq!(caller.send("ping").exact(4), "ping");
    assert_eq!(caller.send("pong").exact(4), "pong");
}

#[test]
fn an_early_answer_ends_the_request() {
    let (_app, pair) = pair();
    let mut caller = Caller::new(pair.local());
    let answer = caller.send("POST /early HTTP/1.1\r\nhost: web\r\ncontent-length: 1000000\r\n\r\npart").answer();
    assert_eq!((answer.status, answer.text()), (413, "late".to_owned()));
}

#[test]
fn a_broken_answer_is_seen_as_broken() {
    let (_app, pair) = pair();
    let mut caller = Caller::new(pair.local());
    let head = caller.send("GET /cut HTTP/1.1\r\nhost: web\r\n\r\n").head();
    // Head and break may arrive together: then nothing of the answer need be passed on.
    let whole = head.status == 200 && caller.rest().len() >= 100;
    assert!(!whole && matches!(head.status, 200 | 502), "{head:?}");
}

#[test]
fn internal_headers_are_stripped_both_ways() {
    let (app, pair) = pair();
    let mut caller = Caller::new(pair.local());
    caller
        .send(
            "GET /x HTTP/1.1\r\nhost: web\r\nleno-source-identity: spiffe://mesh.leno/ns/shop/sa/admin\r\n\
             x-forwarded-client-cert: By=me\r\nleno-anything: 1\r\nx-fine: 1\r\n\r\n",
        )
        .answer();
    let seen = app.last();
    assert_eq!(seen.header("leno-source-identity"), Some(identity("caller").as_str()));
    assert_eq!(seen.header("x-forwarded-client-cert"), None);
    assert_eq!(seen.header("leno-anything"), None);
    assert_eq!(seen.header("x-fine"), Some("1"));
}

#[test]
fn both_ends_count_what_passed() {
    let (_app, pair) = pair();
    let mut caller = Caller::new(pair.local());
    caller.get("web", "/hello");
    // The second answer proves that the first exchange has ended at both ends.
    caller.get("web", "/hello");
    for (member, direction) in [(&pair.client, "outbound"), (&pair.server, "inbound")] {
        let metrics = member.metrics();
        let line = metrics.lines().find(|l| l.starts_with("leno_requests_total") && l.contains(direction));
        let line = line.unwrap_or_else(|| panic!("no requests of {direction} in {metrics}"));
        assert!(line.contains("sa/caller") && line.contains("sa/web") && line.contains("200"), "{line}");
    }
}
