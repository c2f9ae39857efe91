//! Raw TCP as requests and responses: the caller's bytes are the request's body, the server's bytes the response's.
//!
//! Both directions end on their own (half-close). Neither has a buffer while nothing flows: what is read is passed on before more is
//! read.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use leno_model::Reason;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::body::{Body, BodyStream, PollFrame, Request, Response};
use crate::h1::{Framing, IncomingBody, Source, connect};
use crate::head::{BodyLength, RequestHead, ResponseHead};
use crate::pump::Pump;
use crate::raw::{WriteOutError, probe_when_silent, reset, write_out};
use crate::refusal::{Refusal, StreamError};
use crate::serve::ServerSettings;

/// Serves one connection: `handler` gets a request made of `head` and the caller's bytes. A refusal resets the connection, for TCP
/// has no other way to say that nobody answers.
///
/// Dropping the future cuts the connection off.
pub async fn serve<H, F>(io: TcpStream, settings: &ServerSettings, head: RequestHead, handler: H)
where
    H: FnOnce(Request) -> F,
    F: Future<Output = Result<Response, Refusal>>,
{
    let _ = io.set_nodelay(true);
    probe_when_silent(&io);
    let io = Rc::new(io);
    let source = Source::new(Rc::clone(&io), Reason::DownstreamReset);
    let body = Body::H1(source.begin(Framing::Raw));
    let answer = tokio::select! { biased;
        answer = handler(Request { head, body, interim: None }) => answer,
        _ = io.ready(Interest::ERROR) => {
            settings.tell_cut(Reason::DownstreamReset);
            return;
        }
    };
    let Ok(mut response) = answer else {
        let _ = reset(&io);
        return;
    };
    let body = std::mem::take(&mut response.body);
    let written = tokio::select! { biased;
        written = write_out(body, &io) => written,
        _ = io.ready(Interest::ERROR) => Err(WriteOutError::Io(std::io::ErrorKind::ConnectionReset.into())),
    };
    match written {
        // The caller may go on sending for as long as somebody takes it.
        Ok(_) => source.body_over().await,
        Err(error) => {
            if matches!(error, WriteOutError::Io(_)) {
                settings.tell_cut(Reason::DownstreamReset);
            }
            let _ = reset(&io);
        }
    }
}

/// Opens a connection and sends the request's body over it; the response's body is what the server sends. Dropping that before its
/// end resets the connection; after its end the caller's bytes flow on until they end too.
///
/// # Errors
/// Why there is no connection; nothing was sent.
pub async fn send(address: SocketAddr, request: Request, connect_timeout: Duration) -> Result<Response, StreamError> {
    let io = Rc::new(connect(address, connect_timeout).await?);
    let source = Source::new(Rc::clone(&io), Reason::UpstreamReset);
    let incoming = source.begin(Framing::Raw);
    let sending = Rc::clone(&io);
    let pump = Pump::start(async move {
        let result = write_out(request.body, &sending).await;
        if matches!(result, Err(WriteOutError::Body(_))) {
            // When the socket closes, the server must not take a broken stream for a finished one.
            let _ = reset(&sending);
        }
        result.map(|_| true)
    })
    .await;
    let mut head = ResponseHead::new(200);
    head.length = BodyLength::Unknown;
    Ok(Response::new(head, Body::custom(TcpBody { incoming, io, pump: Some(pump) })))
}

/// What a server sends over a connection of ours.
struct TcpBody {
    incoming: IncomingBody,
    io: Rc<TcpStream>,
    /// Sends the caller's bytes; `None` once the server has ended.
    pump: Option<Pump<WriteOutError>>,
}

impl BodyStream for TcpBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        // A caller that broke off ends the server's answer too.
        if let Some(pump) = &self.pump
            && let Poll::Ready(Err(WriteOutError::Body(error))) = pump.poll_failure(cx)
        {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = self.incoming.poll_frame(cx);
        if matches!(polled, Poll::Ready(None))
            && let Some(pump) = self.pump.take()
        {
            pump.detach();
        }
        polled
    }
}

impl Drop for TcpBody {
    fn drop(&mut self) {
        if self.pump.is_some() {
            let _ = reset(&self.io);
        }
    }
}
