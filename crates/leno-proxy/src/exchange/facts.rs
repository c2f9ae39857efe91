//! What is known of an exchange.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use leno_model::{AppProtocol, NamespacedName, Reason, SpiffeId};
use leno_telemetry::metrics::Direction;
use leno_telemetry::trace::RequestId;

/// What is known of an exchange; stages fill it in, the record is made of it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Which way.
    pub direction: Direction,
    /// The service that was called, once known.
    pub service: Option<NamespacedName>,
    /// Its port.
    pub port: u16,
    /// The route's rule.
    pub route: Option<Arc<str>>,
    /// The service that the rule chose, if it is another than the one called.
    pub backend: Option<NamespacedName>,
    /// The caller's identity.
    pub source: Option<SpiffeId>,
    /// The identity that the peer proved.
    pub destination: Option<SpiffeId>,
    /// What is spoken.
    pub protocol: AppProtocol,
    /// Where it was sent.
    pub upstream: Option<SocketAddr>,
    /// The instance that it was sent to.
    pub endpoint: Option<Arc<str>>,
    /// For the access log.
    pub method: Bytes,
    /// For the access log.
    pub authority: Bytes,
    /// For the access log.
    pub target: Bytes,
    /// The HTTP status of the answer; 0 without one.
    pub status: u16,
    /// The gRPC status of the answer.
    pub grpc_status: Option<u8>,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// What exactly failed.
    pub detail: Cow<'static, str>,
    /// The access policy that decided.
    pub policy: Option<Arc<str>>,
    /// From sending to the answer's head, of the last attempt, in nanoseconds.
    pub answered_after: Option<u64>,
    /// Attempts made.
    pub attempts: u32,
    /// Its id, which is its trace's.
    pub request_id: RequestId,
    /// Bytes of the answer's body.
    pub sent: u64,
}

impl Facts {
    /// Nothing is known.
    pub(super) fn empty() -> Self {
        Self {
            direction: Direction::Outbound,
            service: None,
            port: 0,
            route: None,
            backend: None,
            source: None,
            destination: None,
            protocol: AppProtocol::Http,
            upstream: None,
            endpoint: None,
            method: Bytes::new(),
            authority: Bytes::new(),
            target: Bytes::new(),
            status: 0,
            grpc_status: None,
            reason: None,
            detail: Cow::Borrowed(""),
            policy: None,
            answered_after: None,
            attempts: 0,
            request_id: RequestId([0; 16]),
            sent: 0,
        }
    }

    /// Forgets what stages have filled in. Done for every exchange, so it is written where it stays.
    pub(super) fn clear(&mut self) {
        (self.service, self.route, self.backend) = (None, None, None);
        (self.source, self.destination, self.endpoint) = (None, None, None);
        (self.method, self.authority, self.target) = (Bytes::new(), Bytes::new(), Bytes::new());
        (self.port, self.upstream, self.attempts, self.sent) = (0, None, 0, 0);
        (self.status, self.grpc_status, self.answered_after) = (0, None, None);
        (self.reason, self.detail, self.policy) = (None, Cow::Borrowed(""), None);
    }
}
