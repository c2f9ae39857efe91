//! Header hygiene: what ends at a proxy and what nobody may forge (RFC 9110 section 7.6.1; BAD_INPUTS 5 and 6).

use crate::head::Fields;
use crate::known::{Known, NameSet};

/// Fields that concern one connection only and are never passed on. `te` is treated apart, because gRPC needs
/// `te: trailers` to arrive; framing fields become [`crate::BodyLength`].
pub const HOP_BY_HOP: NameSet = NameSet::of(&[
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::ProxyAuthenticate,
    Known::ProxyAuthorization,
    Known::TransferEncoding,
    Known::Upgrade,
    Known::Http2Settings,
]);

/// Fields that may not be in a head between two proxies, nor come from one to a writer of HTTP/1: what frames a message, names its
/// host or is for one connection is in a head's own members, and a second opinion about it is how requests are smuggled.
pub const OWNED_BY_WRITERS: NameSet = HOP_BY_HOP.with(Known::Host).with(Known::Expect).with(Known::ContentLength);

/// Trailers that must not be merged or forwarded (RFC 9110 section 6.5.1): framing, routing and the hop-by-hop fields.
pub const FORBIDDEN_IN_TRAILERS: NameSet = HOP_BY_HOP.or(NameSet::of(&[
    Known::Te,
    Known::Host,
    Known::ContentLength,
    Known::Trailer,
    Known::Expect,
    Known::Authorization,
    Known::Cookie,
    Known::SetCookie,
]));

/// Fields that `connection` cannot remove although it names them: a caller could otherwise hide from the application
/// what a proxy on the way has decided on (RFC 9110 section 7.6.1 forbids such options anyway).
const NOT_REMOVABLE: [&str; 10] = [
    "host",
    "content-length",
    "authorization",
    "cookie",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "traceparent",
    "cache-control",
];

/// Whether a field of that name always ends here (the fixed list; `te` and what `connection` names come on top).
#[must_use]
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    HOP_BY_HOP.has(Known::of(name))
}

/// Whether a field of that name is in [`OWNED_BY_WRITERS`].
#[must_use]
pub fn is_owned_by_writers(name: &[u8]) -> bool {
    OWNED_BY_WRITERS.has(Known::of(name))
}

/// Appends the lines of `fields` without those of the kinds in `unwanted`, which readers have kept out already.
pub(crate) fn write_lines(fields: &Fields, unwanted: NameSet, out: &mut Vec<u8>) {
    if fields.names().meets(unwanted) {
        let mut clean = fields.clone();
        clean.remove_all(unwanted);
        clean.write_lines(out);
    } else {
        fields.write_lines(out);
    }
}

/// Removes everything that ends here: the fixed list, the fields named in `connection`, and `te` but for `trailers`.
pub fn strip_hop_by_hop(fields: &mut Fields) {
    let named: Vec<Vec<u8>> = fields
        .list("connection")
        .filter(|n| !NOT_REMOVABLE.iter().any(|k| n.eq_ignore_ascii_case(k.as_bytes())))
        .filter(|n| !n.eq_ignore_ascii_case(b"te"))
        .map(<[u8]>::to_vec)
        .collect();
    let takes_trailers = fields.list("te").any(|v| v.eq_ignore_ascii_case(b"trailers"));
    let plain_trailers = takes_trailers && fields.values(Known::Te).all(|v| v.eq_ignore_ascii_case(b"trailers"));
    fields.remove_all(if plain_trailers { HOP_BY_HOP } else { HOP_BY_HOP.with(Known::Te) });
    if !named.is_empty() {
        fields.remove_if(|name, _| named.iter().any(|n| name.eq_ignore_ascii_case(n)));
    }
    if takes_trailers && !plain_trailers {
        fields.append("te", b"trailers");
    }
}

/// Removes what only proxies may say ([`Known::Internal`]) from what an application sent.
pub fn strip_internal(fields: &mut Fields) {
    fields.remove_all(NameSet::of(&[Known::Internal]));
}

/// Whether none of the protocols in the list of an `upgrade` is one that would hide requests from whoever only sees bytes from
/// then on.
#[must_use]
pub fn may_switch_to(protocols: &[u8]) -> bool {
    protocols.split(|b| *b == b',').all(|protocol| {
        let name = protocol.split(|b| *b == b'/').next().unwrap_or(protocol).trim_ascii();
        ![&b"h2c"[..], b"http", b"tls"].iter().any(|refused| name.eq_ignore_ascii_case(refused))
    })
}

/// Whether a trailer of that name is in [`FORBIDDEN_IN_TRAILERS`].
#[must_use]
pub fn forbidden_in_trailers(name: &[u8]) -> bool {
    FORBIDDEN_IN_TRAILERS.has(Known::of(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains() {
        for (given, expected) in [
            ("a:1\r\nConnection:close\r\n", "a:1\r\n"),
            ("Connection: X-Secret, keep-alive\r\nX-Secret:1\r\nKeep-Alive:5\r\nb:2\r\n", "b:2\r\n"),
            ("connection:x-a\r\nConnection:x-b\r\nx-a:1\r\nx-b:1\r\nc:1\r\n", "c:1\r\n"),
            ("Connection: authorization\r\nAuthorization:x\r\n", "Authorization:x\r\n"),
            ("te:trailers\r\n", "te:trailers\r\n"),
            ("te:trailers, deflate\r\n", "te: trailers\r\n"),
            ("te:gzip\r\nUpgrade:h2c\r\nhttp2-settings:A\r\nproxy-connection:x\r\n", ""),
            ("leno-reason:x\r\nLeno-Anything:1\r\nX-Forwarded-Client-Cert:y\r\nlen:1\r\n", "len:1\r\n"),
            ("leno_source_identity:x\r\nLENO_x:1\r\nX_Forwarded-Client_Cert:y\r\nlen_o:1\r\n", "len_o:1\r\n"),
        ] {
            let mut fields = Fields::parse(given.to_owned().into()).unwrap();
            strip_hop_by_hop(&mut fields);
            strip_internal(&mut fields);
            let mut out = Vec::new();
            fields.write_lines(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{given:?}");
        }
    }

    #[test]
    fn who_owns_which_names() {
        for name in ["Connection", "keep-alive", "UPGRADE", "proxy-connection", "Transfer-Encoding", "HTTP2-Settings"] {
            assert!(is_hop_by_hop(name.as_bytes()) && is_owned_by_writers(name.as_bytes()), "{name}");
        }
        for name in ["proxy-authenticate", "Proxy-Authorization"] {
            assert!(is_hop_by_hop(name.as_bytes()), "{name}");
        }
        for name in ["Host", "EXPECT", "Content-Length"] {
            assert!(is_owned_by_writers(name.as_bytes()) && !is_hop_by_hop(name.as_bytes()), "{name}");
        }
        for name in ["te", "accept", "content-type", "x-host"] {
            assert!(!is_owned_by_writers(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn framing_is_no_trailer() {
        for name in ["Content-Length", "transfer-encoding", "te", "trailer", "Set-Cookie", "cookie", "authorization"] {
            assert!(forbidden_in_trailers(name.as_bytes()), "{name}");
        }
        assert!(!forbidden_in_trailers(b"grpc-status"));
    }
}
