//! Tables, ages and diagnostics as text.

use std::io::IsTerminal;

use leno_api::{Diagnostic, Severity};

/// Rows under headings, each column as wide as its widest cell.
#[must_use]
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|h| h.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let headings: Vec<String> = headings.iter().map(|h| (*h).to_owned()).collect();
    for row in std::iter::once(&headings).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 3));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// How long ago an RFC 3339 time was, in its largest unit: `5s`, `3m`, `2h`, `9d`.
#[must_use]
pub fn age(time: &str) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else { return String::from("-") };
    let seconds = jiff::Timestamp::now().as_second() - then.as_second();
    match seconds.max(0) {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7_200 => format!("{}m", s / 60),
        s @ 7_200..172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

/// `source:line:column: error: path: message; did you mean …` for each.
#[must_use]
pub fn diagnostics(source: &str, found: &[Diagnostic]) -> String {
    let colour = std::io::stderr().is_terminal();
    let mut text = String::new();
    for d in found {
        let (word, code) = match d.severity {
            Severity::Error => ("error", "\x1b[1;31m"),
            Severity::Warning => ("warning", "\x1b[1;33m"),
        };
        let word = if colour { format!("{code}{word}\x1b[0m") } else { word.to_owned() };
        let place = if d.line == 0 { source.to_owned() } else { format!("{source}:{}:{}", d.line, d.column) };
        let path = if d.path.is_empty() { String::new() } else { format!("{}: ", d.path) };
        let hint = d.suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default();
        text.push_str(&format!("{place}: {word}: {path}{}{hint}\n", d.message));
    }
    text
}

/// Pretty JSON.
#[must_use]
pub fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = table(&["A", "LONG"], &[vec!["wide cell".into(), "x".into()], vec!["y".into(), String::new()]]);
        assert_eq!(text, "A           LONG\nwide cell   x\ny\n");
    }
}
