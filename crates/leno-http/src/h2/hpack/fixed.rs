//! The static table (RFC 7541 appendix A), with what its names are.

use super::{Field, Name};
use crate::known::Known;

/// By index, from which one is taken off: there is no index 0.
pub(super) static FIXED: [Field<'static>; 61] = [
    entry(Name::Authority, ":authority", ""),
    entry(Name::Method, ":method", "GET"),
    entry(Name::Method, ":method", "POST"),
    entry(Name::Path, ":path", "/"),
    entry(Name::Path, ":path", "/index.html"),
    entry(Name::Scheme, ":scheme", "http"),
    entry(Name::Scheme, ":scheme", "https"),
    entry(Name::Status, ":status", "200"),
    entry(Name::Status, ":status", "204"),
    entry(Name::Status, ":status", "206"),
    entry(Name::Status, ":status", "304"),
    entry(Name::Status, ":status", "400"),
    entry(Name::Status, ":status", "404"),
    entry(Name::Status, ":status", "500"),
    entry(Name::Regular(Known::Other), "accept-charset", ""),
    entry(Name::Regular(Known::Other), "accept-encoding", "gzip, deflate"),
    entry(Name::Regular(Known::Other), "accept-language", ""),
    entry(Name::Regular(Known::Other), "accept-ranges", ""),
    entry(Name::Regular(Known::Other), "accept", ""),
    entry(Name::Regular(Known::Other), "access-control-allow-origin", ""),
    entry(Name::Regular(Known::Other), "age", ""),
    entry(Name::Regular(Known::Other), "allow", ""),
    entry(Name::Regular(Known::Authorization), "authorization", ""),
    entry(Name::Regular(Known::Other), "cache-control", ""),
    entry(Name::Regular(Known::Other), "content-disposition", ""),
    entry(Name::Regular(Known::Other), "content-encoding", ""),
    entry(Name::Regular(Known::Other), "content-language", ""),
    entry(Name::Regular(Known::ContentLength), "content-length", ""),
    entry(Name::Regular(Known::Other), "content-location", ""),
    entry(Name::Regular(Known::Other), "content-range", ""),
    entry(Name::Regular(Known::ContentType), "content-type", ""),
    entry(Name::Regular(Known::Cookie), "cookie", ""),
    entry(Name::Regular(Known::Other), "date", ""),
    entry(Name::Regular(Known::Other), "etag", ""),
    entry(Name::Regular(Known::Expect), "expect", ""),
    entry(Name::Regular(Known::Other), "expires", ""),
    entry(Name::Regular(Known::Other), "from", ""),
    entry(Name::Regular(Known::Host), "host", ""),
    entry(Name::Regular(Known::Other), "if-match", ""),
    entry(Name::Regular(Known::Other), "if-modified-since", ""),
    entry(Name::Regular(Known::Other), "if-none-match", ""),
    entry(Name::Regular(Known::Other), "if-range", ""),
    entry(Name::Regular(Known::Other), "if-unmodified-since", ""),
    entry(Name::Regular(Known::Other), "last-modified", ""),
    entry(Name::Regular(Known::Other), "link", ""),
    entry(Name::Regular(Known::Other), "location", ""),
    entry(Name::Regular(Known::Other), "max-forwards", ""),
    entry(Name::Regular(Known::ProxyAuthenticate), "proxy-authenticate", ""),
    entry(Name::Regular(Known::ProxyAuthorization), "proxy-authorization", ""),
    entry(Name::Regular(Known::Other), "range", ""),
    entry(Name::Regular(Known::Other), "referer", ""),
    entry(Name::Regular(Known::Other), "refresh", ""),
    entry(Name::Regular(Known::Other), "retry-after", ""),
    entry(Name::Regular(Known::Other), "server", ""),
    entry(Name::Regular(Known::SetCookie), "set-cookie", ""),
    entry(Name::Regular(Known::Other), "strict-transport-security", ""),
    entry(Name::Regular(Known::TransferEncoding), "transfer-encoding", ""),
    entry(Name::Regular(Known::Other), "user-agent", ""),
    entry(Name::Regular(Known::Other), "vary", ""),
    entry(Name::Regular(Known::Other), "via", ""),
    entry(Name::Regular(Known::Other), "www-authenticate", ""),
];

const fn entry(name: Name, text: &'static str, value: &'static str) -> Field<'static> {
    Field { name, text: text.as_bytes(), value: value.as_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_they_would_be_if_they_were_read() {
        for field in &FIXED {
            assert_eq!(field.name, Name::of(field.text).with(field.value), "{}", field.text.escape_ascii());
        }
    }
}
