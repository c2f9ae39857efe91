//! The server side of HTTP/1: one connection, one exchange after the other.
//!
//! ```text
//!  ┌──► Idle ──bytes──► Head ──whole──► Handler ──response──► Answer ──► body read? ──yes──┐
//!  │     │ silence       │ slow: 408      │ client gone         │ client gone    │ no       │
//!  │     ▼               │ bad: 400, 431  ▼                     ▼                ▼          │
//!  │   close             ▼              drop handler        drop body       read a little   │
//!  │                  answer, close                                         on, or close    │
//!  └────────────────────────────────────────────────────────────────────────────────────────┘
//!                                       └──101 or CONNECT 2xx──► Tunnel ──both ended──► close
//! ```
//!
//! Pipelined requests wait in the socket and in at most one read; answers keep the order of their requests because only one
//! request is worked on at a time.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use leno_model::Reason;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::ending::{DRAIN_TIME, Drained, linger, read_away};
use super::idle::Idle;
use super::outbox::Outbox;
use super::parse::{ParseError, WholeHead};
use super::request::{self, ParsedRequest};
use super::send::{SendError, Writer};
use super::source::{Framing, HeadEnd, HeadReader, Source};
use crate::body::{Body, InterimSink, Request, Response};
use crate::head::{BodyLength, Method, ResponseHead, Version};
use crate::raw::{end_sending, probe_when_silent, reset};
use crate::refusal::Refusal;
use crate::serve::{DrainWatch, ServerSettings};
use crate::spare::{self, stock};
use crate::workplace::{Desk, Job};

/// The rule that bytes behind an upgrade or CONNECT break: whether they are HTTP or not depends on an answer that is still to come.
const EARLY: &str = "bytes sent before the switch of protocols was agreed to";

/// Serves one connection until it ends; `handler` is called for each request, one at a time.
///
/// A handler whose client goes away is dropped. Dropping this future cuts the connection off.
pub async fn serve<H, F>(io: TcpStream, settings: Rc<ServerSettings>, handler: H, drain: DrainWatch)
where
    H: Fn(Request) -> F + 'static,
    F: Future<Output = Result<Response, Refusal>> + 'static,
{
    // Small answers must not wait for the acknowledgement of earlier ones.
    let _ = io.set_nodelay(true);
    let (io, handler) = (Rc::new(io), Rc::new(handler));
    let mut connection = Box::new(Connection {
        source: Source::new(Rc::clone(&io), Reason::DownstreamReset),
        io,
        settings,
        drain,
        eof: Cell::new(false),
        progress: Rc::new(Cell::new(0)),
        idle: None,
        outbox: Rc::default(),
        sink: None,
    });
    loop {
        let after = match connection.next_request().await {
            // The handler's state is by far the largest, and an idle connection must not hold room for it.
            Ok(Some(parsed)) => {
                let (back, after) = Job::of((connection, parsed, Rc::clone(&handler)), exchanges).await;
                connection = back;
                after
            }
            Ok(None) => return,
            Err(refusal) => {
                connection.settings.tell_refused(&refusal);
                Box::pin(connection.refuse(refusal)).await
            }
        };
        match after {
            After::Keep => {}
            After::Close => return,
            After::Linger => return Box::pin(linger(&connection.source)).await,
            After::Reset => {
                let _ = reset(&connection.io);
                return;
            }
        }
    }
}

/// What an exchange is made of, and what is left of it.
type ExchangeDesk<H> = Desk<(Box<Connection>, Parsed, Rc<H>), (Box<Connection>, After)>;

/// A request on its way to its exchange, in a box that is used again.
type Parsed = Box<Option<ParsedRequest>>;
stock!(PARSED: Box<Option<ParsedRequest>>);

/// One exchange after the other. Each has its connection for its time.
async fn exchanges<H, F>(desk: Rc<ExchangeDesk<H>>) -> Infallible
where
    H: Fn(Request) -> F,
    F: Future<Output = Result<Response, Refusal>>,
{
    loop {
        let (mut connection, mut parsed, handler) = desk.next().await;
        // All that lives in this future is written out here: another async function's state would be moved into it.
        let after = 'exchange: {
            let mut asked = parsed.as_ref().as_ref().map(Asked::by).expect(FILLED);
            let Some(request) = connection.open(&mut parsed, asked) else {
                connection.settings.tell_refused(&early());
                break 'exchange Box::pin(connection.refuse(early())).await;
            };
            // Pinned before it is lent: handed over by value it would take its place in this future twice.
            let work = pin!(handler(request));
            let answer = connection.handle(work).await;
            asked.awaits_continue &= !connection.outbox.continued.get();
            let response = match answer {
                Ok(Ok(response)) => response,
                Ok(Err(refusal)) => refusal.into_response(asked.is_grpc),
                Err(Cut::Gone) => break 'exchange After::Reset,
                Err(Cut::Early) => break 'exchange Box::pin(connection.refuse(early())).await,
            };
            connection.answer(asked, response).await
        };
        drop(handler);
        // What was not taken: a request that was refused.
        *parsed = None;
        spare::give(parsed);
        desk.give((connection, after));
    }
}

const FILLED: &str = "filled with each request, and opened once";

fn early() -> Refusal {
    Refusal::new(Reason::MalformedRequest, EARLY)
}

/// What becomes of the connection after an exchange.
enum After {
    Keep,
    /// Both sides are through.
    Close,
    /// The client may still be sending: closing at once would reset the connection and could destroy the answer on its way.
    Linger,
    /// What was sent is not whole, and the client must see that.
    Reset,
}

/// Why an exchange is ended before its answer is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The client is gone.
    Gone,
    /// Bytes came behind an upgrade or CONNECT before it was agreed to.
    Early,
}

/// How waiting for a request ended.
enum Waited {
    Head(Result<WholeHead, HeadEnd>),
    /// A part of a head has come.
    Begun,
    /// The connection was idle for too long.
    Over,
}

struct Connection {
    io: Rc<TcpStream>,
    source: Rc<Source>,
    settings: Rc<ServerSettings>,
    drain: DrainWatch,
    /// The client has ended its side.
    eof: Cell<bool>,
    progress: Rc<Cell<u32>>,
    /// Made when first waited for, then used again.
    idle: Option<Idle>,
    /// The way back for interim responses, and its entrance: those of the last exchange, used again.
    outbox: Rc<Outbox>,
    sink: Option<InterimSink>,
}

impl Connection {
    /// Waits for the next request. `None` ends the connection without a word.
    async fn next_request(&mut self) -> Result<Option<Parsed>, Refusal> {
        if self.eof.get() && !self.source.has_ahead() {
            return Ok(None);
        }
        let mut reader = HeadReader::default();
        // The usual case: the bytes are there, no timer is touched.
        let first = poll_fn(|cx| Poll::Ready(self.source.poll_head(&mut reader, cx))).await;
        let waited = match first {
            Poll::Ready(result) => Waited::Head(result),
            Poll::Pending if reader.has_started() => Waited::Begun,
            Poll::Pending => {
                if let Some(idle) = &mut self.idle {
                    idle.begin();
                }
                poll_fn(|cx| self.poll_idle(&mut reader, cx)).await
            }
        };
        let result = match waited {
            Waited::Head(result) => result,
            Waited::Over => return Ok(None),
            // Boxed, as all that few requests need.
            Waited::Begun => match Box::pin(self.rest_of_head(reader)).await {
                Some(result) => result,
                None => return Ok(None),
            },
        };
        match result {
            Ok(head) => match request::read(head) {
                Ok(parsed) => {
                    let mut place: Parsed = spare::take().unwrap_or_default();
                    *place = Some(parsed);
                    Ok(Some(place))
                }
                Err(error) => Err(refusal_of(error)),
            },
            Err(HeadEnd::Eof(false) | HeadEnd::Io(_)) => Ok(None),
            Err(HeadEnd::Eof(true)) => {
                Err(Refusal::new(Reason::MalformedRequest, "the connection ended inside the head"))
            }
            Err(HeadEnd::Invalid(error)) => Err(refusal_of(error)),
        }
    }

    /// Waits with the idle timeout until the first byte.
    fn poll_idle(&mut self, reader: &mut HeadReader, cx: &mut Context<'_>) -> Poll<Waited> {
        if let Poll::Ready(result) = self.source.poll_head(reader, cx) {
            return Poll::Ready(Waited::Head(result));
        }
        if reader.has_started() {
            return Poll::Ready(Waited::Begun);
        }
        let idle = self.idle.get_or_insert_with(|| Idle::new(&self.settings, &self.drain));
        idle.poll_over(&self.settings, &self.drain, cx).map(|()| Waited::Over)
    }

    /// The rest of a head that has begun, within its timeout. `None`: it did not come, which the client was told.
    async fn rest_of_head(&mut self, mut reader: HeadReader) -> Option<Result<WholeHead, HeadEnd>> {
        let head = poll_fn(|cx| self.source.poll_head(&mut reader, cx));
        if let Ok(result) = tokio::time::timeout(self.settings.head_timeout, head).await {
            return Some(result);
        }
        let refusal = Refusal::new(Reason::HeadTimeout, "the request head did not arrive in time");
        self.settings.tell_refused(&refusal);
        self.refuse(refusal).await;
        None
    }

    /// Begins an exchange. `None`: bytes have come that nobody can read yet.
    fn open(&mut self, parsed: &mut Option<ParsedRequest>, asked: Asked) -> Option<Request> {
        let length = parsed.as_ref().expect(FILLED).head.length;
        let framing = match length {
            _ if asked.switches() => Framing::Gated,
            BodyLength::Unknown => Framing::Chunked(Box::default()),
            BodyLength::Exact(length) if length > 0 => Framing::Length(length),
            BodyLength::Exact(_) | BodyLength::None => Framing::Done,
        };
        if asked.switches() && self.source.has_ahead() {
            return None;
        }
        let has_body = !matches!(framing, Framing::Done);
        let body = self.source.begin(framing);
        let sink = self.way_back();
        if asked.awaits_continue {
            let outbox = Rc::clone(&self.outbox);
            self.source.when_wanted(move || outbox.push(ResponseHead::new(100)));
        }
        let interim = (asked.version == Version::Http11).then_some(sink);
        let body = if has_body { Body::H1(body) } else { Body::Empty };
        Some(Request { head: parsed.take().expect(FILLED).head, body, interim })
    }

    /// The way back for interim responses of the next exchange. Whoever still holds that of an earlier one must not reach it.
    fn way_back(&mut self) -> InterimSink {
        // One is ours, one the sink's.
        let is_free = self.sink.as_mut().is_some_and(InterimSink::renew) && Rc::strong_count(&self.outbox) == 2;
        if let (true, Some(sink)) = (is_free, &self.sink) {
            self.outbox.clear();
            return sink.clone();
        }
        self.outbox = Rc::default();
        let entrance = Rc::clone(&self.outbox);
        let sink = InterimSink::new(move |head| entrance.push(head));
        self.sink = Some(sink.clone());
        sink
    }

    /// Waits for the handler, passes interim responses on, and watches the client meanwhile.
    async fn handle<F>(&self, mut handler: Pin<&mut F>) -> Result<Result<Response, Refusal>, Cut>
    where
        F: Future<Output = Result<Response, Refusal>>,
    {
        let outbox = &*self.outbox;
        let mut gone = None;
        loop {
            let step = poll_fn(|cx| {
                let polled = handler.as_mut().poll(cx);
                // Interim responses come before the final one, also when both were ready at once.
                if let Poll::Ready(head) = outbox.poll(cx) {
                    return match polled {
                        Poll::Ready(result) => Poll::Ready(Step::Both(head, result)),
                        Poll::Pending => Poll::Ready(Step::Interim(head)),
                    };
                }
                match polled {
                    Poll::Ready(result) => Poll::Ready(Step::Done(result)),
                    Poll::Pending => self.poll_gone(&mut gone, cx).map(Step::Cut),
                }
            })
            .await;
            match step {
                Step::Done(result) => return Ok(result),
                Step::Cut(cut) => {
                    let early = cut == Cut::Early;
                    self.settings.tell_cut(if early { Reason::MalformedRequest } else { Reason::DownstreamReset });
                    return Err(cut);
                }
                Step::Interim(head) => Box::pin(self.interim(&head)).await?,
                Step::Both(head, result) => {
                    Box::pin(self.interim(&head)).await?;
                    while let Some(head) = outbox.take() {
                        Box::pin(self.interim(&head)).await?;
                    }
                    return Ok(result);
                }
            }
        }
    }

    async fn interim(&self, head: &ResponseHead) -> Result<(), Cut> {
        let mut writer = Writer::new(&self.io, &self.progress, Some(self.settings.write_timeout));
        writer.interim(head);
        writer.flush().await.map_err(|_| Cut::Gone)
    }

    async fn answer(&mut self, asked: Asked, response: Response) -> After {
        let Response { head, mut body } = response;
        let is_switch = head.status == 101 || (asked.is_connect && (200..300).contains(&head.status));
        if is_switch && !asked.accepts(head.status) {
            let refusal = Refusal::new(Reason::UpstreamProtocolError, "101 without an upgrade in the request");
            self.settings.tell_cut(refusal.reason);
            return Box::pin(self.refuse(refusal)).await;
        }
        // The writer borrows the socket for as long as the body takes, the watchers need `self`.
        let (io, progress) = (Rc::clone(&self.io), Rc::clone(&self.progress));
        let stall = (!is_switch).then_some(self.settings.write_timeout);
        let mut writer = Writer::new(&io, &progress, stall);
        let mut keep_alive = false;
        if is_switch {
            probe_when_silent(&io);
            writer.switch(&head);
            self.source.open_gate();
        } else {
            let in_doubt = asked.switches() || (asked.awaits_continue && !self.source.is_done());
            let wanted = asked.keep_alive && !in_doubt && !self.drain.is_draining();
            keep_alive = writer.response(&head, asked.version, asked.is_head, body.is_end(), wanted);
        }
        drop(head);
        let result = {
            let mut sending = pin!(writer.send(&mut body));
            // Nearly always the socket takes all at once, and nobody needs to be watched for.
            match poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await {
                Poll::Ready(result) => result.map_err(Stop::Send),
                Poll::Pending => {
                    let gone = async {
                        // In a tunnel each direction ends on its own; silence after the client's end is the application's business.
                        if is_switch {
                            self.reset_by_client().await
                        } else {
                            let _ = self.client_gone().await;
                        }
                    };
                    let mut gone: Pin<Box<dyn Future<Output = ()>>> = Box::pin(gone);
                    poll_fn(|cx| match sending.as_mut().poll(cx) {
                        Poll::Ready(result) => Poll::Ready(result.map_err(Stop::Send)),
                        Poll::Pending => gone.as_mut().poll(cx).map(|()| Err(Stop::Gone)),
                    })
                    .await
                }
            }
        };
        let sent = writer.sent;
        drop(writer);
        match result {
            Ok(()) if is_switch => {
                drop(body);
                Box::pin(self.end_tunnel()).await
            }
            Ok(()) => {
                drop(body);
                self.after_answer(keep_alive).await
            }
            // Nothing of the answer is out yet: the truth can still be told.
            Err(Stop::Send(SendError::Body(error))) if sent == 0 && !is_switch => {
                let refusal = Refusal::from(crate::refusal::StreamError::in_flight(error.reason, error.detail));
                drop(body);
                Box::pin(self.refuse(refusal)).await
            }
            Err(Stop::Send(SendError::Body(_) | SendError::Length)) => After::Reset,
            Err(Stop::Send(SendError::Io(_)) | Stop::Gone) => {
                self.settings.tell_cut(Reason::DownstreamReset);
                After::Reset
            }
        }
    }

    /// After a whole answer: the next request begins where this one's body ends.
    async fn after_answer(&mut self, keep_alive: bool) -> After {
        if self.source.is_done() {
            return match keep_alive {
                true => After::Keep,
                false if self.source.has_ahead() => After::Linger,
                false => After::Close,
            };
        }
        if !keep_alive || self.source.is_gated() {
            return After::Linger;
        }
        // Early answer: whoever still reads the body has no use for it.
        self.source.cut_off();
        match Box::pin(tokio::time::timeout(DRAIN_TIME, read_away(&self.source))).await {
            Ok(Drained::Whole) => After::Keep,
            _ => After::Linger,
        }
    }

    /// The server's side of the tunnel is through; the client's may go on for as long as somebody takes its bytes.
    async fn end_tunnel(&self) -> After {
        if end_sending(&self.io).is_ok() {
            self.source.body_over().await;
        }
        After::Close
    }

    /// Answers with a refusal and ends the connection.
    async fn refuse(&self, refusal: Refusal) -> After {
        let mut response = refusal.into_response(false);
        let mut writer = Writer::new(&self.io, &self.progress, Some(DRAIN_TIME));
        writer.response(&response.head, Version::Http11, false, false, false);
        if writer.send(&mut response.body).await.is_ok() { After::Linger } else { After::Reset }
    }

    /// [`Self::client_gone`], for which nearly always nothing is to be kept: the request is whole, and nothing follows it yet.
    fn poll_gone<'a>(
        &'a self,
        rest: &mut Option<Pin<Box<dyn Future<Output = Cut> + 'a>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Cut> {
        if rest.is_none() && self.source.is_done() && !self.eof.get() && !self.source.has_ahead() {
            match std::task::ready!(self.source.poll_ahead(cx)) {
                Err(_) => return Poll::Ready(Cut::Gone),
                Ok(length) => self.eof.set(length == 0),
            }
        }
        rest.get_or_insert_with(|| Box::pin(self.client_gone())).as_mut().poll(cx)
    }

    /// Ends when the client is known to be gone, or has sent what it must not.
    async fn client_gone(&self) -> Cut {
        // While somebody reads the body, the end of the connection shows there; only a reset is watched for here.
        if !self.source.is_done() && !self.source.is_gated() {
            tokio::select! { biased;
                () = self.reset_by_client() => return Cut::Gone,
                () = self.source.body_over() => {}
            }
            match Box::pin(read_away(&self.source)).await {
                Drained::Whole => {}
                Drained::Broken => return Cut::Gone,
                Drained::TooMuch => {
                    self.reset_by_client().await;
                    return Cut::Gone;
                }
            }
        }
        while !self.eof.get() && !self.source.has_ahead() {
            match poll_fn(|cx| self.source.poll_ahead(cx)).await {
                Err(_) => return Cut::Gone,
                Ok(0) => self.eof.set(true),
                Ok(_) if self.source.is_gated() => return Cut::Early,
                Ok(_) => {}
            }
        }
        if self.eof.get() {
            tokio::select! { biased;
                () = self.reset_by_client() => {}
                () = Box::pin(self.no_progress(self.settings.half_close_grace)) => {}
            }
        } else {
            self.reset_by_client().await;
        }
        Cut::Gone
    }

    async fn reset_by_client(&self) {
        let _ = self.io.ready(Interest::ERROR).await;
    }

    /// Ends once nothing has been sent for `limit`, give or take as much again: one timer, however many bytes pass.
    async fn no_progress(&self, limit: Duration) {
        loop {
            let before = self.progress.get();
            tokio::time::sleep(limit).await;
            if self.progress.get() == before {
                return;
            }
        }
    }
}

enum Step {
    Done(Result<Response, Refusal>),
    Interim(ResponseHead),
    Both(ResponseHead, Result<Response, Refusal>),
    Cut(Cut),
}

enum Stop {
    Send(SendError),
    Gone,
}

/// What the answer depends on, kept when the request is given away.
#[derive(Clone, Copy)]
struct Asked {
    version: Version,
    is_head: bool,
    is_connect: bool,
    is_upgrade: bool,
    is_grpc: bool,
    keep_alive: bool,
    /// The client holds its body back and has not been told to send it. Whether it sends it after a final answer is its choice.
    awaits_continue: bool,
}

impl Asked {
    fn by(parsed: &ParsedRequest) -> Self {
        let head = &parsed.head;
        Self {
            version: head.version,
            is_head: head.method == Method::Head,
            is_connect: head.method == Method::Connect,
            is_upgrade: head.upgrade.is_some(),
            is_grpc: head.is_grpc(),
            keep_alive: parsed.keep_alive,
            awaits_continue: head.expect_continue,
        }
    }

    fn switches(&self) -> bool {
        self.is_upgrade || self.is_connect
    }

    fn accepts(&self, status: u16) -> bool {
        if status == 101 { self.is_upgrade } else { self.is_connect }
    }
}

fn refusal_of(error: ParseError) -> Refusal {
    match error {
        ParseError::Malformed(rule) => Refusal {
            status: (rule == "unknown expectation").then_some(417),
            ..Refusal::new(Reason::MalformedRequest, rule)
        },
        ParseError::TooLarge(rule) => Refusal::new(Reason::HeadTooLarge, rule),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answered = std::future::Ready<Result<Response, Refusal>>;
    type Handler = fn(Request) -> Answered;

    fn of_one<A, F>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    fn of_four<A, B, C, D, F>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// What an idle connection holds is the second; the first is there while a request is under way.
    #[test]
    fn futures_stay_small() {
        let (during, idle) = (of_one(exchanges::<Handler, Answered>), of_four(serve::<Handler, Answered>));
        println!("an exchange {during} bytes beside its handler, an idle connection {idle}");
        assert!(during <= 2560 && idle <= 1024);
    }
}
