//! Weights, matches, filters, retries and killed instances, with real servers.

use testbed::load::{Load, requests};
use testbed::skip::can_run;
use testbed::{Member, Mesh, Network, apps};

fn strings(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// One nginx instance of a service, answering its own name.
fn instance(mesh: &Mesh, network: &Network, name: &str, service: &str, port: u16) -> Member {
    let locations = format!("location / {{ return 200 \"{name} $request_uri $http_x_added\\n\"; }}");
    let command = apps::nginx(network.folder(), name, port, &locations);
    mesh.run(network.host("two"), name, service, &["--port", &format!("80:{port}")], &strings(&command))
}

fn caller(mesh: &Mesh, network: &Network, upstreams: &[&str]) -> Member {
    let mut flags = vec!["--admin", "127.0.0.1:15020"];
    flags.extend(upstreams.iter().flat_map(|u| ["--upstream", *u]));
    let mut member = mesh.proxy(network.host("three"), "client", "client", &flags);
    member.wait_ready(15020);
    member
}

const ROUTES: &str = "
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {ports: [{port: 80, appProtocol: http}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: shop}]
  rules:
  - matches: [{path: {type: Exact, value: /exact}}]
    backendRefs: [{name: blue, port: 80}]
  - matches: [{headers: [{name: x-canary, value: \"yes\"}]}]
    backendRefs: [{name: green, port: 80}]
  - matches: [{queryParams: [{name: colour, value: green}]}]
    backendRefs: [{name: green, port: 80}]
  - matches: [{method: PUT}]
    backendRefs: [{name: green, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-added, value: here}]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {add: [{name: x-seen, value: \"1\"}], remove: [server]}
    backendRefs: [{name: blue, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /moved}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {hostname: elsewhere.example, statusCode: 301}
  - matches: [{path: {type: RegularExpression, value: \"/item/[0-9]+\"}}]
    backendRefs: [{name: green, port: 80}]
  - backendRefs: [{name: blue, port: 80, weight: 90}, {name: green, port: 80, weight: 10}]
";

#[test]
fn weights_and_matches_go_where_they_say() {
    if !can_run("routing", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let mesh = Mesh::start(&network, "one", &[]);
    let _instances =
        [instance(&mesh, &network, "blue", "blue", 8081), instance(&mesh, &network, "green", "green", 8082)];
    mesh.wait_for_endpoints("blue", 1);
    mesh.wait_for_endpoints("green", 1);
    mesh.apply(ROUTES);
    let _client = caller(&mesh, &network, &["shop=9080"]);
    let three = network.host("three");
    let get = |arguments: &[&str], path: &str| {
        let url = format!("http://127.0.0.1:9080{path}");
        three.curl(&[arguments, &[url.as_str()]].concat()).ok()
    };
    assert_eq!(get(&[], "/exact"), "blue /exact \n");
    assert_eq!(get(&["-H", "x-canary: yes"], "/a"), "green /a \n");
    assert_eq!(get(&[], "/a?colour=green"), "green /a?colour=green \n");
    assert_eq!(get(&["-X", "PUT"], "/a"), "green /a \n");
    assert_eq!(get(&[], "/item/42"), "green /item/42 \n");
    assert_eq!(get(&[], "/old/thing?q=1"), "blue /new/thing?q=1 here\n");
    let head = get(&["-D", "-", "-o", "/dev/null"], "/old/thing").to_lowercase();
    assert!(head.contains("x-seen: 1") && !head.contains("\nserver:"), "{head}");
    let moved = get(&["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}"], "/moved/x");
    assert!(moved.starts_with("301 http://elsewhere.example"), "{moved}");

    let count =
        |name: &str| apps::nginx_log(network.folder(), name).iter().filter(|l| l.contains(" /weighted ")).count();
    let report = requests(three, "http://127.0.0.1:9080/weighted", 16, 10_000);
    assert_eq!((report.fine, report.bad), (10_000, 0));
    let (blue, green) = (count("blue"), count("green"));
    println!("weights 90/10 over 10,000 requests: {blue} and {green}");
    assert_eq!(blue + green, 10_000);
    assert!((8_850..=9_150).contains(&blue), "blue got {blue} of 10,000");
}

#[test]
fn a_grpc_route_matches_methods() {
    if !can_run("grpc_route", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let mesh = Mesh::start(&network, "one", &[]);
    let server = apps::grpc_server(50051);
    let _echo = mesh.run(network.host("two"), "echo", "echo", &["--port", "50051/grpc"], &strings(&server));
    mesh.wait_for_endpoints("echo", 1);
    mesh.apply(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: only-unary}
spec:
  parentRefs: [{group: \"\", kind: Service, name: echo}]
  rules:
  - matches: [{method: {service: leno.test.Echo, method: Unary}}]
    backendRefs: [{name: echo, port: 50051}]
",
    );
    let _client = caller(&mesh, &network, &["echo=9051"]);
    let call = |what: &str| {
        let command = apps::grpc_client("127.0.0.1:9051", what);
        testbed::process::run(
            network.host("three").command(&command[0]).args(&command[1..]),
            std::time::Duration::from_secs(60),
        )
    };
    assert_eq!(call("unary").ok().trim(), "unary ok");
    let refused = call("server_stream");
    assert!(refused.code != 0 && refused.stderr.contains("UNIMPLEMENTED"), "{}", refused.stderr);
}

#[test]
fn a_refused_connection_is_retried_unseen_and_a_post_never_runs_twice() {
    if !can_run("retries", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let (folder, three) = (network.folder(), network.host("three"));
    let mesh = Mesh::start(&network, "one", &[]);
    // One instance whose application never listens, beside one that does.
    let _good = instance(&mesh, &network, "good", "web", 8081);
    let _dead = mesh.proxy(network.host("two"), "dead", "web", &["--port", "80:8099", "--hop", "0.0.0.0:15018"]);
    mesh.wait_for_endpoints("web", 2);
    let client = caller(&mesh, &network, &["web=9080"]);
    let report = requests(three, "http://127.0.0.1:9080/x", 8, 500);
    assert_eq!((report.fine, report.bad), (500, 0), "{}", client.metrics(15_020));
    assert!(client.metrics(15_020).contains("leno_retries_total"), "retries are counted");

    // POSTs while the instances are killed and started again: each id is seen at most once by the applications.
    let script = apps::program("posts.py");
    let mut posts = three.command(apps::PYTHON);
    posts.args([&script, "127.0.0.1", "9080", "4"]);
    let mut posts = testbed::process::Process::start("posts", &mut posts, folder);
    let mut churn =
        [instance(&mesh, &network, "churn-a", "web", 8083), instance(&mesh, &network, "churn-b", "web", 8084)];
    for round in 0..6 {
        mesh.wait_for_endpoints("web", 4);
        let member = &mut churn[round % 2];
        member.kill_group();
        member.start();
    }
    posts.signal(rustix::process::Signal::TERM);
    let summary = posts.wait_for_line("its summary", |l| l.strip_prefix("sent ").map(str::to_owned));
    let mut seen: Vec<String> = ["good", "churn-a", "churn-b"]
        .iter()
        .flat_map(|name| apps::nginx_log(folder, name))
        .filter(|l| l.starts_with("POST "))
        .map(|l| l.split(' ').nth(1).unwrap_or_default().to_owned())
        .collect();
    println!("posts {summary}; executed {}", seen.len());
    assert!(seen.len() > 100, "too few posts to tell");
    seen.sort();
    let twice: Vec<_> = seen.windows(2).filter(|w| w[0] == w[1]).map(|w| &w[0]).collect();
    assert!(twice.is_empty(), "executed twice: {twice:?}");
}

#[test]
fn a_killed_instance_costs_nothing_beyond_its_requests_in_flight() {
    if !can_run("killed_instance", apps::NEEDS) {
        return;
    }
    let network = Network::new(&["one", "two", "three"]);
    let three = network.host("three");
    let mesh = Mesh::start(&network, "one", &[]);
    let _a = instance(&mesh, &network, "a", "web", 8081);
    let mut b = instance(&mesh, &network, "b", "web", 8082);
    mesh.wait_for_endpoints("web", 2);
    let _client = caller(&mesh, &network, &["web=9080"]);
    let connections = 8;
    let load = Load::start(three, "http://127.0.0.1:9080/x", connections, 400);
    testbed::wait::until("the load reaches both", || {
        let count = |n: &str| apps::nginx_log(network.folder(), n).len();
        if count("a") > 50 && count("b") > 50 { Ok(()) } else { Err(format!("{} and {}", count("a"), count("b"))) }
    });
    b.kill_group();
    let report = load.finish();
    println!("{report:?} with {connections} connections");
    // Each connection has one request under way at a time.
    assert!(report.bad <= u64::from(connections), "{report:?}");
}
