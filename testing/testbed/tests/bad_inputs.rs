//! What took down or opened other meshes (BAD_INPUTS in the project's notes): a clear refusal each, the rest unaffected.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};
use testbed::skip::can_run;
use testbed::{Host, Member, Mesh, Network, apps};

fn strings(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Sends every case to a port and gives what came back, by name.
#[track_caller]
fn raw(host: &Host, address: &str, port: u16, cases: &[Value]) -> Vec<Value> {
    let mut command = host.command(apps::PYTHON);
    command.args([&apps::program("raw.py"), address, &port.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starting python");
    let text = Value::from(cases.to_vec()).to_string();
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("writing the cases");
    let output = child.wait_with_output().expect("the end of python");
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON of raw.py");
    assert_eq!(answers.len(), cases.len());
    answers
}

fn case(name: &str, send: &str) -> Value {
    json!({"name": name, "send": send})
}

fn status(answer: &Value) -> &str {
    answer["answer"].as_str().and_then(|a| a.split(' ').nth(1)).unwrap_or("none")
}

struct Scene {
    network: Network,
    mesh: Mesh,
    members: Vec<Member>,
}

const HOP: u16 = 15008;
const UPSTREAM: u16 = 9080;
const FORWARD: u16 = 15010;
const ADMIN: u16 = 15020;

fn scene() -> Scene {
    let network = Network::new(&["one", "two", "three"]);
    let mesh = Mesh::start(&network, "one", &[]);
    let nginx = apps::nginx(network.folder(), "web", 8080, "location / { return 200 \"web\\n\"; }");
    let flags = ["--port", "8080", "--hop", "0.0.0.0:15008", "--admin", "127.0.0.1:15020"];
    let web = mesh.run(network.host("two"), "web", "web", &flags, &strings(&nginx));
    mesh.wait_for_endpoints("web", 1);
    let flags = ["--upstream", "web=9080", "--forward-proxy", "15010", "--admin", "127.0.0.1:15020"];
    let mut client = mesh.proxy(network.host("three"), "client", "client", &flags);
    client.wait_ready(ADMIN);
    Scene { network, mesh, members: vec![web, client] }
}

impl Scene {
    #[track_caller]
    fn still_works(&self) {
        assert_eq!(self.network.host("three").curl(&["http://127.0.0.1:9080/"]).ok(), "web\n");
        assert!(self.mesh.leno(&["status"]).stdout.contains("control plane"));
    }
}

#[test]
fn hosts_lead_to_the_same_service_or_are_refused() {
    if !can_run("hosts", apps::NEEDS) {
        return;
    }
    let scene = scene();
    let three = scene.network.host("three");
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web\r\nHost: web\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web\r\nHost: other\r\n\r\n",
    ] {
        let answer = &raw(three, "127.0.0.1", UPSTREAM, &[case("hosts", request)])[0];
        assert!(status(answer) == "400" && answer["closed"] == true, "{answer}");
    }
    for (header, expected) in [
        ("WEB", "200"),
        ("web.", "200"),
        ("web:8080", "200"),
        ("[::1]", "200"),
        ("a b", "400"),
        ("web\x7f", "400"),
        ("we/b", "400"),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {header}\r\nConnection: close\r\n\r\n");
        let answer = &raw(three, "127.0.0.1", UPSTREAM, &[case(header, &request)])[0];
        assert_eq!(status(answer), expected, "{answer}");
    }
    scene.still_works();
}

#[test]
fn garbage_and_silence_on_every_port_disturb_nobody() {
    if !can_run("garbage", apps::NEEDS) {
        return;
    }
    let mut scene = scene();
    let (one, two, three) =
        (scene.network.host("one").clone(), scene.network.host("two").clone(), scene.network.host("three").clone());
    let noise: String = (0..4000u32).map(|n| char::from((n.wrapping_mul(2_654_435_761) >> 13) as u8)).collect();
    let hello = "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03";
    let two_address = two.address().to_string();
    let one_address = one.address().to_string();
    let ports: [(&Host, &str, u16); 6] = [
        (&three, &two_address, HOP),
        (&three, "127.0.0.1", UPSTREAM),
        (&three, "127.0.0.1", FORWARD),
        (&three, "127.0.0.1", ADMIN),
        (&three, &one_address, 15100),
        (&one, "127.0.0.1", 15101),
    ];
    let before: Vec<u64> = scene.members.iter_mut().map(rss_kib).collect();
    for (from, address, port) in ports {
        let cases = [
            case("noise", &noise),
            case("half a hello", hello),
            case("h2 preface and noise", &format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{noise}")),
            json!({"name": "a megabyte", "send": "A", "repeat": 1_000_000, "wait": 3}),
            json!({"name": "slow head", "send": "GET / HTTP/1.1\r\nX: ", "piece": 1, "pause": 0.02, "wait": 2}),
            json!({"name": "silence", "send": "", "wait": 1}),
        ];
        for answer in raw(from, address, port, &cases) {
            assert!(!answer["answer"].as_str().unwrap_or("").contains(" 200 "), "port {port}: {answer}");
        }
    }
    // Silence ends: half a TLS handshake and half a head within their timeouts (5 s and 10 s).
    let waiting = |from: &Host, address: &str, port: u16, send: &str| {
        let answer = raw(from, address, port, &[json!({"name": "silence", "send": send, "wait": 20})]).remove(0);
        assert!(answer["closed"] == true, "port {port} holds a silent connection: {answer}");
        answer
    };
    waiting(&three, &two_address, HOP, "");
    waiting(&three, &two_address, HOP, hello);
    waiting(&three, &one_address, 15100, "");
    let head = waiting(&three, "127.0.0.1", UPSTREAM, "GET / HT");
    assert_eq!(status(&head), "408", "{head}");
    let after: Vec<u64> = scene.members.iter_mut().map(rss_kib).collect();
    println!("RSS KiB before {before:?} after {after:?}");
    for (before, after) in before.iter().zip(&after) {
        assert!(*after < before + 20 * 1024, "memory grew: {before} to {after} KiB");
    }
    scene.still_works();
}

/// Anonymous memory of the member's proxy.
fn rss_kib(member: &mut Member) -> u64 {
    let pid = member.proxy_pids().first().copied().unwrap_or_else(|| member.process().pid());
    testbed::memory::anonymous_kib(pid)
}

#[test]
fn what_users_write_wrongly_is_told_with_its_place() {
    if !can_run("wrong_yaml", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one"]);
    let mesh = Mesh::start(&network, "one", &[]);
    let file = network.folder().join("wrong.yaml");
    let deep = "a: ".to_owned() + &"{a: ".repeat(300) + &"}".repeat(300);
    let bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned()
        + &(1..9)
            .map(|n| {
                let (this, last) = (char::from(b'a' + n), char::from(b'a' + n - 1));
                format!("{this}: &{this} [{}]\n", vec![format!("*{last}"); 9].join(", "))
            })
            .collect::<String>();
    let regex = format!("(a{{1,1000}}){{1,1000}}{}", "b".repeat(10_000));
    let route = |body: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  \
             parentRefs: [{{group: \"\", kind: Service, name: web}}]\n  rules:\n{body}\n"
        )
    };
    let cases: [(&str, String, &[&str]); 11] = [
        ("malformed", "kind: Service\n  name: [".to_owned(), &["wrong.yaml:2:"]),
        (
            "unknown kind",
            "apiVersion: v1\nkind: Servise\nmetadata: {name: a}\n".to_owned(),
            &["wrong.yaml:2:", "Service"],
        ),
        (
            "unknown field",
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  prots: []\n".to_owned(),
            &["wrong.yaml:5:3", "prots", "did you mean `ports`"],
        ),
        (
            "wrong type",
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports: [{port: eighty}]\n".to_owned(),
            &["wrong.yaml:5:", "port"],
        ),
        (
            "bad name",
            "apiVersion: v1\nkind: Service\nmetadata: {name: Bad_Name}\nspec: {ports: [{port: 1}]}\n".to_owned(),
            &["wrong.yaml:3:", "Bad_Name"],
        ),
        (
            "port range",
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 70000}]}\n".to_owned(),
            &["wrong.yaml:4:", "70000"],
        ),
        (
            "duplicate key",
            "apiVersion: v1\nkind: Service\nkind: Service\nmetadata: {name: a}\n".to_owned(),
            &["wrong.yaml:3:", "kind"],
        ),
        ("deep", deep, &["wrong.yaml:1:"]),
        ("bomb", bomb, &["wrong.yaml:"]),
        (
            "huge regex",
            route(&format!(
                "  - matches: [{{path: {{type: RegularExpression, value: \"{regex}\"}}}}]\n    backendRefs: [{{name: web, port: 80}}]"
            )),
            &["wrong.yaml:"],
        ),
        ("weight", route("  - backendRefs: [{name: web, port: 80, weight: -1}]"), &["wrong.yaml:7:", "weight"]),
    ];
    for (name, text, expected) in cases {
        std::fs::write(&file, &text).expect("a file in our own folder");
        let refused = mesh.leno(&["apply", "-f", &file.display().to_string()]);
        assert_eq!(refused.code, 1, "{name}: {refused:?}");
        for part in expected {
            assert!(refused.stderr.contains(part), "{name}: no `{part}` in\n{}", refused.stderr);
        }
    }
    // A reference to nothing is accepted with a condition that says so.
    mesh.apply(&route("  - backendRefs: [{name: nothing, port: 80}]"));
    testbed::wait::until("the route's condition", || {
        let said = mesh.leno(&["describe", "httproute", "r"]).stdout;
        if said.contains("BackendNotFound") { Ok(()) } else { Err(said) }
    });
    // The good document of a file is taken, the bad one named.
    std::fs::write(
        &file,
        "apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 1}]}\n---\nkind: Nonsense\n",
    )
    .expect("a file");
    let half = mesh.leno(&["apply", "-f", &file.display().to_string()]);
    assert!(half.code == 1 && half.stdout.contains("good") && half.stderr.contains("wrong.yaml:6"), "{half:?}");
}

#[test]
fn the_control_plane_is_closed_to_who_has_no_credential() {
    if !can_run("authorisation", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two"]);
    let mesh = Mesh::start(&network, "one", &[]);
    let one = network.host("one");
    let code = |arguments: &[&str]| one.curl(&[&["-o", "/dev/null", "-w", "%{http_code}"], arguments].concat()).stdout;
    let api = "http://127.0.0.1:15101";
    for path in
        ["/api/v1/tokens", "/api/v1/overview", "/api/v1/namespaces/default/services", "/api/v1/ca", "/api/v1/audit"]
    {
        let url = format!("{api}{path}");
        assert_eq!(code(&[&url]), "401", "{path}");
        assert_eq!(code(&["-H", "Authorization: Bearer wrong", &url]), "401", "{path}");
    }
    assert_eq!(code(&["-X", "POST", "-d", "{}", &format!("{api}/api/v1/tokens")]), "401");
    assert_eq!(code(&[&format!("{api}/healthz")]), "200");
    let token = std::fs::read_to_string(mesh.data_dir.join("admin.token")).expect("the admin token");
    let bearer = format!("Authorization: Bearer {}", token.trim());
    assert_eq!(
        code(&["-H", &bearer, "-H", "Host: evil.example", &format!("{api}/api/v1/overview")]),
        "403",
        "DNS rebinding"
    );
    let big = network.folder().join("big");
    std::fs::write(&big, vec![b'a'; 5 << 20]).expect("a file in our own folder");
    let data = format!("@{}", big.display());
    assert_eq!(code(&["-H", &bearer, "--data-binary", &data, &format!("{api}/api/v1/apply")]), "413");
    // Nothing listens to the network but discovery.
    let out = network.host("two").curl(&["--max-time", "3", &format!("http://{}:15101/healthz", one.address())]);
    assert_ne!(out.code, 0);
    // A token that has expired.
    let short = mesh.leno(&["token", "create", "--service", "late", "--ttl", "1s"]).ok();
    std::thread::sleep(std::time::Duration::from_millis(2_500)); // the token lives for whole seconds of the clock; not a state
    let state = network.subfolder("state-late").display().to_string();
    let late = network.host("two").run(
        &testbed::mesh::leno().to_string_lossy(),
        &["proxy", "--service", "late", "--join", &mesh.join, "--state-dir", &state, "--token", short.trim()],
    );
    assert!(late.code != 0 && late.stderr.contains("token_invalid"), "{late:?}");
    for wrong in ["nonsense", "leno1.a.b.c", "leno9.x.y.z", ""] {
        let said = network.host("two").run(
            &testbed::mesh::leno().to_string_lossy(),
            &["proxy", "--service", "late", "--join", &mesh.join, "--state-dir", &state, "--token", wrong],
        );
        assert!(said.code != 0 && said.stderr.contains("token"), "{wrong}: {said:?}");
    }
    // Ten thousand idle connections do not keep others out for longer than they may stay silent.
    assert!(mesh.leno(&["status"]).stdout.contains("control plane"));
}
