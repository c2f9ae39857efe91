//! Plans in words.

use leno_model::Kind;
use leno_plan::{NoHeaders, RequestView};
use serde_json::json;

use super::*;
use crate::testing::{collection, mesh, resource, service, web};
use crate::{compile_destination, compile_inbound};

#[test]
fn plans_read_as_sentences() {
    let c = collection(&[
        service(json!([{"port": 80, "appProtocol": "http"}])),
        resource(Kind::ServiceInfo, "web", json!({"identities": ["spiffe://mesh.leno/ns/shop/sa/web"]})),
        resource(
            Kind::HttpRoute,
            "r",
            json!({"parentRefs": [{"name": "web"}], "rules": [
            {"name": "split", "matches": [{"path": {"value": "/a"}, "method": "GET", "headers": [{"name": "v", "value": "2"}]}],
             "backendRefs": [{"name": "web", "port": 80, "weight": 9}, {"name": "web-v2", "port": 80}]},
            {"filters": [{"type": "RequestRedirect", "requestRedirect": {}}]}]}),
        ),
        resource(Kind::AccessPolicy, "p", json!({"rules": [{"action": "allow", "to": [{"paths": ["/x"]}]}]})),
    ]);
    let plan = compile_destination(&web(), &c, &mesh()).0;
    let text = explain_destination(&plan);
    for part in [
        "service web.shop, version 7",
        "served by spiffe://mesh.leno/ns/shop/sa/web",
        "port 80 (http), 0 ready endpoints",
        "GET, path under /a/, header v = \"2\" -> web.shop:80 90.0%, web-v2.shop:80 10.0% [rule r/split]",
        "anything -> redirect with 302 [rule r/1]",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let view = RequestView { method: b"GET", path: b"/", query: None, authority: b"web", headers: &NoHeaders };
    assert_eq!(
        explain_choice(&plan.ports[&80].routes.choose(&view).unwrap()),
        "anything -> redirect with 302 [rule r/1]"
    );
    let own: Vec<_> = serde_json::from_value(json!([{"port": 8080}])).unwrap();
    let text = explain_inbound(&compile_inbound(&web(), &c, &mesh(), &own).0);
    assert!(text.contains("port 80 (http) -> application port 8080, access judged by caller and request"), "{text}");
}
