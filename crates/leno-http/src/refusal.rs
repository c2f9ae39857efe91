//! How a request fails: with a [`StreamError`] from an upstream, and with a [`Refusal`] towards the caller.

use std::borrow::Cow;

use bytes::Bytes;
use leno_model::Reason;

use crate::body::{Body, BodyError, Response};
use crate::head::{BodyLength, Fields, ResponseHead};

/// The header that says why an answer is not the application's (D16).
pub const REASON_HEADER: &str = "leno-reason";

/// Why an upstream gave no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct StreamError {
    /// The reason, which also says whose fault it is.
    pub reason: Reason,
    /// The request cannot have been processed: sending it elsewhere is safe, whatever its method. Decided where the
    /// failure happened, because only there it is known.
    pub unprocessed: bool,
    /// What exactly happened.
    pub detail: Cow<'static, str>,
}

impl StreamError {
    /// A failure before the request can have been processed.
    #[must_use]
    pub fn unprocessed(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, unprocessed: true, detail: detail.into() }
    }

    /// A failure after which nobody knows how far the request got.
    #[must_use]
    pub fn in_flight(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, unprocessed: false, detail: detail.into() }
    }
}

impl From<StreamError> for Refusal {
    fn from(error: StreamError) -> Self {
        Self { reason: error.reason, status: None, detail: error.detail, unprocessed: error.unprocessed }
    }
}

impl From<StreamError> for BodyError {
    fn from(error: StreamError) -> Self {
        Self { reason: error.reason, detail: error.detail }
    }
}

/// What a handler answers with when there is no response: rendered in the caller's protocol by the codec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub reason: Reason,
    /// Another HTTP status than the reason's own.
    pub status: Option<u16>,
    /// For people; goes into the small text body. Must not hold secrets or caller's bytes unescaped.
    pub detail: Cow<'static, str>,
    /// Nothing of the request can have been processed. On the hop a refused stream says so to the origination.
    pub unprocessed: bool,
}

impl Refusal {
    /// A refusal of a request that was not passed on.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, status: None, detail: detail.into(), unprocessed: true }
    }

    /// The HTTP status.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        self.status.unwrap_or_else(|| self.reason.http_status())
    }

    /// As an HTTP response: the status, `leno-reason`, and one line of text; for a gRPC caller (`is_grpc`, see
    /// [`crate::RequestHead::is_grpc`]) trailers-only with `grpc-status` (gRPC over HTTP/2, "Responses").
    #[must_use]
    pub fn into_response(self, is_grpc: bool) -> Response {
        let mut head = ResponseHead::new(if is_grpc { 200 } else { self.http_status() });
        head.fields.append(REASON_HEADER, self.reason.as_str().as_bytes());
        if is_grpc {
            head.fields.append("content-type", b"application/grpc");
            head.fields.append("grpc-status", self.reason.grpc_status().to_string().as_bytes());
            head.fields.append("grpc-message", percent_encode(&self.text()).as_bytes());
            return Response::new(head, Body::Empty);
        }
        let text = Bytes::from(self.text() + "\n");
        head.fields.append("content-type", b"text/plain; charset=utf-8");
        head.length = BodyLength::Exact(text.len() as u64);
        Response::new(head, Body::Full(text))
    }

    /// What ends a gRPC answer that has begun: a caller that gets a reset instead only learns that something broke.
    #[must_use]
    pub fn into_grpc_trailers(self) -> Fields {
        let mut fields = Fields::new();
        fields.append("grpc-status", self.reason.grpc_status().to_string().as_bytes());
        fields.append("grpc-message", percent_encode(&self.text()).as_bytes());
        fields
    }

    fn text(&self) -> String {
        if self.detail.is_empty() {
            self.reason.as_str().to_owned()
        } else {
            format!("{}: {}", self.reason, self.detail)
        }
    }
}

/// `grpc-message` is percent-encoded outside printable ASCII, and `%` itself.
fn percent_encode(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, b| {
        if (b' '..=b'~').contains(&b) && b != b'%' {
            out.push(char::from(b));
        } else {
            write!(out, "%{b:02X}").expect("writing to a string cannot fail");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_and_grpc_callers_learn_the_reason() {
        let refusal = Refusal::new(Reason::DeniedByPolicy, "policy `a`, 100 % sure\n");
        let plain = refusal.clone().into_response(false);
        assert_eq!(plain.head.status, 403);
        assert_eq!(plain.head.fields.get_str("leno-reason"), Some("denied_by_policy"));
        assert!(matches!(plain.body, Body::Full(text) if text.starts_with(b"denied_by_policy: policy")));
        let grpc = refusal.into_response(true);
        assert_eq!((grpc.head.status, grpc.head.fields.get_str("grpc-status")), (200, Some("7")));
        assert_eq!(grpc.head.fields.get_str("grpc-message"), Some("denied_by_policy: policy `a`, 100 %25 sure%0A"));
        assert!(grpc.body.is_end());
    }
}
