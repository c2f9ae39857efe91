//! HTTP/2 (RFC 9113), cleartext with prior knowledge, as gRPC uses it inside a mesh.
//!
//! ```text
//!   Client ─▶ put_request                              serve(…, handler(request))
//!                │                                              │
//!              stream ◀── bodies, header blocks ──▶ stream      │   body.rs, send.rs, head.rs, hpack.rs
//!                └──────────── mux::Engine ───────────┘             with wire.rs and frame.rs: pure
//!                driver.rs: socket ⇄ Engine                         the only I/O
//! ```
//!
//! Streams, windows and their fairness are [`crate::mux`]'s, and so the same as the hop's.
//!
//! *Start reading at*: [`serve`] and [`Client`]; `wire` for the rules, `head` for what a block becomes.

mod body;
mod client;
mod driver;
mod frame;
mod head;
mod hpack;
mod send;
mod server;
pub mod wire;

pub use body::H2Body;
pub(crate) use body::H2Interim;
pub use client::{Client, ClientSettings};
pub use server::serve;

/// One end of a connection; see [`crate::mux`].
pub type Engine = crate::mux::Engine<wire::Http2Wire>;
