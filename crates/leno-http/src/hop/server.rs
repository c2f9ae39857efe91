//! The termination's end: every stream that the peer opens becomes a call of the handler.

use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use leno_model::Reason;
use leno_net::tls::TlsSession;
use tokio::net::TcpStream;

use super::driver::{Driver, Shared};
use super::head_text::{StreamMeta, parse_request, put_response};
use super::registry::{Peer, Registry};
use super::stream::{HopBody, HopInterim, pump};
use super::{HopError, HopSettings};
use crate::body::{Body, InterimSink, Request, Response};
use crate::mux::{Accepted, Side, StreamKey};
use crate::refusal::Refusal;
use crate::serve::DrainWatch;

/// Serves one connection until it is over: `Ok` if it ended as connections do, otherwise why not.
///
/// `handler` is called for every stream with what the origination says of it, who the origination *is*, and the request. Its
/// future runs in a task of its own on this thread's local set and is dropped when the stream is reset. A refusal is sent as
/// RESET with its reason, for the origination to render, or as a response if it names a status of its own.
///
/// When `drain` begins, the peer is told to open no more streams, and the connection closes after the last. Dropping the
/// future breaks every stream off.
pub async fn serve<H, F>(
    io: TcpStream,
    tls: TlsSession,
    settings: HopSettings,
    registry: &Rc<Registry>,
    handler: H,
    mut drain: DrainWatch,
) -> Result<(), HopError>
where
    H: Fn(StreamMeta, Rc<Peer>, Request) -> F + 'static,
    F: Future<Output = Result<Response, Refusal>> + 'static,
{
    let driver = Driver::new(Side::Termination, io, tls, settings, registry);
    let shared = driver.shared();
    let handler = Rc::new(handler);
    let accept = |accepted| {
        registry.crew().run(run_stream(Rc::clone(&shared), accepted, Rc::clone(&handler)));
    };
    let mut running = pin!(driver.run(accept));
    // Both are cancel-safe: the driver is polled by reference, the watch keeps its state.
    tokio::select! {
        biased;
        outcome = &mut running => return outcome,
        () = drain.draining() => shared.drain(),
    }
    running.await
}

async fn run_stream<H, F>(shared: Rc<Shared>, accepted: Accepted<Bytes>, handler: Rc<H>)
where
    H: Fn(StreamMeta, Rc<Peer>, Request) -> F,
    F: Future<Output = Result<Response, Refusal>>,
{
    let key = accepted.key;
    // Resets the stream if this task is dropped or panics before its end.
    let mut guard = Unfinished { shared: &shared, key, is_finished: false };
    {
        let mut work = pin!(answer(&shared, accepted, &*handler));
        std::future::poll_fn(|cx| {
            if shared.with_quietly(|e| e.poll_gone(key, cx)).is_ready() {
                return Poll::Ready(());
            }
            work.as_mut().poll(cx)
        })
        .await;
    }
    guard.is_finished = true;
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

async fn answer<H, F>(shared: &Rc<Shared>, accepted: Accepted<Bytes>, handler: &H)
where
    H: Fn(StreamMeta, Rc<Peer>, Request) -> F,
    F: Future<Output = Result<Response, Refusal>>,
{
    let Accepted { key, head: text, is_ended } = accepted;
    let mut incoming = HopBody::new(Rc::clone(shared), key);
    let peer = shared.peer.get().expect("streams come after the handshake");
    let (meta, head) = match parse_request(&text) {
        Ok(parsed) => parsed,
        Err(error) => {
            let reason = crate::mux::reason_of(error);
            return shared.with(|e| e.reset(key, reason, true, &error.to_string()));
        }
    };
    drop(text);
    let body = if is_ended {
        incoming.release();
        Body::Empty
    } else {
        Body::Hop(incoming)
    };
    let is_grpc = head.is_grpc();
    let interim = InterimSink::of_hop(HopInterim::new(Rc::clone(shared), key));
    let request = Request { head, body, interim: Some(interim) };
    match handler(meta, Rc::clone(peer), request).await {
        Ok(response) => respond(shared, key, response).await,
        Err(refusal) if refusal.status.is_some() => respond(shared, key, refusal.into_response(is_grpc)).await,
        Err(Refusal { reason, detail, unprocessed, .. }) => {
            shared.with(|e| e.reset(key, reason, unprocessed, &detail));
        }
    }
}

async fn respond(shared: &Shared, key: StreamKey, response: Response) {
    let Response { head, body } = response;
    let is_end = body.is_end();
    let rest = shared.with(|e| {
        if let Err(error) = e.send_head(key, is_end, |out| put_response(out, &head)) {
            e.reset(key, Reason::UpstreamProtocolError, false, &format!("the response's head: {error}"));
            return None;
        }
        match body {
            _ if is_end => None,
            Body::Full(bytes) => {
                e.send_data(key, bytes);
                e.send_end(key, None);
                None
            }
            body => Some(body),
        }
    });
    drop(head);
    if let Some(body) = rest {
        pump(shared, key, body).await;
    }
}
