//! The origination's end: a connection on which requests are opened.

use std::rc::Rc;

use leno_model::Reason;
use leno_net::tls::TlsSession;
use tokio::net::TcpStream;

use super::HopSettings;
use super::driver::{Driver, Shared};
use super::head_text::{StreamMeta, parse_interim, parse_response, put_request};
use super::registry::{Peer, Registry};
use super::state::{HeadPart, Side};
use super::stream::{HopBody, pump};
use crate::body::{Body, Request, Response};
use crate::refusal::StreamError;

/// A hop to one peer. Dropping the last handle lets the open streams finish and then closes it.
pub struct Connection {
    shared: Rc<Shared>,
}

impl Connection {
    /// Starts the handshake and the connection's task on this thread's local set. Streams can be opened after
    /// [`Connection::ready`].
    #[must_use]
    pub fn start(io: TcpStream, tls: TlsSession, settings: HopSettings, registry: &Rc<Registry>) -> Rc<Self> {
        let driver = Driver::new(Side::Origination, io, tls, settings, registry);
        let shared = driver.shared();
        tokio::task::spawn_local(async move {
            // The outcome is what every stream was told; a hop without streams concerns nobody.
            let _ = driver.run(|_| {}).await;
        });
        Rc::new(Self { shared })
    }

    /// Ends when the peer has accepted us, or with why it did not; nothing of any request was sent before.
    pub async fn ready(&self) -> Result<(), StreamError> {
        self.shared.ready().await
    }

    /// Whether it failed because we did not accept who is there.
    #[must_use]
    pub fn is_peer_refused(&self) -> bool {
        self.shared.is_peer_refused.get()
    }

    /// Whether a stream could be opened now. Nothing can change that before the next await.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.shared.with(|e| e.room().is_ok()) && self.shared.are_leaves_valid()
    }

    /// Whether it will take no streams any more.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.with(|e| e.is_draining()) || !self.shared.are_leaves_valid()
    }

    /// Who is there, once the handshake is complete.
    #[must_use]
    pub fn peer(&self) -> Option<&Rc<Peer>> {
        self.shared.peer.get()
    }

    /// Open streams.
    #[must_use]
    pub fn streams(&self) -> u32 {
        self.shared.with(|e| e.open_streams())
    }

    /// Takes no new streams and closes after the last; how streams that are open end is up to them.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// Closes with all streams.
    pub fn close(&self, reason: Reason, detail: &str) {
        self.shared.close(reason, detail);
    }

    /// Ends when the connection is closed.
    pub async fn closed(&self) {
        self.shared.closed().await;
    }

    /// Sends a request and waits for its response's head; bodies stream both ways from then on.
    ///
    /// The request's body is sent by a task of its own, which ends when the body does, when the peer reads no more, or when
    /// the stream is broken off. Dropping this future, or the response's body before its end, resets the stream.
    pub async fn open(&self, meta: &StreamMeta, request: Request) -> Result<Response, StreamError> {
        let Request { head, body, interim } = request;
        if !self.shared.are_leaves_valid() {
            self.shared.drain();
        }
        let is_end = body.is_end();
        let key = self.shared.with(|e| e.open(|out| put_request(out, meta, &head), is_end))?;
        let mut answer = HopBody::new(Rc::clone(&self.shared), key);
        match body {
            _ if is_end => {}
            Body::Full(bytes) => self.shared.with(|e| {
                e.send_data(key, bytes);
                e.send_end(key, None);
            }),
            body => {
                let shared = Rc::clone(&self.shared);
                tokio::task::spawn_local(async move { pump(&shared, key, body).await });
            }
        }
        loop {
            let part = std::future::poll_fn(|cx| self.shared.with(|e| e.poll_head(key, cx))).await?;
            let malformed = |e| {
                let error = StreamError::in_flight(Reason::UpstreamProtocolError, format!("the response's head: {e}"));
                self.shared.with(|e| e.reset(key, error.reason, false, &error.detail));
                error
            };
            let (text, is_over) = match part {
                HeadPart::Interim(text) => {
                    let head = parse_interim(&text).map_err(malformed)?;
                    if let Some(sink) = &interim {
                        sink.send(head);
                    }
                    continue;
                }
                HeadPart::Final(text, is_over) => (text, is_over),
            };
            let head = parse_response(&text).map_err(malformed)?;
            if is_over {
                answer.release();
                return Ok(Response::new(head, Body::Empty));
            }
            return Ok(Response::new(head, Body::Hop(answer)));
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.drain();
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer())
            .field("streams", &self.streams())
            .finish_non_exhaustive()
    }
}
