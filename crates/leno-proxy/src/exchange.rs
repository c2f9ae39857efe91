//! One exchange from its first byte to its last: a request with its answer, an upgraded connection, a TCP stream.
//!
//! ```text
//!   begin ──▶ stages run (facts are filled in) ──▶ measure(response) ──▶ last byte ──▶ recorded
//!                  │                                     │
//!                  ├─ refused(…) ──────────────▶ recorded│
//!                  └─ dropped (the caller went) ─────────┴─ dropped ──▶ recorded as downstream_reset
//! ```
//!
//! Exactly one record per exchange, however it ends: recording happens in `Drop`.

mod facts;

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use leno_http::body::PollFrame;
use leno_http::hop::Peer;
use leno_http::{Body, BodyError, BodyLength, BodyStream, Frame, Method, Refusal, RequestHead, Response, hygiene};
use leno_model::{AppProtocol, NamespacedName, Reason};
use leno_plan::resilience::{ActiveRequest, ActiveRetry, Permit, Timeouts};
use leno_telemetry::metrics::Direction;
use leno_telemetry::trace::RequestId;
use smallvec::SmallVec;
use tokio::time::{Instant, Sleep};

pub use self::facts::Facts;
use crate::live::{self, Class, Live, LiveGuard};
use crate::outbound::ports::Outstanding;
use crate::recording::Active;
use crate::worker::Worker;
use crate::{deadline, trace};

/// What the table of what is under way keeps of an exchange.
#[derive(Default)]
pub struct Subject {
    /// What a new policy judges. Only inbound exchanges are judged here; the origination's are judged by its peer.
    pub inbound: OnceCell<InboundSubject>,
    /// The caller's side.
    pub request: RequestSide,
}

impl live::Subject for Subject {
    fn clear(&mut self) {
        self.inbound.take();
        self.request.clear();
    }
}

/// An inbound exchange, as an access plan sees it.
pub struct InboundSubject {
    /// The service that was called.
    pub service: NamespacedName,
    /// Its port.
    pub port: u16,
    /// Who calls.
    pub peer: Rc<Peer>,
    /// The request; absent on plain TCP.
    pub head: Option<RequestHead>,
}

/// What is given back when an exchange ends.
#[expect(dead_code, reason = "held for what dropping it does")]
pub enum Hold {
    /// A place under a limit.
    Permit(Permit),
    /// Counts as active for the retry budget.
    Active(ActiveRequest),
    /// Counts as a retry.
    Retry(ActiveRetry),
    /// Outstanding on an endpoint.
    Outstanding(Outstanding),
}

/// One exchange. It is handed on from stage to stage, so most of it is in a box, which is used again.
pub struct Exchange {
    parts: Option<Box<Parts>>,
    /// In the table of what is under way.
    pub live: LiveGuard<Subject>,
    worker: Rc<Worker>,
}

/// What most of an exchange consists of.
pub struct Parts {
    /// What is known.
    pub facts: Facts,
    /// When the whole must be over.
    pub deadline: Option<Instant>,
    /// It is the caller's, and earlier than ours: running into it says nothing of the upstream.
    pub is_callers_deadline: bool,
    /// By the worker's clock, in nanoseconds.
    pub started: u64,
    stream_idle: u32,
    /// Counts as active in metrics.
    active: Option<Active>,
    /// What ends with the exchange.
    holds: SmallVec<[Hold; 3]>,
    complete: bool,
}

impl Parts {
    fn empty() -> Self {
        Self {
            facts: Facts::empty(),
            deadline: None,
            is_callers_deadline: false,
            started: 0,
            stream_idle: 0,
            active: None,
            holds: SmallVec::new(),
            complete: false,
        }
    }

    /// Lets everything go.
    fn clear(&mut self) {
        self.facts.clear();
        (self.deadline, self.is_callers_deadline, self.stream_idle) = (None, false, 0);
        (self.active, self.complete) = (None, false);
        self.holds.clear();
    }
}

const HERE: &str = "there until dropped";

impl Deref for Exchange {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        self.parts.as_deref().expect(HERE)
    }
}

impl DerefMut for Exchange {
    fn deref_mut(&mut self) -> &mut Parts {
        self.parts.as_deref_mut().expect(HERE)
    }
}

impl Exchange {
    /// Enters a request into the table.
    #[must_use]
    pub fn http(worker: &Rc<Worker>, direction: Direction, head: &mut RequestHead) -> Self {
        let protocol = if head.is_grpc() { AppProtocol::Grpc } else { AppProtocol::Http };
        // First of all, so that whatever becomes of it has an id.
        let request_id = trace::join(&mut head.fields, worker);
        let mut exchange = Self::new(worker, direction, Class::Request, protocol, request_id);
        if worker.telemetry().is_logging() {
            exchange.facts.method = match &head.method {
                Method::Get => Bytes::from_static(b"GET"),
                Method::Post => Bytes::from_static(b"POST"),
                other => Bytes::copy_from_slice(other.as_str().as_bytes()),
            };
            exchange.facts.authority = head.authority.clone();
            exchange.facts.target = head.target.clone();
        }
        exchange
    }

    /// Enters a TCP stream into the table.
    #[must_use]
    pub fn tcp(worker: &Rc<Worker>, direction: Direction) -> Self {
        let request_id = trace::fresh(worker);
        Self::new(worker, direction, Class::Stream, AppProtocol::Tcp, request_id)
    }

    fn new(
        worker: &Rc<Worker>,
        direction: Direction,
        class: Class,
        protocol: AppProtocol,
        request_id: RequestId,
    ) -> Self {
        let spare = EXCHANGES.with(|rooms| rooms.borrow_mut().pop());
        let mut parts = spare.unwrap_or_else(|| Box::new(Parts::empty()));
        (parts.facts.direction, parts.facts.protocol) = (direction, protocol);
        (parts.facts.request_id, parts.started) = (request_id, worker.now());
        let live = worker.live.begin(class, 0);
        Self { parts: Some(parts), live, worker: Rc::clone(worker) }
    }

    /// Keeps `hold` until the exchange ends.
    pub fn hold(&mut self, hold: Hold) {
        self.holds.push(hold);
    }

    /// The edge is known: from now on it counts as active there. A retry towards another peer moves it.
    pub fn set_active(&mut self) {
        let active = self.worker.telemetry().active(&self.facts, self.live.class());
        self.active = Some(active);
    }

    /// The caller's side.
    fn request(&self) -> &RequestSide {
        &self.live.subject.request
    }

    /// Counts what the caller sends, and ends it when the exchange is ended from outside.
    #[must_use]
    pub fn count_request(&self, body: Body) -> Body {
        match body {
            Body::Empty => {
                self.request().end();
                Body::Empty
            }
            Body::Full(bytes) => {
                self.request().received.set(bytes.len() as u64);
                self.request().end();
                Body::Full(bytes)
            }
            body => Body::custom(CountedRequest { body, live: self.live.share(), worker: Rc::clone(&self.worker) }),
        }
    }

    /// Runs `work` until it is done, the deadline has come, or the exchange is ended from outside.
    pub async fn run<T>(&mut self, work: impl AsyncFnOnce(&mut Self) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let live = self.live.share();
        let mut work = std::pin::pin!(work(self));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(reason) = live.poll_ended(0, cx) {
                return Poll::Ready(Err(ended(reason)));
            }
            work.as_mut().poll(cx)
        })
        .await
    }

    /// An upgrade has been agreed to: from now on bytes flow for as long as both sides like.
    fn become_stream(&mut self) {
        self.live.set_class(Class::Stream);
        self.live.set_idle(self.stream_idle);
        self.deadline = None;
        self.set_active();
    }

    /// The idle timeouts: as a request, and once it has become a stream. `None` is for ever.
    pub fn set_idle(&mut self, timeouts: &Timeouts) {
        self.stream_idle = timeouts.tcp_idle.map_or(0, deadline::seconds);
        let as_request = timeouts.idle.map_or(0, deadline::seconds);
        self.live.set_idle(if self.live.class() == Class::Stream { self.stream_idle } else { as_request });
    }

    /// Sets the earlier of two deadlines.
    pub fn limit(&mut self, deadline: Option<Instant>) {
        self.deadline = match (self.deadline, deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    /// The exchange ends with this.
    pub fn conclude(self, outcome: Result<Response, Refusal>) -> Result<Response, Refusal> {
        match outcome {
            Ok(response) => Ok(self.measure(response)),
            Err(refusal) => {
                self.refused(&refusal);
                Err(refusal)
            }
        }
    }

    /// The exchange ends with this refusal.
    fn refused(mut self, refusal: &Refusal) {
        self.facts.status = if self.facts.protocol == AppProtocol::Tcp { 0 } else { refusal.http_status() };
        if self.facts.protocol == AppProtocol::Grpc {
            self.facts.status = 200;
            self.facts.grpc_status = Some(refusal.reason.grpc_status());
        }
        self.fail(refusal.reason, refusal.detail.clone());
        self.complete = true;
    }

    /// The exchange ends when the answer's body does.
    fn measure(mut self, mut response: Response) -> Response {
        self.facts.status = response.head.status;
        self.note_grpc_status(&response.head.fields);
        if response.head.status == 101 {
            self.become_stream();
        }
        match std::mem::take(&mut response.body) {
            Body::Empty => self.complete = true,
            Body::Full(bytes) => {
                self.facts.sent = bytes.len() as u64;
                self.complete = true;
                response.body = Body::Full(bytes);
            }
            body => {
                let late = self.deadline.map(|at| Late { at, sleep: Box::pin(tokio::time::sleep_until(at)) });
                let expected = match response.head.length {
                    BodyLength::Exact(length) => Some(length),
                    BodyLength::None | BodyLength::Unknown => None,
                };
                let measured = Measured { body, exchange: Some(self), late, expected };
                response.body = Body::boxed(measured.boxed());
            }
        }
        response
    }

    /// Notes why it failed; the first reason stays.
    pub fn fail(&mut self, reason: Reason, detail: Cow<'static, str>) {
        if self.facts.reason.is_none() {
            self.facts.reason = Some(reason);
            self.facts.detail = detail;
        }
    }

    fn note_grpc_status(&mut self, fields: &leno_http::Fields) {
        if self.facts.protocol == AppProtocol::Grpc
            && let Some(status) = fields.get_str("grpc-status").and_then(|s| s.parse().ok())
        {
            self.facts.grpc_status = Some(status);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.complete {
            let reason = self.live.ended().unwrap_or(Reason::DownstreamReset);
            self.fail(reason, Cow::Borrowed(""));
        }
        self.worker.record(&self.facts, self.active.as_ref(), self.started, self.request().received.get());
        let Some(mut parts) = self.parts.take() else { return };
        // Before the list is touched: what it holds may be an exchange itself.
        parts.clear();
        let mut parts = Some(parts);
        let _ = EXCHANGES.try_with(|rooms| {
            let mut rooms = rooms.borrow_mut();
            if rooms.len() < MAX_ROOMS {
                rooms.extend(parts.take());
            }
        });
    }
}

thread_local! {
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    static EXCHANGES: RefCell<Vec<Box<Parts>>> = const { RefCell::new(Vec::new()) };
}

/// What an exchange ended from outside is refused with.
pub fn ended(reason: Reason) -> Refusal {
    Refusal { reason, status: None, detail: Cow::Borrowed(""), unprocessed: false }
}

/// The caller's side of an exchange.
#[derive(Default)]
pub struct RequestSide {
    received: Cell<u64>,
    ended: Cell<bool>,
    /// A stream whose answer has ended while its caller still sends: it is under way until that has ended too.
    parked: RefCell<Option<Box<Exchange>>>,
}

impl RequestSide {
    fn clear(&mut self) {
        (*self.received.get_mut(), *self.ended.get_mut()) = (0, false);
        *self.parked.get_mut() = None;
    }

    fn end(&self) {
        self.ended.set(true);
        // Taken out first: dropping an exchange records it, which must not find the cell borrowed.
        let parked = self.parked.take();
        drop(parked);
    }
}

/// Proxies say nothing in trailers: a `leno-*` field there is somebody's who wants to be taken for one, and applications merge
/// trailers into headers (RFC 9110 section 6.5.1 warns of it).
fn strip_trailers(polled: &mut PollFrame) {
    if let Poll::Ready(Some(Ok(Frame::Trailers(fields)))) = polled {
        hygiene::strip_internal(fields);
    }
}

/// Counts a request's body on its way to the upstream.
struct CountedRequest {
    body: Body,
    live: Rc<Live<Subject>>,
    worker: Rc<Worker>,
}

impl BodyStream for CountedRequest {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        if let Some(reason) = self.live.ended() {
            return Poll::Ready(Some(Err(BodyError::new(reason, ""))));
        }
        let mut polled = self.body.poll_frame(cx);
        if polled.is_pending() {
            let _ = self.live.poll_ended(2, cx);
        }
        strip_trailers(&mut polled);
        match &polled {
            Poll::Ready(Some(Ok(Frame::Data(bytes)))) => {
                let received = &self.live.subject.request.received;
                received.set(received.get() + bytes.len() as u64);
                self.live.touch(self.worker.live.now());
            }
            Poll::Ready(None | Some(Err(_) | Ok(Frame::Trailers(_)))) => self.live.subject.request.end(),
            Poll::Pending => {}
        }
        polled
    }
}

impl Drop for CountedRequest {
    fn drop(&mut self) {
        self.live.subject.request.end();
    }
}

/// Counts an answer's body, and holds the exchange until it has ended.
struct Measured {
    body: Body,
    /// `None` once recorded or parked.
    exchange: Option<Exchange>,
    late: Option<Late>,
    /// A reader that has all bytes of a declared length need not ask for the end.
    expected: Option<u64>,
}

/// When an answer must have ended.
struct Late {
    at: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl BodyStream for Measured {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        if let Some(reason) = self.exchange.as_ref().and_then(|exchange| exchange.live.ended()) {
            return self.broken(BodyError::new(reason, ""));
        }
        let mut polled = self.body.poll_frame(cx);
        let is_late = match &mut self.late {
            None => false,
            // A reader that is slower than the body never finds it pending: the clock decides, too.
            Some(late) => late.at <= Instant::now() || (polled.is_pending() && late.sleep.as_mut().poll(cx).is_ready()),
        };
        if is_late {
            return self.broken(BodyError::new(Reason::RequestTimeout, "the answer was not complete in time"));
        }
        // Whoever could end it must know whom to wake; what is ready needs no waker.
        if polled.is_pending()
            && let Some(exchange) = &self.exchange
        {
            let _ = exchange.live.poll_ended(1, cx);
        }
        strip_trailers(&mut polled);
        let Some(exchange) = &mut self.exchange else { return polled };
        match &polled {
            Poll::Ready(Some(Ok(Frame::Data(bytes)))) => {
                exchange.facts.sent += bytes.len() as u64;
                exchange.live.touch();
                exchange.complete |= self.expected == Some(exchange.facts.sent);
            }
            Poll::Ready(Some(Ok(Frame::Trailers(fields)))) => {
                exchange.note_grpc_status(fields);
                self.finish();
            }
            Poll::Ready(None) => self.finish(),
            Poll::Ready(Some(Err(error))) => {
                let error = error.clone();
                return self.broken(error);
            }
            Poll::Pending => {}
        }
        polled
    }

    fn retire(mut self: Box<Self>) {
        // The source first: what it tells when it is let go belongs to the exchange.
        self.body = Body::Empty;
        (self.exchange, self.late) = (None, None);
        let mut room = Some(self);
        let _ = ROOMS.try_with(|rooms| {
            let mut rooms = rooms.borrow_mut();
            if rooms.len() < MAX_ROOMS {
                rooms.extend(room.take());
            }
        });
    }
}

/// Boxes that a thread keeps for the answers to come: as many as end in one turn of a busy worker.
const MAX_ROOMS: usize = 128;

thread_local! {
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    static ROOMS: RefCell<Vec<Box<Measured>>> = const { RefCell::new(Vec::new()) };
}

impl Measured {
    /// In a box that an earlier answer has left, if there is one.
    fn boxed(self) -> Box<Self> {
        match ROOMS.with(|rooms| rooms.borrow_mut().pop()) {
            Some(mut room) => {
                *room = self;
                room
            }
            None => Box::new(self),
        }
    }

    fn finish(&mut self) {
        let Some(mut exchange) = self.exchange.take() else { return };
        exchange.complete = true;
        if exchange.live.class() == Class::Stream && !exchange.request().ended.get() {
            let live = exchange.live.share();
            *live.subject.request.parked.borrow_mut() = Some(Box::new(exchange));
        }
    }

    fn broken(&mut self, error: BodyError) -> PollFrame {
        let Some(mut exchange) = self.exchange.take() else { return Poll::Ready(Some(Err(error))) };
        exchange.fail(error.reason, error.detail.clone());
        exchange.complete = true;
        if exchange.facts.protocol != AppProtocol::Grpc || exchange.facts.direction != Direction::Outbound {
            return Poll::Ready(Some(Err(error)));
        }
        exchange.facts.grpc_status = Some(error.reason.grpc_status());
        self.body = Body::Empty;
        let refusal = Refusal { reason: error.reason, status: None, detail: error.detail, unprocessed: false };
        Poll::Ready(Some(Ok(Frame::Trailers(refusal.into_grpc_trailers()))))
    }
}
