//! Literal patterns with at most one `*`, first or last. Never a regular expression (BAD_INPUTS 4).

use std::fmt;
use std::str::FromStr;

/// What policies match names, identities and paths with. Every character but the one `*` stands for itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// `*`: any text, also the empty one.
    Any,
    /// `text`: exactly this.
    Exact(String),
    /// `text*`: starts with this.
    Prefix(String),
    /// `*text`: ends with this.
    Suffix(String),
}

/// The pattern has a `*` that is neither its first nor its last character, or two of them, or is empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a pattern: text with at most one `*`, at its start or its end")]
pub struct PatternError(String);

impl Pattern {
    /// Whether `text` is matched, byte for byte.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => text == exact,
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_str()),
        }
    }

    /// The same pattern with `prefix` before its text; fails for patterns that begin with `*`.
    pub fn under(self, prefix: &str) -> Result<Self, PatternError> {
        match self {
            Self::Any => Ok(Self::Prefix(prefix.to_owned())),
            Self::Exact(text) => Ok(Self::Exact(format!("{prefix}{text}"))),
            Self::Prefix(text) => Ok(Self::Prefix(format!("{prefix}{text}"))),
            Self::Suffix(text) => Err(PatternError(format!("{prefix}*{text}"))),
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let plain = |s: &str| !s.is_empty() && !s.contains('*');
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            _ if text == "*" => Ok(Self::Any),
            _ if plain(text) => Ok(Self::Exact(text.to_owned())),
            (Some(suffix), None) if plain(suffix) => Ok(Self::Suffix(suffix.to_owned())),
            (None, Some(prefix)) if plain(prefix) => Ok(Self::Prefix(prefix.to_owned())),
            _ => Err(PatternError(text.chars().take(120).collect())),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_but_the_star_is_literal() {
        for (pattern, text, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "axb", false),
            ("*.c", "b.c", true),
            ("*.c", "bxc", false),
            ("/admin/*", "/admin/x", true),
            ("/admin/*", "/admin", false),
            ("[a-z]+*", "abc", false),
            ("[a-z]+*", "[a-z]+c", true),
            ("*", "", true),
            ("(a)", "a", false),
        ] {
            assert_eq!(pattern.parse::<Pattern>().unwrap().matches(text), expected, "{pattern} {text}");
        }
        for bad in ["", "**", "*a*", "a*b", "a**"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad:?}");
        }
    }
}
