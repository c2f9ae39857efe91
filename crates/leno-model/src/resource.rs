//! A resource as stored and sent: typed metadata around a raw spec, so that fields we do not know survive.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::kind::Kind;
use crate::names::{NameError, NamespacedName};

/// Largest resource that a proxy accepts, in bytes of the JSON it is sent: what the API takes as text, so that only what aliases
/// multiply is over it, and compiled in milliseconds.
pub const MAX_RESOURCE: usize = 1 << 20;

/// A resource. Unknown fields, at the top, in the metadata and in the spec, are kept as they came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// Group and version, e.g. `leno.dev/v1alpha1`.
    pub api_version: String,
    /// The kind as written; see [`Resource::known_kind`].
    pub kind: String,
    /// Name, namespace, labels and what the store adds.
    pub metadata: Metadata,
    /// What the user wants, raw; see [`Resource::spec`].
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub spec: Value,
    /// What the mesh found out, raw.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub status: Value,
    /// Fields of later versions or other systems.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What every resource says about itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Unique per kind and namespace.
    pub name: String,
    /// Empty only before parsing has filled in the default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// For people and selection.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// For tools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Given by the store; distinguishes a resource from an earlier one of the same name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Counts changes of the spec; given by the store.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// Opaque version of the whole resource; given by the store, sent back for optimistic concurrency.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// RFC 3339 in UTC; given by the store. Decides which of two conflicting resources is older.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub creation_timestamp: String,
    /// Fields of other systems, such as `ownerReferences`.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A typed spec and the kind it belongs to.
pub trait Spec: DeserializeOwned + Serialize + JsonSchema {
    /// The kind.
    const KIND: Kind;
}

/// The spec of a resource does not have the shape of its kind.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// It is of another kind.
    #[error("{reference} is not a {wanted}")]
    Kind {
        /// The resource.
        reference: ResourceRef,
        /// What was asked for.
        wanted: Kind,
    },
    /// A field does not decode.
    #[error("{reference}: spec: {source}")]
    Decode {
        /// The resource.
        reference: ResourceRef,
        /// Where and why.
        source: serde_json::Error,
    },
}

impl Resource {
    /// A resource with this spec; the store fills in the rest of the metadata.
    pub fn new<S: Spec>(name: &NamespacedName, spec: &S) -> Self {
        Self {
            api_version: S::KIND.api_version().to_owned(),
            kind: S::KIND.as_str().to_owned(),
            metadata: Metadata {
                name: name.name.to_string(),
                namespace: name.namespace.to_string(),
                ..Metadata::default()
            },
            spec: serde_json::to_value(spec).expect("specs are plain data with text keys"),
            status: Value::Null,
            extra: Map::new(),
        }
    }

    /// The kind, if this version knows it in this group.
    #[must_use]
    pub fn known_kind(&self) -> Option<Kind> {
        Kind::find(&self.api_version, &self.kind)
    }

    /// The typed view of the spec; fields it does not know are ignored.
    pub fn spec<S: Spec>(&self) -> Result<S, SpecError> {
        if self.known_kind() != Some(S::KIND) {
            return Err(SpecError::Kind { reference: self.reference(), wanted: S::KIND });
        }
        let spec = if self.spec.is_null() { &Value::Object(Map::new()) } else { &self.spec };
        S::deserialize(spec).map_err(|source| SpecError::Decode { reference: self.reference(), source })
    }

    /// Kind, namespace and name.
    #[must_use]
    pub fn reference(&self) -> ResourceRef {
        ResourceRef {
            kind: self.kind.clone(),
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
        }
    }

    /// Namespace and name, checked as DNS labels.
    pub fn namespaced_name(&self) -> Result<NamespacedName, NameError> {
        NamespacedName::new(&self.metadata.namespace, &self.metadata.name)
    }

    /// Decodes JSON, leniently.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Encodes as JSON; the same resource always gives the same bytes.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a resource is plain data with text keys")
    }

    /// Older first, then by namespace and name: who wins a conflict (Gateway API, `HTTPRouteRule`). One without a
    /// timestamp counts as the youngest.
    #[must_use]
    pub fn age_order(&self) -> (bool, &str, &str, &str) {
        let m = &self.metadata;
        (m.creation_timestamp.is_empty(), &m.creation_timestamp, &m.namespace, &m.name)
    }
}

/// Names one resource; shown as `Kind namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceRef {
    /// The kind as written.
    pub kind: String,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl fmt::Display for ResourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_survive_a_round_trip() {
        let text = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"shop","generation":3,"ownerReferences":[{"uid":"x"}]},"spec":{"ports":[{"port":80,"later":true}],"novel":{"a":[1]}},"status":{"x":1},"future":"kept"}"#;
        let resource = Resource::from_json(text.as_bytes()).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&resource.to_json()).unwrap(),
            serde_json::from_str::<Value>(text).unwrap()
        );
    }

    #[test]
    fn the_age_order_puts_the_oldest_first() {
        let make = |name: &str, time: &str| {
            let mut r =
                Resource::from_json(br#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"x"}}"#).unwrap();
            r.metadata.name = name.into();
            r.metadata.creation_timestamp = time.into();
            r
        };
        let mut all = [
            make("d", ""),
            make("b", "2026-01-02T00:00:00Z"),
            make("a", "2026-01-02T00:00:00Z"),
            make("c", "2026-01-01T00:00:00Z"),
        ];
        all.sort_by(|a, b| a.age_order().cmp(&b.age_order()));
        assert_eq!(all.map(|r| r.metadata.name), ["c", "a", "b", "d"]);
    }
}
