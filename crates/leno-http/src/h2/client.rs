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
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use ::h2::SendStream;
use ::h2::client::{ResponseFuture, SendRequest};
use bytes::Bytes;
use leno_model::Reason;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::body::{H2Body, Side};
use super::send::{SendError, send_body};
use super::{CONNECTION_WINDOW, HEADER_LIST, SEND_BUFFER, STREAM_WINDOW, convert};
use crate::body::{Body, InterimSink, Request, Response};
use crate::by_address::ByAddress;
use crate::h1::ConnectGuard;
use crate::head::{BodyLength, Method};
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
    send: SendRequest<Bytes>,
    streams: Cell<usize>,
    is_dead: Cell<bool>,
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
        let converted = convert::to_request(&request.head, address)
            .map_err(|rule| StreamError::unprocessed(Reason::MalformedRequest, rule))?;
        let (connection, mut ready) = self.connection(address, connect_timeout).await?;
        let Request { head, body, interim } = request;
        let is_tunnel = head.method == Method::Connect;
        let is_told_empty = matches!(head.length, BodyLength::None | BodyLength::Exact(0));
        let is_end = !is_tunnel && (is_told_empty || (body.is_end() && head.length == BodyLength::Unknown));
        let stream = Stream::begin(&connection, &self.inner.freed);
        let (response, sender) = ready.send_request(converted, is_end).map_err(|error| refused(&connection, &error))?;
        let gate = Rc::new(Gate::default());
        if !head.expect_continue {
            gate.open(true);
        }
        let pump = match is_end {
            true => {
                let mut body = body;
                body.settle().await;
                None
            }
            false => {
                let stall = (!is_tunnel).then_some(self.inner.settings.write_timeout);
                Some(Pump::start(pump(sender, body, head.length, Rc::clone(&gate), stall)).await)
            }
        };
        let exchange = Exchange {
            pump,
            gate,
            stream,
            is_tunnel,
            is_head: head.method == Method::Head,
            continue_timeout: self.inner.settings.continue_timeout,
        };
        exchange.answer(response, interim).await
    }

    /// A connection with room for one more stream.
    async fn connection(
        &self,
        address: SocketAddr,
        limit: Duration,
    ) -> Result<(Rc<Connection>, SendRequest<Bytes>), StreamError> {
        // A connection that turns out to be going away is replaced; one that fails anew each time is the server's doing.
        for _ in 0..=MAX_CONNECTIONS {
            let connection = self.pick(address, limit).await?;
            match connection.send.clone().ready().await {
                Ok(ready) => return Ok((connection, ready)),
                Err(_) => connection.is_dead.set(true),
            }
        }
        Err(StreamError::unprocessed(Reason::UpstreamReset, "every new connection ended at once"))
    }

    async fn pick(&self, address: SocketAddr, limit: Duration) -> Result<Rc<Connection>, StreamError> {
        let mut deadline = None;
        loop {
            // Made before the look, so that no stream's end is missed.
            let freed = self.inner.freed.notified();
            let waiting = {
                let mut slots = self.inner.slots.borrow_mut();
                let slot = slots.entry(address).or_default();
                slot.connections.retain(|c| !c.is_dead.get());
                let best = slot.connections.iter().min_by_key(|c| c.streams.get());
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
                Some(connecting) => connecting.wait().await?,
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
    fn has_room(&self) -> bool {
        self.streams.get() < self.send.current_max_send_streams()
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
    let (send, mut driver) = ::h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(HEADER_LIST)
        .handshake::<_, Bytes>(io)
        .await
        .map_err(|error| StreamError::unprocessed(Reason::UpstreamProtocolError, error.to_string()))?;
    let pings = driver.ping_pong();
    let connection =
        Rc::new(Connection { send, streams: Cell::new(0), is_dead: Cell::new(false), used: Cell::new(Instant::now()) });
    let watched = Rc::downgrade(&connection);
    // Ends with the connection: when the peer closes it, or when nobody holds a handle or a stream any more.
    tokio::task::spawn_local(async move {
        let _ = driver.await;
        if let Some(connection) = watched.upgrade() {
            connection.is_dead.set(true);
        }
    });
    // The server's SETTINGS come before its answer to a ping. Without its stream limit, the first requests could wait inside the
    // `h2` crate for ever; and a server that speaks something else is found out before a request is lost to it.
    if let Some(mut pings) = pings {
        let no_http2 =
            |error: ::h2::Error| StreamError::unprocessed(Reason::UpstreamProtocolError, format!("no HTTP/2: {error}"));
        pings.send_ping(::h2::Ping::opaque()).map_err(no_http2)?;
        poll_fn(|cx| pings.poll_pong(cx)).await.map_err(no_http2)?;
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
            slot.connections
                .retain(|c| !c.is_dead.get() && (c.streams.get() > 0 || c.used.get().elapsed() < idle_timeout));
            !slot.connections.is_empty() || slot.connecting.is_some()
        });
        if slots.is_empty() {
            inner.is_swept.set(false);
            return;
        }
    }
}

/// Counts a stream on its connection for as long as it lives.
struct Stream {
    connection: Rc<Connection>,
    freed: Rc<Notify>,
}

impl Stream {
    fn begin(connection: &Rc<Connection>, freed: &Rc<Notify>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self { connection: Rc::clone(connection), freed: Rc::clone(freed) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.streams.set(self.connection.streams.get() - 1);
        self.connection.used.set(Instant::now());
        self.freed.notify_waiters();
    }
}

fn refused(connection: &Connection, error: &::h2::Error) -> StreamError {
    connection.is_dead.set(true);
    StreamError::unprocessed(Reason::UpstreamReset, error.to_string())
}

/// Sends a request's body. `Ok(false)`: the server did not want it.
async fn pump(
    mut sender: SendStream<Bytes>,
    mut body: Body,
    length: BodyLength,
    gate: Rc<Gate>,
    stall: Option<Duration>,
) -> Result<bool, SendError> {
    if gate.is_closed() && !gate.passed().await {
        return Ok(false);
    }
    match send_body(&mut sender, &mut body, length, stall).await {
        Ok(()) => Ok(true),
        Err(SendError::Unwanted) => Ok(false),
        Err(error) => {
            if !matches!(error, SendError::Stream) {
                sender.send_reset(::h2::Reason::CANCEL);
            }
            Err(error)
        }
    }
}

/// A request under way, waiting for its response.
struct Exchange {
    pump: Option<Pump<SendError>>,
    gate: Rc<Gate>,
    stream: Stream,
    is_tunnel: bool,
    is_head: bool,
    continue_timeout: Duration,
}

impl Exchange {
    async fn answer(self, mut response: ResponseFuture, interim: Option<InterimSink>) -> Result<Response, StreamError> {
        let mut waited = pin!(self.gate.is_closed().then(|| tokio::time::sleep(self.continue_timeout)));
        let response = poll_fn(|cx| {
            while let Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
                if head.status() == http::StatusCode::CONTINUE {
                    self.gate.open(true);
                }
                if let (Some(interim), Ok(head)) = (&interim, convert::response(head.status(), head.headers(), true)) {
                    interim.send(head);
                }
            }
            if let Poll::Ready(result) = Pin::new(&mut response).poll(cx) {
                // The caller's own failure is the cause of the reset that is seen here.
                if let (Err(_), Some(Poll::Ready(Err(error)))) =
                    (&result, self.pump.as_ref().map(|p| p.poll_failure(cx)))
                    && let Some(error) = own_failure(error)
                {
                    return Poll::Ready(Err(error));
                }
                return Poll::Ready(result.map_err(|error| Side::Upstream.failure(&error)));
            }
            if self.gate.is_closed() && waited.as_mut().as_pin_mut().is_some_and(|timer| timer.poll(cx).is_ready()) {
                self.gate.open(true);
            }
            if let Some(pump) = &self.pump
                && let Poll::Ready(Err(error)) = pump.poll_failure(cx)
                && let Some(error) = own_failure(error)
            {
                return Poll::Ready(Err(error));
            }
            Poll::Pending
        })
        .await?;
        // Without a 100 before the final response, the body is not wanted.
        self.gate.open(false);
        self.finish(response)
    }

    fn finish(self, response: http::Response<::h2::RecvStream>) -> Result<Response, StreamError> {
        let (parts, incoming) = response.into_parts();
        let is_end = incoming.is_end_stream();
        let head = convert::response(parts.status, &parts.headers, is_end)
            .map_err(|rule| StreamError::in_flight(Reason::UpstreamProtocolError, rule))?;
        let is_tunnel = self.is_tunnel && parts.status.is_success();
        if is_end && !is_tunnel {
            let is_told_only = self.is_head || head.status == 304;
            if !is_told_only && matches!(head.length, BodyLength::Exact(1..)) {
                return Err(StreamError::in_flight(
                    Reason::UpstreamProtocolError,
                    "no body where content-length tells of one",
                ));
            }
            return Ok(Response::new(head, Body::Empty));
        }
        let (pump, stream) = (self.pump, self.stream);
        let body = H2Body::new(incoming, Side::Upstream).with_lease(move |whole| {
            drop(stream);
            match pump {
                // In a tunnel the caller's direction ends on its own.
                Some(pump) if is_tunnel && whole => pump.detach(),
                pump => drop(pump),
            }
        });
        Ok(Response::new(head, Body::H2(Box::new(body))))
    }
}

/// Failures of the request that are not the server's.
fn own_failure(error: SendError) -> Option<StreamError> {
    match error {
        SendError::Body(error) => Some(StreamError::in_flight(error.reason, error.detail)),
        SendError::Length => {
            Some(StreamError::in_flight(Reason::MalformedRequest, "the body is not as long as content-length says"))
        }
        SendError::Stalled => {
            Some(StreamError::in_flight(Reason::UpstreamReset, "the server took no more of the body"))
        }
        SendError::Stream | SendError::Unwanted => None,
    }
}
