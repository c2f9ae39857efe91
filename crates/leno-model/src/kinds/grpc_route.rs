//! `GRPCRoute` (Gateway API v1), attached to a Service.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::filters::{HeaderModifier, NamedMatch, TextMatchType};
use super::references::{BackendRef, ParentRef};

/// Routes the gRPC calls that members make to a Service. Once a route is attached, a call that no rule matches is
/// answered `UNIMPLEMENTED` (`no_route`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-leno-unsupported" = ["hostnames", "useDefaultGateways"]))]
pub struct GrpcRouteSpec {
    /// The Services whose calls are routed; in the route's own namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentRef>,
    /// Host names, for routes attached to a Gateway. The Gateway API leaves them without effect for a Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// At most 16 rules. The most specific match over all rules and routes decides, not their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub rules: Vec<GrpcRouteRule>,
}

/// Calls that one of `matches` fits go through `filters` to `backendRefs`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-leno-unsupported" = ["sessionPersistence"]))]
pub struct GrpcRouteRule {
    /// Shown in logs and metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// One of these must fit; all calls do if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub matches: Vec<GrpcRouteMatch>,
    /// What is done to calls and answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub filters: Vec<GrpcRouteFilter>,
    /// Where calls go, by weight. Without any the answer is `UNAVAILABLE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub backend_refs: Vec<BackendRef>,
    /// Not acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<serde_json::Value>,
}

/// All conditions given must hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRouteMatch {
    /// On gRPC service and method; any if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<GrpcMethodMatch>,
    /// On request metadata; all must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<NamedMatch>,
}

/// A condition on gRPC service and method; at least one of the two must be given.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcMethodMatch {
    /// How the texts are compared.
    #[serde(default, rename = "type")]
    pub kind: TextMatchType,
    /// The full name of the gRPC service, e.g. `shop.v1.Cart`; any if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The name of the method, e.g. `AddItem`; any if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// One step of what is done to calls and answers. The field named by `type` holds its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-leno-unsupported" = ["requestMirror", "extensionRef"]))]
pub struct GrpcRouteFilter {
    /// Which filter.
    #[serde(rename = "type")]
    pub kind: GrpcFilterType,
    /// For `RequestHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// For `ResponseHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,
}

/// A kind of filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GrpcFilterType {
    /// Changes request metadata.
    RequestHeaderModifier,
    /// Changes response metadata.
    ResponseHeaderModifier,
    /// Not acted on: calls of the rule are answered `UNAVAILABLE`.
    RequestMirror,
    /// Not acted on: calls of the rule are answered `UNAVAILABLE`.
    ExtensionRef,
    /// Of a later version; calls of the rule are answered `UNAVAILABLE`.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

impl GrpcFilterType {
    /// Whether the data plane does it.
    #[must_use]
    pub fn is_supported(self) -> bool {
        matches!(self, Self::RequestHeaderModifier | Self::ResponseHeaderModifier)
    }
}
