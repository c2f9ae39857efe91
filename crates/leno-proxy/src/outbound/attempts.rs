//! The attempts of one request: endpoint, way, send, learn, and perhaps again.
//!
//! Only what cannot have been processed is sent again (DESIGN section 7), within a budget, and never to an endpoint that was
//! tried while there is another.

use std::rc::Rc;
use std::sync::Arc;

use leno_http::hop::{StreamKind, StreamMeta};
use leno_http::{Refusal, Request, Response, StreamError};
use leno_model::{Fault, Reason};
use leno_plan::ejection::Outcome;
use leno_plan::resilience::{Attempt, Replay as Repeatable};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::Call;
use super::ports::{OutboundPort, Outstanding, Way};
use crate::deadline;
use crate::exchange::{Exchange, Hold};
use crate::replay::Replay;
use crate::worker::Worker;

/// Sends the request until an attempt gives an answer that stands.
pub async fn run(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    call: &Call,
    request: Request,
) -> Result<Response, Refusal> {
    let Request { mut head, body, interim } = request;
    let policy = call.rule.retry(&call.called.policy);
    let mut bodies = Replay::new(exchange.count_request(body), policy.retries > 0);
    let mut tried: SmallVec<[Arc<str>; 3]> = SmallVec::new();
    let mut last: Option<StreamError> = None;
    let mut state = Rc::clone(&call.state);
    loop {
        let done = exchange.facts.attempts + 1;
        let Some(picked) = state.pick(worker, &tried) else { return Err(no_endpoint(call, last)) };
        if picked.again {
            tokio::time::sleep(policy.backoff(done - 1, worker.random())).await;
        }
        let Some(body) = bodies.next_attempt() else { return Err(given_up(last, exchange)) };
        exchange.facts.attempts = done;
        exchange.facts.endpoint = Some(Arc::clone(&picked.endpoint().key));
        // The caller's gRPC deadline goes on as what is left of it.
        if let Some(at) = exchange.deadline.filter(|_| head.fields.contains("grpc-timeout")) {
            let left = deadline::to_grpc(at.saturating_duration_since(Instant::now()));
            head.fields.set("grpc-timeout", left.as_bytes());
        }
        let attempt = Request { head: head.clone(), body, interim: interim.clone() };
        let own = call.rule.attempt_timeout(&call.called.policy).map(|t| Instant::now() + t);
        let sent = worker.now();
        let outcome = limited(worker, exchange, call, &state, &picked, attempt, own).await;
        exchange.facts.answered_after = outcome.is_ok().then(|| worker.now().saturating_sub(sent));
        let own_is_first = own.is_some_and(|own| exchange.deadline.is_none_or(|whole| own <= whole));
        let is_callers_deadline = exchange.is_callers_deadline && !own_is_first;
        state.learn(worker, &picked, health(&outcome, is_callers_deadline));
        let repeatable = Repeatable { method: head.method.as_str().as_bytes(), body_kept: bodies.can_repeat() };
        if !policy.wants_retry(verdict(&outcome), repeatable, done) {
            bodies.settle();
            return match outcome {
                Ok(response) => {
                    exchange.limit(own);
                    exchange.hold(Hold::Outstanding(picked));
                    Ok(response)
                }
                Err(error) if done > 1 && error.unprocessed => Err(given_up(Some(error), exchange)),
                Err(error) => Err(error.into()),
            };
        }
        match call.budget.try_retry(policy.budget, worker.now()) {
            Some(retry) => exchange.hold(Hold::Retry(retry)),
            None => return exhausted(outcome),
        }
        tried.push(Arc::clone(&picked.endpoint().key));
        last = outcome.err();
        state = worker.newest(state, call.port);
    }
}

/// One attempt within its own timeout and what is left of the whole request's.
async fn limited(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    call: &Call,
    state: &OutboundPort,
    picked: &Outstanding,
    request: Request,
    own: Option<Instant>,
) -> Result<Response, StreamError> {
    let until = own.into_iter().chain(exchange.deadline).min();
    // Pinned here once: moved into two branches it would take its place in this future twice.
    let sending = std::pin::pin!(send(worker, exchange, call, state, picked, request));
    let Some(until) = until else { return sending.await };
    match tokio::time::timeout_at(until, sending).await {
        Ok(answered) => answered,
        Err(_) => Err(StreamError::in_flight(Reason::RequestTimeout, "no answer in time")),
    }
}

/// Sends one attempt on the way that the endpoint offers.
async fn send(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    call: &Call,
    state: &OutboundPort,
    picked: &Outstanding,
    request: Request,
) -> Result<Response, StreamError> {
    let timeouts = &call.backend.policy.timeouts;
    match state.way(picked) {
        Some(Way::Hop { address, sni }) => {
            exchange.facts.upstream = Some(address);
            let hop = match worker.hops.ready(worker, state, picked) {
                Some(hop) => hop,
                None => worker.hops.get(worker, address, sni, state.identities(), timeouts).await?,
            };
            exchange.facts.destination = hop.peer().map(|peer| peer.identity.spiffe.clone());
            exchange.set_active();
            let left = |at: Instant| at.saturating_duration_since(Instant::now());
            let meta = StreamMeta {
                service: state.wire_name(),
                port: call.port,
                kind: StreamKind::Http,
                protocol: call.protocol,
                attempt: exchange.facts.attempts - 1,
                deadline_ms: exchange.deadline.map(|at| u64::try_from(left(at).as_millis()).unwrap_or(u64::MAX)),
            };
            hop.open(&meta, request).await
        }
        Some(Way::Plain { address }) => {
            exchange.facts.upstream = Some(address);
            exchange.set_active();
            // Boxed: few requests leave the mesh, and all would pay for the room.
            Box::pin(worker.plain.send(address, call.protocol, request, timeouts.connect)).await
        }
        None => {
            let detail = "the endpoint offers no way that may be used";
            Err(StreamError::unprocessed(Reason::NoHealthyEndpoint, detail))
        }
    }
}

/// What an attempt says of the endpoint. Only gateway and connect failures count against it (DESIGN section 7).
fn health(outcome: &Result<Response, StreamError>, is_callers_deadline: bool) -> Outcome {
    match outcome {
        // A refusal by the peer's proxy is no illness of the application: it has said no for a reason.
        Ok(response) if response.head.fields.contains(leno_http::refusal::REASON_HEADER) => Outcome::Success,
        Ok(response) => Outcome::of_status(response.head.status),
        Err(error) if is_callers_deadline && error.reason == Reason::RequestTimeout => Outcome::Nothing,
        Err(error) => health_of(error.reason),
    }
}

/// What a failed attempt says of the endpoint.
pub(super) fn health_of(reason: Reason) -> Outcome {
    match reason.fault() {
        Fault::Upstream => Outcome::Failure,
        // Local to its host, and nobody else can be served there either.
        _ if matches!(reason, Reason::ClockSkew | Reason::ExposedApp | Reason::ForeignApp) => Outcome::Failure,
        _ if matches!(reason, Reason::Overloaded | Reason::Draining) => Outcome::Overload,
        _ => Outcome::Nothing,
    }
}

fn verdict(outcome: &Result<Response, StreamError>) -> Attempt {
    match outcome {
        Ok(response) => match response.head.fields.get_str("grpc-status").and_then(|s| s.parse().ok()) {
            Some(code) if response.body.is_end() => Attempt::GrpcStatus(code),
            _ => Attempt::Status(response.head.status),
        },
        Err(error) => Attempt::Failed { reason: error.reason, unprocessed: error.unprocessed },
    }
}

/// The budget is used up: an answer stands as it is, a failure is told as what it is.
fn exhausted(outcome: Result<Response, StreamError>) -> Result<Response, Refusal> {
    outcome.map_err(|error| {
        if is_about_certificates(error.reason) {
            return error.into();
        }
        let detail = format!("not tried again after {error}");
        Refusal::new(Reason::RetryBudgetExhausted, detail)
    })
}

fn given_up(last: Option<StreamError>, exchange: &Exchange) -> Refusal {
    match last {
        // Certificates do not get better by trying: their reason is the answer, not that it was tried.
        Some(error) if is_about_certificates(error.reason) => error.into(),
        Some(error) => {
            let detail = format!("{} attempts, the last: {error}", exchange.facts.attempts);
            Refusal { unprocessed: error.unprocessed, ..Refusal::new(Reason::RetryLimitExceeded, detail) }
        }
        None => Refusal::new(Reason::RetryLimitExceeded, "the request body cannot be sent again"),
    }
}

fn is_about_certificates(reason: Reason) -> bool {
    use Reason::{
        CertificateExpired, CertificateInvalid, CertificateRevoked, ClockSkew, PeerIdentityMismatch, PeerUntrusted,
    };
    matches!(
        reason,
        CertificateExpired | CertificateInvalid | CertificateRevoked | ClockSkew | PeerIdentityMismatch | PeerUntrusted
    )
}

fn no_endpoint(call: &Call, last: Option<StreamError>) -> Refusal {
    match last {
        Some(error) => error.into(),
        None if call.state.len() == 0 => {
            Refusal::new(Reason::NoHealthyEndpoint, format!("service {} has no endpoints", call.backend.service))
        }
        None => Refusal::new(Reason::NoHealthyEndpoint, format!("no endpoint of {} may be used", call.backend.service)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_answers_for_its_own_failures_only() {
        let failed =
            |reason, is_callers_deadline| health(&Err(StreamError::in_flight(reason, "")), is_callers_deadline);
        for (reason, expected) in [
            (Reason::ConnectRefused, Outcome::Failure),
            (Reason::UpstreamReset, Outcome::Failure),
            (Reason::PeerIdentityMismatch, Outcome::Failure),
            (Reason::ClockSkew, Outcome::Failure),
            (Reason::ExposedApp, Outcome::Failure),
            (Reason::RequestTimeout, Outcome::Failure),
            (Reason::Overloaded, Outcome::Overload),
            (Reason::Draining, Outcome::Overload),
            (Reason::DeniedByPolicy, Outcome::Nothing),
            (Reason::DownstreamReset, Outcome::Nothing),
            (Reason::ControlPlaneUnreachable, Outcome::Nothing),
        ] {
            assert_eq!(failed(reason, false), expected, "{reason}");
        }
        assert_eq!(failed(Reason::RequestTimeout, true), Outcome::Nothing, "the caller was in a hurry");
        assert_eq!(failed(Reason::ConnectRefused, true), Outcome::Failure);
    }
}
