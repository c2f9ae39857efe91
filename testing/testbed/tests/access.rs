//! Who may call whom: policies, live connections, credentials, and what is not TLS.

use testbed::process::Process;
use testbed::skip::can_run;
use testbed::{Host, Member, Mesh, Network, apps};

fn strings(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

const ALLOW_FRIEND: &str = "
apiVersion: leno.dev/v1alpha1
kind: AccessPolicy
metadata: {name: only-friend}
spec:
  targetRefs: [{group: \"\", kind: Service, name: web}, {group: \"\", kind: Service, name: cache}, {group: \"\", kind: Service, name: chat}]
  rules:
  - action: allow
    from: [{serviceAccounts: [friend]}]
";

const DENY_FRIEND: &str = "
apiVersion: leno.dev/v1alpha1
kind: AccessPolicy
metadata: {name: not-friend}
spec:
  targetRefs: [{group: \"\", kind: Service, name: cache}, {group: \"\", kind: Service, name: chat}]
  rules:
  - action: deny
    from: [{serviceAccounts: [friend]}]
";

fn client(mesh: &Mesh, host: &Host, name: &str, base: u16) -> Member {
    let upstreams = [format!("web={}", base + 80), format!("cache={}", base + 79), format!("chat={}", base + 78)];
    let admin = format!("127.0.0.1:{base}");
    let mut flags = vec!["--admin", admin.as_str()];
    flags.extend(upstreams.iter().flat_map(|u| ["--upstream", u.as_str()]));
    let mut member = mesh.proxy(host, name, name, &flags);
    member.wait_ready(base);
    member
}

fn hold(host: &Host, folder: &std::path::Path, kind: &str, name: &str, port: u16) -> Process {
    let mut command = host.command(apps::PYTHON);
    command.args([&apps::program("hold.py"), kind, "127.0.0.1", &port.to_string()]);
    Process::start(name, &mut command, folder)
}

#[test]
fn a_policy_holds_for_requests_streams_and_connections_that_are_open_already() {
    if !can_run("access", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let (folder, two, three) = (network.folder(), network.host("two"), network.host("three"));
    let mesh = Mesh::start(&network, "one", &[]);
    let nginx = apps::nginx(folder, "web", 8080, "location / { return 200 \"web\\n\"; }");
    let redis = apps::redis(folder, 6379);
    let chat = [apps::PYTHON.to_owned(), apps::program("ws_echo.py"), "8090".to_owned()];
    let _members = [
        mesh.run(two, "web", "web", &["--port", "8080", "--hop", "0.0.0.0:15008"], &strings(&nginx)),
        mesh.run(two, "cache", "cache", &["--port", "6379/tcp"], &strings(&redis)),
        mesh.run(two, "chat", "chat", &["--port", "8090/http"], &strings(&chat)),
    ];
    for service in ["web", "cache", "chat"] {
        mesh.wait_for_endpoints(service, 1);
    }
    let friend = client(&mesh, three, "friend", 20_000);
    let stranger = client(&mesh, three, "stranger", 21_000);
    assert_eq!(
        three.curl(&["http://127.0.0.1:21080/before"]).ok(),
        "web\n",
        "members may call until a policy says otherwise"
    );

    mesh.apply(ALLOW_FRIEND);
    testbed::wait::until("the policy reaches the destination", || {
        let said = three
            .curl(&["-o", "/dev/null", "-w", "%{http_code} %header{leno-reason}", "http://127.0.0.1:21080/refused"])
            .ok();
        if said == "403 denied_by_policy" { Ok(()) } else { Err(said) }
    });
    assert_eq!(three.curl(&["http://127.0.0.1:20080/allowed"]).ok(), "web\n");
    let seen = apps::nginx_log(folder, "web").join("\n");
    assert!(seen.contains("/allowed 200 spiffe://mesh.leno/ns/default/sa/friend"), "{seen}");
    // TCP: closed, with nothing reaching redis.
    let refused = three.run("redis-cli", &["-p", "21079", "PING"]);
    assert!(refused.code != 0 || !refused.stdout.contains("PONG"), "{refused:?}");
    assert!(three.run("redis-cli", &["-p", "20079", "PING"]).ok().contains("PONG"));
    let metrics = stranger.metrics(21_000) + &friend.metrics(20_000);
    assert!(metrics.contains("denied_by_policy"), "{metrics}");

    // Connections that are open when the policy changes.
    let mut stream = hold(three, folder, "redis", "held-redis", 20_079);
    let mut socket = hold(three, folder, "websocket", "held-websocket", 20_078);
    for held in [&mut stream, &mut socket] {
        held.wait_for_line("open", |l| l.starts_with("open").then_some(()));
    }
    mesh.apply(DENY_FRIEND);
    for held in [&mut stream, &mut socket] {
        held.wait_for_line("closed", |l| l.starts_with("closed").then_some(()));
    }
    assert_eq!(three.curl(&["http://127.0.0.1:20080/still"]).ok(), "web\n", "the other service is not touched");

    // Plaintext to a member's hop port.
    let hop = format!("http://{}:15008/", two.address());
    let said = three.curl(&["-w", "%{http_code} %header{leno-reason}", "-o", "/dev/null", &hop]);
    assert_eq!(said.stdout, "400 plaintext_refused", "{}", said.stderr);
}

#[test]
fn path_tricks_do_not_pass_a_path_rule() {
    if !can_run("access_paths", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let (folder, three) = (network.folder(), network.host("three"));
    let mesh = Mesh::start(&network, "one", &[]);
    let nginx = apps::nginx(folder, "web", 8080, "location / { return 200 \"web\\n\"; }");
    let _web = mesh.run(network.host("two"), "web", "web", &["--port", "8080"], &strings(&nginx));
    mesh.wait_for_endpoints("web", 1);
    let _friend = client(&mesh, three, "friend", 20_000);
    mesh.apply(
        "
apiVersion: leno.dev/v1alpha1
kind: AccessPolicy
metadata: {name: no-admin}
spec:
  targetRefs: [{group: \"\", kind: Service, name: web}]
  rules:
  - {action: allow}
  - action: deny
    to: [{paths: [/admin, /admin/*]}]
",
    );
    let code = |path: &str| {
        let url = format!("http://127.0.0.1:20080{path}");
        three.curl(&["--path-as-is", "-g", "-o", "/dev/null", "-w", "%{http_code}", &url]).stdout
    };
    testbed::wait::until("the policy holds", || if code("/admin") == "403" { Ok(()) } else { Err(code("/admin")) });
    for path in [
        "/admin?x",
        "//admin",
        "/a/../admin",
        "/%61dmin",
        "/./admin",
        "/admin/",
        "/admin/x",
        "/a/%2e%2e/admin",
        "///admin//x",
    ] {
        assert_eq!(code(path), "403", "{path}");
    }
    for path in ["/admin%2f", "/a%5c..%5cadmin", "/admin%00", "/%c0%afadmin", "/%zz"] {
        assert_eq!(code(path), "400", "{path}");
    }
    for path in ["/", "/administrator", "/a/admin", "/?/admin"] {
        assert_eq!(code(path), "200", "{path}");
    }
    let seen = apps::nginx_log(folder, "web");
    assert!(seen.iter().all(|l| !l.contains(" /admin ") && !l.contains(" /admin/")), "{seen:#?}");
}

#[test]
fn credentials_say_what_a_member_may_register() {
    if !can_run("credentials", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three", "evil"]);
    let (folder, three, evil) = (network.folder(), network.host("three"), network.host("evil"));
    let mesh = Mesh::start(&network, "one", &[]);
    let good = apps::nginx(folder, "good", 8080, "location / { return 200 \"good\\n\"; }");
    let bad = apps::nginx(folder, "bad", 8080, "location / { return 200 \"bad\\n\"; }");
    let _web = mesh.run(network.host("two"), "web", "web", &["--port", "8080", "--labels", "app=web"], &strings(&good));
    mesh.wait_for_endpoints("web", 1);
    let _client = client(&mesh, three, "friend", 20_000);

    // A token for `other` does not register `web`: the proxy ends and says why.
    let token = mesh.token("other");
    let state = network.subfolder("state-evil").display().to_string();
    let mut flags = vec![
        "run",
        "--service",
        "web",
        "--service-account",
        "other",
        "--port",
        "8080",
        "--join",
        &mesh.join,
        "--state-dir",
        &state,
        "--token",
        &token,
        "--",
    ];
    flags.extend(strings(&bad));
    let refused = evil.run(&testbed::mesh::leno().to_string_lossy(), &flags);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("unauthorised_member"), "{}", refused.stderr);

    // Labels that copy the service's do not bring traffic either.
    let _trick =
        mesh.run(evil, "other", "other", &["--port", "8080", "--labels", "app=web,service=web"], &strings(&bad));
    mesh.wait_for_endpoints("other", 1);
    mesh.wait_for_endpoints("web", 1);
    for _ in 0..20 {
        assert_eq!(three.curl(&["http://127.0.0.1:20080/"]).ok(), "good\n");
    }
    assert_eq!(apps::nginx_log(folder, "bad"), Vec::<String>::new());

    // The token is used up.
    let again = network.subfolder("state-again").display().to_string();
    let replay = evil.run(
        &testbed::mesh::leno().to_string_lossy(),
        &["proxy", "--service", "other", "--join", &mesh.join, "--state-dir", &again, "--token", &token],
    );
    assert!(replay.code != 0 && replay.stderr.contains("token_invalid"), "{replay:?}");
    let audit = mesh.json(&["get", "audit"]).to_string();
    assert!(audit.contains("other") && !audit.contains(token.split('.').nth(2).expect("a secret")), "{audit}");
}

#[test]
fn a_control_plane_with_another_root_never_sees_the_token() {
    if !can_run("foreign_root", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let mesh = Mesh::start(&network, "one", &[]);
    let foreign = Mesh::start_in(&network, "two", "foreign", &[]);
    let token = mesh.token("web");
    let state = network.subfolder("state").display().to_string();
    let refused = network.host("three").run(
        &testbed::mesh::leno().to_string_lossy(),
        &["proxy", "--service", "web", "--join", &foreign.join, "--state-dir", &state, "--token", &token],
    );
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("root"), "{}", refused.stderr);
    let audit = foreign.json(&["get", "audit"]).to_string();
    let id = token.split('.').nth(1).expect("an id");
    assert!(!audit.contains(id), "the foreign control plane saw the token: {audit}");
    // It still works where it belongs.
    let mut member = network.host("three").command(&testbed::mesh::leno().to_string_lossy());
    member.args([
        "proxy",
        "--service",
        "web",
        "--join",
        &mesh.join,
        "--state-dir",
        &state,
        "--token",
        &token,
        "--announce",
        "json",
    ]);
    let mut member = Process::start("member", &mut member, network.folder());
    member.wait_for_line("ready", |l| l.contains("\"leno\":\"ready\"").then_some(()));
}
