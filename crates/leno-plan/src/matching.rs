//! How texts are matched: literals, size-capped linear-time regexes, header and query conditions.
//!
//! Names never become regexes (BAD_INPUTS 4): a [`Literal`] knows `*` only at one end, and every other character is itself.

use std::fmt;

use regex_automata::meta::Regex;
use regex_automata::util::syntax;

use crate::path;
use crate::request::RequestView;

/// Longest regex in bytes; Gateway API allows 4096 for header values and 1024 for paths.
pub const MAX_PATTERN: usize = 4096;
/// Bytes of compiled automaton per regex: ordinary patterns need a few KB, `(a{999}){999}` must fail.
pub const MAX_AUTOMATON: usize = 256 * 1024;
/// Groups inside groups: deeper ones are attacks on the parser's stack.
const MAX_NESTING: u32 = 32;
/// Lazily built DFA states per regex and thread; beyond it the engine falls back, still linear.
const DFA_CACHE: usize = 128 * 1024;

/// Why a regex is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Over [`MAX_PATTERN`].
    #[error("a regular expression of {0} bytes is longer than 4096")]
    TooLong(usize),
    /// The compiled form is over [`MAX_AUTOMATON`].
    #[error("regular expression `{0}` compiles to more than 256 KiB")]
    TooLarge(String),
    /// Not valid in RE2 syntax.
    #[error("regular expression `{pattern}` is not valid: {message}")]
    Malformed {
        /// The pattern, shortened.
        pattern: String,
        /// What the parser said.
        message: String,
    },
}

/// A regex in RE2 syntax that must match the whole text, byte-wise, in linear time. Equal when the source text is.
#[derive(Clone)]
pub struct Pattern {
    source: Box<str>,
    regex: Regex,
}

impl Pattern {
    /// Compiles within the limits above.
    pub fn new(source: &str) -> Result<Self, PatternError> {
        if source.len() > MAX_PATTERN {
            return Err(PatternError::TooLong(source.len()));
        }
        // Alone first: `a)|(b` must not become valid by being wrapped.
        compile(source, source)?;
        let regex = compile(&format!(r"\A(?:{source})\z"), source)?;
        Ok(Self { source: source.into(), regex })
    }

    /// Whether the whole text matches.
    #[must_use]
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }

    /// The source text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

fn compile(pattern: &str, shown: &str) -> Result<Regex, PatternError> {
    let short = || shown.chars().take(80).collect::<String>();
    let config = Regex::config()
        .utf8_empty(false)
        .nfa_size_limit(Some(MAX_AUTOMATON))
        .onepass_size_limit(Some(MAX_AUTOMATON))
        .hybrid_cache_capacity(DFA_CACHE);
    Regex::builder()
        .configure(config)
        .syntax(syntax::Config::new().unicode(false).utf8(false).nest_limit(MAX_NESTING))
        .build(pattern)
        .map_err(|error| match error.size_limit() {
            Some(_) => PatternError::TooLarge(short()),
            None => PatternError::Malformed {
                pattern: short(),
                message: error.syntax_error().map_or_else(|| error.to_string(), |e| last_line(&e.to_string())),
            },
        })
}

/// The parser draws the pattern over several lines; its last one is the message.
fn last_line(message: &str) -> String {
    message.lines().last().unwrap_or(message).trim().trim_start_matches("error: ").to_owned()
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

/// A name, literally, or with `*` at one end. No other character is special.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Literal {
    /// `*`: any text that is not empty.
    Any,
    /// The text itself.
    Exact(Box<str>),
    /// `text*`.
    Prefix(Box<str>),
    /// `*text`.
    Suffix(Box<str>),
}

impl Literal {
    /// Reads `*`, `text`, `text*` or `*text`; `None` for a `*` anywhere else, which would otherwise match nothing silently.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let literal = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            _ if text == "*" => Self::Any,
            (Some(rest), None) => Self::Suffix(rest.into()),
            (None, Some(rest)) => Self::Prefix(rest.into()),
            (None, None) => Self::Exact(text.into()),
            (Some(_), Some(_)) => return None,
        };
        let inner = match &literal {
            Self::Any => "",
            Self::Exact(t) | Self::Prefix(t) | Self::Suffix(t) => t,
        };
        (!inner.contains('*') && !text.is_empty()).then_some(literal)
    }

    /// Whether `text` matches.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        match self {
            Self::Any => !text.is_empty(),
            Self::Exact(t) => text == &**t,
            Self::Prefix(t) => text.starts_with(&**t),
            Self::Suffix(t) => text.ends_with(&**t),
        }
    }
}

/// A condition on one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextMatch {
    /// The same bytes.
    Exact(Box<str>),
    /// A regex over the whole value.
    Regex(Pattern),
}

impl TextMatch {
    /// Whether `value` matches.
    #[must_use]
    pub fn is_match(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::Regex(pattern) => pattern.is_match(value),
        }
    }
}

/// A condition on a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower-case.
    pub name: Box<str>,
    /// On its values; `None` asks only that it is there.
    pub value: Option<TextMatch>,
}

impl HeaderMatch {
    /// Every line of the header matches, and there is one. This is what routes and allow rules ask: a second line with
    /// another value must not be let through by the first (BAD_INPUTS 3).
    #[must_use]
    pub fn every_value(&self, request: &RequestView<'_>) -> bool {
        let (mut any, mut all) = (false, true);
        request.headers.each(&self.name, &mut |line| {
            any = true;
            all &= self.value.as_ref().is_none_or(|m| m.is_match(trim(line)));
        });
        any && all
    }

    /// Some line, or some member of a comma-separated line, matches. This is what deny rules ask: nothing may hide behind
    /// a repetition or a list.
    #[must_use]
    pub fn some_value(&self, request: &RequestView<'_>) -> bool {
        let mut found = false;
        request.headers.each(&self.name, &mut |line| {
            found |= self.value.as_ref().is_none_or(|m| {
                m.is_match(trim(line)) || line.split(|&b| b == b',').any(|part| m.is_match(trim(part)))
            });
        });
        found
    }
}

/// Without optional white space at both ends (RFC 9110 section 5.5).
fn trim(value: &[u8]) -> &[u8] {
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !blank(b)).map_or(start, |at| at + 1);
    &value[start..end]
}

/// A condition on a query parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryMatch {
    /// The parameter's name, decoded.
    pub name: Box<str>,
    /// On its values, decoded.
    pub value: TextMatch,
}

impl QueryMatch {
    /// Every occurrence matches, and there is one. A repeated parameter is ambiguous to applications (some take the first,
    /// some the last), so that no single occurrence may decide.
    #[must_use]
    pub fn every_value(&self, query: Option<&[u8]>) -> bool {
        let (mut any, mut all) = (false, true);
        for pair in query.unwrap_or_default().split(|&b| b == b'&') {
            let (name, value) = match pair.iter().position(|&b| b == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &pair[pair.len()..]),
            };
            if *path::decode_form(name) == *self.name.as_bytes() {
                any = true;
                all &= self.value.is_match(&path::decode_form(value));
            }
        }
        any && all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::HeaderSource;

    #[test]
    fn patterns_match_whole_texts_and_are_capped() {
        let p = Pattern::new("a|ab").unwrap();
        assert!(p.is_match(b"a") && p.is_match(b"ab") && !p.is_match(b"abc") && !p.is_match(b"xa"));
        assert!(Pattern::new("/v[0-9]+/.*").unwrap().is_match(b"/v12/x"));
        assert!(Pattern::new(r"\w+\d").unwrap().is_match(b"abc1"));
        // The end of the text, not the end of a line.
        assert!(!Pattern::new("a").unwrap().is_match(b"a\n") && !Pattern::new("(?m)a$").unwrap().is_match(b"a\nb"));
        for bad in ["(", "a)|(b", "a)(?:b", "[", "(?P<x", r"\1", "a**b{2,1}"] {
            assert!(matches!(Pattern::new(bad), Err(PatternError::Malformed { .. })), "{bad}");
        }
        assert!(matches!(Pattern::new("(?:a{900}){900}"), Err(PatternError::TooLarge(_))));
        assert!(matches!(Pattern::new(&"a".repeat(5000)), Err(PatternError::TooLong(5000))));
        assert!(Pattern::new(&"(".repeat(2000)).is_err());
        let message = Pattern::new("(").unwrap_err().to_string();
        assert_eq!(message, "regular expression `(` is not valid: unclosed group");
    }

    #[test]
    fn hostile_regexes_stay_linear() {
        let p = Pattern::new("(a+)+b").unwrap();
        assert!(!p.is_match(&[b'a'; 50_000]));
    }

    #[test]
    fn literals_have_no_special_characters() {
        for (literal, text, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "axb", false),
            ("*.c", "x.c", true),
            ("*.c", "xxc", false),
            ("a*", "abc", true),
            ("a*", "ba", false),
            ("*", "x", true),
            ("*", "", false),
            ("a+", "aa", false),
            ("[a]", "a", false),
            ("a|b", "a", false),
        ] {
            assert_eq!(Literal::parse(literal).unwrap().is_match(text), expected, "{literal} on {text}");
        }
        for bad in ["", "a*b", "*a*", "**", "a**"] {
            assert_eq!(Literal::parse(bad), None, "{bad}");
        }
    }

    fn view<'a>(headers: &'a dyn HeaderSource) -> RequestView<'a> {
        RequestView { method: b"GET", path: b"/", query: None, authority: b"web", headers }
    }

    #[test]
    fn every_header_value_is_judged() {
        let exact = HeaderMatch { name: "x-role".into(), value: Some(TextMatch::Exact("admin".into())) };
        // values, every, some
        type Lines<'a> = &'a [(&'a str, &'a str)];
        let table: &[(Lines<'_>, bool, bool)] = &[
            (&[], false, false),
            (&[("X-Role", "admin")], true, true),
            (&[("x-role", " admin\t")], true, true),
            (&[("x-role", "admin"), ("x-role", "user")], false, true),
            (&[("x-role", "user"), ("x-role", "admin")], false, true),
            (&[("x-role", ""), ("x-role", "admin")], false, true),
            (&[("x-role", "user,admin")], false, true),
            (&[("x-role", "user, admin ,x")], false, true),
            (&[("x-role", "administrator")], false, false),
            (&[("x-other", "admin")], false, false),
        ];
        for (headers, every, some) in table {
            let v = view(headers);
            assert_eq!((exact.every_value(&v), exact.some_value(&v)), (*every, *some), "{headers:?}");
        }
        let present = HeaderMatch { name: "x-role".into(), value: None };
        let headers: &[(&str, &str)] = &[("x-role", "")];
        assert!(present.every_value(&view(&headers)) && !present.every_value(&view(&crate::request::NoHeaders)));
    }

    #[test]
    fn query_parameters_are_decoded_and_all_judged() {
        let m = QueryMatch { name: "v".into(), value: TextMatch::Exact("a b".into()) };
        for (query, expected) in [
            (None, false),
            (Some("v=a+b"), true),
            (Some("v=a%20b"), true),
            (Some("%76=a%20b"), true),
            (Some("x=1&v=a+b&y"), true),
            (Some("v=a+b&v=c"), false),
            (Some("v=c&v=a+b"), false),
            (Some("v"), false),
            (Some("vv=a+b"), false),
            (Some("v=a%2"), false),
        ] {
            assert_eq!(m.every_value(query.map(str::as_bytes)), expected, "{query:?}");
        }
    }
}
