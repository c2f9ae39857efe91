//! The Prometheus text format 0.0.4.

use std::fmt::{Display, Write};

use super::catalogue::{self as c, Kind, Metric};
use super::{Direction, Edge, EdgeTotals, Listener, Snapshot};

/// Renders everything, in the order of the catalogue.
pub(super) fn render(snapshot: &Snapshot) -> String {
    let mut page = Page(String::with_capacity(4096 + snapshot.edges.len() * 4096));
    edges(&mut page, snapshot);
    page.head(&c::EDGES_OVERFLOWED);
    page.sample(&c::EDGES_OVERFLOWED, &[], snapshot.overflowed);
    page.family(&c::ACCEPTED, Listener::ALL, |l| ([l.as_str()], snapshot.listeners[l as usize].0));
    page.family(&c::CONNECTIONS, Listener::ALL, |l| {
        let (accepted, ended) = snapshot.listeners[l as usize];
        ([l.as_str()], accepted.saturating_sub(ended))
    });
    process(&mut page, snapshot);
    page.head(&c::LOG_DROPPED);
    page.sample(&c::LOG_DROPPED, &[], snapshot.log_drops);
    page.0
}

fn process(page: &mut Page, snapshot: &Snapshot) {
    let process = &snapshot.process;
    page.family(&c::HANDSHAKES, &process.handshakes, |((direction, group, reason), n)| {
        ([direction.as_str(), group, reason.map_or("", |r| r.as_str())], *n)
    });
    page.head(&c::EJECTIONS);
    for (service, (ejected, spared)) in &process.ejections {
        let service = service.to_string();
        page.sample(&c::EJECTIONS, &[&service, "ejected"], ejected);
        page.sample(&c::EJECTIONS, &[&service, "spared"], spared);
    }
    page.family(&c::CERTIFICATE_END, &process.certificates, |(id, (end, _))| ([id.as_str()], *end));
    page.family(&c::CERTIFICATE_RENEWALS, &process.certificates, |(id, (_, n))| ([id.as_str()], *n));
    if let Some(connected) = process.connected {
        page.head(&c::CONTROL_PLANE);
        page.sample(&c::CONTROL_PLANE, &[], u8::from(connected));
        page.head(&c::CONTROL_PLANE_CONNECTS);
        page.sample(&c::CONTROL_PLANE_CONNECTS, &[], process.connects);
    }
    page.family(&c::CONFIG_VERSION, &process.config_versions, |(name, version)| ([name.as_str()], *version));
    page.family(&c::CONFIG_REJECTED, &process.config_rejected, |(name, n)| ([name.as_str()], *n));
}

fn edges(page: &mut Page, snapshot: &Snapshot) {
    let labelled: Vec<(Labels, &EdgeTotals)> = snapshot.edges.iter().map(|(e, t)| (Labels::of(e), t)).collect();
    page.head(&c::REQUESTS);
    for (labels, totals) in &labelled {
        for (outcome, count) in &totals.outcomes {
            let status = outcome.status().map_or_else(String::new, |s| s.to_string());
            let grpc = outcome.grpc_status().map_or_else(String::new, |s| s.to_string());
            let reason = outcome.reason().map_or("", |r| r.as_str());
            let mut values = labels.values().to_vec();
            values.extend([status.as_str(), grpc.as_str(), reason]);
            page.sample(&c::REQUESTS, &values, count);
        }
    }
    page.head(&c::DURATION);
    for (labels, totals) in &labelled {
        page.histogram(&c::DURATION, &labels.values(), totals);
    }
    let plain: [(&Metric, Value); 6] = [
        (&c::ACTIVE, EdgeTotals::active),
        (&c::BYTES_IN, |t| t.bytes_in),
        (&c::BYTES_OUT, |t| t.bytes_out),
        (&c::OPENED, |t| t.opened),
        (&c::OPEN, |t| t.opened.saturating_sub(t.closed)),
        (&c::RETRIES, |t| t.retries),
    ];
    for (metric, value) in plain {
        page.family(metric, &labelled, |(labels, totals)| (labels.values(), value(totals)));
    }
}

type Value = fn(&EdgeTotals) -> u64;

/// The values of [`c::EDGE_LABELS`] as text.
struct Labels {
    direction: Direction,
    source: String,
    service: String,
    destination: String,
    route: String,
    protocol: &'static str,
}

impl Labels {
    fn of(edge: &Edge) -> Self {
        let text = |v: Option<&dyn Display>| v.map_or_else(String::new, ToString::to_string);
        Self {
            direction: edge.direction,
            source: text(edge.source.as_ref().map(|v| v as _)),
            service: text(edge.service.as_ref().map(|v| v as _)),
            destination: text(edge.destination.as_ref().map(|v| v as _)),
            route: text(edge.route.as_ref().map(|v| v as _)),
            protocol: edge.protocol.map_or("", |p| p.as_str()),
        }
    }

    fn values(&self) -> [&str; 6] {
        [self.direction.as_str(), &self.source, &self.service, &self.destination, &self.route, self.protocol]
    }
}

struct Page(String);

const INFALLIBLE: &str = "writing to a String cannot fail";

impl Page {
    fn head(&mut self, metric: &Metric) {
        let Metric { name, kind, help, .. } = metric;
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str()).expect(INFALLIBLE);
    }

    fn family<'a, I: IntoIterator, const N: usize, V: Display>(
        &mut self,
        metric: &Metric,
        items: I,
        sample: impl Fn(I::Item) -> ([&'a str; N], V),
    ) {
        self.head(metric);
        for item in items {
            let (labels, value) = sample(item);
            self.sample(metric, &labels, value);
        }
    }

    fn sample(&mut self, metric: &Metric, values: &[&str], value: impl Display) {
        debug_assert_ne!(metric.kind, Kind::Histogram);
        self.0.push_str(metric.name);
        self.labels(metric, values, None);
        writeln!(self.0, " {value}").expect(INFALLIBLE);
    }

    fn histogram(&mut self, metric: &Metric, values: &[&str], totals: &EdgeTotals) {
        let count = totals.duration.count();
        for (micros, below) in totals.duration.cumulative() {
            self.bucket(metric, values, &seconds(micros * 1000), below);
        }
        self.bucket(metric, values, "+Inf", count);
        for (suffix, value) in [("_sum", seconds(totals.duration.nanos())), ("_count", count.to_string())] {
            write!(self.0, "{}{suffix}", metric.name).expect(INFALLIBLE);
            self.labels(metric, values, None);
            writeln!(self.0, " {value}").expect(INFALLIBLE);
        }
    }

    fn bucket(&mut self, metric: &Metric, values: &[&str], le: &str, below: u64) {
        write!(self.0, "{}_bucket", metric.name).expect(INFALLIBLE);
        self.labels(metric, values, Some(le));
        writeln!(self.0, " {below}").expect(INFALLIBLE);
    }

    fn labels(&mut self, metric: &Metric, values: &[&str], le: Option<&str>) {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
        let all = metric.labels.iter().copied().zip(values.iter().copied()).chain(le.map(|le| ("le", le)));
        let mut separator = '{';
        for (name, value) in all {
            self.0.push(separator);
            self.0.push_str(name);
            self.0.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.0.push('}');
        }
    }
}

/// Exact decimal seconds, without the detour over floating point.
fn seconds(nanos: u64) -> String {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
