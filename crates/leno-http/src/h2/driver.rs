//! The task that moves bytes between one socket and its [`Engine`].
//!
//! ```text
//!   socket readable ─▶ scratch ─▶ Engine::receive ─▶ streams' tasks woken ─┐
//!                                                                         │ they append frames: dirty
//!   socket ◀─ one write ◀─ Engine::produce ◀── at the end of this turn ◀──┘
//! ```
//!
//! Whoever makes the connection dirty wakes this task; it then steps back once behind every task that is ready now, so that all
//! they append is sent together. Nothing is ever held back by a timer.
//!
//! Phases: `Open` → (drained, failed) `Closing`: the last frames go out → `Lingering`: our side is shut down, the peer's bytes
//! are discarded until it closes, so that no RST overtakes our last frames. Dropping the driver breaks everything off.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use leno_model::Reason;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::wire::Http2Wire;
use crate::crew::Crew;
use crate::head::RequestHead;
use crate::mux::limits::{Budget, RELIEVE_EVERY, WakerSlot};
use crate::mux::{self, Engine, Fault, ProtocolError, Side};
use crate::raw;
use crate::refusal::{Refusal, StreamError};

/// Bytes sent with one call.
const FLUSH: usize = 128 * 1024;
/// Reads and flushes before the other tasks of the worker have their turn.
const ROUNDS: usize = 4;
/// How long the word why we break off may take, and the peer's close.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// How long the tail of the last answer may take to a slow peer.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);
/// Unsent bytes in the kernel beyond which the socket is not writable: small streams queue here, where there are turns, and
/// not behind megabytes in the kernel.
const UNSENT: u32 = 128 * 1024;

/// A stream that the peer opened.
pub(super) type Accepted = mux::Accepted<Result<RequestHead, Refusal>>;

thread_local! {
    /// Bytes on their way out; one per worker.
    static OUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// What the connections of one worker share.
    static WORKER: (Rc<Budget>, Rc<Crew>) = (Rc::default(), Rc::default());
}

/// The tasks that streams run in.
pub(super) fn crew() -> Rc<Crew> {
    WORKER.with(|(_, crew)| Rc::clone(crew))
}

/// One connection, shared by its driver and its streams.
pub(super) struct Shared {
    engine: RefCell<Engine<Http2Wire>>,
    started: Instant,
    is_dirty: Cell<bool>,
    driver: Rc<WakerSlot>,
    /// Ready or failed.
    changed: Notify,
}

impl Shared {
    /// Works on the engine; what it has to say goes out at the end of this turn.
    pub fn with<T>(&self, work: impl FnOnce(&mut Engine<Http2Wire>) -> T) -> T {
        let mut engine = self.engine.borrow_mut();
        let result = work(&mut engine);
        if !self.is_dirty.get() && (engine.has_output() || engine.is_drained()) {
            self.is_dirty.set(true);
            drop(engine);
            if let Some(driver) = &*self.driver.borrow() {
                driver.wake_by_ref();
            }
        }
        result
    }

    /// Works on the engine without giving it anything to say.
    pub fn with_quietly<T>(&self, look: impl FnOnce(&mut Engine<Http2Wire>) -> T) -> T {
        look(&mut self.engine.borrow_mut())
    }

    fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes no new streams; those under way finish.
    pub fn drain(&self) {
        let now = self.age();
        self.with(|engine| engine.drain(Reason::Draining, now));
    }

    /// Ends when the peer's SETTINGS have come, or with why they will not.
    pub async fn ready(&self) -> Result<(), StreamError> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let engine = self.engine.borrow();
                if let Some(failure) = engine.failure() {
                    return Err(failure.clone());
                }
                if engine.is_ready() {
                    return Ok(());
                }
            }
            changed.await;
        }
    }
}

/// When a connection is given up; a client's owner decides that itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Until the peer's SETTINGS.
    pub greeting: Duration,
    /// Without streams.
    pub idle: Duration,
    /// For which the peer may take nothing of an answer.
    pub write: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Closing,
    Lingering,
}

/// Drives one connection to its end.
pub(super) struct Driver {
    shared: Rc<Shared>,
    io: TcpStream,
    limits: Option<Limits>,
    /// Bytes that the kernel did not take.
    unsent: Vec<u8>,
    unsent_at: usize,
    /// Set while there is something to wait for.
    timer: Option<Pin<Box<Sleep>>>,
    phase: Phase,
    is_ready: bool,
    /// Stepped back behind the other tasks of this turn already.
    is_armed: bool,
    /// Not read, because the peer does not read.
    is_held_back: bool,
    /// The newest stream at the last look, and since when nothing has happened.
    idle: (u32, Instant),
    outcome: Result<(), ProtocolError>,
}

impl Driver {
    /// `max_streams` is how many the peer may have open at once.
    pub fn new(side: Side, io: TcpStream, limits: Option<Limits>, max_streams: u32) -> Self {
        // Without these it still works, only slower.
        let _ = io.set_nodelay(true);
        let _ = socket2::SockRef::from(&io).set_tcp_notsent_lowat(UNSENT);
        let budget = WORKER.with(|(budget, _)| Rc::clone(budget));
        let driver = Rc::<WakerSlot>::default();
        budget.enter(&driver);
        let mut engine = Engine::with_wire(side, budget, Http2Wire::new(side, max_streams));
        if let Some(limits) = limits {
            engine.stall_after(limits.write);
        }
        let shared = Rc::new(Shared {
            engine: RefCell::new(engine),
            started: Instant::now(),
            is_dirty: Cell::new(true),
            driver,
            changed: Notify::new(),
        });
        Self {
            shared,
            io,
            limits,
            unsent: Vec::new(),
            unsent_at: 0,
            timer: limits.map(|limits| Box::pin(tokio::time::sleep(limits.greeting))),
            phase: Phase::Open,
            is_ready: false,
            is_armed: false,
            is_held_back: false,
            idle: (0, Instant::now()),
            outcome: Ok(()),
        }
    }

    pub fn shared(&self) -> Rc<Shared> {
        Rc::clone(&self.shared)
    }

    /// Runs until the connection is over; `accept` is called for every stream that the peer opens. Fails with what the peer did
    /// wrong.
    pub async fn run(mut self, mut accept: impl FnMut(Accepted)) -> Result<(), ProtocolError> {
        std::future::poll_fn(|cx| self.poll(cx, &mut accept)).await;
        std::mem::replace(&mut self.outcome, Ok(()))
    }

    fn poll(&mut self, cx: &mut Context<'_>, accept: &mut impl FnMut(Accepted)) -> Poll<()> {
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
            self.idle.1 = Instant::now();
            self.shared.changed.notify_waiters();
            if self.limits.is_some() {
                self.set_timer(Instant::now());
            }
        }
        if self.phase == Phase::Open {
            let (is_failed, is_drained) = self.shared.with_quietly(|e| (e.failure().is_some(), e.is_drained()));
            if is_failed || is_drained {
                self.begin_closing(if is_failed { CLOSE_WITHIN } else { DRAIN_WITHIN });
            }
        }
        if self.phase == Phase::Open && self.is_ready && self.shared.with_quietly(|e| e.wants_relief()) {
            self.relieve_soon();
        }
        while self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
            if self.on_timer().is_err() {
                return Poll::Ready(());
            }
        }
        if self.poll_write(cx).is_err() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Reads what there is. An error means that the connection is over.
    fn poll_read(&mut self, cx: &mut Context<'_>, accept: &mut impl FnMut(Accepted)) -> Result<(), ()> {
        for _ in 0..ROUNDS {
            if self.phase == Phase::Open && self.shared.with_quietly(|e| e.is_backed_up()) {
                self.is_held_back = true;
                return Ok(());
            }
            match self.io.poll_read_ready(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return self.lost(&error.to_string()),
            }
            let (shared, io, is_open) = (&self.shared, &self.io, self.phase == Phase::Open);
            let read = raw::with_scratch(|scratch| {
                raw::read_some(io, scratch)
                    .map(|length| (length, if is_open { take_in(shared, &scratch[..length]) } else { Ok(()) }))
            });
            while self.shared.with_quietly(|e| e.has_accepted()) {
                if let Some(accepted) = self.shared.with(|e| e.next_accepted()) {
                    accept(accepted);
                }
            }
            match read {
                Ok((0, _)) => return self.lost("the peer closed the connection"),
                Ok((_, Ok(()))) => {}
                Ok((_, Err(error))) => return self.broken(error),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return self.lost(&error.to_string()),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// The peer broke a rule: it is told, and the connection closes.
    fn broken(&mut self, error: ProtocolError) -> Result<(), ()> {
        if self.phase != Phase::Open {
            return Err(());
        }
        self.shared.with(|engine| engine.close_for(&error));
        self.outcome = Err(error);
        self.begin_closing(CLOSE_WITHIN);
        Ok(())
    }

    /// The connection is gone.
    fn lost(&mut self, detail: &str) -> Result<(), ()> {
        self.shared.with_quietly(|engine| engine.fail(engine.side().lost(), detail));
        Err(())
    }

    fn begin_closing(&mut self, within: Duration) {
        self.phase = Phase::Closing;
        self.set_timer(Instant::now() + within);
        self.is_armed = true;
        self.shared.is_dirty.set(true);
        self.shared.changed.notify_waiters();
    }

    fn set_timer(&mut self, at: Instant) {
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }

    fn relieve_soon(&mut self) {
        let soon = Instant::now() + RELIEVE_EVERY;
        if self.timer.as_ref().is_none_or(|timer| timer.deadline() > soon) {
            self.set_timer(soon);
        }
    }

    /// Flushes at the end of the turn. An error means that the connection is over.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        if self.shared.is_dirty.get() && !self.is_armed {
            self.is_armed = true;
            cx.waker().wake_by_ref();
            return Ok(());
        }
        while self.shared.is_dirty.get() || !self.unsent.is_empty() {
            if !self.unsent.is_empty() {
                match self.io.poll_write_ready(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return self.lost(&error.to_string()),
                }
            }
            match self.flush() {
                Ok(false) => {}
                Ok(true) => {
                    self.shared.is_dirty.set(true);
                    cx.waker().wake_by_ref();
                    break;
                }
                Err(error) => return self.lost(&error.to_string()),
            }
        }
        self.is_armed = false;
        if self.is_held_back && !self.shared.with_quietly(|e| e.is_backed_up()) {
            self.is_held_back = false;
            cx.waker().wake_by_ref();
        }
        self.finish_closing(cx)
    }

    /// Sends what there is, until the kernel takes no more. `Ok(true)` if more is left than one turn's worth.
    fn flush(&mut self) -> io::Result<bool> {
        self.shared.is_dirty.set(false);
        for _ in 0..ROUNDS {
            if !self.unsent.is_empty() {
                self.unsent_at += try_write(&self.io, &self.unsent[self.unsent_at..])?;
                if self.unsent_at < self.unsent.len() {
                    return Ok(false);
                }
                self.unsent = Vec::new();
            }
            let mut engine = self.shared.engine.borrow_mut();
            if !engine.has_output() {
                return Ok(false);
            }
            if engine.wants_time() {
                engine.tell_time(self.shared.age());
                if engine.wants_round_trip() {
                    engine.tell_round_trip(leno_net::shortest_round_trip(&self.io));
                }
            }
            let mut out = OUT.take();
            out.clear();
            engine.produce(&mut out, FLUSH);
            drop(engine);
            let sent = try_write(&self.io, &out)?;
            if sent < out.len() {
                self.unsent = out[sent..].to_vec();
                self.unsent_at = 0;
            }
            if out.capacity() <= 2 * FLUSH {
                OUT.set(out);
            }
        }
        Ok(true)
    }

    fn finish_closing(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        let is_idle = !self.shared.is_dirty.get() && self.unsent.is_empty();
        if self.phase != Phase::Closing || !is_idle || !self.shared.with_quietly(|e| e.is_drained()) {
            return Ok(());
        }
        self.phase = Phase::Lingering;
        self.set_timer(Instant::now() + CLOSE_WITHIN);
        cx.waker().wake_by_ref();
        raw::end_sending(&self.io).map_err(|_| ())
    }

    /// The timer fired: what is due, and when to look again. An error means that the connection is over.
    fn on_timer(&mut self) -> Result<(), ()> {
        if self.phase != Phase::Open {
            return Err(());
        }
        if self.shared.with_quietly(|e| e.wants_relief()) {
            let age = self.shared.age();
            self.shared.with(|e| e.relieve(age));
        }
        // A client's connection is its owner's to end.
        let Some(limits) = self.limits else {
            self.timer = None;
            if self.shared.with_quietly(|e| e.wants_relief()) {
                self.relieve_soon();
            }
            return Ok(());
        };
        if !self.is_ready {
            let text = "no SETTINGS in time".to_owned();
            return self.broken(ProtocolError { fault: Fault::Protocol, text });
        }
        let (now, age) = (Instant::now(), self.shared.age());
        let mut next = now + limits.idle;
        match self.shared.with(|e| e.tick(age)) {
            Ok(at) => next = next.min(self.shared.started + at),
            // Somebody who does not answer is not told why.
            Err(error) => return self.lost(&error.text),
        }
        let (open, newest) = self.shared.with_quietly(|e| (e.open_streams(), e.newest_id()));
        if open > 0 || newest != self.idle.0 {
            self.idle = (newest, now);
        }
        if now >= self.idle.1 + limits.idle {
            self.shared.drain();
        } else if open == 0 {
            next = next.min(self.idle.1 + limits.idle);
        }
        self.set_timer(next.max(now + Duration::from_millis(10)));
        if self.shared.with_quietly(|e| e.wants_relief()) {
            self.relieve_soon();
        }
        Ok(())
    }
}

fn take_in(shared: &Shared, bytes: &[u8]) -> Result<(), ProtocolError> {
    let age = shared.age();
    let mut engine = shared.engine.borrow_mut();
    engine.receive(bytes, age)?;
    if engine.has_output() || engine.is_drained() {
        shared.is_dirty.set(true);
    }
    Ok(())
}

fn try_write(io: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match io.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.with_quietly(|engine| engine.fail(engine.side().lost(), "the connection was closed"));
        self.shared.driver.replace(None);
        self.shared.changed.notify_waiters();
    }
}
