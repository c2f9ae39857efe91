//! W3C trace context: each proxy takes part in a request's trace as one span.

use leno_http::Fields;
use leno_telemetry::trace::{RemoteSpan, RequestId, Span, tracestate_is_fine};

use crate::worker::Worker;

/// Puts this proxy's span between the caller and what follows; the trace's id is the request's id.
pub fn join(fields: &mut Fields, worker: &Worker) -> RequestId {
    let remote = RemoteSpan::parse(fields.get_all("traceparent"));
    let span = Span::child_of(remote.as_ref(), [worker.random(), worker.random(), worker.random()]);
    if fields.contains("tracestate") && (remote.is_none() || !tracestate_is_fine(fields.get_all("tracestate"))) {
        fields.remove("tracestate");
    }
    fields.set("traceparent", &span.traceparent());
    span.request_id()
}

/// The id of what carries no headers.
pub fn fresh(worker: &Worker) -> RequestId {
    Span::child_of(None, [worker.random(), worker.random(), worker.random()]).request_id()
}
