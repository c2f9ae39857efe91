//! JSON values as YAML that `leno apply` takes again.

use serde_json::Value;

/// Block style; strings that YAML would read as something else are quoted as in JSON (YAML 1.2 section 1.3).
#[must_use]
pub fn render(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text
}

fn write(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (position, (key, value)) in fields.iter().enumerate() {
                if position > 0 {
                    indent(depth, text);
                }
                text.push_str(&scalar(key));
                text.push(':');
                nested(value, depth, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    indent(depth, text);
                }
                text.push_str("- ");
                write(item, depth + 1, text);
            }
        }
        Value::Object(_) => text.push_str("{}\n"),
        Value::Array(_) => text.push_str("[]\n"),
        Value::String(s) => {
            text.push_str(&scalar(s));
            text.push('\n');
        }
        other => {
            text.push_str(&other.to_string());
            text.push('\n');
        }
    }
}

/// A value behind `key:`.
fn nested(value: &Value, depth: usize, text: &mut String) {
    let block = match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if block {
        text.push('\n');
        // A list stands at its key's own depth, as kubectl prints it.
        let depth = if value.is_array() { depth } else { depth + 1 };
        indent(depth, text);
        write(value, depth, text);
    } else {
        text.push(' ');
        write(value, depth, text);
    }
}

fn indent(depth: usize, text: &mut String) {
    text.extend(std::iter::repeat_n("  ", depth));
}

fn scalar(text: &str) -> String {
    let starts_plain = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || matches!(c, '/' | '_'));
    let plain = starts_plain
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '+' | '*'))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { Value::String(text.to_owned()).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_values_and_ambiguous_strings() {
        let value = serde_json::json!({
            "kind": "Service", "spec": {"ports": [{"port": 80, "name": "yes"}, {"port": 81}], "empty": [], "m": {"a": null}},
            "list": [[1, 2], "1.0", "a: b"]
        });
        let text = render(&value);
        assert_eq!(
            text,
            "kind: Service\nspec:\n  ports:\n  - port: 80\n    name: \"yes\"\n  - port: 81\n  empty: []\n  m:\n    a: null\n\
             list:\n- - 1\n  - 2\n- \"1.0\"\n- \"a: b\"\n"
        );
    }
}
