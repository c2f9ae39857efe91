//! Mesh-wide settings.

use leno_model::Kind;
use leno_plan::host::Host;
use serde_json::{Value, json};

use super::*;
use crate::testing::{collection, key, resource, said};

fn compile(collection: &Collection) -> (MeshDefaults, Vec<String>) {
    let (mesh, diagnostics) = compile_mesh(collection, &Name::new("shop").unwrap(), &TrustDomain::default());
    (mesh, said(&diagnostics))
}

fn config(spec: Value, status: Value) -> leno_model::Resource {
    let mut config = resource(Kind::MeshConfig, "leno-system/mesh", spec);
    config.status = status;
    config
}

#[test]
fn settings_are_read_and_doubts_close() {
    for (spec, open) in [
        (json!({}), (true, true)),
        (json!({"access": "deny"}), (false, true)),
        (json!({"egress": "deny", "access": "allow"}), (true, false)),
        (json!({"egress": "sometimes", "access": "maybe"}), (false, false)),
        (json!({"egress": 1}), (false, false)),
        (json!("x"), (false, false)),
    ] {
        let (mesh, _) = compile(&collection(&[config(spec.clone(), Value::Null)]));
        assert_eq!((mesh.access_open, mesh.egress.open), open, "{spec}");
    }
    assert_eq!(compile(&Collection::new()).0, MeshDefaults::new(TrustDomain::default()));
    // One of another name or namespace is nobody's.
    let elsewhere = resource(Kind::MeshConfig, "mesh", json!({"access": "deny"}));
    assert!(compile(&collection(&[elsewhere])).0.access_open);
}

#[test]
fn a_bad_change_keeps_the_last_good_settings() {
    let mut c = collection(&[config(json!({"egress": "deny"}), Value::Null)]);
    c.upsert(key("MeshConfig", "leno-system", "mesh"), 2, b"{");
    let (mesh, said) = compile(&c);
    assert_eq!((mesh.access_open, mesh.egress.open), (true, false));
    assert_eq!(said, ["mesh Undecodable"]);
}

#[test]
fn scope_and_egress_hosts_are_taken() {
    let status = json!({"trustDomain": "mesh.leno", "namespaces": ["shop"], "prefixes": ["244.0.0.0/16", "nonsense"]});
    let external = |name: &str, host: &str| {
        resource(Kind::ExternalService, name, json!({"hosts": [host], "ports": [{"port": 443}]}))
    };
    let c = collection(&[
        config(json!({"egress": "deny"}), status),
        external("pay", "pay.example.com"),
        external("bank/other", "other.example.com"),
        external("leno-system/all", "*.example.org"),
    ]);
    let (mesh, said) = compile(&c);
    assert_eq!(said, ["mesh InvalidValue status.prefixes[1]"]);
    assert!(mesh.namespaces.contains("shop") && mesh.prefixes[0].contains("244.0.1.1".parse().unwrap()));
    for (host, expected) in [("pay.example.com", true), ("other.example.com", false), ("a.example.org", true)] {
        assert_eq!(mesh.egress.permits(&Host::parse(host.as_bytes()).unwrap().name, 443), expected, "{host}");
    }
}
