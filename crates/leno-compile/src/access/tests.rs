//! Who may call: policies as written, callers as they come.

use leno_model::{Kind, Resource, SpiffeId};
use leno_plan::{NoHeaders, RequestView};
use serde_json::{Value, json};

use super::*;
use crate::testing::{collection, mesh, resource, said, service, web};

fn plan(policies: &[Resource], mesh: &MeshDefaults) -> (AccessPlan, Vec<String>) {
    let mut all = vec![service(json!([{"port": 80}]))];
    all.extend_from_slice(policies);
    let mut diagnostics = Vec::new();
    let plan = access_plan(&web(), &collection(&all), mesh, &mut diagnostics);
    (plan, said(&diagnostics))
}

fn policy(name: &str, rules: Value) -> Resource {
    resource(Kind::AccessPolicy, name, json!({"targetRefs": [{"kind": "Service", "name": "web"}], "rules": rules}))
}

/// Whether `ns/sa` may `METHOD PATH` on a port; without a request, whether it may connect by TCP.
fn may(plan: &AccessPlan, caller: &str, port: u16, request: Option<(&str, &str)>) -> bool {
    let id = match caller.split_once('/') {
        Some((ns, sa)) if !caller.starts_with("spiffe:") => format!("spiffe://mesh.leno/ns/{ns}/sa/{sa}"),
        _ => caller.to_owned(),
    };
    let view = request.map(|(method, path)| RequestView {
        method: method.as_bytes(),
        path: path.as_bytes(),
        query: None,
        authority: b"web",
        headers: &NoHeaders,
    });
    plan.decide(Some(&SpiffeId::new(&id).unwrap()), port, view.as_ref()).allowed
}

#[test]
fn callers_are_matched_literally() {
    for (from, caller, expected) in [
        (json!({"serviceAccounts": ["a"]}), "shop/a", true),
        (json!({"serviceAccounts": ["a"]}), "bank/a", false),
        (json!({"serviceAccounts": ["bank/a"]}), "bank/a", true),
        (json!({"serviceAccounts": ["bank/*"]}), "bank/x", true),
        (json!({"serviceAccounts": ["bank/*"]}), "banker/x", false),
        (json!({"serviceAccounts": ["*/a"]}), "bank/a", true),
        (json!({"serviceAccounts": ["*k/a"]}), "bank/a", true),
        (json!({"serviceAccounts": ["*k/a"]}), "banks/a", false),
        (json!({"serviceAccounts": ["front*"]}), "shop/frontend", true),
        (json!({"serviceAccounts": ["front*"]}), "bank/frontend", false),
        (json!({"serviceAccounts": ["*"]}), "shop/x", true),
        (json!({"serviceAccounts": ["*"]}), "bank/x", false),
        (json!({"namespaces": ["ba*"]}), "bank/x", true),
        (json!({"namespaces": ["bank"]}), "shop/x", false),
        (json!({"namespaces": ["shop"]}), "spiffe://other/ns/shop/sa/a", false),
        (json!({"identities": ["spiffe://mesh.leno/ns/shop/sa/a-b"]}), "shop/a-b", true),
        (json!({"identities": ["spiffe://mesh.leno/ns/shop/sa/a.b"]}), "shop/axb", false),
        (json!({"identities": ["spiffe://mesh.leno/ns/shop/*"]}), "shop/x", true),
        (json!({"identities": ["*/sa/x"]}), "bank/x", true),
        (json!({"identities": ["*/sa/x"], "namespaces": ["shop"]}), "bank/x", false),
        (json!({"identities": ["*/sa/x"], "namespaces": ["shop", "bank"]}), "bank/x", true),
    ] {
        let (allow, said) = plan(&[policy("p", json!([{"action": "allow", "from": [from]}]))], &mesh());
        assert_eq!((may(&allow, caller, 80, None), said.len()), (expected, 0), "allow {from} {caller}");
        let (deny, _) = plan(&[policy("p", json!([{"action": "deny", "from": [from]}]))], &mesh());
        let member = caller.starts_with("spiffe:");
        assert_eq!(may(&deny, caller, 80, None), !expected && !member, "deny {from} {caller}");
    }
}

#[test]
fn deny_goes_before_allow_and_allow_before_the_default() {
    let allow_a = || policy("a", json!([{"action": "allow", "from": [{"serviceAccounts": ["a"]}]}]));
    let deny_a = || policy("d", json!([{"action": "deny", "from": [{"serviceAccounts": ["a"]}]}]));
    let closed = MeshDefaults { access_open: false, ..mesh() };
    for (policies, mesh, a, b) in [
        (vec![], mesh(), true, true),
        (vec![], closed.clone(), false, false),
        (vec![allow_a()], mesh(), true, false),
        (vec![allow_a()], closed.clone(), true, false),
        (vec![deny_a()], mesh(), false, true),
        (vec![deny_a()], closed, false, false),
        (vec![allow_a(), deny_a()], mesh(), false, false),
        (vec![policy("o", json!([{"action": "allow"}]))], mesh(), true, true),
    ] {
        let (plan, _) = plan(&policies, &mesh);
        assert_eq!((may(&plan, "shop/a", 80, None), may(&plan, "shop/b", 80, None)), (a, b), "{policies:?}");
    }
}

#[test]
fn ports_methods_and_paths_are_conditions() {
    for (to, cases) in [
        (
            json!({"ports": [80]}),
            vec![(80, Some(("GET", "/")), true), (81, Some(("GET", "/")), false), (80, None, true)],
        ),
        (
            json!({"methods": ["GET", "HEAD"]}),
            vec![
                (80, Some(("GET", "/")), true),
                (80, Some(("get", "/")), false),
                (80, Some(("POST", "/")), false),
                (80, None, false),
            ],
        ),
        (
            json!({"paths": ["/a"]}),
            vec![(80, Some(("GET", "/a")), true), (80, Some(("GET", "/a/b")), false), (80, None, false)],
        ),
        (
            json!({"paths": ["/a/*"]}),
            vec![(80, Some(("GET", "/a")), true), (80, Some(("GET", "/a/b")), true), (80, Some(("GET", "/ab")), false)],
        ),
        (
            json!({"paths": ["*.css"]}),
            vec![
                (80, Some(("GET", "/x.css")), true),
                (80, Some(("GET", "/x.cssx")), false),
                (80, Some(("GET", "/xacss")), false),
            ],
        ),
        (json!({"paths": ["*"]}), vec![(80, Some(("GET", "/x")), true), (80, None, false)]),
        (
            json!({"ports": [80], "methods": ["GET"], "paths": ["/a"]}),
            vec![(80, Some(("GET", "/a")), true), (81, Some(("GET", "/a")), false), (80, Some(("PUT", "/a")), false)],
        ),
    ] {
        let (plan, said) = plan(&[policy("p", json!([{"action": "allow", "to": [to]}]))], &mesh());
        assert!(said.is_empty(), "{said:?}");
        for (port, request, expected) in cases {
            assert_eq!(may(&plan, "shop/a", port, request), expected, "{to} {port} {request:?}");
        }
    }
    let (any, _) = plan(&[policy("p", json!([{"action": "deny", "to": [{"paths": ["*"]}]}]))], &mesh());
    assert!(!may(&any, "shop/a", 80, Some(("OPTIONS", "*"))) && !may(&any, "shop/a", 80, Some(("GET", "/"))));
    let (escaped, _) = plan(&[policy("p", json!([{"action": "deny", "to": [{"paths": ["*.a%62c"]}]}]))], &mesh());
    assert!(
        !may(&escaped, "shop/a", 80, Some(("GET", "/x.abc"))) && may(&escaped, "shop/a", 80, Some(("GET", "/x.abd")))
    );
    // On plain TCP a deny with conditions on requests always fits (D15).
    let (plan, _) = plan(&[policy("p", json!([{"action": "deny", "to": [{"paths": ["/admin/*"]}]}]))], &mesh());
    assert!(
        !may(&plan, "shop/a", 80, None)
            && !may(&plan, "shop/a", 80, Some(("GET", "/admin")))
            && may(&plan, "shop/a", 80, Some(("GET", "/")))
    );
}

#[test]
fn a_policy_acts_where_it_may() {
    let deny = json!([{"action": "deny"}]);
    let anywhere = |name: &str| resource(Kind::AccessPolicy, name, json!({"rules": deny}));
    for (policy, acts) in [
        (anywhere("p"), true),
        (anywhere("leno-system/p"), true),
        (anywhere("bank/p"), false),
        (policy("p", deny.clone()), true),
        (policy("bank/p", deny.clone()), false),
        (policy("leno-system/p", deny.clone()), false),
        (resource(Kind::AccessPolicy, "p", json!({"targetRefs": [{"name": "api"}], "rules": deny})), false),
    ] {
        let (plan, said) = plan(std::slice::from_ref(&policy), &mesh());
        assert_eq!((may(&plan, "shop/a", 80, None), said.len()), (!acts, usize::from(!acts)), "{policy:?}");
    }
}

#[test]
fn an_allow_closes_also_for_what_it_cannot_match() {
    let tcp = policy("p", json!([{"action": "allow", "to": [{"paths": ["/x"]}]}]));
    let (plan, _) = plan(&[tcp], &mesh());
    assert!(!may(&plan, "shop/a", 80, None));
    assert_eq!(plan.decide(None, 80, None).policy, "shop/p");
}

#[test]
fn rule_names_show_in_decisions() {
    let named = policy("p", json!([{"name": "no-shop", "action": "deny", "from": [{"namespaces": ["shop"]}]}]));
    let (plan, _) = plan(&[named], &mesh());
    let caller = SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/a").unwrap();
    assert_eq!(plan.decide(Some(&caller), 80, None).policy, "shop/p/no-shop");
}

#[test]
fn combinations_are_bounded() {
    let many = |n: usize, what: &str| (0..n).map(|i| format!("{what}{i}")).collect::<Vec<_>>();
    let from = json!({"identities": many(100, "spiffe://mesh.leno/ns/shop/sa/x"), "namespaces": many(100, "n")});
    let (plan, said) = plan(&[policy("p", json!([{"action": "allow", "from": [from]}]))], &mesh());
    // Refused already when it arrived: it closes.
    assert!(!may(&plan, "shop/a", 80, None) && said.is_empty());
}
