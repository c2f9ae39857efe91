//! Names: DNS-1123 labels, namespaced names and application protocols.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The namespace that a resource is in when it names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The namespace whose policies apply to the whole mesh (D14).
pub const SYSTEM_NAMESPACE: &str = "leno-system";
/// Longest label, RFC 1123 section 2.1.
pub const MAX_LABEL: usize = 63;

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text has no characters.
    #[error("a name must not be empty")]
    Empty,
    /// The text exceeds [`MAX_LABEL`].
    #[error("name `{0}` is longer than 63 characters")]
    TooLong(String),
    /// A character outside `a-z`, `0-9`, `-`, or `-` at an end.
    #[error(
        "name `{0}` is not a DNS label: use lower-case letters, digits and `-`, starting and ending with a letter or digit"
    )]
    Malformed(String),
    /// Not of the form `name` or `name.namespace`.
    #[error("`{0}` is not of the form NAME or NAME.NAMESPACE")]
    NotNamespaced(String),
}

/// A DNS-1123 label: 1 to 63 of `a-z`, `0-9` and inner `-`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Parses and checks a label.
    pub fn new(text: &str) -> Result<Self, NameError> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }

    /// Checks without making one.
    pub fn check(text: &str) -> Result<(), NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_LABEL {
            return Err(NameError::TooLong(text.chars().take(80).collect()));
        }
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let fine = bytes.iter().all(|&b| edge(b) || b == b'-') && edge(bytes[0]) && edge(bytes[bytes.len() - 1]);
        if fine { Ok(()) } else { Err(NameError::Malformed(text.to_owned())) }
    }

    /// The label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// A name inside a namespace, written `name.namespace`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamespacedName {
    /// The namespace.
    pub namespace: Name,
    /// The name.
    pub name: Name,
}

impl NamespacedName {
    /// Checks both parts.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        Ok(Self { namespace: Name::new(namespace)?, name: Name::new(name)? })
    }

    /// Parses `NAME` (in `default_namespace`) or `NAME.NAMESPACE`.
    pub fn parse(text: &str, default_namespace: &str) -> Result<Self, NameError> {
        let mut parts = text.split('.');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(name), None, None) => Self::new(default_namespace, name),
            (Some(name), Some(namespace), None) => Self::new(namespace, name),
            _ => Err(NameError::NotNamespaced(text.to_owned())),
        }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

/// What an application speaks on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AppProtocol {
    /// HTTP/1.1, with HTTP/2 by prior knowledge accepted from callers.
    Http,
    /// HTTP/2 without TLS (h2c, prior knowledge).
    Http2,
    /// gRPC over h2c.
    Grpc,
    /// Opaque bytes; the server may speak first.
    Tcp,
}

impl AppProtocol {
    /// All, in the order help texts list them.
    pub const ALL: [Self; 4] = [Self::Http, Self::Http2, Self::Grpc, Self::Tcp];

    /// The word used in YAML, flags, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    /// Whether requests, not bytes, are what is balanced and authorised.
    #[must_use]
    pub fn is_http(self) -> bool {
        self != Self::Tcp
    }
}

impl fmt::Display for AppProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AppProtocol {
    type Err = String;

    /// Accepts our words and those of Kubernetes' `appProtocol` (KEP-3726).
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "http" | "HTTP" | "kubernetes.io/ws" => Ok(Self::Http),
            "http2" | "h2c" | "kubernetes.io/h2c" => Ok(Self::Http2),
            "grpc" => Ok(Self::Grpc),
            "tcp" | "TCP" => Ok(Self::Tcp),
            other => Err(format!("unknown protocol `{other}`; one of http, http2, grpc, tcp")),
        }
    }
}

impl Serialize for AppProtocol {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for AppProtocol {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "web", "web-1", "0", &"a".repeat(63)] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a b", "a\0", &"a".repeat(64)] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn namespaced_names_default_their_namespace() {
        assert_eq!(NamespacedName::parse("web", "shop").unwrap().to_string(), "web.shop");
        assert_eq!(NamespacedName::parse("web.prod", "shop").unwrap().to_string(), "web.prod");
        assert!(NamespacedName::parse("web.prod.mesh", "shop").is_err());
        assert!(NamespacedName::parse("", "shop").is_err());
    }
}
