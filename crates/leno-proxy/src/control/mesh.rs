//! The mesh's defaults as workers see them: which names and addresses are the mesh's, and what happens to the others.

use leno_compile::MeshDefaults;

use crate::snapshot::MeshView;

/// The view of a compiled `mesh` collection.
pub fn view(mesh: &MeshDefaults) -> MeshView {
    MeshView { namespaces: mesh.namespaces.clone(), prefixes: mesh.prefixes.clone(), egress: mesh.egress.clone() }
}
