//! Where a request says it is going: one canonical host and port, or a refusal (BAD_INPUTS 2).
//!
//! The host comes from `Host`, `:authority`, an absolute-form target or CONNECT. Two spellings of one host must never lead to
//! two decisions, so everything behind this point sees [`Authority`] only.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use leno_model::{Name, NamespacedName};

/// Longest host name, RFC 1035 section 2.3.4.
const MAX_HOST: usize = 253;

/// A canonical host with its port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, if one was written.
    pub port: Option<u16>,
}

/// A host: lower case, without a trailing dot; or an address, v4-mapped ones unmapped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name.
    Name(Box<str>),
    /// An address literal.
    Address(IpAddr),
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => f.write_str(name)?,
            Host::Address(IpAddr::V4(v4)) => write!(f, "{v4}")?,
            Host::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Authority {
    /// Parses what a peer sent. The error names the rule that was broken and holds none of the peer's bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "host is not ASCII")?;
        if text.contains('@') {
            return Err("host has user information");
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (inner, after) = rest.split_once(']').ok_or("host has an unclosed bracket")?;
            // Zone identifiers (RFC 6874) name an interface of one host; they mean nothing to another (BAD_INPUTS 16).
            let address: Ipv6Addr = inner.parse().map_err(|_| "host is not an IPv6 address")?;
            let port = match after {
                "" => None,
                _ => Some(port(after.strip_prefix(':').ok_or("host has bytes behind the bracket")?)?),
            };
            return Ok(Self { host: Host::Address(address.to_canonical()), port });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, digits)) => (host, Some(port(digits)?)),
            None => (text, None),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.is_empty() {
            return Err("host is empty");
        }
        if host.len() > MAX_HOST {
            return Err("host is too long");
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Self { host: Host::Address(address), port });
        }
        let fine = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if !host.split('.').all(fine) {
            return Err("host is not a name");
        }
        // `1.2.3`, `0x7f.1` and `017700000001` are addresses to some resolvers: refused rather than guessed.
        let last = host.rsplit('.').next().unwrap_or(host);
        if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") {
            return Err("host is neither a name nor an address");
        }
        Ok(Self { host: Host::Name(host.to_ascii_lowercase().into()), port })
    }

    /// The service that this host names, by the rules of D13; `known` tells whether a namespace exists in the mesh.
    ///
    /// `NAME` is in the workload's own namespace. `NAME.NAMESPACE` counts only when the mesh has that namespace, so that
    /// `example.com` stays the public one. `NAME.NAMESPACE.mesh` and `*.svc.cluster.local` are always the mesh's.
    #[must_use]
    pub fn service(&self, own: &Name, known: impl Fn(&str) -> bool) -> MeshName {
        let Host::Name(host) = &self.host else { return MeshName::Outside };
        if &**host == "localhost" || host.ends_with(".localhost") {
            return MeshName::Outside;
        }
        let labels: smallvec::SmallVec<[&str; 6]> = host.split('.').collect();
        let (namespace, name) = match labels.as_slice() {
            [name] => (own.as_str(), *name),
            [name, namespace, "mesh"] | [name, namespace, "svc"] | [name, namespace, "svc", "cluster", "local"] => {
                (*namespace, *name)
            }
            [.., "mesh"] | [.., "svc", "cluster", "local"] => return MeshName::Malformed,
            [name, namespace] if known(namespace) => (*namespace, *name),
            _ => return MeshName::Outside,
        };
        NamespacedName::new(namespace, name).map_or(MeshName::Malformed, MeshName::Service)
    }
}

/// What a host is to the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MeshName {
    /// It names this service, which may or may not exist.
    Service(NamespacedName),
    /// It is under a suffix of the mesh but names no service there.
    Malformed,
    /// It is not the mesh's: an address or a public name.
    Outside,
}

fn port(digits: &str) -> Result<u16, &'static str> {
    if digits.is_empty() || digits.len() > 5 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("host has a malformed port");
    }
    match digits.parse::<u16>() {
        Ok(0) => Err("port 0 cannot be called"),
        Ok(port) => Ok(port),
        Err(_) => Err("host has a port over 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_host_are_one_authority() {
        for (text, expected) in [
            ("Web", "web"),
            ("web.", "web"),
            ("WEB:80", "web:80"),
            ("web.shop.svc.cluster.local.:8080", "web.shop.svc.cluster.local:8080"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::1]", "[::1]"),
            ("[::1]:8", "[::1]:8"),
            ("[::ffff:10.0.0.1]:8", "10.0.0.1:8"),
        ] {
            assert_eq!(Authority::parse(text.as_bytes()).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn tricks_are_refused() {
        for bad in [
            "",
            ".",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:80:80",
            "u@a",
            "a b",
            "a,b",
            "a/b",
            "a\0",
            "ä",
            "a..b",
            "[::1",
            "[::1]x",
            "[fe80::1%eth0]",
            "::1",
            "1.2.3",
            "127.1",
            "0x7f000001",
            "017700000001",
            "a\r\nb",
            "a%2eb",
        ] {
            assert!(Authority::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_the_meshs_names_are_the_meshs() {
        let own = Name::new("shop").unwrap();
        let service = |text: &str| Authority::parse(text.as_bytes()).unwrap().service(&own, |ns| ns == "prod");
        let named = |ns: &str, name: &str| MeshName::Service(NamespacedName::new(ns, name).unwrap());
        assert_eq!(service("web"), named("shop", "web"));
        assert_eq!(service("WEB:80"), named("shop", "web"));
        assert_eq!(service("web.prod"), named("prod", "web"));
        assert_eq!(service("web.com"), MeshName::Outside);
        assert_eq!(service("web.com.mesh"), named("com", "web"));
        assert_eq!(service("web.any.svc.cluster.local"), named("any", "web"));
        assert_eq!(service("a.b.c.mesh"), MeshName::Malformed);
        assert_eq!(service("a_b.prod"), MeshName::Malformed);
        assert_eq!(service("localhost:80"), MeshName::Outside);
        assert_eq!(service("10.0.0.1"), MeshName::Outside);
    }
}
