//! From the application into the mesh.

pub mod destination;
pub mod filters;
