//! Real processes on hosts that are network namespaces joined by a bridge.
//!
//! *Owns*: making and removing namespaces, starting and ending processes by their ids, waiting for states.
//!
//! *Must not know*: what a scenario asserts. *Start reading at*: [`network::Network`], then [`mesh::Mesh`].

pub mod apps;
pub mod load;
pub mod memory;
pub mod mesh;
pub mod network;
pub mod process;
pub mod scene;
pub mod skip;
pub mod wait;
pub mod wire;

pub use mesh::{Member, Mesh};
pub use network::{Host, Network};
pub use process::{Output, Process};
pub use scene::Scene;
