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
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use leno_model::Reason;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::body::{H2Body, H2Interim};
use super::driver::{Accepted, Driver, Limits, Shared, crew};
use super::head::put_response;
use super::send::{Outgoing, SendError};
use crate::body::{Body, InterimSink, Request, Response};
use crate::head::{BodyLength, Method, RequestHead};
use crate::mux::{Fault, Side, StreamKey};
use crate::refusal::Refusal;
use crate::serve::{DrainWatch, ServerSettings};

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
    let limits = Limits { greeting: settings.head_timeout, idle: settings.idle_timeout, write: settings.write_timeout };
    let driver = Driver::new(Side::Termination, io, Some(limits), settings.max_streams);
    let shared = driver.shared();
    let (handler, running, crew) = (Rc::new(handler), Rc::new(Running::default()), crew());
    let accept = |accepted| {
        let (shared, handler, settings) = (Rc::clone(&shared), Rc::clone(&handler), Rc::clone(&settings));
        crew.run(run_stream(shared, accepted, handler, settings, Running::enter(&running)));
    };
    let outcome = {
        let mut driving = pin!(driver.run(accept));
        // Both are cancel-safe: the driver is polled by reference, the watch keeps its state.
        tokio::select! {
            biased;
            outcome = &mut driving => outcome,
            () = drain.draining() => {
                shared.drain();
                driving.await
            }
        }
    };
    if let Err(error) = outcome {
        let is_greeted = shared.with_quietly(|e| e.is_ready());
        let reason = match error.fault {
            _ if !is_greeted => Reason::HeadTimeout,
            Fault::Calm => Reason::Overloaded,
            _ => Reason::MalformedRequest,
        };
        settings.tell_refused(&Refusal::new(reason, error.text));
    }
    let _ = timeout(LAST_TURNS, poll_fn(|cx| running.poll_none(cx.waker()))).await;
}

/// How many streams of a connection are in their tasks.
#[derive(Default)]
struct Running {
    count: Cell<usize>,
    waiting: RefCell<Option<Waker>>,
}

impl Running {
    fn enter(this: &Rc<Self>) -> Entered {
        this.count.set(this.count.get() + 1);
        Entered(Rc::clone(this))
    }

    fn poll_none(&self, waker: &Waker) -> Poll<()> {
        if self.count.get() == 0 {
            return Poll::Ready(());
        }
        self.waiting.replace(Some(waker.clone()));
        Poll::Pending
    }
}

struct Entered(Rc<Running>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0
            && let Some(waker) = self.0.waiting.take()
        {
            waker.wake();
        }
    }
}

async fn run_stream<H, F>(
    shared: Rc<Shared>,
    accepted: Accepted,
    handler: Rc<H>,
    settings: Rc<ServerSettings>,
    _running: Entered,
) where
    H: Fn(Request) -> F,
    F: Future<Output = Result<Response, Refusal>>,
{
    let key = accepted.key;
    // Resets the stream if this task is dropped or panics before its end.
    let mut guard = Unfinished { shared: &shared, key, is_finished: false };
    let is_answered = {
        let mut work = pin!(answer(&shared, accepted, &*handler, &settings));
        poll_fn(|cx| {
            // The handler first: it may want to see how its request broke off.
            if let Poll::Ready(is_answered) = work.as_mut().poll(cx) {
                return Poll::Ready(is_answered);
            }
            shared.with_quietly(|e| e.poll_gone(key, cx)).map(|()| false)
        })
        .await
    };
    guard.is_finished = true;
    if !is_answered {
        settings.tell_cut(Reason::DownstreamReset);
    }
}

struct Unfinished<'a> {
    shared: &'a Shared,
    key: StreamKey,
    is_finished: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            self.shared.with(|e| e.reset(self.key, Reason::UpstreamReset, false, "the handler was cut off"));
        }
    }
}

/// What the answer depends on, kept when the request is given away.
struct Asked {
    is_head: bool,
    is_tunnel: bool,
    is_grpc: bool,
}

/// Answers one stream; `false` if the client did not take the answer.
async fn answer<H, F>(shared: &Rc<Shared>, accepted: Accepted, handler: &H, settings: &ServerSettings) -> bool
where
    H: Fn(Request) -> F,
    F: Future<Output = Result<Response, Refusal>>,
{
    let Accepted { key, head, is_ended } = accepted;
    let mut incoming = H2Body::new(Rc::clone(shared), key, head.as_ref().map_or(BodyLength::Unknown, |h| h.length));
    let head = match head {
        Ok(head) => head,
        Err(refusal) => {
            settings.tell_refused(&refusal);
            let asked = Asked { is_head: false, is_tunnel: false, is_grpc: false };
            return respond(shared, key, refusal.into_response(false), &asked, settings).await;
        }
    };
    let asked = Asked {
        is_head: head.method == Method::Head,
        is_tunnel: head.method == Method::Connect,
        is_grpc: head.is_grpc(),
    };
    let interim = H2Interim::new(Rc::clone(shared), key);
    if head.expect_continue {
        incoming = incoming.when_wanted(interim.clone());
    }
    let request = request(head, incoming, interim, is_ended);
    let response = match handler(request).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(asked.is_grpc),
    };
    respond(shared, key, response, &asked, settings).await
}

fn request(head: RequestHead, incoming: H2Body, interim: H2Interim, is_ended: bool) -> Request {
    // Dropping the body releases the stream's reading half.
    let body = if is_ended { Body::Empty } else { Body::H2(Box::new(incoming)) };
    Request { head, body, interim: Some(InterimSink::of_h2(interim)) }
}

/// Sends a response; `false` if the client did not take it.
async fn respond(
    shared: &Shared,
    key: StreamKey,
    response: Response,
    asked: &Asked,
    settings: &ServerSettings,
) -> bool {
    let Response { head, mut body } = response;
    let is_tunnel = asked.is_tunnel && (200..300).contains(&head.status);
    let is_bodiless = !is_tunnel && (asked.is_head || matches!(head.status, 204 | 304));
    // A head that knows of no body ends the stream itself: gRPC calls that trailers-only, and takes nothing else for it.
    let is_told_empty = is_bodiless || matches!(head.length, BodyLength::None | BodyLength::Exact(0));
    let is_end = !is_tunnel && (is_told_empty || (body.is_end() && head.length == BodyLength::Unknown));
    if shared.with(|e| e.send_head(key, is_end, |out| put_response(out, &head))).is_err() {
        let refusal = Refusal::new(Reason::UpstreamProtocolError, "a response that HTTP/2 cannot say");
        return Box::pin(refuse(shared, key, refusal, asked.is_grpc)).await;
    }
    let length = head.length;
    drop(head);
    if is_end {
        body.settle().await;
        return true;
    }
    let stall = (!is_tunnel).then_some(settings.write_timeout);
    let mut outgoing = Outgoing::new(body, length, stall);
    let reason = match poll_fn(|cx| outgoing.poll(shared, key, cx)).await {
        Ok(()) => return true,
        Err(SendError::Stopped) => return false,
        // Dropped after the client was told.
        Err(SendError::Stalled) => {
            settings.tell_cut(Reason::DownstreamReset);
            Reason::DownstreamReset
        }
        Err(SendError::Body(_) | SendError::Length) => Reason::UpstreamReset,
    };
    shared.with(|e| e.reset(key, reason, false, ""));
    true
}

async fn refuse(shared: &Shared, key: StreamKey, refusal: Refusal, is_grpc: bool) -> bool {
    let Response { head, body } = refusal.into_response(is_grpc);
    let is_end = body.is_end();
    shared.with(|e| {
        let _ = e.send_head(key, is_end, |out| put_response(out, &head));
        if let Body::Full(bytes) = body {
            e.send_data(key, bytes);
            e.send_end(key, None);
        }
    });
    true
}
