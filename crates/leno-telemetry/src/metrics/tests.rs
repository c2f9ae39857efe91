//! Sums over workers, bounds on labels, and a text that Prometheus reads.

use super::*;
use catalogue::{CATALOGUE, Kind};

fn edge(route: &str) -> Edge {
    Edge {
        direction: Direction::Outbound,
        source: Some(SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/cart").unwrap()),
        service: Some(NamespacedName::new("shop", "web").unwrap()),
        destination: Some(SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/web").unwrap()),
        route: Some(route.into()),
        protocol: Some(AppProtocol::Http),
    }
}

const LABELS: &str = r#"direction="outbound",source_identity="spiffe://mesh.leno/ns/shop/sa/cart",destination_service="web.shop",destination_identity="spiffe://mesh.leno/ns/shop/sa/web",route="canary",protocol="http""#;

fn ok() -> Outcome {
    Outcome::new(Some(200), None, None)
}

#[test]
fn workers_are_summed() {
    let metrics = Metrics::default();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let worker = metrics.worker();
                for _ in 0..1000 {
                    let cells = worker.edge(&edge("canary"));
                    let _active = cells.begin();
                    cells.bytes_in(2);
                    cells.bytes_out(3);
                    cells.finished(ok(), 1_000_000);
                }
                worker
                    .edge(&edge("canary"))
                    .finished(Outcome::new(Some(503), None, Some(Reason::ConnectRefused)), 2_000_000);
                worker.edge(&edge("canary")).retry();
            });
        }
    });
    let text = metrics.exposition();
    for line in [
        format!("leno_requests_total{{{LABELS},code=\"200\",grpc_code=\"\",reason=\"\"}} 3000"),
        format!("leno_requests_total{{{LABELS},code=\"503\",grpc_code=\"\",reason=\"connect_refused\"}} 3"),
        format!("leno_request_duration_seconds_bucket{{{LABELS},le=\"0.000768\"}} 0"),
        format!("leno_request_duration_seconds_bucket{{{LABELS},le=\"0.001024\"}} 3000"),
        format!("leno_request_duration_seconds_bucket{{{LABELS},le=\"0.002048\"}} 3003"),
        format!("leno_request_duration_seconds_bucket{{{LABELS},le=\"+Inf\"}} 3003"),
        format!("leno_request_duration_seconds_sum{{{LABELS}}} 3.006"),
        format!("leno_request_duration_seconds_count{{{LABELS}}} 3003"),
        format!("leno_request_bytes_total{{{LABELS}}} 6000"),
        format!("leno_response_bytes_total{{{LABELS}}} 9000"),
        format!("leno_retries_total{{{LABELS}}} 3"),
        "leno_access_log_dropped_total 0".to_owned(),
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    let snapshot = metrics.snapshot();
    let totals = &snapshot.edges[&edge("canary")];
    assert_eq!((totals.requests(), totals.successes(), totals.active()), (3003, 3000, 0));
}

#[test]
fn guards_count_what_is_open() {
    let metrics = Metrics::default();
    let worker = metrics.worker();
    let cells = worker.edge(&edge("canary"));
    let (first, second) = (cells.connection(), cells.connection());
    let request = cells.begin();
    let accepted = worker.accepted(Listener::Hop);
    drop(first);
    let text = metrics.exposition();
    let has = |text: &str, line: String| assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    has(&text, format!("leno_streams_opened_total{{{LABELS}}} 2"));
    has(&text, format!("leno_streams_active{{{LABELS}}} 1"));
    has(&text, "leno_connections_active{listener=\"hop\"} 1".into());
    has(&text, format!("leno_requests_active{{{LABELS}}} 1"));
    drop((second, accepted, request));
    let text = metrics.exposition();
    has(&text, format!("leno_streams_active{{{LABELS}}} 0"));
    has(&text, format!("leno_requests_active{{{LABELS}}} 0"));
    has(&text, "leno_connections_active{listener=\"hop\"} 0".into());
    has(&text, "leno_connections_accepted_total{listener=\"hop\"} 1".into());
}

#[test]
fn process_metrics_are_shown() {
    let metrics = Metrics::default();
    assert!(!metrics.exposition().contains("leno_control_plane_connected "), "unknown before the first try");
    metrics.handshake(Direction::Outbound, "X25519MLKEM768", Ok(()));
    metrics.handshake(Direction::Outbound, "X25519MLKEM768", Ok(()));
    metrics.handshake(Direction::Inbound, "", Err(Reason::PeerUntrusted));
    let web = NamespacedName::new("shop", "web").unwrap();
    metrics.ejection(&web, false);
    let id = SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/web").unwrap();
    metrics.certificate(&id, 1000);
    metrics.certificate(&id, 2000);
    for connected in [true, true, false, true] {
        metrics.control_plane(connected);
    }
    metrics.config_version("out:shop/web", Some(7));
    metrics.config_version("out:shop/old", Some(3));
    metrics.config_version("out:shop/old", None);
    metrics.config_rejected("out:shop/web");
    metrics.log_drops().fetch_add(5, Relaxed);
    let text = metrics.exposition();
    for line in [
        "leno_tls_handshakes_total{direction=\"outbound\",group=\"X25519MLKEM768\",reason=\"\"} 2",
        "leno_tls_handshakes_total{direction=\"inbound\",group=\"\",reason=\"peer_untrusted\"} 1",
        "leno_ejections_total{destination_service=\"web.shop\",result=\"ejected\"} 1",
        "leno_ejections_total{destination_service=\"web.shop\",result=\"spared\"} 0",
        "leno_certificate_not_after_timestamp_seconds{identity=\"spiffe://mesh.leno/ns/shop/sa/web\"} 2000",
        "leno_certificate_renewals_total{identity=\"spiffe://mesh.leno/ns/shop/sa/web\"} 1",
        "leno_control_plane_connected 1",
        "leno_control_plane_connects_total 2",
        "leno_config_version{collection=\"out:shop/web\"} 7",
        "leno_config_rejected_total{collection=\"out:shop/web\"} 1",
        "leno_access_log_dropped_total 5",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(!text.contains("shop/old"));
}

/// BAD_INPUTS 14: a million hosts, or a peer that answers with every code, do not add labels without bound.
#[test]
fn cardinality_is_bounded() {
    let metrics = Metrics::default();
    let worker = metrics.worker();
    for n in 0..MAX_EDGES + 500 {
        worker.edge(&edge(&n.to_string())).finished(ok(), 1);
    }
    let snapshot = metrics.snapshot();
    assert_eq!(snapshot.edges.len(), MAX_EDGES + 1);
    assert_eq!(snapshot.edges[&Edge::other()].requests(), 500);
    assert!(metrics.exposition().contains("\nleno_edges_overflowed_total 500\n"));

    let metrics = Metrics::default();
    let cells = metrics.worker().edge(&edge("canary"));
    let mut sent = 0;
    for status in 0..=u16::MAX {
        cells.finished(Outcome::new(Some(status), Some(status as u8), None), 1);
        sent += 1;
    }
    let totals = &metrics.snapshot().edges[&edge("canary")];
    assert!(totals.outcomes.len() <= MAX_OUTCOMES + 1, "{}", totals.outcomes.len());
    assert_eq!(totals.requests(), sent);
}

#[test]
fn outcomes_are_judged() {
    for (status, grpc, reason, success) in [
        (Some(200), None, None, true),
        (Some(404), None, None, true),
        (Some(500), None, None, false),
        (Some(403), None, Some(Reason::DeniedByPolicy), false),
        (None, None, None, true),
        (Some(200), Some(0), None, true),
        (Some(200), Some(5), None, true),
        (Some(200), Some(14), None, false),
        (Some(200), Some(2), None, false),
    ] {
        assert_eq!(Outcome::new(status, grpc, reason).is_success(), success, "{status:?} {grpc:?} {reason:?}");
    }
    let odd = Outcome::new(Some(999), Some(200), None);
    assert_eq!((odd.status(), odd.grpc_status()), (None, None));
}

/// Name, labels, value.
type Sample<'a> = (&'a str, Vec<(String, String)>, f64);

/// A reader of the format, as strict as Prometheus': names, escapes, one TYPE per family before its samples.
fn read_line(line: &str) -> Option<Sample<'_>> {
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_end);
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_').then_some(())?;
    let mut labels = Vec::new();
    let mut rest = rest;
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            let (label, after) = inside.split_once("=\"")?;
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next()? {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next()?.1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        _ => return None,
                    }),
                    (_, c) => value.push(c),
                }
            };
            labels.push((label.to_owned(), value));
            match after[end + 1..].split_at_checked(1)? {
                (",", more) => inside = more,
                ("}", more) => {
                    rest = more;
                    break;
                }
                _ => return None,
            }
        }
    }
    Some((name, labels, rest.strip_prefix(' ')?.parse().ok()?))
}

#[test]
fn the_text_is_well_formed_and_whole() {
    let metrics = Metrics::default();
    let nasty = "a\"b\\c\nd{}=,é";
    let worker = metrics.worker();
    worker.edge(&edge(nasty)).finished(ok(), 5);
    metrics.control_plane(true);
    metrics.config_version(nasty, Some(1));
    let text = metrics.exposition();
    let (mut family, mut families, mut seen_nasty) = ("", Vec::new(), 0);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
            families.push(family);
        } else if !line.starts_with("# HELP ") {
            let (name, labels, _) = read_line(line).unwrap_or_else(|| panic!("unreadable: {line}"));
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
            assert!(name == family || base == family, "{line} under {family}");
            let metric = CATALOGUE.iter().find(|m| m.name == family).unwrap();
            let names: Vec<_> = labels.iter().map(|(n, _)| n.as_str()).filter(|n| *n != "le").collect();
            assert_eq!(names, metric.labels, "{line}");
            seen_nasty += usize::from(labels.iter().any(|(_, v)| v == nasty));
        }
    }
    assert_eq!(families, CATALOGUE.iter().map(|m| m.name).collect::<Vec<_>>(), "every metric once, in order");
    assert!(seen_nasty > 10, "label values survive escaping");
}

#[test]
fn names_follow_the_conventions() {
    for metric in CATALOGUE {
        assert!(metric.name.starts_with("leno_"), "{}", metric.name);
        assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
        assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{}", metric.name);
    }
}
