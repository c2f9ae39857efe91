//! TCP, the forward proxy, policies and drains through two real data planes.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

#[path = "support/app.rs"]
mod app;
#[path = "support/client.rs"]
mod client;
#[path = "support/mesh.rs"]
mod mesh;

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use app::App;
use client::Caller;
use leno_model::{AppProtocol, TrustDomain};
use leno_plan::{
    AccessPlan, AccessRule, CallerMatch, DefaultAccess, DestinationPort, EndpointSet, Literal, PathMatch, RequestMatch,
    RouteEntry, RouteMatch, RouteRule, RouteTable,
};
use leno_proxy::plane::Side;
use leno_proxy::settings::{DrainDeadlines, ServedPort};
use leno_proxy::snapshot::{Destination, DestinationState, LastUsed, MeshView};
use mesh::{Member, Mesh, PORT, Pair, endpoint, identity, name, open_access, plan, settings};

fn only(service: &str) -> AccessPlan {
    let from = CallerMatch { identity: Literal::parse(identity(service).as_str()), ..CallerMatch::default() };
    let rule = AccessRule { policy: "only".into(), from: vec![from], ports: vec![], requests: vec![] };
    AccessPlan::new(vec![], vec![rule], None, DefaultAccess::Members(TrustDomain::default()))
}

fn deny_path(path: &str) -> AccessPlan {
    let request = RequestMatch { paths: vec![PathMatch::prefix(path).unwrap()], ..RequestMatch::default() };
    let rule = AccessRule { policy: "deny".into(), from: vec![], ports: vec![], requests: vec![request] };
    AccessPlan::new(vec![rule], vec![], None, DefaultAccess::Members(TrustDomain::default()))
}

#[test]
fn a_server_that_speaks_first_is_heard_first() {
    let app = App::server_first("welcome\n");
    let pair = Pair::new(app, AppProtocol::Tcp);
    let mut caller = Caller::new(pair.local());
    assert_eq!(caller.line(), "welcome");
    assert_eq!(caller.send("echo").exact(4), "echo");
    // Half-close: the server still answers after the caller's end.
    caller.input.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(caller.rest(), "bye");
}

#[test]
fn denied_requests_get_403_and_reach_nobody() {
    let app = App::http("web");
    let pair = Pair::with_access(app.address, AppProtocol::Http, only("somebody-else"));
    let mut caller = Caller::new(pair.local());
    let answer = caller.get("web", "/hello");
    assert_eq!((answer.status, answer.header("leno-reason")), (403, Some("denied_by_policy")));
    assert_eq!(app.seen().len(), 0);
    for member in [&pair.client, &pair.server] {
        let metrics = member.metrics();
        assert!(
            metrics.lines().any(|l| l.starts_with("leno_requests_total") && l.contains("denied_by_policy")),
            "{metrics}"
        );
    }
}

#[test]
fn path_tricks_do_not_pass_a_path_rule() {
    let app = App::http("web");
    let pair = Pair::with_access(app.address, AppProtocol::Http, deny_path("/admin"));
    let mut caller = Caller::new(pair.local());
    for path in
        ["/admin", "/admin?x", "//admin", "/a/../admin", "/%61dmin", "/./admin/x", "/admin;x=1", "/a/%2e%2e/admin"]
    {
        assert_eq!(caller.get("web", path).status, 403, "{path}");
    }
    for path in ["/admin%2f", "/a%5c..%5cadmin", "/a%00", "/a\\..\\admin%5c"] {
        let status = Caller::new(pair.local()).get("web", path).status;
        assert!(matches!(status, 400 | 403), "{path}: {status}");
    }
    assert_eq!(app.seen().len(), 0);
    assert_eq!(Caller::new(pair.local()).get("web", "/a/../fine").text(), "web /fine");
}

#[test]
fn denied_tcp_is_reset_before_a_byte() {
    let app = App::server_first("secret\n");
    let pair = Pair::with_access(app, AppProtocol::Tcp, only("somebody-else"));
    assert_eq!(Caller::new(pair.local()).rest(), "");
}

#[test]
fn a_new_policy_cuts_live_streams() {
    let app = App::server_first("welcome\n");
    let mut pair = Pair::new(app, AppProtocol::Tcp);
    let mut caller = Caller::new(pair.local());
    assert_eq!(caller.line(), "welcome");
    pair.server.serves("web", app, AppProtocol::Tcp, only("somebody-else"));
    assert_eq!(caller.rest(), "");
    assert_eq!(Caller::new(pair.local()).rest(), "", "new ones neither");
}

#[test]
fn a_new_policy_cuts_upgraded_connections() {
    let app = App::http("web");
    let mut pair = Pair::new(app.address, AppProtocol::Http);
    let mut caller = Caller::new(pair.local());
    caller.send("GET /upgrade HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    assert_eq!(caller.head().status, 101);
    assert_eq!(caller.send("ping").exact(4), "ping");
    pair.server.serves("web", app.address, AppProtocol::Http, deny_path("/elsewhere"));
    assert_eq!(caller.send("ping").exact(4), "ping", "a policy that does not concern it leaves it alone");
    pair.server.serves("web", app.address, AppProtocol::Http, deny_path("/upgrade"));
    assert_eq!(caller.rest(), "");
}

#[test]
fn a_revoked_identity_loses_its_hop() {
    let app = App::server_first("welcome\n");
    let mut pair = Pair::new(app, AppProtocol::Tcp);
    let mut caller = Caller::new(pair.local());
    assert_eq!(caller.line(), "welcome");
    pair.mesh.bundle.version += 1;
    pair.mesh.bundle.revoked.identities.insert(identity("caller"));
    let tls = pair.mesh.tls("web");
    pair.server.publish(|s| s.tls = Some(tls));
    assert_eq!(caller.rest(), "");
    assert_eq!(Caller::new(pair.local()).rest(), "");
}

#[test]
fn hops_of_a_retired_root_take_no_new_streams() {
    let app = App::http("web");
    for is_at_client in [true, false] {
        let mut pair = Pair::new(app.address, AppProtocol::Http);
        let mut caller = Caller::new(pair.local());
        // Several: from the third on the hop is known without being looked up.
        (0..3).for_each(|_| assert_eq!(caller.get("web", "/hello").status, 200));
        let mut long = Caller::new(pair.local());
        assert_eq!(long.send("GET /drip HTTP/1.1\r\nhost: web\r\n\r\n").head().status, 200);
        // Another root takes the place of the one that the peer's leaf comes from.
        let mut other = Mesh::new();
        if is_at_client {
            let tls = other.tls_of_generation("caller", 100);
            pair.client.publish(|s| s.tls = Some(tls));
        } else {
            let tls = other.tls_of_generation("web", 100);
            pair.server.publish(|s| s.tls = Some(tls));
        }
        let answer = loop {
            let answer = Caller::new(pair.local()).get("web", "/hello");
            if answer.status != 200 {
                break answer;
            }
        };
        assert!(answer.text().contains("peer_untrusted"), "{}", answer.text());
        // What is under way may finish.
        assert_eq!(long.line(), "1");
        assert_eq!(long.line(), "a");
    }
}

#[test]
fn a_renewal_is_not_noticed() {
    let app = App::http("web");
    let mut pair = Pair::new(app.address, AppProtocol::Http);
    let mut caller = Caller::new(pair.local());
    for round in 0..5 {
        (0..3).for_each(|_| assert_eq!(caller.get("web", "/hello").status, 200, "round {round}"));
        let (client, server) = (pair.mesh.tls("caller"), pair.mesh.tls("web"));
        if round % 2 == 0 {
            pair.client.publish(|s| s.tls = Some(client));
        } else {
            pair.server.publish(|s| s.tls = Some(server));
        }
    }
}

#[test]
fn a_peer_with_another_identity_gets_nothing() {
    let app = App::http("web");
    let mut pair = Pair::new(app.address, AppProtocol::Http);
    let mut caller = Caller::new(pair.local());
    // A hop that stands already does not count either.
    (0..3).for_each(|_| assert_eq!(caller.get("web", "/hello").status, 200));
    let mut plan = plan("web", AppProtocol::Http, vec![endpoint("web-1", pair.server.hop)]);
    plan.identities = Arc::from([identity("other")]);
    pair.client.calls(plan);
    let answer = loop {
        let answer = Caller::new(pair.local()).get("web", "/hello");
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("peer_identity_mismatch"), "{}", answer.text());
    let seen = app.seen().len();
    assert_eq!(Caller::new(pair.local()).get("web", "/hello").status, 503);
    assert_eq!(app.seen().len(), seen);
}

#[test]
fn a_service_that_is_not_owned_is_refused() {
    let app = App::http("web");
    let mut pair = Pair::new(app.address, AppProtocol::Http);
    pair.server.publish(|s| s.inbound.clear());
    let answer = Caller::new(pair.local()).get("web", "/hello");
    assert!(answer.status == 503 && answer.text().contains("service_not_owned"), "{}", answer.text());
}

/// A port on which nobody listens.
fn dead_port() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_refused_connection_is_retried_elsewhere_and_nothing_runs_twice() {
    let app = App::http("web");
    let mut pair = Pair::new(app.address, AppProtocol::Http);
    let endpoints = vec![endpoint("dead", dead_port()), endpoint("web-1", pair.server.hop)];
    pair.client.calls(plan("web", AppProtocol::Http, endpoints));
    let mut caller = Caller::new(pair.local());
    for n in 0..20 {
        let answer =
            caller.send(&format!("POST /echo HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\n\r\n{n:02}")).answer();
        assert_eq!((answer.status, answer.text()), (200, format!("{n:02}")));
    }
    assert_eq!(app.seen().len(), 20);
}

#[test]
fn a_request_that_may_have_run_is_not_sent_again() {
    let app = App::http("web");
    let pair = Pair::new(app.address, AppProtocol::Http);
    let mut caller = Caller::new(pair.local());
    // The application takes the request and dies without an answer.
    let answer = caller.send("POST /close-now HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\n\r\n").answer();
    assert_eq!((answer.status, answer.header("leno-reason")), (502, Some("upstream_reset")));
    assert_eq!(app.seen().len(), 1);
}

#[test]
fn what_a_drain_cuts_is_not_sent_elsewhere() {
    let (app, second) = (App::http("web"), App::http("web"));
    let mut pair = Pair::new(app.address, AppProtocol::Http);
    let mut caller = Caller::new(pair.local());
    caller.send("POST /slow HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\n\r\nab");
    while app.seen().is_empty() {
        std::thread::yield_now();
    }
    let mut other = Member::start(&mut pair.mesh, settings("web", Some((second.address, AppProtocol::Http)), &[]));
    other.serves("web", second.address, AppProtocol::Http, open_access());
    let endpoints = vec![endpoint("web-1", pair.server.hop), endpoint("web-2", other.hop)];
    pair.client.calls(plan("web", AppProtocol::Http, endpoints));
    // The application works on it; nobody can know how far it has come.
    let soon = DrainDeadlines { deregister: Duration::ZERO, requests: Duration::ZERO, streams: Duration::ZERO };
    pair.server.drain(Side::Inbound, soon);
    assert_eq!(caller.answer().header("leno-reason"), Some("draining"));
    assert_eq!((app.seen().len(), second.seen().len()), (1, 0));
}

#[test]
fn weights_are_kept() {
    let (one, two) = (App::http("v1"), App::http("v2"));
    let mut mesh = Mesh::new();
    let mut first = Member::start(&mut mesh, settings("web-v1", Some((one.address, AppProtocol::Http)), &[]));
    first.serves("web-v1", one.address, AppProtocol::Http, open_access());
    let mut second = Member::start(&mut mesh, settings("web-v2", Some((two.address, AppProtocol::Http)), &[]));
    second.serves("web-v2", two.address, AppProtocol::Http, open_access());
    let mut client = Member::start(&mut mesh, settings("caller", None, &["web"]));
    let mut rule = RouteRule::to_service("split", name("web-v1"), PORT);
    rule.backends[0].weight = 90;
    rule.backends.extend(RouteRule::to_service("", name("web-v2"), PORT).backends.drain(..).map(|mut b| {
        b.weight = 10;
        b
    }));
    let mut split = plan("web", AppProtocol::Http, vec![]);
    let routes = RouteTable::new(vec![rule], vec![RouteEntry { condition: RouteMatch::default(), rule: 0 }]);
    let port =
        DestinationPort { protocol: Some(AppProtocol::Http), routes, endpoints: Arc::new(EndpointSet::default()) };
    split.ports.insert(PORT, port);
    client.calls(split);
    client.calls(plan("web-v1", AppProtocol::Http, vec![endpoint("a", first.hop)]));
    client.calls(plan("web-v2", AppProtocol::Http, vec![endpoint("b", second.hop)]));
    let mut caller = Caller::new(client.upstreams[0]);
    for _ in 0..1000 {
        assert_eq!(caller.get("web", "/").status, 200);
    }
    // Binomial with p = 0.1, n = 1000: six standard deviations are 57.
    let share = two.seen().len();
    assert!((43..=157).contains(&share) && share + one.seen().len() == 1000, "{share}");
}

#[test]
fn unknown_and_missing_destinations_say_so() {
    let mut mesh = Mesh::new();
    let mut client = Member::start(&mut mesh, settings("caller", None, &["web"]));
    let answer = Caller::new(client.upstreams[0]).get("web", "/");
    assert_eq!((answer.status, answer.header("leno-reason")), (503, Some("control_plane_unreachable")));
    client.publish(|s| {
        let missing = Destination { state: DestinationState::Missing, used: Arc::new(LastUsed::default()) };
        s.outbound.insert(name("web"), missing);
    });
    let answer = Caller::new(client.upstreams[0]).get("web", "/");
    assert_eq!((answer.status, answer.header("leno-reason")), (404, Some("unknown_destination")));
}

#[test]
fn the_forward_proxy_knows_mesh_names_and_refuses_itself() {
    let app = App::http("web");
    let pair = Pair::new(app.address, AppProtocol::Http);
    let forward = pair.client.forward;
    let answer = Caller::new(forward).send("GET http://web/one HTTP/1.1\r\nhost: web\r\n\r\n").answer();
    assert_eq!(answer.text(), "web /one");
    let answer = Caller::new(forward)
        .send("GET http://web.shop.mesh:80/two HTTP/1.1\r\nhost: web.shop.mesh:80\r\n\r\n")
        .answer();
    assert_eq!(answer.text(), "web /two");
    let outside = App::http("outside");
    let ask = |address: std::net::SocketAddr| {
        Caller::new(forward).send(&format!("GET http://{address}/out HTTP/1.1\r\nhost: {address}\r\n\r\n")).answer()
    };
    assert_eq!(ask(outside.address).text(), "outside /out");
    assert_eq!(outside.last().header("leno-source-identity"), None);
    assert_eq!(ask(forward).header("leno-reason"), Some("loop_detected"));
    assert_eq!(ask("169.254.169.254:80".parse().unwrap()).header("leno-reason"), Some("egress_denied"));
}

#[test]
fn connect_opens_tunnels_into_and_out_of_the_mesh() {
    let app = App::server_first("welcome\n");
    let mut pair = Pair::new(app, AppProtocol::Tcp);
    for target in ["web:80".to_owned(), App::server_first("welcome\n").to_string()] {
        let mut caller = Caller::new(pair.client.forward);
        let head = caller.send(&format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n")).head();
        assert_eq!(head.status, 200, "{target}");
        assert_eq!(caller.line(), "welcome");
        assert_eq!(caller.send("echo").exact(4), "echo");
    }
    pair.client.publish(|s| s.mesh = Arc::new(MeshView::default()));
    let target = dead_port();
    let head =
        Caller::new(pair.client.forward).send(&format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n")).head();
    assert_eq!((head.status, head.header("leno-reason")), (502, Some("egress_denied")));
}

#[test]
fn plaintext_on_the_hop_port_is_refused_with_a_reason() {
    let app = App::http("web");
    let pair = Pair::new(app.address, AppProtocol::Http);
    let answer = Caller::new(pair.server.hop).get("web", "/");
    assert_eq!((answer.status, answer.header("leno-reason")), (400, Some("plaintext_refused")));
    assert_eq!(Caller::new(pair.server.hop).send("*1\r\n$4\r\nPING\r\n").rest(), "");
    assert_eq!(app.seen().len(), 0);
}

#[test]
fn another_users_process_is_no_member() {
    let app = App::http("web");
    let mut mesh = Mesh::new();
    let mut told = settings("caller", None, &["web"]);
    told.local_callers = leno_proxy::settings::LocalCallers::User(u32::MAX - 1);
    let mut server = Member::start(&mut mesh, settings("web", Some((app.address, AppProtocol::Http)), &[]));
    server.serves("web", app.address, AppProtocol::Http, open_access());
    let mut client = Member::start(&mut mesh, told);
    client.calls(plan("web", AppProtocol::Http, vec![endpoint("web-1", server.hop)]));
    let answer = Caller::new(client.upstreams[0]).get("web", "/");
    assert_eq!((answer.status, answer.header("leno-reason")), (403, Some("not_member")));
}

#[test]
fn an_exposed_application_is_not_served() {
    let app = App::http("web");
    let pair = Pair::new(app.address, AppProtocol::Http);
    pair.server.plane.process().set_exposed(true);
    let answer = Caller::new(pair.local()).get("web", "/");
    assert!(answer.status == 503 && answer.text().contains("exposed_app"), "{}", answer.text());
    pair.server.plane.process().set_exposed(false);
    assert_eq!(Caller::new(pair.local()).get("web", "/").status, 200);
}

#[test]
fn a_drain_lets_requests_finish_and_takes_no_new_ones() {
    let app = App::http("web");
    let mut pair = Pair::new(app.address, AppProtocol::Http);
    let mut caller = Caller::new(pair.local());
    caller.send("POST /echo HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 6\r\n\r\n");
    // The application has the request, its body comes when the drain has begun.
    assert_eq!(caller.head().status, 100);
    let second = App::http("web");
    let mut other = Member::start(&mut pair.mesh, settings("web", Some((second.address, AppProtocol::Http)), &[]));
    other.serves("web", second.address, AppProtocol::Http, open_access());
    let endpoints = vec![endpoint("web-1", pair.server.hop), endpoint("web-2", other.hop)];
    pair.client.calls(plan("web", AppProtocol::Http, endpoints));
    std::thread::scope(|scope| {
        let server = &pair.server;
        let drain = scope.spawn(|| server.drain(Side::Inbound, DrainDeadlines::default()));
        let mut next = Caller::new(pair.local());
        while TcpStream::connect(server.hop).is_ok() {
            assert_eq!(next.get("web", "/while").status, 200);
        }
        for _ in 0..20 {
            assert_eq!(next.get("web", "/after").status, 200);
        }
        assert_eq!(caller.send("abcdef").answer().text(), "abcdef");
        drain.join().unwrap();
    });
}

#[test]
fn an_idle_caller_is_told_before_its_connection_goes() {
    let app = App::http("web");
    let pair = Pair::new(app.address, AppProtocol::Http);
    let mut caller = Caller::new(pair.local());
    assert_eq!(caller.get("web", "/before").status, 200);
    std::thread::scope(|scope| {
        let client = &pair.client;
        let drain = scope.spawn(|| client.drain(Side::Outbound, DrainDeadlines::default()));
        while TcpStream::connect(pair.local()).is_ok() {}
        let answer = caller.get("web", "/meanwhile");
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert_eq!(caller.rest(), "");
        drain.join().unwrap();
    });
}

#[test]
fn a_stream_of_bytes_does_not_enter_an_http_port() {
    let app = App::http("web");
    let mut pair = Pair::new(app.address, AppProtocol::Http);
    let mut caller = Caller::new(pair.client.forward);
    let answer = caller.send("CONNECT web:80 HTTP/1.1\r\nhost: web:80\r\n\r\n").answer();
    assert_eq!((answer.status, answer.header("leno-reason")), (400, Some("malformed_request")));
    assert!(answer.text().contains("http://web.shop.mesh:80/"), "{}", answer.text());
    // A proxy that does it all the same is refused by the destination's: its requests would be nobody's.
    pair.client.calls(plan("web", AppProtocol::Tcp, vec![endpoint("web-1", pair.server.hop)]));
    let forged = "GET / HTTP/1.1\r\nhost: web\r\nleno-source-identity: spiffe://mesh.leno/ns/shop/sa/admin\r\n\r\n";
    assert_eq!(Caller::new(pair.local()).send(forged).rest(), "");
    let mut caller = Caller::new(pair.client.forward);
    let answer = caller.send("CONNECT web:80 HTTP/1.1\r\nhost: web:80\r\n\r\n").answer();
    assert_eq!((answer.status, answer.header("leno-reason")), (400, Some("malformed_request")));
    assert_eq!(app.seen().len(), 0);
}

#[test]
fn served_ports_do_not_take_each_others_requests() {
    let (first, second) = (App::http("first"), App::http("second"));
    let mut mesh = Mesh::new();
    let mut told = settings("web", None, &[]);
    // Like `--port 80:A --port A:B`: the first application's own port is also the name of the second's.
    told.ports = [(PORT, first.address), (first.address.port(), second.address)]
        .map(|(port, app)| ServedPort { port, protocol: AppProtocol::Http, app: Some(app) })
        .into();
    let mut server = Member::start(&mut mesh, told);
    server.serves("web", first.address, AppProtocol::Http, open_access());
    let mut client = Member::start(&mut mesh, settings("caller", None, &["web"]));
    client.calls(plan("web", AppProtocol::Http, vec![endpoint("web-1", server.hop)]));
    assert_eq!(Caller::new(client.upstreams[0]).get("web", "/x").text(), "first /x");
}

#[test]
fn an_application_on_either_loopback_address_is_found() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let app = App::http_at("web", listen);
        let mut mesh = Mesh::new();
        let mut told = settings("web", None, &[]);
        let told_address = std::net::SocketAddr::from(([127, 0, 0, 1], app.address.port()));
        told.ports = vec![ServedPort { port: PORT, protocol: AppProtocol::Http, app: Some(told_address) }];
        let mut server = Member::start(&mut mesh, told);
        server.serves("web", app.address, AppProtocol::Http, open_access());
        let mut client = Member::start(&mut mesh, settings("caller", None, &["web"]));
        client.calls(plan("web", AppProtocol::Http, vec![endpoint("web-1", server.hop)]));
        assert_eq!(Caller::new(client.upstreams[0]).get("web", "/x").text(), "web /x", "{listen}");
    }
}

#[test]
fn invented_names_make_no_labels() {
    let app = App::http("web");
    let mut pair = Pair::new(app.address, AppProtocol::Http);
    let missing = |invented: &str| {
        let missing = Destination { state: DestinationState::Missing, used: Arc::new(LastUsed::default()) };
        (name(invented), missing)
    };
    let server = pair.server.hop;
    pair.client.publish(|s| {
        s.outbound.extend([missing("invented")]);
        let elsewhere = plan("elsewhere", AppProtocol::Http, vec![endpoint("web-1", server)]);
        let elsewhere = leno_plan::DestinationPlan { identities: Arc::from([identity("web")]), ..elsewhere };
        s.outbound.insert(name("elsewhere"), mesh::ready(elsewhere));
    });
    let ask = |host: &str| {
        Caller::new(pair.client.forward).send(&format!("GET http://{host}/ HTTP/1.1\r\nhost: {host}\r\n\r\n")).answer()
    };
    assert_eq!(ask("invented").header("leno-reason"), Some("unknown_destination"));
    assert!(ask("elsewhere").text().contains("service_not_owned"));
    assert_eq!(ask("web").status, 200);
    let (client, server) = (pair.client.metrics(), pair.server.metrics());
    assert!(client.contains("unknown_destination") && !client.contains("invented"), "{client}");
    assert!(server.contains("service_not_owned") && !server.contains("elsewhere"), "{server}");
    assert!(client.contains("elsewhere"), "what exists is named");
}

#[test]
fn what_outlives_the_deadlines_is_cut() {
    let app = App::server_first("welcome\n");
    let pair = Pair::new(app, AppProtocol::Tcp);
    let mut caller = Caller::new(pair.local());
    assert_eq!(caller.line(), "welcome");
    let soon = DrainDeadlines { deregister: Duration::ZERO, requests: Duration::ZERO, streams: Duration::ZERO };
    pair.server.drain(Side::Inbound, soon);
    assert_eq!(caller.rest(), "");
}
