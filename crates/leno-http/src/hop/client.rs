//! The origination's end: a connection on which requests are opened.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use leno_model::Reason;
use leno_net::tls::TlsSession;
use tokio::net::TcpStream;

use super::HopSettings;
use super::driver::{Driver, Shared};
use super::head_text::{StreamMeta, parse_interim, parse_response, put_request};
use super::registry::{Peer, Registry};
use super::stream::{HopBody, pump};
use crate::body::{Body, InterimSink, Request, Response};
use crate::head::{HeadError, RequestHead};
use crate::mux::{HeadPart, Side};
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

    /// Sends a request and waits for its response's head; bodies stream both ways from then on. As [`Connection::begin`] and
    /// [`OpenStream::poll_answer`]; dropping this future resets the stream.
    pub async fn open(&self, meta: &StreamMeta, request: Request) -> Result<Response, StreamError> {
        if !self.shared.are_leaves_valid() {
            self.shared.drain();
        }
        let Request { head, body, interim } = request;
        let mut stream = self.begin(meta, &head, body)?;
        drop(head);
        std::future::poll_fn(|cx| stream.poll_answer(cx, interim.as_ref())).await
    }

    /// Sends a request, on a connection that was asked in this turn whether it has room ([`Connection::has_room`]): whether the
    /// leaves are valid is not looked at again. Nothing leaves before the end of this turn, so the answer cannot have come when
    /// this returns.
    ///
    /// A body that is not there as a whole is sent by a task of its own, which ends when the body does, when the peer reads
    /// no more, or when the stream is broken off.
    pub fn begin(&self, meta: &StreamMeta, head: &RequestHead, body: Body) -> Result<OpenStream, StreamError> {
        let is_end = body.is_end();
        let (key, rest) = self.shared.with(|e| {
            let key = e.open(|out| put_request(out, meta, head), is_end)?;
            Ok::<_, StreamError>(match body {
                _ if is_end => (key, None),
                Body::Full(bytes) => {
                    e.send_data(key, bytes);
                    e.send_end(key, None);
                    (key, None)
                }
                body => (key, Some(body)),
            })
        })?;
        if let Some(body) = rest {
            let shared = Rc::clone(&self.shared);
            tokio::task::spawn_local(async move { pump(&shared, key, body).await });
        }
        Ok(OpenStream { answer: HopBody::new(Rc::clone(&self.shared), key) })
    }
}

/// A request that was sent and whose response's head has not been taken yet. A few words, and no future: whoever keeps it
/// polls it. Dropped before the answer was taken, it resets the stream.
#[derive(Debug)]
#[must_use]
pub struct OpenStream {
    answer: HopBody,
}

impl OpenStream {
    /// Ready with the response once its head is there; what comes before it goes to `interim`. After that the stream belongs
    /// to the response's body, and there is nothing more to poll for.
    pub fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        interim: Option<&InterimSink>,
    ) -> Poll<Result<Response, StreamError>> {
        loop {
            let head = match ready!(self.answer.poll_head(cx))? {
                HeadPart::Interim(text) => {
                    let head = parse_interim(&text).map_err(|e| self.malformed(e))?;
                    if let Some(sink) = interim {
                        sink.send(head);
                    }
                    continue;
                }
                HeadPart::Final(text, is_over) => {
                    if is_over {
                        self.answer.release();
                    }
                    parse_response(&text).map_err(|e| self.malformed(e))?
                }
            };
            let answer = self.answer.take();
            let body = if answer.is_over() { Body::Empty } else { Body::Hop(answer) };
            return Poll::Ready(Ok(Response::new(head, body)));
        }
    }

    fn malformed(&self, error: HeadError) -> StreamError {
        let error = StreamError::in_flight(Reason::UpstreamProtocolError, format!("the response's head: {error}"));
        self.answer.reset(&error);
        error
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
