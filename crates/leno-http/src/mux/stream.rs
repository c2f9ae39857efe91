//! One stream: two halves that end on their own.
//!
//! ```text
//!   sending     Idle ──HEAD──▶ Open ──end queued──▶ Ending ──flushed──▶ Ended
//!   receiving   Idle ──HEAD──▶ Open ──END, TRAILERS──▶ Ended
//!   both        any  ──RESET, connection lost──▶ Ended, `is_reset`
//! ```
//!
//! A stream is forgotten when both halves have ended and its reader is gone.

use std::task::{Context, Waker};
use std::time::Duration;

use super::chunks::Chunks;
use super::limits::{SEND_QUEUE, STREAM_WINDOW};
use super::wire::Wire;
use crate::refusal::StreamError;
use crate::spare::SpareVec;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    Idle,
    Open,
    Ending,
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiving {
    Idle,
    Open,
    Ended,
}

/// What ends the sending half once the queue is empty.
pub(super) enum Tail {
    None,
    End,
    /// Trailers as they go into a frame.
    Trailers(SpareVec<u8>),
}

/// What comes besides a head and data.
pub(super) struct Rare<W: Wire> {
    /// The 1xx heads that were not taken yet.
    pub infos: Vec<W::Response>,
    pub trailers: Option<W::Trailers>,
    /// What the reader gets instead of the rest.
    pub error: Option<StreamError>,
}

impl<W: Wire> Default for Rare<W> {
    fn default() -> Self {
        Self { infos: Vec::new(), trailers: None, error: None }
    }
}

pub(super) struct Stream<W: Wire> {
    pub id: u32,
    pub sending: Sending,
    pub receiving: Receiving,
    /// Broken off, by either side or with the connection.
    pub is_reset: bool,
    /// Nobody reads: what still comes is dropped.
    pub is_released: bool,
    /// Counts against the limit on open streams.
    pub is_counted: bool,

    pub queue: Chunks,
    pub tail: Tail,
    /// What the peer lets us send.
    pub send_window: i64,
    /// In the round of streams that have something to send.
    pub is_in_round: bool,
    /// The writer waits for room, not for its source.
    pub wants_room: bool,

    pub inbox: Chunks,
    /// 1xx heads sent.
    pub infos_sent: u8,
    /// The final head was sent.
    pub is_answered: bool,
    /// 100 is one of them.
    pub is_continued: bool,
    pub head: Option<W::Response>,
    /// What most streams never have.
    pub rare: Option<Box<Rare<W>>>,
    /// What we let the peer send.
    pub receive_window: u32,
    /// What that is when nothing is on its way, held, or taken and not given back.
    pub window: u32,
    /// Taken by the reader, but not yet given back to the peer. Below 0, what it has to take before anything is: the window
    /// became smaller by that.
    pub credit: i64,
    /// About to be given back.
    pub is_credited: bool,
    /// Bytes of the request's head, or of the 1xx heads of its answer.
    pub head_len: u32,
    /// The second in which something was last sent, or in which the end was queued.
    pub sent_at: u32,
    /// The second in which the reader last took something, or in which there was something to take again.
    pub read_at: u32,
    /// When the window's size was last judged, and what was given back since.
    pub judged: Option<Duration>,
    pub taken: u32,

    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
    pub watcher: Option<Waker>,
}

impl<W: Wire> Stream<W> {
    /// No stream: what a free place holds.
    pub fn empty() -> Self {
        Self {
            id: 0,
            sending: Sending::Idle,
            receiving: Receiving::Idle,
            is_reset: false,
            is_released: false,
            is_counted: false,
            queue: Chunks::default(),
            tail: Tail::None,
            send_window: 0,
            is_in_round: false,
            wants_room: false,
            inbox: Chunks::default(),
            infos_sent: 0,
            is_answered: false,
            is_continued: false,
            head: None,
            rare: None,
            receive_window: 0,
            window: 0,
            credit: 0,
            is_credited: false,
            head_len: 0,
            sent_at: 0,
            read_at: 0,
            judged: None,
            taken: 0,
            reader: None,
            writer: None,
            watcher: None,
        }
    }

    /// Makes a stream of an empty one.
    pub fn begin(&mut self, id: u32, send_window: u32) {
        self.id = id;
        self.sending = Sending::Idle;
        self.receiving = Receiving::Idle;
        self.is_reset = false;
        self.is_released = false;
        self.is_counted = true;
        self.send_window = i64::from(send_window);
        self.is_in_round = false;
        self.wants_room = false;
        self.infos_sent = 0;
        self.is_answered = false;
        self.is_continued = false;
        self.head_len = 0;
        self.receive_window = STREAM_WINDOW;
        self.window = STREAM_WINDOW;
        self.credit = 0;
        self.is_credited = false;
        self.judged = None;
        self.taken = 0;
    }

    /// Makes it empty: everything that has memory or wakes somebody goes.
    pub fn clear(&mut self) {
        self.id = 0;
        self.queue.clear();
        self.inbox.clear();
        self.tail = Tail::None;
        self.head = None;
        self.rare = None;
        self.reader = None;
        self.writer = None;
        self.watcher = None;
    }

    pub fn rare(&mut self) -> &mut Rare<W> {
        self.rare.get_or_insert_default()
    }

    /// Takes something rare out, and the place for it when it is empty.
    fn take_rare<T>(&mut self, take: impl FnOnce(&mut Rare<W>) -> Option<T>) -> Option<T> {
        let rare = self.rare.as_mut()?;
        let taken = take(rare);
        if rare.infos.is_empty() && rare.trailers.is_none() && rare.error.is_none() {
            self.rare = None;
        }
        taken
    }

    pub fn next_info(&mut self) -> Option<W::Response> {
        self.take_rare(|rare| if rare.infos.is_empty() { None } else { Some(rare.infos.remove(0)) })
    }

    pub fn take_trailers(&mut self) -> Option<W::Trailers> {
        self.take_rare(|rare| rare.trailers.take())
    }

    pub fn error(&self) -> Option<&StreamError> {
        self.rare.as_ref()?.error.as_ref()
    }

    pub fn is_closed(&self) -> bool {
        self.sending == Sending::Ended && self.receiving == Receiving::Ended
    }

    /// Whether the sender may queue more: the peer would take it, and the queue is not full.
    pub fn has_room(&self) -> bool {
        self.queue.len() < SEND_QUEUE && self.send_window > i64::try_from(self.queue.len()).unwrap_or(i64::MAX)
    }

    /// Wakes the writer that waits for room, at half a queue, so that it is not woken for every frame.
    pub fn offer_room(&mut self) {
        if self.wants_room && self.queue.len() <= SEND_QUEUE / 2 && self.has_room() {
            self.wants_room = false;
            wake(&mut self.writer);
        }
    }

    /// Ends the sending half without sending more.
    pub fn cut_sending(&mut self) {
        self.queue.clear();
        self.tail = Tail::None;
        self.sending = Sending::Ended;
        wake(&mut self.writer);
    }

    /// Breaks the stream off. What was received up to a regular end stays readable. Returns the bytes no longer held.
    pub fn kill(&mut self, error: StreamError) -> usize {
        self.is_reset = true;
        self.cut_sending();
        let mut freed = 0;
        if self.receiving != Receiving::Ended {
            self.receiving = Receiving::Ended;
            self.head = None;
            // Nothing of what was received before: it is not the whole.
            self.rare = Some(Box::new(Rare { error: Some(error), ..Rare::default() }));
            freed = self.drop_inbox();
        }
        wake(&mut self.reader);
        wake(&mut self.watcher);
        freed
    }

    /// Drops what was received; how many bytes.
    pub fn drop_inbox(&mut self) -> usize {
        self.take_trailers();
        let freed = self.inbox.len();
        self.inbox.clear();
        freed
    }
}

/// Wakes and forgets.
pub(super) fn wake(slot: &mut Option<Waker>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}

/// Remembers whom to wake; cheap if it is the one already remembered.
pub(super) fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}
