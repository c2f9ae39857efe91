//! A connection to the application in use, and the body of a response that holds it until it has been read.

use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;

use super::client::send_error;
use super::pool::Pool;
use super::response::{ParsedResponse, ResponseBody};
use super::send::SendError;
use super::source::{Framing, IncomingBody, Source};
use crate::body::{Body, PollFrame, Response};
use crate::pump::{Gate, Pump};
use crate::raw::reset;
use crate::refusal::StreamError;
use crate::spare::{self, stock};

/// A connection in use: back to the pool when both messages are through, closed otherwise.
pub(super) struct Lease {
    pub source: Option<Rc<Source>>,
    pub pool: Rc<Pool>,
    pub address: SocketAddr,
    pub pump: Option<(Pump<SendError>, Rc<Gate>)>,
}

impl Lease {
    pub fn source(&self) -> &Rc<Source> {
        self.source.as_ref().expect("taken only when the lease ends")
    }

    pub fn io(&self) -> &Rc<TcpStream> {
        &self.source().io
    }

    pub fn is_waiting_for_100(&self) -> bool {
        self.pump.as_ref().is_some_and(|(_, gate)| gate.is_closed())
    }

    pub fn open_gate(&self, wanted: bool) {
        if let Some((_, gate)) = &self.pump {
            gate.open(wanted);
        }
    }

    /// Ready with an error if the caller's body failed; an application that takes no more bytes is no error yet.
    pub fn poll_pump(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let Some((pumped, _)) = &self.pump else { return Poll::Pending };
        match pumped.poll_failure(cx) {
            Poll::Ready(Err(error @ (SendError::Body(_) | SendError::Length))) => Poll::Ready(Err(send_error(error))),
            Poll::Ready(_) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Makes the response; its body holds the lease.
    pub fn response(self, parsed: ParsedResponse) -> Response {
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
