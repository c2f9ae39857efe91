//! Change logs: a bounded ring per kind that watches read at their own pace.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::cursor;
use crate::contract::{BoxFuture, Change, Event, Watch, WatchEnd};

/// Changes handed out at a time, so that a watcher far behind does not hold the log's lock for long.
const MAX_CHANGES: usize = 256;

/// Bytes of values that one kind's log may hold, beside the bound on their number: large records must not add up.
const MAX_LOG_BYTES: usize = 64 << 20;

/// The logs of all kinds.
pub(super) struct ChangeLogs {
    capacity: usize,
    /// The newest published revision; a cursor beyond it is from another history (a restored backup).
    published: AtomicU64,
    commits: AtomicU64,
    /// The revision at which this process opened the store: nothing before it is in memory.
    opened_at: AtomicU64,
    kinds: Mutex<HashMap<Arc<str>, Arc<KindLog>>>,
}

struct KindLog {
    ring: Mutex<Ring>,
    /// Bumped after each publication.
    newest: watch::Sender<u64>,
}

struct Ring {
    changes: VecDeque<(u64, Event)>,
    /// Everything after this revision is in `changes`.
    floor: u64,
    bytes: usize,
    closed: bool,
}

impl Ring {
    fn push(&mut self, revision: u64, event: Event, capacity: usize) {
        self.bytes += size(&event);
        self.changes.push_back((revision, event));
        while self.changes.len() > capacity || (self.bytes > MAX_LOG_BYTES && self.changes.len() > 1) {
            let Some((dropped, event)) = self.changes.pop_front() else { break };
            self.floor = dropped;
            self.bytes -= size(&event);
        }
    }
}

fn size(event: &Event) -> usize {
    match event {
        Event::Put(record) => record.value.len(),
        Event::Delete(_) => 0,
    }
}

impl ChangeLogs {
    pub fn new(capacity: usize, opened_at: u64) -> Self {
        Self {
            capacity: capacity.max(1),
            published: AtomicU64::new(opened_at),
            commits: AtomicU64::new(0),
            opened_at: AtomicU64::new(opened_at),
            kinds: Mutex::new(HashMap::new()),
        }
    }

    fn kind(&self, kind: &str) -> Arc<KindLog> {
        let mut kinds = lock(&self.kinds);
        if let Some(log) = kinds.get(kind) {
            return Arc::clone(log);
        }
        let ring =
            Ring { changes: VecDeque::new(), floor: self.opened_at.load(Ordering::Acquire), bytes: 0, closed: false };
        let log = Arc::new(KindLog {
            ring: Mutex::new(ring),
            newest: watch::Sender::new(self.opened_at.load(Ordering::Acquire)),
        });
        kinds.insert(kind.into(), Arc::clone(&log));
        log
    }

    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Appends committed changes, in order.
    pub fn publish(&self, events: Vec<(u64, Event)>) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        let mut touched: Vec<(Arc<KindLog>, u64)> = Vec::new();
        for (revision, event) in events {
            let log = self.kind(&event.key().kind);
            lock(&log.ring).push(revision, event, self.capacity);
            self.published.store(revision, Ordering::Release);
            match touched.iter_mut().find(|(t, _)| Arc::ptr_eq(t, &log)) {
                Some((_, newest)) => *newest = revision,
                None => touched.push((log, revision)),
            }
        }
        for (log, newest) in touched {
            log.newest.send_replace(newest);
        }
    }

    /// The store was opened again at `revision` after a failure. A commit that was answered as failed may have become durable all
    /// the same: what is in memory is then not the whole story, and every watch ends `Compacted`.
    pub fn resync(&self, revision: u64) {
        if revision == self.published.load(Ordering::Acquire) {
            return;
        }
        self.opened_at.store(revision, Ordering::Release);
        self.published.store(revision, Ordering::Release);
        for log in lock(&self.kinds).values() {
            let mut ring = lock(&log.ring);
            ring.changes.clear();
            ring.bytes = 0;
            ring.floor = revision;
            drop(ring);
            log.newest.send_replace(revision);
        }
    }

    pub fn watch(&self, kind: &str, position: u64) -> LogWatch {
        let log = self.kind(kind);
        let news = log.newest.subscribe();
        // A list that ran between a commit and its publication is told to list again: rare, and right the second time.
        let foreign = position > self.published.load(Ordering::Acquire);
        LogWatch { log, news, position, foreign }
    }

    /// Ends all watches.
    pub fn close(&self) {
        for log in lock(&self.kinds).values() {
            lock(&log.ring).closed = true;
            log.newest.send_modify(|_| {});
        }
    }
}

// A panic while the lock is held cannot leave a ring half-changed in a way that matters: pushes are single steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One watcher: its place in the ring.
pub(super) struct LogWatch {
    log: Arc<KindLog>,
    news: watch::Receiver<u64>,
    position: u64,
    foreign: bool,
}

impl LogWatch {
    fn read(&mut self) -> Result<Vec<Change>, WatchEnd> {
        let ring = lock(&self.log.ring);
        if ring.closed {
            return Err(WatchEnd::Closed);
        }
        if self.foreign || self.position < ring.floor {
            return Err(WatchEnd::Compacted);
        }
        let first = ring.changes.partition_point(|(revision, _)| *revision <= self.position);
        let part = ring.changes.iter().skip(first).take(MAX_CHANGES);
        let changes: Vec<_> =
            part.map(|(revision, event)| Change { event: event.clone(), cursor: cursor(*revision) }).collect();
        if let Some((revision, _)) = ring.changes.get((first + changes.len()).wrapping_sub(1))
            && !changes.is_empty()
        {
            self.position = *revision;
        }
        Ok(changes)
    }
}

impl Watch for LogWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Change>, WatchEnd>> {
        Box::pin(async move {
            loop {
                self.news.borrow_and_update();
                let changes = self.read()?;
                if !changes.is_empty() {
                    return Ok(changes);
                }
                self.news.changed().await.map_err(|_| WatchEnd::Closed)?;
            }
        })
    }
}
