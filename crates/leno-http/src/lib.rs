//! HTTP/1, HTTP/2 and the hop: bytes to requests and back, never what a request means.
//!
//! *Owns*: message heads as bytes ([`head`]), streaming bodies ([`body`]), header hygiene ([`hygiene`]), the HTTP/1 and
//! HTTP/2 codecs, and the multiplexed hop between members ([`hop`]).
//!
//! *Must not know*: routes, policies, services or endpoints; who is called is decided by the caller, who may call by the
//! handler.
//!
//! *Start reading at*: [`head::RequestHead`] and [`body::Body`], then [`hop`].
//!
//! Everything here runs on one thread (D8): `Rc` and `Cell`, no locks. Whatever arrives becomes a [`Request`] with a
//! streaming body and ends as a [`Response`], raw TCP and upgraded connections included.

pub mod authority;
pub mod body;
mod by_address;
mod crew;
pub mod detect;
mod fields;
pub mod h1;
pub mod h2;
pub mod head;
pub mod hop;
pub mod hygiene;
pub mod known;
mod lines;
pub mod mux;
mod pump;
pub mod raw;
pub mod refusal;
mod room;
pub mod serve;
mod spare;
pub mod tcp;
mod workplace;

pub use body::{Body, BodyError, BodyStream, Frame, InterimSink, Request, Response};
pub use h1::Sending;
pub use head::{BodyLength, Fields, HeadError, Method, RequestHead, ResponseHead, Version};
pub use known::{Known, NameSet};
pub use refusal::{Refusal, StreamError};
pub use serve::{DrainSignal, DrainWatch, ServerEvents, ServerSettings};

/// Most header fields of one message (DESIGN section 7).
pub const MAX_FIELDS: usize = 100;
/// Most bytes of one message head, decoded (DESIGN section 7).
pub const MAX_HEAD: usize = 64 * 1024;
