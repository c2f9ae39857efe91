//! The task that moves bytes between one socket, its TLS session and its [`Engine`].
//!
//! ```text
//!   socket readable ─▶ scratch ─▶ TLS ─▶ Engine::receive ─▶ streams' tasks woken ─┐
//!                                                                                │ they append frames: dirty
//!   socket ◀─ one write ◀─ TLS ◀─ Engine::produce ◀── at the end of this turn ◀──┘
//! ```
//!
//! *The end of the turn*: whoever makes the connection dirty wakes this task; it then steps back once behind every task that
//! is ready now, so that all they append is sealed and sent together. Nothing is ever held back by a timer.
//!
//! Phases: `Open` → (drained, failed) `Closing`: the last frames go out → `Lingering`: our side is shut down, the peer's bytes
//! are discarded until it closes, so that no RST overtakes our last frames. Dropping the driver breaks everything off.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use leno_model::Reason;
use leno_net::tls::{ALPN_HOP, Buffer, TlsSession};
use leno_runtime::{Clock, SystemClock};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::Engine;
use super::registry::{Peer, Registry};
use super::{HopError, HopSettings};
use crate::mux::limits::{RELIEVE_EVERY, WakerSlot};
use crate::mux::{Accepted, Side};
use crate::raw;
use crate::refusal::StreamError;

/// Plaintext sealed and sent with one call; what a peer with a full window can take without another stream waiting long.
const FLUSH: usize = 128 * 1024;
/// Reads and flushes before the other tasks of the worker have their turn.
const ROUNDS: usize = 4;
/// How long the word why we break off may take, and the peer's close.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// How long the tail of the last answer may take to a slow peer.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);
/// A hop's age ends in one of so many steps over the last tenth of its maximum, so that hops that were opened together are not
/// replaced together.
const AGE_STEPS: u32 = 64;
/// Unsent bytes in the kernel beyond which the socket is not writable: small streams queue here, where there are turns, and
/// not behind megabytes in the kernel.
const UNSENT: u32 = 128 * 1024;

thread_local! {
    /// Frames on their way to the cipher; one per worker.
    static FRAMES: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// What comes from the cipher, opened or sealed; one per worker.
    static CIPHERED: Cell<Buffer> = const { Cell::new(Buffer::new()) };
}

/// Lends this thread's buffer for frames. A burst's memory is not kept: beyond twice the flush size, which growing can come to.
fn with_frames<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut frames = FRAMES.take();
    frames.clear();
    let result = work(&mut frames);
    if frames.capacity() <= 2 * FLUSH {
        FRAMES.set(frames);
    }
    result
}

/// Lends this thread's buffer for what comes from the cipher, as [`with_frames`].
fn with_ciphered<T>(work: impl FnOnce(&mut Buffer) -> T) -> T {
    let mut ciphered = CIPHERED.take();
    ciphered.clear();
    let result = work(&mut ciphered);
    if ciphered.capacity() <= 2 * FLUSH {
        CIPHERED.set(ciphered);
    }
    result
}

struct Inner {
    engine: Engine,
    tls: TlsSession,
    /// Sealed bytes that the kernel did not take.
    unsent: Vec<u8>,
    unsent_at: usize,
}

/// One hop, shared by its driver and its streams.
pub(crate) struct Shared {
    pub(crate) side: Side,
    pub(crate) registry: Rc<Registry>,
    pub(crate) peer: OnceCell<Rc<Peer>>,
    address: Option<SocketAddr>,
    inner: RefCell<Inner>,
    started: Instant,
    clock: SystemClock,
    is_dirty: Cell<bool>,
    driver: Rc<WakerSlot>,
    /// Unix second after which one of the leaves is no longer valid.
    expires: Cell<u64>,
    is_closed: Cell<bool>,
    /// We did not accept who is there.
    pub(crate) is_peer_refused: Cell<bool>,
    /// Ready or failed, and closed.
    changed: Notify,
}

impl Shared {
    fn new(
        side: Side,
        address: Option<SocketAddr>,
        tls: TlsSession,
        registry: Rc<Registry>,
        settings: &HopSettings,
    ) -> Rc<Self> {
        let driver = Rc::<WakerSlot>::default();
        registry.budget().enter(&driver);
        let engine = Engine::new(side, registry.budget());
        let shared = Rc::new(Self {
            side,
            peer: OnceCell::new(),
            address,
            inner: RefCell::new(Inner { engine, tls, unsent: Vec::new(), unsent_at: 0 }),
            started: Instant::now(),
            clock: SystemClock::new(),
            is_dirty: Cell::new(true),
            driver,
            expires: Cell::new(settings.local_not_after.unwrap_or(u64::MAX)),
            is_closed: Cell::new(false),
            is_peer_refused: Cell::new(false),
            changed: Notify::new(),
            registry,
        });
        shared.registry.enter(&shared);
        shared
    }

    /// Works on the engine; what it has to say goes out at the end of this turn.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> T {
        let mut inner = self.inner.borrow_mut();
        let result = work(&mut inner.engine);
        if !self.is_dirty.get() && (inner.engine.has_output() || inner.engine.is_drained()) {
            self.is_dirty.set(true);
            drop(inner);
            if let Some(driver) = &*self.driver.borrow() {
                driver.wake_by_ref();
            }
        }
        result
    }

    /// Works on the engine without giving it anything to say.
    pub(crate) fn with_quietly<T>(&self, look: impl FnOnce(&mut Engine) -> T) -> T {
        look(&mut self.inner.borrow_mut().engine)
    }

    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Whether both leaves are still valid; read from the wall clock, because a suspended machine's timers sleep too.
    pub(crate) fn are_leaves_valid(&self) -> bool {
        self.clock.unix_seconds() <= self.expires.get()
    }

    pub(crate) fn drain(&self) {
        let now = self.age();
        self.with(|engine| engine.drain(Reason::Draining, now));
    }

    pub(crate) fn close(&self, reason: Reason, detail: &str) {
        self.with(|engine| engine.close(reason, detail));
    }

    /// Ends when the peer has accepted us, or with why not.
    pub(crate) async fn ready(&self) -> Result<(), StreamError> {
        self.until(|engine| match engine.failure() {
            Some(failure) => Some(Err(StreamError { unprocessed: true, ..failure.clone() })),
            None => engine.is_ready().then_some(Ok(())),
        })
        .await
    }

    /// Ends when the driver has.
    pub(crate) async fn closed(&self) {
        self.until(|_| self.is_closed.get().then_some(())).await;
    }

    async fn until<T>(&self, mut look: impl FnMut(&Engine) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = look(&self.inner.borrow().engine) {
                return found;
            }
            changed.await;
        }
    }

    fn take_in(&self, sealed: &[u8], plain: &mut Buffer) -> Result<(), HopError> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        inner.tls.read_tls(sealed, plain)?;
        if self.peer.get().is_none() && !inner.tls.is_handshaking() {
            self.admit(&inner.tls)?;
        }
        let was_ready = inner.engine.is_ready();
        if let Err(error) = inner.engine.receive(plain, self.age()) {
            self.registry.stats().protocol_error();
            return Err(HopError::protocol(self.side, error.to_string()));
        }
        if !was_ready && inner.engine.is_ready() {
            self.changed.notify_waiters();
        }
        if inner.engine.has_output() || inner.engine.is_drained() || inner.tls.wants_write() {
            self.is_dirty.set(true);
        }
        if inner.tls.peer_closed() { Err(self.lost("the peer closed the connection")) } else { Ok(()) }
    }

    /// The handshake is complete: who is there, and until when.
    fn admit(&self, tls: &TlsSession) -> Result<(), HopError> {
        if tls.alpn() != Some(ALPN_HOP) {
            return Err(HopError::protocol(self.side, "the peer does not speak leno/1".to_owned()));
        }
        let Some(identity) = tls.peer() else {
            return Err(HopError::new(Reason::PeerUntrusted, "the peer presented no certificate"));
        };
        self.expires.set(self.expires.get().min(identity.not_after));
        let peer = Peer {
            identity: identity.clone(),
            handshake: tls.handshake_info(),
            sni: tls.sni().map(str::to_owned),
            address: self.address,
        };
        self.registry.stats().handshake();
        let _ = self.peer.set(Rc::new(peer));
        Ok(())
    }

    fn lost(&self, detail: &str) -> HopError {
        HopError::new(self.side.lost(), detail.to_owned())
    }

    fn has_unsent(&self) -> bool {
        !self.inner.borrow().unsent.is_empty()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Closing,
    Lingering,
}

/// Drives one hop to its end.
pub(crate) struct Driver {
    shared: Rc<Shared>,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    settings: HopSettings,
    max_age: Duration,
    timer: Pin<Box<Sleep>>,
    phase: Phase,
    /// The peer's HELLO has come, and the timer no longer waits for it.
    is_ready: bool,
    /// Stepped back behind the other tasks of this turn already.
    is_armed: bool,
    /// Not read, because the peer does not read.
    is_held_back: bool,
    /// The newest stream at the last look, and since when nothing has happened.
    idle: (u32, Instant),
    outcome: Result<(), HopError>,
}

impl Driver {
    pub(crate) fn new(
        side: Side,
        io: TcpStream,
        tls: TlsSession,
        settings: HopSettings,
        registry: &Rc<Registry>,
    ) -> Self {
        // Without these the hop still works, only slower: an old kernel is no reason to refuse traffic.
        let _ = io.set_nodelay(true);
        let _ = socket2::SockRef::from(&io).set_tcp_notsent_lowat(UNSENT);
        let address = io.peer_addr().ok();
        // The local port is as good as a random number here.
        let step = u32::from(io.local_addr().map_or(0, |a| a.port())) % AGE_STEPS;
        let max_age = settings.max_age - settings.max_age / 10 / AGE_STEPS * step;
        let (reader, writer) = io.into_split();
        let shared = Shared::new(side, address, tls, Rc::clone(registry), &settings);
        let timer = Box::pin(tokio::time::sleep(settings.handshake_timeout));
        let idle = (0, Instant::now());
        Self {
            shared,
            reader,
            writer,
            settings,
            max_age,
            timer,
            phase: Phase::Open,
            is_ready: false,
            is_armed: false,
            is_held_back: false,
            idle,
            outcome: Ok(()),
        }
    }

    pub(crate) fn shared(&self) -> Rc<Shared> {
        Rc::clone(&self.shared)
    }

    /// Runs until the connection is over; `accept` is called for every stream that the peer opens.
    pub(crate) async fn run(mut self, mut accept: impl FnMut(Accepted<Bytes>)) -> Result<(), HopError> {
        std::future::poll_fn(|cx| self.poll(cx, &mut accept)).await;
        std::mem::replace(&mut self.outcome, Ok(()))
    }

    fn poll(&mut self, cx: &mut Context<'_>, accept: &mut impl FnMut(Accepted<Bytes>)) -> Poll<()> {
        {
            let mut driver = self.shared.driver.borrow_mut();
            match &mut *driver {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *driver = Some(cx.waker().clone()),
            }
        }
        if self.poll_read(cx, accept).is_err() {
            return Poll::Ready(());
        }
        if !self.is_ready && self.shared.with_quietly(|e| e.is_ready()) {
            self.is_ready = true;
            self.timer.as_mut().reset(Instant::now());
        }
        if self.phase == Phase::Open {
            let (is_failed, is_drained) = self.shared.with_quietly(|e| (e.failure().is_some(), e.is_drained()));
            if is_failed || is_drained {
                self.begin_closing(if is_failed { CLOSE_WITHIN } else { DRAIN_WITHIN });
            }
        }
        if self.phase == Phase::Open && self.shared.with_quietly(|e| e.wants_relief()) {
            let soon = Instant::now() + RELIEVE_EVERY;
            if self.timer.deadline() > soon {
                self.timer.as_mut().reset(soon);
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.on_timer().is_err() {
                return Poll::Ready(());
            }
        }
        if self.poll_write(cx).is_err() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Reads what there is. An error means that the connection is over.
    fn poll_read(&mut self, cx: &mut Context<'_>, accept: &mut impl FnMut(Accepted<Bytes>)) -> Result<(), ()> {
        for _ in 0..ROUNDS {
            if self.phase == Phase::Open && self.shared.with_quietly(|e| e.is_backed_up()) {
                self.is_held_back = true;
                return Ok(());
            }
            let Poll::Ready(read) = self.poll_feed(cx) else { return Ok(()) };
            while self.shared.with_quietly(|e| e.has_accepted()) {
                if let Some(accepted) = self.shared.with(Engine::next_accepted) {
                    accept(accepted);
                }
            }
            if let Err(error) = read {
                return self.broken(error);
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Feeds one read's worth. `poll_read` and not `try_read`, because it knows that a short read emptied the socket: the
    /// call that would only say so is saved.
    fn poll_feed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HopError>> {
        let (shared, reader, is_open) = (&self.shared, &mut self.reader, self.phase == Phase::Open);
        raw::with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            Poll::Ready(match ready!(Pin::new(reader).poll_read(cx, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => Err(shared.lost("the peer closed the connection")),
                Ok(()) => {
                    shared.registry.stats().bytes_in(buffer.filled().len());
                    if is_open { with_ciphered(|plain| shared.take_in(buffer.filled(), plain)) } else { Ok(()) }
                }
                Err(error) => Err(shared.lost(&error.to_string())),
            })
        })
    }

    /// What to do about an error while reading: tell the peer if it still listens, or end.
    fn broken(&mut self, error: HopError) -> Result<(), ()> {
        if self.phase != Phase::Open {
            return Err(());
        }
        let is_over = self.shared.with_quietly(|e| e.is_drained());
        let is_told = error.is_ours;
        self.shared.is_peer_refused.set(error.is_verdict);
        // A peer that closes a hop without streams does nothing wrong.
        let is_regular = is_over
            || (!is_told && self.shared.with_quietly(|e| e.open_streams()) == 0 && self.shared.peer.get().is_some());
        if is_told {
            self.shared.close(error.reason, &error.detail);
        } else {
            self.shared.with(|engine| engine.fail(error.reason, &error.detail));
        }
        if !is_regular && self.outcome.is_ok() {
            self.outcome = Err(error);
        }
        if is_told {
            self.begin_closing(CLOSE_WITHIN);
            return Ok(());
        }
        Err(())
    }

    fn begin_closing(&mut self, within: Duration) {
        self.phase = Phase::Closing;
        self.timer.as_mut().reset(Instant::now() + within);
        self.is_armed = true;
        self.shared.is_dirty.set(true);
        self.shared.changed.notify_waiters();
    }

    /// Flushes at the end of the turn. An error means that the connection is over.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        if self.shared.is_dirty.get() && !self.is_armed {
            self.is_armed = true;
            cx.waker().wake_by_ref();
            return Ok(());
        }
        while self.shared.is_dirty.get() || self.shared.has_unsent() {
            if self.shared.has_unsent() {
                match self.writer.as_ref().poll_write_ready(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return self.broken(self.shared.lost(&error.to_string())),
                }
            }
            match self.flush() {
                Ok(false) => {}
                Ok(true) => {
                    self.shared.is_dirty.set(true);
                    cx.waker().wake_by_ref();
                    break;
                }
                Err(error) => return self.broken(self.shared.lost(&error.to_string())),
            }
        }
        self.is_armed = false;
        if self.is_held_back && !self.shared.with_quietly(|e| e.is_backed_up()) {
            self.is_held_back = false;
            cx.waker().wake_by_ref();
        }
        self.finish_closing(cx)
    }

    /// Seals and sends what there is, until the kernel takes no more. `Ok(true)` if more is left than one turn's worth.
    fn flush(&self) -> io::Result<bool> {
        self.shared.is_dirty.set(false);
        let mut inner = self.shared.inner.borrow_mut();
        let inner = &mut *inner;
        for _ in 0..ROUNDS {
            if !inner.unsent.is_empty() && !self.send_unsent(inner)? {
                return Ok(false);
            }
            if !inner.engine.has_output() && !inner.tls.wants_write() {
                return Ok(false);
            }
            let sealed = with_ciphered(|sealed| {
                let result = with_frames(|plain| {
                    if inner.engine.wants_time() {
                        inner.engine.tell_time(self.shared.age());
                        if inner.engine.wants_round_trip() {
                            inner.engine.tell_round_trip(leno_net::shortest_round_trip(self.writer.as_ref()));
                        }
                    }
                    inner.engine.produce(plain, FLUSH);
                    inner.tls.seal(plain, sealed)
                });
                let sent = self.try_write(sealed)?;
                if sent < sealed.len() {
                    inner.unsent = sealed[sent..].to_vec();
                    inner.unsent_at = 0;
                }
                Ok::<_, io::Error>(result)
            })?;
            // A session that failed still has its alert to send, so this comes last.
            sealed.map_err(io::Error::from)?;
        }
        Ok(true)
    }

    /// Whether all of it went.
    fn send_unsent(&self, inner: &mut Inner) -> io::Result<bool> {
        inner.unsent_at += self.try_write(&inner.unsent[inner.unsent_at..])?;
        if inner.unsent_at < inner.unsent.len() {
            return Ok(false);
        }
        inner.unsent = Vec::new();
        Ok(true)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.writer.try_write(bytes) {
            Ok(sent) => {
                self.shared.registry.stats().bytes_out(sent);
                Ok(sent)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn finish_closing(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        let is_idle = !self.shared.is_dirty.get() && !self.shared.has_unsent();
        if !is_idle || self.phase == Phase::Lingering || !self.shared.with_quietly(|e| e.is_drained()) {
            return Ok(());
        }
        self.shared.inner.borrow_mut().tls.close_notify();
        let sent = self.flush();
        if sent.is_err() || self.shared.has_unsent() {
            return Err(());
        }
        self.phase = Phase::Lingering;
        self.timer.as_mut().reset(Instant::now() + CLOSE_WITHIN);
        self.shared.changed.notify_waiters();
        cx.waker().wake_by_ref();
        raw::end_sending(self.writer.as_ref()).map_err(|_| ())
    }

    /// The timer fired: what is due, and when to look again. An error means that the connection is over.
    fn on_timer(&mut self) -> Result<(), ()> {
        if self.phase != Phase::Open {
            return Err(());
        }
        let now = Instant::now();
        let age = self.shared.age();
        if !self.shared.with_quietly(|e| e.is_ready()) {
            let reason =
                if self.shared.side == Side::Origination { Reason::UpstreamTlsFailed } else { Reason::HeadTimeout };
            self.broken(HopError::new(reason, "the handshake took too long"))?;
        }
        let mut next = now + self.settings.idle_timeout.min(crate::mux::limits::KEEPALIVE_AFTER);
        match self.shared.with(|e| e.tick(age)) {
            Ok(at) => next = next.min(self.shared.started + at),
            Err(error) => self.broken(HopError::new(self.shared.side.lost(), error.to_string()))?,
        }
        if self.shared.with_quietly(|e| e.wants_relief()) {
            self.shared.with(|e| e.relieve(age));
            next = next.min(now + RELIEVE_EVERY);
        }
        let (open, newest) = self.shared.with_quietly(|e| (e.open_streams(), e.newest_id()));
        if open > 0 || newest != self.idle.0 {
            self.idle = (newest, now);
        }
        let is_idle = now >= self.idle.1 + self.settings.idle_timeout;
        let is_old = age >= self.max_age;
        if is_idle || is_old || !self.shared.are_leaves_valid() {
            self.shared.drain();
        }
        if !is_old {
            next = next.min(self.shared.started + self.max_age);
        }
        let left = self.shared.expires.get().saturating_sub(self.shared.clock.unix_seconds());
        if self.shared.are_leaves_valid() {
            // A second is the resolution of certificates; the largest wait is bounded above anyway.
            next = next.min(now + Duration::from_secs(left.min(3600)) + Duration::from_secs(1));
        }
        self.timer.as_mut().reset(next.max(now + Duration::from_millis(10)));
        Ok(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let shared = &self.shared;
        let reason = shared.side.lost();
        shared.with(|engine| engine.fail(reason, "the hop was closed"));
        shared.is_closed.set(true);
        shared.driver.replace(None);
        shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a hop without streams costs besides its socket and the keys of its session.
    #[test]
    fn a_hop_is_small() {
        let (shared, driver) = (size_of::<Shared>(), size_of::<Driver>());
        assert!(shared <= 1200 && driver <= 300, "{shared} and {driver} bytes");
    }
}
