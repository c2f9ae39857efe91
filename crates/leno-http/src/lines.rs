//! One line of a head, strictly: `name ":" OWS value OWS CRLF`. All text is read here, that of HTTP/1 and that of the hop, so that
//! no two readers can disagree about a line.
//!
//! Sixteen bytes are looked at in one step. A line has some 25 bytes: calling a search function for each of its parts would cost
//! more than the search.

use leno_sys::lanes::{self, LANE};

/// `tchar` of RFC 9110 section 5.6.2.
const TCHAR: [bool; 256] = {
    let mut table = [false; 256];
    let mut at = 0;
    while at < 256 {
        table[at] = matches!(at as u8, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~');
        at += 1;
    }
    table
};

/// Where one field's parts lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    /// Where the name begins.
    pub at: usize,
    pub name_end: usize,
    /// The value without the whitespace around it.
    pub value_at: usize,
    pub value_end: usize,
    /// Past the CRLF.
    pub end: usize,
}

/// Why there is no field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The bytes end before the line does.
    Partial,
    /// The line is empty: the head ends.
    Empty,
    /// The line begins with whitespace.
    Folded,
    NoName,
    NoColon,
    /// Whitespace in the name or behind it.
    Blank,
    /// Another byte that no name has.
    Name,
    /// A control character in the value.
    Value,
    Nul,
    BareLf,
    BareCr,
}

/// Reads the line that begins at `at`. Inlined into the two loops that read heads, so that a line stays in registers.
#[inline(always)]
pub(crate) fn field(bytes: &[u8], at: usize) -> Result<Line, Stop> {
    let (mut name_end, stop) = until(bytes, at, lanes::odd_in_names);
    if stop != b':' {
        name_end = rare_name_end(bytes, name_end);
        if bytes.get(name_end) != Some(&b':') {
            return Err(without_name(bytes, at, name_end));
        }
    }
    if name_end == at {
        return Err(Stop::NoName);
    }
    // Usually one space.
    let mut value_at = name_end + 1;
    if bytes.get(value_at) == Some(&b' ') {
        value_at += 1;
    }
    while bytes.get(value_at).is_some_and(|b| is_blank(*b)) {
        value_at += 1;
    }
    let (mut end, mut stop) = until(bytes, value_at, lanes::controls);
    while stop == b'\t' {
        (end, stop) = until(bytes, end + 1, lanes::controls);
    }
    if stop != b'\r' || bytes.get(end + 1) != Some(&b'\n') {
        return Err(without_end(bytes, end, Stop::Value));
    }
    let mut value_end = end;
    while value_end > value_at && is_blank(bytes[value_end - 1]) {
        value_end -= 1;
    }
    Ok(Line { at, name_end, value_at, value_end, end: end + 2 })
}

/// Whitespace inside a line. Nearly always the first question is enough.
#[inline]
fn is_blank(byte: u8) -> bool {
    byte <= b' ' && (byte == b' ' || byte == b'\t')
}

/// What is wrong where a name or its colon should be.
#[cold]
fn without_name(bytes: &[u8], at: usize, stop: usize) -> Stop {
    match bytes.get(stop) {
        Some(b' ' | b'\t') if stop == at => Stop::Folded,
        Some(b' ' | b'\t') => Stop::Blank,
        Some(b'\r') if stop == at && bytes.get(at + 1) == Some(&b'\n') => Stop::Empty,
        Some(b'\r') if bytes.get(stop + 1) == Some(&b'\n') => Stop::NoColon,
        _ => without_end(bytes, stop, Stop::Name),
    }
}

/// What is wrong where CRLF should be; `other` if it is nothing about the ends of lines.
#[cold]
pub(crate) fn without_end(bytes: &[u8], stop: usize, other: Stop) -> Stop {
    match (bytes.get(stop), bytes.get(stop + 1)) {
        (None, _) | (Some(b'\r'), None) => Stop::Partial,
        (Some(b'\r'), _) => Stop::BareCr,
        (Some(b'\n'), _) => Stop::BareLf,
        (Some(0), _) => Stop::Nul,
        _ => other,
    }
}

/// The first byte at or behind `at` that is not of a token.
pub(crate) fn name_end(bytes: &[u8], at: usize) -> usize {
    rare_name_end(bytes, until(bytes, at, lanes::odd_in_names).0)
}

/// Most names are letters and hyphens; whatever else is a `tchar` is looked up.
fn rare_name_end(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(|b| TCHAR[usize::from(*b)]) {
        at += 1;
    }
    at
}

/// The first control character but tab at or behind `at`.
pub(crate) fn value_end(bytes: &[u8], at: usize) -> usize {
    let (mut end, mut stop) = until(bytes, at, lanes::controls);
    while stop == b'\t' {
        (end, stop) = until(bytes, end + 1, lanes::controls);
    }
    end
}

/// The first byte at or behind `at` that cannot be in a word, that is between spaces; and that byte, or [`END`].
#[inline]
pub(crate) fn word_end(bytes: &[u8], at: usize) -> (usize, u8) {
    until(bytes, at, lanes::blanks)
}

/// Whether `text` is a token (RFC 9110 section 5.6.2), as methods and field names are.
#[must_use]
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && name_end(text, 0) == text.len()
}

/// Whether `text` is a token without capitals, as HTTP/2 has its field names (RFC 9113 section 8.2.1).
pub(crate) fn is_lower_token(text: &[u8]) -> bool {
    let mut at = until(text, 0, lanes::odd_in_lower_names).0;
    while text.get(at).is_some_and(|b| TCHAR[usize::from(*b)] && !b.is_ascii_uppercase()) {
        at += 1;
    }
    !text.is_empty() && at == text.len()
}

/// Whether `text` has no control character but tab (RFC 9110 section 5.5).
#[must_use]
pub fn is_field_value(text: &[u8]) -> bool {
    value_end(text, 0) == text.len()
}

/// Whether `text` can stand between spaces on a line.
pub(crate) fn is_word(text: &[u8]) -> bool {
    word_end(text, 0).0 == text.len()
}

/// Whether `text` can be a request target: a word of UTF-8, as every reader takes it.
pub(crate) fn is_target(text: &[u8]) -> bool {
    !text.is_empty() && is_word(text) && str::from_utf8(text).is_ok()
}

/// Whether `text` is what nearly every target is: a word of ASCII, without a fragment.
pub(crate) fn is_plain_target(text: &[u8]) -> bool {
    !text.is_empty() && until(text, 0, lanes::odd_in_targets).0 == text.len()
}

/// Stands for the byte behind the last one. No class asks for it alone: who finds it looks again.
pub(crate) const END: u8 = 0xff;

/// The first byte at or behind `at` that is in `class`, which zero must be, and what it is; `bytes.len()` and [`END`] without one.
#[inline(always)]
fn until(bytes: &[u8], at: usize, class: impl Fn(&[u8; LANE]) -> u32) -> (usize, u8) {
    let mut rest = &bytes[at..];
    while let Some((lane, behind)) = rest.split_first_chunk() {
        let found = class(lane);
        if found != 0 {
            let place = found.trailing_zeros() as usize % LANE;
            return (bytes.len() - rest.len() + place, lane[place]);
        }
        rest = behind;
    }
    in_last(bytes, rest, class)
}

/// The same of the end of `bytes`, less than a lane.
#[inline(never)]
fn in_last(bytes: &[u8], rest: &[u8], class: impl Fn(&[u8; LANE]) -> u32) -> (usize, u8) {
    // Looked at together with what comes before it, if there is enough. A bit behind the last stands for the end.
    let found = match bytes.last_chunk() {
        Some(lane) => class(lane) >> (LANE - rest.len()) | 1 << rest.len(),
        None => class(&padded(rest)),
    };
    let place = found.trailing_zeros() as usize;
    (bytes.len() - rest.len() + place, rest.get(place).copied().unwrap_or(END))
}

/// Less than a lane, with zeros behind it.
fn padded(short: &[u8]) -> [u8; LANE] {
    let length = short.len();
    // Two halves that overlap, each of a fixed length, instead of one copy of a length that nobody knows.
    let whole = if let (Some(first), Some(last)) = (short.first_chunk(), short.last_chunk()) {
        u128::from(u64::from_le_bytes(*first)) | u128::from(u64::from_le_bytes(*last)) << (8 * (length - 8))
    } else if let (Some(first), Some(last)) = (short.first_chunk(), short.last_chunk()) {
        u128::from(u32::from_le_bytes(*first)) | u128::from(u32::from_le_bytes(*last)) << (8 * (length - 4))
    } else {
        short.iter().rev().fold(0, |whole, byte| whole << 8 | u128::from(*byte))
    };
    whole.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_line_may_be() {
        for (text, expected) in [
            ("a:b\r\n", Ok(("a", "b"))),
            (
                "X-Long-Name-Of_Many.Parts: \t value of\tmany words \t\r\nnext: 1\r\n",
                Ok(("X-Long-Name-Of_Many.Parts", "value of\tmany words")),
            ),
            ("a:\r\n", Ok(("a", ""))),
            ("a: \t \r\n", Ok(("a", ""))),
            ("a:: \r\n", Ok(("a", ":"))),
            ("a:\u{e9}\r\n", Ok(("a", "\u{e9}"))),
            ("", Err(Stop::Partial)),
            ("a", Err(Stop::Partial)),
            ("a:", Err(Stop::Partial)),
            ("a: b", Err(Stop::Partial)),
            ("a: b\r", Err(Stop::Partial)),
            ("\r", Err(Stop::Partial)),
            ("\r\n", Err(Stop::Empty)),
            ("\n", Err(Stop::BareLf)),
            ("a: b\n", Err(Stop::BareLf)),
            ("a\n", Err(Stop::BareLf)),
            ("a: b\rc", Err(Stop::BareCr)),
            ("a\r\r", Err(Stop::BareCr)),
            (" a: b\r\n", Err(Stop::Folded)),
            ("\tb\r\n", Err(Stop::Folded)),
            (": b\r\n", Err(Stop::NoName)),
            ("a\r\n", Err(Stop::NoColon)),
            ("a : b\r\n", Err(Stop::Blank)),
            ("a b: c\r\n", Err(Stop::Blank)),
            ("a\0: b\r\n", Err(Stop::Nul)),
            ("a: \0\r\n", Err(Stop::Nul)),
            ("a(: b\r\n", Err(Stop::Name)),
            ("\u{e9}: b\r\n", Err(Stop::Name)),
            ("a: \x7f\r\n", Err(Stop::Value)),
        ] {
            // Also where less than a lane is left, and where more is.
            for before in ["", "0123456789abcdef0"] {
                for after in ["", "0123456789abcdef0"] {
                    if expected == Err(Stop::Partial) && !after.is_empty() {
                        continue;
                    }
                    let bytes = [before, text, after].concat();
                    let part = |from: usize, to: usize| &bytes[from..to];
                    let found = field(bytes.as_bytes(), before.len())
                        .map(|l| (part(l.at, l.name_end), part(l.value_at, l.value_end)));
                    assert_eq!(found, expected, "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn every_byte_is_classed_as_the_standard_says() {
        for byte in 0..=255_u8 {
            let is_tchar = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            for text in [
                vec![byte],
                vec![byte; 3],
                vec![byte; 16],
                vec![byte; 40],
                [b"abcdefghijklmnopq", &[byte][..]].concat(),
            ] {
                assert_eq!(is_token(&text), is_tchar, "{byte}");
                assert_eq!(is_lower_token(&text), is_tchar && !byte.is_ascii_uppercase(), "{byte}");
                assert_eq!(is_field_value(&text), byte == b'\t' || (byte >= b' ' && byte != 0x7f), "{byte}");
                assert_eq!(is_word(&text), byte > b' ' && byte != 0x7f, "{byte}");
                assert_eq!(is_target(&text), byte.is_ascii_graphic(), "{byte}");
            }
        }
        assert!(is_target("/\u{e9}".as_bytes()) && !is_target(b"/\xff") && !is_target("/ \u{e9}".as_bytes()));
        assert!(!is_target(b"") && !is_token(b"") && !is_lower_token(b"") && is_word(b"") && is_field_value(b""));
    }

    proptest! {
        #[test]
        fn the_first_that_stops_is_found(bytes in prop::collection::vec(prop_oneof![8 => Just(b'a'), 1 => any::<u8>()], 0..70), from in 0_usize..70) {
            let from = from.min(bytes.len());
            let expected = bytes[from..].iter().position(|b| *b <= b' ' || *b == 0x7f).map_or(bytes.len(), |at| from + at);
            let byte = bytes.get(expected).copied().unwrap_or(END);
            prop_assert_eq!(word_end(&bytes, from), (expected, byte));
        }

        #[test]
        fn what_is_short_is_padded(short in prop::collection::vec(any::<u8>(), 0..16)) {
            let mut expected = short.clone();
            expected.resize(16, 0);
            prop_assert_eq!(&padded(&short)[..], &expected[..]);
        }
    }
}
