//! What peers do that is unusual and right, and what one may cost us that only takes.

use super::*;

/// One call that is answered at once; the client's name of it.
fn answered(pair: &mut Pair, length: usize) -> StreamKey {
    let (ours, theirs) = open(pair, &call(), false);
    answer(&mut pair.server, theirs.key, &ResponseHead::new(200), false);
    pair.server.send_data(theirs.key, vec![0; length].into());
    pair.server.send_end(theirs.key, None);
    pair.server.release(theirs.key);
    ours
}

/// Go's estimator of the bandwidth-delay product asks for a PING with each round trip of data.
#[test]
fn a_ping_with_each_answer_is_no_flood() {
    let mut pair = pair();
    for _ in 0..3000 {
        let ours = answered(&mut pair, 100);
        exchange(&mut pair);
        pair.client.release(ours);
        exchange(&mut pair);
        for engine in [&mut pair.server, &mut pair.client] {
            engine.receive(&raw(PING, 0, 0, b"bdpbdpbd"), NOW).unwrap();
            // The other end did not ask, so it is not told.
            engine.produce(&mut Vec::new(), 0);
        }
    }
}

/// Go's client ends a call with a reset when the server ended it first.
#[test]
fn resets_of_what_was_answered_are_no_rapid_resets() {
    let mut pair = pair();
    let mut wire = Vec::new();
    for n in 0..5000 {
        let id = 1 + 2 * n;
        wire.clear();
        put(&mut wire, HEADERS, END_HEADERS, id, &block(REQUEST));
        pair.server.receive(&wire, NOW).unwrap();
        let accepted = pair.server.next_accepted().unwrap();
        answer(&mut pair.server, accepted.key, &ResponseHead::new(200), false);
        pair.server.receive(&raw(RST_STREAM, 0, id, &[0; 4]), NOW).unwrap();
        pair.server.release(accepted.key);
        pair.server.produce(&mut Vec::new(), 1 << 20);
    }
    assert_eq!(pair.server.open_streams(), 0);
}

/// A head that is one reference to the table for each of its fields is large for us and small for its sender.
#[test]
fn heads_of_open_streams_are_bounded() {
    let mut pair = pair();
    pair.server = Engine::with_wire(Side::Termination, Rc::default(), Http2Wire::new(Side::Termination, 1000));
    pair.server.receive(&[PREFACE, &raw(SETTINGS, 0, 0, &[])].concat(), NOW).unwrap();
    let field = |out: &mut Vec<u8>, first: &[u8]| {
        out.extend_from_slice(&block(REQUEST));
        out.extend_from_slice(first);
    };
    // 3,900 bytes of a value (0x7f 0xbd 0x1d), kept; then fourteen more of it.
    let mut first = Vec::new();
    field(&mut first, b"\x40\x01x\x7f\xbd\x1d");
    first.extend_from_slice(&[b'v'; 3900]);
    first.extend_from_slice(&[0xbe; 14]);
    pair.server.receive(&raw(HEADERS, 5, 1, &first), NOW).unwrap();
    let mut again = Vec::new();
    field(&mut again, &[0xbe; 15]);
    for n in 1..900 {
        pair.server.receive(&raw(HEADERS, 5, 1 + 2 * n, &again), NOW).unwrap();
    }
    let accepted: Vec<_> = std::iter::from_fn(|| pair.server.next_accepted()).collect();
    assert!((130..=145).contains(&accepted.len()), "{} heads of 58 KB in 8 MiB", accepted.len());
    assert!(accepted.iter().all(|a| a.head.as_ref().unwrap().fields.len() == 15));
    for stream in accepted {
        answer(&mut pair.server, stream.key, &ResponseHead::new(204), true);
        pair.server.release(stream.key);
    }
    pair.server.receive(&raw(HEADERS, 5, 1801, &again), NOW).unwrap();
    assert!(pair.server.next_accepted().is_some(), "there is room again");
}

#[test]
fn a_client_that_does_not_read_is_not_read() {
    let mut pair = pair();
    for n in 0.. {
        pair.server.receive(&raw(HEADERS, 5, 1 + 2 * n, &block(REQUEST)), NOW).unwrap();
        let accepted = pair.server.next_accepted().unwrap();
        let mut head = ResponseHead::new(200);
        head.fields.append("x", &[b'v'; 1000]);
        answer(&mut pair.server, accepted.key, &head, true);
        pair.server.release(accepted.key);
        if pair.server.is_backed_up() {
            assert!((900..1100).contains(&n), "{n} heads of 1 KB");
            break;
        }
    }
    pair.server.produce(&mut Vec::new(), 0);
    assert!(!pair.server.is_backed_up());
}

#[test]
fn an_answer_that_nobody_takes_is_broken_off() {
    let mut pair = pair();
    pair.server.stall_after(Duration::from_secs(300));
    // A stream's window of it goes, and the rest is queued to its end.
    for _ in 0..3 {
        answered(&mut pair, 600_000);
    }
    exchange(&mut pair);
    let _ = pair.server.tick(Duration::from_secs(299));
    assert_eq!(pair.server.open_streams(), 3);
    let _ = pair.server.tick(Duration::from_secs(300));
    assert_eq!(pair.server.open_streams(), 0);
}

#[test]
fn the_last_stream_is_never_said_to_be_a_later_one() {
    let mut pair = pair();
    let _ = open(&mut pair, &call(), true);
    pair.server.drain(Reason::Draining, NOW);
    exchange(&mut pair);
    pair.server.receive(&raw(HEADERS, 5, 3, &block(REQUEST)), NOW).unwrap();
    pair.server.close(Reason::Draining, "");
    let mut word = Vec::new();
    pair.server.produce(&mut word, 0);
    let mut rest = &word[..];
    let last = std::iter::from_fn(|| frame::take(&mut rest).unwrap()).last().unwrap();
    assert_eq!((last.kind, &last.payload[..4]), (GOAWAY, &[0, 0, 0, 1][..]));
}
