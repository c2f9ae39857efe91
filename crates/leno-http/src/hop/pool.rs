//! The hops that this worker has opened, by key: one each, made once however many requests wait for it.
//!
//! ```text
//!   get(key) ── a hop with room? ──yes──▶ it
//!                    │ no
//!                    ▼
//!              an attempt under way? ──no──▶ start one (a task: a request that gives up does not take it along)
//!                    │ yes
//!                    ▼
//!                 wait for it ──▶ look again, or its failure
//! ```

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use leno_model::Reason;
use leno_net::tls::{TlsError, TlsSession};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::HopSettings;
use super::client::Connection;
use super::registry::Registry;
use crate::refusal::StreamError;

/// Hops of one key when the first is at the peer's stream limit: 8 × 1024 streams to one instance from one worker.
pub const MAX_HOPS_PER_KEY: usize = 8;

/// Hops that one request waits for. A second is usual when the first was full or began to drain; a peer that drains every
/// hop at once must not hold a request for ever.
const MAX_ATTEMPTS: usize = 2 + MAX_HOPS_PER_KEY;

/// Why there is no hop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct HopFailure {
    /// What a request is told; always `unprocessed`.
    pub error: StreamError,
    /// We did not accept who is there: no other hop to the same peer may stand in.
    pub is_verdict: bool,
}

impl From<StreamError> for HopFailure {
    fn from(error: StreamError) -> Self {
        Self { error, is_verdict: false }
    }
}

impl From<HopFailure> for StreamError {
    fn from(failure: HopFailure) -> Self {
        failure.error
    }
}

#[derive(Default)]
struct Slot {
    hops: Vec<Rc<Connection>>,
    attempt: Option<Rc<Attempt>>,
}

#[derive(Default)]
struct Attempt {
    failure: RefCell<Option<HopFailure>>,
    done: Notify,
}

/// Hops by key. The key is the caller's and must hold everything that a hop may not be shared across: local identity,
/// permitted identities, address, trust generation, class.
pub struct Pool<K> {
    slots: Rc<RefCell<HashMap<K, Slot>>>,
    registry: Rc<Registry>,
}

impl<K: Hash + Eq + Clone + 'static> Pool<K> {
    /// An empty pool.
    #[must_use]
    pub fn new(registry: Rc<Registry>) -> Self {
        Self { slots: Rc::default(), registry }
    }

    /// A hop with room for a stream, which the caller opens before its next await. `connect_timeout` bounds TCP's part,
    /// `settings.handshake_timeout` the rest; `tls` is called if a connection has to be made. Every failure is `unprocessed`.
    pub async fn get(
        &self,
        key: &K,
        address: SocketAddr,
        connect_timeout: Duration,
        settings: &HopSettings,
        tls: impl Fn() -> Result<TlsSession, TlsError>,
    ) -> Result<Rc<Connection>, HopFailure> {
        for _ in 0..MAX_ATTEMPTS {
            let attempt = {
                let mut slots = self.slots.borrow_mut();
                if !slots.contains_key(key) {
                    // A new key is rare, and often follows a renewal that made others useless.
                    slots.retain(|_, slot| slot.attempt.is_some() || slot.hops.iter().any(|h| !h.is_draining()));
                }
                let slot = slots.entry(key.clone()).or_default();
                if let Some(hop) = slot.hops.iter().find(|h| h.has_room()) {
                    return Ok(Rc::clone(hop));
                }
                slot.hops.retain(|h| !h.is_draining());
                match &slot.attempt {
                    Some(attempt) => Rc::clone(attempt),
                    None if slot.hops.len() >= MAX_HOPS_PER_KEY => {
                        return Err(StreamError::unprocessed(
                            Reason::Overloaded,
                            "every hop to the peer is at its stream limit",
                        )
                        .into());
                    }
                    None => {
                        let session = tls().map_err(|e| StreamError::unprocessed(e.reason, e.detail))?;
                        let attempt = Rc::new(Attempt::default());
                        slot.attempt = Some(Rc::clone(&attempt));
                        self.start(key.clone(), address, connect_timeout, settings.clone(), session, &attempt);
                        attempt
                    }
                }
            };
            // Nothing was awaited since the attempt was seen under way, so its end cannot be missed.
            attempt.done.notified().await;
            if let Some(failure) = attempt.failure.borrow().clone() {
                return Err(failure);
            }
        }
        Err(StreamError::unprocessed(Reason::RefusedStream, "the peer accepts hops but no streams").into())
    }

    /// A hop with room that is there already, whatever a new one would meet.
    #[must_use]
    pub fn existing(&self, key: &K) -> Option<Rc<Connection>> {
        self.slots.borrow().get(key)?.hops.iter().find(|h| h.has_room()).cloned()
    }

    fn start(
        &self,
        key: K,
        address: SocketAddr,
        connect_timeout: Duration,
        settings: HopSettings,
        tls: TlsSession,
        attempt: &Rc<Attempt>,
    ) {
        let (slots, registry, attempt) = (Rc::clone(&self.slots), Rc::clone(&self.registry), Rc::clone(attempt));
        tokio::task::spawn_local(async move {
            let outcome = connect(address, connect_timeout, settings, tls, &registry).await;
            let mut slots = slots.borrow_mut();
            match outcome {
                Ok(hop) => {
                    let slot = slots.entry(key).or_default();
                    slot.attempt = None;
                    slot.hops.push(hop);
                }
                Err(error) => {
                    *attempt.failure.borrow_mut() = Some(error);
                    if let Some(slot) = slots.get_mut(&key) {
                        slot.attempt = None;
                    }
                }
            }
            attempt.done.notify_waiters();
        });
    }

    /// Drains the hops whose key `is_stale` points at: they take no new streams and close after their last.
    pub fn drain_if(&self, mut is_stale: impl FnMut(&K) -> bool) {
        self.slots.borrow_mut().retain(|key, slot| {
            let stale = is_stale(key);
            if stale {
                slot.hops.drain(..).for_each(|hop| hop.drain());
            }
            !stale || slot.attempt.is_some()
        });
    }

    /// Drains all.
    pub fn drain(&self) {
        self.drain_if(|_| true);
    }

    /// How many hops there are that take streams.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.borrow().values().map(|s| s.hops.iter().filter(|h| !h.is_draining()).count()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Connects and shakes hands; what was heard on the way as a reason.
async fn connect(
    address: SocketAddr,
    timeout: Duration,
    settings: HopSettings,
    tls: TlsSession,
    registry: &Rc<Registry>,
) -> Result<Rc<Connection>, HopFailure> {
    let io = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(io)) => io,
        Ok(Err(error)) => {
            let refused = matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset);
            let reason = if refused { Reason::ConnectRefused } else { Reason::ConnectTimeout };
            return Err(StreamError::unprocessed(reason, format!("{address}: {error}")).into());
        }
        Err(_) => {
            let detail = format!("{address}: no connection within {} ms", timeout.as_millis());
            return Err(StreamError::unprocessed(Reason::ConnectTimeout, detail).into());
        }
    };
    let hop = Connection::start(io, tls, settings, registry);
    match hop.ready().await {
        Ok(()) => Ok(hop),
        Err(error) => Err(HopFailure { error, is_verdict: hop.is_peer_refused() }),
    }
}
