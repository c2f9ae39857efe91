//! What one stream remembers, on each side, as state machines: fed with messages and `now`, they give messages and events.

pub mod client;
pub mod server;

pub use client::{ClientEvent, ClientSession, ClientSettings};
pub use server::{Presence, ServerEvent, ServerSession, View};

use crate::collection::UnknownCollection;

/// The peer broke the protocol; the stream is ended with this as detail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The first message is not `Hello`.
    #[error("the first message must be Hello")]
    NoHello,
    /// A second `Hello`, or a `Welcome` out of place.
    #[error("a second greeting on one stream")]
    Greeted,
    /// No common protocol version.
    #[error("no common protocol version: the peer speaks {0} to {1}, this side speaks {ours}", ours = crate::limits::PROTOCOL)]
    Version(u32, u32),
    /// See [`UnknownCollection`].
    #[error(transparent)]
    Collection(#[from] UnknownCollection),
    /// A key is absent or too long.
    #[error("a message has a malformed resource key")]
    Key,
    /// Over [`crate::limits::MAX_SUBSCRIPTIONS`].
    #[error("more than {max} subscriptions", max = crate::limits::MAX_SUBSCRIPTIONS)]
    TooManySubscriptions,
    /// Over [`crate::limits::MAX_HELD`].
    #[error("the client claims to hold more than {max} resources", max = crate::limits::MAX_HELD)]
    TooManyHeld,
}
