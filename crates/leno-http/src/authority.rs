//! `Host` and `:authority`: one host and one port, or a refusal.
//!
//! Two spellings of one host must not be two hosts for a policy, so there is one parser and one canonical form; what cannot be
//! brought into it is refused, not guessed at.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// A name may have 253 bytes (RFC 1035), written with a trailing dot 254.
const MAX_HOST: usize = 254;

/// A host and a port, as written by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority<'a> {
    /// A name or an IPv4 address, or an IPv6 address without its brackets.
    pub host: &'a str,
    /// The port, if one was given.
    pub port: Option<u16>,
    /// The host was written in brackets.
    pub is_ipv6: bool,
}

impl<'a> Authority<'a> {
    /// Parses `host`, `host:port`, `[v6]` or `[v6]:port`.
    ///
    /// # Errors
    /// The rule that is broken: user information, zones, empty or zero ports, characters that no host name has.
    pub fn parse(text: &'a [u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(text).map_err(|_| "host is not ASCII")?;
        if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or("host without the closing bracket")?;
            host.parse::<Ipv6Addr>().map_err(|_| "host in brackets is no IPv6 address")?;
            let port = match port.strip_prefix(':') {
                Some(port) => Some(parse_port(port)?),
                None if port.is_empty() => None,
                None => return Err("bytes after the host"),
            };
            return Ok(Self { host, port, is_ipv6: true });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(parse_port(port)?)),
            None => (text, None),
        };
        if host.is_empty() || host.len() > MAX_HOST {
            return Err("host is empty or too long");
        }
        if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) {
            return Err("invalid character in the host");
        }
        if host.starts_with('.') || host.contains("..") {
            return Err("empty label in the host");
        }
        Ok(Self { host, port, is_ipv6: false })
    }

    /// The host as everything else knows it: lower case, without the trailing dot; IPv6 in RFC 5952 form.
    #[must_use]
    pub fn canonical_host(&self) -> Cow<'a, str> {
        if self.is_ipv6 {
            return self.host.parse::<Ipv6Addr>().map_or(Cow::Borrowed(self.host), |a| Cow::Owned(a.to_string()));
        }
        let host = self.host.strip_suffix('.').unwrap_or(self.host);
        if host.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        }
    }

    /// Whether both name the same host and port, `default_port` standing for a missing one.
    #[must_use]
    pub fn is_same(&self, other: &Authority<'_>, default_port: u16) -> bool {
        self.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
            && self.canonical_host() == other.canonical_host()
    }
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    if text.is_empty() || text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("invalid port");
    }
    text.parse().ok().filter(|port| *port != 0).ok_or("invalid port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_canonical_host() {
        for (given, host, port) in [
            ("web", "web", None),
            ("Web.Shop.:80", "web.shop", Some(80)),
            ("10.0.0.1:8080", "10.0.0.1", Some(8080)),
            ("[0:0::1]:443", "::1", Some(443)),
            ("[::FFFF:1.2.3.4]", "::ffff:1.2.3.4", None),
            ("a_b-c", "a_b-c", None),
        ] {
            let parsed = Authority::parse(given.as_bytes()).unwrap();
            assert_eq!((parsed.canonical_host().as_ref(), parsed.port), (host, port), "{given}");
        }
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:8 0",
            "a b",
            "a/b",
            "a@b",
            "u:p@h",
            ".",
            ".a",
            "a..b",
            "a,b",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]:",
            "[fe80::1%eth0]",
            "[a]",
            "a%00",
            "a\u{e9}",
            "a\\b",
            "a?b",
            "a#b",
        ] {
            assert!(Authority::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Authority::parse(b"\xff").is_err());
        assert!(Authority::parse("a".repeat(255).as_bytes()).is_err());
    }

    #[test]
    fn sameness_knows_the_default_port() {
        let parse = |text: &'static str| Authority::parse(text.as_bytes()).unwrap();
        assert!(parse("A.b").is_same(&parse("a.B.:80"), 80));
        assert!(!parse("a").is_same(&parse("a:81"), 80) && !parse("a").is_same(&parse("b"), 80));
    }
}
