//! From a record to a line of JSON. Whatever a caller sends, it stays one line, valid JSON, and bounded (BAD_INPUTS 14).

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::AccessRecord;

/// Longest text of a caller's making in a line, in bytes; the rest is cut off and marked.
const MAX_TEXT: usize = 1024;

/// Appends a record as one line, with its line feed. Absent fields are left out.
///
/// Every request may become a line, so nothing here goes through `fmt` that most lines have.
pub fn render(record: &AccessRecord, out: &mut Vec<u8>) {
    let mut line = Line(out);
    line.0.extend_from_slice(b"{\"time\":\"");
    write_time(record.time, line.0);
    line.0.push(b'"');
    line.word("direction", Some(record.direction.as_str()));
    line.word("request_id", Some(record.request_id.digits()));
    line.word("protocol", record.protocol.map(|p| p.as_str()));
    line.word("source", record.source.as_ref().map(|id| id.as_str()));
    line.word("destination", record.destination.as_ref().map(|id| id.as_str()));
    if let Some(service) = &record.service {
        line.open("service");
        escape(service.name.as_str().as_bytes(), line.0);
        line.0.push(b'.');
        escape(service.namespace.as_str().as_bytes(), line.0);
        line.0.push(b'"');
    }
    line.text("route", record.route.as_deref());
    line.text("method", record.method.as_deref());
    line.text("authority", record.authority.as_deref());
    line.text("path", record.path.as_deref());
    line.number("status", record.status.map(u64::from));
    line.number("grpc_status", record.grpc_status.map(u64::from));
    if let Some(reason) = record.reason {
        line.word("reason", Some(reason.as_str()));
        line.word("fault", Some(reason.fault().as_str()));
        line.word("response_flags", Some(reason.envoy_flag()));
    }
    line.number("duration_us", Some(record.duration / 1000));
    line.number("upstream_us", record.upstream.map(|n| n / 1000));
    line.number("connect_us", record.connect.map(|n| n / 1000));
    line.number("bytes_in", Some(record.bytes_in));
    line.number("bytes_out", Some(record.bytes_out));
    line.number("attempts", Some(u64::from(record.attempts)));
    if let Some(endpoint) = record.endpoint {
        line.open("endpoint");
        write_address(endpoint, line.0);
        line.0.push(b'"');
    }
    line.text("policy", record.policy.as_deref());
    line.text("detail", record.detail.as_deref());
    line.0.extend_from_slice(b"}\n");
}

struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    // Copied into every call, where the key's length is known.
    #[inline(always)]
    fn key(&mut self, key: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// A key, and the beginning of a string.
    #[inline(always)]
    fn open(&mut self, key: &str) {
        self.key(key);
        self.0.push(b'"');
    }

    /// A value of our making.
    #[inline(always)]
    fn word(&mut self, key: &str, value: Option<impl AsRef<[u8]>>) {
        let Some(value) = value else { return };
        self.open(key);
        // So that even a closed set that grows stays harmless.
        escape(value.as_ref(), self.0);
        self.0.push(b'"');
    }

    #[inline(always)]
    fn text(&mut self, key: &str, value: Option<impl AsRef<[u8]>>) {
        let Some(value) = value else { return };
        self.open(key);
        self.string(value.as_ref());
    }

    /// The rest of a string, cut off where it becomes too long.
    fn string(&mut self, value: &[u8]) {
        let cut = &value[..value.len().min(MAX_TEXT)];
        escape(cut, self.0);
        if cut.len() < value.len() {
            self.0.extend_from_slice("…".as_bytes());
        }
        self.0.push(b'"');
    }

    #[inline(always)]
    fn number(&mut self, key: &str, value: Option<u64>) {
        let Some(value) = value else { return };
        self.key(key);
        write_number(value, self.0);
    }
}

/// Appends bytes as the inside of a JSON string. Control characters (also C1 and the separators that some viewers take for
/// line ends, and those that turn the direction of text) become `\u` escapes; bytes that are not UTF-8 become the text `\xNN`.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    // Nearly always. Without a way out of the loop, so that many bytes are looked at at once.
    if bytes.iter().fold(true, |all, b| all & is_plain(*b)) {
        out.extend_from_slice(bytes);
        return;
    }
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

/// What stands for itself inside a JSON string.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\')
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

/// In decimal digits.
fn write_number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = digit(number);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

/// As [`SocketAddr`] is shown.
fn write_address(address: SocketAddr, out: &mut Vec<u8>) {
    let SocketAddr::V4(address) = address else {
        write!(Raw(out), "{address}").expect("writing to a Vec cannot fail");
        return;
    };
    for (octet, end) in address.ip().octets().into_iter().zip(*b"...:") {
        write_number(octet.into(), out);
        out.push(end);
    }
    write_number(address.port().into(), out);
}

/// RFC 3339 in UTC with microseconds.
fn write_time(unix_nanos: u64, out: &mut Vec<u8>) {
    let (seconds, micros) = (unix_nanos / 1_000_000_000, unix_nanos / 1000 % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    // Where each number ends, and how many digits it has. 64 bits of nanoseconds end in the year 2554.
    let parts = [
        (4, 4, year),
        (7, 2, month),
        (10, 2, day),
        (13, 2, second / 3600),
        (16, 2, second / 60 % 60),
        (19, 2, second % 60),
        (26, 6, micros),
    ];
    for (end, digits, mut number) in parts {
        for place in text[end - digits..end].iter_mut().rev() {
            *place = digit(number);
            number /= 10;
        }
    }
    out.extend_from_slice(&text);
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
    fn numbers_and_addresses_are_as_they_are_shown() {
        for number in [0, 9, 10, 99, 100, 1_234_567, u64::MAX] {
            let mut out = Vec::new();
            write_number(number, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
        for address in ["0.0.0.0:0", "127.0.0.1:80", "255.10.9.100:65535", "[::1]:8080", "[fe80::1%3]:443"] {
            let mut out = Vec::new();
            write_address(address.parse().unwrap(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), address);
        }
    }

    #[test]
    fn what_is_plain_needs_no_escape() {
        for byte in 0..=0xff_u8 {
            let mut out = Vec::new();
            // Behind a byte that is never plain: the way that looks at each.
            escape(&[b'"', byte], &mut out);
            assert_eq!(is_plain(byte), out == [b'\\', b'"', byte], "{byte:#x}");
        }
    }

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
