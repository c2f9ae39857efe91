//! Lines are valid whatever is sent; records are written in order, or dropped and counted.

use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn record(path: &[u8]) -> AccessRecord {
    AccessRecord {
        path: Some(Bytes::copy_from_slice(path)),
        ..AccessRecord::new(1_798_761_599_123_456_789, RequestId([0xab; 16]), Direction::Outbound)
    }
}

fn line(record: &AccessRecord) -> String {
    let mut out = Vec::new();
    render(record, &mut out);
    String::from_utf8(out).expect("a line is UTF-8")
}

#[test]
fn a_full_record_has_every_field() {
    let full = AccessRecord {
        source: Some(SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/cart").unwrap()),
        destination: Some(SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/web").unwrap()),
        service: Some(NamespacedName::new("shop", "web").unwrap()),
        route: Some("canary/0".into()),
        protocol: Some(AppProtocol::Grpc),
        method: Some(Bytes::from_static(b"POST")),
        authority: Some(Bytes::from_static(b"web:80")),
        status: Some(503),
        grpc_status: Some(14),
        reason: Some(Reason::ConnectRefused),
        duration: 12_345_678,
        upstream: Some(2_000_999),
        connect: Some(1_000_000),
        bytes_in: 5,
        bytes_out: 7,
        attempts: 3,
        endpoint: Some("10.0.0.1:15008".parse().unwrap()),
        policy: Some("default".into()),
        detail: Some("os error 111".into()),
        ..record(b"/a")
    };
    let expected = r#"{"time":"2026-12-31T23:59:59.123456Z","direction":"outbound","request_id":"abababababababababababababababab","protocol":"grpc","source":"spiffe://mesh.leno/ns/shop/sa/cart","destination":"spiffe://mesh.leno/ns/shop/sa/web","service":"web.shop","route":"canary/0","method":"POST","authority":"web:80","path":"/a","status":503,"grpc_status":14,"reason":"connect_refused","fault":"upstream","response_flags":"UF","duration_us":12345,"upstream_us":2000,"connect_us":1000,"bytes_in":5,"bytes_out":7,"attempts":3,"endpoint":"10.0.0.1:15008","policy":"default","detail":"os error 111"}"#;
    assert_eq!(line(&full), format!("{expected}\n"));
    let empty: Value = serde_json::from_str(&line(&record(b""))).unwrap();
    assert_eq!(empty.as_object().unwrap().len(), 8, "{empty}");
}

#[test]
fn hostile_texts_stay_inside_their_string() {
    for (path, expected) in [
        (&b"/\",\"status\":200,\"x\":\""[..], r#"/\",\"status\":200,\"x\":\""#),
        (b"/a\r\n{\"fake\":1}\n", r#"/a\u000d\u000a{\"fake\":1}\u000a"#),
        (b"/\x1b[2J\0\x7f", r"/\u001b[2J\u0000\u007f"),
        (b"/\\n", r"/\\n"),
        (b"/\xff\xc0\xaf", r"/\\xff\\xc0\\xaf"),
        ("/\u{85}\u{2028}\u{202e}\u{200b}é".as_bytes(), r"/\u0085\u2028\u202e\u200bé"),
    ] {
        let text = line(&record(path));
        assert!(text.contains(&format!("\"path\":\"{expected}\"")), "{} in {text}", path.escape_ascii());
    }
    let long = line(&record(&[b'a'; 65_536]));
    assert!(long.len() < 1500 && long.contains("a…\""), "{}", long.len());
}

proptest! {
    #[test]
    fn every_line_is_one_json_object(path in proptest::collection::vec(any::<u8>(), 0..2000), detail in ".*") {
        let text = line(&AccessRecord { detail: Some(detail.clone().into()), method: Some(path.clone().into()), ..record(&path) });
        prop_assert_eq!(text.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&text).expect("valid JSON");
        if detail.len() <= 1024 {
            prop_assert_eq!(value["detail"].as_str(), Some(&*detail));
        }
        prop_assert!(!text.trim_end().chars().any(char::is_control));
    }
}

#[test]
fn records_reach_the_file_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let dropped = Arc::new(AtomicU64::new(0));
    let attempts = || -> Vec<u64> {
        let written = std::fs::read_to_string(&path).unwrap();
        written.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["attempts"].as_u64().unwrap()).collect()
    };
    for start in [0_u32, 101] {
        let writer = LogWriter::start(&LogTarget::File(path.clone()), dropped.clone()).unwrap();
        let sender = writer.sender();
        assert!(sender.enabled());
        for n in start..start + 100 {
            sender.send(AccessRecord { attempts: n, ..record(b"/") });
        }
        assert!(writer.flush(Duration::from_secs(20)));
        assert_eq!(attempts(), (0..u64::from(start) + 100).collect::<Vec<_>>(), "appended, in order");
        sender.send(AccessRecord { attempts: start + 100, ..record(b"/last") });
        drop(sender);
        writer.close();
        assert_eq!(attempts().last(), Some(&(u64::from(start) + 100)), "what was sent before closing is written");
    }
    assert_eq!(dropped.load(Relaxed), 0);
}

/// A target that blocks until told, so that the channel fills.
struct Blocked(Receiver<()>);

impl Write for Blocked {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        // Ends when the test drops its end.
        while self.0.recv().is_ok() {}
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        while self.0.recv().is_ok() {}
        Ok(())
    }
}

#[test]
fn a_slow_target_costs_records_not_time() {
    let (release, blocked) = sync_channel::<()>(1);
    let dropped = Arc::new(AtomicU64::new(0));
    let writer = LogWriter::start_on(Box::new(Blocked(blocked)), dropped.clone()).unwrap();
    let sender = writer.sender();
    // More than the channel, the buffer (64 KB, some 200 bytes a line) and the line in hand can hold.
    let sent = CHANNEL as u64 + 2000;
    for _ in 0..sent {
        sender.send(record(b"/"));
    }
    let lost = dropped.load(Relaxed);
    assert!((1..=2000).contains(&lost), "{lost} dropped");
    drop((release, sender));
    writer.close();
    assert_eq!(dropped.load(Relaxed), lost, "the rest was written");
}

#[test]
fn a_failing_target_is_counted() {
    let dropped = Arc::new(AtomicU64::new(0));
    let full = LogWriter::start(&LogTarget::File("/dev/full".into()), dropped.clone()).unwrap();
    full.sender().send(record(b"/"));
    full.close();
    assert!(dropped.load(Relaxed) >= 1);
    assert!(LogWriter::start(&LogTarget::File("/nonexistent/x".into()), dropped).is_err());
}

#[test]
fn off_takes_nothing() {
    let dropped = Arc::new(AtomicU64::new(0));
    let off = LogWriter::start(&LogTarget::Off, dropped.clone()).unwrap();
    assert!(!off.sender().enabled() && !LogSender::off().enabled());
    off.sender().send(record(b"/"));
    assert!(off.flush(Duration::ZERO));
    off.close();
    assert_eq!(dropped.load(Relaxed), 0);
}
