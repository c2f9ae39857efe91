//! HTTP/1.0 and HTTP/1.1 by our own codec (D9): strict heads that stay bytes, streaming bodies, no buffer while idle.
//!
//! *Start reading at*: [`parse`] (what is refused before anything is interpreted), [`request`], then [`serve`] and [`Client`].

pub mod chunked;
mod client;
mod ending;
mod idle;
mod lease;
mod outbox;
pub mod parse;
mod pool;
pub mod request;
pub mod response;
mod send;
mod server;
mod source;
pub mod write;

pub use client::{Client, ClientSettings, ConnectGuard, Sending, connect};
pub use lease::LeasedBody;
pub(crate) use request::content_length;
pub use server::serve;
pub use source::IncomingBody;
pub(crate) use source::{Framing, Source};
