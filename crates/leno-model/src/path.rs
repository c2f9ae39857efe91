//! The place of a field in a resource: `spec.rules[0].matches`.

use std::fmt;

/// A field's place. Cheap enough to extend by value: resources are bounded at depth 64.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldPath(Vec<Step>);

/// One step down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a list.
    Index(usize),
}

impl FieldPath {
    /// The whole document.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// The field `key` of this place.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        Self(steps)
    }

    /// The entry `index` of this place.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Self(steps)
    }

    /// Reads what [`fmt::Display`] writes; a text that it does not write gives the steps up to there.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut path = Self::root();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('[') {
                // A quoted key may have brackets; it ends at a quote that no backslash precedes.
                let end = match inner.strip_prefix('"') {
                    Some(quoted) => quoted.find("\"]").map(|at| at + 2),
                    None => inner.find(']'),
                };
                let Some(end) = end else { break };
                let step = &inner[..end];
                path = match step.parse() {
                    Ok(index) => path.index(index),
                    Err(_) => path.key(step.trim_matches('"')),
                };
                rest = inner[end..].strip_prefix(']').unwrap_or("");
            } else {
                let word = rest.strip_prefix('.').unwrap_or(rest);
                let end = word.find(['.', '[']).unwrap_or(word.len());
                if end == 0 {
                    break;
                }
                path = path.key(&word[..end]);
                rest = &word[end..];
            }
        }
        path
    }

    /// The steps from the top.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '$');
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                // Keys come from documents: cut, and escaped where a dot or control character would mislead.
                Step::Key(key) if !key.is_empty() && key.len() <= 80 && key.chars().all(plain) => {
                    write!(f, "{}{key}", if position == 0 { "" } else { "." })?;
                }
                Step::Key(key) => write!(f, "[{:?}]", key.chars().take(80).collect::<String>())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_like_code() {
        let path = FieldPath::root().key("spec").key("rules").index(0).key("matches");
        assert_eq!(path.to_string(), "spec.rules[0].matches");
        assert_eq!(FieldPath::parse("spec.rules[0].matches"), path);
        let odd = FieldPath::root().key("metadata").key("labels").key("a.b/c").key("x");
        assert_eq!(FieldPath::parse(&odd.to_string()), odd);
        for text in ["", ".", "..", "[", "[1", "[\"", "a[", "a..b", "[]x", "]"] {
            let _ = FieldPath::parse(text);
        }
        assert_eq!(FieldPath::root().key("labels").key("a.b/c\n").to_string(), r#"labels["a.b/c\n"]"#);
    }
}
