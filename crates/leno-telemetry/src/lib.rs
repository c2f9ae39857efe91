//! Metrics, histograms, access records, trace context: what an operator sees.
//!
//! *Owns*: the catalogue of metrics and their text exposition, the access log's record, line and writer thread, W3C trace
//! context, and the reference pages made from those tables.
//!
//! *Must not know*: who records. It is fed numbers and names and asks nobody.
//!
//! *Start reading at*: [`metrics`], then [`access_log`].

pub mod access_log;
pub mod histogram;
pub mod metrics;
pub mod reference;
pub mod trace;

pub use access_log::{AccessRecord, LogSender, LogTarget, LogWriter};
pub use histogram::{Histogram, Summary};
pub use metrics::{Direction, Edge, EdgeMemo, EdgeMetrics, EdgeRef, Listener, Metrics, Outcome, WorkerMetrics};
pub use trace::{RemoteSpan, Span};
