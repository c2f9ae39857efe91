//! TCP into the mesh: a connection becomes one stream of a hop. The stream is opened at once, so that a server that speaks first
//! is heard first.

use std::rc::Rc;
use std::sync::Arc;

use leno_http::hop::{StreamKind, StreamMeta};
use leno_http::{Body, Refusal, Request, Response, StreamError};
use leno_model::{AppProtocol, Reason};
use leno_plan::ejection::Outcome;
use leno_plan::resilience::{Attempt, Replay as Repeatable};
use leno_plan::{BackendTarget, DestinationPlan};
use smallvec::SmallVec;
use tokio::net::TcpStream;

use super::attempts::health_of;
use super::ports::{OutboundPort, Outstanding, Way};
use super::{Call, LocalCaller};
use crate::exchange::{Exchange, Hold};
use crate::live::Class;
use crate::plain::stream_head;
use crate::worker::Worker;
use leno_telemetry::metrics::Direction;

/// One connection of a local caller to a port that is declared tcp. Returns when both directions have ended.
pub async fn connection(
    worker: Rc<Worker>,
    caller: Rc<LocalCaller>,
    called: Arc<DestinationPlan>,
    port: u16,
    io: TcpStream,
) {
    let settings = Rc::clone(&worker.server_settings);
    let handler = |request: Request| handle(worker, caller, called, port, request);
    leno_http::tcp::serve(io, &settings, stream_head(), handler).await;
}

/// The connection as one exchange.
async fn handle(
    worker: Rc<Worker>,
    caller: Rc<LocalCaller>,
    called: Arc<DestinationPlan>,
    port: u16,
    request: Request,
) -> Result<Response, Refusal> {
    let mut exchange = Exchange::tcp(&worker, Direction::Outbound);
    exchange.facts.source = worker.identity();
    exchange.facts.service = Some(called.service.clone());
    exchange.facts.port = port;
    let opened = match caller.admit() {
        Ok(()) => exchange.run(async |exchange| open(&worker, exchange, &called, port, request.body).await).await,
        Err(refusal) => Err(refusal),
    };
    exchange.conclude(opened)
}

/// A CONNECT through the forward-proxy port: the answer's body is the stream.
pub async fn tunnel(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    called: &Arc<DestinationPlan>,
    port: u16,
    request: Request,
) -> Result<Response, Refusal> {
    exchange.live.set_class(Class::Stream);
    open(worker, exchange, called, port, request.body).await
}

/// Opens a stream to an endpoint; on refusal to another.
async fn open(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    called: &Arc<DestinationPlan>,
    port: u16,
    body: Body,
) -> Result<Response, Refusal> {
    let call = resolve(worker, exchange, called, port).await?;
    let shared = call.state.shared();
    let permit = shared
        .connections
        .try_acquire(call.backend.policy.limits.max_connections)
        .ok_or_else(|| Refusal::new(Reason::Overloaded, "the limit on connections to the service is reached"))?;
    exchange.hold(Hold::Permit(permit));
    exchange.set_idle(&call.backend.policy.timeouts);
    let policy = call.rule.retry(&call.called.policy);
    let mut bodies = crate::replay::Replay::new(exchange.count_request(body), policy.retries > 0);
    let mut tried: SmallVec<[Arc<str>; 3]> = SmallVec::new();
    let mut last: Option<StreamError> = None;
    let mut state = Rc::clone(&call.state);
    loop {
        let done = exchange.facts.attempts + 1;
        let none =
            || Refusal::new(Reason::NoHealthyEndpoint, format!("no endpoint of {} may be used", call.backend.service));
        let Some(picked) = state.pick(worker, worker.now(), &tried) else {
            return Err(last.map_or_else(none, Into::into));
        };
        let Some(body) = bodies.next_attempt() else { return Err(last.map_or_else(none, Into::into)) };
        exchange.facts.attempts = done;
        exchange.facts.endpoint = Some(Arc::clone(&picked.endpoint().key));
        let outcome = stream(worker, exchange, &call, &state, &picked, body).await;
        let health = outcome.as_ref().map_or_else(|e| health_of(e.reason), |_| Outcome::Success);
        state.learn(worker, &picked, health, worker.now());
        match outcome {
            Ok(response) => {
                bodies.settle();
                exchange.hold(Hold::Outstanding(picked));
                return Ok(response);
            }
            Err(error) => {
                let attempt = Attempt::Failed { reason: error.reason, unprocessed: error.unprocessed };
                let repeatable = Repeatable { method: b"CONNECT", body_kept: bodies.can_repeat() };
                if !policy.wants_retry(attempt, repeatable, done) {
                    return Err(error.into());
                }
                let Some(retry) = call.budget.try_retry(policy.budget, worker.now()) else { return Err(error.into()) };
                exchange.hold(Hold::Retry(retry));
                tried.push(Arc::clone(&picked.endpoint().key));
                last = Some(error);
                state = worker.newest(state, call.port);
            }
        }
    }
}

/// The rule for plain TCP and the backend it chose.
async fn resolve(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    called: &Arc<DestinationPlan>,
    port: u16,
) -> Result<Call, Refusal> {
    let rejected = |detail: String| Refusal::new(Reason::ConfigurationRejected, detail);
    let destination =
        called.ports.get(&port).ok_or_else(|| Refusal::new(Reason::UnknownDestination, "no such port"))?;
    let rule = destination
        .routes
        .choose_tcp()
        .ok_or_else(|| Refusal::new(Reason::NoRoute, "no rule without conditions on requests"))?;
    exchange.facts.route = Some(Arc::clone(&rule.name));
    let backend =
        rule.pick_backend(worker.random()).ok_or_else(|| rejected(format!("rule {} has no backend", rule.name)))?;
    let (service, backend_port) = match &backend.target {
        BackendTarget::Service { service, port } => (service, *port),
        BackendTarget::Refused { detail } => return Err(rejected(detail.to_string())),
    };
    let plan = if *service == called.service { Arc::clone(called) } else { worker.plan(service).await? };
    if plan.service != called.service {
        exchange.facts.backend = Some(plan.service.clone());
    }
    let backend_port = plan
        .backend_port(backend_port)
        .ok_or_else(|| rejected(format!("service {service} has not exactly one port; the route must name one")))?;
    let state = worker
        .port(&plan, backend_port)
        .ok_or_else(|| rejected(format!("service {service} has no port {backend_port}")))?;
    let budget = worker.budget(called, port, &state);
    let at = rule.backends.iter().position(|b| std::ptr::eq(b, backend)).expect("one of the rule's");
    Ok(Call {
        called: Arc::clone(called),
        backend: plan,
        port: backend_port,
        protocol: AppProtocol::Tcp,
        rule: Arc::clone(rule),
        at,
        state,
        budget,
    })
}

/// One attempt.
async fn stream(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    call: &Call,
    state: &OutboundPort,
    picked: &Outstanding,
    body: Body,
) -> Result<Response, StreamError> {
    let request = Request::new(stream_head(), body);
    match state.way(picked) {
        Some(Way::Hop { address, sni }) => {
            exchange.facts.upstream = Some(address);
            let hop = match worker.hops.ready(worker, state, picked) {
                Some(hop) => hop,
                None => {
                    worker.hops.get(worker, address, sni, state.identities(), &call.backend.policy.timeouts).await?
                }
            };
            exchange.facts.destination = hop.peer().map(|peer| peer.identity.spiffe.clone());
            exchange.set_active();
            let meta = StreamMeta {
                service: state.wire_name(),
                port: call.port,
                kind: StreamKind::Tcp,
                protocol: AppProtocol::Tcp,
                attempt: exchange.facts.attempts - 1,
                deadline_ms: None,
            };
            hop.open(&meta, request).await
        }
        Some(Way::Plain { address }) => {
            exchange.facts.upstream = Some(address);
            exchange.set_active();
            worker.plain.tcp(address, call.backend.policy.timeouts.connect, request.body).await
        }
        None => Err(StreamError::unprocessed(Reason::NoHealthyEndpoint, "the endpoint offers no way that may be used")),
    }
}
