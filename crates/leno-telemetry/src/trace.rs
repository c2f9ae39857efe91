//! W3C trace context, level 1: parsed strictly, passed on, and the request id made from it.
//!
//! A proxy takes part as one span: it keeps the caller's trace id and flags, and names itself as parent. Who sends nothing
//! valid starts a trace that is not sampled.

use std::fmt::{self, Write as _};

/// Most list members of `tracestate` (section 3.3.1.1).
const MAX_MEMBERS: usize = 32;
/// Longest `tracestate` passed on; at least 512 must be (section 3.3.1.5).
const MAX_TRACESTATE: usize = 512;
/// The flag that the caller may have recorded the trace.
const SAMPLED: u8 = 1;

/// The caller's span, from its `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteSpan {
    /// Names the trace; not zero.
    pub trace_id: [u8; 16],
    /// Names the caller's span; not zero.
    pub span_id: [u8; 8],
    /// Whether the caller may have recorded it.
    pub sampled: bool,
}

impl RemoteSpan {
    /// Parses the `traceparent` lines of a request; anything but one valid line is as none (section 3.2).
    #[must_use]
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut lines = lines.into_iter();
        let line = lines.next()?;
        if lines.next().is_some() {
            return None;
        }
        let (fixed, rest) = line.split_at_checked(55)?;
        let &[version_high, version_low, b'-', ref ids @ ..] = fixed else { return None };
        let version = hex::<1>(&[version_high, version_low])?[0];
        // Version 0 is exactly this long; a later one may go on after a dash (section 3.2.4).
        if version == 0xff || (version == 0 && !rest.is_empty()) || !(rest.is_empty() || rest[0] == b'-') {
            return None;
        }
        if ids[32] != b'-' || ids[49] != b'-' {
            return None;
        }
        let trace_id = hex::<16>(&ids[..32])?;
        let span_id = hex::<8>(&ids[33..49])?;
        let [flags] = hex::<1>(&ids[50..52])?;
        let valid = trace_id != [0; 16] && span_id != [0; 8];
        valid.then_some(Self { trace_id, span_id, sampled: flags & SAMPLED != 0 })
    }
}

/// The value of each lower-case hexadecimal digit (section 3.2.1), else [`NO_DIGIT`].
static DIGIT_VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};
/// Has bits that no digit has.
const NO_DIGIT: u8 = 0xf0;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    let pairs: &[[u8; 2]; N] = pairs.try_into().ok()?;
    // Errors are gathered, so that there is no branch for each digit.
    let (mut out, mut wrong) = ([0; N], 0);
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        let (high, low) = (DIGIT_VALUES[usize::from(*high)], DIGIT_VALUES[usize::from(*low)]);
        wrong |= high | low;
        *byte = high << 4 | low;
    }
    (wrong & NO_DIGIT == 0).then_some(out)
}

/// The two digits of each byte.
static PAIRS: [[u8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

/// The proxy's own span of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Names the trace, and the request in logs.
    pub trace_id: [u8; 16],
    /// Names this span.
    pub span_id: [u8; 8],
    /// The caller's span.
    pub parent: Option<[u8; 8]>,
    /// As the caller said.
    pub sampled: bool,
}

/// 32 lower-case hexadecimal digits: the request id that `leno why` takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId(pub [u8; 16]);

impl RequestId {
    /// Its digits, as ASCII.
    #[must_use]
    pub fn digits(&self) -> [u8; 32] {
        let mut digits = [0; 32];
        for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(self.0) {
            *pair = PAIRS[usize::from(byte)];
        }
        digits
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digits().iter().try_for_each(|digit| f.write_char(char::from(*digit)))
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Span {
    /// A span below the caller's, or the first of a new trace. What `random` gives is uniform; it makes the span id and, where
    /// there is none, the trace id.
    #[must_use]
    pub fn child_of(remote: Option<&RemoteSpan>, mut random: impl FnMut() -> u64) -> Self {
        // Zero means absent, so it is never used.
        let span_id = random().max(1).to_be_bytes();
        match remote {
            Some(remote) => {
                let parent = Some(remote.span_id);
                Self { trace_id: remote.trace_id, span_id, parent, sampled: remote.sampled }
            }
            None => {
                let trace_id = (u128::from(random()) << 64 | u128::from(random())).max(1).to_be_bytes();
                Self { trace_id, span_id, parent: None, sampled: false }
            }
        }
    }

    /// A span for a retry or the like: same parent, own id.
    #[must_use]
    pub fn sibling(&self, random: u64) -> Self {
        Self { span_id: random.max(1).to_be_bytes(), ..*self }
    }

    /// The request's id.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        RequestId(self.trace_id)
    }

    /// The value of `traceparent` to send on.
    #[must_use]
    pub fn traceparent(&self) -> [u8; 55] {
        let mut out = [b'-'; 55];
        let mut put = |at: usize, bytes: &[u8]| {
            for (pair, byte) in out[at..].as_chunks_mut().0.iter_mut().zip(bytes) {
                *pair = PAIRS[usize::from(*byte)];
            }
        };
        put(0, &[0]);
        put(3, &self.trace_id);
        put(36, &self.span_id);
        put(53, &[u8::from(self.sampled)]);
        out
    }
}

/// Whether the `tracestate` lines may be passed on as they are; otherwise all are dropped, which is what the recommendation
/// asks for (section 3.3.1). Without a valid `traceparent` they are dropped too.
#[must_use]
pub fn tracestate_is_fine<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let (mut members, mut length) = (0, 0);
    for line in lines {
        length += line.len() + 1;
        for member in line.split(|&b| b == b',') {
            let member = trim(member);
            // Empty members are allowed (section 3.3.1.1).
            if member.is_empty() {
                continue;
            }
            members += 1;
            let Some(at) = member.iter().position(|&b| b == b'=') else { return false };
            if !key_is_fine(&member[..at]) || !value_is_fine(&member[at + 1..]) {
                return false;
            }
        }
    }
    members <= MAX_MEMBERS && length <= MAX_TRACESTATE + 1
}

fn trim(value: &[u8]) -> &[u8] {
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !blank(b)).map_or(start, |at| at + 1);
    &value[start..end]
}

/// `key` or `tenant@system` (section 3.3.1.3.1).
fn key_is_fine(key: &[u8]) -> bool {
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/".contains(b);
    let part = |text: &[u8], longest: usize, digit_first: bool| {
        (1..=longest).contains(&text.len())
            && (text[0].is_ascii_lowercase() || (digit_first && text[0].is_ascii_digit()))
            && text.iter().all(inner)
    };
    match key.iter().position(|&b| b == b'@') {
        Some(at) => part(&key[..at], 241, true) && part(&key[at + 1..], 14, false),
        None => part(key, 256, false),
    }
}

/// Printable ASCII without `,` and `=` (section 3.3.1.3.2); trailing blanks were trimmed.
fn value_is_fine(value: &[u8]) -> bool {
    (1..=256).contains(&value.len()) && value.iter().all(|b| matches!(b, b' '..=b'~') && !b",=".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parse(lines: &[&str]) -> Option<RemoteSpan> {
        RemoteSpan::parse(lines.iter().map(|l| l.as_bytes()))
    }

    #[test]
    fn valid_parents_are_read() {
        let span = parse(&[GOOD]).unwrap();
        assert_eq!(RequestId(span.trace_id).to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((span.span_id[0], span.span_id[7], span.sampled), (0, 0xb7, true));
        assert!(!parse(&[&GOOD.replace("-01", "-00")]).unwrap().sampled);
        assert!(parse(&[&GOOD.replace("-01", "-ff")]).unwrap().sampled);
        // A later version may have more, after a dash.
        for later in [GOOD.replacen("00", "01", 1), format!("{}-extra", GOOD.replacen("00", "cc", 1))] {
            assert!(parse(&[&later]).is_some(), "{later}");
        }
    }

    #[test]
    fn invalid_parents_are_as_none() {
        let bad = [
            String::new(),
            "00".into(),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            GOOD.replacen("00", "0g", 1),
            format!("{GOOD}-extra"),
            format!("{GOOD} "),
            format!(" {GOOD}"),
            format!("{}.x", GOOD.replacen("00", "01", 1)),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace('-', "_"),
            GOOD.replace("-01", "-0"),
            GOOD.replace("-01", "-xx"),
            "é".repeat(28),
        ];
        for line in bad {
            assert_eq!(parse(&[&line]), None, "{line:?}");
        }
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[GOOD, GOOD]), None);
    }

    #[test]
    fn spans_keep_trace_and_flag() {
        let remote = parse(&[GOOD]).unwrap();
        let span = Span::child_of(Some(&remote), || 0xabc);
        let sent = String::from_utf8(span.traceparent().to_vec()).unwrap();
        assert_eq!(sent, "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000abc-01");
        assert_eq!(span.parent, Some(remote.span_id));
        let fresh = Span::child_of(None, || 0);
        assert!(parse(&[std::str::from_utf8(&fresh.traceparent()).unwrap()]).is_some(), "never zero");
        assert!(!fresh.sampled);
        assert_ne!(span.sibling(7).span_id, span.span_id);
        assert_eq!(span.sibling(7).trace_id, span.trace_id);
    }

    #[test]
    fn tracestate_is_checked() {
        let fine = |lines: &[&str]| tracestate_is_fine(lines.iter().map(|l| l.as_bytes()));
        for good in
            [&["rojo=00f067aa0ba902b7"][..], &["a=1,b=2", "c=3"], &["a=1, ,b=2\t"], &["t1@sys=x y"], &["1t@s=x"], &[""]]
        {
            assert!(fine(good), "{good:?}");
        }
        let many = (0..33).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join(",");
        let long = format!("a={}", "x".repeat(257));
        let total = (0..4).map(|n| format!("k{n}={}", "x".repeat(200))).collect::<Vec<_>>().join(",");
        for bad in
            ["a", "=1", "a=", "A=1", "1a=1", "a=1=2", "a@=1", "@a=1", "a@B=1", "a=\u{7f}", "a=é", &many, &long, &total]
        {
            assert!(!fine(&[bad]), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_sent_is_read_back(random in any::<[u64; 3]>(), sampled in any::<bool>()) {
            let mut words = random.into_iter();
            let span = Span { sampled, ..Span::child_of(None, || words.next().expect("three words make a span")) };
            let back = RemoteSpan::parse([&span.traceparent()[..]]).unwrap();
            prop_assert_eq!((back.trace_id, back.span_id, back.sampled), (span.trace_id, span.span_id, sampled));
        }

        #[test]
        fn arbitrary_bytes_never_panic(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (RemoteSpan::parse([&line[..]]), tracestate_is_fine([&line[..]]));
        }
    }
}
