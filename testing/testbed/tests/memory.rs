//! What connections cost while they are idle, and what is left of a burst.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use testbed::memory::{Watch, settled};
use testbed::process::run;
use testbed::scene::{ADMIN, GIVEN_BACK, SLACK, Scene, UPSTREAM};
use testbed::skip::can_run;
use testbed::{apps, load};

/// Connections of both scenarios.
const CONNECTIONS: u32 = 2000;

/// One request on a kept connection.
fn ask(io: &mut TcpStream) {
    io.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").expect("sending a request");
    let (mut buffer, mut filled) = ([0; 2048], 0);
    while !buffer[..filled].ends_with(b"web\n") {
        let length = io.read(&mut buffer[filled..]).expect("reading an answer");
        assert!(length > 0, "closed after {}", String::from_utf8_lossy(&buffer[..filled]));
        filled += length;
    }
    assert!(buffer.starts_with(b"HTTP/1.1 200"));
}

/// KiB of an idle connection of a caller, at most: the goal. Measured: 2.5 in a build with debug assertions, whose futures are larger than a
/// release's; 13 when a connection held room for every protocol that it might have spoken, twice.
const IDLE_KIB: f64 = 4.0;

#[test]
fn an_idle_connection_holds_no_buffer() {
    if !can_run("memory_idle", apps::NEEDS) {
        return;
    }
    let mut scene = Scene::with_nginx("");
    let pid = scene.near.process().pid();
    let open = |count| -> Vec<TcpStream> {
        scene
            .three()
            .within(|| (0..count).map(|_| TcpStream::connect(Scene::local(UPSTREAM)).expect("connecting")).collect())
    };
    // What the first hundred need is there for all: the hop, stocks of buffers, tables.
    let mut connections = open(100);
    connections.iter_mut().for_each(ask);
    let before = settled(pid);
    connections.extend(open(CONNECTIONS));
    connections.iter_mut().for_each(ask);
    scene.wait_for_metric(
        &scene.near,
        "leno_connections_active",
        &["listener=\"outbound\""],
        f64::from(CONNECTIONS + 100),
    );
    scene.wait_for_metric(&scene.near, "leno_requests_active", &[], 0.0);
    let idle = settled(pid);
    let each = idle.saturating_sub(before) as f64 / f64::from(CONNECTIONS);
    println!("idle: {before} KiB with 100 connections, {idle} KiB with {CONNECTIONS} more: {each:.2} KiB each");
    assert!(each <= IDLE_KIB, "{each:.2} KiB for an idle connection");
    // All of them still work, and when they go their memory goes.
    connections.iter_mut().for_each(ask);
    drop(connections);
    scene.wait_for_metric(&scene.near, "leno_connections_active", &["listener=\"outbound\""], 0.0);
    let after = settled(pid);
    println!("idle: {after} KiB after they were closed");
    assert!(after <= before + SLACK * 1024, "{before} KiB before, {after} after");
}

/// Bodies of the burst.
const BODY: usize = 100 * 1024;
/// What the burst may take at each proxy, in MiB: every body of one direction at once (195 MiB), and 40 KiB of futures, queues and buffers
/// for each exchange (78 MiB).
const BURST: u64 = 195 + 78;

#[test]
fn the_memory_of_a_burst_is_given_back() {
    if !can_run("memory_burst", apps::NEEDS) {
        return;
    }
    let locations = "location /big { }\n\
                     location /sink { client_body_buffer_size 128k; proxy_pass http://127.0.0.1:8081; }\n\
                     location / { return 200 \"web\\n\"; }\n\
                     }\nserver { listen 127.0.0.1:8081 backlog=4096; location /sink { return 200; }";
    let mut scene = Scene::with_nginx(locations);
    let folder = scene.network.folder().to_owned();
    std::fs::write(folder.join("nginx-web/html/big"), vec![b'x'; BODY]).expect("a file in our own folder");
    std::fs::write(folder.join("body"), vec![b'y'; BODY]).expect("a file in our own folder");
    // Warm, so that the baseline is that of a proxy at work.
    let _ = load::requests(scene.three(), "http://127.0.0.1:9080/", 16, 200);
    let (near, far) = (scene.near.process().pid(), scene.far.process().pid());
    let _ = (settled(near), settled(far));
    let watches = [Watch::start("near", near), Watch::start("far", far)];
    for (path, more) in [("big", vec![]), ("sink", vec!["-d".to_owned(), folder.join("body").display().to_string()])] {
        let mut burst = scene.three().command("h2load");
        burst.args(["--h1", "-t", "1", "-c", &CONNECTIONS.to_string(), "-n", &CONNECTIONS.to_string()]).args(more);
        let said = run(burst.arg(format!("http://127.0.0.1:9080/{path}")), Duration::from_secs(120)).ok();
        let failed = |page: String| -> Vec<String> {
            page.lines().filter(|l| l.starts_with("leno_requests_total")).map(str::to_owned).collect()
        };
        assert!(
            said.contains(&format!("status codes: {CONNECTIONS} 2xx")),
            "{said}\n{:#?}\n{:#?}",
            failed(scene.near.metrics(ADMIN)),
            failed(scene.far.metrics(ADMIN))
        );
    }
    scene.wait_for_metric(&scene.near, "leno_connections_active", &["listener=\"outbound\""], 0.0);
    for watch in watches {
        watch.bounded("burst of 2,000 bodies of 100 KB each way", BURST, SLACK, GIVEN_BACK);
    }
    assert!(scene.near.metrics(ADMIN).contains("leno_requests_total"));
}
