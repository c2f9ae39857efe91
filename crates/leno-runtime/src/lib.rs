//! What every process of the mesh needs from its runtime: tasks that are counted, a drain that ends, time and chance as
//! arguments.
//!
//! *Owns*: task scopes, drain, readiness, clock and randomness, backoff, signals, private files, mailboxes.
//!
//! *Must not know*: HTTP, TLS, resources, sockets.
//!
//! *Start reading at*: [`scope`] and [`mod@drain`].

pub mod backoff;
pub mod clock;
pub mod drain;
pub mod files;
pub mod mailbox;
pub mod random;
pub mod readiness;
pub mod scope;
pub mod signals;

pub use backoff::Backoff;
pub use clock::{Clock, ManualClock, SystemClock};
pub use drain::{DrainGuard, DrainOutcome, DrainTrigger, DrainWatch, drain};
pub use random::{Random, SeededRandom};
pub use readiness::{Readiness, ReadyGuard};
pub use scope::{AbortOnDrop, Scope};
pub use signals::{Signal, Signals};
