//! Message heads: methods, versions, request and response heads.

use std::fmt;

use bytes::Bytes;

pub use crate::fields::Fields;
use crate::known::Known;
pub use crate::lines::{is_field_value, is_token};

/// Why a head is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// More than [`MAX_FIELDS`].
    #[error("more than 100 header fields")]
    TooManyFields,
    /// More than [`MAX_HEAD`] bytes.
    #[error("a head of more than 65536 bytes")]
    TooLarge,
    /// A line without colon, with a name that is no token, or with whitespace around the name.
    #[error("a malformed header line")]
    Line,
    /// A control character in a value (RFC 9110 section 5.5).
    #[error("a control character in a header value")]
    Value,
    /// A method, target, authority or status that cannot be one.
    #[error("a malformed start line")]
    Start,
    /// A field that is for one connection, frames, or names the host where none may be.
    #[error("a connection, framing or host field")]
    Framing,
}

/// A request method (RFC 9110 section 9).
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
    /// `CONNECT`
    Connect,
    /// `OPTIONS`
    Options,
    /// `TRACE`
    Trace,
    /// `PATCH`
    Patch,
    /// Any other token, as it came.
    Other(Bytes),
}

/// Longest method of another name; the longest registered one has 17 bytes (`UPDATEREDIRECTREF`).
const MAX_METHOD: usize = 32;

impl Method {
    /// Parses a method; `None` if it is no token or longer than 32 bytes.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        Some(match text {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            other if is_token(other) && other.len() <= MAX_METHOD => Self::Other(Bytes::copy_from_slice(other)),
            _ => return None,
        })
    }

    /// As it is written on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Other(text) => std::str::from_utf8(text).expect("a token is ASCII"),
        }
    }

    /// Whether doing it twice is as good as once (RFC 9110 section 9.2.2).
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace)
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The version a message arrived in, for logs and for what an answer may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Version {
    /// HTTP/1.0: no chunks, no 1xx.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// As logs write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// What is known of a body's length from its head. Framing headers (`content-length`, `transfer-encoding`) are never in
/// [`Fields`]: readers turn them into this, writers make them from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyLength {
    /// No body, and no header about one.
    #[default]
    None,
    /// `content-length`; on the answer to a HEAD request or in a 304, the length that is not sent.
    Exact(u64),
    /// A body of unknown length.
    Unknown,
}

impl BodyLength {
    /// The length, if it is known; 0 without a body.
    #[must_use]
    pub fn exact(self) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Exact(n) => Some(n),
            Self::Unknown => None,
        }
    }
}

/// The head of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// `path?query` in origin form, `*` for a server-wide OPTIONS, or the authority of a CONNECT.
    pub target: Bytes,
    /// `Host` or `:authority`, as it came; empty if there was none (HTTP/1.0).
    pub authority: Bytes,
    /// Without Host, hop-by-hop and framing fields.
    pub fields: Fields,
    /// What is known of the body's length.
    pub length: BodyLength,
    /// `expect: 100-continue`, which is not in `fields`.
    pub expect_continue: bool,
    /// The protocol named by `connection: upgrade`, which is not in `fields`. The body is then what follows the switch.
    pub upgrade: Option<Bytes>,
    /// What it arrived in.
    pub version: Version,
}

impl RequestHead {
    /// A request without fields or body, HTTP/1.1.
    #[must_use]
    pub fn new(method: Method, authority: impl Into<Bytes>, target: impl Into<Bytes>) -> Self {
        Self {
            method,
            target: target.into(),
            authority: authority.into(),
            fields: Fields::new(),
            length: BodyLength::None,
            expect_continue: false,
            upgrade: None,
            version: Version::Http11,
        }
    }

    /// The path, without the query.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        let end = memchr::memchr(b'?', &self.target).unwrap_or(self.target.len());
        &self.target[..end]
    }

    /// Whether the content type says gRPC (`application/grpc`, also with `+proto` and the like).
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.fields.value(Known::ContentType).is_some_and(|v| {
            v.len() >= 16
                && v[..16].eq_ignore_ascii_case(b"application/grpc")
                && matches!(v.get(16), None | Some(b'+' | b';'))
        })
    }
}

/// The head of a response, interim (1xx) or final.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseHead {
    /// 100 to 599.
    pub status: u16,
    /// Without hop-by-hop and framing fields.
    pub fields: Fields,
    /// What is known of the body's length.
    pub length: BodyLength,
    /// The protocol that a 101 switches to.
    pub upgrade: Option<Bytes>,
}

impl ResponseHead {
    /// A response without fields or body.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self { status, fields: Fields::new(), length: BodyLength::None, upgrade: None }
    }

    /// 1xx other than 101: more will follow.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_tokens() {
        for good in ["GET", "PURGE", "M-SEARCH"] {
            assert_eq!(Method::parse(good.as_bytes()).unwrap().as_str(), good);
        }
        for bad in ["", "GE T", "G\0", "a".repeat(33).as_str()] {
            assert_eq!(Method::parse(bad.as_bytes()), None);
        }
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let mut head = RequestHead::new(Method::Post, "x", "/a.B/C?d");
            head.fields.append("Content-Type", value.as_bytes());
            assert_eq!(head.is_grpc(), expected, "{value}");
            assert_eq!(head.path(), b"/a.B/C");
        }
    }
}
