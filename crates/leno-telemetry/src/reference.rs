//! Reference pages made from the tables that the code uses; `cargo xtask docs` writes them and CI compares.

use std::fmt::Write;

use leno_model::Reason;

use crate::metrics::catalogue::CATALOGUE;

const INFALLIBLE: &str = "writing to a String cannot fail";

/// The text of docs/reference/reasons.md.
#[must_use]
pub fn reasons_page() -> String {
    let mut page = String::from(
        "# Reasons\n\n\
         Every refusal and failure has one of these reasons, in access logs, metric labels and the `leno-reason` header. \
         Generated from `leno-model`, do not edit.\n\n\
         *Retry safe*: the request cannot have been processed. *Flag*: the nearest of Envoy's response flags.\n\n\
         | reason | fault | retry safe | HTTP | gRPC | flag | what happened | what to look at next |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let safe = if reason.retry_safe() { "yes" } else { "no" };
        let (http, grpc, flag) = (reason.http_status(), reason.grpc_status(), reason.envoy_flag());
        let (fault, what, next) = (reason.fault().as_str(), cell(reason.summary()), cell(reason.next_step()));
        writeln!(page, "| `{reason}` | {fault} | {safe} | {http} | {grpc} | {flag} | {what} | {next} |")
            .expect(INFALLIBLE);
    }
    page
}

/// The text of docs/reference/metrics.md.
#[must_use]
pub fn metrics_page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         Served by the proxy's admin port at `/metrics` in Prometheus' text format. Labels come from configuration and \
         identities only; a label that does not apply is empty. Generated from `leno-telemetry`, do not edit.\n\n\
         | name | type | unit | labels | meaning |\n|---|---|---|---|---|\n",
    );
    for metric in CATALOGUE {
        let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
        let (kind, labels, help) = (metric.kind.as_str(), labels.join(", "), cell(metric.help));
        writeln!(page, "| `{}` | {kind} | {} | {labels} | {help} |", metric.name, metric.unit).expect(INFALLIBLE);
    }
    page
}

/// A text as the inside of a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_every_row_once_and_whole() {
        let reasons = reasons_page();
        for reason in Reason::ALL {
            assert_eq!(reasons.matches(&format!("| `{reason}` |")).count(), 1, "{reason}");
        }
        let metrics = metrics_page();
        for metric in CATALOGUE {
            assert_eq!(metrics.matches(&format!("| `{}` |", metric.name)).count(), 1, "{}", metric.name);
        }
        for (page, columns) in [(&reasons, 8), (&metrics, 5)] {
            for row in page.lines().filter(|l| l.starts_with('|')) {
                assert_eq!(row.replace("\\|", "").matches('|').count(), columns + 1, "{row}");
            }
        }
    }
}
