//! `HTTPRoute` (Gateway API v1), attached to a Service.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::filters::{HeaderModifier, NamedMatch};
use super::references::{BackendRef, ParentRef};
use crate::time_span::TimeSpan;

/// Routes the HTTP requests that members send to a Service. Once a route is attached, a request that no rule matches is
/// answered 404 (`no_route`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-leno-unsupported" = ["hostnames", "useDefaultGateways"]))]
pub struct HttpRouteSpec {
    /// The Services whose requests are routed; in the route's own namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentRef>,
    /// Host names, for routes attached to a Gateway. The Gateway API leaves them without effect for a Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// At most 16 rules. The most specific match over all rules and routes decides, not their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub rules: Vec<HttpRouteRule>,
}

/// Requests that one of `matches` fits go through `filters` to `backendRefs`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-leno-unsupported" = ["sessionPersistence"]))]
pub struct HttpRouteRule {
    /// Shown in logs and metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// One of these must fit; all requests do if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub matches: Vec<HttpRouteMatch>,
    /// What is done to requests and answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub filters: Vec<HttpRouteFilter>,
    /// Where requests go, by weight. Without any, and without a redirect, the answer is 500.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub backend_refs: Vec<BackendRef>,
    /// Limits on time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<HttpRouteTimeouts>,
    /// When a request of this rule is sent again; goes before the TrafficPolicy's `retries`, whose budget holds all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<HttpRouteRetry>,
    /// Not acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<serde_json::Value>,
}

/// All conditions given must hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteMatch {
    /// On the path; any path if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPathMatch>,
    /// On headers; all must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<NamedMatch>,
    /// On query parameters; all must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub query_params: Vec<NamedMatch>,
    /// On the method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
}

/// A condition on the path, after it was normalised (DESIGN section 7).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpPathMatch {
    /// How `value` is compared.
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,
    /// The path, prefix or regular expression.
    #[serde(default = "root")]
    pub value: String,
}

impl Default for HttpPathMatch {
    fn default() -> Self {
        Self { kind: PathMatchType::PathPrefix, value: root() }
    }
}

fn root() -> String {
    "/".to_owned()
}

/// How a path is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum PathMatchType {
    /// Byte for byte.
    Exact,
    /// By whole path segments: `/a` fits `/a` and `/a/b`, not `/ab`.
    #[default]
    PathPrefix,
    /// The whole path matches a regular expression (linear time; no look-around, no back-references).
    RegularExpression,
    /// Of a later version.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// A request method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the methods of RFC 9110 explain themselves")]
pub enum HttpMethod {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

impl HttpMethod {
    /// The method's token; `None` for one of a later version.
    #[must_use]
    pub fn token(self) -> Option<&'static str> {
        Some(match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Unknown => return None,
        })
    }
}

/// One step of what is done to requests and answers. The field named by `type` holds its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-leno-unsupported" = ["requestMirror", "cors", "externalAuth", "extensionRef"]))]
pub struct HttpRouteFilter {
    /// Which filter.
    #[serde(rename = "type")]
    pub kind: HttpFilterType,
    /// For `RequestHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// For `ResponseHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,
    /// For `RequestRedirect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<RequestRedirect>,
    /// For `URLRewrite`.
    #[serde(rename = "urlRewrite", skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<UrlRewrite>,
}

/// A kind of filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HttpFilterType {
    /// Changes request headers.
    RequestHeaderModifier,
    /// Changes response headers.
    ResponseHeaderModifier,
    /// Answers with a redirect.
    RequestRedirect,
    /// Changes host or path.
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    /// Not acted on: requests of the rule are answered 500.
    RequestMirror,
    /// Not acted on: requests of the rule are answered 500.
    #[serde(rename = "CORS")]
    Cors,
    /// Not acted on: requests of the rule are answered 500.
    ExternalAuth,
    /// Not acted on: requests of the rule are answered 500.
    ExtensionRef,
    /// Of a later version; requests of the rule are answered 500.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

impl HttpFilterType {
    /// Whether the data plane does it.
    #[must_use]
    pub fn is_supported(self) -> bool {
        use HttpFilterType::{RequestHeaderModifier, RequestRedirect, ResponseHeaderModifier, UrlRewrite};
        matches!(self, RequestHeaderModifier | ResponseHeaderModifier | RequestRedirect | UrlRewrite)
    }
}

/// Answers with a redirect instead of calling a backend.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestRedirect {
    /// `http` or `https`; the request's own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<RedirectScheme>,
    /// The host of `Location`; the request's own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path of `Location`; the request's own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// The port of `Location`; the scheme's well-known port if `scheme` is given, else the request's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308; 302 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
}

/// The scheme of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedirectScheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

/// Changes host or path before the backend is called.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UrlRewrite {
    /// The new host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The new path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// Replaces the path or its matched prefix. The field named by `type`, in lower camel case, holds the replacement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PathModifier {
    /// What is replaced.
    #[serde(rename = "type")]
    pub kind: PathModifierType,
    /// For `ReplaceFullPath`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_full_path: Option<String>,
    /// For `ReplacePrefixMatch`; the rule's matches must all be of type `PathPrefix`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_prefix_match: Option<String>,
}

/// What a path modifier replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathModifierType {
    /// The whole path.
    ReplaceFullPath,
    /// The prefix that matched.
    ReplacePrefixMatch,
    /// Of a later version.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Limits on time; `0s` turns one off.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteTimeouts {
    /// From the request's head to the end of the answer, over all attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<TimeSpan>,
    /// For one attempt; at most `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<TimeSpan>,
}

/// When a request is sent again. One that cannot have been processed always is, up to `attempts`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteRetry {
    /// Statuses that are tried again too, of idempotent methods only (RFC 9110): somebody did process the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 400, max = 599)))]
    pub codes: Vec<u16>,
    /// Attempts after the first; as the TrafficPolicy says if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub attempts: Option<u32>,
    /// The pause before the first retry, at most; doubled for each further one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<TimeSpan>,
}
