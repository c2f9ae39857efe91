//! Filters and header conditions that HTTPRoute and GRPCRoute share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Adds, sets and removes headers. Names are compared without case.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderModifier {
    /// Overwrites these headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<HeaderValue>,
    /// Appends to these headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<HeaderValue>,
    /// Removes these headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// A header and its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderValue {
    /// The header's name.
    pub name: String,
    /// The header's value.
    pub value: String,
}

/// How a text is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum TextMatchType {
    /// Byte for byte.
    #[default]
    Exact,
    /// The whole value matches a regular expression (linear time; no look-around, no back-references).
    RegularExpression,
    /// Of a later version.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// A condition on a header or query parameter. If it occurs several times, every value must fit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamedMatch {
    /// How `value` is compared.
    #[serde(default, rename = "type")]
    pub kind: TextMatchType,
    /// The name. Headers: without case; query parameters: byte for byte.
    pub name: String,
    /// The value, or the regular expression.
    pub value: String,
}
