//! Header hygiene: what ends at a proxy and what nobody may forge (RFC 9110 section 7.6.1; BAD_INPUTS 5 and 6).

use crate::head::Fields;

/// Fields that concern one connection only and are never passed on. `te` is treated apart, because gRPC needs
/// `te: trailers` to arrive; framing fields become [`crate::BodyLength`].
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

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

/// Prefix of the fields that only Leno writes.
const INTERNAL_PREFIX: &[u8] = b"leno-";
/// Speaks of the caller's certificate; believed only when a proxy wrote it.
const CLIENT_CERTIFICATE: &[u8] = b"x-forwarded-client-cert";

/// Whether a field of that name always ends here (the fixed list; `te` and what `connection` names come on top).
#[must_use]
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    // The lengths of the list; most names are through with it here.
    matches!(name.len(), 7 | 10 | 14 | 16..=19) && HOP_BY_HOP.iter().any(|k| name.eq_ignore_ascii_case(k.as_bytes()))
}

/// Whether a field may not be in a head between two proxies, nor come from one to a writer of HTTP/1: what frames a message, names
/// its host or is for one connection is in a head's own members, and a second opinion about it is how requests are smuggled.
#[must_use]
pub fn is_owned_by_writers(name: &[u8]) -> bool {
    match name.len() {
        4 => name.eq_ignore_ascii_case(b"host"),
        6 => name.eq_ignore_ascii_case(b"expect"),
        14 => name.eq_ignore_ascii_case(b"content-length") || is_hop_by_hop(name),
        _ => is_hop_by_hop(name),
    }
}

/// Appends the lines of `fields` without those that `unwanted` points at, which readers have kept out already.
pub(crate) fn write_lines(fields: &Fields, unwanted: fn(&[u8]) -> bool, out: &mut Vec<u8>) {
    if fields.iter().any(|(name, _)| unwanted(name)) {
        let mut clean = fields.clone();
        clean.remove_if(|name, _| unwanted(name));
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
    let takes_trailers = fields.contains("te") && fields.list("te").any(|v| v.eq_ignore_ascii_case(b"trailers"));
    let plain_trailers = takes_trailers && fields.get_all("te").all(|v| v.eq_ignore_ascii_case(b"trailers"));
    fields.remove_if(|name, _| {
        is_hop_by_hop(name)
            || (!plain_trailers && name.eq_ignore_ascii_case(b"te"))
            || named.iter().any(|n| name.eq_ignore_ascii_case(n))
    });
    if takes_trailers && !plain_trailers {
        fields.append("te", b"trailers");
    }
}

/// Removes what only proxies may say (`leno-*`, `x-forwarded-client-cert`) from what an application sent. An underscore counts
/// as a hyphen: CGI and its heirs (WSGI, PHP) give `leno_source_identity` and `leno-source-identity` to the application as one
/// variable.
pub fn strip_internal(fields: &mut Fields) {
    fields.remove_if(|name, _| {
        (name.len() == CLIENT_CERTIFICATE.len() && begins_alike(name, CLIENT_CERTIFICATE))
            || begins_alike(name, INTERNAL_PREFIX)
    });
}

fn begins_alike(name: &[u8], start: &[u8]) -> bool {
    let alike = |(a, b): (&u8, &u8)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-');
    name.len() >= start.len() && name.iter().zip(start).all(alike)
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

/// Whether a trailer of that name must not be merged or forwarded (RFC 9110 section 6.5.1): framing, routing and the
/// hop-by-hop fields.
#[must_use]
pub fn forbidden_in_trailers(name: &[u8]) -> bool {
    let listed = |list: &[&str]| list.iter().any(|k| name.eq_ignore_ascii_case(k.as_bytes()));
    listed(&HOP_BY_HOP)
        || listed(&["te", "host", "content-length", "trailer", "expect", "authorization", "cookie", "set-cookie"])
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
    fn every_hop_by_hop_field_is_known_by_its_length() {
        for name in HOP_BY_HOP {
            assert!(is_hop_by_hop(name.to_ascii_uppercase().as_bytes()), "{name}");
        }
        for name in ["Host", "EXPECT", "Content-Length", "Connection", "HTTP2-Settings"] {
            assert!(is_owned_by_writers(name.as_bytes()), "{name}");
        }
        for name in ["te", "accept", "content-type", "x-host"] {
            assert!(!is_owned_by_writers(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn framing_is_no_trailer() {
        assert!(forbidden_in_trailers(b"Content-Length") && forbidden_in_trailers(b"transfer-encoding"));
        assert!(!forbidden_in_trailers(b"grpc-status"));
    }
}
