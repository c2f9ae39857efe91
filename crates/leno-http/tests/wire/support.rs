//! Servers, clients and bodies for the tests.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use leno_http::body::PollFrame;
use leno_http::{
    Body, BodyLength, BodyStream, DrainSignal, Fields, Frame, Refusal, Request, Response, ResponseHead, ServerEvents,
    ServerSettings,
};
use leno_model::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// Nothing in a test takes this long unless it hangs.
const HANGS: Duration = Duration::from_secs(30);

/// Runs a test as a worker would: one thread, local tasks.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(HANGS, test).await.expect("the test hangs");
    });
}

/// Waits until `done` says so.
pub async fn until(what: &str, done: impl Fn() -> bool) {
    tokio::time::timeout(HANGS / 2, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("never: {what}"));
}

/// What a server's events were.
#[derive(Default)]
pub struct Events {
    pub refused: RefCell<Vec<Reason>>,
    pub cut: RefCell<Vec<Reason>>,
}

impl ServerEvents for Events {
    fn refused(&self, refusal: &Refusal) {
        self.refused.borrow_mut().push(refusal.reason);
    }

    fn cut(&self, reason: Reason) {
        self.cut.borrow_mut().push(reason);
    }
}

/// A server with a handler, for as long as the test runs.
pub struct Server {
    pub address: SocketAddr,
    pub events: Rc<Events>,
    pub drain: DrainSignal,
    /// Connections accepted, connections over.
    pub accepted: Rc<Cell<usize>>,
    pub over: Rc<Cell<usize>>,
}

#[derive(Clone, Copy)]
pub enum Speaks {
    Http1,
    Http2,
}

pub async fn serve<H, F>(speaks: Speaks, handler: H) -> Server
where
    H: Fn(Request) -> F + 'static,
    F: Future<Output = Result<Response, Refusal>> + 'static,
{
    serve_with(speaks, ServerSettings::default(), handler).await
}

pub async fn serve_with<H, F>(speaks: Speaks, settings: ServerSettings, handler: H) -> Server
where
    H: Fn(Request) -> F + 'static,
    F: Future<Output = Result<Response, Refusal>> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let events = Rc::new(Events::default());
    let settings = Rc::new(ServerSettings { events: Some(Rc::clone(&events) as Rc<dyn ServerEvents>), ..settings });
    let (drain, watch) = DrainSignal::new();
    let (accepted, over) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (count, ended, handler) = (Rc::clone(&accepted), Rc::clone(&over), Rc::new(handler));
    tokio::task::spawn_local(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            count.set(count.get() + 1);
            let (settings, watch, handler, ended) =
                (Rc::clone(&settings), watch.clone(), Rc::clone(&handler), Rc::clone(&ended));
            tokio::task::spawn_local(async move {
                let handler = move |request| handler(request);
                match speaks {
                    Speaks::Http1 => leno_http::h1::serve(io, settings, handler, watch).await,
                    Speaks::Http2 => leno_http::h2::serve(io, settings, handler, watch).await,
                }
                ended.set(ended.get() + 1);
            });
        }
    });
    Server { address, events, drain, accepted, over }
}

/// A raw client.
pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        let io = TcpStream::connect(address).await.unwrap();
        io.set_nodelay(true).unwrap();
        Self(io)
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads until `end` has come.
    pub async fn read_until(&mut self, end: &str) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(end.as_bytes()) {
            match self.0.read_u8().await {
                Ok(byte) => seen.push(byte),
                Err(error) => panic!("{error} after {:?}, waiting for {end:?}", String::from_utf8_lossy(&seen)),
            }
        }
        String::from_utf8(seen).unwrap()
    }

    /// Reads to the end.
    pub async fn read_all(&mut self) -> String {
        let mut all = Vec::new();
        self.0.read_to_end(&mut all).await.unwrap();
        String::from_utf8(all).unwrap()
    }

    /// Whether the connection ends with a reset; what came before is dropped.
    pub async fn is_reset(&mut self) -> bool {
        let mut all = Vec::new();
        self.0.read_to_end(&mut all).await.is_err()
    }

    /// Closes with RST.
    pub fn reset(self) {
        leno_http::raw::reset(&self.0).unwrap();
    }
}

/// Says whether what holds it is still alive.
#[derive(Clone, Default)]
pub struct Alive(Rc<Cell<(usize, usize)>>);

pub struct AliveGuard(Alive);

impl Alive {
    pub fn guard(&self) -> AliveGuard {
        let (begun, dropped) = self.0.get();
        self.0.set((begun + 1, dropped));
        AliveGuard(self.clone())
    }

    pub fn begun(&self) -> usize {
        self.0.get().0
    }

    pub fn dropped(&self) -> usize {
        self.0.get().1
    }
}

impl Drop for AliveGuard {
    fn drop(&mut self) {
        let (begun, dropped) = self.0.0.get();
        self.0.0.set((begun, dropped + 1));
    }
}

/// A body made of frames, each after a turn of the loop; ends with an error if told to, or never.
pub struct Frames {
    frames: std::collections::VecDeque<Frame>,
    end: End,
    wait: bool,
    /// Frames handed out so far.
    pub given: Rc<Cell<usize>>,
    _alive: Option<AliveGuard>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Regular,
    Error,
    Never,
}

impl Frames {
    pub fn new(frames: Vec<Frame>, end: End) -> Self {
        Self { frames: frames.into(), end, wait: false, given: Rc::default(), _alive: None }
    }

    pub fn watched(mut self, alive: &Alive) -> Self {
        self._alive = Some(alive.guard());
        self
    }

    pub fn body(self) -> Body {
        Body::custom(self)
    }
}

impl BodyStream for Frames {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        self.wait = !self.wait;
        if self.wait {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.frames.pop_front() {
            Some(frame) => {
                self.given.set(self.given.get() + 1);
                Poll::Ready(Some(Ok(frame)))
            }
            None => match self.end {
                End::Regular => Poll::Ready(None),
                End::Error => {
                    Poll::Ready(Some(Err(leno_http::BodyError::new(Reason::UpstreamReset, "broken on purpose"))))
                }
                End::Never => Poll::Pending,
            },
        }
    }
}

pub fn data(text: &str) -> Frame {
    Frame::Data(Bytes::copy_from_slice(text.as_bytes()))
}

pub fn trailers(lines: &[(&str, &str)]) -> Frame {
    Frame::Trailers(fields(lines))
}

pub fn fields(lines: &[(&str, &str)]) -> Fields {
    lines.iter().map(|(name, value)| (*name, value.as_bytes())).collect()
}

pub fn response(status: u16, length: BodyLength, body: Body) -> Response {
    let mut head = ResponseHead::new(status);
    head.length = length;
    Response::new(head, body)
}

pub fn text(text: impl Into<String>) -> Response {
    let bytes = Bytes::from(text.into());
    response(200, BodyLength::Exact(bytes.len() as u64), Body::Full(bytes))
}

/// Reads a body whole: data and trailers.
pub async fn read(body: &mut Body) -> Result<(String, Option<Fields>), leno_http::BodyError> {
    let (mut all, mut end) = (Vec::new(), None);
    while let Some(frame) = body.next().await {
        match frame? {
            Frame::Data(bytes) => all.extend_from_slice(&bytes),
            Frame::Trailers(fields) => end = Some(fields),
        }
    }
    Ok((String::from_utf8_lossy(&all).into_owned(), end))
}

/// Answers with what was asked: method, target, authority, body and trailers, one per line.
pub async fn echo(mut request: Request) -> Result<Response, Refusal> {
    let (body, end) = read(&mut request.body).await.map_err(|error| Refusal::new(error.reason, error.detail))?;
    let head = &request.head;
    let mut out = format!(
        "{} {} {}\n{body}\n",
        head.method,
        String::from_utf8_lossy(&head.target),
        String::from_utf8_lossy(&head.authority)
    );
    for (name, value) in end.iter().flat_map(Fields::iter) {
        out += &format!("{}: {}\n", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
    }
    Ok(text(out))
}
