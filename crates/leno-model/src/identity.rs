//! SPIFFE identities (SPIFFE-ID specification, sections 2.1 to 2.4).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::names::Name;

/// The trust domain of a mesh that nobody configured.
pub const DEFAULT_TRUST_DOMAIN: &str = "mesh.leno";
/// Longest SPIFFE ID in bytes (specification section 2.3).
pub const MAX_SPIFFE_ID: usize = 2048;
const MAX_TRUST_DOMAIN: usize = 255;

/// Why a text is not a SPIFFE ID or trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The trust domain is empty, too long, or has a character outside `a-z0-9.-_`.
    #[error("`{0}` is not a trust domain: 1 to 255 of a-z, 0-9, `.`, `-`, `_`")]
    TrustDomain(String),
    /// The scheme is missing.
    #[error("`{0}` does not start with spiffe://")]
    Scheme(String),
    /// The path has empty, `.` or `..` segments, or a character outside `A-Za-z0-9.-_`.
    #[error("`{0}` has a malformed SPIFFE path")]
    Path(String),
    /// Over [`MAX_SPIFFE_ID`].
    #[error("a SPIFFE ID of {0} bytes is longer than 2048")]
    TooLong(usize),
}

/// The name of a trust domain, e.g. `mesh.leno`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses and checks.
    pub fn new(text: &str) -> Result<Self, IdentityError> {
        let fine = !text.is_empty()
            && text.len() <= MAX_TRUST_DOMAIN
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'));
        if fine { Ok(Self(text.into())) } else { Err(IdentityError::TrustDomain(text.chars().take(80).collect())) }
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    fn default() -> Self {
        Self(DEFAULT_TRUST_DOMAIN.into())
    }
}

/// `spiffe://<trust-domain>/<path>`, checked. Cheap to clone; compares byte for byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Length of the trust domain, which starts at byte 9.
    domain: u16,
}

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// Parses and checks; nothing is normalised, so equal means the same bytes.
    pub fn new(text: &str) -> Result<Self, IdentityError> {
        if text.len() > MAX_SPIFFE_ID {
            return Err(IdentityError::TooLong(text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| IdentityError::Scheme(text.chars().take(80).collect()))?;
        let (domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        TrustDomain::new(domain)?;
        let malformed = || IdentityError::Path(text.chars().take(120).collect());
        if rest.contains('/') {
            let segment_fine = |s: &str| {
                !s.is_empty()
                    && s != "."
                    && s != ".."
                    && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
            };
            if !path.split('/').all(segment_fine) {
                return Err(malformed());
            }
        }
        let domain = u16::try_from(domain.len()).map_err(|_| malformed())?;
        Ok(Self { text: text.into(), domain })
    }

    /// The identity of a workload: `spiffe://<domain>/ns/<namespace>/sa/<service-account>`.
    #[must_use]
    pub fn workload(domain: &TrustDomain, namespace: &Name, service_account: &Name) -> Self {
        let text = format!("{SCHEME}{}/ns/{namespace}/sa/{service_account}", domain.as_str());
        let length = u16::try_from(domain.as_str().len()).expect("a trust domain has at most 255 bytes");
        Self { text: text.into(), domain: length }
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..SCHEME.len() + usize::from(self.domain)]
    }

    /// The path with its leading slash, or empty.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + usize::from(self.domain)..]
    }

    /// Namespace and service account, if the path has the workload shape.
    #[must_use]
    pub fn workload_parts(&self) -> Option<(&str, &str)> {
        let (namespace, rest) = self.path().strip_prefix("/ns/")?.split_once('/')?;
        let account = rest.strip_prefix("sa/")?;
        (!namespace.is_empty() && !account.is_empty() && !account.contains('/')).then_some((namespace, account))
    }

    /// The namespace, if the path has the workload shape.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.workload_parts().map(|p| p.0)
    }

    /// The service account, if the path has the workload shape.
    #[must_use]
    pub fn service_account(&self) -> Option<&str> {
        self.workload_parts().map(|p| p.1)
    }
}

macro_rules! text_type {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
        impl FromStr for $type {
            type Err = IdentityError;
            fn from_str(text: &str) -> Result<Self, IdentityError> {
                Self::new(text)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(&String::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    };
}
text_type!(TrustDomain);
text_type!(SpiffeId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workload_identities_have_parts() {
        let domain = TrustDomain::default();
        let id = SpiffeId::workload(&domain, &Name::new("shop").unwrap(), &Name::new("web").unwrap());
        assert_eq!(id.as_str(), "spiffe://mesh.leno/ns/shop/sa/web");
        assert_eq!(SpiffeId::new(id.as_str()).unwrap(), id);
        assert_eq!(id.trust_domain(), "mesh.leno");
        assert_eq!(id.workload_parts(), Some(("shop", "web")));
    }

    #[test]
    fn malformed_identities_are_refused() {
        for bad in [
            "http://x/ns/a",
            "spiffe://",
            "spiffe:///ns/a",
            "spiffe://X/ns/a",
            "spiffe://x/",
            "spiffe://x//a",
            "spiffe://x/a/",
            "spiffe://x/../a",
            "spiffe://x/a%2fb",
            "spiffe://x/a?b",
            "spiffe://x:1/a",
            "spiffe://u@x/a",
            "spiffe://x/a\0",
        ] {
            assert!(SpiffeId::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(SpiffeId::new("spiffe://x/ns/a/sa/b/c").unwrap().workload_parts(), None);
    }
}
