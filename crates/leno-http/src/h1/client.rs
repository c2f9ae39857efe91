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
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use leno_model::Reason;
use tokio::net::TcpStream;

use super::pool::Pool;
use super::response::{self, Asked, ParsedResponse, ResponseBody};
use super::send::{SendError, Writer};
use super::source::{Framing, HeadEnd, IncomingBody, Source};
use crate::body::{Body, InterimSink, PollFrame, Request, Response};
use crate::head::BodyLength;
use crate::pump::{Gate, Pump};
use crate::raw::{end_sending, probe_when_silent, reset};
use crate::refusal::StreamError;
use crate::spare::{self, stock};

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
    pub async fn send(&self, address: SocketAddr, request: Request) -> Result<Response, StreamError> {
        self.send_within(address, request, self.settings.connect_timeout).await
    }

    /// [`Client::send`] with a limit of its own on connecting.
    pub async fn send_within(
        &self,
        address: SocketAddr,
        request: Request,
        connect_timeout: Duration,
    ) -> Result<Response, StreamError> {
        let asked = Asked::by(&request.head.method);
        let exchange = Exchange { client: self, address, connect_timeout, asked };
        if let Some(source) = self.pool.take(address) {
            match exchange.run(source, request).await {
                Ok(response) => return Ok(response),
                Err(Failure::Stream(error)) => return Err(error),
                // The kernel took no byte: it is the same as if the connection had not been in the pool.
                Err(Failure::Unsent(request)) => {
                    return exchange.fresh(*request).await;
                }
            }
        }
        exchange.fresh(request).await
    }
}

enum Failure {
    Stream(StreamError),
    /// Nothing was sent and the request is whole.
    Unsent(Box<Request>),
}

struct Exchange<'a> {
    client: &'a Client,
    address: SocketAddr,
    connect_timeout: Duration,
    asked: Asked,
}

impl Exchange<'_> {
    async fn fresh(&self, request: Request) -> Result<Response, StreamError> {
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

    async fn run(&self, source: Rc<Source>, request: Request) -> Result<Response, Failure> {
        let mut lease =
            Lease { source: Some(source), pool: Rc::clone(&self.client.pool), address: self.address, pump: None };
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
            return self.answer(lease, interim.as_ref(), is_tunnel).await.map_err(Failure::Stream);
        }
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
        self.answer(lease, interim.as_ref(), is_tunnel).await.map_err(Failure::Stream)
    }

    /// Reads heads until the final one.
    async fn answer(
        &self,
        lease: Lease,
        interim: Option<&InterimSink>,
        is_tunnel: bool,
    ) -> Result<Response, StreamError> {
        for _ in 0..=MAX_INTERIM {
            let parsed = self.next_head(&lease).await?;
            let status = parsed.head.status;
            if status == 101 && (!is_tunnel || self.asked.is_connect) {
                return Err(protocol_error("101 without an upgrade in the request"));
            }
            if !parsed.head.is_interim() {
                return Ok(lease.response(parsed));
            }
            if status == 100 {
                lease.open_gate(true);
            }
            if let Some(interim) = interim {
                interim.send(parsed.head);
            }
        }
        Err(protocol_error("more than 32 interim responses"))
    }

    async fn next_head(&self, lease: &Lease) -> Result<ParsedResponse, StreamError> {
        let started = Cell::new(false);
        let source = lease.source();
        let mut head = pin!(source.head(&started));
        let limit = self.client.settings.continue_timeout;
        let mut waited = pin!(lease.is_waiting_for_100().then(|| tokio::time::sleep(limit)));
        let whole = poll_fn(|cx| {
            if let Poll::Ready(result) = head.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(head_error));
            }
            let is_late = |timer: Pin<&mut tokio::time::Sleep>, cx: &mut Context<'_>| timer.poll(cx).is_ready();
            if lease.is_waiting_for_100() && waited.as_mut().as_pin_mut().is_some_and(|timer| is_late(timer, cx)) {
                lease.open_gate(true);
            }
            // The caller's own failure ends the exchange; the application closing its reading side does not, it may still answer.
            match lease.poll_pump(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            }
        })
        .await?;
        response::read(whole, self.asked).map_err(|error| protocol_error(rule(error)))
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

fn send_error(error: SendError) -> StreamError {
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

/// A connection in use: back to the pool when both messages are through, closed otherwise.
struct Lease {
    source: Option<Rc<Source>>,
    pool: Rc<Pool>,
    address: SocketAddr,
    pump: Option<(Pump<SendError>, Rc<Gate>)>,
}

impl Lease {
    fn source(&self) -> &Rc<Source> {
        self.source.as_ref().expect("taken only when the lease ends")
    }

    fn io(&self) -> &Rc<TcpStream> {
        &self.source().io
    }

    fn is_waiting_for_100(&self) -> bool {
        self.pump.as_ref().is_some_and(|(_, gate)| gate.is_closed())
    }

    fn open_gate(&self, wanted: bool) {
        if let Some((_, gate)) = &self.pump {
            gate.open(wanted);
        }
    }

    /// Ready with an error if the caller's body failed; an application that takes no more bytes is no error yet.
    fn poll_pump(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let Some((pumped, _)) = &self.pump else { return Poll::Pending };
        match pumped.poll_failure(cx) {
            Poll::Ready(Err(error @ (SendError::Body(_) | SendError::Length))) => Poll::Ready(Err(send_error(error))),
            Poll::Ready(_) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Makes the response; its body holds the lease.
    fn response(self, parsed: ParsedResponse) -> Response {
        let framing = match parsed.body {
            ResponseBody::None => Framing::Done,
            ResponseBody::Length(length) => Framing::Length(length),
            ResponseBody::Chunked => Framing::Chunked(Box::default()),
            ResponseBody::UntilClose => Framing::UntilClose,
            ResponseBody::Raw => Framing::Raw,
        };
        let is_raw = parsed.body == ResponseBody::Raw;
        // Without a 100 or a switch, whatever was held back is not wanted; with a switch its time has come.
        self.open_gate(is_raw);
        let body = self.source().begin(framing);
        // A second of margin: the server's clock started before ours.
        let limit = parsed.keep_alive_seconds.map(|s| Duration::from_secs(s.saturating_sub(1)));
        let is_done =
            matches!(parsed.body, ResponseBody::None) && self.pump.as_ref().is_none_or(|(pump, _)| pump.is_over());
        let mut body = Leased { body, lease: Some(self), keep_alive: parsed.keep_alive, limit, is_raw };
        if is_done {
            body.finish();
            return Response::new(parsed.head, Body::Empty);
        }
        let mut room: Box<Option<Leased>> = spare::take().unwrap_or_default();
        *room = Some(body);
        Response::new(parsed.head, Body::H1Leased(LeasedBody(Some(room))))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Not finished: a reset tells the application that nobody waits any more, and costs no TIME_WAIT.
        if let Some(source) = self.source.take() {
            let _ = reset(&source.io);
        }
    }
}

/// A response body together with the connection it comes from, in a box that is used again.
pub struct LeasedBody(Option<Box<Option<Leased>>>);

stock!(LEASED: Box<Option<Leased>>);

impl LeasedBody {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        self.0.as_mut().and_then(|room| room.as_mut().as_mut()).expect("taken when dropped").poll_frame(cx)
    }

    pub(crate) fn is_end(&self) -> bool {
        self.0.as_ref().and_then(|room| room.as_ref().as_ref()).is_none_or(Leased::is_end)
    }
}

impl Drop for LeasedBody {
    fn drop(&mut self) {
        if let Some(mut room) = self.0.take() {
            *room = None;
            spare::give(room);
        }
    }
}

pub(crate) struct Leased {
    body: IncomingBody,
    lease: Option<Lease>,
    keep_alive: bool,
    limit: Option<Duration>,
    is_raw: bool,
}

impl Leased {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        let polled = self.body.poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.lease = None;
        } else if polled.is_ready() && self.body.source().is_done() {
            self.finish();
        }
        polled
    }

    fn is_end(&self) -> bool {
        self.body.is_end()
    }

    /// The response is through: what becomes of the connection?
    fn finish(&mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        let Some(source) = lease.source.take() else { return };
        let pump = lease.pump.take();
        if self.is_raw {
            // The caller's direction ends on its own.
            if let Some((pumped, _)) = pump {
                pumped.detach();
            }
            return;
        }
        let is_request_out = pump.as_ref().is_none_or(|(pumped, _)| pumped.is_whole());
        if self.keep_alive && is_request_out {
            lease.pool.put(lease.address, source, self.limit);
        }
    }
}
