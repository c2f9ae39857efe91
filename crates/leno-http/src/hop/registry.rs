//! The hops of one worker: to find those of a peer, and to count.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use leno_identity::PeerIdentity;
use leno_model::Reason;
use leno_net::tls::HandshakeInfo;

use super::driver::Shared;
use crate::crew::Crew;
use crate::mux::Side;
use crate::mux::limits::Budget;

/// Who is at the other end of a hop.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What its certificate proves.
    pub identity: PeerIdentity,
    /// What was negotiated.
    pub handshake: HandshakeInfo,
    /// At the termination: the label that the origination named.
    pub sni: Option<String>,
    /// Its address.
    pub address: Option<SocketAddr>,
}

/// Counters of a worker's hops; they only grow.
#[derive(Debug, Default)]
pub struct Stats {
    handshakes: Cell<u64>,
    protocol_errors: Cell<u64>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
}

impl Stats {
    /// TLS handshakes that were completed.
    #[must_use]
    pub fn handshakes(&self) -> u64 {
        self.handshakes.get()
    }

    /// Hops closed because the peer broke a rule of the protocol.
    #[must_use]
    pub fn protocol_errors(&self) -> u64 {
        self.protocol_errors.get()
    }

    /// Bytes received, sealed.
    #[must_use]
    pub fn bytes_received(&self) -> u64 {
        self.bytes_in.get()
    }

    /// Bytes sent, sealed.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_out.get()
    }

    pub(super) fn handshake(&self) {
        self.handshakes.set(self.handshakes.get() + 1);
    }

    pub(super) fn protocol_error(&self) {
        self.protocol_errors.set(self.protocol_errors.get() + 1);
    }

    pub(super) fn bytes_in(&self, bytes: usize) {
        self.bytes_in.set(self.bytes_in.get() + bytes as u64);
    }

    pub(super) fn bytes_out(&self, bytes: usize) {
        self.bytes_out.set(self.bytes_out.get() + bytes as u64);
    }
}

/// What can be said of one hop.
#[derive(Debug, Clone)]
pub struct HopInfo {
    /// Who; `None` before the handshake is complete.
    pub peer: Option<Rc<Peer>>,
    /// Whether this proxy opened it.
    pub is_origination: bool,
    /// Open streams.
    pub streams: u32,
    /// Takes no new streams.
    pub is_draining: bool,
    /// Time since it was opened.
    pub age: Duration,
}

/// All hops of one worker.
#[derive(Default)]
pub struct Registry {
    hops: RefCell<Vec<Weak<Shared>>>,
    budget: Rc<Budget>,
    crew: Rc<Crew>,
    stats: Stats,
}

impl Registry {
    /// An empty one.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// The tasks that streams run in.
    pub(super) fn crew(&self) -> &Rc<Crew> {
        &self.crew
    }

    /// The worker's counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Bytes that hops hold for slow readers, of all hops together.
    #[must_use]
    pub fn bytes_held(&self) -> usize {
        self.budget.held()
    }

    pub(super) fn budget(&self) -> Rc<Budget> {
        Rc::clone(&self.budget)
    }

    pub(super) fn enter(&self, hop: &Rc<Shared>) {
        let mut hops = self.hops.borrow_mut();
        if hops.len() == hops.capacity() {
            hops.retain(|h| h.strong_count() > 0);
        }
        hops.push(Rc::downgrade(hop));
    }

    fn live(&self) -> Vec<Rc<Shared>> {
        self.hops.borrow().iter().filter_map(Weak::upgrade).filter(|h| !h.is_closed()).collect()
    }

    /// Every hop that is not closed.
    #[must_use]
    pub fn hops(&self) -> Vec<HopInfo> {
        let info = |hop: Rc<Shared>| {
            let (streams, is_draining) = hop.with(|e| (e.open_streams(), e.is_draining()));
            let peer = hop.peer.get().cloned();
            HopInfo { peer, is_origination: hop.side == Side::Origination, streams, is_draining, age: hop.age() }
        };
        self.live().into_iter().map(info).collect()
    }

    /// Drains every hop whose peer `is_unwanted` points at: no new streams, closed after the last; how many.
    pub fn drain_if(&self, mut is_unwanted: impl FnMut(&Peer) -> bool) -> usize {
        let unwanted = |hop: &Rc<Shared>| hop.peer.get().is_some_and(|p| is_unwanted(p));
        let hops: Vec<_> = self.live().into_iter().filter(unwanted).collect();
        hops.iter().for_each(|hop| hop.drain());
        hops.len()
    }

    /// Closes every hop whose peer `is_unwanted` points at, with its streams; how many. For revoked and untrusted peers.
    pub fn close_if(&self, mut is_unwanted: impl FnMut(&Peer) -> bool, reason: Reason, detail: &str) -> usize {
        let unwanted = |hop: &Rc<Shared>| hop.peer.get().is_some_and(|p| is_unwanted(p));
        let hops: Vec<_> = self.live().into_iter().filter(unwanted).collect();
        hops.iter().for_each(|hop| hop.close(reason, detail));
        hops.len()
    }
}
