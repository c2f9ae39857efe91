//! Traffic outlives the control plane, and nothing acknowledged is lost.

use testbed::load::{Load, requests};
use testbed::skip::can_run;
use testbed::{Member, Mesh, Network, apps};

fn strings(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn web(mesh: &Mesh, network: &Network) -> Member {
    let command = apps::nginx(network.folder(), "web", 8080, "location / { return 200 \"web\\n\"; }");
    let flags = ["--port", "8080", "--admin", "127.0.0.1:15020"];
    let member = mesh.run(network.host("two"), "web", "web", &flags, &strings(&command));
    mesh.wait_for_endpoints("web", 1);
    member
}

fn caller(mesh: &Mesh, network: &Network) -> Member {
    let flags = ["--upstream", "web=9080", "--admin", "127.0.0.1:15020"];
    let mut member = mesh.proxy(network.host("three"), "client", "client", &flags);
    member.wait_ready(15020);
    member
}

/// What was written: everything of the services but what proxies report and the version that such reports move.
fn acknowledged(mesh: &Mesh) -> Vec<serde_json::Value> {
    let mut items = mesh.json(&["get", "services", "-A"])["items"].as_array().cloned().expect("a list");
    for item in &mut items {
        item["status"].take();
        item["metadata"]["resourceVersion"].take();
    }
    items
}

#[test]
fn traffic_goes_on_without_the_control_plane_and_nothing_is_lost() {
    if !can_run("outage", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let three = network.host("three");
    let mut mesh = Mesh::start(&network, "one", &["--registration-grace", "10s"]);
    let _web = web(&mesh, &network);
    let mut client = caller(&mesh, &network);
    let url = "http://127.0.0.1:9080/";
    assert_eq!(requests(three, url, 1, 10).fine, 10);
    let before = acknowledged(&mesh);

    mesh.kill();
    // New connections of the application, and new ones between the known peers.
    assert_eq!(requests(three, url, 4, 200).fine, 200);
    client.kill();
    client.start();
    client.wait_ready(15020);
    assert_eq!(three.curl(&[url]).ok(), "web\n", "a proxy restarted meanwhile serves from its last-known-good state");
    mesh.restart();
    mesh.wait_for_endpoints("web", 1);
    let after = acknowledged(&mesh);
    assert_eq!(before, after, "what was acknowledged is there again");
    // A change made afterwards arrives at the members that stayed.
    mesh.apply(
        "
apiVersion: leno.dev/v1alpha1
kind: AccessPolicy
metadata: {name: nobody}
spec:
  targetRefs: [{group: \"\", kind: Service, name: web}]
  rules: [{action: deny}]
",
    );
    testbed::wait::until("the change arrives", || {
        let said = three.curl(&["-o", "/dev/null", "-w", "%{http_code}", url]).stdout;
        if said == "403" { Ok(()) } else { Err(said) }
    });
}

#[test]
fn no_request_fails_while_only_the_control_plane_is_gone() {
    if !can_run("outage_load", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let three = network.host("three");
    let mut mesh = Mesh::start(&network, "one", &["--registration-grace", "5s"]);
    let _web = web(&mesh, &network);
    let _client = caller(&mesh, &network);
    let load = Load::start(three, "http://127.0.0.1:9080/", 8, 12, 800);
    mesh.kill();
    assert_eq!(requests(three, "http://127.0.0.1:9080/", 4, 500).bad, 0);
    mesh.restart();
    mesh.wait_for_endpoints("web", 1);
    let report = load.finish();
    println!("across kill and restart of the control plane: {report:?}");
    assert!(report.fine > 5_000 && report.bad == 0, "{report:?}");
}

#[test]
fn a_second_control_plane_on_the_same_data_directory_is_refused() {
    if !can_run("second_control_plane", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one"]);
    let mesh = Mesh::start(&network, "one", &[]);
    let data = mesh.data_dir.display().to_string();
    let second = network.host("one").run(
        &testbed::mesh::leno().to_string_lossy(),
        &["control-plane", "--data-dir", &data, "--api", "127.0.0.1:0", "--discovery", "127.0.0.1:0"],
    );
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.stderr.contains("data directory") && second.stderr.contains(&data), "{}", second.stderr);
    assert!(mesh.leno(&["status"]).stdout.contains("control plane"), "the first one is not disturbed");
}

#[test]
fn killed_while_writing_it_loses_nothing_it_acknowledged() {
    if !can_run("durability", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one"]);
    let mut mesh = Mesh::start(&network, "one", &[]);
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for index in 0..10 {
            let name = format!("svc-{round}-{index}");
            mesh.apply(&format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n"
            ));
            acknowledged.push(name);
        }
        mesh.kill();
        mesh.restart();
    }
    let list = mesh.json(&["get", "services"]).to_string();
    let lost: Vec<_> = acknowledged.iter().filter(|n| !list.contains(&format!("\"{n}\""))).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
}
