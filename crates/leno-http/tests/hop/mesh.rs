//! A mesh for tests: an authority, members with real certificates, and terminations on loopback.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use leno_http::body::PollFrame;
use leno_http::hop::{Connection, HopError, HopSettings, Peer, Registry, StreamKind, StreamMeta, serve};
use leno_http::{
    Body, BodyError, BodyLength, BodyStream, DrainSignal, Frame, Method, Refusal, Request, RequestHead, Response,
    ResponseHead,
};
use leno_identity::ca::Authority;
use leno_identity::{KeyPair, TrustBundle, csr};
use leno_model::{AppProtocol, Name, Reason, SpiffeId, TrustDomain};
use leno_net::tls::{ALPN_HOP, TlsContext, TlsError, TlsIdentity, TlsSession};
use leno_runtime::SystemClock;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// Runs a test on one thread, as a worker does; a hang is a failure and not a stuck build.
pub fn on_worker(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bounded = async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs") };
    LocalSet::new().block_on(&runtime, bounded);
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Waits until something is true, giving every other task its turn in between.
pub async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    // In time and not in turns: what is waited for may be a timer, and a turn takes no time.
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    while !is_true() {
        assert!(tokio::time::Instant::now() < end, "never happened: {what}");
        tokio::task::yield_now().await;
    }
}

pub struct Mesh {
    domain: TrustDomain,
    authority: RefCell<Authority>,
}

impl Mesh {
    pub fn new() -> Rc<Self> {
        let domain = TrustDomain::default();
        let authority = RefCell::new(Authority::in_memory(&domain, now()).unwrap());
        Rc::new(Self { domain, authority })
    }

    pub fn id(&self, account: &str) -> SpiffeId {
        SpiffeId::workload(&self.domain, &Name::new("shop").unwrap(), &Name::new(account).unwrap())
    }

    pub fn context(&self, account: &str) -> TlsContext {
        let (key, id) = (KeyPair::generate().unwrap(), self.id(account));
        let request = csr::verify(&csr::make(&key).unwrap(), &id).unwrap();
        let mut authority = self.authority.borrow_mut();
        let issued = authority.issue(&request, &id, 3600, now()).unwrap();
        let bundle = TrustBundle::single(1, self.domain.clone(), authority.roots());
        let identity = TlsIdentity::new(issued.chain, &key).unwrap();
        TlsContext::new(identity, Arc::new(bundle), 1, SystemClock::shared()).unwrap()
    }

    /// A session of `web` that accepts `shop` at the other end.
    pub fn session(&self, context: &TlsContext) -> Result<TlsSession, TlsError> {
        TlsSession::client(context, Arc::from([self.id("shop")]), "shop.mesh.leno", &[ALPN_HOP])
    }

    /// A connected origination.
    pub async fn connect(&self, server: &Server) -> (Rc<Connection>, Rc<Registry>) {
        let registry = Registry::new();
        let io = TcpStream::connect(server.address).await.unwrap();
        let tls = self.session(&self.context("web")).unwrap();
        let hop = Connection::start(io, tls, HopSettings::origination(), &registry);
        hop.ready().await.unwrap();
        (hop, registry)
    }
}

/// A termination that accepts any number of hops.
pub struct Server {
    pub address: SocketAddr,
    pub registry: Rc<Registry>,
    /// One signal for each accepted hop.
    pub drains: Rc<RefCell<Vec<DrainSignal>>>,
    /// How each hop ended.
    pub outcomes: Rc<RefCell<Vec<Result<(), HopError>>>>,
}

impl Server {
    pub async fn start<H, F>(mesh: &Mesh, handler: H) -> Self
    where
        H: Fn(StreamMeta, Rc<Peer>, Request) -> F + Clone + 'static,
        F: Future<Output = Result<Response, Refusal>> + 'static,
    {
        Self::with(mesh.context("shop"), HopSettings::termination(), handler).await
    }

    pub async fn with<H, F>(context: TlsContext, settings: HopSettings, handler: H) -> Self
    where
        H: Fn(StreamMeta, Rc<Peer>, Request) -> F + Clone + 'static,
        F: Future<Output = Result<Response, Refusal>> + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            registry: Registry::new(),
            drains: Rc::default(),
            outcomes: Rc::default(),
        };
        let (registry, drains, outcomes) =
            (Rc::clone(&server.registry), Rc::clone(&server.drains), Rc::clone(&server.outcomes));
        tokio::task::spawn_local(async move {
            while let Ok((io, _)) = listener.accept().await {
                let tls = TlsSession::server(&context, &[ALPN_HOP]).unwrap();
                let (signal, watch) = DrainSignal::new();
                drains.borrow_mut().push(signal);
                let (settings, handler) = (settings.clone(), handler.clone());
                let (registry, outcomes) = (Rc::clone(&registry), Rc::clone(&outcomes));
                tokio::task::spawn_local(async move {
                    let outcome = serve(io, tls, settings, &registry, handler, watch).await;
                    outcomes.borrow_mut().push(outcome);
                });
            }
        });
        server
    }
}

pub fn meta(kind: StreamKind) -> StreamMeta {
    StreamMeta {
        service: Bytes::from_static(b"shop/cart"),
        port: 80,
        kind,
        protocol: if kind == StreamKind::Tcp { AppProtocol::Tcp } else { AppProtocol::Http },
        attempt: 0,
        deadline_ms: None,
    }
}

pub fn get(path: &str) -> Request {
    Request::new(RequestHead::new(Method::Get, "cart.shop", path.to_owned()), Body::Empty)
}

pub fn post(path: &str, body: Body) -> Request {
    let mut head = RequestHead::new(Method::Post, "cart.shop", path.to_owned());
    head.length = BodyLength::Unknown;
    Request::new(head, body)
}

pub fn ok(body: Body) -> Response {
    let mut head = ResponseHead::new(200);
    head.length = BodyLength::Unknown;
    Response::new(head, body)
}

pub async fn small(hop: &Connection) {
    let response = hop.open(&meta(StreamKind::Http), get("/small")).await.unwrap();
    assert_eq!(response.body.collect(100).await.unwrap().unwrap(), "small");
}

/// A body of `left` bytes that says how much of it was taken and whether it is gone.
pub struct Source {
    pub left: usize,
    pub given: Rc<Cell<usize>>,
    pub is_dropped: Rc<Cell<bool>>,
}

pub const CHUNK: usize = 32 * 1024;

impl Source {
    pub fn of(left: usize) -> (Body, Rc<Cell<usize>>, Rc<Cell<bool>>) {
        let (given, is_dropped) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let source = Self { left, given: Rc::clone(&given), is_dropped: Rc::clone(&is_dropped) };
        (Body::custom(source), given, is_dropped)
    }
}

impl BodyStream for Source {
    fn poll_frame(&mut self, _: &mut Context<'_>) -> PollFrame {
        let piece = CHUNK.min(self.left);
        if piece == 0 {
            return Poll::Ready(None);
        }
        self.left -= piece;
        self.given.set(self.given.get() + piece);
        Poll::Ready(Some(Ok(Frame::Data(Bytes::from_static(&[7; CHUNK]).slice(..piece)))))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.is_dropped.set(true);
    }
}

/// A body that never gives anything, and says when it is gone.
pub struct Silence(pub Rc<Cell<bool>>);

impl BodyStream for Silence {
    fn poll_frame(&mut self, _: &mut Context<'_>) -> PollFrame {
        Poll::Pending
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

/// A body that is fed by the test.
pub struct Fed(pub tokio::sync::mpsc::Receiver<Result<Frame, Reason>>);

impl BodyStream for Fed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        self.0.poll_recv(cx).map(|f| f.map(|f| f.map_err(|reason| BodyError::new(reason, "fed"))))
    }
}

pub fn fed() -> (tokio::sync::mpsc::Sender<Result<Frame, Reason>>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    (sender, Body::custom(Fed(receiver)))
}

pub fn data(text: &'static str) -> Frame {
    Frame::Data(Bytes::from_static(text.as_bytes()))
}
