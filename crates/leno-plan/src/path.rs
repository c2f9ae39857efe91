//! The one normal form of a path (DESIGN section 7, BAD_INPUTS 1).
//!
//! Once, before anything is decided, and sent on in that form, so that policy and application see the same:
//!
//! 1. `\` becomes `/`; an encoded slash, backslash or NUL is refused, as are invalid escapes, control characters, blanks,
//!    `#`, and bytes that are not UTF-8 (overlong forms and surrogates too).
//! 2. Escapes of unreserved characters (RFC 3986 section 2.3) are decoded, the others get upper-case digits; bytes that a
//!    path may not hold raw are escaped.
//! 3. Runs of `/` become one; `.` and `..` segments are resolved, never above the root.
//!
//! The form is idempotent. `%25` stays, so that `%252e` is the text `%2e` and nothing is ever decoded twice.
//!
//! **Parameters** (`;x=y`) belong to their segment and are sent on as they came: `/admin;x` is another path than `/admin`.
//! Because some applications drop them, deny rules also judge the path without them, and a dot segment with parameters
//! (`/..;/`), which only such an application could resolve, is refused.
//!
//! Rules compare the *decoded* form ([`decode`]), in which `%3A` and `:` are the same. Separators cannot appear by that: their
//! escapes were refused.

use std::borrow::Cow;

/// Why a path has no normal form; always answered with 400 `malformed_request`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Neither empty, `*` nor starting with a slash.
    #[error("path does not start with `/`")]
    NotRooted,
    /// `%` without two hexadecimal digits.
    #[error("path has an invalid escape")]
    InvalidEscape,
    /// `%2F`.
    #[error("path has an encoded slash")]
    EncodedSlash,
    /// `%5C`.
    #[error("path has an encoded backslash")]
    EncodedBackslash,
    /// A control character or blank, raw or encoded NUL.
    #[error("path has a control character")]
    Control,
    /// `#`, or `?` which should have been split off.
    #[error("path has a `#` or `?`")]
    Delimiter,
    /// The bytes are not UTF-8.
    #[error("path is not UTF-8")]
    NotUtf8,
    /// `.;x` or `..;x`.
    #[error("path has a dot segment with parameters")]
    DotParameters,
}

/// Brings a path (without query) into normal form; borrowed if it already was. `*` (RFC 9110 section 9.3.7) stays, an empty
/// path is `/`.
pub fn normalise(path: &[u8]) -> Result<Cow<'_, [u8]>, PathError> {
    match path {
        b"" => return Ok(Cow::Borrowed(b"/")),
        b"*" => return Ok(Cow::Borrowed(path)),
        _ if is_plain(path) => return Ok(Cow::Borrowed(path)),
        [b'/' | b'\\', ..] => {}
        _ => return Err(PathError::NotRooted),
    }
    resolve(&recode(path)?).map(Cow::Owned)
}

/// Rooted, without anything that normalising could change: nearly every path.
fn is_plain(path: &[u8]) -> bool {
    let mut previous = b'x';
    path[0] == b'/'
        && path.iter().all(|&b| {
            let fine = match b {
                b'/' | b'.' => previous != b'/',
                _ => is_path_byte(b),
            };
            previous = b;
            fine
        })
}

/// RFC 3986 section 2.3.
fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

/// `pchar` without escapes (RFC 3986 section 3.3).
fn is_path_byte(b: u8) -> bool {
    is_unreserved(b) || b"!$&'()*+,;=:@".contains(&b)
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

fn hex(b: u8) -> Option<u8> {
    (b as char).to_digit(16).map(|d| d as u8)
}

fn escape(out: &mut Vec<u8>, b: u8) {
    out.extend_from_slice(&[b'%', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
}

/// Rules 1 and 2: one spelling of every character.
fn recode(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(path.len() + 8);
    // What the text means, to see that it is UTF-8 as a whole: raw and escaped bytes may be mixed.
    let mut meaning = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [b, tail @ ..] = rest {
        rest = tail;
        match *b {
            b'\\' | b'/' => {
                out.push(b'/');
                meaning.push(b'/');
            }
            b'%' => {
                let [high, low, tail @ ..] = rest else { return Err(PathError::InvalidEscape) };
                let (Some(high), Some(low)) = (hex(*high), hex(*low)) else { return Err(PathError::InvalidEscape) };
                rest = tail;
                let value = high << 4 | low;
                match value {
                    b'/' => return Err(PathError::EncodedSlash),
                    b'\\' => return Err(PathError::EncodedBackslash),
                    0 => return Err(PathError::Control),
                    _ if is_unreserved(value) => out.push(value),
                    _ => escape(&mut out, value),
                }
                meaning.push(value);
            }
            b'#' | b'?' => return Err(PathError::Delimiter),
            0..=b' ' | 0x7f => return Err(PathError::Control),
            b => {
                if is_path_byte(b) {
                    out.push(b);
                } else {
                    escape(&mut out, b);
                }
                meaning.push(b);
            }
        }
    }
    std::str::from_utf8(&meaning).map_err(|_| PathError::NotUtf8)?;
    Ok(out)
}

/// Rule 3, on a recoded path.
fn resolve(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(path.len());
    // Whether the path ends in `/`: so it does after an empty or dot segment in the last place (RFC 3986 section 5.2.4).
    let mut open = true;
    for segment in path.split(|&b| b == b'/') {
        open = true;
        match segment {
            b"" | b"." => {}
            b".." => {
                let parent = out.iter().rposition(|&b| b == b'/').unwrap_or(0);
                out.truncate(parent);
            }
            _ if dots_with_parameters(segment) => return Err(PathError::DotParameters),
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
                open = false;
            }
        }
    }
    if open {
        out.push(b'/');
    }
    Ok(out)
}

/// `.;x` or `..;x`, also with the semicolon escaped.
fn dots_with_parameters(segment: &[u8]) -> bool {
    let rest = segment.strip_prefix(b"..").or_else(|| segment.strip_prefix(b"."));
    rest.is_some_and(|r| r.starts_with(b";") || r.starts_with(b"%3B"))
}

/// What a path in normal form means: each escape decoded once. Borrowed if there is none.
#[must_use]
pub fn decode(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.contains(&b'%') {
        return Cow::Borrowed(path);
    }
    decode_escapes(path, false)
}

/// A query name or value: escapes and `+` decoded once; invalid escapes stay as they are (WHATWG URL section 5.1).
#[must_use]
pub fn decode_form(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|&b| b == b'%' || b == b'+') {
        return Cow::Borrowed(text);
    }
    decode_escapes(text, true)
}

fn decode_escapes(text: &[u8], plus: bool) -> Cow<'static, [u8]> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [b, tail @ ..] = rest {
        rest = tail;
        let escaped = match (b, tail) {
            (b'%', [high, low, after @ ..]) => hex(*high).zip(hex(*low)).map(|(h, l)| (h << 4 | l, after)),
            _ => None,
        };
        match escaped {
            Some((value, after)) => {
                out.push(value);
                rest = after;
            }
            None => out.push(if plus && *b == b'+' { b' ' } else { *b }),
        }
    }
    Cow::Owned(out)
}

/// A decoded path without the parameters of its segments, as applications that drop them see it; `None` if it has none.
#[must_use]
pub fn without_parameters(decoded: &[u8]) -> Option<Vec<u8>> {
    if !decoded.contains(&b';') {
        return None;
    }
    let mut out = Vec::with_capacity(decoded.len());
    for segment in decoded.split(|&b| b == b'/') {
        let name = segment.split(|&b| b == b';').next().unwrap_or_default();
        if !name.is_empty() {
            out.push(b'/');
            out.extend_from_slice(name);
        }
    }
    if out.is_empty() || decoded.ends_with(b"/") {
        out.push(b'/');
    }
    Some(out)
}

/// What follows the first `count` elements of a path in normal form: empty or starting with `/`.
#[must_use]
pub fn after_elements(path: &[u8], count: usize) -> &[u8] {
    let mut slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    match slashes.nth(count) {
        Some(at) => &path[at..],
        None => b"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(path: &str) -> Result<String, PathError> {
        normalise(path.as_bytes()).map(|p| String::from_utf8(p.into_owned()).unwrap())
    }

    #[test]
    fn path_tricks_have_one_form() {
        for (path, expected) in [
            ("", "/"),
            ("*", "*"),
            ("/", "/"),
            ("/admin", "/admin"),
            ("//admin", "/admin"),
            ("///", "/"),
            ("/a//b///c", "/a/b/c"),
            ("/a/../admin", "/admin"),
            ("/a/./admin", "/a/admin"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/..", "/"),
            ("/../../admin", "/admin"),
            ("/a/../../../admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/%2e%2e/admin", "/admin"),
            ("/a/%2E%2e/admin", "/admin"),
            ("/a/.%2e/admin", "/admin"),
            ("/a\\..\\admin", "/admin"),
            ("\\admin", "/admin"),
            ("/admin\\", "/admin/"),
            ("/%7Euser", "/~user"),
            ("/%3aport", "/%3Aport"),
            ("/a%20b", "/a%20b"),
            ("/a%25b", "/a%25b"),
            ("/%252e%252e/admin", "/%252e%252e/admin"),
            ("/%25%32%65", "/%252e"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a|b\"c", "/a%7Cb%22c"),
            ("/{id}", "/%7Bid%7D"),
            ("/admin;x=1", "/admin;x=1"),
            ("/a;x=1/b;y", "/a;x=1/b;y"),
            ("/;x/admin", "/;x/admin"),
            ("/...", "/..."),
            ("/.hidden", "/.hidden"),
            ("/a..b/c.", "/a..b/c."),
            ("/a/...;x", "/a/...;x"),
        ] {
            assert_eq!(normal(path).as_deref(), Ok(expected), "{path:?}");
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        for (path, expected) in [
            (&b"admin"[..], PathError::NotRooted),
            (b"http://web/admin", PathError::NotRooted),
            (b"*x", PathError::NotRooted),
            (b"%2fadmin", PathError::NotRooted),
            (b"/admin%2f", PathError::EncodedSlash),
            (b"/admin%2Fx", PathError::EncodedSlash),
            (b"/a%5c..%5cadmin", PathError::EncodedBackslash),
            (b"/%00", PathError::Control),
            (b"/a\0", PathError::Control),
            (b"/a b", PathError::Control),
            (b"/a\tb", PathError::Control),
            (b"/a\r\nb", PathError::Control),
            (b"/a\x7f", PathError::Control),
            (b"/a#b", PathError::Delimiter),
            (b"/admin?", PathError::Delimiter),
            (b"/%", PathError::InvalidEscape),
            (b"/%2", PathError::InvalidEscape),
            (b"/%zz", PathError::InvalidEscape),
            (b"/%u002f", PathError::InvalidEscape),
            (b"/%+1", PathError::InvalidEscape),
            (b"/.;/admin", PathError::DotParameters),
            (b"/a/..;/admin", PathError::DotParameters),
            (b"/a/..;x=1/admin", PathError::DotParameters),
            (b"/a/%2e%2e;/admin", PathError::DotParameters),
            (b"/a/..%3b/admin", PathError::DotParameters),
            // Overlong `/`, `.`, NUL; a surrogate; a lone byte; a truncated sequence.
            (b"/%c0%af", PathError::NotUtf8),
            (b"/%c0%ae%c0%ae/admin", PathError::NotUtf8),
            (b"/%e0%80%af", PathError::NotUtf8),
            (b"/%c0%80", PathError::NotUtf8),
            (b"/%ed%a0%80", PathError::NotUtf8),
            (b"/\xff", PathError::NotUtf8),
            (b"/caf%e9", PathError::NotUtf8),
            (b"/\xc3%2e", PathError::NotUtf8),
        ] {
            assert_eq!(normalise(path), Err(expected), "{}", path.escape_ascii());
        }
    }

    #[test]
    fn plain_paths_are_borrowed_and_large_ones_are_fine() {
        assert!(matches!(normalise(b"/api/v1/users/42:read"), Ok(Cow::Borrowed(_))));
        let large = format!("/{}", "a/../".repeat(13_000));
        assert_eq!(normal(&large).as_deref(), Ok("/"));
    }

    #[test]
    fn parameters_and_elements() {
        for (path, expected) in [
            ("/admin;x", Some("/admin")),
            ("/a;x/b;y/", Some("/a/b/")),
            ("/;x/admin", Some("/admin")),
            ("/;x", Some("/")),
            ("/a/;x/;y/b", Some("/a/b")),
            ("/a", None),
        ] {
            assert_eq!(without_parameters(path.as_bytes()).as_deref(), expected.map(str::as_bytes), "{path}");
        }
        for (path, count, expected) in
            [("/a/b", 0, "/a/b"), ("/a/b", 1, "/b"), ("/a/b", 2, ""), ("/a/b/", 2, "/"), ("/a", 5, ""), ("/", 0, "/")]
        {
            assert_eq!(after_elements(path.as_bytes(), count), expected.as_bytes(), "{path} {count}");
        }
        assert_eq!(&*decode_form(b"a+b%2Bc%zz%4"), b"a b+c%zz%4");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn normalising_is_idempotent_and_leaves_no_trick(path in "[/\\\\]([a.%;:/\\\\]|%2e|%2E|%61|%3a|%25|%3b|é){0,24}") {
            if let Ok(first) = normalise(path.as_bytes()) {
                let second = normalise(&first).expect("a normal form is accepted again");
                prop_assert_eq!(&first, &second);
                let text = std::str::from_utf8(&first).unwrap();
                prop_assert!(text.is_ascii() && text.starts_with('/') && !text.contains("//") && !text.contains('\\'));
                prop_assert!(!text.split('/').any(|s| s == "." || s == ".."));
                let meaning = decode(&first);
                prop_assert!(std::str::from_utf8(&meaning).is_ok() && !meaning.contains(&b'\\'));
                // Decoding for comparison makes no new segments.
                let slashes = |p: &[u8]| p.iter().filter(|&&b| b == b'/').count();
                prop_assert_eq!(slashes(&meaning), slashes(&first));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(path in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = normalise(&path).map(|p| without_parameters(&decode(&p)));
        }
    }
}
