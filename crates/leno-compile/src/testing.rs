//! Short ways to write resources in tests.

use leno_model::diagnostic::Diagnostic;
use leno_model::resource::{Resource, ResourceRef};
use leno_model::{Kind, NamespacedName, TrustDomain};
use serde_json::{Value, json};

use crate::{Collection, MeshDefaults};

/// `web` in `shop`.
pub fn web() -> NamespacedName {
    NamespacedName::new("shop", "web").unwrap()
}

pub fn mesh() -> MeshDefaults {
    MeshDefaults::new(TrustDomain::default())
}

/// A resource of the namespace `shop` unless the name is written `namespace/name`. The name's first letter decides its age: `a` is
/// the oldest.
pub fn resource(kind: Kind, name: &str, spec: Value) -> Resource {
    let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
    let age = u32::from(name.as_bytes()[0] - b'a') + 1;
    serde_json::from_value(json!({
        "apiVersion": kind.api_version(), "kind": kind.as_str(), "spec": spec,
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": format!("2026-01-{age:02}T00:00:00Z")}
    }))
    .unwrap()
}

/// A collection of these, and what it said of each that it refused.
pub fn collection(resources: &[Resource]) -> Collection {
    let mut collection = Collection::new();
    for (version, r) in (1..).zip(resources) {
        collection.upsert(r.reference(), version, &r.to_json());
    }
    collection.complete(7);
    collection
}

pub fn key(kind: &str, namespace: &str, name: &str) -> ResourceRef {
    ResourceRef { kind: kind.into(), namespace: namespace.into(), name: name.into() }
}

pub fn service(ports: Value) -> Resource {
    resource(Kind::Service, "web", json!({"ports": ports}))
}

/// The diagnostics in short: name, code and path.
pub fn said(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics
        .iter()
        .map(|d| {
            format!("{} {} {}", d.resource.as_ref().map_or("?", |r| &r.name), d.code.as_str(), d.path).trim().to_owned()
        })
        .collect()
}
