//! Slow and silent peers (BAD_INPUTS class 9): they cost a bounded room for a bounded time, and whoever looks into the proxy still can.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use testbed::scene::{ADMIN, Bound, FORWARD, Scene, UPSTREAM};
use testbed::skip::can_run;
use testbed::{Host, apps};

/// Peers of each kind.
const PEERS: u32 = 300;
/// What they may take, in MiB: 16 KiB each, and what belongs to the honest client.
const SLOW: Bound = Bound { near: PEERS as u64 * 16 / 1024 + 4, far: PEERS as u64 * 16 / 1024 + 4 };

fn open(host: &Host, to: SocketAddr, first: &[u8]) -> Vec<TcpStream> {
    let connect = |_| {
        let mut io = TcpStream::connect(to).expect("connecting");
        io.write_all(first).expect("sending");
        io
    };
    host.within(|| (0..PEERS).map(connect).collect())
}

/// Waits until the peer has closed; gives what it said.
#[track_caller]
fn ended(mut io: &TcpStream) -> String {
    io.set_read_timeout(Some(testbed::wait::LIMIT)).expect("a socket of ours");
    let mut said = Vec::new();
    match io.read_to_end(&mut said) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("a silent connection is held"),
        _ => String::from_utf8_lossy(&said).into_owned(),
    }
}

#[test]
fn slow_heads_and_half_open_handshakes_are_ended() {
    if !can_run("slow_heads", apps::NEEDS) {
        return;
    }
    let mut scene = Scene::with_nginx("");
    let far = scene.hop();
    let said = scene.attack("300 slow heads, slow first bytes and half-open handshakes", SLOW, |s| {
        let three = s.three();
        let mut heads = open(three, Scene::local(UPSTREAM), b"GET /slow HTTP/1.1\r\nX: ");
        let silent = open(three, Scene::local(FORWARD), b"GET /");
        let handshakes = open(three, far, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03");
        let plain = open(three, far, b"");
        // A byte of the head now and then does not buy time: the limit is for the whole.
        let mut alive = heads.len();
        while alive > 0 {
            alive = heads.iter_mut().map(|io| io.write_all(b"a")).filter(Result::is_ok).count();
            std::thread::sleep(std::time::Duration::from_millis(200)); // the pace of the attack, not a state that is waited for
        }
        [heads, silent, handshakes, plain].map(|all| all.iter().map(ended).collect::<Vec<_>>())
    });
    let [heads, silent, handshakes, plain] = said;
    let timed_out = |all: &[String]| all.iter().filter(|s| s.contains(" 408 ")).count();
    println!("408: {} of the heads, {} of the first bytes", timed_out(&heads), timed_out(&silent));
    // Whose next byte met the close has the answer reset away.
    assert!(heads.iter().all(|s| s.is_empty() || s.contains(" 408 ")), "{heads:?}");
    assert_eq!(timed_out(&silent), silent.len());
    assert!(handshakes.iter().chain(&plain).all(|s| !s.contains("HTTP")), "a handshake is not answered in plaintext");
    scene.wait_for_metric(&scene.near, "leno_requests_active", &[], 0.0);
}

#[test]
fn slow_bodies_hold_what_a_stream_may_hold_and_no_more() {
    if !can_run("slow_bodies", apps::NEEDS) {
        return;
    }
    let locations = "location /sink { proxy_request_buffering off; proxy_pass http://127.0.0.1:8081; }\n\
                     location / { return 200 \"web\\n\"; }\n\
                     }\nserver { listen 127.0.0.1:8081; location /sink { client_body_buffer_size 64k; proxy_pass http://127.0.0.1:8080/; }";
    let mut scene = Scene::with_nginx(locations);
    scene.attack("300 bodies that come byte by byte", SLOW, |s| {
        let head = b"POST /sink HTTP/1.1\r\nHost: web\r\nContent-Length: 100\r\n\r\n";
        let mut all = open(s.three(), Scene::local(UPSTREAM), head);
        s.wait_for_metric(&s.far, "leno_requests_active", &[], f64::from(PEERS));
        for _ in 0..20 {
            for io in &mut all {
                io.write_all(b"b").expect("a slow body is nobody's fault yet");
            }
        }
        // Their end is the clients' own; the requests end with them.
        drop(all);
        s.wait_for_metric(&s.near, "leno_requests_active", &[], 0.0);
        s.wait_for_metric(&s.far, "leno_requests_active", &[], 0.0);
    });
}

/// Descriptors that the proxies of this scenario may open. Three quarters of them are for connections, and three quarters of those for
/// either side.
const DESCRIPTORS: usize = 512;

#[test]
fn idle_connections_up_to_the_limit_leave_the_admin_port_and_the_others_their_places() {
    if !can_run("idle_to_the_limit", apps::NEEDS) {
        return;
    }
    let mut scene = Scene::limited(DESCRIPTORS);
    let far = scene.hop();
    let per_side = DESCRIPTORS / 4 * 3 / 4 * 3;
    let bound = Bound { near: 8, far: 16 };
    scene.attack("idle connections beyond the descriptor limit", bound, |s| {
        let three = s.three();
        let flood = |to: SocketAddr| -> Vec<TcpStream> {
            three.within(|| (0..DESCRIPTORS + 100).filter_map(|_| TcpStream::connect(to).ok()).collect())
        };
        let (near, far) = (flood(Scene::local(FORWARD)), flood(far));
        // Those beyond the cap are closed, the others stay.
        for (name, all) in [("near", &near), ("far", &far)] {
            let open = |io: &&TcpStream| {
                io.set_nonblocking(true).expect("a socket of ours");
                matches!(io.peek(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
            };
            testbed::wait::until(&format!("{name} has closed what is too many"), || {
                match all.iter().filter(open).count() {
                    left if left <= per_side => Ok(left),
                    left => Err(format!("{left} of {} are open, {per_side} may be", all.len())),
                }
            });
        }
        for member in [&s.near, &s.far] {
            let ready = member.host.curl(&[
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                &format!("http://127.0.0.1:{ADMIN}/ready"),
            ]);
            assert_eq!(ready.stdout, "200", "the admin port of {}", member.name);
            assert!(member.metrics(ADMIN).contains("leno_connections_active"));
        }
        (near, far)
    });
    // They are gone: there is room again.
    assert_eq!(scene.three().curl(&["http://127.0.0.1:9080/"]).ok(), "web\n");
}
