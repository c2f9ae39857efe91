//! Resources → plans, diagnostics and explanations.
//!
//! Used by the proxy for what it is sent, by adapters for other data planes, and by the command line to check files.
//!
//! *Owns*: the semantics of resources together: which route goes first, which policy holds, who may refer to what, and what a
//! resource that cannot be understood closes.
//!
//! *Must not know*: where resources come from, time, sockets.
//!
//! *Start reading at*: [`collection`], then [`destination`] for the caller's side and [`inbound`] for the called one.

pub mod access;
pub mod collection;
pub mod destination;
pub mod explain;
pub mod inbound;
pub mod lint;
pub mod mesh;
pub mod policy;
pub mod route;
#[cfg(test)]
mod testing;

pub use collection::Collection;
pub use destination::compile_destination;
pub use explain::{explain_destination, explain_inbound};
pub use inbound::compile_inbound;
pub use lint::lint;
pub use mesh::{MeshDefaults, compile_mesh};
