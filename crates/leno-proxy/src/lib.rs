//! Assembly of the data plane: one process that carries a workload's traffic into and out of the mesh.
//!
//! *Owns*: the order in which a proxy's parts start and stop ([`assembly`]), the worker threads (`worker`), the order of the
//! stages of a request in each direction (`outbound`, `inbound`), the admin port ([`admin`]) and what a proxy can be told
//! ([`settings`]).
//!
//! *Must not know*: the control plane's crates, the syntax of resources, how codecs and TLS work inside.
//!
//! *Start reading at*: [`settings`], then [`assembly`] for the life of the process and `outbound` for the life of a request.

pub mod admin;
mod app_owner;
pub mod assembly;
mod callers;
pub mod control;
mod deadline;
mod dump;
mod exchange;
pub mod exposure;
mod handling;
mod hops;
mod inbound;
mod live;
mod look;
mod outbound;
mod plain;
pub mod plane;
mod process;
mod recording;
mod replay;
pub mod settings;
pub mod snapshot;
mod trace;
mod worker;

pub use assembly::{StartError, run};
pub use recording::Telemetry;
pub use settings::ProxySettings;
