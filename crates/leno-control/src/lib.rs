//! The control plane: resources in, collections out, a registry of what runs, and the authority that says who is who.
//!
//! *Owns*: the assembly of the control plane and everything that decides in it: validation on write, registration, virtual
//! addresses, tokens, issuance, revocation, rotation, audit, the REST API, the discovery service.
//!
//! *Must not know*: any crate of the data plane.
//!
//! *Start reading at*: [`assembly`], then [`world`], the read view, and [`registry`].

pub mod apply;
pub mod assembly;
pub mod audit;
pub mod ca;
pub mod discovery;
pub mod metrics;
pub mod own_certificate;
pub mod records;
pub mod registry;
pub mod rest;
pub mod settings;
pub mod status;
pub mod tokens;
pub mod vip;
pub mod world;

pub use assembly::{ControlPlane, Parts, StartError};
pub use ca::Ca;
pub use registry::{Registration, Registry};
pub use settings::Settings;
pub use status::Reports;
pub use tokens::Tokens;
pub use world::{Change, Observer, World};
