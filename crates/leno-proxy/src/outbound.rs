//! From the application into the mesh: the order of the stages of a request.
//!
//! ```text
//!   local caller ─▶ hygiene ─▶ trace ─▶ destination ─▶ plan ─▶ path ─▶ route ─▶ filters ─▶ timeouts ─▶ limits
//!                                           │                                     │
//!                                           └─▶ egress                            └─▶ redirect
//!                 ─▶ attempts { endpoint ─▶ hop ─▶ peer } ─▶ response filters ─▶ record
//! ```

pub mod attempts;
pub mod connection;
pub mod destination;
pub mod egress;
pub mod filters;
pub mod ports;
pub mod tcp;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use leno_http::{Method, Refusal, Request, Response, hygiene};
use leno_model::{AppProtocol, NamespacedName, Reason};
use leno_plan::resilience::RetryBudget;
use leno_plan::{Backend, BackendTarget, DestinationPlan, RouteChoice, RouteRule};
use tokio::time::Instant;

use crate::deadline;
use crate::exchange::{Exchange, Hold};
use crate::handling::Handling;
use crate::look::{self, Look};
use crate::worker::Worker;
use attempts::Attempts;
use destination::Goal;
use leno_telemetry::metrics::Direction;

/// The port that HTTP without a written port means (RFC 9110 section 4.2.1).
const HTTP_PORT: u16 = 80;

/// Which of the proxy's local ports a caller used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// One that leads to one service.
    Upstream {
        /// The service.
        service: NamespacedName,
        /// Its port; 80 or else its lowest when absent.
        port: Option<u16>,
    },
    /// The forward-proxy port: the caller names where it wants to go.
    Forward,
}

/// A local caller's connection.
#[derive(Debug)]
pub struct LocalCaller {
    /// Which port it used.
    pub entry: Entry,
    /// Whether it may use the workload's identity (D12a).
    pub is_member: bool,
}

impl LocalCaller {
    /// Refuses a caller that must not borrow the workload's identity.
    fn admit(&self) -> Result<(), Refusal> {
        if self.is_member { Ok(()) } else { Err(Refusal::new(Reason::NotMember, "the caller runs as another user")) }
    }
}

/// Where the stages decided to send a request.
pub struct Call {
    /// The service that the caller named: its routes, timeouts and retries hold.
    pub called: Arc<DestinationPlan>,
    /// The service that the route chose: its endpoints, identities, limits and ejection hold.
    pub backend: Arc<DestinationPlan>,
    /// The backend's port.
    pub port: u16,
    /// What is spoken there.
    pub protocol: AppProtocol,
    /// The rule.
    pub rule: Arc<RouteRule>,
    /// The number of its backend.
    pub at: usize,
    /// The backend's balancing state.
    pub state: Rc<ports::OutboundPort>,
    /// The called service's retry budget.
    pub budget: Arc<RetryBudget>,
}

impl Call {
    /// The backend as the rule names it, with its filters.
    fn backend_of_rule(&self) -> &Backend {
        &self.rule.backends[self.at]
    }
}

/// One request of a local caller, from its head to its record. Dropping it means that the caller is gone.
pub fn handle(worker: &Rc<Worker>, caller: &Rc<LocalCaller>, mut request: Request) -> Handling<Attempts> {
    let mut exchange = Exchange::http(worker, Direction::Outbound, &mut request.head);
    exchange.facts.source = worker.identity();
    match stages(worker, caller, &mut exchange, &mut request) {
        Ok(Next::Send(call)) => {
            let now = exchange.started;
            let attempts = Attempts::new(worker, &exchange, call, request, now);
            Handling::under_way(exchange, attempts)
        }
        Ok(Next::Answer(response)) => Handling::decided(exchange, Ok(response)),
        Ok(Next::Wait(wait)) => Handling::slow(waited(Rc::clone(worker), Rc::clone(caller), exchange, request, *wait)),
        Err(refusal) => Handling::decided(exchange, Err(refusal)),
    }
}

/// What the stages decided.
enum Next {
    /// It goes to a backend.
    Send(Call),
    /// A route has the answer.
    Answer(Response),
    /// Something must be waited for. Boxed: few requests do.
    Wait(Box<Wait>),
}

/// What few requests wait for.
enum Wait {
    /// The first plan of a service; the stages are gone through again with it.
    Plan(NamespacedName),
    /// The way out of the mesh.
    Egress { host: Box<str>, port: u16 },
    /// A stream of bytes to a port of a service.
    Tunnel { called: Arc<DestinationPlan>, port: u16 },
}

/// A request that has to wait for something before it is sent.
async fn waited(
    worker: Rc<Worker>,
    caller: Rc<LocalCaller>,
    mut exchange: Exchange,
    request: Request,
    wait: Wait,
) -> Result<Response, Refusal> {
    let outcome = exchange.run(async |exchange| after(&worker, &caller, exchange, request, wait).await).await;
    exchange.conclude(outcome)
}

async fn after(
    worker: &Rc<Worker>,
    caller: &LocalCaller,
    exchange: &mut Exchange,
    mut request: Request,
    mut wait: Wait,
) -> Result<Response, Refusal> {
    loop {
        match wait {
            Wait::Plan(service) => drop(worker.plan(&service).await?),
            Wait::Egress { host, port } => return egress::request(worker, exchange, &host, port, request).await,
            Wait::Tunnel { called, port } => return tcp::tunnel(worker, exchange, &called, port, request).await,
        }
        wait = match stages(worker, caller, exchange, &mut request)? {
            Next::Send(call) => {
                let mut attempts = Attempts::new(worker, exchange, call, request, worker.now());
                return std::future::poll_fn(|cx| attempts.poll(exchange, cx)).await;
            }
            Next::Answer(response) => return Ok(response),
            Next::Wait(next) => *next,
        };
    }
}

/// The stages, in the only order that is right; each comment says why a stage stands where it does. Up to the last plan that is
/// needed they change nothing that a second run would change again.
fn stages(
    worker: &Rc<Worker>,
    caller: &LocalCaller,
    exchange: &mut Exchange,
    request: &mut Request,
) -> Result<Next, Refusal> {
    // Before anything else: another user's process must not even learn which services there are.
    caller.admit()?;
    // Nothing behind this line may believe a caller's `leno-*` or client-certificate header.
    hygiene::strip_internal(&mut request.head.fields);
    let (service, port) = match &caller.entry {
        Entry::Upstream { service, port } => (Cow::Borrowed(service), *port),
        Entry::Forward => {
            let snapshot = worker.snapshot();
            match destination::of_host(&request.head.authority, worker.own_namespace(), &snapshot.mesh, HTTP_PORT)? {
                Goal::Service { service, port } => (Cow::Owned(service), port),
                Goal::Outside { host, port } => return Ok(Next::wait(Wait::Egress { host, port })),
            }
        }
    };
    let Some(called) = worker.known_plan(&service, exchange.started) else {
        return Ok(Next::wait(Wait::Plan(service.into_owned())));
    };
    let called = called?;
    // Only now: a caller that invents names must not make a label of each.
    exchange.facts.service = Some(service.into_owned());
    let service = &called.service;
    let (port, destination) = destination::port_of(&called, port)?;
    exchange.facts.port = port;
    if request.head.method == Method::Connect {
        if destination.protocol.is_some_and(|p| p != AppProtocol::Tcp) {
            // In a tunnel nobody would see the requests: routes and policies would not hold for them.
            let detail = format!(
                "port {port} of {service} takes requests: ask for http://{service}.mesh:{port}/… (absolute form) instead of CONNECT"
            );
            return Err(Refusal::new(Reason::MalformedRequest, detail));
        }
        return Ok(Next::wait(Wait::Tunnel { called, port }));
    }
    if destination.protocol == Some(AppProtocol::Tcp) {
        return Err(Refusal::new(Reason::MalformedRequest, format!("port {port} of {service} is declared tcp")));
    }
    // Before the route: what it decides on must be what is sent.
    look::normalise_path(&mut request.head, destination.routes.matches_paths())?;
    let choice = choose(request, destination)?;
    exchange.facts.route = Some(Arc::clone(&choice.rule.name));
    let backend = choice.rule.pick_backend(worker.random());
    let plan = match backend.map(|backend| &backend.target) {
        Some(BackendTarget::Service { service, .. }) if *service == called.service => Some(Ok(Arc::clone(&called))),
        Some(BackendTarget::Service { service, .. }) => match worker.known_plan(service, exchange.started) {
            None => return Ok(Next::wait(Wait::Plan(service.clone()))),
            known => known,
        },
        Some(BackendTarget::Refused { .. }) | None => None,
    };
    if let Some(redirect) = filters::on_request(&choice.rule.filters, &choice, &mut request.head)? {
        return Ok(Next::Answer(redirect));
    }
    // From here the clock of the whole request runs, retries included.
    exchange.limit(choice.rule.request_timeout(&called.policy).map(|t| Instant::now() + t));
    let of_rule = exchange.deadline;
    exchange.limit(deadline::of_grpc(&request.head));
    exchange.is_callers_deadline = exchange.deadline != of_rule;
    let call = resolve(worker, exchange, &called, &choice, (backend, plan))?;
    filters::on_request(&call.backend_of_rule().filters, &choice, &mut request.head)?;
    exchange.set_idle(&call.backend.policy.timeouts);
    // Limits last before the work: what is refused above must not count against them.
    admit(exchange, &call)?;
    Ok(Next::Send(call))
}

impl Next {
    fn wait(wait: Wait) -> Self {
        Self::Wait(Box::new(wait))
    }
}

fn choose<'p>(request: &Request, destination: &'p leno_plan::DestinationPort) -> Result<RouteChoice<'p>, Refusal> {
    let look = Look(&request.head.fields);
    let choice = destination.routes.choose(&look::view(&request.head, &look));
    choice.ok_or_else(|| Refusal::new(Reason::NoRoute, ""))
}

/// The chosen backend with its plan and its state.
fn resolve(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    called: &Arc<DestinationPlan>,
    choice: &RouteChoice<'_>,
    chosen: (Option<&Backend>, Option<Result<Arc<DestinationPlan>, Refusal>>),
) -> Result<Call, Refusal> {
    let rejected = |detail: String| Refusal::new(Reason::ConfigurationRejected, detail);
    let rule = choice.rule;
    let backend = chosen.0.ok_or_else(|| rejected(format!("rule {} has no backend with a weight", rule.name)))?;
    let (service, port) = match &backend.target {
        BackendTarget::Service { service, port } => (service, port),
        BackendTarget::Refused { detail } => return Err(rejected(detail.to_string())),
    };
    let plan = chosen.1.expect("looked up for every backend that is a service")?;
    if plan.service != called.service {
        exchange.facts.backend = Some(plan.service.clone());
    }
    let port = plan
        .backend_port(*port)
        .ok_or_else(|| rejected(format!("service {service} has not exactly one port; the route must name one")))?;
    let state = worker.port(&plan, port).ok_or_else(|| rejected(format!("service {service} has no port {port}")))?;
    let declared = plan.ports.get(&port).and_then(|p| p.protocol);
    let protocol = declared.unwrap_or(exchange.facts.protocol);
    let budget = worker.budget(called, exchange.facts.port, &state);
    let at = rule.backends.iter().position(|b| std::ptr::eq(b, backend)).expect("one of the rule's");
    let (called, rule) = (Arc::clone(called), Arc::clone(rule));
    Ok(Call { called, backend: plan, port, protocol, rule, at, state, budget })
}

/// Limits of the backend, and the count of active requests that the retry budget is a share of.
fn admit(exchange: &mut Exchange, call: &Call) -> Result<(), Refusal> {
    let shared = call.state.shared();
    let permit = shared
        .requests
        .try_acquire(call.backend.policy.limits.max_requests)
        .ok_or_else(|| Refusal::new(Reason::Overloaded, "the limit on requests to the service is reached"))?;
    exchange.hold(Hold::Permit(permit));
    exchange.hold(Hold::Active(call.budget.begin()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    fn connection<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// One is made per request and one per connection: what few requests need is boxed.
    #[test]
    fn futures_stay_small() {
        let request = size(|a: &Rc<Worker>, b: (&Rc<LocalCaller>, Request)| handle(a, b.0, b.1));
        let connection = connection(connection::serve);
        println!("request {request}, connection {connection}");
        assert!(request <= 1024 && connection <= 2048, "request {request}, connection {connection}");
    }
}
