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
        if text.first() == Some(&b'[') {
            return Self::parse_ipv6(text);
        }
        let end = host_end(text)?;
        let port = match text.get(end + 1..) {
            Some(port) => Some(parse_port(port)?),
            None => None,
        };
        let host = std::str::from_utf8(&text[..end]).expect("these characters are ASCII");
        Ok(Self { host, port, is_ipv6: false })
    }

    /// Whether [`Authority::parse`] accepts it.
    ///
    /// # Errors
    /// As [`Authority::parse`].
    pub fn check(text: &[u8]) -> Result<(), &'static str> {
        if text.first() == Some(&b'[') {
            return Authority::parse_ipv6(text).map(|_| ());
        }
        let end = host_end(text)?;
        text.get(end + 1..).map_or(Ok(()), |port| parse_port(port).map(|_| ()))
    }

    fn parse_ipv6(text: &'a [u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(&text[1..]).map_err(|_| "host is not ASCII")?;
        let (host, port) = text.split_once(']').ok_or("host without the closing bracket")?;
        host.parse::<Ipv6Addr>().map_err(|_| "host in brackets is no IPv6 address")?;
        let port = match port.strip_prefix(':') {
            Some(port) => Some(parse_port(port.as_bytes())?),
            None if port.is_empty() => None,
            None => return Err("bytes after the host"),
        };
        Ok(Self { host, port, is_ipv6: true })
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

/// What each byte is in a name, and in the upper half what may follow it; else 0.
static IN_NAMES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    while byte < 0x80 {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            table[byte as usize] = IN_LABEL | (IN_LABEL | DOT) << 4;
        }
        byte += 1;
    }
    table[b'.' as usize] = DOT | IN_LABEL << 4;
    table
};
const IN_LABEL: u8 = 1;
const DOT: u8 = 2;

/// Where a name or an IPv4 address ends, with a colon or the text. No label is empty but the last one.
fn host_end(text: &[u8]) -> Result<usize, &'static str> {
    let (mut allowed, mut end) = (IN_LABEL, 0);
    for byte in text {
        let class = IN_NAMES[usize::from(*byte)];
        if class & allowed == 0 {
            match byte {
                b':' => break,
                b'.' => return Err("empty label in the host"),
                _ => return Err("invalid character in the host"),
            }
        }
        allowed = class >> 4;
        end += 1;
    }
    if end == 0 || end > MAX_HOST { Err("host is empty or too long") } else { Ok(end) }
}

fn parse_port(text: &[u8]) -> Result<u16, &'static str> {
    if text.is_empty() || text.len() > 5 || !text.iter().all(u8::is_ascii_digit) {
        return Err("invalid port");
    }
    let number = text.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or("invalid port")
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
            assert_eq!(Authority::check(given.as_bytes()), Ok(()));
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
            assert!(Authority::check(bad.as_bytes()).is_err(), "{bad:?}");
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
