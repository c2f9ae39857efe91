//! `MeshConfig`: settings of the whole mesh.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the whole mesh. There is one, named `mesh`, in the namespace `leno-system`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshConfigSpec {
    /// What happens to traffic for destinations outside the mesh: passed on and counted (`allow`, the default), or refused
    /// unless an ExternalService names them (`deny`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Verdict>,
    /// Who may call a service that no AccessPolicy with an allow applies to: every member of the mesh (`allow`, the default) or
    /// nobody (`deny`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Verdict>,
    /// The trust domain. Fixed at the control plane's first start: it may be repeated here, not changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
}

/// What the control plane adds to `MeshConfig` as proxies are told of it, in `status`: what tells the names and addresses of the
/// mesh from others (D2), without naming every service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfigStatus {
    /// The trust domain.
    pub trust_domain: String,
    /// The namespaces that have services: `NAME.NAMESPACE` is a name of the mesh for these only (D13).
    pub namespaces: std::collections::BTreeSet<String>,
    /// The prefixes that virtual addresses are from, e.g. `244.0.0.0/16`.
    pub prefixes: Vec<String>,
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Permitted.
    Allow,
    /// Refused.
    Deny,
    /// Of a later version; treated as `deny`.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

impl Verdict {
    /// Whether it permits; an unknown one does not.
    #[must_use]
    pub fn permits(self) -> bool {
        self == Self::Allow
    }
}
