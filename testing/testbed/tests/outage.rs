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
    let load = Load::start(three, "http://127.0.0.1:9080/", 8, 800);
    mesh.kill();
    assert_eq!(requests(three, "http://127.0.0.1:9080/", 4, 500).bad, 0);
    mesh.restart();
    mesh.wait_for_endpoints("web", 1);
    let report = load.finish();
    println!("across kill and restart of the control plane: {report:?}");
    assert!(report.is_clean(), "{report:?}");
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

/// A small file system of its own for the data directory; unmounted when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(folder: std::path::PathBuf) -> Self {
        let mut command = std::process::Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(&folder);
        let _ = testbed::process::run(&mut command, std::time::Duration::from_secs(10)).ok();
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that still ends holds files in it.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room_again_and_costs_no_restart() {
    if !can_run("full_disk", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one"]);
    let _disk = SmallDisk::mount(network.subfolder("control-plane"));
    let mesh = Mesh::start(&network, "one", &[]);
    let service = |name: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n")
    };
    mesh.apply(&service("before"));
    let filler = mesh.data_dir.join("filler");
    let mut chunk = vec![0u8; 64 << 10];
    let mut file = std::fs::File::create(&filler).expect("a file on the small disk");
    while !chunk.is_empty() {
        if std::io::Write::write_all(&mut file, &chunk).is_err() {
            chunk.truncate(chunk.len() / 2);
        }
    }
    // Some writes may still find room inside the store's file; one of these does not.
    let big = "x".repeat(20_000);
    let refused = (0..40).find(|n| {
        let text = service(&format!("full-{n}"))
            .replace("metadata: {", &format!("metadata: {{annotations: {{a: \"{big}\"}}, "));
        let path = network.folder().join("full.yaml");
        std::fs::write(&path, text).expect("a file in our own folder");
        mesh.leno(&["apply", "-f", &path.display().to_string()]).code != 0
    });
    assert!(refused.is_some(), "the disk was never full");
    std::fs::remove_file(&filler).expect("making room");
    testbed::wait::until("writes are taken again by the same process", || {
        let path = network.folder().join("after.yaml");
        std::fs::write(&path, service("after")).expect("a file in our own folder");
        let said = mesh.leno(&["apply", "-f", &path.display().to_string()]);
        if said.code == 0 { Ok(()) } else { Err(said.stderr) }
    });
    let list = mesh.json(&["get", "services"]).to_string();
    assert!(list.contains("\"before\"") && list.contains("\"after\""), "{list}");
    // What was written was also audited, if late.
    let audit = mesh.json(&["get", "audit"]).to_string();
    let services = mesh.json(&["get", "services"]);
    let names = services["items"].as_array().expect("a list").iter().filter_map(|s| s["metadata"]["name"].as_str());
    let missing: Vec<_> = names.filter(|name| !audit.contains(&format!("{name}\""))).collect();
    assert!(missing.is_empty(), "not audited: {missing:?}\n{audit}");
}
