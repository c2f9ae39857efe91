//! What is told of an exchange when it is over: metrics at this end, and a line of the access log.
//!
//! Nothing here formats or allocates for metrics beyond the first exchange of an edge; the access record is filled only if
//! somebody wants it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use leno_http::{Refusal, ServerEvents};
use leno_model::{NamespacedName, Reason};
use leno_plan::RequestView;
use leno_telemetry::metrics::{
    Accepted, ActiveRequest, Direction, Edge, EdgeMemo, EdgeMetrics, EdgeRef, Listener, Metrics, OpenConnection,
    Outcome, WorkerMetrics,
};
use leno_telemetry::{AccessRecord, LogSender};

use crate::exchange::Facts;
use crate::live::Class;

/// What the whole process records to.
pub struct Telemetry {
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// The access log.
    pub log: LogSender,
}

/// An exchange under way on an edge, counted until dropped.
pub struct Active {
    #[expect(dead_code, reason = "held for what dropping it does")]
    counted: Counted,
    cells: Rc<EdgeMetrics>,
}

#[expect(dead_code, reason = "held for what dropping it does")]
enum Counted {
    /// Among the active requests.
    Request(ActiveRequest),
    /// Among the open TCP and upgraded streams.
    Stream(OpenConnection),
}

/// One worker's end.
pub struct Recording {
    metrics: WorkerMetrics,
    process: Arc<Metrics>,
    log: LogSender,
    /// The edges used last, outbound and inbound.
    recent: [EdgeMemo; 2],
}

impl Recording {
    /// On the worker's thread.
    #[must_use]
    pub fn new(telemetry: &Telemetry) -> Self {
        Self {
            metrics: telemetry.metrics.worker(),
            process: Arc::clone(&telemetry.metrics),
            log: telemetry.log.clone(),
            recent: Default::default(),
        }
    }

    /// Whether anybody wants access records.
    #[must_use]
    pub fn is_logging(&self) -> bool {
        self.log.enabled()
    }

    /// An exchange has ended after `nanos`; `ended_at` is asked for the wall clock only if somebody wants to know.
    pub fn exchange(
        &self,
        facts: &Facts,
        active: Option<&Active>,
        nanos: u64,
        received: u64,
        ended_at: impl FnOnce() -> Duration,
    ) {
        let found;
        let cells = match active {
            Some(active) => &active.cells,
            None => {
                found = self.cells(facts);
                &found
            }
        };
        let status = (facts.status != 0).then_some(facts.status);
        cells.finished(Outcome::new(status, facts.grpc_status, facts.reason), nanos);
        cells.bytes_in(received);
        cells.bytes_out(facts.sent);
        (1..facts.attempts).filter(|_| facts.direction == Direction::Outbound).for_each(|_| cells.retry());
        if self.log.enabled() {
            let began = ended_at().saturating_sub(Duration::from_nanos(nanos));
            let began = u64::try_from(began.as_nanos()).unwrap_or(u64::MAX);
            self.log.send(record(facts, nanos, received, began));
        }
    }

    /// An exchange is under way on this edge; counted until dropped.
    #[must_use]
    pub fn active(&self, facts: &Facts, class: Class) -> Active {
        let cells = self.cells(facts);
        let counted = match class {
            Class::Request => Counted::Request(cells.begin()),
            Class::Stream => Counted::Stream(cells.connection()),
        };
        Active { counted, cells }
    }

    fn cells(&self, facts: &Facts) -> Rc<EdgeMetrics> {
        let edge = EdgeRef {
            direction: facts.direction,
            source: facts.source.as_ref(),
            service: facts.service.as_ref(),
            destination: facts.destination.as_ref(),
            route: facts.route.as_ref(),
            protocol: Some(facts.protocol),
        };
        self.recent[usize::from(facts.direction == Direction::Inbound)].get(&self.metrics, edge)
    }

    /// A connection was accepted; counted as open until the guard is dropped.
    #[must_use]
    pub fn accepted(&self, listener: Listener) -> Accepted {
        self.metrics.accepted(listener)
    }

    /// A connection was refused before it became an exchange.
    pub fn refused(&self, direction: Direction, reason: Reason) {
        self.metrics.edge(&Edge::unknown(direction)).finished(Outcome::new(None, None, Some(reason)), 0);
    }

    /// A TLS handshake of a hop ended, with this key exchange group or for this reason.
    pub fn handshake(&self, direction: Direction, result: Result<&str, Reason>) {
        // Labels come from this list, never from a peer.
        const GROUPS: [&str; 3] = ["X25519MLKEM768", "X25519", "secp256r1"];
        let group = result.ok().and_then(|name| GROUPS.iter().find(|g| g.eq_ignore_ascii_case(name)));
        self.process.handshake(direction, group.copied().unwrap_or_default(), result.map(|_| ()));
    }

    /// An endpoint was ejected, or spared because too many are already.
    pub fn ejection(&self, service: &NamespacedName, spared: bool) {
        self.process.ejection(service, spared);
    }

    /// Hears what never reaches a handler of the outbound servers.
    #[must_use]
    pub fn events(telemetry: &Telemetry) -> Rc<dyn ServerEvents> {
        Rc::new(Events(Self::new(telemetry)))
    }
}

struct Events(Recording);

impl ServerEvents for Events {
    fn refused(&self, refusal: &Refusal) {
        self.0.refused(Direction::Outbound, refusal.reason);
    }

    // The exchange that is cut records itself when it is dropped.
    fn cut(&self, _: Reason) {}
}

fn record(facts: &Facts, nanos: u64, received: u64, began: u64) -> AccessRecord {
    let has_head = !facts.method.is_empty();
    let (path, _) = RequestView::split_target(&facts.target);
    AccessRecord {
        source: facts.source.clone(),
        destination: facts.destination.clone(),
        service: facts.service.clone(),
        route: facts.route.clone(),
        protocol: Some(facts.protocol),
        method: has_head.then(|| facts.method.clone()),
        authority: has_head.then(|| facts.authority.clone()),
        path: has_head.then(|| facts.target.slice(..path.len())),
        status: (facts.status != 0).then_some(facts.status),
        grpc_status: facts.grpc_status,
        reason: facts.reason,
        duration: nanos,
        upstream: facts.answered_after,
        connect: None,
        bytes_in: received,
        bytes_out: facts.sent,
        attempts: facts.attempts,
        endpoint: facts.upstream,
        policy: facts.policy.clone(),
        detail: (!facts.detail.is_empty()).then(|| facts.detail.as_ref().into()),
        ..AccessRecord::new(began, facts.request_id, facts.direction)
    }
}
