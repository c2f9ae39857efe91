//! The reading side of one HTTP/1 connection: heads, then the body that belongs to each.
//!
//! ```text
//!   socket ──► a block of its thread ──► ahead (only what is not used yet) ──► head
//!                                                        └──► framing ──► frames
//! ```
//!
//! The connection reads for whoever asks: the server or client for a head, the holder of an [`IncomingBody`] for frames. An idle
//! connection holds no bytes. Frames are asked for by one task at a time, so one waker is enough.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use leno_model::Reason;
use tokio::net::TcpStream;

use super::chunked::{Decoder, Event};
use super::parse::{HeadScanner, ParseError, WholeHead};
use crate::body::{BodyError, Frame, PollFrame};
use crate::hygiene;
use crate::raw::read_bytes;

/// Chunks smaller than this are gathered: a peer that sends single bytes must not cost a frame for each.
const SMALL_CHUNK: usize = 1024;
/// Up to so many bytes are gathered into one frame.
const GATHERED: usize = 16 * 1024;

/// How the body ends that is being read.
#[derive(Debug)]
pub(crate) enum Framing {
    /// It has ended, or there is none.
    Done,
    Length(u64),
    Chunked(Box<Decoder>),
    UntilClose,
    /// What follows a switch of protocols, which has not been agreed to yet.
    Gated,
    /// After the switch: bytes until the peer ends its side.
    Raw,
    /// The peer broke off, or broke the rules.
    Broken,
}

/// Why no head came.
#[derive(Debug)]
pub(crate) enum HeadEnd {
    /// The peer ended its side; `true` if a part of a head had arrived.
    Eof(bool),
    Io(io::Error),
    Invalid(ParseError),
}

pub(crate) struct Source {
    pub io: Rc<TcpStream>,
    /// Whose fault a broken connection is.
    broken: Reason,
    reading: RefCell<Reading>,
    /// Counts messages: the body of an earlier one gets nothing of a later one.
    epoch: Cell<u32>,
    /// Some body of this message is still held by somebody.
    held: Cell<bool>,
    /// Woken when a body ends or is let go.
    watcher: RefCell<Option<Waker>>,
    /// Called once, when the body is asked for before a byte of it has arrived.
    on_wanted: RefCell<Option<Box<dyn FnOnce()>>>,
}

/// How much of a head has been read.
#[derive(Default)]
pub(crate) struct HeadReader {
    scanner: HeadScanner,
    /// The head, as far as it has come in several reads.
    partial: Option<Box<BytesMut>>,
    has_started: bool,
}

impl HeadReader {
    /// Its first byte has come.
    pub fn has_started(&self) -> bool {
        self.has_started
    }
}

struct Reading {
    ahead: Bytes,
    framing: Framing,
    /// Found while gathering small chunks.
    pending: Option<Event>,
    /// Who waits for the gate.
    gate: Option<Waker>,
}

impl Source {
    pub fn new(io: Rc<TcpStream>, broken: Reason) -> Rc<Self> {
        Rc::new(Self {
            io,
            broken,
            reading: RefCell::new(Reading { ahead: Bytes::new(), framing: Framing::Done, pending: None, gate: None }),
            epoch: Cell::new(0),
            held: Cell::new(false),
            watcher: RefCell::new(None),
            on_wanted: RefCell::new(None),
        })
    }

    /// Begins the body of a message; bodies of earlier ones are cut off.
    pub fn begin(self: &Rc<Self>, framing: Framing) -> IncomingBody {
        self.epoch.set(self.epoch.get().wrapping_add(1));
        self.held.set(true);
        let mut reading = self.reading.borrow_mut();
        reading.framing = framing;
        reading.pending = None;
        reading.gate = None;
        self.on_wanted.replace(None);
        IncomingBody { source: Rc::clone(self), epoch: self.epoch.get(), is_over: false }
    }

    /// Calls `action` if the body is asked for before any of it has arrived.
    pub fn when_wanted(&self, action: impl FnOnce() + 'static) {
        self.on_wanted.replace(Some(Box::new(action)));
    }

    /// The body may be asked for without anybody being told.
    pub fn forget_wanted(&self) {
        self.on_wanted.replace(None);
    }

    /// Lets the bytes behind a switch of protocols through.
    pub fn open_gate(&self) {
        let mut reading = self.reading.borrow_mut();
        if matches!(reading.framing, Framing::Gated) {
            reading.framing = Framing::Raw;
            if let Some(waker) = reading.gate.take() {
                waker.wake();
            }
        }
    }

    /// The message has been read to its regular end.
    pub fn is_done(&self) -> bool {
        let reading = self.reading.borrow();
        matches!(reading.framing, Framing::Done) && reading.pending.is_none()
    }

    pub fn is_gated(&self) -> bool {
        matches!(self.reading.borrow().framing, Framing::Gated)
    }

    pub fn has_ahead(&self) -> bool {
        !self.reading.borrow().ahead.is_empty()
    }

    /// Throws away what was read ahead.
    pub fn clear_ahead(&self) {
        self.reading.borrow_mut().ahead = Bytes::new();
    }

    /// Cuts off the body of the current message wherever it is held.
    pub fn cut_off(&self) {
        self.epoch.set(self.epoch.get().wrapping_add(1));
    }

    /// Ends when the body has ended or nobody holds it any more. Cancel-safe; one waiter at a time.
    pub async fn body_over(&self) {
        poll_fn(|cx| {
            let over = !self.held.get() || matches!(self.reading.borrow().framing, Framing::Done | Framing::Broken);
            if over {
                return Poll::Ready(());
            }
            self.watcher.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    fn tell_watcher(&self) {
        if let Some(waker) = self.watcher.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Reads once, if there is something; `Ok(0)` is the peer's end. Only for when nothing is ahead and no body is read.
    pub fn poll_ahead(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let bytes = ready!(poll_bytes(&self.io, cx))?;
        let length = bytes.len();
        self.reading.borrow_mut().ahead = bytes;
        Poll::Ready(Ok(length))
    }

    /// Reads on until a head is whole; what follows stays ahead. The connection is of no use if `reader` is dropped inside a head.
    pub fn poll_head(&self, reader: &mut HeadReader, cx: &mut Context<'_>) -> Poll<Result<WholeHead, HeadEnd>> {
        loop {
            let mut bytes = std::mem::take(&mut self.reading.borrow_mut().ahead);
            if bytes.is_empty() {
                bytes = ready!(poll_bytes(&self.io, cx)).map_err(HeadEnd::Io)?;
            }
            if bytes.is_empty() {
                return Poll::Ready(Err(HeadEnd::Eof(reader.has_started)));
            }
            reader.has_started = true;
            // Nearly always a head comes whole, and is used where it lies.
            let Some(mut partial) = reader.partial.take() else {
                match reader.scanner.scan(&bytes).map_err(HeadEnd::Invalid)? {
                    Some(range) => return Poll::Ready(Ok(self.split(bytes, range.end, reader))),
                    None => reader.partial = Some(Box::new(BytesMut::from(&bytes[..]))),
                }
                continue;
            };
            partial.extend_from_slice(&bytes);
            match reader.scanner.scan(&partial).map_err(HeadEnd::Invalid)? {
                Some(range) => return Poll::Ready(Ok(self.split(partial.freeze(), range.end, reader))),
                None => reader.partial = Some(partial),
            }
        }
    }

    fn split(&self, mut bytes: Bytes, end: usize, reader: &mut HeadReader) -> WholeHead {
        let scanner = std::mem::take(&mut reader.scanner);
        if end == bytes.len() {
            return scanner.into_head(bytes);
        }
        let head = bytes.split_to(end);
        self.reading.borrow_mut().ahead = bytes;
        scanner.into_head(head)
    }

    /// The next frame of the current message.
    pub fn poll_frame(&self, cx: &mut Context<'_>) -> PollFrame {
        let polled = self.poll_frame_inner(cx);
        if self.is_over() {
            self.tell_watcher();
        }
        polled
    }

    fn is_over(&self) -> bool {
        let reading = self.reading.borrow();
        matches!(reading.framing, Framing::Done | Framing::Broken) && reading.pending.is_none()
    }

    fn poll_frame_inner(&self, cx: &mut Context<'_>) -> PollFrame {
        loop {
            let mut reading = self.reading.borrow_mut();
            match reading.next() {
                Ok(Step::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::Gate) => {
                    reading.gate = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Ok(Step::Broken) => return Poll::Ready(Some(Err(BodyError::new(self.broken, "the body broke off")))),
                Ok(Step::More) => {}
                Err(error) => {
                    reading.framing = Framing::Broken;
                    return Poll::Ready(Some(Err(BodyError::new(self.rule_reason(), error.to_string()))));
                }
            }
            drop(reading);
            if let Some(wanted) = self.on_wanted.take() {
                wanted();
            }
            let read = ready!(poll_bytes(&self.io, cx));
            let mut reading = self.reading.borrow_mut();
            match read {
                Ok(bytes) if bytes.is_empty() => {
                    if matches!(reading.framing, Framing::UntilClose | Framing::Raw) {
                        reading.framing = Framing::Done;
                        return Poll::Ready(None);
                    }
                    reading.framing = Framing::Broken;
                    return Poll::Ready(Some(Err(BodyError::new(self.broken, "the connection ended inside the body"))));
                }
                Ok(bytes) => reading.ahead = bytes,
                Err(error) => {
                    reading.framing = Framing::Broken;
                    return Poll::Ready(Some(Err(BodyError::new(self.broken, error.to_string()))));
                }
            }
        }
    }

    /// The reason for a body that breaks the rules.
    fn rule_reason(&self) -> Reason {
        if self.broken == Reason::DownstreamReset { Reason::MalformedRequest } else { Reason::UpstreamProtocolError }
    }
}

enum Step {
    Frame(Frame),
    More,
    End,
    Gate,
    Broken,
}

impl Reading {
    /// The next frame from what is ahead.
    fn next(&mut self) -> Result<Step, ParseError> {
        if let Some(event) = self.pending.take() {
            return Ok(self.event(event));
        }
        match &mut self.framing {
            Framing::Done => Ok(Step::End),
            Framing::Broken => Ok(Step::Broken),
            Framing::Gated => Ok(Step::Gate),
            _ if self.ahead.is_empty() => Ok(Step::More),
            Framing::UntilClose | Framing::Raw => Ok(Step::Frame(Frame::Data(std::mem::take(&mut self.ahead)))),
            Framing::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(self.ahead.len());
                *left -= take as u64;
                if *left == 0 {
                    self.framing = Framing::Done;
                }
                Ok(Step::Frame(Frame::Data(self.ahead.split_to(take))))
            }
            Framing::Chunked(decoder) => match decoder.next(&mut self.ahead)? {
                None => Ok(Step::More),
                Some(Event::Data(first)) if first.len() < SMALL_CHUNK && !self.ahead.is_empty() => {
                    let mut gathered = BytesMut::from(&first[..]);
                    while gathered.len() < GATHERED {
                        match decoder.next(&mut self.ahead)? {
                            Some(Event::Data(data)) => gathered.extend_from_slice(&data),
                            other => {
                                self.pending = other;
                                break;
                            }
                        }
                    }
                    Ok(Step::Frame(Frame::Data(gathered.freeze())))
                }
                Some(event) => Ok(self.event(event)),
            },
        }
    }

    fn event(&mut self, event: Event) -> Step {
        match event {
            Event::Data(data) => Step::Frame(Frame::Data(data)),
            Event::End(mut fields) => {
                self.framing = Framing::Done;
                fields.remove_all(hygiene::FORBIDDEN_IN_TRAILERS);
                if fields.is_empty() { Step::End } else { Step::Frame(Frame::Trailers(fields)) }
            }
        }
    }
}

/// Reads what is there into bytes of their own; empty at the peer's end.
fn poll_bytes(io: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    loop {
        ready!(io.poll_read_ready(cx))?;
        match read_bytes(io) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return Poll::Ready(other),
        }
    }
}

/// A body that is being read from an HTTP/1 connection.
pub struct IncomingBody {
    source: Rc<Source>,
    epoch: u32,
    /// Its last frame was given: the connection may be in others' hands before the end is asked for.
    is_over: bool,
}

impl IncomingBody {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        if self.is_over {
            return Poll::Ready(None);
        }
        if self.epoch != self.source.epoch.get() {
            return Poll::Ready(Some(Err(BodyError::new(self.source.broken, "the exchange is over"))));
        }
        let polled = self.source.poll_frame(cx);
        self.is_over = matches!(polled, Poll::Ready(None | Some(Ok(_)))) && self.source.is_done();
        polled
    }

    pub(crate) fn is_end(&self) -> bool {
        self.is_over || self.epoch != self.source.epoch.get() || self.source.is_done()
    }

    pub(super) fn source(&self) -> &Rc<Source> {
        &self.source
    }
}

impl Drop for IncomingBody {
    fn drop(&mut self) {
        if self.epoch == self.source.epoch.get() {
            self.source.held.set(false);
            self.source.tell_watcher();
        }
    }
}
