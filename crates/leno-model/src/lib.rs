//! Resources, names, identities, reasons and units: the vocabulary of the mesh.
//!
//! *Owns*: what users write, how it is parsed and validated with positions, and the names everything else refers to.
//!
//! *Must not know*: wire protocols, storage, Kubernetes clients, sockets, time or chance.
//!
//! *Start reading at*: [`names`] and [`identity`], then [`reason`].

pub mod identity;
pub mod names;
pub mod reason;

pub use identity::{SpiffeId, TrustDomain};
pub use names::{AppProtocol, Name, NamespacedName};
pub use reason::{Fault, Reason};
