//! The client side of HTTP/2: requests to applications and plain endpoints over shared connections.
//!
//! ```text
//!   address ──► connection with room ──────────────────────────────► stream ──► 1xx … ──► head ──► body, trailers
//!                 │ none: connect once, all who wait share it          │ REFUSED_STREAM, above GOAWAY: unprocessed
//!                 │ full: up to 4 connections, then wait for room      │ RST, connection lost: in flight
//! ```

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use leno_model::Reason;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::body::H2Body;
use super::driver::{Driver, Shared};
use super::head::put_request;
use super::send::{Outgoing, SendError};
use crate::body::{Body, InterimSink, Request, Response};
use crate::by_address::ByAddress;
use crate::h1::ConnectGuard;
use crate::head::{BodyLength, Method, ResponseHead};
use crate::mux::limits::MAX_STREAMS;
use crate::mux::{HeadPart, Side, StreamKey};
use crate::pump::{Gate, Pump};
use crate::refusal::StreamError;

/// Connections to one address. More than one only helps against servers that allow few streams.
const MAX_CONNECTIONS: usize = 4;
/// How often a server's stream limit is looked at while it is reached.
const LIMIT_CHECK: Duration = Duration::from_millis(100);

/// How connections are made and kept.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Asked before each connection.
    pub guard: ConnectGuard,
    /// Until a connection stands, its HTTP/2 preface included; also how long a request waits for room when every connection is at
    /// the server's stream limit.
    pub connect_timeout: Duration,
    /// How long a connection without streams is kept. HTTP/2 servers say GOAWAY before they close, so it may be long.
    pub idle_timeout: Duration,
    /// How long a body is held back for a 100 that may never come.
    pub continue_timeout: Duration,
    /// How long the server may give no window while there are bytes for it.
    pub write_timeout: Duration,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            guard: ConnectGuard::default(),
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(300),
            continue_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(300),
        }
    }
}

/// Sends requests; one per worker, cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Rc<Inner>,
}

struct Inner {
    settings: ClientSettings,
    slots: RefCell<ByAddress<Slot>>,
    /// Told whenever a stream has ended.
    freed: Rc<Notify>,
    is_swept: Cell<bool>,
}

#[derive(Default)]
struct Slot {
    connections: Vec<Rc<Connection>>,
    connecting: Option<Rc<Connecting>>,
}

struct Connection {
    shared: Rc<Shared>,
    used: Cell<Instant>,
}

/// A connection attempt that several requests wait for.
#[derive(Default)]
struct Connecting {
    result: RefCell<Option<Result<(), StreamError>>>,
    done: Notify,
}

impl Client {
    /// A client without connections.
    #[must_use]
    pub fn new(settings: ClientSettings) -> Self {
        Self {
            inner: Rc::new(Inner {
                settings,
                slots: RefCell::default(),
                freed: Rc::default(),
                is_swept: Cell::new(false),
            }),
        }
    }

    /// Open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.slots.borrow().values().map(|s| s.connections.len()).sum()
    }

    /// Takes no more streams on the connections to `address`, or on any; those under way finish.
    pub fn close_idle(&self, address: Option<SocketAddr>) {
        match address {
            Some(address) => drop(self.inner.slots.borrow_mut().remove(&address)),
            None => self.inner.slots.borrow_mut().clear(),
        }
    }

    /// Sends a request and waits for the head of the final response. Dropping the future, or later the response before its end,
    /// resets the stream.
    ///
    /// # Errors
    /// Why there is no response, and whether the request can have reached the application.
    pub async fn send(&self, address: SocketAddr, request: Request) -> Result<Response, StreamError> {
        self.send_within(address, request, self.inner.settings.connect_timeout).await
    }

    /// [`Client::send`] with a limit of its own on connecting; whoever connects first sets it for all who wait.
    pub async fn send_within(
        &self,
        address: SocketAddr,
        request: Request,
        connect_timeout: Duration,
    ) -> Result<Response, StreamError> {
        let connection = self.pick(address, connect_timeout).await?;
        let Request { head, body, interim } = request;
        let is_tunnel = head.method == Method::Connect;
        let is_told_empty = matches!(head.length, BodyLength::None | BodyLength::Exact(0));
        let is_end = !is_tunnel && (is_told_empty || (body.is_end() && head.length == BodyLength::Unknown));
        let shared = Rc::clone(&connection.shared);
        let write = |out: &mut Vec<u8>| {
            put_request(out, &head, address);
            Ok(())
        };
        let key = shared.with(|e| e.open(write, is_end))?;
        let lease = Lease { connection, freed: Rc::clone(&self.inner.freed), key, pump: None, is_tunnel };
        let mut answer = H2Body::new(Rc::clone(&shared), key, BodyLength::Unknown).with_lease(lease);
        let gate = Rc::new(Gate::default());
        if !head.expect_continue {
            gate.open(true);
        }
        if is_end {
            let mut body = body;
            body.settle().await;
        } else {
            let stall = (!is_tunnel).then_some(self.inner.settings.write_timeout);
            let outgoing = Outgoing::new(body, head.length, stall);
            answer.set_pump(Pump::start(pump(shared, key, outgoing, Rc::clone(&gate))).await);
        }
        let exchange = Exchange {
            answer: Some(answer),
            gate,
            is_tunnel,
            is_head: head.method == Method::Head,
            continue_timeout: self.inner.settings.continue_timeout,
            waited: None,
        };
        drop(head);
        exchange.answer(interim.as_ref()).await
    }

    /// A connection with room for one more stream.
    async fn pick(&self, address: SocketAddr, limit: Duration) -> Result<Rc<Connection>, StreamError> {
        let (mut deadline, mut attempts) = (None, 0);
        loop {
            // Made before the look, so that no stream's end is missed.
            let freed = self.inner.freed.notified();
            let waiting = {
                let mut slots = self.inner.slots.borrow_mut();
                let slot = slots.entry(address).or_default();
                slot.connections.retain(|c| !c.is_dead());
                let best = slot.connections.iter().min_by_key(|c| c.streams());
                if let Some(best) = best
                    && best.has_room()
                {
                    return Ok(Rc::clone(best));
                }
                match &slot.connecting {
                    Some(connecting) => Some(Rc::clone(connecting)),
                    None if slot.connections.len() >= MAX_CONNECTIONS => None,
                    None => {
                        self.inner.settings.guard.check(address)?;
                        let connecting = Rc::new(Connecting::default());
                        slot.connecting = Some(Rc::clone(&connecting));
                        let opening = open(Rc::downgrade(&self.inner), address, limit, Rc::clone(&connecting));
                        tokio::task::spawn_local(opening);
                        Some(connecting)
                    }
                }
            };
            match waiting {
                Some(connecting) => {
                    connecting.wait().await?;
                    attempts += 1;
                    if attempts > MAX_CONNECTIONS {
                        return Err(StreamError::unprocessed(
                            Reason::UpstreamReset,
                            "every new connection ended at once",
                        ));
                    }
                }
                None => {
                    let until = *deadline.get_or_insert_with(|| Instant::now() + limit);
                    if Instant::now() >= until {
                        let detail = "the server takes no more streams";
                        return Err(StreamError::unprocessed(Reason::RefusedStream, detail));
                    }
                    // The server may also raise its limit, which nobody is told of.
                    let _ = tokio::time::timeout_at(until.min(Instant::now() + LIMIT_CHECK), freed).await;
                }
            }
        }
    }
}

impl Connecting {
    async fn wait(&self) -> Result<(), StreamError> {
        loop {
            let done = self.done.notified();
            if let Some(result) = &*self.result.borrow() {
                return result.clone();
            }
            done.await;
        }
    }
}

impl Connection {
    fn streams(&self) -> u32 {
        self.shared.with_quietly(|e| e.open_streams())
    }

    fn has_room(&self) -> bool {
        self.shared.with_quietly(|e| e.room().is_ok())
    }

    /// Takes no more streams.
    fn is_dead(&self) -> bool {
        self.shared.with_quietly(|e| e.is_draining())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Nobody holds it or a stream of it any more.
        self.shared.drain();
    }
}

/// Connects, for all who wait. Not part of a request, so that a cancelled request does not undo it for the others.
async fn open(inner: Weak<Inner>, address: SocketAddr, limit: Duration, connecting: Rc<Connecting>) {
    let result = match tokio::time::timeout(limit, handshake(address, limit)).await {
        Ok(result) => result,
        Err(_) => Err(StreamError::unprocessed(
            Reason::ConnectTimeout,
            format!("no HTTP/2 connection to {address} within {limit:?}"),
        )),
    };
    if let Some(inner) = inner.upgrade() {
        let mut slots = inner.slots.borrow_mut();
        let slot = slots.entry(address).or_default();
        slot.connecting = None;
        if let Ok(connection) = &result {
            slot.connections.push(Rc::clone(connection));
        }
        drop(slots);
        inner.start_sweep();
    }
    connecting.result.replace(Some(result.map(|_| ())));
    connecting.done.notify_waiters();
}

async fn handshake(address: SocketAddr, limit: Duration) -> Result<Rc<Connection>, StreamError> {
    let io = crate::h1::connect(address, limit).await?;
    // Pings would find a dead peer too, but gRPC servers take frequent ones for an attack.
    let _ =
        socket2::SockRef::from(&io).set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(Duration::from_secs(30)));
    let driver = Driver::new(Side::Origination, io, None, MAX_STREAMS);
    let connection = Rc::new(Connection { shared: driver.shared(), used: Cell::new(Instant::now()) });
    // What goes wrong is told to the streams.
    tokio::task::spawn_local(async move { drop(driver.run(drop).await) });
    // A server that speaks something else is found out before a request is lost to it, and one that takes few streams before
    // it gets too many.
    connection.shared.ready().await.map_err(|error| {
        StreamError::unprocessed(Reason::UpstreamProtocolError, format!("no HTTP/2: {}", error.detail))
    })?;
    if connection.is_dead() {
        return Err(StreamError::unprocessed(Reason::RefusedStream, "the server takes no streams any more"));
    }
    Ok(connection)
}

impl Inner {
    fn start_sweep(self: &Rc<Self>) {
        if !self.is_swept.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(self), self.settings.idle_timeout));
        }
    }
}

/// Lets go of connections that are idle or dead; ends with the client or with its last connection.
async fn sweep(inner: Weak<Inner>, idle_timeout: Duration) {
    loop {
        tokio::time::sleep(idle_timeout / 2).await;
        let Some(inner) = inner.upgrade() else { return };
        let mut slots = inner.slots.borrow_mut();
        slots.retain(|_, slot| {
            slot.connections.retain(|c| !c.is_dead() && (c.streams() > 0 || c.used.get().elapsed() < idle_timeout));
            !slot.connections.is_empty() || slot.connecting.is_some()
        });
        if slots.is_empty() {
            inner.is_swept.set(false);
            return;
        }
    }
}

/// What a response's body holds until its end.
pub(super) struct Lease {
    connection: Rc<Connection>,
    /// Told that there is room for another stream.
    freed: Rc<Notify>,
    key: StreamKey,
    pump: Option<Pump<SendError>>,
    is_tunnel: bool,
}

impl Lease {
    pub(super) fn set_pump(&mut self, pump: Pump<SendError>) {
        self.pump = Some(pump);
    }

    fn pump(&self) -> Option<&Pump<SendError>> {
        self.pump.as_ref()
    }

    /// The body is over; `is_whole` if it came to its end.
    pub(super) fn end(mut self, is_whole: bool) {
        match self.pump.take() {
            // In a tunnel the caller's direction ends on its own.
            Some(pump) if self.is_tunnel && is_whole => pump.detach(),
            // What the server did not take of the request before it had answered, it does not want.
            pump => {
                drop(pump);
                self.connection.shared.with(|e| e.reset(self.key, Reason::DownstreamReset, false, ""));
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.used.set(Instant::now());
        self.freed.notify_waiters();
    }
}

/// Sends a request's body. `Ok(false)`: the server did not want it.
async fn pump(shared: Rc<Shared>, key: StreamKey, mut outgoing: Outgoing, gate: Rc<Gate>) -> Result<bool, SendError> {
    if gate.is_closed() && !gate.passed().await {
        return Ok(false);
    }
    match poll_fn(|cx| outgoing.poll(&shared, key, cx)).await {
        Ok(()) => Ok(true),
        Err(SendError::Stopped) => Ok(false),
        Err(error) => {
            shared.with(|e| e.reset(key, Reason::DownstreamReset, false, ""));
            Err(error)
        }
    }
}

/// A request under way, waiting for its response.
struct Exchange {
    /// Until the head is there. Dropped, it resets the stream.
    answer: Option<H2Body>,
    gate: Rc<Gate>,
    is_tunnel: bool,
    is_head: bool,
    continue_timeout: Duration,
    /// How long the body is held back.
    waited: Option<Pin<Box<Sleep>>>,
}

impl Exchange {
    async fn answer(mut self, interim: Option<&InterimSink>) -> Result<Response, StreamError> {
        poll_fn(|cx| self.poll(interim, cx)).await
    }

    fn poll(&mut self, interim: Option<&InterimSink>, cx: &mut Context<'_>) -> Poll<Result<Response, StreamError>> {
        loop {
            let answer = self.answer.as_ref().expect("polled until it is ready");
            match answer.poll_head(cx) {
                Poll::Ready(Ok(HeadPart::Interim(head))) => {
                    if head.status == 100 {
                        self.gate.open(true);
                    }
                    if let Some(interim) = interim {
                        interim.send(head);
                    }
                }
                Poll::Ready(Ok(HeadPart::Final(head, is_end))) => {
                    // Without a 100 before the final response, the body is not wanted.
                    self.gate.open(false);
                    return Poll::Ready(self.finish(head, is_end));
                }
                // The caller's own failure is the cause of the reset that is seen here.
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.own_failure(cx).unwrap_or(error))),
                Poll::Pending => {
                    if self.gate.is_closed() {
                        let limit = self.continue_timeout;
                        let waited = self.waited.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                        if waited.as_mut().poll(cx).is_ready() {
                            self.gate.open(true);
                        }
                    }
                    return match self.own_failure(cx) {
                        Some(error) => Poll::Ready(Err(error)),
                        None => Poll::Pending,
                    };
                }
            }
        }
    }

    /// Failures of the request that are not the server's.
    fn own_failure(&self, cx: &mut Context<'_>) -> Option<StreamError> {
        match self.answer.as_ref()?.lease()?.pump()?.poll_failure(cx) {
            Poll::Ready(Err(SendError::Body(error))) => Some(StreamError::in_flight(error.reason, error.detail)),
            Poll::Ready(Err(SendError::Length)) => {
                Some(StreamError::in_flight(Reason::MalformedRequest, "the body is not as long as content-length says"))
            }
            Poll::Ready(Err(SendError::Stalled)) => {
                Some(StreamError::in_flight(Reason::UpstreamReset, "the server took no more of the body"))
            }
            Poll::Ready(Ok(()) | Err(SendError::Stopped)) | Poll::Pending => None,
        }
    }

    fn finish(&mut self, head: ResponseHead, is_end: bool) -> Result<Response, StreamError> {
        let mut answer = self.answer.take().expect("taken once");
        let is_told_only = self.is_head || head.status == 304;
        let is_tunnel = self.is_tunnel && (200..300).contains(&head.status);
        if is_end && !is_tunnel {
            answer.end(true);
            if !is_told_only && matches!(head.length, BodyLength::Exact(1..)) {
                return Err(StreamError::in_flight(
                    Reason::UpstreamProtocolError,
                    "no body where content-length tells of one",
                ));
            }
            return Ok(Response::new(head, Body::Empty));
        }
        answer.expect(if is_told_only { BodyLength::Unknown } else { head.length });
        Ok(Response::new(head, Body::H2(Box::new(answer))))
    }
}
