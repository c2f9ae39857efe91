//! The control plane: resources in, collections out, a registry of what runs, and the authority that says who is who.
//!
//! *Owns*: the assembly of the control plane and everything that decides in it: validation on write, registration, virtual
//! addresses, tokens, issuance, revocation, rotation, audit, the REST API, the discovery service.
//!
//! *Must not know*: any crate of the data plane.
//!
//! *Start reading at*: [`world`], the read view, then [`registry`].

pub mod apply;
pub mod audit;
pub mod ca;
pub mod records;
pub mod registry;
pub mod tokens;
pub mod vip;
pub mod world;

pub use ca::Ca;
pub use registry::{Registration, Registry};
pub use tokens::Tokens;
pub use world::{Change, Observer, World};
