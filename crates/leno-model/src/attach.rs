//! What a route or policy is attached to: decides which services' collections it belongs in.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::kind::Kind;
use crate::kinds::references::{ParentRef, TargetRef};
use crate::names::SYSTEM_NAMESPACE;
use crate::resource::Resource;

/// What a resource acts on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// One service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Every service of a namespace.
    Namespace(String),
    /// Every service.
    Mesh,
}

impl Target {
    /// Whether it includes this service.
    #[must_use]
    pub fn includes(&self, namespace: &str, service: &str) -> bool {
        match self {
            Self::Service { namespace: n, name } => n == namespace && name == service,
            Self::Namespace(n) => n == namespace,
            Self::Mesh => true,
        }
    }
}

/// What the resource acts on; empty for kinds that are not attached. Never wider than its own namespace, but for policies in
/// `leno-system` (D14). An access policy whose references cannot be read is taken to act on all of its namespace, so that
/// it closes what it may have been meant for (BAD_INPUTS 19).
#[must_use]
pub fn targets(resource: &Resource) -> Vec<Target> {
    let namespace = resource.metadata.namespace.as_str();
    let service = |name: String| Target::Service { namespace: namespace.to_owned(), name };
    let whole = || if namespace == SYSTEM_NAMESPACE { Target::Mesh } else { Target::Namespace(namespace.to_owned()) };
    match resource.known_kind() {
        Some(Kind::HttpRoute | Kind::GrpcRoute) => list::<ParentRef>(resource, "parentRefs")
            .unwrap_or_default()
            .into_iter()
            .filter(|p| p.is_service() && p.namespace.as_deref().is_none_or(|n| n == namespace))
            .map(|p| service(p.name))
            .collect(),
        Some(Kind::TrafficPolicy | Kind::AccessPolicy) => match list::<TargetRef>(resource, "targetRefs") {
            Some(targets) if targets.is_empty() => vec![whole()],
            Some(targets) if targets.iter().all(TargetRef::is_service) => {
                targets.into_iter().map(|t| service(t.name)).collect()
            }
            _ if resource.known_kind().is_some_and(Kind::is_security) => vec![whole()],
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// The list under `spec`; empty if absent, `None` if it does not decode.
fn list<T: DeserializeOwned>(resource: &Resource, field: &str) -> Option<Vec<T>> {
    if !resource.spec.is_object() && !resource.spec.is_null() {
        return None;
    }
    match resource.spec.get(field) {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(value) => Vec::deserialize(value).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resource(kind: Kind, namespace: &str, spec: Value) -> Resource {
        serde_json::from_value(json!({
            "apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": {"name": "x", "namespace": namespace}, "spec": spec
        }))
        .unwrap()
    }

    #[test]
    fn policies_act_in_their_own_namespace() {
        let service = |n: &str, s: &str| Target::Service { namespace: n.into(), name: s.into() };
        for (kind, namespace, spec, expected) in [
            (
                Kind::AccessPolicy,
                "shop",
                json!({"targetRefs": [{"kind": "Service", "name": "web"}]}),
                vec![service("shop", "web")],
            ),
            (Kind::AccessPolicy, "shop", json!({}), vec![Target::Namespace("shop".into())]),
            (Kind::AccessPolicy, "leno-system", json!({"rules": []}), vec![Target::Mesh]),
            (Kind::AccessPolicy, "shop", json!({"targetRefs": "web"}), vec![Target::Namespace("shop".into())]),
            (
                Kind::AccessPolicy,
                "shop",
                json!({"targetRefs": [{"kind": "Mesh", "name": "web"}]}),
                vec![Target::Namespace("shop".into())],
            ),
            (Kind::AccessPolicy, "shop", json!("nonsense"), vec![Target::Namespace("shop".into())]),
            (Kind::TrafficPolicy, "shop", json!({"targetRefs": "web"}), vec![]),
            (
                Kind::HttpRoute,
                "shop",
                json!({"parentRefs": [{"name": "web"}, {"kind": "Gateway", "group": "g", "name": "gw"}]}),
                vec![service("shop", "web")],
            ),
            (Kind::HttpRoute, "shop", json!({"parentRefs": [{"name": "web", "namespace": "other"}]}), vec![]),
            (Kind::Service, "shop", json!({}), vec![]),
        ] {
            assert_eq!(targets(&resource(kind, namespace, spec.clone())), expected, "{spec}");
        }
    }
}
