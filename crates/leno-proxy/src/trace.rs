//! W3C trace context: each proxy takes part in a request's trace as one span.

use leno_http::{Fields, Known, NameSet};
use leno_telemetry::trace::{RemoteSpan, RequestId, Span, tracestate_is_fine};

use crate::worker::Worker;

/// Puts this proxy's span between the caller and what follows; the trace's id is the request's id.
pub fn join(fields: &mut Fields, worker: &Worker) -> RequestId {
    let remote = RemoteSpan::parse(fields.values(Known::Traceparent));
    let span = Span::child_of(remote.as_ref(), || worker.random());
    let is_state_fine = || remote.is_some() && tracestate_is_fine(fields.values(Known::Tracestate));
    if fields.names().has(Known::Tracestate) && !is_state_fine() {
        fields.remove_all(NameSet::of(&[Known::Tracestate]));
    }
    fields.set("traceparent", &span.traceparent());
    span.request_id()
}

/// The id of what carries no headers.
pub fn fresh(worker: &Worker) -> RequestId {
    Span::child_of(None, || worker.random()).request_id()
}
