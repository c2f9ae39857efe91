//! The server side of HTTP/2: one connection, many requests at a time, each in a local task.
//!
//! ```text
//!   preface ──► Open ──drain, idle──► GOAWAY, streams finish ──► closed
//!                 │ ping unanswered, too many resets, protocol error
//!                 └──────────────────────────────────────────► GOAWAY(code), streams cut
//!
//!   stream:  head ──bad: 4xx──► end
//!              └─► handler ──► response head ──► body ──► trailers
//!                     └──────────────┴────────────┴──► RST from the client: handler and body dropped
//! ```

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use ::h2::server::SendResponse;
use ::h2::{Ping, PingPong, RecvStream};
use bytes::Bytes;
use leno_model::Reason;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::body::{H2Body, Side};
use super::send::{SendError, send_body};
use super::{CONNECTION_WINDOW, HEADER_LIST, PENDING_RESETS, SEND_BUFFER, STREAM_WINDOW, convert};
use crate::body::{Body, InterimSink, Request, Response};
use crate::head::{BodyLength, Method, RequestHead, ResponseHead};
use crate::refusal::Refusal;
use crate::serve::{DrainWatch, ServerSettings};

/// A connection with streams is pinged this often, so that a client that vanished without a FIN does not hold them for ever.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long the answer to a ping may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Streams that a client may reset per second and connection. A whole connection's worth of calls may run into one deadline
/// together; a rapid-reset flood is more, second after second.
const RESETS_PER_SECOND: u32 = 1024;
/// After the connection has ended, its streams' tasks have so long to notice.
const LAST_TURNS: Duration = Duration::from_secs(1);

/// Serves one connection until it ends; `handler` is called for each request, in a local task of its own.
///
/// A handler whose client resets the stream is dropped. Dropping this future cuts the connection off.
pub async fn serve<H, F>(io: TcpStream, settings: Rc<ServerSettings>, handler: H, mut drain: DrainWatch)
where
    H: Fn(Request) -> F + 'static,
    F: Future<Output = Result<Response, Refusal>> + 'static,
{
    let _ = io.set_nodelay(true);
    let mut builder = ::h2::server::Builder::new();
    builder
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(HEADER_LIST)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS);
    let Ok(Ok(mut connection)) = timeout(settings.head_timeout, builder.handshake::<_, Bytes>(io)).await else {
        settings.tell_refused(&Refusal::new(Reason::HeadTimeout, "no valid HTTP/2 preface in time"));
        return;
    };
    let handler = Rc::new(handler);
    let mut streams = JoinSet::new();
    let mut resets = ResetBudget::default();
    let mut keepalive = pin!(keepalive(connection.ping_pong()));
    let mut idle_since = Instant::now();
    let mut is_going_away = false;
    // Every branch is cancel-safe: the connection and the set keep their state, the timers are only looked at.
    loop {
        let is_idle = streams.is_empty();
        tokio::select! { biased;
            accepted = poll_fn(|cx| connection.poll_accept(cx)) => match accepted {
                Some(Ok((request, respond))) => {
                    streams.spawn_local(stream(request, respond, Rc::clone(&handler), Rc::clone(&settings)));
                }
                Some(Err(_)) | None => break,
            },
            Some(outcome) = streams.join_next(), if !is_idle => {
                idle_since = Instant::now();
                if matches!(outcome, Ok(Outcome::Reset)) && !resets.take() {
                    settings.tell_refused(&Refusal::new(Reason::Overloaded, "too many streams reset by the client"));
                    connection.abrupt_shutdown(::h2::Reason::ENHANCE_YOUR_CALM);
                }
            }
            () = drain.draining(), if !is_going_away => {
                is_going_away = true;
                connection.graceful_shutdown();
            }
            () = sleep_until(idle_since + settings.idle_timeout), if is_idle && !is_going_away => {
                is_going_away = true;
                connection.graceful_shutdown();
            }
            // After a GOAWAY an idle client has nothing to say; one that does not close either is not waited for.
            () = sleep(settings.head_timeout), if is_idle && is_going_away => break,
            () = keepalive.as_mut(), if !is_idle => break,
        }
    }
    drop(connection);
    let _ = timeout(LAST_TURNS, async { while streams.join_next().await.is_some() {} }).await;
}

/// Ends when a ping is not answered.
async fn keepalive(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        sleep(KEEPALIVE).await;
        if pings.send_ping(Ping::opaque()).is_err() {
            return;
        }
        if !matches!(timeout(KEEPALIVE_TIMEOUT, poll_fn(|cx| pings.poll_pong(cx))).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// Counts resets in windows of one second.
struct ResetBudget {
    since: Instant,
    used: u32,
}

impl Default for ResetBudget {
    fn default() -> Self {
        Self { since: Instant::now(), used: 0 }
    }
}

impl ResetBudget {
    fn take(&mut self) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            *self = Self::default();
        }
        self.used += 1;
        self.used <= RESETS_PER_SECOND
    }
}

enum Outcome {
    Answered,
    /// The client reset the stream before it was answered.
    Reset,
}

/// What the answer depends on, kept when the request is given away.
struct Asked {
    is_head: bool,
    is_tunnel: bool,
    is_grpc: bool,
}

async fn stream<H, F>(
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    handler: Rc<H>,
    settings: Rc<ServerSettings>,
) -> Outcome
where
    H: Fn(Request) -> F,
    F: Future<Output = Result<Response, Refusal>>,
{
    let (parts, incoming) = request.into_parts();
    let respond = Rc::new(RefCell::new(respond));
    let is_grpc =
        parts.headers.get(http::header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    let head = match convert::request(parts, incoming.is_end_stream()) {
        Ok(head) => head,
        Err(refusal) => {
            settings.tell_refused(&refusal);
            let asked = Asked { is_head: false, is_tunnel: false, is_grpc };
            return answer(&respond, refusal.into_response(is_grpc), &asked, &settings).await;
        }
    };
    let is_head = head.method == Method::Head;
    let asked = Asked { is_head, is_tunnel: head.method == Method::Connect, is_grpc: head.is_grpc() };
    let request = request_of(head, incoming, &respond);
    let mut handler = pin!(handler(request));
    let answered = poll_fn(|cx| {
        if let Poll::Ready(result) = handler.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        respond.borrow_mut().poll_reset(cx).map(|_| None)
    })
    .await;
    let response = match answered {
        Some(Ok(response)) => response,
        Some(Err(refusal)) => refusal.into_response(asked.is_grpc),
        None => {
            settings.tell_cut(Reason::DownstreamReset);
            return Outcome::Reset;
        }
    };
    answer(&respond, response, &asked, &settings).await
}

fn request_of(head: RequestHead, incoming: RecvStream, respond: &Rc<RefCell<SendResponse<Bytes>>>) -> Request {
    let continued = Rc::new(Cell::new(false));
    let interim = {
        let (respond, continued) = (Rc::clone(respond), Rc::clone(&continued));
        InterimSink::new(move |head| {
            if head.status != 100 || !continued.replace(true) {
                send_interim(&respond, &head);
            }
        })
    };
    let body = if incoming.is_end_stream() {
        Body::Empty
    } else {
        let body = H2Body::new(incoming, Side::Downstream);
        Body::H2(Box::new(if head.expect_continue {
            let interim = interim.clone();
            body.when_wanted(move || {
                interim.send(ResponseHead::new(100));
            })
        } else {
            body
        }))
    };
    Request { head, body, interim: Some(interim) }
}

fn send_interim(respond: &RefCell<SendResponse<Bytes>>, head: &ResponseHead) {
    // After the final head, or on a stream that is gone, an interim one has no place and is dropped.
    if let (Ok(response), Ok(mut respond)) = (convert::to_response(head), respond.try_borrow_mut()) {
        let _ = respond.send_informational(response);
    }
}

async fn answer(
    respond: &RefCell<SendResponse<Bytes>>,
    response: Response,
    asked: &Asked,
    settings: &ServerSettings,
) -> Outcome {
    let Response { head, mut body } = response;
    let converted = match convert::to_response(&head) {
        Ok(converted) => converted,
        Err(rule) => {
            body = Body::Empty;
            let refusal = Refusal::new(Reason::UpstreamProtocolError, rule).into_response(asked.is_grpc);
            let converted = convert::to_response(&refusal.head).unwrap_or_default();
            return send(respond, converted, refusal.body, BodyLength::Unknown, false, settings, body).await;
        }
    };
    let is_tunnel = asked.is_tunnel && (200..300).contains(&head.status);
    let is_bodiless = !is_tunnel && (asked.is_head || matches!(head.status, 204 | 304));
    if is_bodiless {
        body.settle().await;
        body = Body::Empty;
    }
    let length = if is_bodiless { BodyLength::None } else { head.length };
    send(respond, converted, body, length, is_tunnel, settings, Body::Empty).await
}

/// Sends head and body. `_held` is dropped after the head is out, so that an upstream is told after the client.
async fn send(
    respond: &RefCell<SendResponse<Bytes>>,
    head: http::Response<()>,
    mut body: Body,
    length: BodyLength,
    is_tunnel: bool,
    settings: &ServerSettings,
    _held: Body,
) -> Outcome {
    // A head that knows of no body ends the stream itself: gRPC calls that trailers-only, and takes nothing else for it.
    let is_told_empty = matches!(length, BodyLength::None | BodyLength::Exact(0));
    let is_end = !is_tunnel && (is_told_empty || (body.is_end() && length == BodyLength::Unknown));
    let sent = respond.borrow_mut().send_response(head, is_end);
    let Ok(mut stream) = sent else {
        settings.tell_cut(Reason::DownstreamReset);
        return Outcome::Reset;
    };
    if is_end {
        body.settle().await;
        return Outcome::Answered;
    }
    let stall = (!is_tunnel).then_some(settings.write_timeout);
    match send_body(&mut stream, &mut body, length, stall).await {
        Ok(()) => Outcome::Answered,
        Err(SendError::Stream | SendError::Unwanted) => {
            settings.tell_cut(Reason::DownstreamReset);
            Outcome::Reset
        }
        Err(SendError::Stalled) => {
            settings.tell_cut(Reason::DownstreamReset);
            stream.send_reset(::h2::Reason::CANCEL);
            Outcome::Answered
        }
        Err(SendError::Body(_) | SendError::Length) => {
            stream.send_reset(::h2::Reason::INTERNAL_ERROR);
            Outcome::Answered
        }
    }
}
