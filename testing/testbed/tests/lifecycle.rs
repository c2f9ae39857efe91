//! Drain, replacement and crashes of proxies under load.

use rustix::process::Signal;
use testbed::load::Load;
use testbed::skip::can_run;
use testbed::{Member, Mesh, Network, apps};

fn strings(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn web(mesh: &Mesh, network: &Network, name: &str, port: u16) -> Member {
    let command = apps::nginx(network.folder(), name, port, "location / { return 200 \"web\\n\"; }");
    mesh.run(network.host("two"), name, "web", &["--port", &format!("80:{port}")], &strings(&command))
}

fn caller(mesh: &Mesh, network: &Network) -> Member {
    // Under `leno run` beside a program, so that its proxy can be replaced as well.
    let flags = ["--upstream", "web=9080", "--admin", "127.0.0.1:15020"];
    let mut member = mesh.run(network.host("three"), "client", "client", &flags, &["sleep", "1000"]);
    member.wait_ready(15020);
    member
}

const URL: &str = "http://127.0.0.1:9080/";

#[test]
fn sigterm_to_the_far_side_under_load_loses_nothing() {
    if !can_run("drain_inbound", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let mesh = Mesh::start(&network, "one", &[]);
    let _a = web(&mesh, &network, "a", 8081);
    let mut b = web(&mesh, &network, "b", 8082);
    mesh.wait_for_endpoints("web", 2);
    let _client = caller(&mesh, &network);
    let load = Load::start(network.host("three"), URL, 8, 600);
    testbed::wait::until("the load reaches both", || {
        let count = |n: &str| apps::nginx_log(network.folder(), n).len();
        if count("a") > 50 && count("b") > 50 { Ok(()) } else { Err(format!("{} and {}", count("a"), count("b"))) }
    });
    b.process().signal(Signal::TERM);
    let status = b.process().wait();
    mesh.wait_for_endpoints("web", 1);
    let report = load.finish();
    println!("drain of one of two instances ({status}): {report:?}");
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn sigterm_to_the_near_proxy_finishes_what_is_under_way() {
    if !can_run("drain_outbound", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let three = network.host("three");
    let mesh = Mesh::start(&network, "one", &[]);
    let folder = network.folder();
    let command =
        apps::nginx(folder, "web", 8080, "location /slow { limit_rate 20k; } location / { return 200 \"web\\n\"; }");
    std::fs::write(folder.join("nginx-web/html/slow"), vec![b'x'; 60_000]).expect("a file in our own folder");
    let _web = mesh.run(network.host("two"), "web", "web", &["--port", "8080"], &strings(&command));
    mesh.wait_for_endpoints("web", 1);
    let mut near = mesh.proxy(three, "near", "client", &["--upstream", "web=9080", "--admin", "127.0.0.1:15020"]);
    near.wait_ready(15020);
    let mut slow = three.command("curl");
    slow.args([
        "-sS",
        "--max-time",
        "30",
        "-o",
        "/dev/null",
        "-w",
        "size=%{size_download}\n",
        "http://127.0.0.1:9080/slow",
    ]);
    let mut slow = testbed::Process::start("slow", &mut slow, folder);
    testbed::wait::until("the slow answer is under way", || {
        let page = near.metrics(15_020);
        let open =
            page.lines().any(|l| l.starts_with("leno_requests_active") && l.contains("outbound") && l.ends_with(" 1"));
        if open { Ok(()) } else { Err(page) }
    });
    near.process().signal(Signal::TERM);
    slow.wait_for_line("the whole answer", |l| (l == "size=60000").then_some(()));
    let status = near.process().wait();
    assert!(status.success(), "{status}");
}

#[test]
fn sigterm_to_the_near_proxy_under_load_breaks_no_request() {
    if !can_run("drain_outbound_load", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let three = network.host("three");
    let mesh = Mesh::start(&network, "one", &[]);
    let _web = web(&mesh, &network, "web", 8081);
    mesh.wait_for_endpoints("web", 1);
    let mut near = mesh.proxy(three, "near", "client", &["--upstream", "web=9080", "--admin", "127.0.0.1:15020"]);
    near.wait_ready(15020);
    let load = Load::start(three, URL, 8, 600);
    near.process().signal(Signal::TERM);
    let status = near.process().wait();
    let report = load.stop();
    println!("drain of the near proxy ({status}): {report:?}");
    assert!(status.success(), "{status}");
    // Afterwards nobody is there; what it had taken, and what came on kept connections, it answered.
    assert!(report.bad == 0 && report.resent == 0 && report.refused > 0, "{report:?}");
}

#[test]
fn a_proxy_is_replaced_under_a_running_program_on_either_side() {
    if !can_run("replacement", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let mesh = Mesh::start(&network, "one", &[]);
    let mut far = web(&mesh, &network, "web", 8081);
    mesh.wait_for_endpoints("web", 1);
    let mut near = caller(&mesh, &network);
    let load = Load::start(network.host("three"), URL, 8, 500);
    for member in [&mut far, &mut near] {
        let before = member.proxy_pids();
        member.replace_proxy();
        testbed::wait::until("the successor has taken over and the predecessor has ended", || {
            let now = member.proxy_pids();
            if now.len() == 1 && now != before {
                Ok(())
            } else {
                Err(format!("{before:?} -> {now:?}\n{}", member.log()))
            }
        });
        mesh.wait_for_endpoints("web", 1);
    }
    let report = load.finish();
    println!("both proxies replaced: {report:?}");
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn a_crashed_proxy_comes_back_on_the_same_ports_under_the_same_program() {
    if !can_run("crash", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let mesh = Mesh::start(&network, "one", &[]);
    let mut far = web(&mesh, &network, "web", 8081);
    mesh.wait_for_endpoints("web", 1);
    let _near = caller(&mesh, &network);
    let three = network.host("three");
    assert_eq!(three.curl(&[URL]).ok(), "web\n");
    let before = far.proxy_pids();
    testbed::process::kill(before[0]);
    testbed::wait::until("a new proxy runs", || {
        let now = far.proxy_pids();
        if now.len() == 1 && now != before { Ok(()) } else { Err(format!("{now:?}")) }
    });
    testbed::wait::until("requests are answered again", || {
        let said = three.curl(&[URL]);
        if said.stdout == "web\n" { Ok(()) } else { Err(said.stdout + &said.stderr) }
    });
}

#[test]
fn a_stop_does_not_wait_for_a_successor_that_cannot_start() {
    if !can_run("hanging_successor", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one"]);
    let mut mesh = Mesh::start(&network, "one", &[]);
    let flags = ["--admin", "127.0.0.1:15020"];
    let mut member = mesh.run(network.host("one"), "job", "job", &flags, &["sleep", "1000"]);
    member.wait_ready(15020);
    // Without its identity a proxy waits for the control plane, which is gone.
    mesh.kill();
    std::fs::remove_file(member.state.join("identity.pem")).expect("the member's identity");
    member.replace_proxy();
    testbed::wait::until("the successor is starting", || {
        let now = member.proxy_pids();
        if now.len() == 2 { Ok(()) } else { Err(format!("{now:?}")) }
    });
    let family = testbed::process::descendants(member.process().pid());
    member.process().signal(Signal::TERM);
    assert_eq!(member.process().wait().code(), Some(128 + 15), "the program's own end: {}", member.log());
    assert!(!member.log().contains("not replaced"), "the start was waited for: {}", member.log());
    testbed::wait::until("nothing is left", || {
        let left: Vec<_> = family.iter().filter(|p| std::path::Path::new(&format!("/proc/{p}")).exists()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

#[test]
fn a_member_that_waits_for_the_control_plane_can_be_stopped() {
    if !can_run("stop_while_joining", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one"]);
    let mut mesh = Mesh::start(&network, "one", &[]);
    let token = mesh.token("job");
    mesh.kill();
    let state = network.folder().join("state-waiting");
    let mut command = network.host("one").command(&testbed::mesh::leno().to_string_lossy());
    command.args(["run", "--service", "job", "--join", &mesh.join, "--token", &token, "--state-dir"]);
    command.arg(state).args(["--", "true"]).env("LENO_LOG", "info");
    let mut waiting = testbed::Process::start("waiting", &mut command, network.folder());
    waiting.wait_for_line("that it waits", |l| l.contains("cannot join yet").then_some(()));
    waiting.signal(Signal::TERM);
    assert_eq!(waiting.wait().code(), Some(128 + 15), "{}", waiting.log());
    assert!(!waiting.log().contains("not ready within"), "{}", waiting.log());
}

#[test]
fn the_program_decides_the_exit_code_and_nothing_is_left() {
    if !can_run("exit_code", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one"]);
    let mesh = Mesh::start(&network, "one", &[]);
    let mut member = mesh.run(network.host("one"), "job", "job", &[], &["sh", "-c", "exit 7"]);
    assert_eq!(member.process().wait().code(), Some(7), "{}", member.log());
    let mut long = mesh.run(
        network.host("one"),
        "long",
        "long",
        &["--stop-grace", "2s"],
        &["sh", "-c", "trap '' TERM; while true; do sleep 1; done"],
    );
    testbed::wait::until("the program runs", || if long.proxy_pids().len() == 1 { Ok(()) } else { Err(long.log()) });
    testbed::wait::until("the program is there", || {
        if testbed::process::descendants(long.process().pid()).len() >= 2 { Ok(()) } else { Err(String::new()) }
    });
    let family = testbed::process::descendants(long.process().pid());
    long.process().signal(Signal::TERM);
    assert_eq!(long.process().wait().code(), Some(137), "{}", long.log());
    for pid in family.iter().take(2) {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} is left");
    }
    let members = mesh.json(&["get", "members", "-A"]);
    assert_eq!(members.as_array().map(Vec::len), Some(0), "{members}");
}

#[test]
fn what_the_program_leaves_behind_is_ended() {
    if !can_run("left_behind", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one"]);
    let mesh = Mesh::start(&network, "one", &[]);
    let gone = |family: &[u32]| {
        let left: Vec<_> = family.iter().filter(|p| std::path::Path::new(&format!("/proc/{p}")).exists()).collect();
        assert!(left.is_empty(), "{left:?} of {family:?}");
    };
    // The proxy, the program, what it started, and that in a session of its own.
    let start = |name: &str, script: &str| {
        let flags = ["--stop-grace", "2s", "--admin", "127.0.0.1:15020"];
        let mut member = mesh.run(network.host("one"), name, name, &flags, &["sh", "-c", script]);
        let family = testbed::wait::until("everything runs", || {
            let family = testbed::process::descendants(member.process().pid());
            if family.len() >= 4 { Ok(family) } else { Err(format!("{family:?}")) }
        });
        (member, family)
    };
    // A master that is killed, as by a lack of memory.
    let (mut member, family) = start("master", "sleep 1000 & setsid sleep 1000 & wait");
    let program = family
        .iter()
        .copied()
        .find(|p| std::fs::read_to_string(format!("/proc/{p}/comm")).is_ok_and(|name| name.trim() == "sh"));
    testbed::process::kill(program.expect("the shell"));
    assert_eq!(member.process().wait().code(), Some(137), "{}", member.log());
    gone(&family);
    let log = member.log();
    assert!(log.contains("the program ended (signal: 9") && log.contains("left 2 processes behind"), "{log}");
    // One that does not want to end.
    let (mut member, family) = start("deaf", "(trap '' TERM; sleep 1000; sleep 1000) & setsid sleep 1000 & wait");
    member.process().signal(Signal::TERM);
    assert_eq!(member.process().wait().code(), Some(128 + 15), "{}", member.log());
    gone(&family);
}

#[test]
fn two_members_do_not_share_a_state_directory() {
    if !can_run("state_directory", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one"]);
    let mesh = Mesh::start(&network, "one", &[]);
    let mut first = mesh.run(network.host("one"), "first", "job", &["--admin", "127.0.0.1:15020"], &["sleep", "1000"]);
    first.wait_ready(15020);
    let state = first.state.display().to_string();
    let join = mesh.join.clone();
    let second = network.host("one").run(
        &testbed::mesh::leno().to_string_lossy(),
        &["run", "--service", "job", "--join", &join, "--state-dir", &state, "--", "true"],
    );
    assert!(second.code == 1 && second.stderr.contains("--state-dir"), "{second:?}");
    assert!(first.process().is_running());
}

#[test]
fn a_replaced_proxy_that_still_carries_a_stream_obeys_new_policies_and_answers_for_nobody() {
    if !can_run("predecessor", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let (folder, three) = (network.folder(), network.host("three"));
    let mesh = Mesh::start(&network, "one", &[]);
    let redis = apps::redis(folder, 6379);
    let flags = ["--port", "6379/tcp", "--admin", "127.0.0.1:15020"];
    let mut cache = mesh.run(network.host("two"), "cache", "cache", &flags, &strings(&redis));
    mesh.wait_for_endpoints("cache", 1);
    let mut client = mesh.proxy(three, "client", "client", &["--upstream", "cache=9379", "--admin", "127.0.0.1:15020"]);
    client.wait_ready(15020);
    let mut command = three.command(apps::PYTHON);
    command.args([&apps::program("hold.py"), "redis", "127.0.0.1", "9379"]);
    let mut held = testbed::Process::start("held", &mut command, folder);
    held.wait_for_line("open", |l| l.starts_with("open").then_some(()));
    let before = cache.proxy_pids();
    cache.replace_proxy();
    testbed::wait::until("predecessor and successor run side by side", || {
        let now = cache.proxy_pids();
        if now.len() == 2 && now.contains(&before[0]) { Ok(()) } else { Err(format!("{now:?}")) }
    });
    let cpu = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    let start = (std::time::Instant::now(), cpu(before[0]));
    for _ in 0..50 {
        let code = network.host("two").curl(&["-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:15020/ready"]);
        assert_eq!(code.stdout, "200", "one of the two is ready, and the other one does not answer");
    }
    testbed::wait::until("the predecessor retires", || {
        if cache.log().contains("retiring") { Ok(()) } else { Err(cache.log()) }
    });
    let share = (cpu(before[0]) - start.1) as f64 / start.0.elapsed().as_nanos() as f64;
    assert!(share < 0.5, "the predecessor uses {share:.2} of a CPU for one stream of 20 pings/s");
    assert!(held.is_running());
    mesh.apply(
        "
apiVersion: leno.dev/v1alpha1
kind: AccessPolicy
metadata: {name: nobody}
spec:
  targetRefs: [{group: \"\", kind: Service, name: cache}]
  rules: [{action: deny}]
",
    );
    held.wait_for_line("closed by the predecessor", |l| l.starts_with("closed").then_some(()));
    testbed::wait::until("the predecessor ends", || {
        let now = cache.proxy_pids();
        if now.len() == 1 { Ok(()) } else { Err(format!("{now:?}")) }
    });
}
