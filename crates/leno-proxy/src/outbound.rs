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

use std::rc::Rc;
use std::sync::Arc;

use leno_http::{Method, Refusal, Request, Response, hygiene};
use leno_model::{AppProtocol, NamespacedName, Reason};
use leno_plan::resilience::RetryBudget;
use leno_plan::{BackendTarget, DestinationPlan, RouteChoice, RouteRule};
use tokio::time::Instant;

use crate::deadline;
use crate::exchange::{Exchange, Hold, Subject};
use crate::look::{self, Look};
use crate::worker::Worker;
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
    /// The backend's balancing state.
    pub state: Rc<ports::OutboundPort>,
    /// The called service's retry budget.
    pub budget: Arc<RetryBudget>,
}

/// One request of a local caller, from its head to its record. Dropping the future means that the caller is gone.
pub async fn handle(worker: Rc<Worker>, caller: Rc<LocalCaller>, mut request: Request) -> Result<Response, Refusal> {
    let mut exchange = Exchange::http(&worker, Direction::Outbound, &mut request.head, Subject::default());
    exchange.facts.source = worker.identity();
    match exchange.run(async |exchange| stages(&worker, &caller, exchange, request).await).await {
        Ok(response) => Ok(exchange.measure(response)),
        Err(refusal) => {
            exchange.refused(&refusal);
            Err(refusal)
        }
    }
}

/// The stages, in the only order that is right; each comment says why a stage stands where it does.
async fn stages(
    worker: &Rc<Worker>,
    caller: &LocalCaller,
    exchange: &mut Exchange,
    mut request: Request,
) -> Result<Response, Refusal> {
    // Before anything else: another user's process must not even learn which services there are.
    caller.admit()?;
    // Nothing behind this line may believe a caller's `leno-*` or client-certificate header.
    hygiene::strip_internal(&mut request.head.fields);
    let snapshot = worker.snapshot();
    let goal = match &caller.entry {
        Entry::Upstream { service, port } => Goal::Service { service: service.clone(), port: *port },
        Entry::Forward => {
            destination::of_host(&request.head.authority, worker.own_namespace(), &snapshot.mesh, HTTP_PORT)?
        }
    };
    let (service, port) = match goal {
        Goal::Service { service, port } => (service, port),
        Goal::Outside { host, port } => {
            // Boxed, as every branch that few requests take: it would make the future of all others larger.
            return Box::pin(egress::request(worker, exchange, &host, port, request)).await;
        }
    };
    let called = worker.plan(&service).await?;
    // Only now: a caller that invents names must not make a label of each.
    exchange.facts.service = Some(service.clone());
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
        return Box::pin(tcp::tunnel(worker, exchange, &called, port, request)).await;
    }
    if destination.protocol == Some(AppProtocol::Tcp) {
        return Err(Refusal::new(Reason::MalformedRequest, format!("port {port} of {service} is declared tcp")));
    }
    // Before the route: what it decides on must be what is sent.
    look::normalise_path(&mut request.head, destination.routes.matches_paths())?;
    let choice = choose(&request, destination)?;
    exchange.facts.route = Some(Arc::clone(&choice.rule.name));
    if let Some(redirect) = filters::on_request(&choice.rule.filters, &choice, &mut request.head)? {
        return Ok(redirect);
    }
    // From here the clock of the whole request runs, retries included.
    exchange.limit(choice.rule.request_timeout(&called.policy).map(|t| Instant::now() + t));
    let of_rule = exchange.deadline;
    exchange.limit(deadline::of_grpc(&request.head, Instant::now()));
    exchange.is_callers_deadline = exchange.deadline != of_rule;
    let (call, backend) = resolve(worker, exchange, &called, &choice).await?;
    filters::on_request(&backend.filters, &choice, &mut request.head)?;
    exchange.set_idle(&call.backend.policy.timeouts);
    // Limits last before the work: what is refused above must not count against them.
    admit(exchange, &call)?;
    let mut response = attempts::run(worker, exchange, &call, request).await?;
    filters::on_response(&choice.rule.filters, backend, &mut response.head);
    Ok(response)
}

fn choose<'p>(request: &Request, destination: &'p leno_plan::DestinationPort) -> Result<RouteChoice<'p>, Refusal> {
    let look = Look(&request.head.fields);
    let choice = destination.routes.choose(&look::view(&request.head, &look));
    choice.ok_or_else(|| Refusal::new(Reason::NoRoute, ""))
}

/// The backend that the rule chose, its plan and its state.
async fn resolve<'p>(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    called: &Arc<DestinationPlan>,
    choice: &RouteChoice<'p>,
) -> Result<(Call, &'p leno_plan::Backend), Refusal> {
    let rejected = |detail: String| Refusal::new(Reason::ConfigurationRejected, detail);
    let backend = choice
        .rule
        .pick_backend(worker.random())
        .ok_or_else(|| rejected(format!("rule {} has no backend with a weight", choice.rule.name)))?;
    let (service, port) = match &backend.target {
        BackendTarget::Service { service, port } => (service, *port),
        BackendTarget::Refused { detail } => return Err(rejected(detail.to_string())),
    };
    let plan = if *service == called.service { Arc::clone(called) } else { worker.plan(service).await? };
    if plan.service != called.service {
        exchange.facts.backend = Some(plan.service.clone());
    }
    let port = plan
        .backend_port(port)
        .ok_or_else(|| rejected(format!("service {service} has not exactly one port; the route must name one")))?;
    let state = worker.port(&plan, port).ok_or_else(|| rejected(format!("service {service} has no port {port}")))?;
    let declared = plan.ports.get(&port).and_then(|p| p.protocol);
    let protocol = declared.unwrap_or(exchange.facts.protocol);
    let budget = worker.budget(called, exchange.facts.port, &state);
    let rule = Arc::clone(choice.rule);
    let call = Call { called: Arc::clone(called), backend: plan, port, protocol, rule, state, budget };
    Ok((call, backend))
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

    fn size<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// One is allocated per request and one per connection: what few requests need is boxed.
    #[test]
    fn futures_stay_small() {
        let (request, connection) = (size(handle), size(connection::serve));
        assert!(request <= 6 * 1024 && connection <= 6 * 1024, "request {request}, connection {connection}");
    }
}
