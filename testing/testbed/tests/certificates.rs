//! Renewal, rotation and revocation under load, without a restart or a failed request.

use std::collections::BTreeSet;

use testbed::load::Load;
use testbed::skip::can_run;
use testbed::{Member, Mesh, Network, apps};

fn strings(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

const ADMIN: u16 = 15020;

fn pair(mesh: &Mesh, network: &Network) -> (Member, Member) {
    let command = apps::nginx(network.folder(), "web", 8080, "location / { return 200 \"web\\n\"; }");
    let flags = ["--port", "8080", "--admin", "127.0.0.1:15020"];
    let web = mesh.run(network.host("two"), "web", "web", &flags, &strings(&command));
    mesh.wait_for_endpoints("web", 1);
    let flags = ["--upstream", "web=9080", "--admin", "127.0.0.1:15020"];
    let mut client = mesh.proxy(network.host("three"), "client", "client", &flags);
    client.wait_ready(ADMIN);
    (web, client)
}

/// The serial number of the proxy's present certificate.
fn serial(member: &Member) -> Option<String> {
    let text = member.host.curl(&["http://127.0.0.1:15020/plan"]).stdout;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    value["control"]["serial"].as_str().map(str::to_owned)
}

/// Sums a counter over its labels.
fn counter(page: &str, name: &str) -> f64 {
    let series = page.lines().filter(|l| l.starts_with(name) && l[name.len()..].starts_with(['{', ' ']));
    series.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn certificates_of_ten_seconds_are_renewed_under_load() {
    if !can_run("renewal", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let mesh = Mesh::start(&network, "one", &["--leaf-ttl", "10s"]);
    let (_web, client) = pair(&mesh, &network);
    let handshakes_before = counter(&client.metrics(ADMIN), "leno_tls_handshakes_total");
    // Half-life is 5 s ± 10 %, so 20 renewals take about 100 s; on a machine that stands still for seconds, longer.
    let load = Load::start(network.host("three"), "http://127.0.0.1:9080/", 4, 200);
    let mut serials = BTreeSet::new();
    let start = std::time::Instant::now();
    while serials.len() < 21 && start.elapsed() < std::time::Duration::from_secs(240) {
        serials.extend(serial(&client));
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let handshakes = counter(&client.metrics(ADMIN), "leno_tls_handshakes_total") - handshakes_before;
    let report = load.finish();
    println!("{} serials, {handshakes} new handshakes, {report:?}", serials.len());
    assert!(serials.len() >= 21, "only {} serials", serials.len());
    assert!(handshakes >= 20.0, "only {handshakes} handshakes");
    assert!(report.is_clean(), "{report:?}");
}

/// Longer than a rotation takes here, by as long as everything else may take.
const ROTATION: std::time::Duration = std::time::Duration::from_secs(120);

#[test]
fn the_root_is_rotated_under_load() {
    if !can_run("rotation", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    // Long enough that nothing but the rotation renews or refuses a leaf here.
    let mesh = Mesh::start(&network, "one", &["--leaf-ttl", "6h"]);
    let (mut web, mut client) = pair(&mesh, &network);
    let pids = (web.process().pid(), client.process().pid());
    let roots = |mesh: &Mesh| -> Vec<String> {
        let status = mesh.json(&["ca", "status"]);
        let list = status["roots"].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(|r| r["pin"].as_str().map(str::to_owned)).collect()
    };
    let old = roots(&mesh);
    assert_eq!(old.len(), 1);
    // A state directory that holds a leaf of the old root and is not running while the root is rotated.
    let mut sleeper = mesh.proxy(
        network.host("three"),
        "sleeper",
        "sleeper",
        &["--upstream", "web=9081", "--admin", "127.0.0.1:15021"],
    );
    sleeper.wait_ready(15021);
    sleeper.end();

    let load = Load::start(network.host("three"), "http://127.0.0.1:9080/", 4, 200);
    let _ = mesh.leno(&["ca", "rotate"]).ok();
    // The sleeper is waited for for 30 s, and then members renew within 30 s of each other.
    testbed::wait::until_within(ROTATION, "the old root is retired", || {
        let now = roots(&mesh);
        if now.len() == 1 && now != old { Ok(()) } else { Err(format!("{:?}", mesh.json(&["ca", "status"]))) }
    });
    let report = load.finish();
    println!("rotation: {report:?}");
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(pids, (web.process().pid(), client.process().pid()), "nothing was restarted");

    // The sleeper's leaf chains to the retired root: the control plane does not know it any more.
    let before = sleeper.log().len();
    sleeper.start();
    let refused = testbed::wait::until("why it is refused", || {
        let log = sleeper.log();
        log[before..].lines().find(|l| l.contains("peer_untrusted")).map(str::to_owned).ok_or(log)
    });
    println!("leaf of the old root: {refused}");
    assert!(!sleeper.log()[before..].contains("connected to the control plane"), "{}", sleeper.log());
}

#[test]
fn a_revoked_identity_loses_its_live_hops() {
    if !can_run("revocation", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let (folder, three) = (network.folder(), network.host("three"));
    let mesh = Mesh::start(&network, "one", &[]);
    let redis = apps::redis(folder, 6379);
    let _cache = mesh.run(network.host("two"), "cache", "cache", &["--port", "6379/tcp"], &strings(&redis));
    mesh.wait_for_endpoints("cache", 1);
    let mut clients = Vec::new();
    for (name, base) in [("good", 20_000u16), ("bad", 21_000)] {
        let (upstream, admin) = (format!("cache={}", base + 79), format!("127.0.0.1:{base}"));
        let mut member = mesh.proxy(three, name, name, &["--upstream", &upstream, "--admin", &admin]);
        member.wait_ready(base);
        clients.push(member);
    }
    let hold = |name: &str, port: &str| {
        let mut command = three.command(apps::PYTHON);
        command.args([&apps::program("hold.py"), "redis", "127.0.0.1", port]);
        let mut held = testbed::Process::start(name, &mut command, folder);
        held.wait_for_line("open", |l| l.starts_with("open").then_some(()));
        held
    };
    let (mut good, mut bad) = (hold("held-good", "20079"), hold("held-bad", "21079"));
    let _ = mesh.leno(&["revoke", "spiffe://mesh.leno/ns/default/sa/bad", "--reason", "stolen laptop"]).ok();
    bad.wait_for_line("closed", |l| l.starts_with("closed").then_some(()));
    assert!(good.is_running(), "another identity's connection is not touched");
    let again = three.run("redis-cli", &["-p", "21079", "PING"]);
    assert!(!again.stdout.contains("PONG"), "{again:?}");
    assert!(three.run("redis-cli", &["-p", "20079", "PING"]).ok().contains("PONG"));
}
