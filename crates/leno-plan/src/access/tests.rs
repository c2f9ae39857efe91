//! Deny, allow, default; callers, ports, requests and paths.

use super::*;
use crate::matching::TextMatch;
use crate::path::normalise;
use crate::request::{HeaderSource, NoHeaders};

fn id(namespace: &str, account: &str) -> SpiffeId {
    SpiffeId::new(&format!("spiffe://mesh.leno/ns/{namespace}/sa/{account}")).unwrap()
}

fn members() -> DefaultAccess {
    DefaultAccess::Members(TrustDomain::default())
}

fn account(text: &str) -> CallerMatch {
    CallerMatch { service_account: Literal::parse(text), ..CallerMatch::default() }
}

fn rule(policy: &str, from: Vec<CallerMatch>, requests: Vec<RequestMatch>) -> AccessRule {
    AccessRule { policy: policy.into(), from, ports: vec![], requests }
}

fn paths(paths: &[&str]) -> RequestMatch {
    RequestMatch { paths: paths.iter().map(|p| PathMatch::prefix(p).unwrap()).collect(), ..RequestMatch::default() }
}

fn request<'a>(method: &'a str, path: &'a [u8], headers: &'a dyn HeaderSource) -> RequestView<'a> {
    RequestView { method: method.as_bytes(), path, query: None, authority: b"web", headers }
}

fn plan(deny: Vec<AccessRule>, allow: Vec<AccessRule>) -> AccessPlan {
    AccessPlan::new(deny, allow, None, members())
}

#[test]
fn the_default_is_members_of_the_mesh() {
    let open = AccessPlan::open(members());
    let yes = Decision { allowed: true, policy: DEFAULT_POLICY };
    assert_eq!(open.decide(Some(&id("a", "b")), 80, None), yes);
    assert!(!open.decide(None, 80, None).allowed, "no identity, no member");
    let stranger = SpiffeId::new("spiffe://other.mesh/ns/a/sa/b").unwrap();
    assert!(!open.decide(Some(&stranger), 80, None).allowed);
    assert!(!AccessPlan::open(DefaultAccess::Deny).decide(Some(&id("a", "b")), 80, None).allowed);
}

#[test]
fn deny_goes_before_allow_and_any_allow_closes_the_rest() {
    let p = plan(
        vec![rule("no-b", vec![account("b")], vec![])],
        vec![rule("a-and-b", vec![account("a"), account("b")], vec![])],
    );
    for (caller, allowed, policy) in [("a", true, "a-and-b"), ("b", false, "no-b"), ("c", false, "a-and-b")] {
        assert_eq!(p.decide(Some(&id("x", caller)), 80, None), Decision { allowed, policy }, "{caller}");
    }
    assert!(!p.decide(None, 80, None).allowed);
    // A policy whose rules were all set aside still closes.
    let broken = AccessPlan::new(vec![], vec![], Some("broken".into()), members());
    assert_eq!(broken.decide(Some(&id("a", "b")), 80, None), Decision { allowed: false, policy: "broken" });
}

#[test]
fn empty_from_means_everyone_to_deny_and_everyone_known_to_allow() {
    let deny = plan(vec![rule("d", vec![], vec![])], vec![]);
    assert!(!deny.decide(None, 80, None).allowed && !deny.decide(Some(&id("a", "b")), 80, None).allowed);
    let allow = plan(vec![], vec![rule("a", vec![], vec![])]);
    assert!(!allow.decide(None, 80, None).allowed && allow.decide(Some(&id("a", "b")), 80, None).allowed);
}

#[test]
fn callers_match_literally() {
    for (pattern, caller, expected) in [
        ("a.b", "a.b", true),
        ("a.b", "axb", false),
        ("*.c", "x.c", true),
        ("*.c", "xxc", false),
        ("web-*", "web-1", true),
        ("web-*", "web", false),
        ("web", "web-evil", false),
        ("*", "anything", true),
    ] {
        let p = plan(vec![], vec![rule("p", vec![account(pattern)], vec![])]);
        let caller = SpiffeId::new(&format!("spiffe://mesh.leno/ns/x/sa/{caller}")).unwrap();
        assert_eq!(p.decide(Some(&caller), 80, None).allowed, expected, "{pattern} {caller:?}");
    }
    let both = CallerMatch { namespace: Literal::parse("shop"), ..account("web") };
    let p = plan(vec![], vec![rule("p", vec![both], vec![])]);
    assert!(p.decide(Some(&id("shop", "web")), 80, None).allowed);
    assert!(!p.decide(Some(&id("shop", "api")), 80, None).allowed);
    assert!(!p.decide(Some(&id("prod", "web")), 80, None).allowed);
    // An identity without the workload shape has no namespace.
    assert!(!p.decide(Some(&SpiffeId::new("spiffe://mesh.leno/shop/web").unwrap()), 80, None).allowed);
    let whole = CallerMatch { identity: Literal::parse("spiffe://mesh.leno/ns/shop/sa/web"), ..CallerMatch::default() };
    let p = plan(vec![], vec![rule("p", vec![whole], vec![])]);
    assert!(
        p.decide(Some(&id("shop", "web")), 80, None).allowed && !p.decide(Some(&id("shop", "webx")), 80, None).allowed
    );
    let domain = TrustDomain::default();
    let own = CallerMatch { trust_domain: Some(domain), namespace: Literal::parse("shop"), ..CallerMatch::default() };
    let p = plan(vec![], vec![rule("p", vec![own], vec![])]);
    assert!(!p.decide(Some(&SpiffeId::new("spiffe://peer.mesh/ns/shop/sa/web").unwrap()), 80, None).allowed);
}

#[test]
fn rules_concern_their_ports() {
    let on = |ports: Vec<u16>| AccessRule { ports, ..rule("p", vec![], vec![]) };
    let p = plan(vec![on(vec![90])], vec![]);
    let caller = id("a", "b");
    assert!(p.decide(Some(&caller), 80, None).allowed && !p.decide(Some(&caller), 90, None).allowed);
}

#[test]
fn request_conditions_on_plain_tcp_count_against_the_caller() {
    let conditions = || vec![paths(&["/admin"])];
    let caller = id("a", "b");
    let allow = plan(vec![], vec![rule("a", vec![], conditions())]);
    assert!(!allow.decide(Some(&caller), 80, None).allowed, "an allow with request conditions never matches");
    assert!(allow.judges_requests());
    let deny = plan(vec![rule("d", vec![account("b")], conditions())], vec![]);
    assert!(!deny.decide(Some(&caller), 80, None).allowed, "a deny with them always does");
    assert!(deny.decide(Some(&id("a", "c")), 80, None).allowed, "for the callers that it names");
}

#[test]
fn methods_are_case_sensitive_and_lists_are_alternatives() {
    let get = RequestMatch { methods: vec!["GET".into(), "HEAD".into()], ..paths(&["/a", "/b"]) };
    let p = plan(vec![], vec![rule("p", vec![], vec![get])]);
    for (method, path, expected) in
        [("GET", "/a", true), ("HEAD", "/b/c", true), ("POST", "/a", false), ("get", "/a", false), ("GET", "/c", false)]
    {
        let view = request(method, path.as_bytes(), &NoHeaders);
        assert_eq!(p.decide(Some(&id("a", "b")), 80, Some(&view)).allowed, expected, "{method} {path}");
    }
}

/// BAD_INPUTS 1: whatever spelling is sent, either it is refused, or the deny holds, or it is truly another path.
#[test]
fn path_tricks_do_not_get_by_a_deny() {
    let p = plan(vec![rule("no-admin", vec![], vec![paths(&["/admin"])])], vec![]);
    assert!(p.matches_paths());
    let denied = |path: &str| match normalise(path.as_bytes()) {
        Ok(normal) => !p.decide(Some(&id("a", "b")), 80, Some(&request("GET", &normal, &NoHeaders))).allowed,
        Err(_) => true,
    };
    for path in [
        "/admin",
        "/admin/",
        "//admin",
        "/a/../admin",
        "/./admin",
        "/%61dmin",
        "/%61%64min/x",
        "/admin%2f",
        "/a%5c..%5cadmin",
        "\\admin",
        "/x\\..\\admin",
        "/.;/admin",
        "/..;/admin",
        "/admin;x=1",
        "/admin;x/y",
        "/;x=1/admin",
        "/admin%3bx",
        "/%2e/admin",
        "/x/%2e%2e/admin",
        "/%c0%ae%c0%ae/admin",
        "/admin%00",
        "/admin/../admin",
    ] {
        assert!(denied(path), "{path}");
    }
    for path in ["/", "/administrator", "/Admin", "/x/admin", "/%2561dmin", "/admin/../x", "/x;/admin"] {
        assert!(!denied(path), "{path}");
    }
}

#[test]
fn parameters_do_not_widen_an_allow() {
    let exact = RequestMatch { paths: vec![PathMatch::exact("/public").unwrap()], ..RequestMatch::default() };
    let p = plan(vec![], vec![rule("p", vec![], vec![exact])]);
    let allowed = |path: &str| {
        let normal = normalise(path.as_bytes()).unwrap();
        p.decide(Some(&id("a", "b")), 80, Some(&request("GET", &normal, &NoHeaders))).allowed
    };
    assert!(allowed("/public") && allowed("/%70ublic") && !allowed("/public;x") && !allowed("/public/"));
}

#[test]
fn headers_are_judged_against_the_caller() {
    let role = || RequestMatch {
        headers: vec![HeaderMatch { name: "x-role".into(), value: Some(TextMatch::Exact("guest".into())) }],
        ..RequestMatch::default()
    };
    let allow = plan(vec![], vec![rule("a", vec![], vec![role()])]);
    let deny = plan(vec![rule("d", vec![], vec![role()])], vec![]);
    type Lines<'a> = &'a [(&'a str, &'a str)];
    let table: &[(Lines<'_>, bool, bool)] = &[
        (&[("x-role", "guest")], true, true),
        (&[("x-role", "guest"), ("x-role", "root")], false, true),
        (&[("x-role", ""), ("x-role", "guest")], false, true),
        (&[("x-role", "root, guest")], false, true),
        (&[("x-role", "root")], false, false),
        (&[], false, false),
    ];
    for (headers, allowed, denied) in table {
        let view = request("GET", b"/", headers);
        let caller = id("a", "b");
        assert_eq!(allow.decide(Some(&caller), 80, Some(&view)).allowed, *allowed, "{headers:?}");
        assert_eq!(!deny.decide(Some(&caller), 80, Some(&view)).allowed, *denied, "{headers:?}");
    }
}
