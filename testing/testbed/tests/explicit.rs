//! Explicit mode (D12a): exposed programs, foreign users, the forward proxy; and the demo.

use testbed::process::{Process, run};
use testbed::skip::can_run;
use testbed::{Mesh, Network, apps};

fn strings(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[test]
fn an_exposed_program_is_refused_unless_that_is_said() {
    if !can_run("exposed", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two"]);
    let mesh = Mesh::start(&network, "one", &[]);
    let command = [apps::PYTHON, "-m", "http.server", "8080", "--bind", "0.0.0.0"];
    let mut refused = mesh.run(network.host("two"), "open", "open", &["--port", "8080"], &command);
    let status = refused.process().wait();
    assert_eq!(status.code(), Some(1), "{}", refused.log());
    assert!(refused.log().contains("exposed_app") && refused.log().contains("--allow-exposed"), "{}", refused.log());
    let _allowed = mesh.run(network.host("two"), "allowed", "open", &["--port", "8080", "--allow-exposed"], &command);
    mesh.wait_for_endpoints("open", 1);
    let members = mesh.json(&["get", "members"]).to_string();
    assert!(members.contains("expos"), "status shows it: {members}");
}

#[test]
fn a_foreign_program_on_the_applications_port_gets_no_request() {
    if !can_run("foreign_app", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let (two, three) = (network.host("two"), network.host("three"));
    let mesh = Mesh::start(&network, "one", &[]);
    let mut foreign = two.command("setpriv");
    foreign.args(["--reuid=65534", "--clear-groups", apps::PYTHON, "-m", "http.server", "8080", "--bind", "127.0.0.1"]);
    let _foreign = Process::start("foreign", &mut foreign, network.folder());
    testbed::wait::until("it listens", || {
        let said = two.curl(&["-o", "/dev/null", "http://127.0.0.1:8080/"]);
        if said.code == 0 { Ok(()) } else { Err(said.stderr) }
    });
    let flags = ["--port", "8080", "--admin", "127.0.0.1:15020"];
    let mut web = mesh.proxy(two, "web", "web", &flags);
    web.wait_ready(15020);
    let mut client = mesh.proxy(three, "client", "client", &["--upstream", "web=9080", "--admin", "127.0.0.1:15020"]);
    client.wait_ready(15020);
    let said = three.curl(&["-o", "/dev/null", "-w", "%{http_code} %header{leno-reason}", "http://127.0.0.1:9080/"]);
    assert_eq!(said.stdout.split(' ').next(), Some("503"), "{said:?}");
    assert!(web.metrics(15020).contains("reason=\"foreign_app\""), "{}", web.metrics(15020));
    web.end();
    let told = mesh.proxy(two, "told", "web", &[&flags[..], &["--local-user", "65534"]].concat());
    testbed::wait::until("the user that was named is served", || {
        let said = three.curl(&["-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:9080/"]);
        if said.stdout == "200" { Ok(()) } else { Err(format!("{said:?}\n{}", told.log())) }
    });
}

#[test]
fn another_user_cannot_borrow_the_identity_and_the_forward_proxy_knows_names() {
    if !can_run("local_callers", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let (folder, three) = (network.folder(), network.host("three"));
    let mesh = Mesh::start(&network, "one", &[]);
    let nginx = apps::nginx(folder, "web", 8080, "location / { return 200 \"web $host\\n\"; }");
    let _web = mesh.run(network.host("two"), "web", "web", &["--port", "8080"], &strings(&nginx));
    let redis = apps::redis(folder, 6379);
    let _cache = mesh.run(network.host("two"), "cache", "cache", &["--port", "6379/tcp"], &strings(&redis));
    mesh.wait_for_endpoints("web", 1);
    mesh.wait_for_endpoints("cache", 1);
    let flags = [
        "--upstream",
        "web=9080",
        "--upstream",
        "cache=9379",
        "--forward-proxy",
        "15010",
        "--admin",
        "127.0.0.1:15020",
    ];
    let mut client = mesh.proxy(three, "client", "client", &flags);
    client.wait_ready(15020);

    let as_nobody = |arguments: &[&str]| {
        let mut command = three.command("setpriv");
        command.args(["--reuid=65534", "--clear-groups", "curl", "-sS", "--max-time", "10"]).args(arguments);
        run(&mut command, std::time::Duration::from_secs(20))
    };
    let said = as_nobody(&["-o", "/dev/null", "-w", "%{http_code} %header{leno-reason}", "http://127.0.0.1:9080/"]);
    assert_eq!(said.stdout, "403 not_member", "{said:?}");
    let said = as_nobody(&["-x", "http://127.0.0.1:15010", "-o", "/dev/null", "-w", "%{http_code}", "http://web/"]);
    assert_eq!(said.stdout, "403", "{said:?}");
    let refused = as_nobody(&["telnet://127.0.0.1:9379"]);
    assert!(!refused.stdout.contains("PONG"));

    let through = |url: &str| {
        three.curl(&["-x", "http://127.0.0.1:15010", "-w", " %{http_code} %header{leno-reason}", url]).stdout
    };
    for name in ["web", "web.default", "web.default.mesh", "web.default.svc.cluster.local", "web:8080"] {
        assert!(
            through(&format!("http://{name}/")).starts_with("web "),
            "{name}: {}",
            through(&format!("http://{name}/"))
        );
    }
    assert!(
        through("http://nothing.default.mesh/").contains("404 unknown_destination"),
        "{}",
        through("http://nothing.default.mesh/")
    );
    // CONNECT to a TCP service by name.
    let tunnelled = three.run(
        "curl",
        &[
            "-sS",
            "--max-time",
            "5",
            "-p",
            "-x",
            "http://127.0.0.1:15010",
            "-w",
            "%{http_connect}",
            "telnet://cache:6379",
        ],
    );
    assert!(tunnelled.stdout.contains("200"), "{tunnelled:?}");
    // Outside the mesh: passed on by default, refused when the mesh says so.
    let outside = Process::start(
        "outside",
        network.host("one").command(apps::PYTHON).args(["-m", "http.server", "7000", "--bind", "0.0.0.0"]),
        folder,
    );
    let url = format!("http://{}:7000/", network.host("one").address());
    testbed::wait::until("the outside server answers through the proxy", || {
        let said = through(&url);
        if said.contains(" 200 ") { Ok(()) } else { Err(said) }
    });
    mesh.apply("apiVersion: leno.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh, namespace: leno-system}\nspec: {egress: deny}\n");
    testbed::wait::until("egress is denied", || {
        let said = through(&url);
        if said.contains("egress_denied") { Ok(()) } else { Err(said) }
    });
    drop(outside);
}

#[test]
fn the_demo_serves_within_two_seconds_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = std::process::Command::new(testbed::mesh::leno());
    command.args(["demo", "--json", "--rate", "20"]).env("TMPDIR", folder.path());
    let mut demo = Process::start("demo", &mut command, folder.path());
    let line = demo.wait_for_line("a served request on every edge", |l| {
        let value: serde_json::Value = serde_json::from_str(l).ok()?;
        let edges = value["edges"].as_array()?;
        let has = |s: &str, d: &str| edges.iter().any(|e| e["source"] == s && e["destination"] == d);
        let whole =
            has("shoppers", "front") && has("front", "catalog") && has("front", "cart") && has("cart", "payment");
        (whole && value["answered"].as_u64()? > 100).then_some(value)
    });
    println!("first answer after {} s", line["first_answer_seconds"]);
    assert!(line["first_answer_seconds"].as_f64().is_some());
    let family = testbed::process::descendants(demo.pid());
    assert!(family.len() > 10, "{family:?}");
    demo.signal(rustix::process::Signal::INT);
    demo.wait();
    testbed::wait::until("every process is gone", || {
        let left: Vec<_> = family.iter().filter(|p| std::path::Path::new(&format!("/proc/{p}")).exists()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).expect("our own folder").flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|n| n == "demo.log"), "{left:?}");
}
