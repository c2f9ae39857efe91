//! Memory by size (BAD_INPUTS class 8): whatever is long, many or deep is refused or passes in a bounded room.

use std::fs::File;
use std::process::Stdio;

use testbed::memory::Watch;
use testbed::scene::{Bound, GIVEN_BACK, SLACK, Scene, UPSTREAM};
use testbed::skip::can_run;
use testbed::{apps, wire};

/// What one connection may take at either end, in MiB: 64 KiB of head or window, 256 KiB of a stream, buffers of the worker.
const ONE_CONNECTION: Bound = Bound { near: 6, far: 6 };

#[test]
fn what_is_long_or_many_is_refused_or_streams() {
    if !can_run("sizes", apps::NEEDS) {
        return;
    }
    let locations = "location /sink { client_body_buffer_size 1m; proxy_pass http://127.0.0.1:8081; }\n\
                     location /bomb { default_type text/plain; add_header Content-Encoding gzip; }\n\
                     location / { return 200 \"web\\n\"; }\n\
                     }\nserver { listen 127.0.0.1:8081; location /sink { return 200; }";
    let mut scene = Scene::with_nginx(locations);
    let folder = scene.network.folder().to_owned();
    let to = Scene::local(UPSTREAM);
    let get = |more: &str| format!("GET /sizes HTTP/1.1\r\nHost: web\r\n{more}");

    let reply = scene.attack("a body of 300,000 chunks of one byte", ONE_CONNECTION, |s| {
        let head = "POST /sink HTTP/1.1\r\nHost: web\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        wire::to_the_end(s.three(), to, [head, &"1\r\nx\r\n".repeat(300_000), "0\r\n\r\n"].concat().as_bytes())
    });
    // Small chunks are no fault; they are gathered (extensions of chunks are bounded, see below).
    assert_eq!(reply.status(), Some(200), "{}", reply.text());

    let heads = [
        ("10,000 fields", get(&("X: y\r\n".repeat(10_000) + "\r\n")), 431),
        ("a field of 1 MiB", get(&format!("X: {}\r\n\r\n", "a".repeat(1 << 20))), 431),
        ("a name of 1 MiB", get(&format!("{}: a\r\n\r\n", "a".repeat(1 << 20))), 431),
        ("a target of 1 MiB", format!("GET /{} HTTP/1.1\r\nHost: web\r\n\r\n", "a".repeat(1 << 20)), 431),
        ("a method of 1 MiB", format!("{} / HTTP/1.1\r\nHost: web\r\n\r\n", "A".repeat(1 << 20)), 431),
        (
            "a head without end, 64 MiB",
            get(&"X-Endless: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(1_350_000)),
            431,
        ),
        ("empty lines without end", "\r\n".repeat(2_000_000), 400),
    ];
    let replies = scene.attack("heads beyond every bound", ONE_CONNECTION, |s| {
        heads.iter().map(|(_, bytes, _)| wire::to_the_end(s.three(), to, bytes.as_bytes())).collect::<Vec<_>>()
    });
    for ((name, _, expected), reply) in heads.iter().zip(&replies) {
        // What was sent beyond the refusal may have reset the answer away; then there is none, and nothing else either.
        let status = reply.status();
        assert!(status == Some(*expected) || status.is_none() || status == Some(400), "{name}: {}", reply.text());
        assert!(reply.is_closed && reply.answers() <= 1, "{name}: {}", reply.text());
    }
    let bodies = [
        ("chunk extension of 1 MiB", format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(1 << 20))),
        ("chunk size of zeros", format!("{}1\r\nx\r\n0\r\n\r\n", "0".repeat(1 << 20))),
        ("trailers of 1 MiB", format!("0\r\n{}\r\n", "X: aaaaaaaaaaaa\r\n".repeat(60_000))),
    ];
    let replies = scene.attack("framing of bodies beyond every bound", ONE_CONNECTION, |s| {
        let head = "POST /sink HTTP/1.1\r\nHost: web\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        let send = |(_, body): &(&str, String)| wire::to_the_end(s.three(), to, [head, body].concat().as_bytes());
        bodies.iter().map(send).collect::<Vec<_>>()
    });
    for ((name, _), reply) in bodies.iter().zip(&replies) {
        assert!(reply.status().is_none_or(|s| s >= 400), "{name}: {}", reply.text());
    }
    let reply = scene.attack("10,000 pipelined requests", ONE_CONNECTION, |s| {
        let many = get("\r\n").repeat(9_999) + &get("Connection: close\r\n\r\n");
        wire::to_the_end(s.three(), to, many.as_bytes())
    });
    assert_eq!(reply.answers(), 10_000, "every one has its answer");

    // 100 MB of zeros in 100 KB: nobody here decompresses, so it arrives as it was made.
    let bomb = folder.join("nginx-web/html/bomb");
    let mut zeros = scene.three().command("head");
    let mut zeros = zeros.args(["-c", "100000000", "/dev/zero"]).stdout(Stdio::piped()).spawn().expect("head");
    let made = std::process::Command::new("gzip")
        .arg("-9")
        .stdin(zeros.stdout.take().expect("a pipe"))
        .stdout(File::create(&bomb).expect("a file in our own folder"))
        .status()
        .expect("gzip");
    assert!(made.success() && zeros.wait().expect("head").success());
    let size = std::fs::metadata(&bomb).expect("made above").len();
    let taken = scene.attack("a compressed body of 100 MB", ONE_CONNECTION, |s| {
        s.three().curl(&["-o", "/dev/null", "-w", "%{size_download}", "http://127.0.0.1:9080/bomb"]).ok()
    });
    assert_eq!(taken, size.to_string());
}

/// What the control plane may take for one request: 1 MiB of body, parsed, a few times over.
const API: u64 = 24;

#[test]
fn documents_that_are_deep_or_large_are_refused() {
    if !can_run("sizes_of_documents", apps::NEEDS) {
        return;
    }
    let network = testbed::Network::new(&["one"]);
    let mut mesh = testbed::Mesh::start(&network, "one", &[]);
    let one = network.host("one").clone();
    let token = std::fs::read_to_string(mesh.data_dir.join("admin.token")).expect("the admin token");
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let file = network.folder().join("document");
    let post = |kind: &str, path: &str, text: &str| {
        std::fs::write(&file, text).expect("a file in our own folder");
        let (data, url) = (format!("@{}", file.display()), format!("http://127.0.0.1:15101{path}"));
        let kind = format!("Content-Type: {kind}");
        let code = ["-o", "/dev/null", "-w", "%{http_code}", "-H", &bearer, "-H", &kind];
        one.curl(&[&code[..], &["--data-binary", &data, &url]].concat()).stdout
    };
    let deep = |open: &str, close: &str| open.repeat(100_000) + &close.repeat(100_000);
    let document = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n---\n";
    assert_eq!(post("application/yaml", "/api/v1/apply", document), "200", "the request is one that is taken");
    let aliases = (1..30).fold("a0: &a0 [x, x]\n".to_owned(), |all, n| {
        let before = n - 1;
        all + &format!("a{n}: &a{n} [*a{before}, *a{before}]\n")
    });
    let cases = [
        ("YAML 100,000 deep", "application/yaml", "/api/v1/apply", deep("[", "]")),
        ("YAML maps 100,000 deep", "application/yaml", "/api/v1/apply", deep("{a: ", "}")),
        ("YAML indented", "application/yaml", "/api/v1/apply", (0..1200).map(|n| " ".repeat(n) + "a:\n").collect()),
        ("YAML aliases, 2^30", "application/yaml", "/api/v1/apply", aliases),
        ("YAML of 20,000 documents", "application/yaml", "/api/v1/apply", document.repeat(11_000)),
        ("JSON 100,000 deep", "application/json", "/api/v1/tokens", deep("[", "]")),
        ("JSON maps 100,000 deep", "application/json", "/api/v1/tokens", deep("{\"a\":", "}")),
        ("JSON as YAML", "application/yaml", "/api/v1/apply", deep("{\"a\":[", "]}")),
        ("20 MB", "application/yaml", "/api/v1/apply", "a".repeat(20_000_000)),
        ("20 MB of JSON", "application/json", "/api/v1/tokens", format!("[\"{}\"]", "a".repeat(20_000_000))),
    ];
    let watch = Watch::start("control plane", mesh.process().pid());
    for (name, kind, path, text) in &cases {
        let code = post(kind, path, text);
        assert!(["400", "413", "415", "422"].contains(&code.as_str()), "{name}: {code}");
    }
    watch.bounded("documents that are deep or large", API, SLACK, GIVEN_BACK);
    assert!(mesh.leno(&["status"]).stdout.contains("control plane"));
}
