//! Which rule a request takes, by the Gateway API's rules.

use std::time::Duration;

use leno_model::{Kind, Resource};
use leno_plan::{DestinationPlan, Filter, NoHeaders, RequestView, TimeoutSetting};
use serde_json::{Value, json};

use super::*;
use crate::compile_destination;
use crate::testing::{collection, mesh, resource, said, service, web};

fn compile(resources: &[Resource]) -> (DestinationPlan, Vec<String>) {
    let mut all =
        vec![service(json!([{"port": 80, "name": "http"}, {"port": 81, "name": "raw", "appProtocol": "tcp"}]))];
    all.extend_from_slice(resources);
    let (plan, diagnostics) = compile_destination(&web(), &collection(&all), &mesh());
    (plan, said(&diagnostics))
}

fn http(name: &str, rules: Value) -> Resource {
    resource(Kind::HttpRoute, name, json!({"parentRefs": [{"name": "web", "port": 80}], "rules": rules}))
}

fn grpc(name: &str, rules: Value) -> Resource {
    resource(Kind::GrpcRoute, name, json!({"parentRefs": [{"name": "web", "port": 80}], "rules": rules}))
}

type Headers<'a> = &'a [(&'a str, &'a str)];

/// The name of the rule that a request takes.
fn taken(plan: &DestinationPlan, method: &str, target: &str, headers: Headers<'_>) -> Option<String> {
    let (path, query) = RequestView::split_target(target.as_bytes());
    let view = RequestView { method: method.as_bytes(), path, query, authority: b"web", headers: &headers };
    plan.ports[&80].routes.choose(&view).map(|c| c.rule.name.to_string())
}

#[test]
fn the_more_specific_match_goes_first() {
    let path = |kind: &str, value: &str| json!({"path": {"type": kind, "value": value}});
    let rule = |name: &str, matches: Value| json!({"name": name, "matches": [matches], "backendRefs": [{"name": "web", "port": 80}]});
    let (plan, said) = compile(&[http(
        "a",
        json!([
            rule("all", json!({})),
            rule("prefix", path("PathPrefix", "/a")),
            rule("longer", path("PathPrefix", "/a/b")),
            rule("exact", path("Exact", "/a/b")),
            rule("method", json!({"path": {"value": "/a"}, "method": "POST"})),
            rule("header", json!({"path": {"value": "/a"}, "headers": [{"name": "X-V", "value": "2"}]})),
            rule("query", json!({"queryParams": [{"name": "debug", "value": "1"}]})),
            rule("regex", path("RegularExpression", "/r[0-9]+")),
        ]),
    )]);
    assert_eq!(said, [""; 0]);
    for (method, target, headers, expected) in [
        ("GET", "/", &[][..], "all"),
        ("GET", "/ab", &[], "all"),
        ("GET", "/a", &[], "prefix"),
        ("GET", "/a/", &[], "prefix"),
        ("GET", "/a/x", &[], "prefix"),
        ("GET", "/a/b", &[], "exact"),
        ("GET", "/a/b/c", &[], "longer"),
        ("POST", "/a/x", &[], "method"),
        ("POST", "/a/b/c", &[], "longer"),
        ("GET", "/a/x", &[("x-v", "2")], "header"),
        ("POST", "/a/x", &[("x-v", "2")], "method"),
        ("GET", "/a/x", &[("x-v", "2"), ("x-v", "3")], "prefix"),
        ("GET", "/?debug=1", &[], "query"),
        ("GET", "/r12", &[], "regex"),
        ("GET", "/r12x", &[], "all"),
    ] {
        assert_eq!(
            taken(&plan, method, target, headers).as_deref(),
            Some(format!("a/{expected}").as_str()),
            "{method} {target} {headers:?}"
        );
    }
}

#[test]
fn ties_go_to_the_older_route_then_to_its_name_then_to_the_order() {
    let rule = |name: &str| json!({"name": name, "backendRefs": [{"name": "web", "port": 80}]});
    let (plan, said) = compile(&[http("b", json!([rule("one")])), http("a", json!([rule("one"), rule("two")]))]);
    assert_eq!(said, ["a Conflicted spec.rules", "b Conflicted spec.rules"]);
    assert_eq!(taken(&plan, "GET", "/", &[]).as_deref(), Some("a/one"));
    let mut same_age = [http("b", json!([rule("one")])), http("a", json!([rule("one")]))];
    same_age[1].metadata.creation_timestamp = same_age[0].metadata.creation_timestamp.clone();
    assert_eq!(taken(&compile(&same_age).0, "GET", "/", &[]).as_deref(), Some("a/one"));
    same_age[1].metadata.creation_timestamp = "2027-01-01T00:00:00Z".to_owned();
    assert_eq!(taken(&compile(&same_age).0, "GET", "/", &[]).as_deref(), Some("b/one"));
}

#[test]
fn an_attached_route_replaces_the_default() {
    let (plan, _) = compile(&[http(
        "a",
        json!([{"matches": [{"path": {"value": "/a"}}], "backendRefs": [{"name": "web", "port": 80}]}]),
    )]);
    assert_eq!(taken(&plan, "GET", "/b", &[]), None);
    // The other port has no route.
    assert!(plan.ports[&81].routes.choose_tcp().is_some());
    // A route without rules leads nowhere.
    let (plan, _) = compile(&[http("a", json!([]))]);
    let view = RequestView { method: b"GET", path: b"/", query: None, authority: b"web", headers: &NoHeaders };
    assert!(plan.ports[&80].routes.choose(&view).unwrap().rule.pick_backend(1).is_none());
}

#[test]
fn weights_and_references_that_cannot_be_used() {
    let grant = resource(
        Kind::ReferenceGrant,
        "bank/g",
        json!({
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}],
            "to": [{"group": "", "kind": "Service", "name": "granted"}],
        }),
    );
    let route = http(
        "a",
        json!([{"backendRefs": [
            {"name": "web", "port": 80, "weight": 90},
            {"name": "api", "port": 81},
            {"name": "off", "port": 82, "weight": 0},
            {"name": "granted", "namespace": "bank", "port": 83},
            {"name": "secret", "namespace": "bank", "port": 84},
            {"name": "bucket", "kind": "Bucket", "group": "x"},
            {"name": "portless"},
            {"name": "zero", "port": 0},
            {"name": "filtered", "port": 85, "filters": [{"type": "URLRewrite"}]},
        ]}]),
    );
    let targets = |resources: &[Resource]| {
        let (plan, said) = compile(resources);
        let backends = plan.ports[&80].routes.rules()[0].backends.clone();
        let shown: Vec<String> = backends
            .iter()
            .map(|b| match &b.target {
                BackendTarget::Service { service, port: Some(port) } => format!("{service}:{port}*{}", b.weight),
                BackendTarget::Service { service, port: None } => format!("{service}*{}", b.weight),
                BackendTarget::Refused { .. } => format!("refused*{}", b.weight),
            })
            .collect();
        (shown, said)
    };
    let (shown, said) = targets(&[route.clone(), grant]);
    assert_eq!(
        shown,
        [
            "web.shop:80*90",
            "api.shop:81*1",
            "off.shop:82*0",
            "granted.bank:83*1",
            "refused*1",
            "refused*1",
            "portless.shop*1",
            "refused*1",
            "refused*1"
        ]
    );
    assert_eq!(
        said,
        [
            "a RefNotPermitted spec.rules[0].backendRefs[4]",
            "a InvalidKind spec.rules[0].backendRefs[5]",
            "a InvalidValue spec.rules[0].backendRefs[7]",
            "a UnsupportedValue spec.rules[0].backendRefs[8]",
        ]
    );
    let (shown, said) = targets(&[route]);
    assert_eq!((shown[3].as_str(), said.len()), ("refused*1", 5));
}

#[test]
fn filters_timeouts_and_retries_are_carried_over() {
    let (plan, said) = compile(&[
        resource(
            Kind::TrafficPolicy,
            "t",
            json!({"retries": {"attempts": 5, "statuses": [502], "budget": {"percent": 3}}}),
        ),
        http(
            "a",
            json!([
                {"filters": [
                    {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "X-A", "value": "1"}], "remove": ["X-B"]}},
                    {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [{"name": "X-C", "value": "2"}]}},
                    {"type": "URLRewrite", "urlRewrite": {"hostname": "other.example", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/n"}}}],
                 "timeouts": {"request": "2s", "backendRequest": "0s"}, "retry": {"codes": [503], "attempts": 1},
                 "backendRefs": [{"name": "web", "port": 80}]},
                {"matches": [{"path": {"value": "/old"}}], "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}]},
            ]),
        ),
    ]);
    assert_eq!(said, [""; 0]);
    let rules = plan.ports[&80].routes.rules();
    let [Filter::RequestHeaders(request), Filter::ResponseHeaders(response), Filter::Rewrite(rewrite)] =
        rules[0].filters.as_slice()
    else {
        panic!("{:?}", rules[0].filters)
    };
    assert_eq!((&*request.set[0].0, &*request.remove[0], &*response.add[0].1), ("x-a", "x-b", "2"));
    assert_eq!(
        (rewrite.hostname.as_deref(), rewrite.target(b"/old", None, 0)),
        (Some("other.example"), Some(b"/n/old".to_vec()))
    );
    assert_eq!(
        (rules[0].timeouts.request, rules[0].timeouts.attempt),
        (TimeoutSetting::After(Duration::from_secs(2)), TimeoutSetting::Off)
    );
    let retry = rules[0].retry(&plan.policy);
    assert_eq!((retry.retries, &retry.statuses[..], retry.budget.percent), (1, &[503][..], 3));
    assert_eq!((rules[1].retry(&plan.policy).retries, rules[1].backends.len()), (5, 0));
    assert!(
        matches!(&rules[1].filters[0], Filter::Redirect(r) if r.status == 301 && r.scheme.as_deref() == Some("https"))
    );
}

#[test]
fn a_filter_that_is_not_supported_refuses_the_rule() {
    for kind in ["RequestMirror", "ExtensionRef", "CORS", "Telepathy"] {
        let (plan, said) = compile(&[http(
            "a",
            json!([
                {"filters": [{"type": kind}], "backendRefs": [{"name": "web", "port": 80}]},
                {"name": "fine", "matches": [{"path": {"value": "/f"}}], "backendRefs": [{"name": "web", "port": 80}]},
            ]),
        )]);
        assert_eq!(said, ["a UnsupportedValue spec.rules[0].filters[0].type"]);
        let rules = plan.ports[&80].routes.rules();
        assert!(matches!(rules[0].pick_backend(0).unwrap().target, BackendTarget::Refused { .. }), "{kind}");
        assert!(matches!(rules[1].pick_backend(0).unwrap().target, BackendTarget::Service { .. }));
    }
}

#[test]
fn what_cannot_be_judged_sets_the_route_aside() {
    for matches in [
        json!({"path": {"type": "Glob", "value": "/*"}}),
        json!({"path": {"type": "RegularExpression", "value": "("}}),
        json!({"path": {"value": "no-slash"}}),
        json!({"method": "BREW"}),
        json!({"headers": [{"type": "Fuzzy", "name": "a", "value": "b"}]}),
        json!({"queryParams": [{"type": "RegularExpression", "name": "a", "value": "["}]}),
    ] {
        let (plan, said) =
            compile(&[http("a", json!([{"matches": [matches], "backendRefs": [{"name": "api", "port": 80}]}]))]);
        assert_eq!((said.len(), taken(&plan, "GET", "/", &[]).as_deref()), (1, Some("default")), "{matches}");
    }
    for filter in [
        json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "transfer-encoding", "value": "x"}]}}),
        json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x", "value": "a\r\nb: c"}]}}),
        json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["a b"]}}),
        json!({"type": "URLRewrite", "urlRewrite": {"hostname": "a\r\nb"}}),
        json!({"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/a b"}}}),
        json!({"type": "RequestRedirect", "requestRedirect": {"statusCode": 200}}),
        json!({"type": "URLRewrite"}),
    ] {
        let (_, said) = compile(&[http("a", json!([{"filters": [filter]}]))]);
        assert_eq!(said.len(), 1, "{filter}");
    }
}

#[test]
fn routes_act_on_their_own_namespace_and_ports() {
    let backend = json!([{"backendRefs": [{"name": "web", "port": 80}]}]);
    let route =
        |name: &str, parent: Value| resource(Kind::HttpRoute, name, json!({"parentRefs": [parent], "rules": backend}));
    for (route, expected, said_expected) in [
        (route("a", json!({"name": "web"})), "a/0", vec!["a NoMatchingParent spec.parentRefs"]),
        (route("a", json!({"name": "web", "sectionName": "http"})), "a/0", vec![]),
        (
            route("a", json!({"name": "web", "sectionName": "raw"})),
            "default",
            vec!["a NoMatchingParent spec.parentRefs"],
        ),
        (route("a", json!({"name": "web", "port": 99})), "default", vec!["a NoMatchingParent spec.parentRefs[0]"]),
        (route("a", json!({"name": "api"})), "default", vec![]),
        (
            route("a", json!({"name": "web", "kind": "Gateway", "group": "gateway.networking.k8s.io"})),
            "default",
            vec![],
        ),
        (
            route("bank/a", json!({"name": "web", "namespace": "shop"})),
            "default",
            vec!["a NoMatchingParent spec.parentRefs"],
        ),
        (route("bank/a", json!({"name": "web"})), "default", vec!["a NoMatchingParent spec.parentRefs"]),
    ] {
        let shown = format!("{} {}", route.metadata.namespace, route.spec);
        let (plan, said) = compile(&[route]);
        assert_eq!(
            (taken(&plan, "GET", "/", &[]).as_deref(), said),
            (Some(expected), said_expected.iter().map(ToString::to_string).collect()),
            "{shown}"
        );
    }
}

#[test]
fn grpc_routes_go_before_http_routes_and_match_methods() {
    let rule =
        |name: &str, m: Value| json!({"name": name, "matches": [m], "backendRefs": [{"name": "web", "port": 80}]});
    let (plan, said) = compile(&[
        http("a", json!([{"backendRefs": [{"name": "web", "port": 80}]}])),
        grpc(
            "b",
            json!([
                rule("service", json!({"method": {"service": "shop.Cart"}})),
                rule("method", json!({"method": {"service": "shop.Cart", "method": "Add"}})),
                rule("header", json!({"method": {"service": "shop.Cart"}, "headers": [{"name": "v", "value": "2"}]})),
                rule("regex", json!({"method": {"type": "RegularExpression", "method": "Get.*"}})),
            ]),
        ),
    ]);
    assert_eq!(said, ["a Conflicted spec.parentRefs"]);
    for (path, headers, expected) in [
        ("/shop.Cart/Add", &[][..], Some("b/method")),
        ("/shop.Cart/Remove", &[], Some("b/service")),
        ("/shop.Cart/Remove", &[("v", "2")], Some("b/header")),
        ("/other.S/GetX", &[], Some("b/regex")),
        ("/other.S/Put", &[], None),
        ("/", &[], None),
    ] {
        assert_eq!(taken(&plan, "POST", path, headers).as_deref(), expected, "{path} {headers:?}");
    }
}
