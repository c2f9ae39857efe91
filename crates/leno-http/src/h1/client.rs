//! The client side of HTTP/1: requests over pooled connections to the application or a plain endpoint.
//!
//! ```text
//!   take from pool, or connect ──► head + first bytes ──► 1xx … ──► final head ──► body ──► back to the pool
//!        │ refused, timeout:            │ body still coming:              │ closed, wrong        │ not read to its end,
//!        ▼ unprocessed                  ▼ pumped by a local task          ▼ in flight            ▼ closing, request not out: closed
//! ```
//!
//! A request that may have reached the application is never sent twice, not even when a kept connection turns out to be dead:
//! whether the application closed it before or after working on the request cannot be seen from here.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use leno_model::Reason;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::lease::Lease;
use super::pool::Pool;
use super::response::{self, Asked, ParsedResponse};
use super::send::{SendError, Writer, with_outgoing};
use super::source::{HeadEnd, HeadReader, Source};
use crate::body::{Body, InterimSink, Request, Response};
use crate::head::{BodyLength, Method};
use crate::pump::{Gate, Pump};
use crate::raw::{end_sending, probe_when_silent};
use crate::refusal::StreamError;

/// Interim responses to one request; more is an upstream gone wrong. Twice what any sink passes on.
const MAX_INTERIM: usize = 32;
/// Bodies up to this size are sent before the answer is read; larger ones beside it.
const INLINE_BODY: usize = 16 * 1024;

/// Asked before each new connection, so that its owner may say no: nothing is sent then. Connections that stand are not asked about.
#[derive(Clone, Default)]
pub struct ConnectGuard(Option<Rc<ConnectCheck>>);

type ConnectCheck = dyn Fn(SocketAddr) -> Result<(), StreamError>;

impl ConnectGuard {
    /// Asks `check`.
    #[must_use]
    pub fn new(check: impl Fn(SocketAddr) -> Result<(), StreamError> + 'static) -> Self {
        Self(Some(Rc::new(check)))
    }

    /// Whether a connection to `address` may be made.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, address: SocketAddr) -> Result<(), StreamError> {
        self.0.as_ref().map_or(Ok(()), |check| check(address))
    }
}

impl std::fmt::Debug for ConnectGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "ConnectGuard(some)" } else { "ConnectGuard(none)" })
    }
}

/// How connections are made and kept.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Asked before each connection.
    pub guard: ConnectGuard,
    /// Until a connection stands (DESIGN section 7).
    pub connect_timeout: Duration,
    /// How long an idle connection is kept. 4 s: Node, Apache and uvicorn close theirs after 5 s, and a request that meets a
    /// closing connection is lost, while a new connection on the same host costs 50 µs. A server's own `Keep-Alive: timeout`
    /// shortens it.
    pub idle_timeout: Duration,
    /// Idle connections per address; beyond them the oldest is closed.
    pub max_idle: usize,
    /// How long a body is held back for a 100 that an application may never send (RFC 9110 section 10.1.1 asks for a limit;
    /// curl waits as long).
    pub continue_timeout: Duration,
    /// How long a body may be stuck because the application takes no bytes.
    pub write_timeout: Duration,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            guard: ConnectGuard::default(),
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(4),
            max_idle: 256,
            continue_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(300),
        }
    }
}

/// Sends requests; one per worker, cheap to clone.
#[derive(Clone)]
pub struct Client {
    pool: Rc<Pool>,
    settings: Rc<ClientSettings>,
}

impl Client {
    /// A client without connections.
    #[must_use]
    pub fn new(settings: ClientSettings) -> Self {
        Self { pool: Pool::new(settings.idle_timeout, settings.max_idle), settings: Rc::new(settings) }
    }

    /// Idle connections.
    #[must_use]
    pub fn idle_connections(&self) -> usize {
        self.pool.len()
    }

    /// Closes the idle connections to `address`, or all of them.
    pub fn close_idle(&self, address: Option<SocketAddr>) {
        self.pool.forget(address);
    }

    /// Sends a request and waits for the head of the final response. Dropping the future, or later the response before its end,
    /// closes the connection.
    ///
    /// # Errors
    /// Why there is no response, and whether the request can have reached the application.
    pub fn send(&self, address: SocketAddr, request: Request) -> Sending {
        self.send_within(address, request, self.settings.connect_timeout)
    }

    /// [`Client::send`] with a limit of its own on connecting.
    pub fn send_within(&self, address: SocketAddr, request: Request, connect_timeout: Duration) -> Sending {
        let asked = Asked::by(&request.head.method);
        let exchange = Exchange { client: self.clone(), address, connect_timeout, asked };
        let Some(source) = self.pool.take(address) else { return Sending::boxed(exchange.fresh(request)) };
        if !is_quick(&request) {
            return Sending::boxed(exchange.on_pooled(source, request));
        }
        let lease = exchange.lease(source);
        match quick(&request, &lease) {
            Ok(true) => Sending(Phase::Answer(Answer::new(lease, request.interim, asked))),
            // The kernel took no byte: it is the same as if the connection had not been in the pool.
            Ok(false) => Sending::boxed(exchange.fresh(request)),
            Err(rest) => Sending::boxed(exchange.rest(lease, rest, request.interim)),
        }
    }
}

/// A request on its way, until the head of its final response.
///
/// The usual case is small: the request is out, its answer is awaited. Whatever has to wait for something else first is on the heap.
pub struct Sending(Phase);

enum Phase {
    Answer(Answer),
    Slow(Pin<Box<dyn Future<Output = Result<Response, StreamError>>>>),
}

impl Sending {
    /// A request that is sent in some other way.
    #[must_use]
    pub fn boxed(work: impl Future<Output = Result<Response, StreamError>> + 'static) -> Self {
        Self(Phase::Slow(Box::pin(work)))
    }
}

impl Future for Sending {
    type Output = Result<Response, StreamError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Phase::Answer(answer) => answer.poll(cx),
            Phase::Slow(work) => work.as_mut().poll(cx),
        }
    }
}

/// Whether all of a request is at hand and small: it is sent with one call, and nothing has to be waited for.
fn is_quick(request: &Request) -> bool {
    let head = &request.head;
    let is_plain = head.upgrade.is_none() && head.method != Method::Connect && !head.expect_continue;
    is_plain
        && match &request.body {
            Body::Empty => matches!(head.length, BodyLength::None | BodyLength::Exact(0)),
            Body::Full(bytes) => bytes.len() <= INLINE_BODY && head.length == BodyLength::Exact(bytes.len() as u64),
            _ => false,
        }
}

/// Sends a request with one call. `Ok(false)`: nothing was sent; `Err`: what the kernel had no room for.
fn quick(request: &Request, lease: &Lease) -> Result<bool, Vec<u8>> {
    with_outgoing(|out| {
        super::write::request(&request.head, lease.address, out);
        if let Body::Full(bytes) = &request.body {
            out.extend_from_slice(bytes);
        }
        match lease.io().try_write(out) {
            Ok(length) if length == out.len() => Ok(true),
            Ok(length) => Err(out[length..].to_vec()),
            // An idle connection that takes no byte is as bad as one that is broken.
            Err(_) => Ok(false),
        }
    })
}

enum Failure {
    Stream(StreamError),
    /// Nothing was sent and the request is whole.
    Unsent(Box<Request>),
}

struct Exchange {
    client: Client,
    address: SocketAddr,
    connect_timeout: Duration,
    asked: Asked,
}

impl Exchange {
    fn lease(&self, source: Rc<Source>) -> Lease {
        Lease { source: Some(source), pool: Rc::clone(&self.client.pool), address: self.address, pump: None }
    }

    /// On a connection of the pool, or else on a new one.
    async fn on_pooled(self, source: Rc<Source>, request: Request) -> Result<Response, StreamError> {
        match self.run(source, request).await {
            Ok(response) => Ok(response),
            Err(Failure::Stream(error)) => Err(error),
            // The kernel took no byte: it is the same as if the connection had not been in the pool.
            Err(Failure::Unsent(request)) => self.fresh(*request).await,
        }
    }

    async fn fresh(self, request: Request) -> Result<Response, StreamError> {
        self.client.settings.guard.check(self.address)?;
        let io = connect(self.address, self.connect_timeout).await?;
        let source = Source::new(Rc::new(io), Reason::UpstreamReset);
        self.run(source, request).await.map_err(|failure| match failure {
            Failure::Stream(error) => error,
            Failure::Unsent(_) => {
                StreamError::unprocessed(Reason::UpstreamReset, "the connection ended before the request was sent")
            }
        })
    }

    /// The rest of a request that did not fit into the socket at once.
    async fn rest(self, lease: Lease, rest: Vec<u8>, interim: Option<InterimSink>) -> Result<Response, StreamError> {
        let progress = Cell::new(0);
        let io = Rc::clone(lease.io());
        let mut writer = Writer::new(&io, &progress, Some(self.client.settings.write_timeout));
        writer.append(&rest);
        writer.flush().await.map_err(send_error)?;
        drop(writer);
        self.answer(Answer::new(lease, interim, self.asked)).await
    }

    async fn run(&self, source: Rc<Source>, request: Request) -> Result<Response, Failure> {
        let mut lease = self.lease(source);
        let Request { head, body, interim } = request;
        let is_tunnel = head.upgrade.is_some() || self.asked.is_connect;
        let is_small = match &body {
            _ if is_tunnel => false,
            Body::Empty => true,
            Body::Full(bytes) => bytes.len() <= INLINE_BODY && !head.expect_continue,
            _ => matches!(head.length, BodyLength::None | BodyLength::Exact(0)),
        };
        if is_small {
            let spare = match &body {
                Body::Full(bytes) => Some(Body::Full(bytes.clone())),
                Body::Empty => Some(Body::Empty),
                _ => None,
            };
            let mut body = body;
            let progress = Cell::new(0);
            let io = Rc::clone(lease.io());
            let mut writer = Writer::new(&io, &progress, Some(self.client.settings.write_timeout));
            writer.request(&head, self.address);
            if let Err(error) = writer.send(&mut body).await {
                if let (0, Some(body), SendError::Io(_)) = (writer.sent, spare, &error) {
                    return Err(Failure::Unsent(Box::new(Request { head, body, interim })));
                }
                return Err(Failure::Stream(send_error(error)));
            }
            return self.answer(Answer::new(lease, interim, self.asked)).await.map_err(Failure::Stream);
        }
        let may_switch = head.upgrade.is_some() && !self.asked.is_connect;
        let gate = Rc::new(Gate::default());
        let is_held = head.expect_continue || is_tunnel;
        if !is_held {
            gate.open(true);
        }
        let pump = pump(PumpParts {
            io: Rc::clone(lease.io()),
            head,
            body,
            address: self.address,
            gate: Rc::clone(&gate),
            is_tunnel,
            stall: self.client.settings.write_timeout,
        });
        lease.pump = Some((Pump::start(pump).await, gate));
        let answer = Answer { may_switch, ..Answer::new(lease, interim, self.asked) };
        self.answer(answer).await.map_err(Failure::Stream)
    }

    async fn answer(&self, mut answer: Answer) -> Result<Response, StreamError> {
        if answer.lease().is_waiting_for_100() {
            answer.until_continue = Some(Box::pin(tokio::time::sleep(self.client.settings.continue_timeout)));
        }
        poll_fn(|cx| answer.poll(cx)).await
    }
}

/// Waits for the head of the final response.
struct Answer {
    /// Taken by the response.
    lease: Option<Lease>,
    reader: HeadReader,
    interim: Option<InterimSink>,
    asked: Asked,
    /// The request asks for an upgrade.
    may_switch: bool,
    /// Interim responses so far.
    interims: usize,
    /// The body is held back for a 100 until then.
    until_continue: Option<Pin<Box<Sleep>>>,
}

impl Answer {
    fn new(lease: Lease, interim: Option<InterimSink>, asked: Asked) -> Self {
        Self {
            lease: Some(lease),
            reader: HeadReader::default(),
            interim,
            asked,
            may_switch: false,
            interims: 0,
            until_continue: None,
        }
    }

    fn lease(&self) -> &Lease {
        self.lease.as_ref().expect("not polled again once there is a response")
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, StreamError>> {
        loop {
            let parsed = ready!(self.poll_head(cx))?;
            let status = parsed.head.status;
            if status == 101 && !self.may_switch {
                return Poll::Ready(Err(protocol_error("101 without an upgrade in the request")));
            }
            if !parsed.head.is_interim() {
                let lease = self.lease.take().expect("not polled again once there is a response");
                return Poll::Ready(Ok(lease.response(parsed)));
            }
            self.interims += 1;
            if self.interims > MAX_INTERIM {
                return Poll::Ready(Err(protocol_error("more than 32 interim responses")));
            }
            if status == 100 {
                self.lease().open_gate(true);
            }
            if let Some(interim) = &self.interim {
                interim.send(parsed.head);
            }
            self.reader = HeadReader::default();
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ParsedResponse, StreamError>> {
        let lease = self.lease.as_ref().expect("not polled again once there is a response");
        if let Poll::Ready(result) = lease.source().poll_head(&mut self.reader, cx) {
            let whole = result.map_err(head_error)?;
            return Poll::Ready(response::read(whole, self.asked).map_err(|error| protocol_error(rule(error))));
        }
        let is_late = self.until_continue.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
        if is_late {
            self.until_continue = None;
            lease.open_gate(true);
        }
        // The caller's own failure ends the exchange; the application closing its reading side does not, it may still answer.
        match lease.poll_pump(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}

/// Connects within `limit`.
///
/// # Errors
/// `connect_timeout` or `connect_refused`; nothing was sent.
pub async fn connect(address: SocketAddr, limit: Duration) -> Result<TcpStream, StreamError> {
    match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(io)) => {
            let _ = io.set_nodelay(true);
            probe_when_silent(&io);
            Ok(io)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
            Err(StreamError::unprocessed(Reason::ConnectTimeout, error.to_string()))
        }
        Ok(Err(error)) => Err(StreamError::unprocessed(Reason::ConnectRefused, error.to_string())),
        Err(_) => Err(StreamError::unprocessed(
            Reason::ConnectTimeout,
            format!("no connection to {address} within {limit:?}"),
        )),
    }
}

fn protocol_error(detail: &'static str) -> StreamError {
    StreamError::in_flight(Reason::UpstreamProtocolError, detail)
}

fn rule(error: super::parse::ParseError) -> &'static str {
    match error {
        super::parse::ParseError::Malformed(rule) | super::parse::ParseError::TooLarge(rule) => rule,
    }
}

fn head_error(end: HeadEnd) -> StreamError {
    match end {
        HeadEnd::Eof(false) => StreamError::in_flight(Reason::UpstreamReset, "the connection ended before a response"),
        HeadEnd::Eof(true) => {
            StreamError::in_flight(Reason::UpstreamReset, "the connection ended inside the response head")
        }
        HeadEnd::Io(error) => StreamError::in_flight(Reason::UpstreamReset, error.to_string()),
        HeadEnd::Invalid(error) => protocol_error(rule(error)),
    }
}

pub(super) fn send_error(error: SendError) -> StreamError {
    match error {
        SendError::Io(error) => StreamError::in_flight(Reason::UpstreamReset, error.to_string()),
        SendError::Body(error) => StreamError::in_flight(error.reason, error.detail),
        SendError::Length => {
            StreamError::in_flight(Reason::MalformedRequest, "the body is not as long as content-length says")
        }
    }
}

struct PumpParts {
    io: Rc<TcpStream>,
    head: crate::head::RequestHead,
    body: Body,
    address: SocketAddr,
    gate: Rc<Gate>,
    is_tunnel: bool,
    stall: Duration,
}

/// Sends a request with a body that is still coming. `Ok(false)`: the body was never asked for.
async fn pump(mut parts: PumpParts) -> Result<bool, SendError> {
    let progress = Cell::new(0);
    let mut writer = Writer::new(&parts.io, &progress, (!parts.is_tunnel).then_some(parts.stall));
    writer.request(&parts.head, parts.address);
    if parts.gate.is_closed() {
        writer.flush().await?;
        if !parts.gate.passed().await {
            return Ok(false);
        }
    }
    if parts.is_tunnel {
        writer.raw();
    }
    writer.send(&mut parts.body).await?;
    if parts.is_tunnel {
        end_sending(&parts.io).map_err(SendError::Io)?;
    }
    Ok(true)
}
