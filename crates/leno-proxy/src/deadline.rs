//! When a request must be over: timeouts of plans, and the deadline that a gRPC caller sent along.

use std::time::Duration;

use leno_http::RequestHead;
use tokio::time::Instant;

/// The deadline in `grpc-timeout` (gRPC over HTTP/2, "Requests"): at most 8 digits and a unit. A malformed one is the
/// application's to judge.
#[must_use]
pub fn of_grpc(head: &RequestHead) -> Option<Instant> {
    if !head.is_grpc() {
        return None;
    }
    parse(head.fields.get("grpc-timeout")?).and_then(|timeout| Instant::now().checked_add(timeout))
}

fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0u64, |sum, d| sum * 10 + u64::from(d - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// What is left as `grpc-timeout`: the largest unit that keeps eight digits and at least a thousandth's precision.
#[must_use]
pub fn to_grpc(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    match (left.as_micros(), left.as_millis()) {
        (micros, _) if micros <= MOST => format!("{micros}u"),
        (_, millis) if millis <= MOST => format!("{millis}m"),
        _ => format!("{}S", left.as_secs().min(99_999_999)),
    }
}

/// Whole seconds, at least one: the table of exchanges counts in seconds.
#[must_use]
pub fn seconds(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_and_written() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("100m", Some(Duration::from_millis(100))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("1H", Some(Duration::from_secs(3600))),
            ("", None),
            ("S", None),
            ("123456789n", None),
            ("-1S", None),
            ("1s", None),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
        for seconds in [0, 1, 99, 100, 90_000, 200_000] {
            let written = to_grpc(Duration::from_secs(seconds));
            assert_eq!(parse(written.as_bytes()), Some(Duration::from_secs(seconds)), "{written}");
        }
    }

    #[test]
    fn idle_timeouts_never_become_none() {
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_millis(1001)), 2);
    }
}
