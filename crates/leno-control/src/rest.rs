//! The REST API: handlers over the parts of the control plane. What goes over the wire is `leno_api`'s.
//!
//! ```text
//!   connection (cap, head limits and timeout) ─► Host known? ─► admin token? ─► body ≤ 1 MiB, request ≤ 30 s ─┬─ read: handler
//!                                                                                      write: task of its own ─┴─► handler
//! ```
//!
//! A write that is here whole is carried out whole, its audit line included, whoever still waits for the answer.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use leno_api::ErrorReason;
use leno_api::routes::{self, ROUTES};
use leno_runtime::drain::DrainWatch;
use leno_runtime::readiness::Readiness;
use leno_runtime::scope::Scope;
use leno_store::Store;
use tokio::sync::{Semaphore, oneshot};

use crate::apply::Writer;
use crate::audit::Audit;
use crate::ca::Ca;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::status::Reports;
use crate::tokens::Tokens;
use crate::world::World;

pub mod access;
pub mod failure;
mod mesh;
mod open;
mod overview;
mod resources;
pub mod server;
mod watch;

use failure::Failure;

/// Watches at one time; each holds a connection.
pub const MAX_WATCHES: usize = 64;
/// Writes under way; each may outlive its connection, so the connections do not bound them.
pub const MAX_WRITES: usize = 64;
/// Time for the answer to a request, its body included; watches have none, and a write goes on.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What the handlers need.
pub struct Api {
    /// The store, for reads.
    pub store: Arc<dyn Store>,
    /// The read view.
    pub world: Arc<World>,
    /// Writes resources.
    pub writer: Writer,
    /// Join tokens.
    pub tokens: Arc<Tokens>,
    /// The authority.
    pub ca: Arc<Ca>,
    /// Registrations.
    pub registry: Arc<Registry>,
    /// What proxies say of resources.
    pub reports: Arc<Reports>,
    /// The audit log.
    pub audit: Arc<Audit>,
    /// Counters.
    pub metrics: Metrics,
    /// Who may call, and under which names.
    pub access: access::Access,
    /// Whether everything is up.
    pub readiness: Readiness,
    /// Ends watches.
    pub drain: DrainWatch,
    /// Watches that may still begin.
    pub watches: Arc<Semaphore>,
    /// Writes that may still begin.
    pub writes: Arc<Semaphore>,
    /// Where writes run.
    pub tasks: Scope,
    /// When the process started, Unix seconds.
    pub started: u64,
    /// Where proxies connect, for the overview.
    pub discovery: String,
}

/// State of the handlers.
pub type Shared = State<Arc<Api>>;

/// The routes of `leno_api::routes`, with everything in front of them.
pub fn router(api: Arc<Api>) -> Router {
    let open = Router::new()
        .route(routes::HEALTHZ, get(open::healthz))
        .route(routes::READYZ, get(open::readyz))
        .route(routes::METRICS, get(open::metrics))
        .route(routes::OPENAPI, get(open::openapi));
    let timed = Router::new()
        .route(routes::LIST_ALL, get(resources::list_all))
        .route(routes::LIST, get(resources::list))
        .route(routes::RESOURCE, get(resources::get).put(resources::put).delete(resources::delete))
        .route(routes::APPLY, post(resources::apply))
        .route(routes::DELETE, post(resources::delete_documents))
        .route(routes::TOKENS, get(mesh::tokens).post(mesh::create_token))
        .route(routes::TOKEN, delete(mesh::delete_token))
        .route(routes::OVERVIEW, get(overview::overview))
        .route(routes::MEMBERS, get(mesh::members))
        .route(routes::ENDPOINTS, get(mesh::endpoints))
        .route(routes::REVOCATIONS, get(mesh::revocations).post(mesh::revoke))
        .route(routes::REVOCATION, delete(mesh::unrevoke))
        .route(routes::CA, get(mesh::ca))
        .route(routes::CA_ROTATE, post(mesh::rotate))
        .route(routes::AUDIT, get(mesh::audit))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), in_time));
    let authenticated = Router::new()
        .route(routes::WATCH, get(watch::watch))
        .merge(timed)
        .layer(middleware::from_fn_with_state(Arc::clone(&api), access::authenticated));
    open.merge(authenticated)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&api), access::known_host))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), counted))
        .with_state(api)
}

async fn in_time(State(api): Shared, request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, carried_out(&api, request, next)).await {
        Ok(answer) => answer.unwrap_or_else(Failure::into_response),
        Err(_) => {
            Failure::new(StatusCode::REQUEST_TIMEOUT, ErrorReason::Timeout, "no answer within 30 s").into_response()
        }
    }
}

/// Dropping this before a write has all of its body and a place drops the write, afterwards only its answer.
async fn carried_out(api: &Api, request: Request, next: Next) -> Result<Response, Failure> {
    if request.method().is_safe() {
        return Ok(next.run(request).await);
    }
    if let Err(problem) = api.audit.ready().await {
        // Every write is audited (D14): one that could not be is not begun.
        let message = format!("nothing was changed: the audit log {problem}");
        return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, ErrorReason::Internal, message));
    }
    let (head, body) = request.into_parts();
    let request = Request::from_parts(head, resources::bytes(body).await?.into());
    let place = Arc::clone(&api.writes).acquire_owned().await.map_err(|e| Failure::internal(&e))?;
    let in_flight = api.drain.guard();
    let (answer, answered) = oneshot::channel();
    api.tasks.spawn("write", async move {
        // An error means that nobody waits any more.
        let _ = answer.send(next.run(request).await);
        drop((place, in_flight));
    });
    answered.await.map_err(|_| Failure::internal(&"a write ended without an answer"))
}

async fn counted(State(api): Shared, request: Request, next: Next) -> Response {
    // The matched route, never the path: labels come from our table alone.
    let path = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_owned());
    let method = request.method().clone();
    let response = next.run(request).await;
    let route = path.and_then(|path| ROUTES.iter().find(|r| r.path == path && r.method == method.as_str()));
    api.metrics.request(route.map_or("none", |r| r.operation), response.status().as_u16());
    response
}

async fn not_found() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, ErrorReason::NotFound, "no such route; see /openapi.json")
}

async fn method_not_allowed() -> Failure {
    let message = "the route does not have this method; see /openapi.json";
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, ErrorReason::MethodNotAllowed, message)
}
