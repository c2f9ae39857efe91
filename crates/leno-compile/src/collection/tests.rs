//! What is kept of what is sent.

use leno_model::TrustDomain;
use leno_model::kinds::workload::WorkloadPort;
use leno_plan::RequestView;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::testing::{collection, key, mesh, resource, said, service, web};
use crate::{compile_destination, compile_inbound};

#[test]
fn the_last_good_version_stays() {
    let mut c = collection(&[service(json!([{"port": 80}]))]);
    let service_key = key("Service", "shop", "web");
    for bad in [
        &b"not json"[..],
        br#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"shop"},"spec":{"ports":"x"}}"#,
        br#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"other","namespace":"shop"},"spec":{"ports":[]}}"#,
        br#"{"apiVersion":"v9","kind":"Service","metadata":{"name":"web","namespace":"shop"},"spec":{"ports":[]}}"#,
    ] {
        let fault = c.upsert(service_key.clone(), 2, bad).expect("a fault").clone();
        assert!(fault.is_error() && fault.resource.as_ref() == Some(&service_key), "{fault}");
        let (plan, diagnostics) = compile_destination(&web(), &c, &mesh());
        assert!(plan.ports.contains_key(&80) && diagnostics == [fault]);
    }
    assert_eq!(c.versions().collect::<Vec<_>>(), [(&service_key, 2)]);
    // Mended, and then gone.
    let good = service(json!([{"port": 81}]));
    assert!(c.upsert(service_key.clone(), 3, &good.to_json()).is_none() && c.faults().count() == 0);
    assert!(compile_destination(&web(), &c, &mesh()).0.ports.contains_key(&81));
    c.delete(&service_key);
    assert!(c.is_empty() && compile_destination(&web(), &c, &mesh()).0.ports.is_empty());
}

#[test]
fn what_is_over_the_limit_is_refused_and_closes_if_it_is_about_security() {
    let padded = |r: Resource| [r.to_json(), vec![b' '; leno_model::MAX_RESOURCE]].concat();
    let web_service = || service(json!([{"port": 80}]));
    let mut c = collection(&[web_service()]);
    let fault = c.upsert(key("Service", "shop", "web"), 2, &padded(service(json!([{"port": 81}]))));
    assert_eq!(fault.map(|d| d.code), Some(Code::LimitExceeded));
    assert!(compile_destination(&web(), &c, &mesh()).0.ports.contains_key(&80), "the last good one");
    let policy = resource(Kind::AccessPolicy, "p", json!({"rules": [{"action": "allow"}]}));
    let allowed = |c: &Collection| {
        let registered = [WorkloadPort { port: 80, service_port: None, name: None, app_protocol: None }];
        let plan = compile_inbound(&web(), c, &mesh(), &registered).0;
        let caller = leno_model::SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/cart").unwrap();
        plan.ports[&80].access.decide(Some(&caller), 80, None).allowed
    };
    assert!(allowed(&c));
    assert!(c.upsert(key("AccessPolicy", "shop", "p"), 1, &padded(policy.clone())).is_some() && !allowed(&c));
    assert!(c.upsert(key("AccessPolicy", "shop", "p"), 2, &policy.to_json()).is_none() && allowed(&c));
}

#[test]
fn a_route_that_does_not_compile_leaves_the_last_good_one() {
    let route = |regex: &str| {
        let path = json!({"type": "RegularExpression", "value": regex});
        resource(
            Kind::HttpRoute,
            "r",
            json!({"parentRefs": [{"name": "web"}], "rules": [{"matches": [{"path": path}]}]}),
        )
    };
    let mut c = collection(&[service(json!([{"port": 80}])), route("/a.*")]);
    let fault = c.upsert(key("HTTPRoute", "shop", "r"), 9, &route("(").to_json()).cloned();
    assert_eq!(said(&fault.into_iter().collect::<Vec<_>>()), ["r InvalidValue spec.rules[0].matches[0].path.value"]);
    let (plan, _) = compile_destination(&web(), &c, &mesh());
    assert_eq!(plan.ports[&80].routes.rules()[0].name.as_ref(), "r/0");
}

#[test]
fn unknown_fields_are_ignored_and_unknown_kinds_refused() {
    let future = br#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"shop","later":1},"spec":{"ports":[{"port":80,"later":2}],"later":3},"later":4}"#;
    let mut c = Collection::new();
    assert!(c.upsert(key("Service", "shop", "web"), 1, future).is_none());
    let novel = br#"{"apiVersion":"leno.dev/v2","kind":"Novelty","metadata":{"name":"n","namespace":"shop"}}"#;
    assert_eq!(c.upsert(key("Novelty", "shop", "n"), 1, novel).map(|d| d.code), Some(Code::UnknownKind));
    assert!(compile_destination(&web(), &c, &mesh()).0.ports.contains_key(&80));
}

/// Every way in which a policy may not be understood, also one of a kind that this version does not have.
#[test]
fn a_policy_that_is_not_understood_closes() {
    let policy = |spec: serde_json::Value| resource(Kind::AccessPolicy, "p", spec).to_json();
    let own =
        [leno_model::kinds::workload::WorkloadPort { port: 80, service_port: None, name: None, app_protocol: None }];
    let caller = leno_model::SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/a").unwrap();
    let headers: &[(&str, &str)] = &[];
    let view = RequestView { method: b"GET", path: b"/", query: None, authority: b"web", headers: &headers };
    let allowed = |c: &Collection| {
        let (plan, diagnostics) = compile_inbound(&web(), c, &mesh(), &own);
        let access = &plan.ports[&80].access;
        let http = access.decide(Some(&caller), 80, Some(&view)).allowed;
        assert!(http || !access.decide(Some(&caller), 80, None).allowed);
        (http, diagnostics.iter().any(Diagnostic::is_error))
    };
    let base = collection(&[service(json!([{"port": 80}]))]);
    assert_eq!(allowed(&base), (true, false));
    let fine = policy(json!({"rules": [{"action": "allow"}]}));
    for bad in [
        b"garbage".to_vec(),
        b"{}".to_vec(),
        policy(json!(null)),
        policy(json!("x")),
        policy(json!({})),
        policy(json!({"rules": "all"})),
        policy(json!({"rules": [{"action": "audit"}]})),
        policy(json!({"rules": [{"action": "allow", "when": [{"key": "x"}]}]})),
        policy(json!({"rules": [{"action": "allow", "from": [{"notIdentities": ["x"]}]}]})),
        policy(json!({"rules": [{"action": "allow", "from": [{}]}]})),
        policy(json!({"rules": [{"action": "allow", "to": [{}]}]})),
        policy(json!({"rules": [{"action": "allow", "from": [{"identities": ["a*b"]}]}]})),
        policy(json!({"rules": [{"action": "allow", "from": [{"serviceAccounts": ["*b"]}]}]})),
        policy(json!({"rules": [{"action": "allow", "to": [{"paths": ["x"]}]}]})),
        policy(json!({"rules": [{"action": "allow"}], "scope": "later"})),
        policy(json!({"rules": [{"action": "allow"}], "targetRefs": [{"kind": "Port", "name": "x"}]})),
        String::from_utf8(fine.clone()).unwrap().replace("v1alpha1", "v9").into_bytes(),
    ] {
        let shown = String::from_utf8_lossy(&bad).into_owned();
        let mut c = base.clone();
        assert!(c.upsert(key("AccessPolicy", "shop", "p"), 1, &bad).is_some(), "{shown}");
        assert_eq!(allowed(&c), (false, true), "{shown}");
        // Also if a good version was there before: the new one was meant to replace it.
        assert!(c.upsert(key("AccessPolicy", "shop", "p"), 2, &fine).is_none());
        assert_eq!(allowed(&c), (true, false));
        c.upsert(key("AccessPolicy", "shop", "p"), 3, &bad);
        assert_eq!(allowed(&c), (false, true), "{shown}");
        c.delete(&key("AccessPolicy", "shop", "p"));
        assert_eq!(allowed(&c), (true, false));
    }
    let mut c = base.clone();
    let later =
        br#"{"apiVersion":"leno.dev/v1","kind":"AuthenticationPolicy","metadata":{"name":"j","namespace":"shop"}}"#;
    c.upsert(key("AuthenticationPolicy", "shop", "j"), 1, later);
    assert_eq!(allowed(&c), (false, true));
}

/// Resources as a control plane of another version, or a broken one, might send them: good ones with one value replaced.
fn mutated() -> impl Strategy<Value = (ResourceRef, Vec<u8>)> {
    let good = vec![
        service(
            json!([{"port": 80, "name": "http", "appProtocol": "http"}, {"port": 81, "name": "raw", "appProtocol": "tcp"}]),
        ),
        resource(
            Kind::HttpRoute,
            "r",
            json!({"parentRefs": [{"name": "web", "port": 80}], "rules": [
            {"name": "x", "matches": [{"path": {"type": "Exact", "value": "/a"}, "method": "GET", "headers": [{"name": "a", "value": "b"}]}],
             "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}}}],
             "backendRefs": [{"name": "api", "port": 80, "weight": 3, "namespace": "bank"}], "timeouts": {"request": "1s"}, "retry": {"codes": [503]}}]}),
        ),
        resource(
            Kind::GrpcRoute,
            "g",
            json!({"parentRefs": [{"name": "web"}], "rules": [{"matches": [{"method": {"service": "s", "method": "m"}}], "backendRefs": [{"name": "web", "port": 80}]}]}),
        ),
        resource(
            Kind::TrafficPolicy,
            "t",
            json!({"timeouts": {"request": "1s"}, "retries": {"attempts": 1, "budget": {"percent": 5}}, "limits": {"maxRequests": 5}, "ejection": {"maxPercent": 10}, "balancing": {"algorithm": "random"}}),
        ),
        resource(
            Kind::AccessPolicy,
            "p",
            json!({"targetRefs": [{"name": "web"}], "rules": [{"action": "deny", "from": [{"namespaces": ["evil*"]}], "to": [{"paths": ["/admin/*"], "ports": [80]}]}]}),
        ),
        resource(
            Kind::ReferenceGrant,
            "bank/g",
            json!({"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}], "to": [{"group": "", "kind": "Service"}]}),
        ),
        resource(
            Kind::ServiceInfo,
            "web",
            json!({"vips": ["244.0.0.1"], "identities": ["spiffe://mesh.leno/ns/shop/sa/web"], "ports": [{"port": 90}]}),
        ),
        resource(
            Kind::Endpoint,
            "web-1",
            json!({"service": "web", "instance": "1", "addresses": [{"transport": "leno/1", "address": "10.0.0.1:15008"}, {"transport": "mtls", "address": "10.0.0.1:15009", "port": 80}]}),
        ),
        resource(Kind::MeshConfig, "leno-system/mesh", json!({"access": "deny"})),
    ];
    let values = prop_oneof![
        Just(json!(null)),
        Just(json!(0)),
        Just(json!(-1)),
        Just(json!(70000)),
        Just(json!("")),
        Just(json!("*")),
        Just(json!("x/y/z")),
        Just(json!([])),
        Just(json!({})),
        Just(json!([{}])),
        Just(json!("Unheard")),
        Just(json!("((((")),
        Just(json!(true)),
        Just(json!("a\r\nb: c")),
        Just(json!("99999h99999h")),
        Just(json!("//")),
        Just(json!("/%2f")),
    ];
    (0..good.len(), any::<prop::sample::Index>(), values, any::<bool>()).prop_map(
        move |(which, place, value, mutate)| {
            let resource = &good[which];
            let mut json = serde_json::to_value(resource).unwrap();
            if mutate {
                let mut pointers = Vec::new();
                pointers_of(&json["spec"], "/spec", &mut pointers);
                let pointer = &pointers[place.index(pointers.len())];
                *json.pointer_mut(pointer).unwrap() = value;
            }
            (resource.reference(), serde_json::to_vec(&json).unwrap())
        },
    )
}

fn pointers_of(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        serde_json::Value::Object(map) => map.iter().for_each(|(k, v)| pointers_of(v, &format!("{at}/{k}"), found)),
        serde_json::Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| pointers_of(v, &format!("{at}/{i}"), found))
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_subset_compiles_whatever_its_order(sent in prop::collection::vec(mutated(), 0..12), seed in any::<u64>()) {
        let build = |sent: &[(ResourceRef, Vec<u8>)]| {
            let mut c = Collection::new();
            // One version of each, so that what was last good does not depend on the order.
            let mut once = std::collections::BTreeSet::new();
            for (key, json) in sent.iter().filter(|(key, _)| once.insert(key.clone())) {
                c.upsert(key.clone(), 1, json);
            }
            c
        };
        let c = build(&sent);
        let own = [leno_model::kinds::workload::WorkloadPort { port: 80, service_port: None, name: None, app_protocol: None }];
        let (out, out_found) = compile_destination(&web(), &c, &mesh());
        let (inward, in_found) = compile_inbound(&web(), &c, &mesh(), &own);
        let _ = crate::compile_mesh(&c, &web().namespace, &TrustDomain::default());
        let _ = (crate::explain_destination(&out), crate::explain_inbound(&inward));
        prop_assert!(out_found.iter().chain(&in_found).all(|d| d.resource.is_some()));

        // The order of arrival makes no difference.
        let mut first = std::collections::BTreeMap::new();
        for (key, json) in &sent {
            first.entry(key.clone()).or_insert_with(|| json.clone());
        }
        let mut shuffled: Vec<_> = first.into_iter().collect();
        let length = shuffled.len().max(1);
        shuffled.rotate_left(seed as usize % length);
        let again = build(&shuffled);
        prop_assert_eq!(&compile_destination(&web(), &again, &mesh()).0, &out);
        prop_assert_eq!(&compile_inbound(&web(), &again, &mesh(), &own).0, &inward);

        // A fault of a policy closes every port.
        let closed = c.faults().any(|d| d.resource.as_ref().is_some_and(|r| r.kind == "AccessPolicy"));
        let caller = leno_model::SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/a").unwrap();
        for (number, port) in inward.ports.iter().filter(|_| closed) {
            prop_assert!(!port.access.decide(Some(&caller), *number, None).allowed);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_taken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut c = Collection::new();
        prop_assert!(c.upsert(key("HTTPRoute", "shop", "r"), 1, &bytes).is_some());
    }
}
