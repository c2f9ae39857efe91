//! Timeouts, limits, ejection, filters and slow peers through two real data planes.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

#[path = "support/app.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod app;
#[path = "support/client.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod client;
#[path = "support/mesh.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod mesh;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use app::App;
use client::Caller;
use leno_model::AppProtocol;
use leno_plan::{
    Algorithm, BalancePolicy, CallPolicy, DestinationPlan, EjectionPolicy, Filter, HeaderEdit, Limits, PathMatch,
    PathModifier, Redirect, RetryPolicy, Rewrite, RouteEntry, RouteMatch, RouteRule, RouteTable, Timeouts,
};
use mesh::{PORT, Pair, endpoint, name, plan};

fn pair() -> (App, Pair) {
    let app = App::http("web");
    let pair = Pair::new(app.address, AppProtocol::Http);
    (app, pair)
}

/// The pair's plan with another policy.
fn with_policy(pair: &mut Pair, policy: CallPolicy) {
    let mut changed = plan("web", AppProtocol::Http, vec![endpoint("web-1", pair.server.hop)]);
    changed.policy = Arc::new(policy);
    pair.client.calls(changed);
}

#[test]
fn a_request_timeout_answers_504_and_frees_the_application() {
    let (app, mut pair) = pair();
    let timeouts = Timeouts { request: Some(Duration::from_secs(1)), ..Timeouts::default() };
    with_policy(&mut pair, CallPolicy { timeouts, ..CallPolicy::default() });
    let mut caller = Caller::new(pair.local());
    let answer = caller.get("web", "/slow");
    assert_eq!((answer.status, answer.header("leno-reason")), (504, Some("request_timeout")));
    // An answer that has begun is cut, not finished.
    let mut caller = Caller::new(pair.local());
    assert_eq!(caller.send("GET /drip HTTP/1.1\r\nhost: web\r\n\r\n").head().status, 200);
    assert!(!caller.rest().ends_with("0\r\n\r\n"));
    assert_eq!(app.seen().len(), 2, "nothing was tried again");
}

/// The answer is always there before its reader is: only the clock can tell that its time is over.
#[test]
fn a_slow_reader_does_not_outlive_the_request_timeout() {
    let (_app, mut pair) = pair();
    let timeouts = Timeouts { request: Some(Duration::from_secs(1)), ..Timeouts::default() };
    with_policy(&mut pair, CallPolicy { timeouts, ..CallPolicy::default() });
    let mut io = TcpStream::connect(pair.local()).unwrap();
    io.write_all(b"GET /flood HTTP/1.1\r\nhost: web\r\n\r\n").unwrap();
    let (mut piece, mut read) = (vec![0; 1 << 16], 0);
    while let Ok(length @ 1..) = io.read(&mut piece) {
        read += length;
        // Slower than anybody sends.
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(read > 0 && read < app::FLOOD, "{read} bytes");
}

#[test]
fn an_idle_exchange_is_ended() {
    let (_app, mut pair) = pair();
    let timeouts = Timeouts { idle: Some(Duration::from_secs(1)), ..Timeouts::default() };
    with_policy(&mut pair, CallPolicy { timeouts, ..CallPolicy::default() });
    let answer = Caller::new(pair.local()).get("web", "/slow");
    assert_eq!((answer.status, answer.header("leno-reason")), (504, Some("idle_timeout")));
}

#[test]
fn limits_refuse_what_is_too_much() {
    let (_app, mut pair) = pair();
    let limits = Limits { max_requests: Some(1), ..Limits::default() };
    with_policy(&mut pair, CallPolicy { limits, ..CallPolicy::default() });
    let mut holding = Caller::new(pair.local());
    assert_eq!(holding.send("GET /drip HTTP/1.1\r\nhost: web\r\n\r\n").head().status, 200);
    let answer = Caller::new(pair.local()).get("web", "/hello");
    assert_eq!((answer.status, answer.header("leno-reason")), (503, Some("overloaded")));
    drop(holding);
    // The place is given back once the proxy has seen that the caller is gone.
    while Caller::new(pair.local()).get("web", "/hello").status != 200 {}
}

#[test]
fn an_endpoint_that_fails_again_and_again_is_left_alone() {
    let (app, mut pair) = pair();
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut two = plan("web", AppProtocol::Http, vec![endpoint("dead", dead), endpoint("web-1", pair.server.hop)]);
    let ejection = EjectionPolicy { failures: 2, ..EjectionPolicy::default() };
    // In turn, because the default would avoid it before it is ejected.
    let balance = BalancePolicy { algorithm: Algorithm::RoundRobin, ..BalancePolicy::default() };
    two.policy = Arc::new(CallPolicy { balance, ejection, retry: RetryPolicy::never(), ..CallPolicy::default() });
    pair.client.calls(two);
    let mut caller = Caller::new(pair.local());
    let failed = (0..100).filter(|_| caller.get("web", "/hello").status != 200).count();
    assert_eq!(failed, 2, "as many as it takes to be ejected");
    assert_eq!(app.seen().len(), 98);
    let metrics = pair.client.metrics();
    assert!(metrics.lines().any(|l| l.starts_with("leno_ejections_total") && l.ends_with(" 1")), "{metrics}");
}

/// Rules by path: `/old` is rewritten, `/away` redirected, everything gets headers; nothing else matches.
fn routed(pair: &Pair) -> DestinationPlan {
    let mut routed = plan("web", AppProtocol::Http, vec![endpoint("web-1", pair.server.hop)]);
    let edit = |set: &str| HeaderEdit {
        set: vec![("x-set".into(), set.into())],
        add: vec![],
        remove: vec!["x-secret".into(), "x-app".into()],
    };
    let mut old = RouteRule::to_service("old", name("web"), PORT);
    old.filters = vec![
        Filter::RequestHeaders(edit("asked")),
        Filter::ResponseHeaders(edit("answered")),
        Filter::Rewrite(Rewrite {
            hostname: Some("new.example".into()),
            path: Some(PathModifier::Prefix("/new".into())),
        }),
    ];
    let mut away = RouteRule::to_service("away", name("web"), PORT);
    away.backends.clear();
    away.filters = vec![Filter::Redirect(Redirect {
        scheme: Some("https".into()),
        hostname: Some("example.com".into()),
        port: None,
        path: None,
        status: 301,
    })];
    let entry = |path: &str, rule| RouteEntry {
        condition: RouteMatch { path: Some(PathMatch::prefix(path).unwrap()), ..RouteMatch::default() },
        rule,
    };
    let routes = RouteTable::new(vec![old, away], vec![entry("/old", 0), entry("/away", 1)]);
    routed.ports.get_mut(&PORT).unwrap().routes = routes;
    routed
}

#[test]
fn routes_rewrite_redirect_and_refuse() {
    let (app, mut pair) = pair();
    let routed = routed(&pair);
    pair.client.calls(routed);
    let mut caller = Caller::new(pair.local());
    let answer = caller.send("GET /x/../old/a?q HTTP/1.1\r\nhost: web\r\nx-secret: 1\r\n\r\n").answer();
    assert_eq!(
        (answer.text(), answer.header("x-set"), answer.header("x-app")),
        ("web /new/a?q".to_owned(), Some("answered"), None)
    );
    let seen = app.last();
    assert_eq!(
        (seen.header("x-set"), seen.header("x-secret"), seen.header("host")),
        (Some("asked"), None, Some("new.example"))
    );
    let answer = caller.get("web", "/away/b");
    assert_eq!((answer.status, answer.header("location")), (301, Some("https://example.com/away/b")));
    let answer = caller.get("web", "/nowhere");
    assert_eq!((answer.status, answer.header("leno-reason")), (404, Some("no_route")));
    assert_eq!(app.seen().len(), 1);
}

#[test]
fn malformed_requests_are_refused_and_reach_nobody() {
    let (app, pair) = pair();
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: web\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: web\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: web\r\nhost: other\r\n\r\n", 400),
        ("GET / HTTP/1.1\nhost: web\n\n", 400),
        ("GET / HTTP/1.1\r\nhost: web\r\n x: folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked \x0b\r\n\r\n", 400),
        ("garbage\r\n\r\n", 400),
    ] {
        let answer = Caller::new(pair.local()).send(request).answer();
        assert_eq!(answer.status, status, "{request:?}");
    }
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let answer = Caller::new(pair.local()).send(&format!("GET / HTTP/1.1\r\nhost: web\r\n{many}\r\n")).answer();
    assert_eq!(answer.status, 431);
    assert_eq!(app.seen().len(), 0);
    assert_eq!(Caller::new(pair.local()).get("web", "/fine").status, 200, "the rest is unaffected");
}

#[test]
fn connections_are_capped_and_given_back() {
    let app = App::http("web");
    let mut mesh = mesh::Mesh::new();
    let mut server = mesh::Member::start(&mut mesh, mesh::settings("web", Some((app.address, AppProtocol::Http)), &[]));
    server.serves("web", app.address, AppProtocol::Http, mesh::open_access());
    let mut told = mesh::settings("caller", None, &["web"]);
    // A side may take three quarters of them.
    told.max_connections = Some(16);
    let mut client = mesh::Member::start(&mut mesh, told);
    client.calls(plan("web", AppProtocol::Http, vec![endpoint("web-1", server.hop)]));
    let mut held: Vec<Caller> = (0..12).map(|_| Caller::new(client.upstreams[0])).collect();
    held.iter_mut().for_each(|c| assert_eq!(c.get("web", "/").status, 200));
    assert_eq!(Caller::new(client.upstreams[0]).rest(), "", "closed at once");
    held.clear();
    while client.plane.process().connections() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(Caller::new(client.upstreams[0]).get("web", "/").status, 200);
}
