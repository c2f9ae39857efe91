//! The hop in hostile hands (BAD_INPUTS class 21): a member with a valid certificate that breaks the protocol or asks for what is not the
//! workload's, callers that lead the proxy to itself, and who speaks plaintext to the hop port.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};
use testbed::scene::{ADMIN, APP, Bound, FORWARD, HOP, Scene, UPSTREAM, metric};
use testbed::skip::can_run;
use testbed::{Member, apps, wire};

/// What one peer may take, in MiB: its windows (1 MiB), its heads (1 MiB), answers owed to it (256 KiB), state of 1,024 streams.
const ONE_PEER: Bound = Bound { near: 4, far: 12 };

// Kinds and flags of docs/reference/hop.md.
const DATA: u8 = 0;
const HEAD: u8 = 1;
const INFO: u8 = 2;
const TRAILERS: u8 = 3;
const RESET: u8 = 4;
const WINDOW: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const HELLO: u8 = 8;
const STOP: u8 = 9;
const END: u8 = 1;
const CRITICAL: u8 = 0x80;

/// Frames have the shape of HTTP/2's.
use wire::frame;

fn hello() -> Vec<u8> {
    let mut payload = vec![0, 1, 0, 1];
    for (setting, value) in [(1_u16, 262_144_u32), (2, 1_048_576), (3, 1_024)] {
        payload.extend(setting.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(HELLO, 0, 0, &payload)
}

fn head(stream: u32, flags: u8, text: &str) -> Vec<u8> {
    frame(HEAD, flags, stream, text.as_bytes())
}

fn get(stream: u32, service: &str, port: u16, line: &str) -> Vec<u8> {
    head(stream, END, &format!("{service} {port} http http\r\n{line}\r\n"))
}

fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"farewell")
}

/// The answer to [`ping`]: what came before it is what the peer says to all that was sent before.
fn pong() -> String {
    hex(&frame(PING, END, 0, b"farewell"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Frames as they came: kind, flags, stream, payload.
fn frames(answer: &Value) -> Vec<(u8, u8, u32, String)> {
    let text = answer["answer"].as_str().expect("hex");
    let bytes: Vec<u8> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect();
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(head) = bytes.get(at..at + 9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let Some(payload) = bytes.get(at + 9..at + 9 + length) else { break };
        found.push((head[3], head[4], stream, String::from_utf8_lossy(payload).into_owned()));
        at += 9 + length;
    }
    found
}

/// Runs the cases as the member `who`, by OpenSSL.
#[track_caller]
fn as_member(scene: &Scene, who: &Member, cases: &[Value]) -> Vec<Value> {
    let identity = who.state.join("identity.pem").display().to_string();
    let address = scene.two().address().to_string();
    let mut command = scene.three().command(apps::PYTHON);
    command.args([&apps::program("tls_raw.py"), &address, &HOP.to_string(), &identity, "leno/1"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starting python");
    let text = Value::from(cases.to_vec()).to_string();
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("writing the cases");
    let output = child.wait_with_output().expect("the end of python");
    serde_json::from_slice(&output.stdout).expect("JSON of tls_raw.py")
}

fn case(name: &str, parts: &[&[u8]]) -> Value {
    json!({"name": name, "send": hex(&parts.concat()), "until": pong()})
}

#[test]
fn a_member_that_breaks_the_protocol_is_told_and_cut_off() {
    if !can_run("hop_protocol", apps::NEEDS) {
        return;
    }
    let mut scene = Scene::with_nginx("");
    let web = |stream| get(stream, "default/web", APP, "GET /peer h=web");
    let opened = head(1, 0, &format!("default/web {APP} http http\r\nPOST /peer h=web l=*\r\n"));
    let hello = hello();
    let over = vec![b'x'; 16_000];
    // Seventeen slices are more than a stream's window.
    let flood_of_data: Vec<u8> = (0..20).flat_map(|_| frame(DATA, 0, 1, &over)).collect();
    let tail = ping();
    let with = |name: &str, parts: &[&[u8]]| case(name, &[parts, &[&tail]].concat());
    let mut cases = vec![
        with("a stream before HELLO", &[&web(1)]),
        with("PING before HELLO", &[&tail]),
        with("a second HELLO", &[&hello, &hello]),
        with("no common version", &[&frame(HELLO, 0, 0, &[0, 9, 0, 9])]),
        with("HELLO cut short", &[&frame(HELLO, 0, 0, &[0])]),
        with("an even id", &[&hello, &web(2)]),
        with("stream 0", &[&hello, &web(0)]),
        with("an id used again", &[&hello, &web(1), &web(1)]),
        with("ids out of order", &[&hello, &web(5), &web(3)]),
        with("DATA before HEAD", &[&hello, &frame(DATA, END, 1, b"x")]),
        with("DATA after the end", &[&hello, &web(1), &frame(DATA, END, 1, b"x")]),
        with("TRAILERS before HEAD", &[&hello, &frame(TRAILERS, 0, 3, b"a: b\r\n")]),
        with("a second HEAD", &[&hello, &opened, &opened]),
        with("RESET of a stream that was never opened", &[&hello, &frame(RESET, 0, 9, b"downstream_reset")]),
        with("WINDOW on a stream that was never opened", &[&hello, &frame(WINDOW, 0, 9, &[0, 0, 0, 1])]),
        with("WINDOW of 0", &[&hello, &frame(WINDOW, 0, 0, &[0; 4])]),
        with("WINDOW beyond 2^31", &[&hello, &frame(WINDOW, 0, 0, &[0x7f, 255, 255, 255])]),
        with("WINDOW of 3 bytes", &[&hello, &frame(WINDOW, 0, 0, &[0; 3])]),
        with("PING of 9 bytes", &[&hello, &frame(PING, 0, 0, &[0; 9])]),
        with("the answer to no PING", &[&hello, &frame(PING, END, 0, &[1; 8])]),
        with("INFO of the origination", &[&hello, &opened, &frame(INFO, 0, 1, b"103\r\n")]),
        with("STOP of the origination", &[&hello, &opened, &frame(STOP, 0, 1, b"")]),
        with("a critical kind", &[&hello, &frame(77, CRITICAL, 0, b"")]),
        with("a critical flag", &[&hello, &frame(PING, CRITICAL, 0, &[0; 8])]),
        with("a frame that is too long", &[&hello, &[255, 255, 255, DATA, 0, 0, 0, 0, 1]]),
        with("DATA beyond the window", &[&hello, &opened, &flood_of_data]),
    ];
    let goaway_first = cases.len();
    // Floods: what costs us and serves nobody.
    for (name, piece, times) in [
        ("a flood of PING", frame(PING, 0, 0, &[7; 8]), 20_000),
        ("a flood of empty DATA", frame(DATA, 0, 1, b""), 20_000),
        ("a flood of unknown frames", frame(99, 0, 0, b""), 20_000),
    ] {
        let mut first = [&hello[..], &opened].concat();
        first.extend(piece.repeat(times));
        cases.push(json!({"name": name, "send": hex(&first)}));
    }
    let mut resets = hello.clone();
    for n in 0..15_000_u32 {
        resets.extend(web(2 * n + 1));
        resets.extend(frame(RESET, 0, 2 * n + 1, b"downstream_reset"));
    }
    cases.push(json!({"name": "15,000 streams opened and reset", "send": hex(&resets)}));
    let answers =
        scene.attack("a member that breaks the protocol of the hop", ONE_PEER, |s| as_member(s, &s.near, &cases));
    for (number, answer) in answers.iter().enumerate() {
        let seen = frames(answer);
        let told = seen.iter().any(|(kind, ..)| *kind == GOAWAY);
        assert!(answer["closed"] == true && answer["alpn"] == "leno/1", "{}: {seen:?}", answer["name"]);
        // Behind a flood the word may be lost to the reset of what was still being sent.
        assert!(told || number >= goaway_first, "{}: {seen:?}", answer["name"]);
    }
    // Kinds and flags that this version does not know are nothing to close for.
    let fine =
        [&hello[..], &frame(77, 0, 0, b"from the future"), &frame(PING, 0x40, 0, &[0; 8]), &web(1), &tail].concat();
    let answers =
        as_member(&scene, &scene.near, &[json!({"name": "the future", "send": hex(&fine), "until": hex(b"web\n")})]);
    assert!(answers[0]["closed"] == false, "{answers:?}");
    scene.wait_for_metric(&scene.far, "leno_requests_active", &[], 0.0);
}

#[test]
fn a_member_gets_nothing_that_is_not_the_workloads() {
    if !can_run("hop_requests", apps::NEEDS) {
        return;
    }
    let mut scene = Scene::with_nginx("");
    let other = scene.mesh.proxy(scene.three(), "other", "client", &["--hop", "127.0.0.1:0"]);
    let hello = hello();
    let text = |line: &str| head(1, END, line);
    let two = scene.two().address();
    let asked: Vec<(&str, Vec<u8>)> = vec![
        ("another service", get(1, "default/other", APP, "GET / h=web")),
        ("another namespace", get(1, "kube-system/web", APP, "GET / h=web")),
        ("the control plane's port", get(1, "default/web", 15_100, "GET / h=web")),
        ("the hop port", get(1, "default/web", HOP, "GET / h=web")),
        ("the admin port", get(1, "default/web", ADMIN, "GET / h=web")),
        ("port 0", get(1, "default/web", 0, "GET / h=web")),
        ("a port beyond 65535", text("default/web 99999 http http\r\nGET / h=web\r\n")),
        (
            "CONNECT to the admin port",
            text(&format!("default/web {APP} http http\r\nCONNECT 127.0.0.1:{ADMIN} h=127.0.0.1:{ADMIN}\r\n")),
        ),
        (
            "CONNECT to the hop port",
            text(&format!("default/web {APP} http http\r\nCONNECT {two}:{HOP} h={two}:{HOP}\r\n")),
        ),
        (
            "CONNECT elsewhere",
            text(&format!("default/web {APP} http http\r\nCONNECT 10.77.0.1:15101 h=10.77.0.1:15101\r\n")),
        ),
        (
            "CONNECT to metadata",
            text(&format!("default/web {APP} http http\r\nCONNECT 169.254.169.254:80 h=169.254.169.254:80\r\n")),
        ),
        ("an absolute target", text(&format!("default/web {APP} http http\r\nGET http://10.77.0.1/ h=web\r\n"))),
        ("a stream of bytes into a port of another service", text(&format!("default/other {APP} tcp tcp\r\n"))),
        ("a stream of bytes to an own port", text(&format!("default/web {ADMIN} tcp tcp\r\n"))),
        ("no service", text(&format!(" {APP} http http\r\nGET / h=web\r\n"))),
        ("an address for a service", text(&format!("127.0.0.1/web {APP} http http\r\nGET / h=web\r\n"))),
        ("smuggling in the target", text(&format!("default/web {APP} http http\r\nGET /a\tHTTP/1.1 h=web\r\n"))),
        (
            "framing in the head",
            text(&format!("default/web {APP} http http\r\nGET / h=web\r\ntransfer-encoding: chunked\r\n")),
        ),
        ("a bare LF", text(&format!("default/web {APP} http http\nGET / h=web\n"))),
    ];
    // A stream is refused in a turn of its own, which may come behind the answer to a PING: the end of its RESET is waited for.
    let until = hex(&[&[RESET, 2][..], &1_u32.to_be_bytes()].concat());
    let unsure = hex(&[&[RESET, 0][..], &1_u32.to_be_bytes()].concat());
    let ask = |(name, bytes): &(&str, Vec<u8>)| json!({"name": name, "send": hex(&[&hello[..], bytes].concat()), "until": until, "or": unsure});
    let cases: Vec<Value> = asked.iter().map(ask).collect();
    let answers =
        scene.attack("a member that asks for what is not the workload's", ONE_PEER, |s| as_member(s, &s.near, &cases));
    for answer in &answers {
        let seen = frames(answer);
        let refused = seen.iter().find(|(kind, _, stream, _)| *kind == RESET && *stream == 1);
        assert!(refused.is_some(), "{}: {seen:?}", answer["name"]);
        assert!(!seen.iter().any(|(kind, ..)| *kind == HEAD), "{}: it was answered: {seen:?}", answer["name"]);
        println!("{}: {}", answer["name"], refused.map(|r| r.3.clone()).unwrap_or_default());
    }
    let log = apps::nginx_log(scene.network.folder(), "web");
    assert!(log.iter().all(|l| l.contains("/honest")), "{log:#?}");
    drop(other);
}

#[test]
fn a_proxy_is_not_led_to_itself() {
    if !can_run("hop_loops", apps::NEEDS) {
        return;
    }
    let mut scene = Scene::with_nginx("");
    let two = scene.two().address();
    let three = scene.three().address();
    let to = Scene::local(FORWARD);
    let connect = |target: &str| format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    let absolute =
        |target: &str| format!("GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    let mut targets: Vec<String> = [ADMIN, FORWARD, UPSTREAM].iter().map(|port| format!("127.0.0.1:{port}")).collect();
    targets.extend([
        format!("localhost:{ADMIN}"),
        format!("[::1]:{FORWARD}"),
        format!("[::ffff:127.0.0.1]:{ADMIN}"),
        format!("127.1.2.3:{FORWARD}"),
        format!("0.0.0.0:{ADMIN}"),
        format!("{three}:{FORWARD}"),
        "169.254.169.254:80".to_owned(),
        "[fe80::1]:80".to_owned(),
        "224.0.0.1:80".to_owned(),
        format!("web.default.mesh:{HOP}"),
    ]);
    let requests: Vec<String> = targets.iter().flat_map(|t| [connect(t), absolute(t)]).collect();
    let replies = scene.attack("requests that lead to the proxy itself", ONE_PEER, |s| {
        requests
            .iter()
            .map(|r| wire::converse(&s.three().connect(to), r.as_bytes(), |b| b.windows(4).any(|w| w == b"\r\n\r\n")))
            .collect::<Vec<_>>()
    });
    for (request, reply) in requests.iter().zip(&replies) {
        let line = request.lines().next().unwrap_or_default();
        assert!(reply.status().is_some_and(|s| s >= 400), "{line}: {}", reply.text());
    }
    // A workload whose application is its own proxy goes round once and no more.
    let flags = ["--port", "15020", "--hop", "0.0.0.0:15018", "--admin", "127.0.0.1:15020"];
    let mut ring = scene.mesh.proxy(scene.network.host("one"), "ring", "ring", &flags);
    let is_refused_at_start =
        testbed::wait::until("the workload of itself is judged", || match ring.process().is_running() {
            false => Ok(true),
            true if scene.mesh.leno(&["get", "endpoints", "-A"]).stdout.contains("ring") => Ok(false),
            true => Err(ring.log()),
        });
    if !is_refused_at_start {
        let answer = scene.three().curl(&["-i", "-x", "http://127.0.0.1:15010", "http://ring/"]);
        assert!(answer.stdout.contains("loop_detected"), "{answer:?}");
    }

    // Plaintext to the hop port: told in HTTP to who speaks HTTP, silence for others.
    let hop = scene.hop();
    let before = metric(&scene.far.metrics(ADMIN), "leno_requests_total", &["plaintext_refused"]);
    let replies = scene.attack("plaintext to the hop port", ONE_PEER, |s| {
        let http = wire::to_the_end(s.three(), hop, b"GET / HTTP/1.1\r\nHost: web\r\n\r\n");
        let h2 = wire::to_the_end(s.three(), hop, &[wire::PREFACE, &wire::get(1, "/")].concat());
        let frames = wire::to_the_end(s.three(), hop, &[hello(), get(1, "default/web", APP, "GET / h=web")].concat());
        let garbage = wire::to_the_end(s.three(), hop, &[0x99; 100_000]);
        [http, h2, frames, garbage]
    });
    assert_eq!(replies[0].status(), Some(400), "{}", replies[0].text());
    assert!(replies[0].text().contains("plaintext_refused"), "{}", replies[0].text());
    assert!(replies.iter().all(|r| r.is_closed && !r.text().contains(" 200 ")));
    let after = metric(&scene.far.metrics(ADMIN), "leno_requests_total", &["plaintext_refused"]);
    assert!(after - before >= 4.0, "each is counted: {before}, then {after}");
    assert!(two.is_private());
}
