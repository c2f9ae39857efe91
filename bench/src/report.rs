//! Medians as a Markdown table, and everything as JSON.

use serde_json::json;

use crate::measure::Measurement;

/// One row a pair: CPU per request at each number of connections with its ratio to the relay, then the rest.
pub fn table(all: &[Measurement], connections: &[u32], pairs: &[String]) -> String {
    let mut text = String::from("| pair |");
    for c in connections {
        text.push_str(&format!(" CPU µs/req c={c} (x relay) |"));
    }
    let widest = connections.iter().copied().max().unwrap_or(1);
    let narrowest = connections.iter().copied().min().unwrap_or(1);
    text.push_str(&format!(
        " req/s c={widest} | p50 c={narrowest} µs | p99 c={widest} µs | RSS MB idle → c={widest} | ready ms | errors |\n|---|"
    ));
    text.push_str(&"---|".repeat(connections.len() + 6));
    text.push('\n');
    for pair in pairs {
        let of = |c: u32, field: fn(&Measurement) -> f64| {
            median(all.iter().filter(|m| m.pair == *pair && m.connections == c).map(field).collect())
        };
        if of(widest, |m| m.rate).is_none() {
            continue;
        }
        let number = |v: Option<f64>, digits: usize| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"));
        text.push_str(&format!("| {pair} |"));
        for &c in connections {
            let relay =
                median(all.iter().filter(|m| m.pair == "relay" && m.connections == c).map(|m| m.cpu_micros).collect());
            let own = of(c, |m| m.cpu_micros);
            let ratio = own.zip(relay).map_or_else(|| "-".to_owned(), |(own, relay)| format!("{:.2}", own / relay));
            text.push_str(&format!(" {} ({ratio}) |", number(own, 1)));
        }
        let errors: u64 = all.iter().filter(|m| m.pair == *pair).map(|m| m.errors).sum();
        text.push_str(&format!(
            " {} | {} | {} | {} → {} | {} | {errors} |\n",
            number(of(widest, |m| m.rate), 0),
            number(of(narrowest, |m| m.p50), 0),
            number(of(widest, |m| m.p99), 0),
            number(of(narrowest, |m| m.rss_idle), 1),
            number(of(widest, |m| m.rss), 1),
            number(of(narrowest, |m| m.ready_millis), 0),
        ));
    }
    text
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Every measurement.
pub fn json(all: &[Measurement]) -> String {
    let rows: Vec<_> = all
        .iter()
        .map(|m| {
            json!({"pair": m.pair, "connections": m.connections, "requests_per_second": m.rate,
                   "cpu_micros_per_request_per_proxy": m.cpu_micros, "p50_micros": m.p50, "p99_micros": m.p99,
                   "rss_idle_mb": m.rss_idle, "rss_mb": m.rss, "ready_millis": m.ready_millis, "errors": m.errors})
        })
        .collect();
    format!("{:#}\n", json!(rows))
}
