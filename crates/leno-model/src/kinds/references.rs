//! References from one resource to another, as the Gateway API shapes them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

fn service_kind() -> String {
    "Service".to_owned()
}

fn one() -> u32 {
    1
}

/// The resource a route is attached to. In a mesh that is a Service (GAMMA).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Empty for a Service.
    #[serde(default)]
    pub group: String,
    /// `Service`. A route for a Gateway is kept, and its condition says that nothing serves it here.
    #[serde(default = "service_kind")]
    pub kind: String,
    /// The namespace of the parent; the route's own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name of the parent.
    pub name: String,
    /// The name of one port of the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// One port of the Service; all of them if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

impl ParentRef {
    /// Whether it names a Service.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.group.is_empty() && self.kind == "Service"
    }
}

/// Where requests of a rule go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-leno-unsupported" = ["filters"]))]
pub struct BackendRef {
    /// Empty for a Service.
    #[serde(default)]
    pub group: String,
    /// `Service`.
    #[serde(default = "service_kind")]
    pub kind: String,
    /// The name of the backend.
    pub name: String,
    /// The namespace of the backend; another than the route's own needs a ReferenceGrant there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The port of the backend Service; its only one if absent. (Kubernetes asks for it.)
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// The share of requests, relative to the sum of all weights of the rule. 0 sends none.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: u32,
    /// Filters for one backend; not acted on, the backend then counts as invalid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<serde_json::Value>,
}

impl BackendRef {
    /// Whether it names a Service.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.group.is_empty() && self.kind == "Service"
    }
}

/// What a policy applies to, in the policy's own namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// Empty for a Service.
    #[serde(default)]
    pub group: String,
    /// `Service`.
    #[serde(default = "service_kind")]
    pub kind: String,
    /// The name of the Service.
    pub name: String,
}

impl TargetRef {
    /// Whether it names a Service.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.group.is_empty() && self.kind == "Service"
    }
}
