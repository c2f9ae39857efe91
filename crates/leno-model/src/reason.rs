//! The closed set of reasons that explains every refusal and failure (DESIGN section 8).
//!
//! One table: logs, metric labels, the `leno-reason` header, exit messages and the reference page are all made from it.

use std::fmt;

/// Whose fault a failure is; the first thing an operator wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The caller.
    Downstream,
    /// The destination.
    Upstream,
    /// This proxy or its configuration.
    Local,
    /// The control plane.
    ControlPlane,
}

impl Fault {
    /// The word in logs and docs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
            Self::Local => "local",
            Self::ControlPlane => "control_plane",
        }
    }
}

macro_rules! reasons {
    ($($variant:ident $text:literal $fault:ident $retry:literal $flag:literal $http:literal $grpc:literal $summary:literal $next:literal;)*) => {
        /// Why a request, connection or registration was refused or failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason { $(#[doc = $summary] $variant,)* }

        impl Reason {
            /// Every reason, in the order of the reference page.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The word in logs, metrics and the `leno-reason` header.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
            /// Whose fault it is.
            #[must_use]
            pub fn fault(self) -> Fault { match self { $(Self::$variant => Fault::$fault,)* } }
            /// Whether the request cannot have been processed, so that sending it again is safe.
            #[must_use]
            pub fn retry_safe(self) -> bool { match self { $(Self::$variant => $retry,)* } }
            /// Envoy's response flag that comes nearest (`%RESPONSE_FLAGS%`).
            #[must_use]
            pub fn envoy_flag(self) -> &'static str { match self { $(Self::$variant => $flag,)* } }
            /// The HTTP status that a proxy answers with.
            #[must_use]
            pub fn http_status(self) -> u16 { match self { $(Self::$variant => $http,)* } }
            /// The gRPC status that a proxy answers with (gRPC `statuscodes.md`).
            #[must_use]
            pub fn grpc_status(self) -> u8 { match self { $(Self::$variant => $grpc,)* } }
            /// One sentence for people.
            #[must_use]
            pub fn summary(self) -> &'static str { match self { $(Self::$variant => $summary,)* } }
            /// What to look at next.
            #[must_use]
            pub fn next_step(self) -> &'static str { match self { $(Self::$variant => $next,)* } }
        }
    };
}

// variant, word, fault, retry safe, Envoy flag, HTTP status, gRPC status, summary, next step
reasons! {
    NoRoute "no_route" Local true "NR" 404 12 "No rule of the routes attached to this service matches the request." "leno describe service NAME: compare the request with the rules.";
    NoHealthyEndpoint "no_healthy_endpoint" Upstream true "UH" 503 14 "The destination has no endpoint that may be used." "leno get endpoints: is an instance registered and ready?";
    UnknownDestination "unknown_destination" Downstream true "NC" 404 14 "The name is in the mesh, but no such service exists." "leno get services: check the name and its namespace.";
    ConnectTimeout "connect_timeout" Upstream true "UF" 503 14 "The endpoint did not answer the connection attempt in time." "Check the host and its firewall.";
    ConnectRefused "connect_refused" Upstream true "UF" 503 14 "The endpoint refused the connection." "Is the application listening on the registered port?";
    UpstreamReset "upstream_reset" Upstream false "UC" 502 14 "The upstream ended the connection before its answer was complete." "Look at the application's own log at this time.";
    UpstreamProtocolError "upstream_protocol_error" Upstream false "UPE" 502 13 "The upstream's answer is not valid for its protocol." "Check the protocol declared for the port.";
    UpstreamTlsFailed "upstream_tls_failed" Upstream true "UF" 503 14 "The TLS handshake with the upstream failed." "leno status: do both sides trust the same root?";
    RefusedStream "refused_stream" Upstream true "UR" 503 14 "The upstream refused the stream before it was processed." "It is draining or at its stream limit; retries go elsewhere.";
    PeerIdentityMismatch "peer_identity_mismatch" Upstream true "UF" 503 14 "The peer's identity is not one the service authorises." "leno describe service NAME lists the authorised identities.";
    PeerUntrusted "peer_untrusted" Upstream true "UF" 503 14 "The peer's certificate does not chain to a root of its trust domain." "leno status: compare the trust bundles of both sides.";
    CertificateInvalid "certificate_invalid" Upstream true "UF" 503 14 "The peer's certificate breaks a rule of SPIFFE X.509 identities." "See docs/reference/reasons.md; issue it from the mesh's CA.";
    CertificateExpired "certificate_expired" Upstream true "UF" 503 14 "A certificate is past its end of validity." "leno status: why was it not renewed?";
    CertificateRevoked "certificate_revoked" Upstream true "UF" 503 14 "The peer's identity or serial number is on the revocation list." "leno get revocations; join again with a new token.";
    ClockSkew "clock_skew" Local true "UF" 503 14 "A certificate is not valid yet: the clocks of two hosts differ." "Synchronise the clocks of both hosts.";
    DeniedByPolicy "denied_by_policy" Downstream false "UAEX" 403 7 "An access policy of the destination denies this caller." "leno get accesspolicies; leno describe accesspolicy NAME.";
    PlaintextRefused "plaintext_refused" Downstream true "NR" 400 14 "Plaintext was sent to a port that takes mesh traffic only." "Call the service through a member's proxy.";
    NotMember "not_member" Downstream true "NR" 403 7 "The caller is not allowed to use this port: it runs as another user." "Run the caller under leno run, or as the same user.";
    ServiceNotOwned "service_not_owned" Upstream true "NR" 503 14 "The peer does not serve the service that was asked for." "leno get endpoints: a registration may be stale.";
    RateLimited "rate_limited" Downstream true "RL" 429 8 "A rate limit refuses the request." "Call less often, or raise the limit.";
    Overloaded "overloaded" Local true "UO" 503 8 "A limit on requests or connections is reached." "Raise the limit in the TrafficPolicy or add instances.";
    RequestTimeout "request_timeout" Upstream false "UT" 504 4 "No complete answer within the request's timeout." "Look at the upstream's latency; adjust the route's timeout.";
    HeadTimeout "head_timeout" Downstream true "DT" 408 4 "The request head did not arrive in time." "The client sends too slowly or not at all.";
    IdleTimeout "idle_timeout" Local false "SI" 504 4 "Neither side sent anything for the idle timeout." "Raise timeouts.idle in the TrafficPolicy.";
    MalformedRequest "malformed_request" Downstream true "DPE" 400 13 "The request breaks the rules of its protocol or is ambiguous." "The detail in the access log names the rule.";
    HeadTooLarge "head_too_large" Downstream true "DPE" 431 8 "The request head is over a limit on size or count." "Send fewer or smaller headers.";
    BodyTooLarge "body_too_large" Downstream true "DPE" 413 8 "The request body is over a limit." "Send a smaller body.";
    RetryBudgetExhausted "retry_budget_exhausted" Local true "URX" 503 14 "Too many requests are being retried already." "The destination is failing widely; look at its health.";
    RetryLimitExceeded "retry_limit_exceeded" Upstream true "URX" 503 14 "Every permitted attempt failed." "The last attempt's reason is in the detail.";
    DownstreamReset "downstream_reset" Downstream false "DC" 499 1 "The caller went away before the answer was complete." "Is the caller's timeout shorter than the answer takes?";
    EgressDenied "egress_denied" Local true "NR" 502 7 "The destination is not in the mesh and egress is denied." "Add an ExternalService, or MeshConfig egress: allow.";
    ForeignApp "foreign_app" Local true "NR" 503 14 "Another user's program listens on the application's port." "Start the application under leno run, or name its user with --local-user.";
    ExposedApp "exposed_app" Local true "NR" 503 14 "The application listens off loopback, where callers bypass the mesh." "Bind it to 127.0.0.1, or pass --allow-exposed.";
    ControlPlaneUnreachable "control_plane_unreachable" ControlPlane true "NC" 503 14 "The destination is not known yet and the control plane does not answer." "leno status; is the control plane running?";
    ConfigurationRejected "configuration_rejected" ControlPlane true "NC" 500 14 "The destination's configuration, or the backend that its route chose, cannot be used; it is closed until mended." "leno describe: see the conditions.";
    UnauthorisedMember "unauthorised_member" Downstream true "NC" 403 7 "The member's credential does not permit what it asked for." "leno token create for the right service and namespace.";
    TokenInvalid "token_invalid" Downstream true "NC" 401 16 "The join token is unknown, expired, used up or not for this control plane." "leno token create.";
    LoopDetected "loop_detected" Downstream true "NR" 508 9 "The request came back to a proxy's own port." "Check the upstream's address.";
    Draining "draining" Local true "UR" 503 14 "The proxy is shutting down and takes no new work." "Retries go to other instances.";
}

impl Reason {
    /// The position in [`Reason::ALL`], for arrays of counters.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// Finds a reason by its word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|r| r.as_str() == word)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_found_again() {
        for (position, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), position);
            assert_eq!(Reason::from_word(reason.as_str()), Some(*reason));
            assert!((400..=599).contains(&reason.http_status()) && (1..=16).contains(&reason.grpc_status()));
        }
    }
}
