//! Both ends of an HTTP/2 connection in memory: every rule without a socket.

mod peers;

use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use proptest::prelude::*;

use super::super::Engine;
use super::super::frame::PADDED;
use super::*;
use crate::body::Frame as BodyFrame;
use crate::head::Method;
use crate::mux::{Accepted, HeadPart, StreamKey};

const NOW: Duration = Duration::ZERO;

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

struct Pair {
    client: Engine,
    server: Engine,
}

fn engine(side: Side) -> Engine {
    Engine::with_wire(side, Rc::default(), Http2Wire::new(side, 100))
}

/// Moves everything both ways until nothing moves.
fn exchange(pair: &mut Pair) {
    loop {
        let mut moved = false;
        for is_up in [true, false] {
            let Pair { client, server } = &mut *pair;
            let (from, to) = if is_up { (client, server) } else { (server, client) };
            let mut wire = Vec::new();
            while from.has_output() {
                from.produce(&mut wire, 64 * 1024);
            }
            moved |= !wire.is_empty();
            to.receive(&wire, NOW).unwrap();
        }
        if !moved {
            return;
        }
    }
}

fn pair() -> Pair {
    let mut pair = Pair { client: engine(Side::Origination), server: engine(Side::Termination) };
    exchange(&mut pair);
    assert!(pair.client.is_ready() && pair.server.is_ready());
    pair
}

fn call() -> RequestHead {
    let mut head = RequestHead::new(Method::Post, "web:80", "/a.B/C?d");
    head.fields.append("TE", b"trailers");
    head.fields.append("Content-Type", b"application/grpc");
    head.length = crate::BodyLength::Unknown;
    head.version = crate::Version::Http2;
    head
}

fn open(pair: &mut Pair, head: &RequestHead, is_end: bool) -> (StreamKey, Accepted<Result<RequestHead, Refusal>>) {
    let address = SocketAddr::from(([127, 0, 0, 1], 80));
    let ours = pair
        .client
        .open(
            |out| {
                put_request(out, head, address);
                Ok(())
            },
            is_end,
        )
        .unwrap();
    exchange(pair);
    (ours, pair.server.next_accepted().unwrap())
}

fn answer(engine: &mut Engine, key: StreamKey, head: &ResponseHead, is_end: bool) {
    engine.send_head(key, is_end, |out| put_response(out, head)).unwrap();
}

#[test]
fn a_call_and_its_answer_with_trailers() {
    let mut pair = pair();
    for _ in 0..3 {
        let (ours, Accepted { key: theirs, head, is_ended }) = open(&mut pair, &call(), false);
        assert_eq!((head.unwrap(), is_ended), (call(), false));
        pair.client.send_data(ours, Bytes::from_static(b"question"));
        pair.client.send_end(ours, None);
        pair.server.send_info(theirs, |out| put_response(out, &ResponseHead::new(103))).unwrap();
        let mut head = ResponseHead::new(200);
        head.length = crate::BodyLength::Unknown;
        answer(&mut pair.server, theirs, &head, false);
        pair.server.send_data(theirs, Bytes::from_static(b"answer"));
        pair.server.send_end(theirs, Some(&[("grpc-status", &b"0"[..])].into_iter().collect()));
        exchange(&mut pair);
        let question = BodyFrame::Data(Bytes::from_static(b"question"));
        assert_eq!(pair.server.poll_body(theirs, &cx()), Poll::Ready(Some(Ok(question))));
        assert_eq!(pair.server.poll_body(theirs, &cx()), Poll::Ready(None));
        let interim = pair.client.poll_head(ours, &cx());
        assert!(matches!(interim, Poll::Ready(Ok(HeadPart::Interim(head))) if head.status == 103));
        assert_eq!(pair.client.poll_head(ours, &cx()), Poll::Ready(Ok(HeadPart::Final(head, false))));
        let Poll::Ready(Some(Ok(BodyFrame::Data(data)))) = pair.client.poll_body(ours, &cx()) else { panic!() };
        assert_eq!(data, "answer");
        let Poll::Ready(Some(Ok(BodyFrame::Trailers(end)))) = pair.client.poll_body(ours, &cx()) else { panic!() };
        assert_eq!(end.get("grpc-status"), Some(&b"0"[..]));
        pair.client.release(ours);
        pair.server.release(theirs);
        assert_eq!((pair.client.open_streams(), pair.server.open_streams()), (0, 0));
    }
}

#[test]
fn a_large_head_travels_in_many_frames() {
    let mut pair = pair();
    let mut head = call();
    for n in 0..50 {
        head.fields.append(&format!("x-{n}"), &[b'v'; 1000]);
    }
    let (_, accepted) = open(&mut pair, &head, true);
    assert_eq!(accepted.head.unwrap().fields, head.fields);
    head.fields.append("x-more", &[b'v'; 20_000]);
    let (ours, accepted) = open(&mut pair, &head, true);
    assert_eq!(accepted.head.unwrap_err().reason, Reason::HeadTooLarge);
    // What was refused is in step: the next is read right.
    pair.client.release(ours);
    let (_, accepted) = open(&mut pair, &call(), false);
    assert_eq!(accepted.head.unwrap(), call());
}

#[test]
fn windows_follow_settings_also_below_zero() {
    let mut pair = pair();
    let (ours, theirs) = open(&mut pair, &call(), false);
    answer(&mut pair.server, theirs.key, &ResponseHead::new(200), false);
    pair.server.send_data(theirs.key, vec![0; 60_000].into());
    exchange(&mut pair);
    let settings = |window: u32| {
        let mut out = Vec::new();
        put(&mut out, SETTINGS, 0, 0, &[&[0, 4], &window.to_be_bytes()[..]].concat());
        out
    };
    // 256 KiB less 60,000 were left; now nothing is, and then less than nothing.
    pair.server.receive(&settings(1000), NOW).unwrap();
    pair.server.send_data(theirs.key, vec![0; 10_000].into());
    assert_eq!(pair.server.has_room(theirs.key), Ok(false));
    exchange(&mut pair);
    let held = |pair: &mut Pair| {
        let mut length = 0;
        while let Poll::Ready(Some(Ok(BodyFrame::Data(data)))) = pair.client.poll_body(ours, &cx()) {
            length += data.len();
        }
        length
    };
    assert_eq!(held(&mut pair), 60_000, "nothing of the second piece");
    pair.server.receive(&settings(70_000), NOW).unwrap();
    exchange(&mut pair);
    assert_eq!(held(&mut pair), 10_000);
    assert_eq!(pair.server.receive(&settings(1 << 31), NOW).unwrap_err().fault, Fault::FlowControl);
}

#[test]
fn a_drain_is_told_twice_and_serves_what_crosses_it() {
    let mut pair = pair();
    let (_, first) = open(&mut pair, &call(), true);
    pair.server.drain(Reason::Draining, NOW);
    let mut word = Vec::new();
    pair.server.produce(&mut word, 0);
    // A stream that crosses the first GOAWAY.
    let crossing = pair.client.open(
        |out| {
            put_request(out, &call(), SocketAddr::from(([127, 0, 0, 1], 80)));
            Ok(())
        },
        true,
    );
    let mut wire = Vec::new();
    pair.client.produce(&mut wire, 0);
    pair.server.receive(&wire, NOW).unwrap();
    let second = pair.server.next_accepted().unwrap();
    pair.client.receive(&word, NOW).unwrap();
    assert!(pair.client.is_draining() && pair.client.failure().is_none() && crossing.is_ok());
    exchange(&mut pair);
    assert!(!pair.server.is_drained());
    // One that comes all the same is refused, with its data, and the others are none the worse.
    let late = [raw(HEADERS, END_HEADERS, 5, &block(REQUEST)), raw(DATA, 1, 5, &[0; 10_000])].concat();
    pair.server.receive(&late, NOW).unwrap();
    for stream in [first, second] {
        answer(&mut pair.server, stream.key, &ResponseHead::new(204), true);
        pair.server.release(stream.key);
    }
    assert!(pair.server.is_drained());
}

#[test]
fn an_unread_request_is_answered_and_then_stopped() {
    let mut pair = pair();
    let (ours, theirs) = open(&mut pair, &call(), false);
    pair.server.release(theirs.key);
    answer(&mut pair.server, theirs.key, &ResponseHead::new(200), false);
    pair.server.send_data(theirs.key, Bytes::from_static(b"no"));
    pair.server.send_end(theirs.key, None);
    exchange(&mut pair);
    assert!(matches!(pair.client.poll_head(ours, &cx()), Poll::Ready(Ok(HeadPart::Final(_, false)))));
    assert!(matches!(pair.client.poll_body(ours, &cx()), Poll::Ready(Some(Ok(BodyFrame::Data(_))))));
    assert_eq!(pair.client.poll_body(ours, &cx()), Poll::Ready(None), "the answer is whole");
    assert!(pair.client.has_room(ours).is_err(), "and no more is sent");
    pair.client.release(ours);
    assert_eq!((pair.client.open_streams(), pair.server.open_streams()), (0, 0));
}

/// A block of literals.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).unwrap());
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

const REQUEST: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, kind, flags, stream, payload);
    out
}

/// One misbehaviour of a client each, on a connection where stream 1 is open and stream 3 has ended.
#[test]
fn rules_that_a_client_can_break() {
    let head = |id| raw(HEADERS, END_HEADERS | END_STREAM, id, &block(REQUEST));
    let flood = |frame: Vec<u8>| frame.repeat(1100);
    let full = vec![0; MAX_FRAME];
    let rapid: Vec<u8> =
        (0..2000).flat_map(|n| [head(5 + 2 * n), raw(RST_STREAM, 0, 5 + 2 * n, &[0; 4])].concat()).collect();
    let many: Vec<u8> = raw(HEADERS, 0, 5, &[]).into_iter().chain(raw(CONTINUATION, 0, 5, &[]).repeat(20)).collect();
    for (what, bytes, fault, expected) in [
        ("even id", head(6), Fault::Protocol, "opened after"),
        ("id 0", raw(HEADERS, 4, 0, &block(REQUEST)), Fault::Protocol, "on stream 0"),
        ("DATA on the connection", raw(DATA, 0, 0, b"x"), Fault::Protocol, "on stream 0"),
        ("DATA before the head", raw(DATA, 0, 9, b"x"), Fault::Protocol, "never opened"),
        ("DATA after the end", raw(DATA, 0, 3, b"x"), Fault::Protocol, "closed stream"),
        ("RST of nothing", raw(RST_STREAM, 0, 9, &[0; 4]), Fault::Protocol, "never opened"),
        ("short RST", raw(RST_STREAM, 0, 1, &[0; 3]), Fault::FrameSize, "3 bytes"),
        ("WINDOW_UPDATE of nothing", raw(WINDOW_UPDATE, 0, 9, &[0, 0, 0, 1]), Fault::Protocol, "never opened"),
        ("WINDOW_UPDATE by 0", raw(WINDOW_UPDATE, 0, 1, &[0; 4]), Fault::Protocol, "by nothing"),
        ("too much window", raw(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]), Fault::FlowControl, "out of range"),
        ("short WINDOW_UPDATE", raw(WINDOW_UPDATE, 0, 0, &[0; 3]), Fault::FrameSize, "4 bytes"),
        ("short PING", raw(PING, 0, 0, &[0; 7]), Fault::FrameSize, "7 bytes"),
        ("PING on a stream", raw(PING, 0, 1, &[0; 8]), Fault::Protocol, "on stream 1"),
        ("SETTINGS on a stream", raw(SETTINGS, 0, 1, &[]), Fault::Protocol, "on stream 1"),
        ("half a setting", raw(SETTINGS, 0, 0, &[0; 5]), Fault::FrameSize, "half a setting"),
        ("an ACK with bytes", raw(SETTINGS, ACK, 0, &[0; 6]), Fault::FrameSize, "with bytes"),
        ("frame size", raw(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]), Fault::Protocol, "frame size"),
        ("push", raw(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]), Fault::Protocol, "ENABLE_PUSH"),
        ("PUSH_PROMISE", raw(PUSH_PROMISE, 4, 1, &[0; 4]), Fault::Protocol, "not enabled"),
        ("short GOAWAY", raw(GOAWAY, 0, 0, &[0; 7]), Fault::FrameSize, "GOAWAY"),
        ("CONTINUATION alone", raw(CONTINUATION, 4, 1, &[]), Fault::Protocol, "without HEADERS"),
        (
            "another frame in a block",
            [raw(HEADERS, 0, 5, &[]), raw(PING, 0, 0, &[0; 8])].concat(),
            Fault::Protocol,
            "within",
        ),
        (
            "another stream in a block",
            [raw(HEADERS, 0, 5, &[]), raw(CONTINUATION, 4, 7, &[])].concat(),
            Fault::Protocol,
            "within",
        ),
        ("endless CONTINUATION", many, Fault::Calm, "too many bytes or frames"),
        ("an index out of the table", raw(HEADERS, 5, 5, &[0xff, 0x7f]), Fault::Compression, "beyond the table"),
        ("no priority", raw(HEADERS, 0x25, 5, &[0; 4]), Fault::FrameSize, "priority"),
        ("more padding than payload", raw(DATA, PADDED, 1, &[9, 0]), Fault::Protocol, "padding"),
        ("padding without a length", raw(DATA, PADDED, 1, &[]), Fault::FrameSize, "length of padding"),
        ("an oversize frame", vec![0, 0x40, 1, 0, 0, 0, 0, 0, 1], Fault::FrameSize, "16385 bytes"),
        ("window overflow", raw(DATA, 0, 1, &full).repeat(17), Fault::FlowControl, "window of stream 1"),
        ("PING flood", flood(raw(PING, 0, 0, &[0; 8])), Fault::Calm, "too many PINGs"),
        ("unasked PONG flood", flood(raw(PING, ACK, 0, &[9; 8])), Fault::Calm, "answers to no PING"),
        ("SETTINGS flood", flood(raw(SETTINGS, 0, 0, &[])), Fault::Calm, "too many SETTINGS"),
        ("PRIORITY flood", flood(raw(PRIORITY, 0, 1, &[0; 5])), Fault::Calm, "PRIORITY"),
        ("empty DATA flood", flood(raw(DATA, 0, 1, &[])), Fault::Calm, "empty DATA"),
        ("padding flood", flood(raw(DATA, PADDED, 1, &[0])), Fault::Calm, "empty DATA"),
        ("unknown frames flood", flood(raw(77, 0, 0, &[])), Fault::Calm, "unknown frames"),
        ("rapid reset", rapid, Fault::Calm, "streams reset"),
    ] {
        let mut pair = pair();
        let _ = open(&mut pair, &call(), false);
        let (ours, theirs) = open(&mut pair, &call(), true);
        answer(&mut pair.server, theirs.key, &ResponseHead::new(204), true);
        pair.server.release(theirs.key);
        exchange(&mut pair);
        pair.client.release(ours);
        let error = bytes
            .chunks(4096)
            .find_map(|piece| {
                let result = pair.server.receive(piece, NOW);
                while let Some(accepted) = pair.server.next_accepted() {
                    pair.server.release(accepted.key);
                }
                pair.server.produce(&mut Vec::new(), 0);
                result.err()
            })
            .unwrap_or_else(|| panic!("{what} was accepted"));
        assert!(error.text.contains(expected), "{what}: {error}");
        assert_eq!(error.fault, fault, "{what}");
        pair.server.close_for(&error);
        let mut farewell = Vec::new();
        pair.server.produce(&mut farewell, 0);
        let mut rest = &farewell[..];
        let last = std::iter::from_fn(|| frame::take(&mut rest).unwrap()).last().unwrap();
        assert_eq!((last.kind, &last.payload[4..8]), (GOAWAY, &code_of(fault).to_be_bytes()[..]), "{what}");
        assert_eq!(pair.server.open_streams(), 0, "{what}");
    }
}

#[test]
fn a_server_that_answers_wrongly_loses_the_stream_only() {
    let trailers = [raw(HEADERS, 4, 1, &[0x88]), raw(HEADERS, 4, 1, &block(&[("a", "b")]))].concat();
    let pseudo = [raw(HEADERS, 4, 1, &[0x88]), raw(HEADERS, 5, 1, &block(&[(":status", "200")]))].concat();
    for (bytes, expected) in [
        (raw(HEADERS, 5, 1, &[]), "no status"),
        (raw(HEADERS, 5, 1, &block(&[(":status", "2000")])), "invalid status"),
        (raw(HEADERS, 5, 1, &block(&[(":status", "101")])), "101"),
        (raw(HEADERS, 5, 1, &block(&[(":status", "103")])), "interim head that ends"),
        (raw(HEADERS, 5, 1, &block(&[(":status", "200"), (":path", "/")])), "no place"),
        (raw(HEADERS, 5, 1, &block(&[("x", "y"), (":status", "200")])), "behind a field"),
        (raw(HEADERS, 5, 1, &block(&[(":status", "200"), ("connection", "close")])), "connection-specific"),
        (raw(HEADERS, 5, 1, &block(&[(":status", "200"), ("X", "y")])), "malformed"),
        (trailers, "do not end the stream"),
        (pseudo, "no place"),
    ] {
        let mut pair = pair();
        let (ours, _) = open(&mut pair, &call(), true);
        pair.client.receive(&bytes, NOW).unwrap();
        let Poll::Ready(Err(error)) = pair.client.poll_head(ours, &cx()) else { panic!("{expected} was accepted") };
        assert_eq!((error.reason, error.unprocessed), (Reason::UpstreamProtocolError, false));
        assert!(error.detail.contains(expected), "{error}");
        let (again, _) = open(&mut pair, &call(), true);
        assert!(pair.client.poll_head(again, &cx()).is_pending(), "the connection is none the worse");
    }
}

#[test]
fn what_a_reset_says_about_the_request() {
    for (code, reason, unprocessed) in [
        (code::REFUSED_STREAM, Reason::RefusedStream, true),
        (code::CANCEL, Reason::UpstreamReset, false),
        (code::NO_ERROR, Reason::UpstreamReset, false),
        (99, Reason::UpstreamReset, false),
    ] {
        let mut pair = pair();
        let (ours, _) = open(&mut pair, &call(), true);
        pair.client.receive(&raw(RST_STREAM, 0, 1, &code.to_be_bytes()), NOW).unwrap();
        let Poll::Ready(Err(error)) = pair.client.poll_head(ours, &cx()) else { panic!("{code}") };
        assert_eq!((error.reason, error.unprocessed), (reason, unprocessed), "{code}");
    }
}

#[test]
fn requests_that_are_none() {
    let with = |without: &str, extra: &[(&str, &str)]| {
        let kept: Vec<_> = REQUEST.iter().filter(|(name, _)| *name != without).chain(extra).copied().collect();
        let mut pair = pair();
        pair.server.receive(&raw(HEADERS, 5, 1, &block(&kept)), NOW).unwrap();
        pair.server.next_accepted().unwrap().head
    };
    for (without, extra, expected) in [
        (":method", &[][..], "no method"),
        (":scheme", &[], "no scheme"),
        (":path", &[], "no path"),
        (":authority", &[], "no authority"),
        (":path", &[(":path", "a")], "slash"),
        (":path", &[(":path", "")], "slash"),
        (":path", &[(":path", "*")], "slash"),
        (":path", &[(":path", "/a b")], "invalid character"),
        (":path", &[(":path", "/a#b")], "invalid character"),
        (":path", &[(":path", "/\u{e9}\u{7f}")], "malformed"),
        (":method", &[(":method", "G T")], "invalid method"),
        (":method", &[(":method", "CONNECT")], "CONNECT with"),
        (":authority", &[(":authority", "u@a")], "invalid"),
        ("", &[(":path", "/again")], "more than once"),
        ("", &[(":status", "200")], "no place"),
        ("", &[(":protocol", "websocket")], "extended CONNECT"),
        ("", &[("x", "y"), (":path", "/")], "behind a field"),
        ("", &[("host", "b")], "Host differs"),
        ("", &[("host", "a"), ("host", "a")], "more than one Host"),
        ("", &[("content-length", "1")], "no body where"),
        ("", &[("content-length", "x")], "invalid Content-Length"),
        ("", &[("content-length", "0"), ("content-length", "0")], "more than one Content-Length"),
        ("", &[("te", "gzip")], "te other"),
        ("", &[("transfer-encoding", "chunked")], "connection-specific"),
        ("", &[("x", "a\r\nb: c")], "malformed"),
        ("", &[("a b", "c")], "malformed"),
        ("", &[("expect", "x")], "expectation"),
    ] {
        let refusal = with(without, extra).expect_err(expected);
        assert_eq!(refusal.reason, Reason::MalformedRequest);
        assert!(refusal.detail.contains(expected), "{expected}: {refusal:?}");
    }
    let head =
        with(":authority", &[("host", "b:1"), ("cookie", "a=1"), ("x", " y\t"), ("cookie", "b=2"), ("cookie", "")])
            .unwrap();
    assert_eq!(&head.authority[..], b"b:1");
    assert_eq!((head.fields.get("cookie"), head.fields.get("x")), (Some(&b"a=1; b=2"[..]), Some(&b"y"[..])));
    assert_eq!(head.fields.len(), 2);
    let names: Vec<String> = (0..101).map(|n| format!("h{n}")).collect();
    let many: Vec<_> = names.iter().map(|n| (n.as_str(), "x")).collect();
    assert_eq!(with("", &many).unwrap_err().reason, Reason::HeadTooLarge);
    assert_eq!(with("", &[("cookie", "c"); 500]).unwrap().fields.len(), 1);
}

#[test]
fn an_idle_connection_is_small() {
    let mut pair = pair();
    for _ in 0..100 {
        let (ours, theirs) = open(&mut pair, &call(), true);
        answer(&mut pair.server, theirs.key, &ResponseHead::new(204), true);
        pair.server.release(theirs.key);
        exchange(&mut pair);
        assert!(pair.client.poll_head(ours, &cx()).is_ready());
        pair.client.release(ours);
    }
    for engine in [&pair.client, &pair.server] {
        let heap = engine.heap() + engine.wire.heap();
        assert!(heap <= 8 * 1024, "{heap} bytes");
    }
    assert!(size_of::<Engine>() <= 800, "{}", size_of::<Engine>());
}

proptest! {
    /// Whatever a peer sends, it does the same however it is cut, and never panics.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400), kinds in prop::collection::vec((0_u8..11, any::<u8>(), 0_u32..8, 0_usize..40), 0..20)) {
        let mut wire = PREFACE.to_vec();
        wire.extend_from_slice(&raw(SETTINGS, 0, 0, &[]));
        let mut rest = &bytes[..];
        for (kind, flags, stream, length) in kinds {
            let (payload, tail) = rest.split_at(length.min(rest.len()));
            rest = tail;
            put(&mut wire, kind, flags, stream, payload);
        }
        let run = |step: usize| {
            let mut server = engine(Side::Termination);
            let outcome = wire.chunks(step).try_for_each(|piece| server.receive(piece, NOW));
            let mut out = Vec::new();
            server.produce(&mut out, 1 << 20);
            (outcome, out, server.open_streams())
        };
        prop_assert_eq!(run(usize::MAX), run(1));
    }
}
