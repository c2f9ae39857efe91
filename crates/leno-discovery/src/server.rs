//! The control plane's wiring to tonic: a [`Service`] decides, this module carries.
//!
//! A stream is pulled, not pushed: the transport asks for the next message when it has room, and only then are bytes looked
//! up ([`crate::session::server`]). What comes in is handled one event at a time, so a slow decision slows its own proxy.

mod admission;
mod guard;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use leno_model::Reason;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::collection::{CollectionName, Key};
use crate::hub::{Hub, Subscriber};
use crate::limits;
use crate::proto::{self, discovery_server, enrollment_server, server_message::Kind};
use crate::session::{ServerEvent, ServerSession};

use admission::Admission;
pub use guard::{Connection, Guard};

/// Why something was refused, for the wire and for the audit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    /// Of the closed set.
    pub reason: Reason,
    /// For people; never holds a secret.
    pub detail: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = tonic::Code::from_i32(refusal.reason.grpc_status().into());
        Self::new(code, refusal.to_string())
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The proxy closed it in order.
    Closed,
    /// The connection was lost, or the protocol broken.
    Lost,
}

/// The decisions of a control plane. Methods for one stream are called one after the other.
pub trait Service: Send + Sync + 'static {
    /// What the transport knows of the peer, e.g. its verified identity.
    type Peer: Clone + Send + Sync + Unpin + 'static;

    /// A proxy says hello. Its stream can be kept (it is cheap to clone) to push bundles or end it.
    fn hello(
        &self,
        peer: &Self::Peer,
        hello: &proto::Hello,
        stream: &StreamHandle,
    ) -> impl Future<Output = Result<proto::Welcome, Refusal>> + Send;

    /// Whether the peer may subscribe.
    fn authorise(
        &self,
        peer: &Self::Peer,
        stream: &StreamHandle,
        collection: &CollectionName,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// The collection has its first subscriber: compute it and give it to the hub, then and on every change.
    fn wanted(&self, collection: &CollectionName);

    /// The last subscriber is gone.
    fn unwanted(&self, collection: &CollectionName);

    /// A proxy applied or refused a resource version.
    fn applied(&self, peer: &Self::Peer, stream: &StreamHandle, key: &Key, version: u64, error: Option<&str>);

    /// Stores a registration.
    fn register(
        &self,
        peer: &Self::Peer,
        stream: &StreamHandle,
        registration: proto::Register,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Removes a registration.
    fn deregister(
        &self,
        peer: &Self::Peer,
        stream: &StreamHandle,
        instance: &str,
        generation: u64,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Issues a certificate for the peer's own identity.
    fn renew(
        &self,
        peer: &Self::Peer,
        stream: &StreamHandle,
        csr: &[u8],
    ) -> impl Future<Output = Result<Vec<bytes::Bytes>, Refusal>> + Send;

    /// A proxy judges by this bundle version.
    fn bundle_applied(&self, peer: &Self::Peer, stream: &StreamHandle, version: u64);

    /// A proxy answers a query.
    fn answered(&self, peer: &Self::Peer, stream: &StreamHandle, answer: proto::QueryAnswer);

    /// The stream is over. Also called when `hello` refused it.
    fn closed(&self, peer: &Self::Peer, stream: &StreamHandle, ended: Ended) -> impl Future<Output = ()> + Send;

    /// Redeems a join token.
    fn redeem(
        &self,
        peer: &Self::Peer,
        request: proto::RedeemRequest,
    ) -> impl Future<Output = Result<proto::RedeemResponse, Refusal>> + Send;
}

struct Shared {
    id: u64,
    session: Mutex<ServerSession>,
    hub: Arc<Hub>,
    /// The transport waits for a message.
    sender: AtomicWaker,
    /// The reader waits for answers to be taken, or for the end.
    reader: Notify,
}

impl Shared {
    fn session(&self) -> MutexGuard<'_, ServerSession> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Shared {
    fn changed(&self, collection: &CollectionName, keys: Option<&[Key]>) {
        self.session().changed(collection, keys);
        self.sender.wake();
    }
}

/// One live stream. Cheap to clone; keeps nothing alive but a little memory.
#[derive(Clone)]
pub struct StreamHandle(Arc<Shared>);

impl StreamHandle {
    /// Unique within the process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Pushes a bundle; of several not sent yet only the newest is.
    pub fn bundle(&self, bundle: &proto::Bundle) {
        self.0.session().bundle(bundle);
        self.0.sender.wake();
    }

    /// Asks the proxy something. False if it leaves too much unread.
    #[must_use]
    pub fn query(&self, query: proto::Query) -> bool {
        let mut session = self.0.session();
        let room = session.may_read();
        if room {
            session.answer(Kind::Query(query));
        }
        drop(session);
        self.0.sender.wake();
        room
    }

    /// Ends the stream; the proxy is told why.
    pub fn close(&self, reason: Reason, detail: &str) {
        self.0.session().goodbye(reason, detail, 0);
        self.0.sender.wake();
        self.0.reader.notify_one();
    }

    /// Versions sent and not applied yet, and keys and answers waiting to be sent.
    #[must_use]
    pub fn lag(&self) -> (usize, usize) {
        let session = self.0.session();
        (session.awaiting(), session.backlog())
    }

    /// The collections subscribed to.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<CollectionName> {
        self.0.session().subscriptions().cloned().collect()
    }

    fn answer(&self, kind: Kind) {
        self.0.session().answer(kind);
        self.0.sender.wake();
    }
}

/// Runs the reader of a stream until it ends; the caller's scope counts and joins it.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// The two gRPC services over one [`Service`].
pub struct Discovery<S> {
    service: Arc<S>,
    hub: Arc<Hub>,
    spawn: Spawn,
    admission: Arc<Mutex<Admission>>,
    redemptions: Arc<Semaphore>,
}

impl<S> Clone for Discovery<S> {
    fn clone(&self) -> Self {
        let Self { service, hub, spawn, admission, redemptions } = self;
        let (service, hub, spawn) = (service.clone(), hub.clone(), spawn.clone());
        let (admission, redemptions) = (admission.clone(), redemptions.clone());
        Self { service, hub, spawn, admission, redemptions }
    }
}

impl<S: Service> Discovery<S> {
    /// The services; `spawn` runs one task per stream and per redemption.
    pub fn new(service: Arc<S>, hub: Arc<Hub>, spawn: Spawn) -> Self {
        let admission = Admission::new(limits::ADMISSIONS_PER_SECOND, limits::ADMISSION_BURST, Instant::now());
        let redemptions = Arc::new(Semaphore::new(limits::MAX_REDEMPTIONS));
        Self { service, hub, spawn, admission: Arc::new(Mutex::new(admission)), redemptions }
    }

    /// Serves connections until `shutdown`; then those that are open get 5 s to finish.
    ///
    /// `incoming` gives established connections with what is known of their peer.
    pub async fn serve<I, IO>(self, incoming: I, shutdown: impl Future<Output = ()>) -> Result<(), ServeError>
    where
        I: Stream<Item = (IO, S::Peer)>,
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let incoming = incoming.map(|(io, peer)| Ok::<_, std::io::Error>(Guard::new(io, peer)));
        let discovery = discovery_server::DiscoveryServer::new(self.clone())
            .max_decoding_message_size(limits::MAX_MESSAGE)
            .max_encoding_message_size(limits::MAX_MESSAGE);
        let enrollment = enrollment_server::EnrollmentServer::new(self).max_decoding_message_size(MAX_ENROLLMENT);
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(limits::KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(limits::KEEPALIVE_TIMEOUT))
            .http2_max_header_list_size(MAX_HEADERS)
            .http2_max_pending_accept_reset_streams(Some(MAX_RESETS))
            .max_concurrent_streams(limits::MAX_HTTP2_STREAMS)
            .add_service(discovery)
            .add_service(enrollment)
            .serve_with_incoming_shutdown(incoming, shutdown)
            .await
            .map_err(|error| ServeError(error.to_string()))
    }
}

/// A CSR and a token.
const MAX_ENROLLMENT: usize = 64 << 10;
/// gRPC needs a few hundred bytes of headers.
const MAX_HEADERS: u32 = 16 << 10;
/// Rapid reset (BAD_INPUTS 7): more reset streams than this waiting to be noticed end the connection.
const MAX_RESETS: usize = 16;
/// How long a proxy that was not admitted should wait.
const NOT_ADMITTED_RETRY_MS: u32 = 1_000;

/// The HTTP/2 server failed as a whole; a failing connection is not that.
#[derive(Debug, thiserror::Error)]
#[error("the discovery server stopped: {0}")]
pub struct ServeError(String);

type PeerConnection<S> = Connection<<S as Service>::Peer>;

#[tonic::async_trait]
impl<S: Service> discovery_server::Discovery for Discovery<S> {
    type ConnectStream = Outgoing;

    async fn connect(
        &self,
        request: Request<tonic::Streaming<proto::ClientMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let connection = connection::<S, _>(&request)?;
        let now = Instant::now();
        let mut session = ServerSession::new(now);
        let admitted = self.admission.lock().unwrap_or_else(PoisonError::into_inner).admit(now);
        if !admitted {
            session.goodbye(Reason::Overloaded, "too many proxies are connecting at once", NOT_ADMITTED_RETRY_MS);
        }
        let shared = Arc::new(Shared {
            id: next_id(),
            session: Mutex::new(session),
            hub: self.hub.clone(),
            sender: AtomicWaker::new(),
            reader: Notify::new(),
        });
        let stream = StreamHandle(shared.clone());
        if admitted {
            let reader = Reader { service: self.service.clone(), connection, stream, greeted: false };
            (self.spawn)(Box::pin(reader.run(request.into_inner())));
        }
        Ok(Response::new(Outgoing(shared)))
    }
}

#[tonic::async_trait]
impl<S: Service> enrollment_server::Enrollment for Discovery<S> {
    async fn redeem(&self, request: Request<proto::RedeemRequest>) -> Result<Response<proto::RedeemResponse>, Status> {
        let connection = connection::<S, _>(&request)?;
        let ended = |_| Status::unavailable("the redemption ended without an answer");
        let place = self.redemptions.clone().acquire_owned().await.map_err(|e| Status::internal(e.to_string()))?;
        let (service, (answer, answered)) = (self.service.clone(), oneshot::channel());
        // A task of its own: once the token is used up, the rest follows whether or not the connection is still there.
        (self.spawn)(Box::pin(async move {
            // An error means that nobody waits any more.
            let _ = answer.send(service.redeem(&connection.peer, request.into_inner()).await);
            drop(place);
        }));
        Ok(Response::new(answered.await.map_err(ended)??))
    }
}

fn connection<S: Service, T>(request: &Request<T>) -> Result<PeerConnection<S>, Status> {
    let connection = request.extensions().get::<PeerConnection<S>>();
    connection.cloned().ok_or_else(|| Status::internal("the connection has no peer"))
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The outgoing half of a stream. Dropping it (the connection is gone) ends the reader.
pub struct Outgoing(Arc<Shared>);

impl Stream for Outgoing {
    type Item = Result<proto::ServerMessage, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Before looking: a change after the look wakes.
        self.0.sender.register(cx.waker());
        let mut session = self.0.session();
        let message = session.next_message(&*self.0.hub);
        let ended = session.ended();
        drop(session);
        match message {
            Some(message) => {
                self.0.reader.notify_one();
                Poll::Ready(Some(Ok(message)))
            }
            None if ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let mut session = self.0.session();
        session.end();
        drop(session);
        self.0.reader.notify_one();
    }
}

struct Reader<S: Service> {
    service: Arc<S>,
    connection: PeerConnection<S>,
    stream: StreamHandle,
    greeted: bool,
}

impl<S: Service> Reader<S> {
    /// Reads until the stream ends, then cleans up. The future is never dropped before: it is spawned.
    async fn run(mut self, mut incoming: tonic::Streaming<proto::ClientMessage>) {
        let ended = self.read(&mut incoming).await;
        let shared = &self.stream.0;
        for name in self.stream.subscriptions() {
            if shared.hub.unsubscribe(&name, shared.id) {
                self.service.unwanted(&name);
            }
        }
        if self.greeted {
            self.service.closed(&self.connection.peer, &self.stream, ended).await;
        }
        // The client closed its half, or broke the protocol: nothing more will be said.
        let mut session = shared.session();
        if !session.ending() {
            session.end();
        }
        drop(session);
        shared.sender.wake();
    }

    async fn read(&mut self, incoming: &mut tonic::Streaming<proto::ClientMessage>) -> Ended {
        loop {
            let (deadline, may_read, ending) = {
                let session = self.stream.0.session();
                (session.deadline(), session.may_read(), session.ending())
            };
            if ending {
                return Ended::Lost;
            }
            let wait = deadline.map(|d| d.saturating_duration_since(Instant::now())).unwrap_or(Duration::MAX);
            // All three are cancel-safe: a message that is not complete stays in `incoming`.
            let message = tokio::select! {
                message = incoming.message(), if may_read => message,
                () = self.stream.0.reader.notified() => continue,
                () = tokio::time::sleep(wait), if deadline.is_some() => {
                    self.stream.close(Reason::HeadTimeout, "no Hello in time");
                    return Ended::Lost;
                }
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return Ended::Closed,
                Err(_) => return Ended::Lost,
            };
            let events = self.stream.0.session().receive(message);
            match events {
                Ok(events) => {
                    for event in events {
                        self.handle(event).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(stream = self.stream.id(), %error, "a proxy broke the protocol");
                    self.stream.close(Reason::MalformedRequest, &error.to_string());
                    return Ended::Lost;
                }
            }
        }
    }

    async fn handle(&mut self, event: ServerEvent) {
        let Self { service, connection, stream, .. } = self;
        let peer = &connection.peer;
        match event {
            ServerEvent::Hello(hello) => {
                self.greeted = true;
                match service.hello(peer, &hello, stream).await {
                    Ok(welcome) => {
                        connection.admit();
                        stream.0.session().welcome(welcome);
                        stream.0.sender.wake();
                    }
                    Err(refusal) => stream.close(refusal.reason, &refusal.detail),
                }
            }
            ServerEvent::Subscribe(name) => self.subscribe(&name).await,
            ServerEvent::Unsubscribed(name) => {
                if stream.0.hub.unsubscribe(&name, stream.id()) {
                    service.unwanted(&name);
                }
            }
            ServerEvent::Applied { key, version, .. } => service.applied(peer, stream, &key, version, None),
            ServerEvent::Rejected { key, version, diagnostic, .. } => {
                service.applied(peer, stream, &key, version, Some(&diagnostic));
            }
            ServerEvent::Register(registration) => {
                let (instance, generation) = (registration.instance.clone(), registration.generation);
                let outcome = service.register(peer, stream, registration).await;
                let fine = Kind::Registered(proto::Registered { instance: instance.clone(), generation });
                stream.answer(outcome_of(outcome, fine, proto::refused::Request::Register, instance));
            }
            ServerEvent::Deregister(proto::Deregister { instance, generation }) => {
                let outcome = service.deregister(peer, stream, &instance, generation).await;
                let fine = Kind::Deregistered(proto::Deregistered { instance: instance.clone(), generation });
                stream.answer(outcome_of(outcome, fine, proto::refused::Request::Deregister, instance));
            }
            ServerEvent::Renew(proto::RenewCertificate { id, csr }) => {
                let answer = match service.renew(peer, stream, &csr).await {
                    Ok(chain) => Kind::Issued(proto::Issued { id, chain }),
                    Err(refusal) => refused(proto::refused::Request::Renew, id.to_string(), refusal),
                };
                stream.answer(answer);
            }
            ServerEvent::Answer(answer) => service.answered(peer, stream, answer),
            ServerEvent::BundleApplied(version) => service.bundle_applied(peer, stream, version),
        }
    }

    async fn subscribe(&self, name: &CollectionName) {
        let shared = &self.stream.0;
        match self.service.authorise(&self.connection.peer, &self.stream, name).await {
            Ok(()) => {
                // In the hub first: a change between the two is then seen by the full comparison or told.
                if shared.hub.subscribe(name, shared.id, shared.clone()) {
                    self.service.wanted(name);
                }
                shared.session().grant(name);
            }
            Err(refusal) => {
                if shared.hub.unsubscribe(name, shared.id) {
                    self.service.unwanted(name);
                }
                shared.session().deny(name, refusal.reason, &refusal.detail);
            }
        }
        shared.sender.wake();
    }
}

fn outcome_of(outcome: Result<(), Refusal>, fine: Kind, request: proto::refused::Request, subject: String) -> Kind {
    match outcome {
        Ok(()) => fine,
        Err(refusal) => refused(request, subject, refusal),
    }
}

fn refused(request: proto::refused::Request, subject: String, refusal: Refusal) -> Kind {
    let reason = refusal.reason.as_str().to_owned();
    Kind::Refused(proto::Refused { request: request.into(), subject, reason, detail: refusal.detail })
}
