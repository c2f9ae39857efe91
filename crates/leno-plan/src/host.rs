//! One canonical form of `Host` and `:authority`, or a refusal (BAD_INPUTS 2 and 16).

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an authority is refused; always answered with 400 `malformed_request`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// There is none.
    #[error("no host is named")]
    Missing,
    /// Two that are not the same.
    #[error("more than one host is named")]
    Several,
    /// `user@host`.
    #[error("the host has user information")]
    UserInfo,
    /// Not a host name or address.
    #[error("the host is not a name or address")]
    Malformed,
    /// Not 1 to 65535.
    #[error("the host's port is not a number from 1 to 65535")]
    Port,
}

/// A host's name or address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostName<'a> {
    /// Lower-case, without trailing dot.
    Name(Cow<'a, str>),
    /// An address; v4-mapped ones as IPv4.
    Address(IpAddr),
}

impl fmt::Display for HostName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(v4)) => v4.fmt(f),
            Self::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

/// A canonical authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host<'a> {
    /// Name or address.
    pub name: HostName<'a>,
    /// The port, if one was named.
    pub port: Option<u16>,
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.name),
            None => self.name.fmt(f),
        }
    }
}

impl<'a> Host<'a> {
    /// Reads `host[:port]`.
    pub fn parse(authority: &'a [u8]) -> Result<Self, HostError> {
        let text = std::str::from_utf8(authority).map_err(|_| HostError::Malformed)?;
        if text.is_empty() {
            return Err(HostError::Missing);
        }
        if text.contains('@') {
            return Err(HostError::UserInfo);
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (address, after) = rest.split_once(']').ok_or(HostError::Malformed)?;
            // A zone id (`%eth0`) means something on one host only; the parser refuses it.
            let v6: Ipv6Addr = address.parse().map_err(|_| HostError::Malformed)?;
            let port = match after {
                "" => None,
                _ => parse_port(after.strip_prefix(':').ok_or(HostError::Malformed)?)?,
            };
            return Ok(Self { name: HostName::Address(IpAddr::V6(v6).to_canonical()), port });
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, parse_port(port)?),
            None => (text, None),
        };
        Ok(Self { name: parse_name(name)?, port })
    }

    /// The one host of a request. `authority` comes from an absolute-form target or `:authority`, `hosts` are the `Host`
    /// lines. Anything but one host, however spelled, is refused (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
    pub fn agree(authority: Option<&'a [u8]>, hosts: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, HostError> {
        let mut hosts = hosts.into_iter();
        let line = hosts.next();
        if hosts.next().is_some() {
            return Err(HostError::Several);
        }
        match (authority, line) {
            (Some(a), Some(b)) => {
                let (a, b) = (Self::parse(a)?, Self::parse(b)?);
                if a == b { Ok(a) } else { Err(HostError::Several) }
            }
            (Some(one), None) | (None, Some(one)) => Self::parse(one),
            (None, None) => Err(HostError::Missing),
        }
    }
}

fn parse_port(text: &str) -> Result<Option<u16>, HostError> {
    // RFC 3986 section 3.2.3 lets the digits be absent.
    if text.is_empty() {
        return Ok(None);
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        // `::1` without brackets comes by here.
        return Err(if text.contains(':') { HostError::Malformed } else { HostError::Port });
    }
    text.parse().ok().filter(|&p| p != 0).map(Some).ok_or(HostError::Port)
}

fn parse_name(text: &str) -> Result<HostName<'_>, HostError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label_fine = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label_fine) {
        return Err(HostError::Malformed);
    }
    // `127.1`, `0x7f.0.0.1` and `2130706433` are addresses to some resolvers and names to others (WHATWG URL section 3.5).
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .or_else(|| last.strip_prefix("0X"))
            .is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
    if numeric {
        let v4: Ipv4Addr = name.parse().map_err(|_| HostError::Malformed)?;
        return Ok(HostName::Address(IpAddr::V4(v4)));
    }
    let upper = name.bytes().any(|b| b.is_ascii_uppercase());
    Ok(HostName::Name(if upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_one_form() {
        for (authority, expected) in [
            ("web", "web"),
            ("WEB.Shop", "web.shop"),
            ("web.", "web"),
            ("web.shop.:8080", "web.shop:8080"),
            ("web:", "web"),
            ("web:080", "web:80"),
            ("my_svc", "my_svc"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::1]", "[::1]"),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
            ("[::FFFF:10.0.0.1]:80", "10.0.0.1:80"),
        ] {
            let host = Host::parse(authority.as_bytes()).unwrap_or_else(|e| panic!("{authority}: {e}"));
            assert_eq!(host.to_string(), expected, "{authority}");
            assert_eq!(Host::parse(expected.as_bytes()).unwrap(), host, "{authority} is canonical");
        }
    }

    #[test]
    fn host_tricks_are_refused() {
        for (authority, expected) in [
            (&b""[..], HostError::Missing),
            (b"user@web", HostError::UserInfo),
            (b"web:0", HostError::Port),
            (b"web:65536", HostError::Port),
            (b"web:+80", HostError::Port),
            (b"web:80x", HostError::Port),
            (b"web:80:80", HostError::Malformed),
            (b"::1", HostError::Malformed),
            (b"[::1", HostError::Malformed),
            (b"[::1]80", HostError::Malformed),
            (b"[fe80::1%eth0]", HostError::Malformed),
            (b"[fe80::1%25eth0]", HostError::Malformed),
            (b"[127.0.0.1]", HostError::Malformed),
            (b"127.1", HostError::Malformed),
            (b"127.0.0.01", HostError::Malformed),
            (b"0x7f.0.0.1", HostError::Malformed),
            (b"0x7f000001", HostError::Malformed),
            (b"2130706433", HostError::Malformed),
            (b"1.2.3.4.5", HostError::Malformed),
            (b"web..shop", HostError::Malformed),
            (b"web..", HostError::Malformed),
            (b".", HostError::Malformed),
            (b".web", HostError::Malformed),
            (b"-web", HostError::Malformed),
            (b"web,evil", HostError::Malformed),
            (b"web evil", HostError::Malformed),
            (b"web/admin", HostError::Malformed),
            (b"web%2eshop", HostError::Malformed),
            (b"web\0", HostError::Malformed),
            (b"web\r\nx", HostError::Malformed),
            (b"web\r\nx: y", HostError::Port),
            (b"w\xffb", HostError::Malformed),
            ("wéb".as_bytes(), HostError::Malformed),
            (&[b'a'; 64], HostError::Malformed),
        ] {
            assert_eq!(Host::parse(authority), Err(expected), "{}", authority.escape_ascii());
        }
    }

    #[test]
    fn a_request_names_one_host() {
        let agree = |a: Option<&'static str>, hosts: &[&'static str]| {
            Host::agree(a.map(str::as_bytes), hosts.iter().map(|h| h.as_bytes())).map(|h| h.to_string())
        };
        assert_eq!(agree(None, &["web"]), Ok("web".into()));
        assert_eq!(agree(Some("web"), &[]), Ok("web".into()));
        assert_eq!(agree(Some("Web."), &["web"]), Ok("web".into()));
        assert_eq!(agree(Some("web"), &["evil"]), Err(HostError::Several));
        assert_eq!(agree(Some("web:80"), &["web"]), Err(HostError::Several));
        assert_eq!(agree(None, &["web", "web"]), Err(HostError::Several));
        assert_eq!(agree(None, &[]), Err(HostError::Missing));
        assert_eq!(agree(None, &[""]), Err(HostError::Missing));
    }
}
