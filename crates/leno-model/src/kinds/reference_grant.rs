//! `ReferenceGrant` (Gateway API): who may refer into this namespace.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Permits the kinds in `from`, of their namespaces, to refer to the kinds in `to`, of the grant's own namespace.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceGrantSpec {
    /// Who may refer.
    #[serde(default)]
    #[schemars(length(min = 1, max = 16))]
    pub from: Vec<GrantFrom>,
    /// To what.
    #[serde(default)]
    #[schemars(length(min = 1, max = 16))]
    pub to: Vec<GrantTo>,
}

/// Who may refer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantFrom {
    /// The group, e.g. `gateway.networking.k8s.io`.
    pub group: String,
    /// The kind, e.g. `HTTPRoute`.
    pub kind: String,
    /// The namespace it is in.
    pub namespace: String,
}

/// To what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantTo {
    /// The group; empty for Services.
    pub group: String,
    /// The kind, e.g. `Service`.
    pub kind: String,
    /// One resource; all of the kind if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl ReferenceGrantSpec {
    /// Whether a resource of `from_kind` in `from_namespace` may refer to the Service `name` of the grant's namespace.
    #[must_use]
    pub fn permits_service(&self, from_kind: &str, from_namespace: &str, name: &str) -> bool {
        let from = |f: &GrantFrom| {
            f.group == "gateway.networking.k8s.io" && f.kind == from_kind && f.namespace == from_namespace
        };
        let to = |t: &GrantTo| {
            t.group.is_empty() && t.kind == "Service" && t.name.as_deref().is_none_or(|wanted| wanted == name)
        };
        self.from.iter().any(from) && self.to.iter().any(to)
    }
}
