//! The one table of metrics: names for the code, help for the exposition, and the reference page.
//!
//! Names follow OpenTelemetry's conventions where they fit (units in the name, `_total` on counters, durations in seconds).

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Distribution of values.
    Histogram,
}

impl Kind {
    /// The word in a `# TYPE` line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// With prefix and unit.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// UCUM-like, for the page.
    pub unit: &'static str,
    /// In the order of the exposition.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

/// The labels of an edge.
pub const EDGE_LABELS: &[&str] =
    &["direction", "source_identity", "destination_service", "destination_identity", "route", "protocol"];

const OUTCOME_LABELS: &[&str] = &[
    "direction",
    "source_identity",
    "destination_service",
    "destination_identity",
    "route",
    "protocol",
    "code",
    "grpc_code",
    "reason",
];

macro_rules! metrics {
    ($($const:ident $name:literal $kind:ident $unit:literal $labels:expr, $help:literal;)*) => {
        $(#[doc = $help] pub const $const: Metric =
            Metric { name: $name, kind: Kind::$kind, unit: $unit, labels: $labels, help: $help };)*
        /// Every metric, in the order of exposition and page.
        pub const CATALOGUE: &[Metric] = &[$($const,)*];
    };
}

metrics! {
    REQUESTS "leno_requests_total" Counter "requests" OUTCOME_LABELS,
        "Requests and TCP streams that ended, by HTTP status, gRPC status and reason (empty: no failure).";
    DURATION "leno_request_duration_seconds" Histogram "seconds" EDGE_LABELS,
        "Time from a request's first byte to its answer's last; of a TCP stream, how long it lived.";
    ACTIVE "leno_requests_active" Gauge "requests" EDGE_LABELS, "Requests in flight.";
    BYTES_IN "leno_request_bytes_total" Counter "bytes" EDGE_LABELS, "Body bytes from callers.";
    BYTES_OUT "leno_response_bytes_total" Counter "bytes" EDGE_LABELS, "Body bytes to callers.";
    OPENED "leno_streams_opened_total" Counter "streams" EDGE_LABELS, "TCP connections and upgraded streams that were opened.";
    OPEN "leno_streams_active" Gauge "streams" EDGE_LABELS, "TCP connections and upgraded streams that are open.";
    RETRIES "leno_retries_total" Counter "requests" EDGE_LABELS, "Requests that were sent again.";
    EDGES_OVERFLOWED "leno_edges_overflowed_total" Counter "lookups" &[],
        "Lookups of edges beyond the bound of 2048 per worker, which are counted under the route `other`.";
    ACCEPTED "leno_connections_accepted_total" Counter "connections" &["listener"], "Connections accepted from applications and peers.";
    CONNECTIONS "leno_connections_active" Gauge "connections" &["listener"], "Connections from applications and peers that are open.";
    HANDSHAKES "leno_tls_handshakes_total" Counter "handshakes" &["direction", "group", "reason"],
        "TLS handshakes by key exchange group and reason of failure (empty: success).";
    EJECTIONS "leno_ejections_total" Counter "ejections" &["destination_service", "result"],
        "Endpoints that failed again and again and were ejected, or spared because too many were ejected already.";
    CERTIFICATE_END "leno_certificate_not_after_timestamp_seconds" Gauge "seconds" &["identity"],
        "When the workload's certificate ends, in Unix time.";
    CERTIFICATE_RENEWALS "leno_certificate_renewals_total" Counter "renewals" &["identity"], "Certificates that replaced another.";
    CONTROL_PLANE "leno_control_plane_connected" Gauge "boolean" &[], "Whether the stream to the control plane is up.";
    CONTROL_PLANE_CONNECTS "leno_control_plane_connects_total" Counter "connects" &[], "How often the stream to the control plane came up.";
    CONFIG_VERSION "leno_config_version" Gauge "version" &["collection"], "The version of each collection that is in force.";
    CONFIG_REJECTED "leno_config_rejected_total" Counter "resources" &["collection"], "Resources that could not be compiled and were refused.";
    LOG_DROPPED "leno_access_log_dropped_total" Counter "records" &[], "Access records lost because the log's target was too slow or failed.";
}
