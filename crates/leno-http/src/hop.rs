//! The hop: one multiplexed, mutually authenticated connection from a member's proxy to another's (DESIGN section 6,
//! docs/reference/hop.md).
//!
//! ```text
//!   Pool ─▶ Connection::begin(meta, head, …)         serve(…, handler(meta, peer, request))
//!                     │                                              │
//!                   stream ◀── bodies, heads as text ──▶ stream      │   stream.rs, head_text.rs
//!                     └──────────── Engine ──────────────┘               mux.rs, wire.rs, frame.rs: pure
//!                     Driver: socket ⇄ TLS ⇄ Engine                      driver.rs: the only I/O
//! ```
//!
//! *Start reading at*: [`frame`] for the bytes, [`wire`] and [`crate::mux`] for the rules, `driver` for when they move.

mod client;
mod driver;
pub mod frame;
pub mod head_text;
mod pool;
mod registry;
mod server;
mod stream;
pub mod wire;

use std::time::Duration;

use leno_model::Reason;
use leno_net::tls::TlsError;

pub use client::{Connection, OpenStream};
pub use head_text::{StreamKind, StreamMeta};
pub use pool::{HopFailure, MAX_HOPS_PER_KEY, Pool};
pub use registry::{HopInfo, Peer, Registry, Stats};
pub use server::serve;
pub use stream::HopBody;
pub(crate) use stream::HopInterim;

use crate::mux::Side;

/// One end of a hop; see [`crate::mux`].
pub type Engine = crate::mux::Engine<wire::HopWire>;

/// What a hop is told; the defaults are DESIGN section 7's.
#[derive(Debug, Clone)]
pub struct HopSettings {
    /// From the start until the peer's HELLO.
    pub handshake_timeout: Duration,
    /// Without streams for so long, it closes.
    pub idle_timeout: Duration,
    /// After so long it takes no new streams; a termination leaves that to the origination.
    pub max_age: Duration,
    /// The Unix second in which our own leaf ends. New streams are opened only while both leaves are valid.
    pub local_not_after: Option<u64>,
}

impl HopSettings {
    /// For the end that opens.
    #[must_use]
    pub fn origination() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(5 * 60),
            max_age: Duration::from_secs(60 * 60),
            local_not_after: None,
        }
    }

    /// For the end that answers. Its idle timeout is longer, so that the origination, which knows what it wants, closes.
    #[must_use]
    pub fn termination() -> Self {
        Self {
            idle_timeout: Duration::from_secs(10 * 60),
            max_age: Duration::from_secs(u32::MAX.into()),
            ..Self::origination()
        }
    }
}

/// Why a hop broke off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct HopError {
    /// The reason, which also says whose fault it is.
    pub reason: Reason,
    /// What exactly happened.
    pub detail: String,
    /// We broke off, and say why before closing; otherwise the connection was lost.
    is_ours: bool,
    /// We do not accept who is there.
    is_verdict: bool,
}

impl HopError {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), is_ours: false, is_verdict: false }
    }

    /// The peer broke a rule.
    fn protocol(side: Side, detail: String) -> Self {
        Self { reason: side.broken(), detail, is_ours: true, is_verdict: false }
    }
}

impl From<TlsError> for HopError {
    fn from(error: TlsError) -> Self {
        // Ours in the sense that an alert may have to be sent before closing.
        let is_tls = matches!(error.reason, Reason::UpstreamTlsFailed | Reason::MalformedRequest);
        Self { reason: error.reason, detail: error.detail, is_ours: true, is_verdict: !error.by_peer && !is_tls }
    }
}
