//! What is the mesh's and what is outside, and whether outside may be reached (D2).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use crate::host::HostName;

/// An address prefix, e.g. `244.0.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpPrefix {
    /// An address in it.
    pub address: IpAddr,
    /// Number of leading bits that count.
    pub bits: u8,
}

/// The text is not an address prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address prefix like 244.0.0.0/16")]
pub struct IpPrefixError(String);

impl IpPrefix {
    /// Whether `address` is in it. A v4-mapped address is the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let rest = 32 - u32::from(self.bits.min(32));
                (own.to_bits() ^ other.to_bits()).checked_shr(rest).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let rest = 128 - u32::from(self.bits.min(128));
                (own.to_bits() ^ other.to_bits()).checked_shr(rest).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for IpPrefix {
    type Err = IpPrefixError;

    fn from_str(text: &str) -> Result<Self, IpPrefixError> {
        let bad = || IpPrefixError(text.chars().take(60).collect());
        let (address, bits) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits: u8 = bits.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if bits > most { Err(bad()) } else { Ok(Self { address, bits }) }
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Whether destinations outside the mesh may be reached. The default is closed: what holds before anything is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EgressPolicy {
    /// Everything may.
    pub open: bool,
    /// What may in any case.
    pub hosts: Vec<EgressHost>,
}

/// A destination outside the mesh that may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressHost {
    /// The ExternalService that says so, for the log.
    pub resource: Arc<str>,
    /// Which names or address.
    pub host: EgressName,
    /// Which ports; all if empty.
    pub ports: Vec<u16>,
}

/// Names or an address outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EgressName {
    /// This name, lower-case.
    Exact(Box<str>),
    /// All names below this one, at any depth, not itself.
    Below(Box<str>),
    /// This address.
    Address(IpAddr),
}

impl EgressName {
    /// Reads `api.example.com`, `*.example.com` or an address.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Self::Address(address.to_canonical());
        }
        let text = text.to_ascii_lowercase();
        match text.strip_prefix("*.") {
            Some(below) => Self::Below(below.into()),
            None => Self::Exact(text.into()),
        }
    }

    fn is_match(&self, host: &HostName<'_>) -> bool {
        match (self, host) {
            (Self::Exact(name), HostName::Name(host)) => **name == **host,
            (Self::Below(name), HostName::Name(host)) => {
                host.strip_suffix(&**name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            (Self::Address(address), HostName::Address(host)) => address == host,
            _ => false,
        }
    }
}

impl EgressPolicy {
    /// Whether a destination outside the mesh may be reached; if not, the reason is `egress_denied`.
    #[must_use]
    pub fn permits(&self, host: &HostName<'_>, port: u16) -> bool {
        let named = |h: &EgressHost| (h.ports.is_empty() || h.ports.contains(&port)) && h.host.is_match(host);
        self.open || self.hosts.iter().any(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;

    #[test]
    fn prefixes_contain_addresses() {
        for (prefix, address, expected) in [
            ("244.0.0.0/16", "244.0.255.1", true),
            ("244.0.0.0/16", "244.1.0.1", false),
            ("244.0.0.0/16", "::ffff:244.0.0.1", true),
            ("244.0.0.0/16", "::1", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("1.2.3.4/32", "1.2.3.5", false),
            ("fd00:1:2::/48", "fd00:1:2:3::1", true),
            ("fd00:1:2::/48", "fd00:1:3::1", false),
            ("::/0", "fe80::1", true),
        ] {
            let parsed: IpPrefix = prefix.parse().unwrap();
            assert_eq!(parsed.contains(address.parse().unwrap()), expected, "{address} in {prefix}");
            assert_eq!(parsed.to_string(), prefix);
        }
        for bad in ["", "1.2.3.4", "1.2.3.4/33", "::/129", "x/8", "1.2.3.4/-1"] {
            assert!(bad.parse::<IpPrefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn closed_egress_opens_for_named_hosts() {
        let host = |name: &str, ports: &[u16]| EgressHost {
            resource: "pay".into(),
            host: EgressName::parse(name),
            ports: ports.into(),
        };
        let closed = EgressPolicy {
            open: false,
            hosts: vec![host("api.example.com", &[443]), host("*.example.org", &[]), host("192.0.2.1", &[])],
        };
        for (name, port, expected) in [
            ("api.example.com", 443, true),
            ("API.example.com.", 443, true),
            ("api.example.com", 80, false),
            ("x.api.example.com", 443, false),
            ("a.example.org", 1, true),
            ("a.b.example.org", 1, true),
            ("example.org", 1, false),
            ("notexample.org", 1, false),
            ("192.0.2.1", 1, true),
            ("192.0.2.2", 1, false),
        ] {
            let parsed = Host::parse(name.as_bytes()).unwrap();
            assert_eq!(closed.permits(&parsed.name, port), expected, "{name}:{port}");
            assert!(EgressPolicy { open: true, hosts: vec![] }.permits(&parsed.name, port));
            assert!(!EgressPolicy::default().permits(&parsed.name, port));
        }
    }
}
