//! `TrafficPolicy`: how a service is called.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::references::TargetRef;
use crate::time_span::TimeSpan;

/// How the proxies of callers treat a service. A policy that names the service goes before one for its whole namespace, and that
/// before one in `leno-system` for the whole mesh, section by section (`balancing`, `timeouts` and so on are each taken whole). Of
/// two policies for the same target the older one holds, and the younger one's condition says so.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// Services of the policy's own namespace. Absent or empty: every service of the namespace; in `leno-system`, of the mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub target_refs: Vec<TargetRef>,
    /// How the endpoint for a request is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balancing: Option<Balancing>,
    /// Limits on time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// When a failed request is sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// How much one proxy has under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// When an endpoint is left out for a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejection: Option<Ejection>,
}

/// How the endpoint for a request is chosen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Balancing {
    /// The algorithm.
    #[serde(default)]
    pub algorithm: Algorithm,
}

/// A balancing algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Algorithm {
    /// The better of two random endpoints by peak-sensitive latency × requests under way. The default.
    #[default]
    PeakEwma,
    /// In turn.
    RoundRobin,
    /// The better of two random endpoints by requests under way.
    LeastRequest,
    /// At random.
    Random,
    /// Of a later version; treated as the default, with a diagnostic.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Limits on time; `0s` turns one off.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// For a connection to an endpoint; 2s if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<TimeSpan>,
    /// From the request's head to the end of the answer, over all attempts; none if absent. A route's own goes before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<TimeSpan>,
    /// For one attempt; none if absent. A route's own goes before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<TimeSpan>,
    /// For an HTTP request or answer in which nothing moves; 5m if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<TimeSpan>,
    /// For a TCP or upgraded stream in which nothing moves; none if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_idle: Option<TimeSpan>,
}

/// When a failed request is sent again, to another endpoint where there is one. Requests that cannot have been processed are: the
/// connection failed, the stream was refused, or it was reset before processing. Others only where `statuses` or `grpcStatuses` say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// Attempts after the first; 2 if absent, 0 turns retries off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub attempts: Option<u32>,
    /// HTTP statuses that are tried again too, of idempotent methods only (RFC 9110): somebody did process the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 400, max = 599)))]
    pub statuses: Vec<u16>,
    /// gRPC status codes that are tried again too, if no message was delivered. A call does not say whether it may run twice: naming
    /// a code here says that all the service's may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 1, max = 16)))]
    pub grpc_statuses: Vec<u8>,
    /// The pause before the first retry, at most; doubled for each further one. 25ms if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<TimeSpan>,
    /// Bounds retries over all requests of one proxy to the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<RetryBudget>,
}

/// Bounds retries over all requests of one proxy to the service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Retries as a share of active requests; 20 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<u32>,
    /// So many retries per second are always permitted; 10 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub min_per_second: Option<u32>,
}

/// How much one proxy has under way: a caller's to the service, and an instance's from all callers. Over it the answer is 503
/// (`overloaded`). No limit where one is absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// TCP streams at a time; connections of HTTP callers are not counted, their requests are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_connections: Option<u32>,
    /// HTTP requests that are not answered completely.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_requests: Option<u32>,
}

/// When an endpoint is left out for a time. The last ready endpoint never is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ejection {
    /// Gateway errors (502, 503, 504) or connect failures in a row; 5 if absent, 0 turns ejection off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub consecutive_errors: Option<u32>,
    /// For how long, times the number of ejections so far; 30s if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_time: Option<TimeSpan>,
    /// At most this share of the endpoints; 50 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_percent: Option<u32>,
}
