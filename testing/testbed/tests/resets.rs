//! Resets at every await (BAD_INPUTS class 13): peers that vanish during TLS, head, plan, retry, body and drain. No panic, nothing kept,
//! and each request is counted once.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustix::process::Signal;
use testbed::scene::{ADMIN, Bound, FORWARD, Scene, UPSTREAM, metric};
use testbed::skip::can_run;
use testbed::{Host, apps, wire};

/// Peers that vanish at each place.
const PEERS: usize = 100;
/// What they may take while they are there, in MiB: 64 KiB each, windows that are full among it.
const VANISHED: Bound = Bound { near: 16, far: 16 };

fn open(host: &Host, to: SocketAddr, first: &[u8]) -> Vec<TcpStream> {
    let connect = |_| {
        let mut io = TcpStream::connect(to).expect("connecting");
        io.write_all(first).expect("sending");
        io
    };
    host.within(|| (0..PEERS).map(connect).collect())
}

fn vanish(all: Vec<TcpStream>) {
    all.into_iter().for_each(wire::reset);
}

/// Requests of a direction that ended, in all, and for this reason.
fn ended(page: &str, direction: &str, reason: &str) -> (f64, f64) {
    let (direction, reason) = (format!("direction=\"{direction}\""), format!("reason=\"{reason}\""));
    let all = metric(page, "leno_requests_total", &[&direction, "destination_service=\"web.default\""]);
    (all, metric(page, "leno_requests_total", &[&direction, &reason]))
}

#[test]
fn who_vanishes_takes_everything_along_and_is_counted_once() {
    if !can_run("resets", apps::NEEDS) {
        return;
    }
    let locations = "location /slow { limit_rate 10k; }\n\
                     location /hold { proxy_request_buffering on; proxy_pass http://127.0.0.1:8080/; }\n\
                     location / { return 200 \"web\\n\"; }";
    let mut scene = Scene::with_nginx(locations);
    let slow =
        std::fs::File::create(scene.network.folder().join("nginx-web/html/slow")).expect("a file in our own folder");
    slow.set_len(1 << 20).expect("a sparse file");
    let (local, hop) = (Scene::local(UPSTREAM), scene.hop());
    let count = PEERS as f64;
    let nothing_is_left = |s: &Scene| {
        for member in [&s.near, &s.far] {
            s.wait_for_metric(member, "leno_requests_active", &[], 0.0);
            s.wait_for_metric(member, "leno_streams_active", &[], 0.0);
        }
        // The honest client's connections are there or not yet gone.
        testbed::wait::until("the connections are gone", || {
            match metric(&s.near.metrics(ADMIN), "leno_connections_active", &["listener=\"outbound\""]) {
                left if left <= 4.0 => Ok(()),
                left => Err(format!("{left} are left")),
            }
        });
    };

    scene.attack("vanishing during TLS", VANISHED, |s| {
        vanish(open(s.three(), hop, b""));
        vanish(open(s.three(), hop, b"\x16\x03\x01"));
        vanish(open(s.three(), hop, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"));
        s.wait_for_metric(&s.far, "leno_connections_active", &["listener=\"hop\""], 1.0);
    });
    scene.attack("vanishing inside the head", VANISHED, |s| {
        vanish(open(s.three(), local, b"GET /head HT"));
        vanish(open(s.three(), local, b"GET /head HTTP/1.1\r\nHost: web\r\nX:"));
        vanish(open(s.three(), local, &[wire::PREFACE, b"\0\0\x20\x01"].concat()));
    });
    nothing_is_left(&scene);

    // The request's body is under way: the application has its head, and never sees its end.
    let (before, cut) = ended(&scene.near.metrics(ADMIN), "outbound", "downstream_reset");
    scene.attack("vanishing inside the request's body", VANISHED, |s| {
        let head = b"POST /hold HTTP/1.1\r\nHost: web\r\nContent-Length: 100000\r\n\r\n12345";
        let all = open(s.three(), local, head);
        s.wait_for_metric(&s.far, "leno_requests_active", &["destination_service=\"web.default\""], count);
        vanish(all);
        s.wait_for_metric(&s.far, "leno_requests_active", &[], 0.0);
    });
    nothing_is_left(&scene);
    let (after, cut_now) = ended(&scene.near.metrics(ADMIN), "outbound", "downstream_reset");
    assert!((cut_now - cut - count).abs() < 0.5, "{cut} and then {cut_now} of {count} are counted");
    assert!(after - before >= count);
    let (_, cut) = ended(&scene.far.metrics(ADMIN), "inbound", "downstream_reset");
    assert!((cut - count).abs() < 0.5, "the far proxy counts {cut} of {count}");

    // The answer is under way.
    scene.attack("vanishing inside the answer's body", VANISHED, |s| {
        let mut all = open(s.three(), local, b"GET /slow HTTP/1.1\r\nHost: web\r\n\r\n");
        for io in &mut all {
            assert!(io.read(&mut [0; 1024]).expect("the answer begins") > 0);
        }
        vanish(all);
    });
    nothing_is_left(&scene);
    let (_, cut_then) = ended(&scene.near.metrics(ADMIN), "outbound", "downstream_reset");
    assert!((cut_then - cut_now - count).abs() < 0.5, "{cut_now} and then {cut_then}: each is counted once");

    // The application vanishes, and with it attempts that wait for their turn.
    scene.attack("vanishing while the plan is awaited", VANISHED, |s| {
        // A control plane that says nothing: the first use of a destination waits for its answer.
        s.mesh.pause(true);
        let all = open(
            s.three(),
            Scene::local(FORWARD),
            b"GET http://nobody.nowhere.mesh/ HTTP/1.1\r\nHost: nobody.nowhere.mesh\r\n\r\n",
        );
        s.wait_for_metric(&s.near, "leno_connections_active", &["listener=\"forward_proxy\""], count);
        vanish(all);
        s.wait_for_metric(&s.near, "leno_connections_active", &["listener=\"forward_proxy\""], 0.0);
        s.mesh.pause(false);
    });
    nothing_is_left(&scene);
    scene.nobody_panicked();
}

#[test]
fn who_vanishes_during_retries_or_a_drain_holds_nothing_up() {
    if !can_run("resets_at_the_end", apps::NEEDS) {
        return;
    }
    let mut scene = Scene::with_nginx("location /slow { limit_rate 10k; }\nlocation / { return 200 \"web\\n\"; }");
    let slow =
        std::fs::File::create(scene.network.folder().join("nginx-web/html/slow")).expect("a file in our own folder");
    slow.set_len(1 << 20).expect("a sparse file");
    let local = Scene::local(UPSTREAM);
    // The far host answers nothing any more: connections to its hop port are tried again until their limits.
    let far = scene.far.process().pid();
    let stop = |signal| {
        rustix::process::kill_process(rustix::process::Pid::from_raw(far.cast_signed()).expect("a process"), signal)
    };
    stop(Signal::STOP).expect("a process of ours");
    let waiting = open(scene.three(), local, b"GET /retry HTTP/1.1\r\nHost: web\r\n\r\n");
    scene.wait_for_metric(&scene.near, "leno_connections_active", &["listener=\"outbound\""], PEERS as f64);
    vanish(waiting);
    scene.wait_for_metric(&scene.near, "leno_requests_active", &[], 0.0);
    scene.wait_for_metric(&scene.near, "leno_connections_active", &["listener=\"outbound\""], 0.0);
    stop(Signal::CONT).expect("a process of ours");
    testbed::wait::until("it works again", || {
        let answer = scene.three().curl(&["http://127.0.0.1:9080/"]);
        if answer.stdout == "web\n" { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    // A drain waits for what is under way, and not for who has gone.
    let mut all = open(scene.three(), local, b"GET /slow HTTP/1.1\r\nHost: web\r\n\r\n");
    for io in &mut all {
        assert!(io.read(&mut [0; 1024]).expect("the answer begins") > 0);
    }
    scene.near.process().signal(Signal::TERM);
    scene.near.process().wait_for_line("that it drains", |l| l.contains("draining").then_some(()));
    vanish(all);
    let status = scene.near.process().wait();
    assert!(status.success(), "{status}: {}", scene.near.log());
    let log = scene.near.log();
    let cut = log.lines().filter(|l| l.contains("cut at the drain deadline") && !l.contains("requests=0"));
    assert_eq!(cut.collect::<Vec<_>>(), [""; 0], "{log}");
    scene.wait_for_metric(&scene.far, "leno_requests_active", &[], 0.0);
    scene.nobody_panicked();
}
