//! The native discovery protocol between proxies and the control plane (DESIGN D1).
//!
//! *Owns*: the messages ([`proto`], generated), what a stream remembers on both sides as state machines without I/O
//! ([`session`]), the collections that many streams share ([`hub`]), and the wiring to tonic ([`client`], [`server`]).
//!
//! *Must not know*: what a resource means (bodies are opaque bytes here), TLS (streams come in established, a connector
//! makes them), storage, authorisation rules (the [`server::Service`] decides).
//!
//! *Start reading at*: `proto/leno/discovery/v1/discovery.proto`, the reference of the wire; then [`session::server`].

pub mod client;
pub mod collection;
pub mod hub;
pub mod limits;
#[path = "generated/discovery.rs"]
#[expect(missing_docs, clippy::allow_attributes, reason = "generated; the .proto holds the documentation")]
pub mod proto;
pub mod server;
pub mod session;
pub mod snapshot;

pub use collection::{CollectionName, Entry, Key};
pub use hub::Hub;
pub use session::{ClientEvent, ClientSession, ProtocolError, ServerEvent, ServerSession};
