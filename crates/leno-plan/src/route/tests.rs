//! Matching, precedence, weights and timeouts of routes.

use super::*;
use crate::request::{HeaderSource, NoHeaders};
use proptest::prelude::*;

fn view<'a>(target: &'a str, headers: &'a dyn HeaderSource) -> RequestView<'a> {
    let (path, query) = RequestView::split_target(target.as_bytes());
    RequestView { method: b"GET", path, query, authority: b"web", headers }
}

fn exact(text: &str) -> TextMatch {
    TextMatch::Exact(text.into())
}

fn regex(text: &str) -> TextMatch {
    TextMatch::Regex(Pattern::new(text).unwrap())
}

#[test]
fn paths_match_by_element() {
    let grpc = |s: Option<TextMatch>, m: Option<TextMatch>| PathMatch::Grpc { service: s, method: m };
    let echo = || exact("pkg.Echo");
    let table = [
        (PathMatch::exact("/admin").unwrap(), "/admin", true),
        (PathMatch::exact("/admin").unwrap(), "/admin/", false),
        (PathMatch::exact("/admin").unwrap(), "/Admin", false),
        (PathMatch::exact("//a/../admin").unwrap(), "/admin", true),
        (PathMatch::exact("/a:b").unwrap(), "/a%3Ab", true),
        (PathMatch::exact("/a%3ab").unwrap(), "/a:b", true),
        (PathMatch::exact("/a%253Ab").unwrap(), "/a:b", false),
        (PathMatch::exact("/café").unwrap(), "/caf%C3%A9", true),
        (PathMatch::prefix("/a").unwrap(), "/a", true),
        (PathMatch::prefix("/a").unwrap(), "/a/", true),
        (PathMatch::prefix("/a").unwrap(), "/a/b", true),
        (PathMatch::prefix("/a").unwrap(), "/ab", false),
        (PathMatch::prefix("/a/").unwrap(), "/a", true),
        (PathMatch::prefix("/a/").unwrap(), "/ab", false),
        (PathMatch::prefix("/").unwrap(), "/anything", true),
        (PathMatch::prefix("/").unwrap(), "/", true),
        (PathMatch::Regex(Pattern::new("/v[0-9]+/.*").unwrap()), "/v1/x", true),
        (PathMatch::Regex(Pattern::new("/v[0-9]+").unwrap()), "/v1/x", false),
        (grpc(Some(echo()), None), "/pkg.Echo/Say", true),
        (grpc(Some(echo()), None), "/pkgxEcho/Say", false),
        (grpc(Some(echo()), Some(exact("Say"))), "/pkg.Echo/Say", true),
        (grpc(Some(echo()), Some(exact("Say"))), "/pkg.Echo/SayMore", false),
        (grpc(None, Some(regex("Say.*"))), "/x/SayMore", true),
        (grpc(Some(echo()), None), "/pkg.Echo", false),
        (grpc(None, None), "/a/b/c", false),
    ];
    for (path, request, expected) in table {
        let decoded = path::decode(request.as_bytes());
        assert_eq!(path.is_match(&decoded), expected, "{path:?} on {request}");
    }
    assert_eq!(PathMatch::prefix("/a/%2fb"), Err(PathError::EncodedSlash));
    assert_eq!(PathMatch::exact("a"), Err(PathError::NotRooted));
}

fn rule(name: &str) -> RouteRule {
    RouteRule::to_service(name, NamespacedName::new("shop", name).unwrap(), 80)
}

#[test]
fn the_first_entry_that_matches_decides() {
    let header = |name: &str, value: TextMatch| HeaderMatch { name: name.into(), value: Some(value) };
    let conditions = [
        RouteMatch {
            path: Some(PathMatch::exact("/login").unwrap()),
            method: Some("POST".into()),
            ..RouteMatch::default()
        },
        RouteMatch {
            path: Some(PathMatch::prefix("/api").unwrap()),
            headers: vec![header("x-env", exact("canary"))],
            ..RouteMatch::default()
        },
        RouteMatch { query: vec![QueryMatch { name: "v".into(), value: regex("2|3") }], ..RouteMatch::default() },
        RouteMatch { path: Some(PathMatch::prefix("/api").unwrap()), ..RouteMatch::default() },
    ];
    let names = ["login", "canary", "query", "api"];
    let entries = conditions.into_iter().enumerate().map(|(rule, condition)| RouteEntry { condition, rule }).collect();
    let table = RouteTable::new(names.map(rule).into(), entries);
    assert!(table.matches_paths());
    let canary: &[(&str, &str)] = &[("x-env", "canary")];
    let mixed: &[(&str, &str)] = &[("x-env", "canary"), ("x-env", "prod")];
    for (method, target, headers, expected) in [
        ("POST", "/login", &NoHeaders as &dyn HeaderSource, Some("login")),
        ("GET", "/login", &NoHeaders, None),
        ("post", "/login", &NoHeaders, None),
        ("GET", "/api/x", &canary, Some("canary")),
        ("GET", "/api/x?v=2", &canary, Some("canary")),
        ("GET", "/api/x", &mixed, Some("api")),
        ("GET", "/api?v=2", &NoHeaders, Some("query")),
        ("GET", "/?v=3", &NoHeaders, Some("query")),
        ("GET", "/?v=23", &NoHeaders, None),
        ("GET", "/apix", &NoHeaders, None),
    ] {
        let request = RequestView { method: method.as_bytes(), ..view(target, headers) };
        assert_eq!(table.choose(&request).map(|c| &*c.rule.name), expected, "{method} {target}");
    }
    let choice = table.choose(&view("/api/x", &canary)).unwrap();
    assert_eq!(choice.prefix_elements(), 1);
    assert!(table.choose_tcp().is_none(), "every rule asks something of a request");
}

#[test]
fn a_service_without_routes_gets_everything_itself() {
    let web = NamespacedName::new("shop", "web").unwrap();
    let table = RouteTable::direct(web.clone(), 80);
    assert!(!table.matches_paths());
    let raw = view("/%2f/../x", &NoHeaders);
    assert_eq!(&*table.choose(&raw).unwrap().rule.name, DIRECT_RULE);
    assert_eq!(table.choose_tcp().unwrap().backends.len(), 1);
    assert_eq!(table.backends().collect::<Vec<_>>(), [(&web, Some(80))]);
    assert!(RouteTable::default().choose(&raw).is_none());
    let dangling = RouteEntry { condition: RouteMatch::default(), rule: 7 };
    assert!(RouteTable::new(vec![], vec![dangling]).choose(&raw).is_none());
}

#[test]
fn precedence_is_that_of_gateway_api() {
    let with_path = |p| RouteMatch { path: Some(p), ..RouteMatch::default() };
    let header = HeaderMatch { name: "a".into(), value: None };
    let ordered = [
        with_path(PathMatch::exact("/a").unwrap()),
        with_path(PathMatch::Regex(Pattern::new("/a.*").unwrap())),
        with_path(PathMatch::prefix("/a/b").unwrap()),
        RouteMatch { method: Some("GET".into()), ..with_path(PathMatch::prefix("/a").unwrap()) },
        RouteMatch { headers: vec![header.clone(), header.clone()], ..with_path(PathMatch::prefix("/a").unwrap()) },
        RouteMatch { headers: vec![header], ..with_path(PathMatch::prefix("/a").unwrap()) },
        with_path(PathMatch::prefix("/a").unwrap()),
        RouteMatch::default(),
    ];
    for pair in ordered.windows(2) {
        assert!(pair[0].specificity() > pair[1].specificity(), "{pair:?}");
    }
}

fn weighted(weights: &[u32]) -> RouteRule {
    let backends = weights.iter().enumerate().map(|(n, weight)| {
        let service = NamespacedName::new("shop", &format!("v{n}")).unwrap();
        Backend { target: BackendTarget::Service { service, port: Some(80) }, weight: *weight, filters: vec![] }
    });
    RouteRule { backends: backends.collect(), ..rule("web") }
}

/// SplitMix64, as a source of well-spread numbers.
fn random(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[test]
fn backends_without_weight_get_nothing() {
    assert!(weighted(&[]).pick_backend(7).is_none());
    assert!(weighted(&[0]).pick_backend(7).is_none());
    assert!(weighted(&[0, 0]).pick_backend(u64::MAX).is_none());
    let rule = weighted(&[0, 5, 0]);
    for n in [0, 1, u64::MAX / 2, u64::MAX] {
        assert_eq!(rule.pick_backend(n), Some(&rule.backends[1]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn weights_hold_within_one_and_a_half_points(weights in proptest::collection::vec(0_u32..100, 1..6), seed in any::<u32>()) {
        prop_assume!(weights.iter().any(|w| *w > 0));
        let rule = weighted(&weights);
        let mut counts = vec![0_u32; weights.len()];
        for n in 0..10_000 {
            // A Weyl sequence instead of a generator: its points are spread evenly, so that the bound holds for every seed.
            let point = (u64::from(seed) << 20 | n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let picked = rule.pick_backend(point).expect("some weight is positive");
            let at = rule.backends.iter().position(|b| std::ptr::eq(b, picked)).unwrap();
            counts[at] += 1;
        }
        let total: u32 = weights.iter().sum();
        for (weight, count) in weights.iter().zip(&counts) {
            let (wanted, got) = (100.0 * f64::from(*weight) / f64::from(total), f64::from(*count) / 100.0);
            prop_assert!((wanted - got).abs() <= 1.5, "{wanted} wanted, {got} got");
            prop_assert!(*weight > 0 || *count == 0);
        }
    }
}

#[test]
fn ninety_to_ten_is_within_one_and_a_half_points() {
    let rule = weighted(&[90, 10]);
    let first = (0..10_000).filter(|n| rule.pick_backend(random(*n)) == Some(&rule.backends[0])).count();
    assert!((8_850..=9_150).contains(&first), "{first}");
}

#[test]
fn route_timeouts_override() {
    let policy = CallPolicy {
        timeouts: crate::resilience::Timeouts { request: Some(Duration::from_secs(9)), ..Default::default() },
        ..CallPolicy::default()
    };
    let with = |request| RouteRule { timeouts: RouteTimeouts { request, ..Default::default() }, ..rule("web") };
    assert_eq!(with(TimeoutSetting::Inherit).request_timeout(&policy), Some(Duration::from_secs(9)));
    assert_eq!(with(TimeoutSetting::Off).request_timeout(&policy), None);
    let one = Duration::from_secs(1);
    assert_eq!(with(TimeoutSetting::After(one)).request_timeout(&policy), Some(one));
    assert_eq!(rule("web").attempt_timeout(&policy), None);
    let retry = RetryPolicy::never();
    let own = RouteRule { retry: Some(retry.clone()), ..rule("web") };
    assert_eq!((own.retry(&policy), rule("web").retry(&policy)), (&retry, &policy.retry));
}
