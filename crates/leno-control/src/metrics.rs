//! The control plane's metrics, in the Prometheus text format. Labels are from closed sets: routes of a table, kinds, states.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

/// Counters of the REST server; gauges are read when they are asked for.
#[derive(Debug, Default)]
pub struct Metrics {
    /// By operation and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

/// A value read at scrape time.
#[derive(Debug)]
pub struct Gauge {
    /// Name without the `leno_control_` in front.
    pub name: &'static str,
    /// One line.
    pub help: &'static str,
    /// Label and value, or none; values come from closed sets.
    pub values: Vec<(Option<(&'static str, String)>, u64)>,
}

impl Gauge {
    /// A gauge without labels.
    #[must_use]
    pub fn plain(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, values: vec![(None, value)] }
    }
}

impl Metrics {
    /// Counts an answered request.
    pub fn request(&self, operation: &'static str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((operation, status)).or_default() += 1;
    }

    /// Everything as text.
    #[must_use]
    pub fn render(&self, gauges: &[Gauge]) -> String {
        let mut text = String::from(
            "# HELP leno_control_api_requests_total Requests to the REST API.\n# TYPE leno_control_api_requests_total counter\n",
        );
        for ((operation, status), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            line(&mut text, &format!("api_requests_total{{operation=\"{operation}\",status=\"{status}\"}}"), *count);
        }
        for gauge in gauges {
            let kind = if gauge.name.ends_with("_total") { "counter" } else { "gauge" };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP leno_control_{} {}", gauge.name, gauge.help);
            let _ = writeln!(text, "# TYPE leno_control_{} {kind}", gauge.name);
            for (label, value) in &gauge.values {
                match label {
                    Some((name, of)) => line(&mut text, &format!("{}{{{name}=\"{of}\"}}", gauge.name), *value),
                    None => line(&mut text, gauge.name, *value),
                }
            }
        }
        text
    }
}

fn line(text: &mut String, name: &str, value: u64) {
    let _ = writeln!(text, "leno_control_{name} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        metrics.request("get", 200);
        metrics.request("get", 200);
        let gauge = Gauge {
            name: "members",
            help: "Members by state.",
            values: vec![(Some(("state", "connected".into())), 3), (Some(("state", "lost".into())), 0)],
        };
        let text = metrics.render(&[gauge, Gauge::plain("audit_total", "x", 1)]);
        assert!(text.contains("leno_control_api_requests_total{operation=\"get\",status=\"200\"} 2\n"), "{text}");
        assert!(
            text.contains("# TYPE leno_control_members gauge\nleno_control_members{state=\"connected\"} 3\n"),
            "{text}"
        );
        assert!(text.contains("# TYPE leno_control_audit_total counter\n"), "{text}");
    }
}
