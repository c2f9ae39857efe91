//! Small judgements on single texts: header names, paths, hosts, regular expressions.

use regex_automata::meta::Regex;
use regex_automata::util::syntax;

/// Longest regular expression in bytes (Gateway API permits 4096 for header values).
pub const MAX_REGEX: usize = 4096;
/// Bytes of the compiled form: ordinary ones need a few KB, `(a{999}){999}` must fail.
pub const MAX_REGEX_COMPILED: usize = 256 * 1024;
/// Groups in groups.
const MAX_REGEX_NESTING: u32 = 32;

/// Why a regular expression is refused; the same limits hold in the data plane.
pub fn regex(pattern: &str) -> Result<(), String> {
    if pattern.len() > MAX_REGEX {
        return Err(format!("a regular expression of {} bytes is longer than {MAX_REGEX}", pattern.len()));
    }
    if pattern.is_empty() {
        return Err("an empty regular expression matches only the empty text".to_owned());
    }
    let config = Regex::config()
        .utf8_empty(false)
        .nfa_size_limit(Some(MAX_REGEX_COMPILED))
        .onepass_size_limit(Some(MAX_REGEX_COMPILED));
    // The data plane asks for the whole text. Alone first: `a)|(b` must not become valid by being wrapped.
    for text in [pattern.to_owned(), format!(r"\A(?:{pattern})\z")] {
        let built = Regex::builder()
            .configure(config.clone())
            .syntax(syntax::Config::new().unicode(false).utf8(false).nest_limit(MAX_REGEX_NESTING))
            .build(&text);
        if let Err(error) = built {
            if error.size_limit().is_some() {
                return Err(format!("the regular expression compiles to more than {} KiB", MAX_REGEX_COMPILED / 1024));
            }
            let message = error.syntax_error().map_or_else(|| error.to_string(), ToString::to_string);
            // The parser draws the pattern over several lines; the last one is the message.
            let last = message.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
            return Err(format!("not a regular expression: {last}"));
        }
    }
    Ok(())
}

/// Whether a text is a token (RFC 9110 section 5.6.2): header names and methods.
#[must_use]
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether a text can be a header value (RFC 9110 section 5.5, without obs-text).
#[must_use]
pub fn is_header_value(text: &str) -> bool {
    let fine = |b: u8| b == b'\t' || (b' '..=b'~').contains(&b);
    text.bytes().all(fine) && text.trim_matches([' ', '\t']) == text
}

/// Whether a header belongs to the proxy (framing, routing, one connection), so that no filter may touch it.
#[must_use]
pub fn is_owned_header(name: &str) -> bool {
    const OWNED: [&str; 11] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "leno-reason",
    ];
    OWNED.iter().any(|o| o.eq_ignore_ascii_case(name))
}

/// Why a text is not an absolute path in normal form (Gateway API `HTTPPathMatch.value`).
pub fn path(text: &str) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("`{}` {why}", crate::yaml::clip(text)));
    if !text.starts_with('/') {
        return refuse("does not start with `/`");
    }
    if text.len() > 1024 {
        return refuse("is longer than 1024 bytes");
    }
    if text.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'\\') {
        return refuse("has a space, control character or backslash, which no normalised path has");
    }
    let lower = text.to_ascii_lowercase();
    for (part, why) in
        [("//", "an empty segment"), ("%2f", "an encoded slash"), ("%5c", "an encoded backslash"), ("%00", "a NUL")]
    {
        if lower.contains(part) {
            return refuse(&format!("has {why}, which no normalised path has"));
        }
    }
    if text.split('/').any(|s| s == "." || s == "..") {
        return refuse("has a `.` or `..` segment, which no normalised path has");
    }
    if text.contains(['?', '#']) {
        return refuse("has a `?` or `#`: queries and fragments are not part of a path");
    }
    Ok(())
}

/// Whether a text is a host name: labels of letters, digits and inner `-`, joined by dots; at most 253 bytes.
#[must_use]
pub fn is_host(text: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regexes_are_capped() {
        assert!(regex("/v[0-9]+/.*").is_ok());
        for bad in ["", "(", "a)|(b", r"(a)\1", "(?=a)", "(?:a{900}){900}", &"a".repeat(5000), &"(".repeat(2000)] {
            let message = regex(bad).unwrap_err();
            assert!(!message.is_empty() && message.len() < 200 && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn paths_are_normal() {
        for good in ["/", "/a/b", "/a.b", "/a;x=1", "/%20", "/..a"] {
            assert_eq!(path(good), Ok(()), "{good}");
        }
        for bad in ["", "a", "//a", "/a/../b", "/.", "/a%2Fb", "/a%5cb", "/a\\b", "/a b", "/a?b", "/a#b", "/\0"] {
            assert!(path(bad).is_err(), "{bad:?}");
        }
    }
}
