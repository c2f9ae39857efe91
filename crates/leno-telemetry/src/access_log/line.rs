//! From a record to a line of JSON. Whatever a caller sends, it stays one line, valid JSON, and bounded (BAD_INPUTS 14).

use std::fmt::{Display, Write as _};

use super::AccessRecord;

/// Longest text of a caller's making in a line, in bytes; the rest is cut off and marked.
const MAX_TEXT: usize = 1024;

/// Appends a record as one line, with its line feed. Absent fields are left out.
pub fn render(record: &AccessRecord, out: &mut Vec<u8>) {
    let mut line = Line(out);
    line.0.extend_from_slice(b"{\"time\":\"");
    write_time(record.time, line.0);
    line.0.push(b'"');
    line.shown("direction", Some(record.direction.as_str()));
    line.shown("request_id", Some(record.request_id));
    line.shown("protocol", record.protocol);
    line.shown("source", record.source.as_ref());
    line.shown("destination", record.destination.as_ref());
    line.shown("service", record.service.as_ref());
    line.text("route", record.route.as_deref().map(str::as_bytes));
    line.text("method", record.method.as_deref());
    line.text("authority", record.authority.as_deref());
    line.text("path", record.path.as_deref());
    line.number("status", record.status.map(u64::from));
    line.number("grpc_status", record.grpc_status.map(u64::from));
    if let Some(reason) = record.reason {
        line.shown("reason", Some(reason));
        line.shown("fault", Some(reason.fault().as_str()));
        line.shown("response_flags", Some(reason.envoy_flag()));
    }
    line.number("duration_us", Some(record.duration / 1000));
    line.number("upstream_us", record.upstream.map(|n| n / 1000));
    line.number("connect_us", record.connect.map(|n| n / 1000));
    line.number("bytes_in", Some(record.bytes_in));
    line.number("bytes_out", Some(record.bytes_out));
    line.number("attempts", Some(u64::from(record.attempts)));
    line.shown("endpoint", record.endpoint);
    line.text("policy", record.policy.as_deref().map(str::as_bytes));
    line.text("detail", record.detail.as_deref().map(str::as_bytes));
    line.0.extend_from_slice(b"}\n");
}

struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    fn key(&mut self, key: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// A value whose text is made by us, from a closed set of characters.
    fn shown(&mut self, key: &str, value: Option<impl Display>) {
        let Some(value) = value else { return };
        self.key(key);
        self.0.push(b'"');
        write!(Text(self.0), "{value}").expect("writing to a Vec cannot fail");
        self.0.push(b'"');
    }

    fn text(&mut self, key: &str, value: Option<&[u8]>) {
        let Some(value) = value else { return };
        self.key(key);
        self.0.push(b'"');
        let cut = &value[..value.len().min(MAX_TEXT)];
        escape(cut, self.0);
        if cut.len() < value.len() {
            self.0.extend_from_slice("…".as_bytes());
        }
        self.0.push(b'"');
    }

    fn number(&mut self, key: &str, value: Option<u64>) {
        let Some(value) = value else { return };
        self.key(key);
        write!(Text(self.0), "{value}").expect("writing to a Vec cannot fail");
    }
}

/// Bridges `fmt` to bytes, escaping on the way, so that even a closed set that grows stays harmless.
struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        escape(text.as_bytes(), self.0);
        Ok(())
    }
}

/// Appends bytes as the inside of a JSON string. Control characters (also C1 and the separators that some viewers take for
/// line ends, and those that turn the direction of text) become `\u` escapes; bytes that are not UTF-8 become the text `\xNN`.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                ' '..='~' => out.push(c as u8),
                _ if hidden(c) => {
                    write!(Raw(out), "\\u{:04x}", c as u32).expect("writing to a Vec cannot fail");
                }
                _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for b in chunk.invalid() {
            write!(Raw(out), "\\\\x{b:02x}").expect("writing to a Vec cannot fail");
        }
    }
}

/// Characters that change how a line looks; all are in the basic plane.
fn hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

struct Raw<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Raw<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// RFC 3339 in UTC with microseconds.
fn write_time(unix_nanos: u64, out: &mut Vec<u8>) {
    let (seconds, micros) = (unix_nanos / 1_000_000_000, unix_nanos / 1000 % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    write!(Raw(out), "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
        .expect("writing to a Vec cannot fail");
}

/// Days since 1970-01-01 to year, month, day (Howard Hinnant, `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (nanos, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_798_761_599_123_456_789, "2026-12-31T23:59:59.123456Z"),
            (4_102_444_800_000_000_000, "2100-01-01T00:00:00.000000Z"),
        ] {
            let mut out = Vec::new();
            write_time(nanos, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
