//! What users write, and what they are told.

use proptest::prelude::*;

use super::*;

/// The messages for a text, one per line, and the number of resources that work.
fn check_text(text: &str) -> (usize, Vec<String>) {
    let (resources, diagnostics) = parse_documents("web.yaml", text);
    (resources.len(), diagnostics.iter().map(ToString::to_string).collect())
}

const SERVICE: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec:\n  ports: [{port: 80}]\n";

#[test]
fn slips_are_named_with_their_position() {
    let route = |rest: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web}}\nspec:\n  parentRefs: [{{name: web}}]\n  rules:\n{rest}"
        )
    };
    for (text, expected) in [
        (
            route("  - matchs: []\n"),
            "web.yaml:7:5: error: spec.rules[0].matchs: unknown field; did you mean `matches`?",
        ),
        (
            route("  - matches:\n    - path: {type: Prefix, value: /}\n"),
            "web.yaml:8:20: error: spec.rules[0].matches[0].path.type: `Prefix` is not one of Exact, PathPrefix, RegularExpression; did you mean `PathPrefix`?",
        ),
        (
            route("  - backendRefs: [{name: web, port: 80, weight: ten}]\n"),
            "web.yaml:7:49: error: spec.rules[0].backendRefs[0].weight: expected a whole number, found text",
        ),
        (
            route("  - backendRefs: [{port: 80}]\n"),
            "web.yaml:7:19: error: spec.rules[0].backendRefs[0].name: required field is absent",
        ),
        (
            route("  - backendRefs: [{name: web, port: 80, weight: 1000001}]\n"),
            "web.yaml:7:49: error: spec.rules[0].backendRefs[0].weight: 1000001 is out of range: between 0 and 1000000",
        ),
        (
            route("  - timeouts: {request: 5 seconds}\n"),
            "web.yaml:7:25: error: spec.rules[0].timeouts.request: `5 seconds` is not a duration: use numbers of at most 5 digits with h, m, s or ms, such as 250ms, 10s or 1h30m",
        ),
        (
            route("  - timeouts: {request: 1s, backendRequest: 2s}\n"),
            "web.yaml:7:45: error: spec.rules[0].timeouts.backendRequest: must not be longer than timeouts.request",
        ),
        (
            route("  - matches: [{path: {type: RegularExpression, value: '('}}]\n"),
            "web.yaml:7:55: error: spec.rules[0].matches[0].path.value: not a regular expression: unclosed group",
        ),
        (
            route("  - filters: [{type: RequestRedirect}]\n"),
            "web.yaml:7:15: error: spec.rules[0].filters[0].requestRedirect: required by `type`",
        ),
        (
            route("  - sessionPersistence: {attempts: 3}\n"),
            "web.yaml:7:5: warning: spec.rules[0].sessionPersistence: known, but this version does not act on it",
        ),
        (SERVICE.replace("80", "8O"), "web.yaml:5:18: error: spec.ports[0].port: expected a whole number, found text"),
        (
            SERVICE.replace("80", "0"),
            "web.yaml:5:18: error: spec.ports[0].port: 0 is out of range: between 1 and 65535",
        ),
        (
            SERVICE.replace("port: 80", "port: 80, appProtocol: htp"),
            "web.yaml:5:35: error: spec.ports[0].appProtocol: unknown protocol `htp`; did you mean `http`?",
        ),
        (
            SERVICE.replace("kind: Service", "kind: Servise"),
            "web.yaml:2:7: error: kind: no kind `Servise` in v1; did you mean `Service`?",
        ),
        (
            SERVICE.replace("v1", "v2"),
            "web.yaml:1:13: error: apiVersion: `v2` is not the version of Service; did you mean `v1`?",
        ),
        (SERVICE.replace("spec", "specs"), "web.yaml:4:1: error: specs: unknown field; did you mean `spec`?"),
        (
            SERVICE.replace("name: web", "name: Web"),
            "web.yaml:3:18: error: metadata.name: name `Web` is not a DNS label: use lower-case letters, digits and",
        ),
        (
            SERVICE.replace("namespace: shop", "labels: {version: 1}"),
            "web.yaml:3:41: error: metadata.labels.version: expected text, found 1, a number (put it in quotes); did you mean `\"1\"`?",
        ),
        ("kind: Service".to_owned(), "web.yaml:1:1: error: apiVersion: required field is absent"),
        ("- 1".to_owned(), "web.yaml:1:1: error: expected a resource, found a list"),
        ("a: [".to_owned(), "web.yaml:"),
    ] {
        let (_, messages) = check_text(&text);
        assert!(messages.iter().any(|m| m.starts_with(expected)), "{text}\nexpected {expected}\nfound {messages:#?}");
    }
}

fn policy(spec: &str) -> String {
    format!("apiVersion: leno.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n")
}

#[test]
fn good_documents_work_without_a_word() {
    for text in [
        SERVICE.to_owned(),
        policy("{rules: [{action: allow, from: [{identities: ['spiffe://mesh.leno/ns/shop/sa/a.b', 'spiffe://mesh.leno/ns/x/*', '*/sa/web']}]}]}"),
        policy("{targetRefs: [{kind: Service, name: web}], rules: [{action: deny, to: [{paths: ['/admin', '/admin/*', '*.php', '*'], methods: [GET], ports: [80]}]}]}"),
        policy("{rules: [{action: allow, from: [{serviceAccounts: [web, 'prod/*', 'prod/web', 'web*', '*/web']}, {namespaces: [prod, 'team-*']}]}]}"),
        "apiVersion: leno.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {egress: deny, access: deny, trustDomain: mesh.leno}\n".to_owned(),
        "apiVersion: leno.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: p}\nspec: {balancing: {algorithm: roundRobin}, timeouts: {request: 5s, idle: 0s}, retries: {attempts: 0, statuses: [503], budget: {percent: 5}}, limits: {maxRequests: 10}, ejection: {consecutiveErrors: 0, baseTime: 5s}}\n".to_owned(),
        "apiVersion: leno.dev/v1alpha1\nkind: ExternalService\nmetadata: {name: pay}\nspec: {hosts: [api.example.com, '*.example.org', 192.0.2.1, '2001:db8::1'], ports: [{port: 443}]}\n".to_owned(),
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}\n".to_owned(),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: g}\nspec: {parentRefs: [{name: cart, kind: Service, group: '', port: 80}], rules: [{matches: [{method: {service: shop.v1.Cart, method: Add}, headers: [{name: x, value: y}]}], backendRefs: [{name: cart, port: 80}]}]}\n".to_owned(),
        format!("apiVersion: v1\nkind: List\nitems:\n- {}", SERVICE.trim_end().replace('\n', "\n  ")),
        serde_json::to_string(&serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "annotations": {"x": "😀"}}, "spec": {"ports": [{"port": 80, "targetPort": "http"}]}})).unwrap(),
    ] {
        assert_eq!(check_text(&text), (1, vec![]), "{text}");
    }
}

#[test]
fn access_policies_are_judged_closely() {
    for (spec, expected) in [
        ("{}", "spec.rules: required field is absent"),
        ("{rules: []}", "needs at least 1"),
        ("{rules: [{action: permit}]}", "`permit` is not one of allow, deny"),
        ("{rules: [{action: allow, form: []}]}", "did you mean `from`?"),
        ("{rules: [{action: allow, when: []}]}", "unknown field"),
        ("{rules: [{action: allow, from: [{}]}]}", "names no caller"),
        ("{rules: [{action: allow, to: [{}]}]}", "names nothing"),
        ("{rules: [{action: allow, from: [{identities: ['spiffe://mesh.leno/*/sa/x']}]}]}", "at most one `*`"),
        ("{rules: [{action: allow, from: [{identities: [web]}]}]}", "not a SPIFFE ID"),
        ("{rules: [{action: allow, from: [{identities: ['sp*']}]}]}", "nor the start of one"),
        ("{rules: [{action: allow, from: [{serviceAccounts: ['*web']}]}]}", "at most one `*`"),
        ("{rules: [{action: allow, from: [{serviceAccounts: [a/b/c]}]}]}", "NAMESPACE/NAME"),
        ("{rules: [{action: allow, from: [{namespaces: [Prod]}]}]}", "DNS label"),
        ("{rules: [{action: allow, from: [{serviceAccounts: [a], namespaces: [b]}]}]}", "not together"),
        ("{rules: [{action: allow, from: [{notIdentities: [a]}]}]}", "unknown field"),
        ("{rules: [{action: allow, to: [{paths: ['/admin*']}]}]}", "end it with `/*`"),
        ("{rules: [{action: allow, to: [{paths: [admin]}]}]}", "does not start with `/`"),
        ("{rules: [{action: allow, to: [{paths: ['/a/../b']}]}]}", "segment"),
        ("{rules: [{action: allow, to: [{paths: ['/admin?x=1']}]}]}", "queries"),
        ("{rules: [{action: allow, to: [{methods: ['GET POST']}]}]}", "not a method"),
        ("{rules: [{action: allow, to: [{ports: [0]}]}]}", "not a port"),
        ("{targetRefs: [{kind: Namespace, name: shop}], rules: [{action: deny}]}", "leave targetRefs out"),
    ] {
        let (count, messages) = check_text(&policy(spec));
        assert!(count == 0 && messages.iter().any(|m| m.contains(expected)), "{spec}: {messages:#?}");
    }
}

#[test]
fn routes_and_services_are_judged_closely() {
    let route = |rule: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\nspec: {{parentRefs: [{{name: web}}], rules: [{rule}]}}\n"
        )
    };
    for (rule, expected) in [
        ("{backendRefs: [{name: web, port: 0}]}", "0 is out of range"),
        ("{matches: [{path: {value: a}}]}", "does not start with"),
        ("{matches: [{headers: [{name: 'a b', value: x}]}]}", "not a header name"),
        ("{matches: [{headers: [{name: a, value: x}, {name: A, value: y}]}]}", "there twice"),
        ("{matches: [{method: get}]}", "did you mean `GET`?"),
        (
            "{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}], matches: [{path: {type: Exact, value: /a}}]}",
            "PathPrefix throughout",
        ),
        (
            "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: x}]}}]}",
            "belongs to the proxy",
        ),
        (
            "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x, value: \"a\\r\\nb: c\"}]}}]}",
            "not a header value",
        ),
        ("{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]}", "statusCode"),
        (
            "{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: web, port: 80}]}",
            "calls no backend",
        ),
        ("{name: a}, {name: a}", "there twice"),
        ("{retry: {codes: [200]}}", "codes[0]: 200 is out of range"),
    ] {
        let (count, messages) = check_text(&route(rule));
        assert!(count == 0 && messages.iter().any(|m| m.contains(expected)), "{rule}: {messages:#?}");
    }
    for (spec, expected) in [
        ("{}", "at least one port"),
        ("{ports: [{port: 80}, {port: 81}]}", "required if there are several"),
        ("{ports: [{port: 80, name: a}, {port: 80, name: b}]}", "port 80 is there twice"),
        ("{ports: [{port: 80, name: a}, {port: 81, name: a}]}", "`a` is there twice"),
        ("{ports: [{port: 80, targetPort: 70000}]}", "targetPort"),
        ("{ports: [{port: 80, targetPort: 0}]}", "not a port"),
        ("{ports: [{port: 80, targetPort: [1]}]}", "expected a whole number or text, found a list"),
    ] {
        let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {spec}\n");
        let (count, messages) = check_text(&text);
        assert!(count == 0 && messages.iter().any(|m| m.contains(expected)), "{spec}: {messages:#?}");
    }
}

#[test]
fn what_is_known_but_not_acted_on_warns() {
    for (text, expected) in [
        (SERVICE.replace("spec:", "spec:\n  selector: {app: web}\n  type: LoadBalancer"), 1),
        (SERVICE.replace("port: 80", "port: 53, protocol: UDP"), 1),
        (SERVICE.replace("port: 80", "port: 443, appProtocol: https"), 1),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {hostnames: [a.b], parentRefs: [{name: gw, kind: Gateway, group: g}, {name: web, namespace: other}], rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: x, port: 1}}}], backendRefs: [{name: web, port: 80, filters: []}]}]}\n".to_owned(),
            6,
        ),
    ] {
        let (count, messages) = check_text(&text);
        assert!(count == 1 && messages.len() == expected && messages.iter().all(|m| m.contains("warning")), "{messages:#?}");
    }
}

#[test]
fn one_bad_document_is_set_aside() {
    let text = format!(
        "{SERVICE}---\n{{broken\n---\n{}---\n{}",
        SERVICE.replace("ports", "prots"),
        SERVICE.replace("web", "api")
    );
    let (resources, diagnostics) = parse_documents("f", &text);
    let names: Vec<_> = resources.iter().map(|r| r.resource.metadata.name.as_str()).collect();
    assert_eq!(names, ["web", "api"]);
    let lines: Vec<_> = diagnostics.iter().map(|d| d.line).collect();
    assert!(diagnostics.len() >= 2 && lines.iter().all(|l| (7..=13).contains(l)), "{diagnostics:#?}");
}

#[test]
fn only_users_kinds_can_be_applied_and_only_in_their_place() {
    for (kind, metadata, expected) in [
        ("Workload", "{name: x}", "written by the control plane"),
        ("Endpoint", "{name: x}", "written by the control plane"),
        ("MeshConfig", "{name: other}", "the only MeshConfig"),
        ("MeshConfig", "{name: mesh, namespace: shop}", "the only MeshConfig"),
    ] {
        let text = format!("apiVersion: leno.dev/v1alpha1\nkind: {kind}\nmetadata: {metadata}\nspec: {{}}\n");
        let (count, messages) = check_text(&text);
        assert!(count == 0 && messages.iter().any(|m| m.contains(expected)), "{kind} {metadata}: {messages:#?}");
    }
    let input = Input {
        source: "-",
        text: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 1}]}",
        namespace: Some("prod"),
    };
    assert_eq!(parse(input).0[0].resource.metadata.namespace, "prod");
    assert_eq!(parse_documents("-", input.text).0[0].resource.metadata.namespace, "default");
}

#[test]
fn bounds_hold() {
    let (resources, diagnostics) = parse_documents("f", &" ".repeat(MAX_TEXT + 1));
    assert!(resources.is_empty() && diagnostics[0].code == Code::LimitExceeded);
    let many = format!("{SERVICE}---\n").repeat(MAX_DOCUMENTS + 5);
    let (resources, diagnostics) = parse_documents("f", &many);
    assert_eq!((resources.len(), diagnostics.len(), diagnostics[0].code), (MAX_DOCUMENTS, 1, Code::LimitExceeded));
    let fields: String = (0..5000).map(|i| format!("  x{i}: 1\n")).collect();
    assert_eq!(check_text(&format!("{SERVICE}{fields}")).1.len(), crate::schema::MAX_DIAGNOSTICS);
}

#[test]
fn hostile_texts_do_not_reach_the_terminal() {
    let (_, messages) =
        check_text("apiVersion: v1\nkind: \"S\\e[31m\\n\"\nmetadata: {name: \"a\\e[0m\"}\n\"\\e[1m\": 1\n");
    assert!(messages.len() >= 3 && !messages.iter().any(|m| m.contains(['\u{1b}', '\n'])), "{messages:#?}");
}

#[test]
fn stored_resources_get_the_same_findings() {
    let (resources, warnings) = parse_documents("", &SERVICE.replace("spec:", "spec:\n  clusterIP: 10.0.0.1"));
    let again = check(&resources[0].resource);
    assert_eq!((warnings.len(), again.len()), (1, 1));
    assert_eq!((&again[0].path, &again[0].message, again[0].line), (&warnings[0].path, &warnings[0].message, 0));
}

proptest! {
    #[test]
    fn any_text_ends_without_a_panic(text in "(?s).{0,300}") {
        let _ = parse_documents("f", &text);
    }

    /// Documents put together from words that occur in real ones get further than random text.
    #[test]
    fn any_plausible_text_ends_without_a_panic(words in prop::collection::vec(prop_oneof![
        Just("apiVersion: "), Just("v1"), Just("leno.dev/v1alpha1"), Just("kind: "), Just("Service"), Just("AccessPolicy"), Just("HTTPRoute"),
        Just("metadata: "), Just("{name: a}"), Just("spec: "), Just("\n"), Just("\n  "), Just("\n  - "), Just("rules: "), Just("ports: "),
        Just("[{"), Just("}]"), Just("port: 80"), Just(", "), Just("action: allow"), Just("from: "), Just("matches: "), Just("---\n"),
        Just("*"), Just("&a "), Just("*a"), Just("null"), Just("-1"), Just("1e400"), Just("'"), Just("\""), Just("| "),
    ], 0..60)) {
        let _ = parse_documents("f", &words.concat());
    }

    /// Positions are inside the text.
    #[test]
    fn positions_are_in_the_text(prefix in "(\n|# x\n|---\n){0,5}", field in "[a-z]{1,10}") {
        let text = format!("{prefix}{SERVICE}  {field}z: 1\n");
        let lines: Vec<&str> = text.lines().collect();
        for d in parse_documents("f", &text).1 {
            let line = lines[d.line as usize - 1];
            prop_assert!(line[d.column as usize - 1..].starts_with(&field), "{d}");
        }
    }

    /// What a user's text keeps: every field of metadata and spec, as written.
    #[test]
    fn specs_are_kept_as_written(port in 1u16.., name in "[a-z]{1,10}") {
        let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, ownerReferences: [{{x: 1}}]}}\nspec: {{ports: [{{port: {port}}}], selector: {{a: b}}}}\n");
        let resource = &parse_documents("f", &text).0[0].resource;
        let kept = Resource::from_json(&resource.to_json()).unwrap();
        prop_assert_eq!(&kept, resource);
        prop_assert_eq!(&kept.spec, &serde_json::json!({"ports": [{"port": port}], "selector": {"a": "b"}}));
        prop_assert_eq!(&kept.metadata.extra["ownerReferences"][0]["x"], &serde_json::json!(1));
    }
}
