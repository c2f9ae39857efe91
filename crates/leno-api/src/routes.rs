//! The routes: one table that the server, the client and the OpenAPI document share.

/// Default address of the API on the control plane's host.
pub const DEFAULT_API: &str = "http://127.0.0.1:15101";
/// Largest request body in bytes; a bigger one is answered 413. Resources are text that people write.
pub const MAX_BODY: usize = 1 << 20;
/// Most items of one list page.
pub const MAX_PAGE: usize = 500;

/// Liveness; no credentials.
pub const HEALTHZ: &str = "/healthz";
/// Readiness; no credentials.
pub const READYZ: &str = "/readyz";
/// Prometheus exposition; no credentials.
pub const METRICS: &str = "/metrics";
/// The OpenAPI document; no credentials.
pub const OPENAPI: &str = "/openapi.json";
/// All resources of a kind.
pub const LIST_ALL: &str = "/api/v1/resources/{plural}";
/// The resources of a kind in a namespace.
pub const LIST: &str = "/api/v1/namespaces/{namespace}/{plural}";
/// One resource.
pub const RESOURCE: &str = "/api/v1/namespaces/{namespace}/{plural}/{name}";
/// Changes of a kind, newline-delimited JSON.
pub const WATCH: &str = "/api/v1/watch/{plural}";
/// Applies YAML or JSON documents.
pub const APPLY: &str = "/api/v1/apply";
/// Deletes what YAML or JSON documents name.
pub const DELETE: &str = "/api/v1/delete";
/// Join tokens.
pub const TOKENS: &str = "/api/v1/tokens";
/// One join token.
pub const TOKEN: &str = "/api/v1/tokens/{id}";
/// The mesh at a glance.
pub const OVERVIEW: &str = "/api/v1/overview";
/// Registered workloads.
pub const MEMBERS: &str = "/api/v1/members";
/// Endpoints of services.
pub const ENDPOINTS: &str = "/api/v1/endpoints";
/// The revocation list.
pub const REVOCATIONS: &str = "/api/v1/revocations";
/// One entry of the revocation list.
pub const REVOCATION: &str = "/api/v1/revocations/{id}";
/// The certificate authority.
pub const CA: &str = "/api/v1/ca";
/// Starts a root rotation.
pub const CA_ROTATE: &str = "/api/v1/ca/rotate";
/// The end of the audit log.
pub const AUDIT: &str = "/api/v1/audit";

/// One operation, for the OpenAPI document and the test that every documented route is served.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Upper case.
    pub method: &'static str,
    /// With `{parameters}`.
    pub path: &'static str,
    /// Unique name.
    pub operation: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Query parameters: name and meaning.
    pub query: &'static [(&'static str, &'static str)],
    /// Name of the request's schema, `text` for YAML or JSON documents, `resource`, or empty.
    pub request: &'static str,
    /// Name of the answer's schema, `text`, `resource`, `lines:NAME` for newline-delimited JSON.
    pub response: &'static str,
    /// Whether it needs the admin token.
    pub authenticated: bool,
}

const LIST_QUERY: &[(&str, &str)] =
    &[("limit", "at most this many items, up to 500"), ("continue", "the `continue` of the page before")];
const APPLY_QUERY: &[(&str, &str)] = &[
    ("dryRun", "`true`: validate and say what would happen, change nothing"),
    ("namespace", "the namespace of documents that name none"),
];

const fn route(
    method: &'static str,
    path: &'static str,
    operation: &'static str,
    request: &'static str,
    response: &'static str,
    summary: &'static str,
) -> Route {
    Route { method, path, operation, summary, query: &[], request, response, authenticated: true }
}

const fn open(path: &'static str, operation: &'static str, response: &'static str, summary: &'static str) -> Route {
    Route { authenticated: false, ..route("GET", path, operation, "", response, summary) }
}

const fn with_query(route: Route, query: &'static [(&'static str, &'static str)]) -> Route {
    Route { query, ..route }
}

/// Every operation.
pub const ROUTES: &[Route] = &[
    open(HEALTHZ, "health", "text", "Whether the process runs."),
    open(READYZ, "ready", "text", "Whether it serves; 503 with the reasons otherwise."),
    open(METRICS, "metrics", "text", "Metrics in the Prometheus text format."),
    open(OPENAPI, "openapi", "text", "This document."),
    with_query(route("GET", LIST_ALL, "listAll", "", "ResourceList", "All resources of a kind."), LIST_QUERY),
    with_query(route("GET", LIST, "list", "", "ResourceList", "The resources of a kind in a namespace."), LIST_QUERY),
    route("GET", RESOURCE, "get", "", "resource", "One resource."),
    with_query(
        route("PUT", RESOURCE, "put", "text", "ApplyResponse", "Creates or replaces one resource."),
        &[("dryRun", "`true`: change nothing")],
    ),
    with_query(
        route("DELETE", RESOURCE, "delete", "", "ApplyResult", "Deletes one resource."),
        &[("version", "only if it has this resourceVersion")],
    ),
    with_query(
        route(
            "GET",
            WATCH,
            "watch",
            "",
            "lines:WatchEvent",
            "Changes of a kind from a cursor on; ends with `compacted` when it must be listed again.",
        ),
        &[
            ("cursor", "from a list or an earlier event; without it the present state comes first"),
            ("namespace", "only this namespace"),
        ],
    ),
    with_query(
        route("POST", APPLY, "apply", "text", "ApplyResponse", "Applies YAML or JSON documents, each on its own."),
        APPLY_QUERY,
    ),
    with_query(
        route("POST", DELETE, "deleteDocuments", "text", "ApplyResponse", "Deletes what the documents name."),
        APPLY_QUERY,
    ),
    route("GET", TOKENS, "listTokens", "", "list:TokenInfo", "Join tokens, without their secrets."),
    route("POST", TOKENS, "createToken", "TokenRequest", "TokenResponse", "Creates a join token; it is shown once."),
    route("DELETE", TOKEN, "deleteToken", "", "", "Makes a token unusable; what it was redeemed for stays."),
    route("GET", OVERVIEW, "overview", "", "Overview", "The mesh at a glance."),
    with_query(
        route("GET", MEMBERS, "members", "", "list:Member", "Registered workloads."),
        &[("namespace", "only this namespace")],
    ),
    with_query(
        route("GET", ENDPOINTS, "endpoints", "", "list:Endpoint", "Endpoints of services."),
        &[("namespace", "only this namespace"), ("service", "only this service")],
    ),
    route("GET", REVOCATIONS, "listRevocations", "", "list:Revocation", "Revoked identities and serials."),
    route(
        "POST",
        REVOCATIONS,
        "revoke",
        "RevocationRequest",
        "Revocation",
        "Revokes an identity or a serial; its live hops close.",
    ),
    route("DELETE", REVOCATION, "unrevoke", "", "", "Takes a revocation back; a revoked identity needs a new token."),
    route("GET", CA, "ca", "", "CaStatus", "Roots, the issuing certificate and the state of a rotation."),
    route("POST", CA_ROTATE, "rotateRoot", "", "CaStatus", "Starts a root rotation."),
    with_query(
        route("GET", AUDIT, "audit", "", "list:AuditEntry", "The newest audit entries, oldest first."),
        &[("limit", "at most this many, up to 1000; 100 without")],
    ),
];

/// Fills the `{parameters}` of a path, percent-encoding each.
#[must_use]
pub fn fill(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut filled = path.to_owned();
    for (name, value) in parameters {
        filled = filled.replace(&format!("{{{name}}}"), &encode(value));
    }
    filled
}

/// Percent-encodes all but RFC 3986 unreserved characters.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Appends query parameters that have a value.
#[must_use]
pub fn with_parameters(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut text = path.to_owned();
    let given = parameters.iter().filter_map(|(n, v)| v.map(|v| (n, v)));
    for (position, (name, value)) in given.enumerate() {
        text.push(if position == 0 { '?' } else { '&' });
        text.push_str(&format!("{name}={}", encode(value)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_filled_and_encoded() {
        let path = fill(RESOURCE, &[("namespace", "shop"), ("plural", "services"), ("name", "a/b?c")]);
        assert_eq!(path, "/api/v1/namespaces/shop/services/a%2Fb%3Fc");
        assert_eq!(with_parameters("/x", &[("a", None), ("b", Some("1 2")), ("c", Some("ä"))]), "/x?b=1%202&c=%C3%A4");
    }

    #[test]
    fn operations_are_unique() {
        let mut names: Vec<_> = ROUTES.iter().map(|r| r.operation).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ROUTES.len());
    }
}
