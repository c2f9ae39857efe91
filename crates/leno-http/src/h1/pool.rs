//! Idle connections to applications and plain endpoints, by address; one pool per worker.
//!
//! The connection that was used last is used first, so that the others can age out.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::source::Source;
use crate::by_address::ByAddress;
use crate::raw::{read_some, with_scratch};

/// An idle connection and when it must be gone.
struct Idle {
    source: Rc<Source>,
    until: Instant,
}

/// The idle connections of one worker.
pub(super) struct Pool {
    idle: RefCell<ByAddress<VecDeque<Idle>>>,
    /// The task that closes what has aged runs.
    is_swept: Cell<bool>,
    lifetime: Duration,
    per_address: usize,
}

impl Pool {
    pub fn new(lifetime: Duration, per_address: usize) -> Rc<Self> {
        Rc::new(Self { idle: RefCell::default(), is_swept: Cell::new(false), lifetime, per_address })
    }

    /// A connection on which the server has neither ended nor said anything since its last answer.
    pub fn take(&self, address: SocketAddr) -> Option<Rc<Source>> {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&address)?;
        // An empty list stays, with its memory, until the sweep: the connection will most likely come back.
        loop {
            let candidate = connections.pop_back()?;
            if candidate.until > now && is_quiet(&candidate.source) {
                return Some(candidate.source);
            }
        }
    }

    /// Keeps a connection for `server_limit` at most, if the server has named one.
    pub fn put(self: &Rc<Self>, address: SocketAddr, source: Rc<Source>, server_limit: Option<Duration>) {
        let lifetime = server_limit.map_or(self.lifetime, |limit| self.lifetime.min(limit));
        if lifetime.is_zero() || source.has_ahead() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(address).or_default();
        if connections.len() >= self.per_address {
            connections.pop_front();
        }
        connections.push_back(Idle { source, until: Instant::now() + lifetime });
        drop(idle);
        if !self.is_swept.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(self), self.lifetime));
        }
    }

    /// Closes the idle connections to an address, or all.
    pub fn forget(&self, address: Option<SocketAddr>) {
        match address {
            Some(address) => drop(self.idle.borrow_mut().remove(&address)),
            None => self.idle.borrow_mut().clear(),
        }
    }

    pub fn len(&self) -> usize {
        self.idle.borrow().values().map(VecDeque::len).sum()
    }
}

/// Closes what has aged; ends with the pool or with its last idle connection.
async fn sweep(pool: Weak<Pool>, lifetime: Duration) {
    loop {
        tokio::time::sleep(lifetime / 2).await;
        let Some(pool) = pool.upgrade() else { return };
        let now = Instant::now();
        let mut idle = pool.idle.borrow_mut();
        idle.retain(|_, connections| {
            connections.retain(|c| c.until > now && is_quiet(&c.source));
            !connections.is_empty()
        });
        if idle.is_empty() {
            pool.is_swept.set(false);
            return;
        }
    }
}

/// Whether a read finds nothing. An end means that the server has closed; bytes that nobody asked for would be taken for the next
/// answer.
fn is_quiet(source: &Source) -> bool {
    let read = with_scratch(|scratch| read_some(&source.io, &mut scratch[..1]));
    matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}
