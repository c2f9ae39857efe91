//! Real programs of every protocol talk through the mesh; what crosses between hosts is TLS 1.3 only.

use std::process::Command;
use std::time::Duration;

use testbed::memory::anonymous_kib as rss_kib;
use testbed::process::{Process, run};
use testbed::skip::can_run;
use testbed::{Host, Member, Mesh, Network, apps};

const LIMIT: Duration = Duration::from_secs(120);

/// nginx, redis, PostgreSQL and a gRPC server on host `two`, a client-only member on host `three`.
struct Shop {
    network: Network,
    mesh: Mesh,
    // Held: dropping a member ends it.
    members: Vec<Member>,
}

const CLIENT_ADMIN: u16 = 15020;

fn shop(hosts: &[&str], flags: &[&str]) -> Shop {
    let network = Network::new(hosts);
    let mesh = Mesh::start(&network, "one", &[]);
    let folder = network.folder();
    let two = network.host("two");
    let locations = "location / { default_type text/plain; return 200 \"hello from nginx\\n\"; }\n\
                     location /upload { client_body_buffer_size 64k; proxy_pass http://127.0.0.1:8081/; }";
    let words = |v: Vec<String>| -> Vec<String> { v };
    let apps: [(&str, &str, Vec<String>); 4] = [
        ("web", "8080/http", words(apps::nginx(folder, "web", 8080, locations))),
        ("cache", "6379/tcp", apps::redis(folder, 6379)),
        ("db", "5432/tcp", apps::postgres(folder, 5432)),
        ("echo", "50051/grpc", apps::grpc_server(50051)),
    ];
    let mut members = Vec::new();
    for (service, port, command) in &apps {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let flags = [&["--port", port], flags].concat();
        members.push(mesh.run(two, service, service, &flags, &command));
    }
    for (service, ..) in &apps {
        mesh.wait_for_endpoints(service, 1);
    }
    let admin = format!("127.0.0.1:{CLIENT_ADMIN}");
    let upstreams = ["web=9080", "cache=9379", "db=9432", "echo=9051"];
    let mut client_flags = vec!["--admin", &admin, "--forward-proxy", "15010"];
    client_flags.extend(upstreams.iter().flat_map(|u| ["--upstream", u]));
    client_flags.extend(flags);
    let mut client = mesh.proxy(network.host("three"), "client", "client", &client_flags);
    client.wait_ready(CLIENT_ADMIN);
    members.push(client);
    Shop { network, mesh, members }
}

/// Every protocol once, with its own real client.
fn use_everything(three: &Host) {
    assert_eq!(three.curl(&["http://127.0.0.1:9080/"]).ok(), "hello from nginx\n");
    // By name through the forward proxy.
    assert_eq!(three.curl(&["-x", "http://127.0.0.1:15010", "http://web/"]).ok(), "hello from nginx\n");
    let redis = |words: &[&str]| three.run("redis-cli", &[&["-p", "9379"], words].concat()).ok();
    assert_eq!(redis(&["SET", "colour", "green"]).trim(), "OK");
    assert_eq!(redis(&["GET", "colour"]).trim(), "green");
    let sql = "CREATE TABLE t AS SELECT generate_series(1, 100000) AS n; SELECT sum(n) FROM t; DROP TABLE t;";
    let answer =
        three.run("psql", &["-h", "127.0.0.1", "-p", "9432", "-U", "postgres", "-d", "postgres", "-Atc", sql]).ok();
    assert!(answer.contains("5000050000"), "{answer}");
    for call in ["unary", "big", "server_stream", "client_stream", "bidi", "deadline", "cancel", "error"] {
        let command = apps::grpc_client("127.0.0.1:9051", call);
        let said = run(three.command(&command[0]).args(&command[1..]), LIMIT).ok();
        assert_eq!(said.trim(), format!("{call} ok"));
    }
}

#[test]
fn real_programs_of_every_protocol_over_nothing_but_tls() {
    if !can_run("services", apps::NEEDS) {
        return;
    }
    let keys = tempfile::NamedTempFile::new().expect("a temporary file");
    let key_log = keys.path().display().to_string();
    let shop = shop(&["one", "two", "three"], &["--tls-key-log", &key_log]);
    let three = shop.network.host("three");
    let file = shop.network.folder().join("hosts.pcap");
    let mut capture = three.command("tcpdump");
    capture.args(["-i", "eth0", "-U", "-s", "0", "-w"]).arg(&file).args([
        "host",
        &shop.network.host("two").address().to_string(),
        "and",
        "tcp",
    ]);
    let mut capture = Process::start("tcpdump", &mut capture, shop.network.folder());
    capture.wait_for_line("that it listens", |l| l.contains("listening on").then_some(()));
    use_everything(three);
    capture.end();

    let read = |arguments: &[&str]| -> String {
        let mut command = Command::new("tshark");
        command.arg("-r").arg(&file).args(arguments);
        run(&mut command, LIMIT).ok()
    };
    // Every byte of payload belongs to a TLS record; nothing of the applications' is readable.
    let payload = read(&[
        "-Y",
        "tcp.len > 0 && !tls && !tcp.analysis.retransmission && !tcp.segment_data",
        "-T",
        "fields",
        "-e",
        "frame.number",
    ]);
    let reassembled = read(&["-Y", "tls", "-T", "fields", "-e", "frame.number"]);
    assert!(!reassembled.trim().is_empty(), "the capture holds no TLS");
    assert_eq!(payload.trim(), "", "packets that are not TLS");
    let raw = std::fs::read(&file).expect("the capture");
    for secret in [&b"hello from nginx"[..], b"colour", b"generate_series", b"leno.test.Echo", b"GET / HTTP"] {
        assert!(!raw.windows(secret.len()).any(|w| w == secret), "{:?} in the clear", String::from_utf8_lossy(secret));
    }
    let hellos = read(&[
        "-Y",
        "tls.handshake.type == 2",
        "-T",
        "fields",
        "-e",
        "tls.handshake.extensions.supported_version",
        "-e",
        "tls.handshake.extensions_key_share_group",
    ]);
    assert!(!hellos.trim().is_empty(), "no ServerHello");
    for hello in hellos.lines() {
        // 0x0304 is TLS 1.3; 4588 (0x11ec) is X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem).
        assert!(hello.contains("0x0304") && (hello.contains("4588") || hello.contains("0x11ec")), "{hello}");
    }
    let decrypt = format!("tls.keylog_file:{key_log}");
    let names = read(&[
        "-o",
        &decrypt,
        "-Y",
        "tls.handshake.type == 11",
        "-T",
        "fields",
        "-e",
        "ip.src",
        "-e",
        "x509ce.uniformResourceIdentifier",
    ]);
    for (host, identities) in [("two", &["web", "cache", "db", "echo"][..]), ("three", &["client"])] {
        let source = shop.network.host(host).address().to_string();
        for identity in identities {
            let id = format!("spiffe://mesh.leno/ns/default/sa/{identity}");
            assert!(
                names.lines().any(|l| l.starts_with(&source) && l.contains(&id)),
                "{id} from {host}; certificates seen:\n{names}"
            );
        }
    }
    // What an operator sees of it.
    let metrics = shop.members.last().expect("the client").metrics(CLIENT_ADMIN);
    for service in ["web.default", "cache.default", "db.default", "echo.default"] {
        assert!(
            metrics.lines().any(|l| l.contains("direction=\"outbound\"") && l.contains(service)),
            "{service}\n{metrics}"
        );
    }
    let status = shop.mesh.leno(&["status"]);
    assert!(status.stdout.contains("5 connected"), "{}{}", status.stdout, status.stderr);
}

#[test]
fn the_same_over_ipv6() {
    if !can_run("services_ipv6", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let mut mesh = Mesh::start(&network, "one", &[]);
    mesh.join = format!("[{}]:15100", network.host("one").address6());
    let command = apps::nginx(network.folder(), "web", 8080, "location / { return 200 \"six\\n\"; }");
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let _web = mesh.run(network.host("two"), "web", "web", &["--port", "8080", "--hop", "[::]:15008"], &command);
    mesh.wait_for_endpoints("web", 1);
    let endpoints = mesh.json(&["get", "endpoints"]).to_string();
    assert!(endpoints.contains(&network.host("two").address6().to_string()), "{endpoints}");
    let mut client = mesh.proxy(
        network.host("three"),
        "client",
        "client",
        &["--upstream", "web=[::1]:9080", "--admin", "127.0.0.1:15020"],
    );
    client.wait_ready(15020);
    assert_eq!(network.host("three").curl(&["http://[::1]:9080/"]).ok(), "six\n");
}

#[test]
fn a_large_body_leaves_memory_flat() {
    if !can_run("large_body", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let mesh = Mesh::start(&network, "one", &[]);
    let folder = network.folder();
    let locations =
        "location /big { } location /sink { client_body_in_file_only off; proxy_pass http://127.0.0.1:1/; }";
    let command = apps::nginx(folder, "web", 8080, locations);
    // A sparse file: 1 GB of zeros that costs no disk.
    let big = std::fs::File::create(folder.join("nginx-web/html/big")).expect("a file in our own folder");
    big.set_len(1 << 30).expect("a sparse file");
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let server = Process::start("nginx", network.host("two").command(command[0]).args(&command[1..]), folder);
    let mut far = mesh.proxy(network.host("two"), "far", "web", &["--port", "8080", "--admin", "127.0.0.1:15020"]);
    mesh.wait_for_endpoints("web", 1);
    let mut near =
        mesh.proxy(network.host("three"), "near", "client", &["--upstream", "web=9080", "--admin", "127.0.0.1:15021"]);
    near.wait_ready(15021);
    let three = network.host("three");
    let _ = three.curl(&["-o", "/dev/null", "http://127.0.0.1:9080/big", "-r", "0-1000"]).ok();
    let before = [rss_kib(far.process().pid()), rss_kib(near.process().pid())];
    // A slow reader for a while, then the whole body: the sender must wait, not the proxies hold.
    let slow = run(
        three.command("curl").args([
            "-sS",
            "--limit-rate",
            "20M",
            "--max-time",
            "3",
            "-o",
            "/dev/null",
            "http://127.0.0.1:9080/big",
        ]),
        LIMIT,
    );
    assert_eq!(slow.code, 28, "{}", slow.stderr);
    let held = [rss_kib(far.process().pid()), rss_kib(near.process().pid())];
    let size = run(
        three.command("curl").args(["-sS", "-o", "/dev/null", "-w", "%{size_download}", "http://127.0.0.1:9080/big"]),
        LIMIT,
    )
    .ok();
    assert_eq!(size, (1u64 << 30).to_string());
    let after = [rss_kib(far.process().pid()), rss_kib(near.process().pid())];
    println!("RSS KiB far, near: before {before:?}, slow reader {held:?}, after 1 GB {after:?}");
    for (before, then) in before.iter().zip(held).chain(before.iter().zip(after)) {
        assert!(then < before + 16 * 1024, "memory grew from {before} to {then} KiB");
    }
    drop(server);
}
