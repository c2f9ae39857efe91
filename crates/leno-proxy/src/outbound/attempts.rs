//! The attempts of one request: endpoint, way, send, learn, and perhaps again.
//!
//! Only what cannot have been processed is sent again (DESIGN section 7), within a budget, and never to an endpoint that was
//! tried while there is another.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use leno_http::hop::{Connection, OpenStream, StreamKind, StreamMeta};
use leno_http::{Body, InterimSink, Refusal, Request, RequestHead, Response, Sending, StreamError};
use leno_model::{Fault, Reason};
use leno_plan::ejection::Outcome;
use leno_plan::resilience::{Attempt as Verdict, Replay as Repeatable};
use smallvec::SmallVec;
use tokio::time::{Instant, Sleep};

use super::ports::{OutboundPort, Outstanding, Way};
use super::{Call, filters};
use crate::deadline;
use crate::exchange::{Exchange, Hold};
use crate::handling::Work;
use crate::replay::Replay;
use crate::worker::Worker;

/// Sends a request until an attempt gives an answer that stands.
pub struct Attempts {
    worker: Rc<Worker>,
    call: Call,
    head: RequestHead,
    interim: Option<InterimSink>,
    bodies: Replay,
    tried: SmallVec<[Arc<str>; 3]>,
    last: Option<StreamError>,
    /// The endpoints, by what is known now.
    state: Rc<OutboundPort>,
    phase: Phase,
    /// By the worker's clock.
    begun: u64,
}

#[expect(clippy::large_enum_variant, reason = "the large one is the usual one")]
enum Phase {
    /// An endpoint is to be chosen.
    Pick,
    /// All have been tried: a pause first.
    Pause(Pin<Box<Sleep>>, Outstanding),
    Sent(Attempt),
}

/// One attempt on its way.
struct Attempt {
    picked: Outstanding,
    /// When it must be over, by its own timeout.
    own: Option<Instant>,
    /// The earlier of that and the whole request's.
    timer: Option<Pin<Box<Sleep>>>,
    /// By the worker's clock.
    sent: u64,
    way: Underway,
}

enum Underway {
    /// Nothing was sent, and here is why.
    Failed(Option<StreamError>),
    /// There is no hop to the endpoint yet.
    Connecting(Pin<Box<dyn Future<Output = Result<Rc<Connection>, StreamError>>>>, Body),
    Stream(OpenStream),
    Plain(Sending),
}

impl Work for Attempts {
    fn poll(&mut self, exchange: &mut Exchange, cx: &mut Context<'_>) -> Poll<Result<Response, Refusal>> {
        Self::poll(self, exchange, cx)
    }
}

impl Attempts {
    /// Attempts at what `call` says; the first is made when polled, as of `now`.
    // They are large, and made where they stay.
    #[inline(always)]
    pub fn new(worker: &Rc<Worker>, exchange: &Exchange, call: Call, request: Request, now: u64) -> Self {
        let Request { head, body, interim } = request;
        let retries = call.rule.retry(&call.called.policy).retries;
        Self {
            worker: Rc::clone(worker),
            head,
            interim,
            bodies: Replay::new(exchange.count_request(body), retries > 0),
            tried: SmallVec::new(),
            last: None,
            state: Rc::clone(&call.state),
            phase: Phase::Pick,
            begun: now,
            call,
        }
    }

    /// The answer that stands, or why there is none.
    pub fn poll(&mut self, exchange: &mut Exchange, cx: &mut Context<'_>) -> Poll<Result<Response, Refusal>> {
        loop {
            match &mut self.phase {
                Phase::Pick => {
                    let now = if self.tried.is_empty() { self.begun } else { self.worker.now() };
                    let Some(picked) = self.state.pick(&self.worker, now, &self.tried) else {
                        return Poll::Ready(Err(no_endpoint(&self.call, self.last.take())));
                    };
                    if picked.again {
                        let policy = self.call.rule.retry(&self.call.called.policy);
                        let pause = policy.backoff(exchange.facts.attempts, self.worker.random());
                        let until = Some(Instant::now() + pause).into_iter().chain(exchange.deadline).min();
                        let until = until.expect("one of them is there");
                        self.phase = Phase::Pause(Box::pin(tokio::time::sleep_until(until)), picked);
                    } else if let Err(refusal) = self.send(exchange, picked, now) {
                        return Poll::Ready(Err(refusal));
                    }
                }
                Phase::Pause(pause, _) => {
                    ready!(pause.as_mut().poll(cx));
                    let Phase::Pause(_, picked) = std::mem::replace(&mut self.phase, Phase::Pick) else { continue };
                    let now = self.worker.now();
                    if let Err(refusal) = self.send(exchange, picked, now) {
                        return Poll::Ready(Err(refusal));
                    }
                }
                Phase::Sent(_) => {
                    let outcome = ready!(self.poll_sent(exchange, cx));
                    if let Some(end) = self.learn(exchange, outcome) {
                        return Poll::Ready(end);
                    }
                }
            }
        }
    }

    /// Begins an attempt.
    fn send(&mut self, exchange: &mut Exchange, picked: Outstanding, now: u64) -> Result<(), Refusal> {
        if exchange.deadline.is_some_and(|at| at <= Instant::now()) {
            return Err(StreamError::in_flight(Reason::RequestTimeout, "no answer in time").into());
        }
        let Some(body) = self.bodies.next_attempt() else { return Err(given_up(self.last.take(), exchange)) };
        exchange.facts.attempts += 1;
        exchange.facts.endpoint = Some(Arc::clone(&picked.endpoint().key));
        // The caller's gRPC deadline goes on as what is left of it.
        if let Some(at) = exchange.deadline.filter(|_| self.head.fields.contains("grpc-timeout")) {
            let left = deadline::to_grpc(at.saturating_duration_since(Instant::now()));
            self.head.fields.set("grpc-timeout", left.as_bytes());
        }
        let own = self.call.rule.attempt_timeout(&self.call.called.policy).map(|t| Instant::now() + t);
        let until = own.into_iter().chain(exchange.deadline).min();
        let timer = until.map(|at| Box::pin(tokio::time::sleep_until(at)));
        let way = self.begin(exchange, &picked, body);
        self.phase = Phase::Sent(Attempt { picked, own, timer, sent: now, way });
        Ok(())
    }

    /// Sends on the way that the endpoint offers.
    fn begin(&self, exchange: &mut Exchange, picked: &Outstanding, body: Body) -> Underway {
        let (worker, state) = (&self.worker, &self.state);
        let timeouts = &self.call.backend.policy.timeouts;
        match state.way(picked) {
            Some(Way::Hop { address, sni }) => {
                exchange.facts.upstream = Some(address);
                if let Some(hop) = worker.hops.ready(worker, state, picked) {
                    return self.open(exchange, &hop, body);
                }
                let (worker, sni, permitted) = (Rc::clone(worker), Arc::clone(sni), Arc::clone(state.identities()));
                let timeouts = *timeouts;
                let connect = async move { worker.hops.get(&worker, address, &sni, &permitted, &timeouts).await };
                Underway::Connecting(Box::pin(connect), body)
            }
            Some(Way::Plain { address }) => {
                exchange.facts.upstream = Some(address);
                exchange.set_active();
                let request = Request { head: self.head.clone(), body, interim: self.interim.clone() };
                Underway::Plain(worker.plain.send(address, self.call.protocol, request, timeouts.connect))
            }
            None => {
                let detail = "the endpoint offers no way that may be used";
                Underway::Failed(Some(StreamError::unprocessed(Reason::NoHealthyEndpoint, detail)))
            }
        }
    }

    /// Opens a stream on a hop that has room for it.
    fn open(&self, exchange: &mut Exchange, hop: &Connection, body: Body) -> Underway {
        exchange.facts.destination = hop.peer().map(|peer| peer.identity.spiffe.clone());
        exchange.set_active();
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        let meta = StreamMeta {
            service: self.state.wire_name(),
            port: self.call.port,
            kind: StreamKind::Http,
            protocol: self.call.protocol,
            attempt: exchange.facts.attempts - 1,
            deadline_ms: exchange.deadline.map(|at| u64::try_from(left(at).as_millis()).unwrap_or(u64::MAX)),
        };
        match hop.begin(&meta, &self.head, body) {
            Ok(stream) => Underway::Stream(stream),
            Err(error) => Underway::Failed(Some(error)),
        }
    }

    /// The end of the attempt under way, within its own timeout and what is left of the whole request's.
    fn poll_sent(&mut self, exchange: &mut Exchange, cx: &mut Context<'_>) -> Poll<Result<Response, StreamError>> {
        loop {
            let Phase::Sent(attempt) = &mut self.phase else { unreachable!("asked for in this phase only") };
            let polled = match &mut attempt.way {
                Underway::Failed(error) => Poll::Ready(Err(error.take().expect("taken once"))),
                Underway::Stream(stream) => stream.poll_answer(cx, self.interim.as_ref()),
                Underway::Plain(sending) => Pin::new(sending).poll(cx),
                Underway::Connecting(connect, body) => match connect.as_mut().poll(cx) {
                    Poll::Ready(Ok(hop)) => {
                        let body = std::mem::take(body);
                        let way = self.open(exchange, &hop, body);
                        if let Phase::Sent(attempt) = &mut self.phase {
                            attempt.way = way;
                        }
                        continue;
                    }
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    Poll::Pending => Poll::Pending,
                },
            };
            if polled.is_pending() && attempt.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Err(StreamError::in_flight(Reason::RequestTimeout, "no answer in time")));
            }
            return polled;
        }
    }

    /// What the attempt's end means: the end of all, or `None` for another attempt.
    fn learn(
        &mut self,
        exchange: &mut Exchange,
        outcome: Result<Response, StreamError>,
    ) -> Option<Result<Response, Refusal>> {
        let Phase::Sent(attempt) = std::mem::replace(&mut self.phase, Phase::Pick) else { return None };
        // Lets a stream that had no answer in time go before anything else is sent.
        drop(attempt.way);
        let (worker, call) = (&self.worker, &self.call);
        let (now, done) = (worker.now(), exchange.facts.attempts);
        exchange.facts.answered_after = outcome.is_ok().then(|| now.saturating_sub(attempt.sent));
        let own_is_first = attempt.own.is_some_and(|own| exchange.deadline.is_none_or(|whole| own <= whole));
        let is_callers_deadline = exchange.is_callers_deadline && !own_is_first;
        self.state.learn(worker, &attempt.picked, health(&outcome, is_callers_deadline), now);
        let policy = call.rule.retry(&call.called.policy);
        let repeatable =
            Repeatable { method: self.head.method.as_str().as_bytes(), body_kept: self.bodies.can_repeat() };
        if !policy.wants_retry(verdict(&outcome), repeatable, done) {
            self.bodies.settle();
            return Some(match outcome {
                Ok(mut response) => {
                    exchange.limit(attempt.own);
                    exchange.hold(Hold::Outstanding(attempt.picked));
                    filters::on_response(&call.rule.filters, call.backend_of_rule(), &mut response.head);
                    Ok(response)
                }
                Err(error) if done > 1 && error.unprocessed => Err(given_up(Some(error), exchange)),
                Err(error) => Err(error.into()),
            });
        }
        match call.budget.try_retry(policy.budget, now) {
            Some(retry) => exchange.hold(Hold::Retry(retry)),
            None => {
                return Some(exhausted(outcome).map(|mut response| {
                    filters::on_response(&call.rule.filters, call.backend_of_rule(), &mut response.head);
                    response
                }));
            }
        }
        self.tried.push(Arc::clone(&attempt.picked.endpoint().key));
        self.last = outcome.err();
        self.state = worker.newest(Rc::clone(&self.state), call.port);
        None
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

fn verdict(outcome: &Result<Response, StreamError>) -> Verdict {
    match outcome {
        Ok(response) => match response.head.fields.get_str("grpc-status").and_then(|s| s.parse().ok()) {
            Some(code) if response.body.is_end() => Verdict::GrpcStatus(code),
            _ => Verdict::Status(response.head.status),
        },
        Err(error) => Verdict::Failed { reason: error.reason, unprocessed: error.unprocessed },
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
