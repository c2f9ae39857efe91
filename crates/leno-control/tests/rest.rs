//! The REST API over real sockets: what it takes, what it refuses, and that what it acknowledged survives `kill -9`.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use leno_api::routes::{self, ROUTES};
use leno_api::{
    Action, Client, ClientError, ErrorReason, RevocationRequest, RotationPhase, TokenRequest, WatchEventKind,
};
use leno_control::{ControlPlane, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn start(directory: &Path) -> ControlPlane {
    try_start(directory).await.unwrap()
}

async fn try_start(directory: &Path) -> Result<ControlPlane, leno_control::StartError> {
    let mut settings = Settings::new(directory.to_owned());
    settings.api = "127.0.0.1:0".parse().unwrap();
    settings.discovery = "127.0.0.1:0".parse().unwrap();
    // These tests have no proxies.
    let plane = ControlPlane::start_with(settings, |_, _, drain| async move { drain.draining().await }).await?;
    plane.ready().await;
    Ok(plane)
}

fn client(plane: &ControlPlane, directory: &Path) -> Client {
    let token = std::fs::read_to_string(directory.join("admin.token")).unwrap();
    Client::new(&format!("http://{}", plane.api()), Some(&token)).unwrap()
}

/// Sends bytes and reads until the server closes.
async fn raw(plane: &ControlPlane, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(plane.api()).await.unwrap();
    // A server that has refused may close before all was sent.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

const WEB: &str =
    "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  ports:\n    - port: 80\n";

#[tokio::test]
async fn resources_are_written_read_watched_and_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let plane = start(directory.path()).await;
    let client = client(&plane, directory.path());

    let mut watch = client.watch("services", Some("shop"), None).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().kind, WatchEventKind::Bookmark);

    let dry = client.apply(WEB, None, true).await.unwrap();
    assert_eq!((dry.results[0].action, dry.dry_run), (Action::Created, true));
    assert!(client.get("services", "shop", "web").await.unwrap_err().is_not_found());

    let created = client.apply(WEB, None, false).await.unwrap();
    assert_eq!(created.results[0].action, Action::Created);
    let event = watch.next().await.unwrap().unwrap();
    assert_eq!((event.kind, event.object["metadata"]["name"].as_str()), (WatchEventKind::Put, Some("web")));
    let resume = event.cursor;

    let read = client.get("services", "shop", "web").await.unwrap();
    assert_eq!(
        (read["metadata"]["generation"].as_u64(), read["spec"]["ports"][0]["port"].as_u64()),
        (Some(1), Some(80))
    );
    assert_eq!(client.apply(WEB, None, false).await.unwrap().results[0].action, Action::Unchanged);
    let changed = client.apply(&WEB.replace("80", "81"), None, false).await.unwrap();
    assert_eq!(changed.results[0].action, Action::Configured);
    let read = client.get("services", "shop", "web").await.unwrap();
    assert_eq!(read["metadata"]["generation"].as_u64(), Some(2));

    let other = WEB.replace("shop", "bank");
    client.apply(&format!("{other}---\n{}", WEB.replace("name: web", "name: api")), None, false).await.unwrap();
    assert_eq!(client.list("services", None).await.unwrap().items.len(), 3);
    assert_eq!(client.list("services", Some("shop")).await.unwrap().items.len(), 2);

    client.delete("services", "shop", "web", None).await.unwrap();
    assert!(client.delete("services", "shop", "web", None).await.unwrap_err().is_not_found());
    // A watch that resumes sees what came after its cursor, of its namespace only.
    let mut resumed = client.watch("services", Some("shop"), Some(&resume)).await.unwrap();
    let mut names = Vec::new();
    loop {
        let event = resumed.next().await.unwrap().unwrap();
        assert_ne!(event.object["metadata"]["namespace"].as_str(), Some("bank"));
        if event.kind == WatchEventKind::Delete {
            break;
        }
        names.extend(event.object["metadata"]["name"].as_str().map(str::to_owned));
    }
    assert!(names.contains(&"web".to_owned()) && names.contains(&"api".to_owned()), "{names:?}");
    let audit = client.audit(1000).await.unwrap();
    let said: Vec<_> = audit.iter().map(|e| format!("{} {} {}", e.principal, e.action, e.object)).collect();
    for expected in ["create Service shop/web", "update Service shop/web", "delete Service shop/web"] {
        assert!(said.contains(&format!("admin {expected}")), "{said:?}");
    }
    plane.shutdown().await;
    // The watch is ended by the drain, not left hanging.
    while watch.next().await.ok().flatten().is_some() {}
}

#[tokio::test]
async fn a_watch_from_before_a_restart_lists_again() {
    let directory = tempfile::tempdir().unwrap();
    let plane = start(directory.path()).await;
    let cursor = client(&plane, directory.path()).list("services", None).await.unwrap().cursor;
    client(&plane, directory.path()).apply(WEB, None, false).await.unwrap();
    plane.shutdown().await;
    let plane = start(directory.path()).await;
    let client = client(&plane, directory.path());
    let mut watch = client.watch("services", None, Some(&cursor)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().kind, WatchEventKind::Bookmark);
    assert_eq!(watch.next().await.unwrap().unwrap().kind, WatchEventKind::Compacted);
    assert_eq!(watch.next().await.unwrap(), None);
    // Without a cursor the present state comes first.
    let mut watch = client.watch("services", None, None).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().object["metadata"]["name"], "web");
    assert!(client.watch("services", None, Some("nonsense")).await.is_err());
    assert!(matches!(client.watch("nonsense", None, None).await, Err(e) if e.is_not_found()));
    plane.shutdown().await;
}

#[tokio::test]
async fn a_directory_of_which_a_part_is_gone_is_refused_and_left_alone() {
    for (lost, missing) in [("ca/state.json", "certificate authority"), ("store.redb", "store")] {
        let place = tempfile::tempdir().unwrap();
        start(place.path()).await.shutdown().await;
        let root = std::fs::read(place.path().join("ca/root-1.key")).unwrap();
        let part = place.path().join(lost);
        let kept = std::fs::read(&part).unwrap();
        std::fs::remove_file(&part).unwrap();
        let error = try_start(place.path()).await.err().unwrap().to_string();
        assert!(error.contains(missing) && error.contains("backup"), "{lost}: {error}");
        assert_eq!(std::fs::read(place.path().join("ca/root-1.key")).unwrap(), root, "the root is still there");
        std::fs::write(&part, kept).unwrap();
        start(place.path()).await.shutdown().await;
    }
}

#[tokio::test]
async fn faults_have_positions_and_leave_other_documents_alone() {
    let directory = tempfile::tempdir().unwrap();
    let plane = start(directory.path()).await;
    let client = client(&plane, directory.path());
    let text = format!("{WEB}---\n{}", WEB.replace("name: web", "name: bad").replace("port: 80", "prt: 80"));
    let response = client.apply(&text, None, false).await.unwrap();
    let actions: Vec<_> = response.results.iter().map(|r| (r.object.name.as_str(), r.action)).collect();
    assert_eq!(actions, [("web", Action::Created), ("bad", Action::Refused)]);
    let unknown = response.diagnostics.iter().find(|d| d.code == "UnknownField").unwrap();
    assert_eq!((unknown.line, unknown.column), (17, 7), "{unknown:?}");
    assert_eq!(unknown.suggestion.as_deref(), Some("port"));
    assert!(!response.is_success());
    assert!(client.get("services", "shop", "bad").await.unwrap_err().is_not_found());

    // A YAML bomb, a deep document, no YAML at all, another kind, an unknown kind, another trust domain.
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n".to_owned();
    let deep = "[".repeat(100_000);
    let mesh =
        "apiVersion: leno.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {trustDomain: other.mesh}\n";
    let workload = "apiVersion: leno.dev/v1alpha1\nkind: Workload\nmetadata: {name: x}\nspec: {}\n";
    for bad in [bomb.as_str(), &deep, "\t:\0", "just words", "kind: Nothing\nmetadata: {}\n", mesh, workload] {
        let response = client.apply(bad, None, false).await.unwrap();
        assert!(!response.is_success(), "{bad:.60}");
        assert!(response.diagnostics.iter().all(|d| d.line > 0), "{response:?}");
    }
    // Of several errors in one document each is told with its place, in the message as far as people read.
    let ports = "    - {port: 0}\n".repeat(25);
    let many = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: many}}\nspec:\n  ports:\n{ports}");
    let response = client.apply(&many, None, false).await.unwrap();
    let message = &response.results[0].error.as_ref().unwrap().message;
    assert!(message.contains("6:14") && message.contains("25:14") && message.ends_with("; and 5 more"), "{message}");
    assert_eq!((response.diagnostics.len(), response.results[0].diagnostics.len()), (25, 25));
    assert_eq!(client.list("meshconfigs", None).await.unwrap().items.len(), 0);
    plane.shutdown().await;
}

#[tokio::test]
async fn what_no_proxy_would_accept_is_not_stored() {
    let directory = tempfile::tempdir().unwrap();
    let plane = start(directory.path()).await;
    let client = client(&plane, directory.path());
    let callers: Vec<String> = (0..2000).map(|n| format!("spiffe://mesh.leno/ns/shop/sa/caller-{n}")).collect();
    let policy = |name: &str, rules: usize| {
        let first = format!("    - action: allow\n      from: &f [{{identities: [{}]}}]\n", callers.join(","));
        let more = "    - {action: allow, from: *f}\n".repeat(rules - 1);
        format!(
            "apiVersion: leno.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  rules:\n{first}{more}"
        )
    };
    for dry_run in [true, false] {
        let text = policy("large", 16);
        assert!(text.len() < 100_000, "the text is small: {}", text.len());
        let response = client.apply(&format!("{WEB}---\n{text}"), None, dry_run).await.unwrap();
        let refused = response.results.iter().find(|r| r.action == Action::Refused).expect("a refusal");
        assert_eq!((refused.object.name.as_str(), response.is_success()), ("large", false));
        assert_eq!(refused.error.as_ref().unwrap().reason, ErrorReason::TooLarge, "{:?}", refused.error);
    }
    assert!(client.get("accesspolicies", "shop", "large").await.unwrap_err().is_not_found());
    assert!(client.get("services", "shop", "web").await.is_ok(), "others are unaffected");
    assert!(client.apply(&policy("small", 8), None, false).await.unwrap().is_success());
    plane.shutdown().await;
}

#[tokio::test]
async fn a_stale_version_is_a_conflict() {
    let directory = tempfile::tempdir().unwrap();
    let plane = start(directory.path()).await;
    let client = client(&plane, directory.path());
    client.apply(WEB, None, false).await.unwrap();
    let read = client.get("services", "shop", "web").await.unwrap();
    client.apply(&WEB.replace("80", "81"), None, false).await.unwrap();
    let mut stale = read.clone();
    stale["spec"]["ports"][0]["port"] = 82.into();
    let response = client.apply(&stale.to_string(), None, false).await.unwrap();
    assert_eq!(response.results[0].error.as_ref().unwrap().reason, ErrorReason::Conflict);
    let version = read["metadata"]["resourceVersion"].as_str().unwrap();
    match client.delete("services", "shop", "web", Some(version)).await {
        Err(ClientError::Refused { status, body }) => {
            assert_eq!((status.as_u16(), body.reason), (409, ErrorReason::Conflict));
        }
        other => panic!("{other:?}"),
    }
    // PUT says it by the status itself.
    let token = std::fs::read_to_string(directory.path().join("admin.token")).unwrap();
    let body = stale.to_string();
    let request = format!(
        "PUT /api/v1/namespaces/shop/services/web HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        plane.api(),
        token.trim(),
        body.len()
    );
    assert_eq!(status(&raw(&plane, request.as_bytes()).await), "409");
    let read = client.get("services", "shop", "web").await.unwrap();
    assert_eq!(read["spec"]["ports"][0]["port"].as_u64(), Some(81));
    plane.shutdown().await;
}

#[tokio::test]
async fn every_documented_route_is_served_and_guarded() {
    let directory = tempfile::tempdir().unwrap();
    let plane = start(directory.path()).await;
    let token = std::fs::read_to_string(directory.path().join("admin.token")).unwrap();
    for route in ROUTES {
        let names = [("plural", "services"), ("namespace", "shop"), ("name", "web"), ("id", "x")];
        let path = routes::fill(route.path, &names);
        let request = |authorization: &str| {
            format!(
                "{} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n{authorization}\r\n",
                route.method
            )
        };
        let answer = raw(&plane, request("").as_bytes()).await;
        if !route.authenticated {
            assert_eq!(status(&answer), "200", "{}", route.operation);
            continue;
        }
        assert_eq!(status(&answer), "401", "{}", route.operation);
        assert!(answer.to_ascii_lowercase().contains("www-authenticate: bearer"), "{answer}");
        let wrong = raw(&plane, request("Authorization: Bearer nonsense\r\n").as_bytes()).await;
        assert_eq!(status(&wrong), "401", "{}", route.operation);
        if route.operation == "watch" {
            continue; // It would not end.
        }
        let known = raw(&plane, request(&format!("Authorization: Bearer {}\r\n", token.trim())).as_bytes()).await;
        assert!(!known.contains("no such route") && status(&known) != "405", "{}: {known}", route.operation);
    }
    plane.shutdown().await;
}

#[tokio::test]
async fn hostile_requests_are_cut_off_and_the_rest_served() {
    let directory = tempfile::tempdir().unwrap();
    let plane = start(directory.path()).await;
    let client = client(&plane, directory.path());
    let token = std::fs::read_to_string(directory.path().join("admin.token")).unwrap();
    let token = token.trim();

    for (request, expected) in [
        ("GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".to_owned(), "403"),
        (
            format!(
                "GET /api/v1/tokens HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
            ),
            "403",
        ),
        ("GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), "400"),
        (
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n".to_owned(),
            "400",
        ),
        ("GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(), "403"),
        ("\u{0}\u{1}garbage\r\n\r\n".to_owned(), "400"),
        (format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-A: b\r\n".repeat(100)), "431"),
        (format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: {}\r\n\r\n", "b".repeat(64 << 10)), "431"),
        ("GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(), "404"),
    ] {
        let answer = raw(&plane, request.as_bytes()).await;
        assert_eq!(status(&answer), expected, "{request:.80}: {answer:.200}");
    }
    // One byte over the limit, with a length and without.
    let head = format!(
        "POST /api/v1/apply HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
    );
    let body = "#".repeat(routes::MAX_BODY + 1);
    let sized = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(status(&raw(&plane, sized.as_bytes()).await), "413");
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    assert_eq!(status(&raw(&plane, chunked.as_bytes()).await), "413");
    // A body without credentials is not even read.
    let head =
        "POST /api/v1/apply HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&raw(&plane, head.as_bytes()).await), "401");

    // Idle connections, fewer than the cap: everyone else is served all the same.
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(plane.api()).await.unwrap());
    }
    client.apply(WEB, None, false).await.unwrap();
    assert_eq!(client.ready().await.unwrap(), (true, "ready\n".to_owned()));
    let refused = client.audit(1000).await.unwrap();
    assert!(refused.iter().any(|e| e.action == "api" && e.outcome == "unauthenticated"), "{refused:?}");
    plane.shutdown().await;
}

/// A client that is still sending when the answer comes gets the answer all the same: bytes that nobody reads would reset the
/// connection, and the reset takes what the client has not read yet.
#[tokio::test]
async fn an_answer_that_comes_before_the_end_of_the_request_is_not_lost() {
    let directory = tempfile::tempdir().unwrap();
    let plane = start(directory.path()).await;
    let token = std::fs::read_to_string(directory.path().join("admin.token")).unwrap();
    let head = "POST /api/v1/apply HTTP/1.1\r\nHost: localhost\r\n";
    let admin = format!("Authorization: Bearer {}\r\n", token.trim());
    let body = "#".repeat(20_000_000);
    let sized = format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let long = format!("X: {}\r\n\r\n", body);
    let requests = [
        (format!("{head}{admin}{sized}"), "413"),
        (format!("{head}{admin}{chunked}"), "413"),
        (format!("{head}{sized}"), "401"),
        (format!("{head}{long}"), "431"),
    ];
    for (request, expected) in &requests {
        let mut stream = TcpStream::connect(plane.api()).await.unwrap();
        let (first, rest) = request.as_bytes().split_at(2 << 20);
        stream.write_all(first).await.unwrap();
        stream.readable().await.unwrap();
        stream.write_all(rest).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(status(&answer), *expected, "{answer}");
    }
    plane.shutdown().await;
}

#[tokio::test]
async fn a_write_whose_client_is_gone_is_carried_out_whole_and_audited() {
    const COUNT: usize = 200;
    let directory = tempfile::tempdir().unwrap();
    let plane = start(directory.path()).await;
    let client = client(&plane, directory.path());
    let token = std::fs::read_to_string(directory.path().join("admin.token")).unwrap();
    let documents: Vec<_> = (0..COUNT).map(|i| WEB.replace("name: web", &format!("name: web{i}"))).collect();
    let body = documents.join("---\n");
    let head = format!(
        "POST /api/v1/apply HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        token.trim(),
        body.len()
    );
    let mut stream = TcpStream::connect(plane.api()).await.unwrap();
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    let services = async || client.list("services", None).await.unwrap().items.len();
    let audited = async || client.audit(1000).await.unwrap().iter().filter(|e| e.action == "create").count();
    while services().await == 0 {}
    drop(stream);
    let whole = async { while services().await < COUNT || audited().await < COUNT {} };
    tokio::time::timeout(std::time::Duration::from_secs(60), whole).await.expect("it was cut short");
    plane.shutdown().await;
}

#[tokio::test]
async fn tokens_revocations_and_rotation_are_administered() {
    let directory = tempfile::tempdir().unwrap();
    let plane = start(directory.path()).await;
    let client = client(&plane, directory.path());
    let request = TokenRequest {
        services: vec!["web".into()],
        namespace: Some("shop".into()),
        service_account: None,
        ttl_seconds: None,
    };
    let made = client.create_token(&request).await.unwrap();
    assert!(made.token.starts_with(&format!("leno1.{}.", made.info.id)));
    assert_eq!(made.info.identity, "spiffe://mesh.leno/ns/shop/sa/web");
    assert_eq!(client.tokens().await.unwrap(), std::slice::from_ref(&made.info));
    client.delete_token(&made.info.id).await.unwrap();
    assert!(client.delete_token(&made.info.id).await.unwrap_err().is_not_found());
    for bad in [
        TokenRequest { services: vec![], ..request.clone() },
        TokenRequest { services: vec!["../x".into()], ..request.clone() },
        TokenRequest { namespace: Some("leno-system".into()), ..request.clone() },
        TokenRequest { ttl_seconds: Some(0), ..request.clone() },
        TokenRequest { ttl_seconds: Some(u64::MAX), ..request.clone() },
    ] {
        assert!(matches!(client.create_token(&bad).await, Err(ClientError::Refused { status, .. }) if status == 422));
    }

    let before = client.ca().await.unwrap();
    let revoke = |identity: &str| RevocationRequest { identity: Some(identity.into()), ..RevocationRequest::default() };
    let revoked = client.revoke(&revoke("spiffe://mesh.leno/ns/shop/sa/web")).await.unwrap();
    assert_eq!(client.ca().await.unwrap().bundle_version, before.bundle_version + 1);
    for bad in ["spiffe://other/ns/a/sa/b", "nonsense", "spiffe://mesh.leno/ns/leno-system/sa/control-plane"] {
        assert!(client.revoke(&revoke(bad)).await.is_err(), "{bad}");
    }
    client.unrevoke(&revoked.id).await.unwrap();
    assert!(client.revocations().await.unwrap().is_empty());

    let status = client.rotate_root().await.unwrap();
    assert_eq!((status.phase, status.roots.len()), (RotationPhase::Distributing, 2));
    assert!(matches!(client.rotate_root().await, Err(ClientError::Refused { status, .. }) if status == 409));
    let overview = client.overview().await.unwrap();
    assert_eq!((overview.trust_domain.as_str(), overview.members_connected), ("mesh.leno", 0));
    plane.shutdown().await;
}

#[tokio::test]
async fn status_follows_what_a_resource_refers_to() {
    let directory = tempfile::tempdir().unwrap();
    let plane = start(directory.path()).await;
    let client = client(&plane, directory.path());
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\nspec:\n  parentRefs: [{name: web}]\n  rules:\n    - backendRefs: [{name: web, port: 80}]\n";
    client.apply(route, None, false).await.unwrap();
    let mut watch = client.watch("httproutes", None, None).await.unwrap();
    // Until the condition is as expected: states, not times.
    let mut wait = async |kind: &str, status: &str| loop {
        let event = watch.next().await.unwrap().unwrap();
        let conditions = event.object.pointer("/status/parents/0/conditions").and_then(|c| c.as_array());
        let found = conditions.into_iter().flatten().find(|c| c["type"] == kind);
        if let Some(found) = found.filter(|c| c["status"] == status) {
            break found["reason"].as_str().unwrap().to_owned();
        }
    };
    assert_eq!(wait("Accepted", "False").await, "NoMatchingParent");
    client.apply(WEB, None, false).await.unwrap();
    assert_eq!(wait("Accepted", "True").await, "Accepted");
    let services = client.overview().await.unwrap().services;
    assert_eq!((services[0].name.as_str(), services[0].ports[0].port), ("web", 80));
    // Its spec was written once, its status twice or more: the generation counts the spec alone.
    let read = client.get("httproutes", "shop", "r").await.unwrap();
    assert_eq!(read["metadata"]["generation"], 1);
    plane.shutdown().await;
}

#[tokio::test]
async fn a_second_control_plane_on_the_same_data_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let plane = start(directory.path()).await;
    let refused = try_start(directory.path()).await.err().unwrap().to_string();
    assert!(
        refused.contains(&format!("in use by another control plane (process {})", std::process::id())),
        "{refused}"
    );
    plane.shutdown().await;
    let again = start(directory.path()).await;
    again.shutdown().await;
    let mut settings = Settings::new(directory.path().to_owned());
    settings.trust_domain = Some("other.mesh".parse().unwrap());
    settings.api = "127.0.0.1:0".parse().unwrap();
    settings.discovery = "127.0.0.1:0".parse().unwrap();
    let refused = ControlPlane::start_with(settings, |_, _, drain| async move { drain.draining().await }).await;
    assert!(refused.err().unwrap().to_string().contains("fixed at first start"));
}

const CHILD: &str = "LENO_CONTROL_TEST_CHILD";

/// Not a test of its own: the control plane that the next one kills.
#[tokio::test]
async fn child_that_serves_until_killed() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let plane = start(Path::new(&directory)).await;
    println!("announce {}", plane.announcement());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn kill_9_loses_nothing_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    let mut pin = None;
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_serves_until_killed", "--nocapture"])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let announced = loop {
            let line = lines.next().expect("the child announces itself").unwrap();
            if let Some(json) = line.strip_prefix("announce ") {
                break serde_json::from_str::<serde_json::Value>(json).unwrap();
            }
        };
        let token = std::fs::read_to_string(announced["adminTokenFile"].as_str().unwrap()).unwrap();
        let client = Client::new(announced["api"].as_str().unwrap(), Some(&token)).unwrap();
        // What earlier rounds acknowledged is there, and the authority is the same.
        let names: Vec<String> = client
            .list("services", None)
            .await
            .unwrap()
            .items
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
            .collect();
        for name in &acknowledged {
            assert!(names.contains(name), "{name} was acknowledged and is gone");
        }
        let root = client.ca().await.unwrap().roots[0].pin.clone();
        assert_eq!(*pin.get_or_insert(root.clone()), root);
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..4 {
            let client = client.clone();
            writers.spawn(async move {
                let mut done = Vec::new();
                for n in 0.. {
                    let name = format!("s{round}-{writer}-{n}");
                    let text = WEB.replace("name: web", &format!("name: {name}"));
                    match client.apply(&text, None, false).await {
                        Ok(response) if response.is_success() => done.push(name),
                        _ => break,
                    }
                    if n == 200 {
                        break;
                    }
                }
                done
            });
        }
        // Killed in the middle: as soon as some writes are through.
        let mut watch = client.watch("services", None, None).await.unwrap();
        let mut seen = 0;
        while seen < 20 + 20 * round {
            if watch.next().await.unwrap().unwrap().kind == WatchEventKind::Put {
                seen += 1;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while let Some(done) = writers.join_next().await {
            acknowledged.extend(done.unwrap());
        }
    }
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
    let plane = start(directory.path()).await;
    let client = client(&plane, directory.path());
    for name in &acknowledged {
        assert!(client.get("services", "shop", name).await.is_ok(), "{name} was acknowledged and is gone");
    }
    plane.shutdown().await;
}
