//! Durations as the Gateway API writes them (GEP-2257): `250ms`, `10s`, `1h30m`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The `format` by which the schema walker recognises a [`TimeSpan`].
pub const FORMAT: &str = "duration-gep2257";

/// A length of time, written as one to four of `<number><h|m|s|ms>` in a row. `0s` means "no limit" where a field says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TimeSpan(pub Duration);

/// The text is not a GEP-2257 duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration: use numbers of at most 5 digits with h, m, s or ms, such as 250ms, 10s or 1h30m")]
pub struct TimeSpanError(String);

impl TimeSpan {
    /// As the standard library has it.
    #[must_use]
    pub fn get(self) -> Duration {
        self.0
    }

    /// The duration, or `None` for zero, which the Gateway API reads as "disabled".
    #[must_use]
    pub fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl From<Duration> for TimeSpan {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for TimeSpan {
    type Err = TimeSpanError;

    fn from_str(text: &str) -> Result<Self, TimeSpanError> {
        let bad = || TimeSpanError(text.chars().take(40).collect());
        let mut rest = text;
        let mut total = Duration::ZERO;
        for part in 0.. {
            if rest.is_empty() {
                return if part == 0 { Err(bad()) } else { Ok(Self(total)) };
            }
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if part == 4 || digits == 0 || digits > 5 {
                return Err(bad());
            }
            let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            let (unit, length) = match rest.as_bytes() {
                [b'm', b's', ..] => (Duration::from_millis(number), 2),
                [b'h', ..] => (Duration::from_secs(number * 3600), 1),
                [b'm', ..] => (Duration::from_secs(number * 60), 1),
                [b's', ..] => (Duration::from_secs(number), 1),
                _ => return Err(bad()),
            };
            total += unit;
            rest = &rest[length..];
        }
        Err(bad())
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let parts = [
            (seconds / 3600, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
            (self.0.subsec_millis().into(), "ms"),
        ];
        if parts.iter().all(|p| p.0 == 0) {
            return f.write_str("0s");
        }
        parts.iter().filter(|p| p.0 > 0).try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

impl Serialize for TimeSpan {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for TimeSpan {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": FORMAT })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        for (text, milliseconds, canonical) in [
            ("0s", 0, "0s"),
            ("250ms", 250, "250ms"),
            ("10s", 10_000, "10s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("1500ms", 1500, "1s500ms"),
            ("90m", 5_400_000, "1h30m"),
            ("99999h", 359_996_400_000, "99999h"),
        ] {
            let span: TimeSpan = text.parse().unwrap();
            assert_eq!(span.get().as_millis(), milliseconds, "{text}");
            assert_eq!(span.to_string(), canonical);
        }
        for bad in ["", "5", "s", "1.5s", "-1s", "123456s", "1s1s1s1s1s", "1d", "1 s", "١s", "1ms2µs"] {
            assert!(bad.parse::<TimeSpan>().is_err(), "{bad:?}");
        }
    }
}
