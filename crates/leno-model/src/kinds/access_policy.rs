//! `AccessPolicy`: who may call a service.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::references::TargetRef;

/// Who may call a service; enforced by the proxy of the called instance, also on connections that are open already. A deny that
/// matches refuses; else an allow that matches permits; else the answer is no if any policy that applies has an allow, and what
/// `MeshConfig.access` says if none has. A policy that cannot be understood refuses everything on its targets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessPolicySpec {
    /// Services of the policy's own namespace. Absent or empty: every service of the namespace; in `leno-system`, of the mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub target_refs: Vec<TargetRef>,
    /// The rules; their order does not matter.
    #[schemars(length(min = 1, max = 256))]
    pub rules: Vec<AccessRule>,
}

/// Allows or denies what one of `from` and one of `to` fit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessRule {
    /// Shown in logs when the rule decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the rule does.
    pub action: AccessAction,
    /// The callers; any caller if absent or empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub from: Vec<AccessFrom>,
    /// What is called; anything if absent or empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub to: Vec<AccessTo>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AccessAction {
    /// Permits.
    Allow,
    /// Refuses, whatever other rules allow.
    Deny,
    /// Of a later version; the policy then refuses everything.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Callers. Of the fields given, each must fit; in a list, one entry must. An entry is literal but for one `*` at its start or end.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessFrom {
    /// SPIFFE IDs, e.g. `spiffe://mesh.leno/ns/shop/sa/web` or `spiffe://mesh.leno/ns/shop/*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<String>,
    /// Namespaces of the mesh's own trust domain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Service accounts of the mesh's own trust domain: `NAME` in the policy's own namespace, `NAMESPACE/NAME` elsewhere. Not together
    /// with `namespaces`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<String>,
}

/// What is called. Of the fields given, each must fit; in a list, one entry must. On a port that is not HTTP an allow with `methods`
/// or `paths` never fits, and a deny with them always does.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessTo {
    /// Ports of the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// HTTP methods, e.g. `GET`; byte for byte.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Paths without query, after normalisation: `/exact`, `/prefix/*` (that path and all below it) or `*.suffix`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}
