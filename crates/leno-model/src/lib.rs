//! Resources, names, identities, reasons and units: the vocabulary of the mesh.
//!
//! *Owns*: what users write, how it is parsed and validated with positions, and the names everything else refers to.
//!
//! *Must not know*: wire protocols, storage, Kubernetes clients, sockets, time or chance.
//!
//! *Start reading at*: [`names`] and [`identity`], then [`resource`] and [`kind`], then [`document`] for how text becomes resources.

pub mod attach;
pub mod diagnostic;
pub mod document;
pub mod explain;
pub mod identity;
pub mod kind;
pub mod kinds;
pub mod names;
pub mod path;
pub mod pattern;
pub mod ports;
pub mod reason;
pub mod resource;
pub mod schema;
pub mod time_span;
pub mod validate;
pub mod yaml;

pub use attach::{Target, targets};
pub use diagnostic::{Code, Diagnostic, Severity};
pub use document::{Input, ParsedResource, check, parse, parse_documents};
pub use explain::{ExplainError, explain, reference_page};
pub use identity::{SpiffeId, TrustDomain};
pub use kind::{Kind, Writer};
pub use names::{AppProtocol, Name, NamespacedName};
pub use path::FieldPath;
pub use pattern::Pattern;
pub use reason::{Fault, Reason};
pub use resource::{MAX_RESOURCE, Metadata, Resource, ResourceRef, Spec, SpecError};
pub use time_span::TimeSpan;
