//! Files judged together.

use leno_model::parse_documents;

use super::*;
use crate::testing::said;

fn check(text: &str) -> Vec<String> {
    let (parsed, diagnostics) = parse_documents("f", text);
    assert!(!diagnostics.iter().any(Diagnostic::is_error), "{diagnostics:?}");
    said(&lint(&parsed.into_iter().map(|p| p.resource).collect::<Vec<_>>()))
}

const WEB: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n";

fn route(spec: &str) -> String {
    format!("---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec: {spec}\n")
}

fn policy(kind: &str, name: &str, spec: &str) -> String {
    format!("---\napiVersion: leno.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn files_are_judged_together() {
    for (text, expected) in [
        (WEB.to_owned(), vec![]),
        (
            WEB.to_owned() + &route("{parentRefs: [{name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}"),
            vec![],
        ),
        (
            route("{parentRefs: [{name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}"),
            vec!["r NoMatchingParent spec.parentRefs", "r BackendNotFound spec.rules[0].backendRefs[0]"],
        ),
        (
            WEB.to_owned() + &route("{parentRefs: [{name: web}], rules: [{backendRefs: [{name: web, port: 81}]}]}"),
            vec!["r BackendNotFound spec.rules[0].backendRefs[0]"],
        ),
        (WEB.to_owned() + &route("{parentRefs: [{name: web}], rules: [{backendRefs: [{name: web}]}]}"), vec![]),
        (
            WEB.replace("[{port: 80}]", "[{port: 80, name: a}, {port: 81, name: b}]")
                + &route("{parentRefs: [{name: web}], rules: [{backendRefs: [{name: web}]}]}"),
            vec!["r BackendNotFound spec.rules[0].backendRefs[0]"],
        ),
        (
            WEB.to_owned()
                + &route(
                    "{parentRefs: [{name: web}], rules: [{backendRefs: [{name: api, namespace: bank, port: 81}]}]}",
                ),
            vec!["r BackendNotFound spec.rules[0].backendRefs[0]", "r RefNotPermitted spec.rules[0].backendRefs[0]"],
        ),
        (
            WEB.to_owned()
                + &policy("TrafficPolicy", "a", "{limits: {maxRequests: 1}}")
                + &policy("TrafficPolicy", "b", "{limits: {maxRequests: 2}}"),
            vec!["b Conflicted spec.limits"],
        ),
        (
            WEB.to_owned()
                + &WEB.replace("web", "web-v2")
                + &route("{parentRefs: [{name: web}], rules: [{backendRefs: [{name: web}, {name: web-v2}]}]}")
                + &policy("AccessPolicy", "beside", "{targetRefs: [{name: web}], rules: [{action: deny}]}")
                + &policy(
                    "AccessPolicy",
                    "both",
                    "{targetRefs: [{name: web}, {name: web-v2}], rules: [{action: deny}]}",
                ),
            vec!["beside UnsupportedValue spec.targetRefs"],
        ),
        (
            policy("AccessPolicy", "a", "{targetRefs: [{name: web}], rules: [{action: deny}]}"),
            vec!["a NoMatchingParent spec.targetRefs"],
        ),
    ] {
        assert_eq!(check(&text), expected, "{text}");
    }
}
