//! The schemas in words: `leno explain KIND.FIELD`, and docs/reference/resources.md.

use std::fmt::Write as _;

use crate::diagnostic::Code;
use crate::kind::{Kind, Writer};
use crate::schema::{SchemaRef, Shape, nearest, type_word};

/// Nothing by that name can be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// No such kind.
    #[error("no kind `{name}`{}", suggest(.suggestion))]
    Kind {
        /// What was asked for.
        name: String,
        /// What was probably meant.
        suggestion: Option<String>,
    },
    /// No such field.
    #[error("{parent} has no field `{name}`{}", suggest(.suggestion))]
    Field {
        /// Where it was looked for.
        parent: String,
        /// What was asked for.
        name: String,
        /// What was probably meant.
        suggestion: Option<String>,
    },
}

fn suggest(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default()
}

/// Explains a kind or one of its fields: `httproute`, `HTTPRoute.spec.rules`, `svc.ports.port`. Lists are stepped through, also where
/// they are written `rules[0]` or `rules[]`.
pub fn explain(query: &str) -> Result<String, ExplainError> {
    let mut parts = query.split('.').map(|p| p.split('[').next().unwrap_or(p)).filter(|p| !p.is_empty());
    let word = parts.next().unwrap_or_default();
    let kind = Kind::from_alias(word).ok_or_else(|| {
        let names = Kind::ALL.iter().flat_map(|k| [k.as_str(), k.plural()]);
        ExplainError::Kind { name: short(word), suggestion: nearest(word, names) }
    })?;
    let mut schema = SchemaRef::of(kind);
    let mut path = "spec".to_owned();
    let mut parts = parts.peekable();
    if parts.peek() == Some(&"spec") {
        parts.next();
    }
    let mut depth = 0;
    for part in parts {
        let inside = contents(schema);
        let Some(field) = inside.field(part) else {
            let suggestion = nearest(part, inside.fields().map(|f| f.0));
            return Err(ExplainError::Field { parent: format!("{kind}.{path}"), name: short(part), suggestion });
        };
        if matches!(schema.shape(), Shape::List) {
            path.push_str("[]");
        }
        path = format!("{path}.{part}");
        schema = field;
        depth += 1;
    }
    let mut text = format!("{kind} ({})\n", kind.api_version());
    if depth == 0 {
        push(&mut text, format_args!("\n{}", wrap(kind.summary(), "  ")));
    } else {
        push(&mut text, format_args!("\n{path}: {}", type_of(schema)));
    }
    push(&mut text, format_args!("\n{}", wrap(schema.description(), "  ")));
    values(&mut text, schema);
    fields(&mut text, schema);
    Ok(text)
}

fn short(text: &str) -> String {
    crate::yaml::clip(text)
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a String cannot fail");
}

/// What a list or dictionary holds, as deep as lists go; else the schema itself.
fn contents(mut schema: SchemaRef<'_>) -> SchemaRef<'_> {
    while matches!(schema.shape(), Shape::List | Shape::Dictionary) {
        match schema.items() {
            Some(items) => schema = items,
            None => break,
        }
    }
    schema
}

/// The type in words.
fn type_of(schema: SchemaRef<'_>) -> String {
    match schema.shape() {
        Shape::Object => "mapping".to_owned(),
        Shape::Dictionary => "mapping of names to texts".to_owned(),
        Shape::List => match schema.items().map(type_of) {
            Some(inner) => format!("list of {inner}"),
            None => "list".to_owned(),
        },
        Shape::OneOf(values) => values.join(" | "),
        Shape::Types(_) if schema.is_duration() => "duration".to_owned(),
        Shape::Types(types) if types.is_empty() => "anything".to_owned(),
        Shape::Types(types) => {
            let words: Vec<&str> = types.iter().map(|t| type_word(t).trim_start_matches("a ")).collect();
            words.join(" or ")
        }
    }
}

fn values(text: &mut String, schema: SchemaRef<'_>) {
    let described = contents(schema).described_values();
    if described.iter().any(|(_, description)| !description.is_empty()) {
        text.push_str("\nvalues:\n");
        for (value, description) in described {
            push(text, format_args!("  {value}\n{}", wrap(description, "      ")));
        }
    }
}

fn fields(text: &mut String, schema: SchemaRef<'_>) {
    let inside = contents(schema);
    if inside.shape() != Shape::Object {
        return;
    }
    text.push_str("\nfields:\n");
    for (name, field) in inside.fields() {
        let required = if inside.requires(name) { ", required" } else { "" };
        let default = field.default_value().map(|d| format!(", default {d}")).unwrap_or_default();
        push(
            text,
            format_args!("  {name}: {}{required}{default}\n{}", type_of(field), wrap(field.description(), "      ")),
        );
    }
    let unsupported: Vec<&str> = inside.unsupported().collect();
    if !unsupported.is_empty() {
        push(text, format_args!("\nknown, but not acted on by this version: {}", unsupported.join(", ")));
    }
}

/// Fills lines of at most 96 characters; line breaks of doc comments have no meaning.
fn wrap(text: &str, indent: &str) -> String {
    let mut lines = vec![indent.to_owned()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("starts with one");
        if line.len() > indent.len() && line.len() + 1 + word.len() > 96 {
            lines.push(format!("{indent}{word}"));
        } else {
            if line.len() > indent.len() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}

/// The text of docs/reference/resources.md.
#[must_use]
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Resources\n\nGenerated from `leno-model`, do not edit. `leno explain KIND.FIELD` shows the same on a terminal.\n\n\
         A duration is one to four numbers of at most five digits with `h`, `m`, `s` or `ms` (`1h30m`, `250ms`; GEP-2257). Regular \
         expressions match the whole text, in linear time, without look-around and back-references; at most 4096 bytes.\n\
         A file may have any number of documents, a `List` among them; at most 1 MiB and 1000 documents, nested 64 deep. An \
         unknown field is an error. A field that the Gateway API or Kubernetes has and this version does not act on is a warning, \
         and a condition of the stored resource.\n\n| kind | version | short | written by |\n|---|---|---|---|\n",
    );
    for &kind in Kind::ALL {
        let writer = match kind.writer() {
            Writer::User => "users",
            Writer::ControlPlane => "the control plane",
            Writer::Wire => "the control plane, for proxies only",
        };
        let short = kind.short_names().join(", ");
        let anchor = kind.as_str().to_lowercase();
        push(&mut page, format_args!("| [{kind}](#{anchor}) | `{}` | {short} | {writer} |", kind.api_version()));
    }
    for &kind in Kind::ALL {
        let schema = SchemaRef::of(kind);
        push(&mut page, format_args!("\n## {kind}\n\n{}\n\n{}\n", kind.summary(), one_line(schema.description())));
        page.push_str("| field | type | meaning |\n|---|---|---|\n");
        let mut unsupported = Vec::new();
        rows(&mut page, schema, "spec", &mut unsupported);
        if !unsupported.is_empty() {
            push(&mut page, format_args!("\nKnown, but not acted on by this version: {}.", unsupported.join(", ")));
        }
    }
    page.push_str("\n## Conditions and diagnostics\n\n| reason | meaning |\n|---|---|\n");
    for code in Code::ALL {
        push(&mut page, format_args!("| `{}` | {} |", code.as_str(), code.summary()));
    }
    page
}

fn rows(page: &mut String, schema: SchemaRef<'_>, path: &str, unsupported: &mut Vec<String>) {
    let inside = contents(schema);
    if inside.shape() != Shape::Object {
        return;
    }
    unsupported.extend(inside.unsupported().map(|name| format!("`{path}.{name}`")));
    for (name, field) in inside.fields() {
        if inside.unsupported().any(|u| u == name) {
            continue;
        }
        let mut path = format!("{path}.{name}");
        let mut level = field;
        while matches!(level.shape(), Shape::List) {
            path.push_str("[]");
            match level.items() {
                Some(items) => level = items,
                None => break,
            }
        }
        let required = if inside.requires(name) { " **Required.**" } else { "" };
        let default =
            field.default_value().map(|d| format!(" Default `{}`.", cell(&d.to_string()))).unwrap_or_default();
        let values: Vec<String> = contents(field)
            .described_values()
            .iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(value, text)| format!("`{value}`: {}", one_line(text)))
            .collect();
        let values = if values.is_empty() { String::new() } else { format!(" {}", cell(&values.join(" "))) };
        push(
            page,
            format_args!(
                "| `{path}` | {} | {}{required}{default}{values} |",
                cell(&type_of(field)),
                cell(&one_line(field.description()))
            ),
        );
        rows(page, field, &path, unsupported);
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_explained() {
        for (query, parts) in [
            (
                "httproute",
                vec![
                    "HTTPRoute (gateway.networking.k8s.io/v1)",
                    "parentRefs: list of mapping",
                    "not acted on by this version: hostnames",
                ],
            ),
            (
                "HTTPRoute.spec.rules[0].matches.path.type",
                vec![
                    "spec.rules[].matches[].path.type: Exact | PathPrefix | RegularExpression",
                    "By whole path segments",
                ],
            ),
            ("svc.ports", vec!["targetPort: whole number or text", "port: whole number, required"]),
            ("tp.timeouts.connect", vec!["spec.timeouts.connect: duration", "2s if absent"]),
            ("accesspolicy.rules.action", vec!["Refuses, whatever other rules allow."]),
        ] {
            let text = explain(query).unwrap();
            for part in parts {
                assert!(text.contains(part), "{query}: {part}\n{text}");
            }
            assert!(text.lines().all(|l| l.len() <= 100), "{text}");
        }
        assert_eq!(explain("httprout").unwrap_err().to_string(), "no kind `httprout`; did you mean `HTTPRoute`?");
        assert_eq!(
            explain("svc.port").unwrap_err().to_string(),
            "Service.spec has no field `port`; did you mean `ports`?"
        );
        assert!(explain("").is_err() && explain("svc.ports.port.x").is_err());
    }

    #[test]
    fn the_reference_has_every_field_with_a_meaning() {
        let page = reference_page();
        for row in page.lines().filter(|l| l.starts_with("| `spec")) {
            let cells: Vec<&str> = row.split(" | ").collect();
            assert!(cells.len() >= 3 && cells[2].trim_matches([' ', '|']).len() > 3, "{row}");
        }
        for part in [
            "| `spec.rules[].matches[].path.value` | text |",
            "| `spec.rules[].from[].identities[]` |",
            "## MeshConfig",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }
}
