//! What the live view shows: each proxy's outbound requests, read from its metrics page and turned into rates.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::processes::Mesh;

/// A metrics page that takes longer or is larger is passed over in this frame.
const LIMIT: Duration = Duration::from_millis(500);
const PAGE_LIMIT: u64 = 4 << 20;

/// Counters of one edge, summed over the instances of its source.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    /// Requests.
    pub requests: f64,
    /// Requests that did not end with 5xx or a reason.
    pub fine: f64,
    /// Cumulative histogram: upper bound in seconds (as text, so that it is a key) and count.
    pub buckets: BTreeMap<String, f64>,
}

/// Source service, destination service.
pub type EdgeKey = (String, String);

/// All edges at one moment.
pub struct Snapshot {
    /// When it was read.
    pub at: Instant,
    /// The counters.
    pub edges: BTreeMap<EdgeKey, Counts>,
}

/// Reads every member's page.
pub async fn edges(mesh: &Mesh) -> Snapshot {
    let mut edges = BTreeMap::new();
    for member in &mesh.members {
        if let Ok(Ok(page)) = tokio::time::timeout(LIMIT, page(member.admin)).await {
            add(&page, &mut edges);
        }
    }
    Snapshot { at: Instant::now(), edges }
}

async fn page(address: std::net::SocketAddr) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut text = String::new();
    socket.take(PAGE_LIMIT).read_to_string(&mut text).await?;
    Ok(text)
}

/// Adds the outbound series of one page.
fn add(page: &str, edges: &mut BTreeMap<EdgeKey, Counts>) {
    for line in page.lines() {
        let Some((name, labels, value)) = sample(line) else { continue };
        let label = |key: &str| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v).unwrap_or_default();
        if label("direction") != "outbound" {
            continue;
        }
        let source = label("source_identity").rsplit('/').next().unwrap_or_default().to_owned();
        let destination = label("destination_service").split('.').next().unwrap_or_default().to_owned();
        let counts = edges.entry((source, destination)).or_default();
        match name {
            "leno_requests_total" => {
                counts.requests += value;
                if !label("code").starts_with('5') && matches!(label("reason"), "" | "none") {
                    counts.fine += value;
                }
            }
            "leno_request_duration_seconds_bucket" => {
                *counts.buckets.entry(label("le").to_owned()).or_default() += value
            }
            _ => {}
        }
    }
    edges.retain(|_, c| c.requests > 0.0);
}

/// Names and values.
type Labels<'a> = Vec<(&'a str, &'a str)>;

/// `name{label="value",…} number` of the Prometheus text format; the labels of ours never hold a comma or quote.
fn sample(line: &str) -> Option<(&str, Labels<'_>, f64)> {
    let (name, rest) = line.split_once('{')?;
    let (labels, value) = rest.rsplit_once("} ")?;
    let labels = labels
        .split("\",")
        .filter_map(|pair| pair.split_once("=\""))
        .map(|(k, v)| (k, v.trim_end_matches('"')))
        .collect();
    Some((name, labels, value.trim().parse().ok()?))
}

/// The value below which `share` of the observations between two moments lie, in seconds.
#[must_use]
pub fn quantile(before: Option<&Counts>, now: &Counts, share: f64) -> Option<f64> {
    let mut buckets: Vec<(f64, f64)> = now
        .buckets
        .iter()
        .filter_map(|(bound, count)| {
            let earlier = before.and_then(|b| b.buckets.get(bound)).copied().unwrap_or(0.0);
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count - earlier))
        })
        .collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total = buckets.last()?.1;
    if total <= 0.0 {
        return None;
    }
    let finite = |bound: f64| bound.is_finite().then_some(bound);
    buckets.iter().find(|(_, count)| *count >= total * share).and_then(|(bound, _)| finite(*bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_becomes_edges_and_quantiles() {
        let page = "# HELP x\n\
            leno_requests_total{direction=\"outbound\",source_identity=\"spiffe://m/ns/default/sa/front\",destination_service=\"cart.default\",code=\"200\",reason=\"\"} 9\n\
            leno_requests_total{direction=\"outbound\",source_identity=\"spiffe://m/ns/default/sa/front\",destination_service=\"cart.default\",code=\"503\",reason=\"\"} 1\n\
            leno_requests_total{direction=\"inbound\",source_identity=\"x\",destination_service=\"y\",code=\"200\"} 5\n\
            leno_request_duration_seconds_bucket{direction=\"outbound\",source_identity=\"a/front\",destination_service=\"cart.default\",le=\"0.001\"} 5\n\
            leno_request_duration_seconds_bucket{direction=\"outbound\",source_identity=\"a/front\",destination_service=\"cart.default\",le=\"0.01\"} 10\n\
            leno_request_duration_seconds_bucket{direction=\"outbound\",source_identity=\"a/front\",destination_service=\"cart.default\",le=\"+Inf\"} 10\n";
        let mut edges = BTreeMap::new();
        add(page, &mut edges);
        assert_eq!(edges.len(), 1);
        let counts = &edges[&("front".to_owned(), "cart".to_owned())];
        assert_eq!((counts.requests, counts.fine), (10.0, 9.0));
        assert_eq!(quantile(None, counts, 0.5), Some(0.001));
        assert_eq!(quantile(None, counts, 0.99), Some(0.01));
        assert_eq!(quantile(Some(counts), counts, 0.5), None);
    }
}
