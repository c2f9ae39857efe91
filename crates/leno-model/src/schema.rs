//! Walks a value along its kind's schema: unknown fields with a suggestion, wrong types, closed sets, bounds.
//!
//! The schemas are generated from the typed specs, so that checker, decoder, `leno explain` and reference page cannot disagree.

use std::sync::OnceLock;

use serde_json::Value;

use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::kind::Kind;
use crate::kinds;
use crate::path::FieldPath;
use crate::resource::ResourceRef;
use crate::time_span::{self, TimeSpan};
use crate::yaml::{Node, NodeValue, Position, clip};

/// The extension that lists fields which the API has and this version does not act on.
pub const UNSUPPORTED: &str = "x-leno-unsupported";
/// Diagnostics per document: enough to mend a file, not enough to fill memory.
pub const MAX_DIAGNOSTICS: usize = 100;

/// The schema of a kind's spec, made once.
#[must_use]
pub fn of(kind: Kind) -> &'static Value {
    static SCHEMAS: OnceLock<Vec<Value>> = OnceLock::new();
    let all = SCHEMAS.get_or_init(|| Kind::ALL.iter().map(|&k| kinds::spec_schema(k).to_value()).collect());
    &all[kind as usize]
}

/// A schema node and the document whose `$defs` it refers to.
#[derive(Debug, Clone, Copy)]
pub struct SchemaRef<'s> {
    root: &'s Value,
    node: &'s Value,
}

/// What a schema node asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape<'s> {
    /// A mapping with these fields.
    Object,
    /// A mapping of any keys to values of one schema.
    Dictionary,
    /// A list.
    List,
    /// One of these texts.
    OneOf(Vec<&'s str>),
    /// One of several types, such as a number or text.
    Types(Vec<&'s str>),
}

impl<'s> SchemaRef<'s> {
    /// The schema of a kind's spec.
    #[must_use]
    pub fn of(kind: Kind) -> SchemaRef<'static> {
        let root = of(kind);
        SchemaRef { root, node: root }
    }

    fn at(self, node: &'s Value) -> Self {
        Self { root: self.root, node }
    }

    /// Follows references, and steps through "this or null".
    #[must_use]
    pub fn resolve(self) -> Self {
        let mut node = self.node;
        // Bounded: a schema that refers to itself without a step down would be a fault of ours.
        for _ in 0..16 {
            if let Some(target) = node["$ref"].as_str() {
                let name = target.trim_start_matches("#/$defs/");
                node = &self.root["$defs"][name];
            } else if let Some(inner) = optional_of(node) {
                node = inner;
            } else {
                break;
            }
        }
        self.at(node)
    }

    /// The doc comment: of the field if it has one, else of its type.
    #[must_use]
    pub fn description(self) -> &'s str {
        self.node["description"].as_str().or_else(|| self.resolve().node["description"].as_str()).unwrap_or_default()
    }

    /// The default, if the schema names one that says something.
    #[must_use]
    pub fn default_value(self) -> Option<&'s Value> {
        self.node.get("default").filter(|d| !matches!(d, Value::Null) && **d != Value::Array(Vec::new()))
    }

    /// What the resolved node asks for.
    #[must_use]
    pub fn shape(self) -> Shape<'s> {
        let node = self.resolve().node;
        let constants = |key: &str| -> Option<Vec<&'s str>> {
            node[key].as_array().map(|all| all.iter().filter_map(|v| v["const"].as_str()).collect())
        };
        if let Some(all) = node["enum"].as_array() {
            return Shape::OneOf(all.iter().filter_map(Value::as_str).collect());
        }
        if let Some(all) = constants("oneOf").filter(|all| !all.is_empty()) {
            let mut all = all;
            // schemars puts variants without a comment of their own together.
            all.extend(
                node["oneOf"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .flat_map(|v| v["enum"].as_array())
                    .flatten()
                    .filter_map(Value::as_str),
            );
            return Shape::OneOf(all);
        }
        let types = self.types();
        match types.as_slice() {
            ["object"] if node["properties"].is_object() || node["additionalProperties"].as_bool() == Some(false) => {
                Shape::Object
            }
            ["object"] if node["additionalProperties"].is_object() => Shape::Dictionary,
            ["array"] => Shape::List,
            _ => Shape::Types(types),
        }
    }

    fn types(self) -> Vec<&'s str> {
        let node = self.resolve().node;
        let mut types: Vec<&str> = match &node["type"] {
            Value::String(one) => vec![one],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        for alternative in node["anyOf"].as_array().into_iter().flatten() {
            types.extend(self.at(alternative).types());
        }
        types.retain(|t| *t != "null");
        types
    }

    /// Fields in the order they are declared.
    pub fn fields(self) -> impl Iterator<Item = (&'s str, SchemaRef<'s>)> {
        let resolved = self.resolve();
        resolved.node["properties"].as_object().into_iter().flatten().map(move |(k, v)| (k.as_str(), resolved.at(v)))
    }

    /// One field.
    #[must_use]
    pub fn field(self, name: &str) -> Option<Self> {
        let resolved = self.resolve();
        resolved.node["properties"].get(name).map(|v| resolved.at(v))
    }

    /// What a list or dictionary holds.
    #[must_use]
    pub fn items(self) -> Option<Self> {
        let resolved = self.resolve();
        let items = resolved.node.get("items").or_else(|| resolved.node.get("additionalProperties"));
        items.filter(|i| i.is_object()).map(|i| resolved.at(i))
    }

    /// Whether the mapping needs this field.
    #[must_use]
    pub fn requires(self, name: &str) -> bool {
        self.required().any(|r| r == name)
    }

    fn required(self) -> impl Iterator<Item = &'s str> {
        self.resolve().node["required"].as_array().into_iter().flatten().filter_map(Value::as_str)
    }

    /// Fields that the API has and this version does not act on.
    pub fn unsupported(self) -> impl Iterator<Item = &'s str> {
        self.resolve().node[UNSUPPORTED].as_array().into_iter().flatten().filter_map(Value::as_str)
    }

    /// Whether the text is a duration.
    #[must_use]
    pub fn is_duration(self) -> bool {
        self.resolve().node["format"] == time_span::FORMAT
    }

    /// The values of a closed set with what each means; the meaning is empty where the values explain themselves.
    #[must_use]
    pub fn described_values(self) -> Vec<(&'s str, &'s str)> {
        let node = self.resolve().node;
        let variants = node["oneOf"].as_array().into_iter().flatten();
        variants.filter_map(|v| Some((v["const"].as_str()?, v["description"].as_str().unwrap_or_default()))).collect()
    }

    fn bound(self, name: &str) -> Option<f64> {
        // A field's own bounds stand beside its reference.
        let resolved = self.resolve().node;
        let alternatives = || resolved["anyOf"].as_array().into_iter().flatten().find_map(|a| a[name].as_f64());
        self.node[name].as_f64().or_else(|| resolved[name].as_f64()).or_else(alternatives)
    }
}

/// The other schema of `anyOf: [schema, null]`.
fn optional_of(node: &Value) -> Option<&Value> {
    let [a, b] = node["anyOf"].as_array()?.as_slice() else { return None };
    match (a["type"] == "null", b["type"] == "null") {
        (false, true) => Some(a),
        (true, false) => Some(b),
        _ => None,
    }
}

/// Collects diagnostics of one document, with their positions.
pub struct Findings<'n> {
    source: &'n str,
    root: &'n Node,
    /// Once known.
    pub resource: Option<ResourceRef>,
    found: Vec<Diagnostic>,
}

impl<'n> Findings<'n> {
    /// For the document `root` of `source`.
    #[must_use]
    pub fn new(source: &'n str, root: &'n Node) -> Self {
        Self { source, root, resource: None, found: Vec::new() }
    }

    /// What was found.
    #[must_use]
    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.found
    }

    /// Whether something was found that refuses the document.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.found.iter().any(Diagnostic::is_error)
    }

    /// Where the value at `path`, or the nearest thing around it, stands.
    #[must_use]
    pub fn position(&self, path: &FieldPath) -> Position {
        self.root.position_of(path)
    }

    /// Number of errors so far.
    #[must_use]
    pub fn error_count(&self) -> usize {
        self.found.iter().filter(|d| d.is_error()).count()
    }

    /// An error at a value that should be text.
    pub fn expected_text(&mut self, node: &Node, path: &FieldPath) {
        self.wrong_type(node, "text", path);
    }

    /// As [`nearest`], but without the work once no more diagnostics are taken: a text may have a million unknown fields.
    pub fn nearest<'c>(&self, text: &str, candidates: impl Iterator<Item = &'c str>) -> Option<String> {
        if self.found.len() < MAX_DIAGNOSTICS { nearest(text, candidates) } else { None }
    }

    /// Adds one with all its parts.
    pub fn push(
        &mut self,
        severity: Severity,
        code: Code,
        (path, position): (&FieldPath, Position),
        message: String,
        suggestion: Option<String>,
    ) {
        if self.found.len() < MAX_DIAGNOSTICS {
            self.found.push(Diagnostic {
                severity,
                code,
                source: self.source.to_owned(),
                line: position.line,
                column: position.column,
                resource: self.resource.clone(),
                path: path.to_string(),
                message,
                suggestion,
            });
        }
    }

    /// An error at the value of `path`.
    pub fn error(&mut self, code: Code, path: &FieldPath, message: impl Into<String>) {
        self.push(Severity::Error, code, (path, self.root.position_of(path)), message.into(), None);
    }

    /// A warning at the value of `path`.
    pub fn warning(&mut self, code: Code, path: &FieldPath, message: impl Into<String>) {
        self.push(Severity::Warning, code, (path, self.root.position_of(path)), message.into(), None);
    }

    /// Checks `node` against `schema`, and all below it.
    pub fn check(&mut self, node: &Node, schema: SchemaRef<'_>, path: &FieldPath) {
        match schema.shape() {
            Shape::Object => self.check_object(node, schema, path),
            Shape::Dictionary => match &node.value {
                NodeValue::Map(entries) => {
                    let Some(items) = schema.items() else { return };
                    for entry in entries {
                        self.check(&entry.node, items, &path.key(&entry.key));
                    }
                }
                _ => self.wrong_type(node, "a mapping", path),
            },
            Shape::List => self.check_list(node, schema, path),
            Shape::OneOf(values) => match &node.value {
                NodeValue::Text(text) if values.contains(&text.as_str()) => {}
                NodeValue::Text(text) => {
                    let suggestion = self.nearest(text, values.iter().copied());
                    let message = format!("`{}` is not one of {}", clip(text), values.join(", "));
                    self.push(Severity::Error, Code::InvalidValue, (path, node.position), message, suggestion);
                }
                _ => self.wrong_type(node, "text", path),
            },
            Shape::Types(types) => self.check_scalar(node, schema, &types, path),
        }
    }

    fn check_object(&mut self, node: &Node, schema: SchemaRef<'_>, path: &FieldPath) {
        let Some(entries) = node.entries() else { return self.wrong_type(node, "a mapping", path) };
        for entry in entries {
            let below = path.key(&entry.key);
            let field = schema.field(&entry.key);
            if schema.unsupported().any(|u| u == entry.key) {
                let message = "known, but this version does not act on it".to_owned();
                self.push(Severity::Warning, Code::UnsupportedValue, (&below, entry.position), message, None);
            }
            match field {
                Some(field) if !entry.node.is_null() => self.check(&entry.node, field, &below),
                Some(_) => {}
                None if schema.unsupported().any(|u| u == entry.key) => {}
                None => {
                    let suggestion = self.nearest(&entry.key, schema.fields().map(|f| f.0));
                    let at = (&below, entry.position);
                    self.push(Severity::Error, Code::UnknownField, at, "unknown field".to_owned(), suggestion);
                }
            }
        }
        let absent = |name: &str| node.get(name).is_none_or(Node::is_null);
        for name in schema.required().filter(|name| absent(name)) {
            let message = "required field is absent".to_owned();
            self.push(Severity::Error, Code::MissingField, (&path.key(name), node.position), message, None);
        }
    }

    fn check_list(&mut self, node: &Node, schema: SchemaRef<'_>, path: &FieldPath) {
        let NodeValue::List(items) = &node.value else { return self.wrong_type(node, "a list", path) };
        let count = items.len() as f64;
        if let Some(least) = schema.bound("minItems").filter(|&least| count < least) {
            self.error(Code::InvalidValue, path, format!("needs at least {least} entries"));
        }
        if let Some(most) = schema.bound("maxItems").filter(|&most| count > most) {
            self.error(Code::LimitExceeded, path, format!("has {count} entries; at most {most} are permitted"));
            return;
        }
        let Some(schema) = schema.items() else { return };
        for (index, item) in items.iter().enumerate() {
            self.check(item, schema, &path.index(index));
        }
    }

    fn check_scalar(&mut self, node: &Node, schema: SchemaRef<'_>, types: &[&str], path: &FieldPath) {
        // No type at all: anything goes.
        let fits = types.is_empty()
            || types.iter().any(|t| match &node.value {
                NodeValue::Bool(_) => *t == "boolean",
                NodeValue::Number(n) => *t == "number" || (*t == "integer" && !n.is_f64()),
                NodeValue::Text(_) => *t == "string",
                NodeValue::List(_) => *t == "array",
                NodeValue::Map(_) => *t == "object",
                NodeValue::Null => false,
            });
        if !fits {
            let wanted = types.iter().map(|t| type_word(t)).collect::<Vec<_>>().join(" or ");
            return self.wrong_type(node, &wanted, path);
        }
        match &node.value {
            NodeValue::Number(n) => {
                let number = n.as_f64().unwrap_or(f64::NAN);
                let (least, most) = (schema.bound("minimum"), schema.bound("maximum"));
                if least.is_some_and(|l| number < l) || most.is_some_and(|m| number > m) {
                    let range = match (least, most) {
                        (Some(l), Some(m)) => format!("between {l} and {m}"),
                        (Some(l), None) => format!("at least {l}"),
                        (_, m) => format!("at most {}", m.unwrap_or_default()),
                    };
                    self.error(Code::InvalidValue, path, format!("{n} is out of range: {range}"));
                }
            }
            NodeValue::Text(text) if schema.is_duration() => {
                if let Err(e) = text.parse::<TimeSpan>() {
                    self.error(Code::InvalidValue, path, e.to_string());
                }
            }
            _ => {}
        }
    }

    fn wrong_type(&mut self, node: &Node, wanted: &str, path: &FieldPath) {
        let (quote, suggestion) = match &node.value {
            NodeValue::Bool(b) if wanted == "text" => (true, Some(format!("\"{b}\""))),
            NodeValue::Number(n) if wanted == "text" => (true, Some(format!("\"{n}\""))),
            _ => (false, None),
        };
        let hint = if quote { " (put it in quotes)" } else { "" };
        let message = format!("expected {wanted}, found {}{hint}", node.describe());
        self.push(Severity::Error, Code::WrongType, (path, node.position), message, suggestion);
    }
}

/// The word for a JSON schema type, in messages and explanations.
#[must_use]
pub fn type_word(json_type: &str) -> &str {
    match json_type {
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    }
}

/// The candidate that `text` was probably meant to be.
#[must_use]
pub fn nearest<'c>(text: &str, candidates: impl Iterator<Item = &'c str>) -> Option<String> {
    // The distance is quadratic in its arguments, and no field name is this long.
    if text.len() > 64 {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    candidates
        .filter_map(|candidate| {
            let other = candidate.to_ascii_lowercase();
            let distance = strsim::damerau_levenshtein(&lower, &other);
            // One slip per three letters, and a part of the word (`Prefix` for `PathPrefix`).
            let close = distance * 3 <= lower.len().max(other.len())
                || (lower.len() >= 4 && (other.contains(&lower) || lower.starts_with(&other)));
            close.then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_node_is_understood() {
        fn walk(schema: SchemaRef<'_>, depth: usize) -> usize {
            assert!(depth < 12);
            match schema.shape() {
                Shape::Object => schema.fields().map(|(_, field)| walk(field, depth + 1)).sum::<usize>() + 1,
                Shape::Dictionary => walk(schema.items().expect("what it holds"), depth + 1),
                // A list of anything has no schema for what it holds.
                Shape::List => schema.items().map_or(1, |items| walk(items, depth + 1)),
                Shape::OneOf(values) => {
                    assert!(
                        values.len() > 1 && !values.contains(&"Unknown") && !values.contains(&"unknown"),
                        "{values:?}"
                    );
                    1
                }
                Shape::Types(types) => {
                    assert!(types.len() <= 2, "{types:?}");
                    1
                }
            }
        }
        for &kind in Kind::ALL {
            // Itself and two fields.
            assert!(walk(SchemaRef::of(kind), 0) >= 3, "{kind}");
        }
    }

    #[test]
    fn suggestions_are_near() {
        let fields = ["matches", "backendRefs", "filters", "name", "timeouts"];
        for (text, expected) in [
            ("matchs", Some("matches")),
            ("match", Some("matches")),
            ("backendrefs", Some("backendRefs")),
            ("backendRef", Some("backendRefs")),
            ("timeout", Some("timeouts")),
            ("nmae", Some("name")),
            ("colour", None),
        ] {
            assert_eq!(nearest(text, fields.into_iter()).as_deref(), expected, "{text}");
        }
        assert_eq!(nearest(&"matches".repeat(1000), fields.into_iter()), None);
    }
}
