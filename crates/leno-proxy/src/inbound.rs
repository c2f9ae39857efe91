//! From the mesh to the application: the order of the stages of a stream.
//!
//! ```text
//!   peer's proxy ─▶ TLS: identity ─▶ service owned? ─▶ app exposed? ─▶ path ─▶ access ─▶ limits ─▶ app ─▶ record
//! ```
//!
//! Nothing reaches the application before the access decision has been made, and what was decided once is decided again for
//! everything under way when the policy changes.

pub mod connection;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use leno_http::hop::{Peer, StreamKind, StreamMeta};
use leno_http::{Method, Refusal, Request, Response, Sending, hygiene};
use leno_model::{AppProtocol, NamespacedName, Reason};
use leno_plan::{InboundPlan, InboundPort};
use tokio::time::{Instant, Sleep};

use crate::exchange::{Exchange, Hold, InboundSubject};
use crate::handling::{Handling, Work};
use crate::look::{self, Look};
use crate::snapshot::Snapshot;
use crate::worker::Worker;
use leno_telemetry::metrics::Direction;

/// Tells the application who calls: the SPIFFE ID that the peer's certificate proves. Whatever a caller sends under this name is
/// replaced (docs/reference/headers.md).
pub const SOURCE_IDENTITY: &str = "leno-source-identity";

/// One stream of a hop, from its head to its record. Dropping it means that the origination has reset the stream.
pub fn handle(worker: &Rc<Worker>, peer: Rc<Peer>, meta: &StreamMeta, mut request: Request) -> Handling<Answer> {
    let (namespace, name) = meta.service_parts();
    let Ok(service) = worker.service_name(namespace, name) else {
        return Handling::refused(Refusal::new(Reason::MalformedRequest, "the stream names no service"));
    };
    let mut exchange = match meta.kind {
        StreamKind::Http => Exchange::http(worker, Direction::Inbound, &mut request.head),
        StreamKind::Tcp => Exchange::tcp(worker, Direction::Inbound),
    };
    exchange.live.subject.inbound.get_or_init(|| InboundSubject {
        service: service.clone(),
        port: meta.port,
        peer: Rc::clone(&peer),
        head: (meta.kind == StreamKind::Http).then(|| request.head.clone()),
    });
    exchange.facts.port = meta.port;
    exchange.facts.source = Some(peer.identity.spiffe.clone());
    exchange.facts.destination = worker.identity();
    exchange.facts.attempts = meta.attempt.saturating_add(1);
    match stages(worker, &peer, meta, service, &mut exchange, request) {
        Ok(answer) => Handling::under_way(exchange, answer),
        Err(refusal) => Handling::decided(exchange, Err(refusal)),
    }
}

/// The stages, in the only order that is right.
fn stages(
    worker: &Rc<Worker>,
    peer: &Peer,
    meta: &StreamMeta,
    service: NamespacedName,
    exchange: &mut Exchange,
    mut request: Request,
) -> Result<Answer, Refusal> {
    // First: what is not ours must not be answered for, whoever asks (D5).
    let snapshot = worker.snapshot();
    let (plan, port) = owned(&snapshot, &service, meta)?;
    // Only now: a peer that invents names must not make a label of each.
    exchange.facts.service = Some(service);
    // The way past the mesh must be closed before the way through it is worth anything.
    if worker.process.is_exposed() && !worker.settings.allow_exposed {
        return Err(Refusal::new(Reason::ExposedApp, "the application listens off loopback"));
    }
    // Before access: the path that is decided on is the path that is sent.
    if meta.kind == StreamKind::Http {
        look::normalise_path(&mut request.head, port.access.matches_paths())?;
    }
    decide(peer, meta, exchange, port, &request)?;
    let shared = worker.served(plan, meta.port);
    let (counter, most) = match meta.kind {
        StreamKind::Http => (&shared.requests, port.limits.max_requests),
        StreamKind::Tcp => (&shared.connections, port.limits.max_connections),
    };
    let permit = counter
        .try_acquire(most)
        .ok_or_else(|| Refusal::new(Reason::Overloaded, "the limit of the destination is reached"))?;
    exchange.hold(Hold::Permit(permit));
    exchange.limit(meta.deadline_ms.map(|ms| Instant::now() + Duration::from_millis(ms)));
    let app = worker.app_address(meta.port, port.app_port);
    // An upstream that points at a proxy's own port would go round for ever (BAD_INPUTS 21).
    if worker.process.own_addresses.iter().any(|own| own.port() == app.port() && own.ip() == app.ip()) {
        return Err(Refusal::new(Reason::LoopDetected, "the application's port is a port of this proxy"));
    }
    exchange.facts.upstream = Some(app);
    exchange.set_active();
    exchange.set_idle(&port.timeouts);
    let kind = meta.kind;
    let sending = match kind {
        StreamKind::Tcp => {
            let body = exchange.count_request(request.body);
            let (worker, limit) = (Rc::clone(worker), port.timeouts.connect);
            Sending::boxed(async move { worker.plain.tcp(app, limit, body).await })
        }
        StreamKind::Http => to_app(worker, peer, meta, exchange, port, request, app),
    };
    // Streams have no deadline, once they are open, and to open one has its own.
    let until = exchange.deadline.filter(|_| kind == StreamKind::Http);
    Ok(Answer {
        worker: Rc::clone(worker),
        sending,
        timer: until.map(|at| Box::pin(tokio::time::sleep_until(at))),
        app_port: port.app_port,
        kind,
    })
}

/// The plan of the port that the stream names, if this workload serves it.
fn owned<'s>(
    snapshot: &'s Snapshot,
    service: &NamespacedName,
    meta: &StreamMeta,
) -> Result<(&'s Arc<InboundPlan>, &'s InboundPort), Refusal> {
    let not_owned = || {
        let detail = format!("this workload does not serve port {} of {service}", meta.port);
        Refusal::new(Reason::ServiceNotOwned, detail)
    };
    let plan = snapshot.inbound.get(service).ok_or_else(not_owned)?;
    let port = plan.ports.get(&meta.port).ok_or_else(not_owned)?;
    Ok((plan, port))
}

/// Deny, then allow, then the default (D15). A stream of bytes may not enter a port that is declared HTTP: the application would
/// read requests in it that nobody has judged, with whatever identity their sender claims.
fn decide(
    peer: &Peer,
    meta: &StreamMeta,
    exchange: &mut Exchange,
    port: &InboundPort,
    request: &Request,
) -> Result<(), Refusal> {
    match (meta.kind, port.protocol) {
        (StreamKind::Http, Some(AppProtocol::Tcp)) => {
            return Err(Refusal::new(Reason::MalformedRequest, "the port is declared tcp"));
        }
        // Whether it is a tunnel or not would be the application's to say, and nobody would judge what is inside. An origination opens
        // tunnels as streams of bytes.
        (StreamKind::Http, _) if request.head.method == Method::Connect => {
            return Err(Refusal::new(Reason::MalformedRequest, "the port takes requests, not tunnels"));
        }
        (StreamKind::Tcp, Some(AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc)) => {
            return Err(Refusal::new(Reason::MalformedRequest, "the port takes requests, not a stream of bytes"));
        }
        _ => {}
    }
    let look = Look(&request.head.fields);
    let view = (meta.kind == StreamKind::Http).then(|| look::view(&request.head, &look));
    let decision = port.access.decide(Some(&peer.identity.spiffe), meta.port, view.as_ref());
    if decision.allowed {
        return Ok(());
    }
    // The policy's name is for the destination's log, not for the caller.
    exchange.facts.policy = Some(decision.policy.into());
    Err(Refusal::new(Reason::DeniedByPolicy, ""))
}

/// Sends a request to the application.
fn to_app(
    worker: &Worker,
    peer: &Peer,
    meta: &StreamMeta,
    exchange: &Exchange,
    port: &InboundPort,
    mut request: Request,
    app: SocketAddr,
) -> Sending {
    // A peer's proxy has done so too, but a peer is only as honest as its host.
    hygiene::strip_internal(&mut request.head.fields);
    request.head.fields.append(SOURCE_IDENTITY, peer.identity.spiffe.as_str().as_bytes());
    request.body = exchange.count_request(request.body);
    let protocol = port.protocol.unwrap_or(meta.protocol);
    worker.plain.send(app, protocol, request, port.timeouts.connect)
}

/// The application's answer, awaited.
pub struct Answer {
    worker: Rc<Worker>,
    sending: Sending,
    timer: Option<Pin<Box<Sleep>>>,
    app_port: u16,
    kind: StreamKind,
}

impl Work for Answer {
    fn poll(&mut self, exchange: &mut Exchange, cx: &mut Context<'_>) -> Poll<Result<Response, Refusal>> {
        let answered = match Pin::new(&mut self.sending).poll(cx) {
            Poll::Ready(answered) => answered,
            Poll::Pending => {
                let is_late = self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
                if !is_late {
                    return Poll::Pending;
                }
                let detail = "the deadline that the caller's proxy set has passed";
                return Poll::Ready(Err(in_flight(Reason::RequestTimeout, detail)));
            }
        };
        let mut response = answered.inspect_err(|error| self.worker.app_failed(self.app_port, error))?;
        if self.kind == StreamKind::Http {
            exchange.facts.answered_after = Some(self.worker.now().saturating_sub(exchange.started));
            // An application must not speak with the proxy's voice.
            hygiene::strip_internal(&mut response.head.fields);
        }
        Poll::Ready(Ok(response))
    }
}

fn in_flight(reason: Reason, detail: &'static str) -> Refusal {
    Refusal { unprocessed: false, ..Refusal::new(reason, detail) }
}

/// A new snapshot: what it denies of what is under way is ended (D15), and so is what comes from revoked identities.
pub fn judge_again(worker: &Worker, next: &Snapshot) {
    worker.live.judge(|subject| {
        let inbound = subject.inbound.get()?;
        let revoked = next.tls.as_ref().and_then(|tls| tls.recheck(&inbound.peer.identity).err());
        if revoked.is_some_and(|e| e.reason == Reason::CertificateRevoked) {
            return Some(Reason::CertificateRevoked);
        }
        // A service that has gone from the snapshot takes nothing new, but what is under way may finish.
        let port = next.inbound.get(&inbound.service)?.ports.get(&inbound.port)?;
        (!still_allowed(port, inbound)).then_some(Reason::DeniedByPolicy)
    });
}

fn still_allowed(port: &InboundPort, subject: &InboundSubject) -> bool {
    let caller = Some(&subject.peer.identity.spiffe);
    let Some(head) = &subject.head else { return port.access.decide(caller, subject.port, None).allowed };
    let mut head = head.clone();
    // A path that has no normal form cannot be judged by a path rule: closed.
    if look::normalise_path(&mut head, port.access.matches_paths()).is_err() {
        return false;
    }
    let look = Look(&head.fields);
    port.access.decide(caller, subject.port, Some(&look::view(&head, &look))).allowed
}
