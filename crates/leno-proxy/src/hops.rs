//! The origination's hops: which connection a stream may share, and how a renewal of certificates costs no request.
//!
//! Hops are keyed by what they must not be shared across (DESIGN section 6): address, workload, permitted identities, and the
//! generation of our own certificate and bundle. After a renewal new streams go over new hops; the generation before it is kept as
//! a fallback until the next, for peers that have not heard of a new root yet.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use leno_http::StreamError;
use leno_http::hop::{Connection, HopSettings, Pool, Registry};
use leno_model::{Reason, SpiffeId};
use leno_net::tls::{ALPN_HOP, TlsContext, TlsSession};
use leno_plan::resilience::Timeouts;
use leno_telemetry::metrics::Direction;

use crate::outbound::ports::{OutboundPort, Outstanding, Way};
use crate::worker::Worker;

/// What a hop must not be shared across. There is one local identity per proxy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct HopKey {
    address: SocketAddr,
    sni: Arc<str>,
    permitted: Arc<[SpiffeId]>,
    generation: u64,
}

/// The hop by which an endpoint was reached last, kept where the endpoint is: while it stands, no table is asked.
#[derive(Default)]
pub struct LastHop(RefCell<Option<(u64, Weak<Connection>)>>);

impl LastHop {
    /// It, if it was made with this generation of our certificate and bundle and has room for a stream.
    fn get(&self, generation: u64) -> Option<Rc<Connection>> {
        let last = self.0.borrow();
        let (_, hop) = last.as_ref().filter(|(of, _)| *of == generation)?;
        hop.upgrade().filter(|hop| hop.has_room())
    }
}

/// The hops of one worker, in both directions.
pub struct Hops {
    pool: Pool<HopKey>,
    registry: Rc<Registry>,
    /// The generation before the one in force.
    previous: Cell<Option<u64>>,
}

impl Hops {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        Self { pool: Pool::new(Rc::clone(&registry)), registry, previous: Cell::new(None) }
    }

    /// All hops of this worker, also those that other proxies opened.
    #[must_use]
    pub fn registry(&self) -> &Rc<Registry> {
        &self.registry
    }

    /// A hop to the endpoint that stands and has room: a stream can be opened on it before the next await. `None` says only
    /// that [`Self::get`] must be asked.
    #[must_use]
    pub fn ready(&self, worker: &Worker, state: &OutboundPort, picked: &Outstanding) -> Option<Rc<Connection>> {
        let generation = worker.generation()?;
        let last = state.last_hop(picked);
        if let Some(hop) = last.get(generation) {
            return Some(hop);
        }
        let Way::Hop { address, sni } = state.way(picked)? else { return None };
        let (sni, permitted) = (Arc::clone(sni), Arc::clone(state.identities()));
        let hop = self.pool.existing(&HopKey { address, sni, permitted, generation })?;
        last.0.replace(Some((generation, Rc::downgrade(&hop))));
        Some(hop)
    }

    /// A hop to the workload at `address` on which a stream can be opened before the next await.
    pub async fn get(
        &self,
        worker: &Worker,
        address: SocketAddr,
        sni: &Arc<str>,
        permitted: &Arc<[SpiffeId]>,
        timeouts: &Timeouts,
    ) -> Result<Rc<Connection>, StreamError> {
        let Some(tls) = worker.snapshot().tls.clone() else {
            return Err(StreamError::unprocessed(Reason::ControlPlaneUnreachable, "this proxy has no certificate yet"));
        };
        let key = |generation| HopKey { address, sni: Arc::clone(sni), permitted: Arc::clone(permitted), generation };
        let settings = HopSettings {
            handshake_timeout: timeouts.handshake,
            local_not_after: Some(tls.identity().leaf().not_after),
            ..HopSettings::origination()
        };
        let is_ours = Cell::new(false);
        let session = || {
            is_ours.set(true);
            TlsSession::client(&tls, Arc::clone(permitted), sni, &[ALPN_HOP])
        };
        let outcome = self.pool.get(&key(tls.generation()), address, timeouts.connect, &settings, session).await;
        // Of all who waited for an attempt one tells of it.
        if is_ours.get() {
            let told = match &outcome {
                Ok(hop) => Ok(hop.peer().map(|peer| &*peer.handshake.group).unwrap_or_default()),
                Err(failure) => Err(failure.error.reason),
            };
            worker.telemetry().handshake(Direction::Outbound, told);
        }
        match (outcome, self.previous.get()) {
            // A peer that has not heard of our new root refuses us, and one that we cannot reach says nothing at all. But whom we
            // refuse is refused: what an older bundle said of it counts no more.
            (Err(failure), Some(previous)) if !failure.is_verdict => {
                // A handshake that was under way when the bundle changed was judged by the old one.
                let is_trusted = |hop: &Rc<Connection>| hop.peer().is_some_and(|p| tls.recheck(&p.identity).is_ok());
                self.pool.existing(&key(previous)).filter(is_trusted).ok_or(failure.error)
            }
            (outcome, _) => outcome.map_err(Into::into),
        }
    }

    /// Our certificate or the bundle has changed: what is revoked is cut at once; what is two generations old, or would not be
    /// accepted now, takes no new streams.
    pub fn renew(&self, before: Option<&Arc<TlsContext>>, now: &Arc<TlsContext>) {
        let previous = before.map(|tls| tls.generation());
        if previous == Some(now.generation()) {
            // The same in a new snapshot.
            return;
        }
        self.previous.set(previous);
        self.pool.drain_if(|key| key.generation != now.generation() && Some(key.generation) != previous);
        let is_revoked = |peer: &leno_http::hop::Peer| {
            now.recheck(&peer.identity).is_err_and(|e| e.reason == Reason::CertificateRevoked)
        };
        let cut = self.registry.close_if(is_revoked, Reason::CertificateRevoked, "the peer's certificate is revoked");
        if cut > 0 {
            tracing::warn!(hops = cut, "hops of revoked identities closed");
        }
        // A retired root, above all: both directions, because the registry holds both.
        let left = self.registry.drain_if(|peer| now.recheck(&peer.identity).is_err());
        if left > 0 {
            tracing::info!(hops = left, "hops whose peers are trusted no more take no new streams");
        }
    }
}
