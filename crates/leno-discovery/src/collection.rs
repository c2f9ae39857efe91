//! Names of collections, keys of resources, and versions made from content.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher as _};
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use leno_model::NamespacedName;

use crate::limits::MAX_KEY_PART;
use crate::proto;

/// What can be subscribed to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CollectionName {
    /// `mesh`: MeshConfig and the names of the mesh.
    Mesh,
    /// `in:NAMESPACE/NAME`: what a member of the service enforces.
    Inbound(NamespacedName),
    /// `out:NAMESPACE/NAME`: what a caller of the service needs.
    Outbound(NamespacedName),
}

impl fmt::Display for CollectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("mesh"),
            Self::Inbound(s) => write!(f, "in:{}/{}", s.namespace, s.name),
            Self::Outbound(s) => write!(f, "out:{}/{}", s.namespace, s.name),
        }
    }
}

/// A text that names no collection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a collection: mesh, in:NAMESPACE/NAME or out:NAMESPACE/NAME")]
pub struct UnknownCollection(pub String);

impl FromStr for CollectionName {
    type Err = UnknownCollection;

    fn from_str(text: &str) -> Result<Self, UnknownCollection> {
        let unknown = || UnknownCollection(text.chars().take(80).flat_map(char::escape_default).collect());
        let service = |rest: &str| {
            let (namespace, name) = rest.split_once('/').ok_or_else(unknown)?;
            NamespacedName::new(namespace, name).map_err(|_| unknown())
        };
        match text.split_once(':') {
            None if text == "mesh" => Ok(Self::Mesh),
            Some(("in", rest)) => Ok(Self::Inbound(service(rest)?)),
            Some(("out", rest)) => Ok(Self::Outbound(service(rest)?)),
            _ => Err(unknown()),
        }
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct KeyParts {
    kind: String,
    namespace: String,
    name: String,
}

/// Names one resource inside a collection. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<KeyParts>);

impl Key {
    /// A key from its parts; what is allowed in them is the resource model's business.
    #[must_use]
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self(Arc::new(KeyParts { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }))
    }

    /// The kind, e.g. `HTTPRoute`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    /// The namespace, empty for none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The key as a message.
    #[must_use]
    pub fn to_proto(&self) -> proto::ResourceKey {
        let KeyParts { kind, namespace, name } = &*self.0;
        proto::ResourceKey { kind: kind.clone(), namespace: namespace.clone(), name: name.clone() }
    }

    /// The key of a message; `None` if it is absent or a part is longer than any name.
    #[must_use]
    pub fn from_proto(key: Option<proto::ResourceKey>) -> Option<Self> {
        let proto::ResourceKey { kind, namespace, name } = key?;
        let fine = !kind.is_empty() && [&kind, &namespace, &name].iter().all(|p| p.len() <= MAX_KEY_PART);
        fine.then(|| Self(Arc::new(KeyParts { kind, namespace, name })))
    }

    /// This resource's share in [`Digest`].
    fn share(&self, version: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        version.hash(&mut hasher);
        hasher.finish()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.0.kind, self.0.namespace, self.0.name)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One resource as it is sent: encoded once, the same bytes for every subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Follows from the body.
    pub version: u64,
    /// JSON.
    pub body: Bytes,
}

impl Entry {
    /// An entry with the version that follows from its content, which makes versions equal across restarts and between
    /// control planes. Should the hash of a later build differ, a resume costs one full answer and nothing else.
    #[must_use]
    pub fn new(body: Bytes) -> Self {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        // 0 means "none" on the wire.
        Self { version: hasher.finish().max(1), body }
    }
}

/// The version of a whole collection: independent of order and kept up to date in constant time per change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest(u64);

impl Digest {
    /// Takes a resource in.
    pub fn add(&mut self, key: &Key, version: u64) {
        self.0 = self.0.wrapping_add(key.share(version));
    }

    /// Takes a resource out that was [added](Self::add).
    pub fn remove(&mut self, key: &Key, version: u64) {
        self.0 = self.0.wrapping_sub(key.share(version));
    }

    /// The version; never 0, which means "none" on the wire.
    #[must_use]
    pub fn version(self) -> u64 {
        self.0.wrapping_add(1).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_have_one_spelling() {
        for text in ["mesh", "in:shop/web", "out:default/a-1"] {
            assert_eq!(text.parse::<CollectionName>().unwrap().to_string(), text);
        }
        for text in ["", "mesh:", "in:", "out:a", "out:a/b/c", "in:A/b", "x:a/b", "out:a/\u{7}", &"a".repeat(9000)] {
            let error = text.parse::<CollectionName>().unwrap_err().to_string();
            assert!(error.len() < 1000 && !error.contains('\u{7}'), "{error}");
        }
    }

    #[test]
    fn digest_follows_content_not_order() {
        let (a, b) = (Key::new("Service", "s", "a"), Key::new("Service", "s", "b"));
        let mut one = Digest::default();
        one.add(&a, 1);
        one.add(&b, 2);
        let mut two = Digest::default();
        two.add(&b, 2);
        two.add(&a, 7);
        assert_ne!(one.version(), two.version());
        two.remove(&a, 7);
        two.add(&a, 1);
        assert_eq!(one.version(), two.version());
        assert_ne!(Digest::default().version(), 0);
    }
}
