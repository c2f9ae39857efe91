//! HTTP/2 on the `h2` crate: cleartext with prior knowledge, as gRPC uses it inside a mesh.
//!
//! *Start reading at*: [`serve`] and [`Client`]; `convert` holds every rule between pseudo-headers and our heads.

mod body;
mod client;
pub mod convert;
mod send;
mod server;

pub use body::H2Body;
pub use client::{Client, ClientSettings};
pub use server::serve;

/// Bytes one stream may have in flight towards us; the hop's own figure (DESIGN section 6).
const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes all streams of a connection may have in flight: larger than one stream's, or a stuck stream would stop all others.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes per stream that the `h2` crate may hold for sending beyond the peer's window.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams reset by the peer that were not yet accepted here; the rest of a rapid-reset flood ends with `ENHANCE_YOUR_CALM`.
const PENDING_RESETS: usize = 50;
/// Header list with the 32 bytes per field that RFC 9113 section 6.5.2 counts on top: 64 KiB of head and 100 fields.
const HEADER_LIST: u32 = 64 * 1024 + 100 * 32;
