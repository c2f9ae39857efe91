//! Both ends of a hop in memory: every rule of the state machine without a socket.

mod memory;
mod relief;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use bytes::Bytes;

use super::limits::STREAM_WINDOW;
use super::*;
use crate::hop::Engine;
use crate::hop::frame::{self, Kind};
use crate::hop::wire::HopWire;
use crate::mux::limits::SEND_QUEUE;
use proptest::prelude::*;

const NOW: Duration = Duration::ZERO;

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

struct Count(AtomicUsize);
impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Pair {
    client: Engine,
    server: Engine,
    budget: Rc<Budget>,
}

/// Moves everything both ways until nothing moves; cut into pieces of `step` bytes.
fn exchange(pair: &mut Pair, step: usize) {
    for _ in 0..1000 {
        let mut moved = false;
        for (from, to) in [(0, 1), (1, 0)] {
            let ends = [&mut pair.client, &mut pair.server];
            let [client, server] = ends;
            let (from, to) = if from < to { (client, server) } else { (server, client) };
            let mut wire = Vec::new();
            while from.has_output() {
                from.produce(&mut wire, 64 * 1024);
            }
            moved |= !wire.is_empty();
            for piece in wire.chunks(step) {
                to.receive(piece, NOW).unwrap();
            }
        }
        if !moved {
            return;
        }
    }
    panic!("the two ends never rest");
}

fn pair() -> Pair {
    let budget = Rc::new(Budget::default());
    let client = Engine::new(Side::Origination, Rc::clone(&budget));
    let server = Engine::new(Side::Termination, Rc::clone(&budget));
    let mut pair = Pair { client, server, budget };
    exchange(&mut pair, usize::MAX);
    assert!(pair.client.is_ready() && pair.server.is_ready());
    pair
}

fn text(text: &str) -> impl FnOnce(&mut Vec<u8>) -> Result<(), HeadError> {
    move |out| {
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
use crate::head::HeadError;

fn open(pair: &mut Pair, is_end: bool) -> (StreamKey, StreamKey) {
    let ours = pair.client.open(text("request"), is_end).unwrap();
    exchange(pair, usize::MAX);
    let accepted = pair.server.next_accepted().unwrap();
    assert_eq!((&accepted.head[..], accepted.is_ended), (&b"request"[..], is_end));
    (ours, accepted.key)
}

fn read_all(engine: &mut Engine, key: StreamKey) -> usize {
    let mut sum = 0;
    while let Poll::Ready(Some(Ok(Frame::Data(bytes)))) = engine.poll_body(key, &cx()) {
        sum += bytes.len();
    }
    sum
}

fn put_frame(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put(&mut out, kind, flags, stream, payload);
    out
}

#[test]
fn a_request_and_its_response_leave_nothing() {
    let mut pair = pair();
    let (ours, theirs) = open(&mut pair, false);
    pair.client.send_data(ours, Bytes::from_static(b"question"));
    pair.client.send_end(ours, None);
    exchange(&mut pair, 3);
    assert_eq!(
        pair.server.poll_body(theirs, &cx()),
        Poll::Ready(Some(Ok(Frame::Data(Bytes::from_static(b"question")))))
    );
    assert_eq!(pair.server.poll_body(theirs, &cx()), Poll::Ready(None));
    pair.server.release(theirs);
    assert!(pair.client.poll_head(ours, &cx()).is_pending());
    pair.server.send_info(theirs, text("103")).unwrap();
    pair.server.send_head(theirs, false, text("200")).unwrap();
    pair.server.send_data(theirs, Bytes::from_static(b"answer"));
    pair.server.send_end(theirs, Some(&crate::Fields::parse(Bytes::from_static(b"a: 1\r\n")).unwrap()));
    exchange(&mut pair, 3);
    assert_eq!(pair.client.poll_head(ours, &cx()), Poll::Ready(Ok(HeadPart::Interim(Bytes::from_static(b"103")))));
    assert_eq!(pair.client.poll_head(ours, &cx()), Poll::Ready(Ok(HeadPart::Final(Bytes::from_static(b"200"), false))));
    assert_eq!(pair.client.poll_body(ours, &cx()), Poll::Ready(Some(Ok(Frame::Data(Bytes::from_static(b"answer"))))));
    let Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) = pair.client.poll_body(ours, &cx()) else {
        panic!("trailers")
    };
    assert_eq!(trailers.get("a"), Some(&b"1"[..]));
    assert_eq!(pair.client.poll_body(ours, &cx()), Poll::Ready(None));
    pair.client.release(ours);
    for engine in [&pair.client, &pair.server] {
        assert_eq!((engine.open_streams(), engine.streams.len(), engine.by_id.len()), (0, 0, 0));
    }
    assert_eq!(pair.budget.held(), 0);
}

#[test]
fn an_end_in_the_head_needs_no_more_frames() {
    let mut pair = pair();
    let (ours, theirs) = open(&mut pair, true);
    assert_eq!(pair.server.poll_body(theirs, &cx()), Poll::Ready(None));
    pair.server.release(theirs);
    pair.server.send_head(theirs, true, text("204")).unwrap();
    exchange(&mut pair, 1);
    assert_eq!(pair.client.poll_head(ours, &cx()), Poll::Ready(Ok(HeadPart::Final(Bytes::from_static(b"204"), true))));
    pair.client.release(ours);
    assert_eq!((pair.client.streams.len(), pair.server.streams.len()), (0, 0));
}

#[test]
fn a_stalled_reader_holds_one_window_and_stops_nobody() {
    let mut pair = pair();
    let mut stalled = Vec::new();
    for _ in 0..12 {
        let (ours, theirs) = open(&mut pair, true);
        pair.server.send_head(theirs, false, text("200")).unwrap();
        pair.server.send_data(theirs, vec![0; 1 << 20].into());
        stalled.push((ours, theirs));
    }
    exchange(&mut pair, usize::MAX);
    // 12 windows of 256 KiB are far beyond the connection's 1 MiB, and each stream got its own.
    assert_eq!(pair.client.bytes_held().0, 12 * STREAM_WINDOW as usize);
    let (ours, theirs) = open(&mut pair, true);
    pair.server.send_head(theirs, false, text("200")).unwrap();
    pair.server.send_data(theirs, vec![0; 1000].into());
    exchange(&mut pair, usize::MAX);
    assert_eq!(read_all(&mut pair.client, ours), 1000);
    for (ours, _) in stalled {
        let mut sum = 0;
        while sum < 1 << 20 {
            sum += read_all(&mut pair.client, ours);
            exchange(&mut pair, usize::MAX);
        }
    }
    assert_eq!(pair.budget.held(), 0);
}

#[test]
fn over_the_workers_budget_the_connection_window_closes_and_opens_again() {
    let mut pair = pair();
    pair.budget.add(WORKER_BUDGET);
    let (ours, theirs) = open(&mut pair, true);
    let (ours2, theirs2) = open(&mut pair, true);
    for key in [theirs, theirs2] {
        pair.server.send_head(key, false, text("200")).unwrap();
        for _ in 0..64 {
            pair.server.send_data(key, vec![0; 64 * 1024].into());
            exchange(&mut pair, usize::MAX);
        }
    }
    assert!(pair.client.bytes_held().0 <= CONNECTION_WINDOW as usize);
    let mut sum = 0;
    while sum < 2 * 64 * 64 * 1024 {
        let more = read_all(&mut pair.client, ours) + read_all(&mut pair.client, ours2);
        assert!(more > 0, "stuck after {sum}");
        sum += more;
        exchange(&mut pair, usize::MAX);
    }
    pair.budget.sub(WORKER_BUDGET);
    assert_eq!(pair.budget.held(), 0);
}

#[test]
fn the_writer_waits_for_window_and_queue_and_is_woken_once() {
    let mut pair = pair();
    let (ours, theirs) = open(&mut pair, false);
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let cx = Context::from_waker(&waker);
    let mut sent = 0;
    while pair.client.poll_room(ours, &cx).is_ready() {
        pair.client.send_data(ours, vec![0; 8192].into());
        sent += 8192;
    }
    assert_eq!(sent, SEND_QUEUE);
    exchange(&mut pair, usize::MAX);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    // Now up to the stream's window, which nobody reads.
    while sent < STREAM_WINDOW as usize {
        assert!(pair.client.poll_room(ours, &cx).is_ready());
        pair.client.send_data(ours, vec![0; 8192].into());
        sent += 8192;
        exchange(&mut pair, usize::MAX);
    }
    assert!(pair.client.poll_room(ours, &cx).is_pending());
    exchange(&mut pair, usize::MAX);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert_eq!(read_all(&mut pair.server, theirs), sent);
    exchange(&mut pair, usize::MAX);
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
    assert!(pair.client.poll_room(ours, &cx).is_ready());
}

#[test]
fn bulk_streams_take_turns_with_small_ones() {
    let mut pair = pair();
    let bulk = open(&mut pair, true).1;
    let small = open(&mut pair, true).1;
    for key in [bulk, small] {
        pair.server.send_head(key, false, text("200")).unwrap();
    }
    pair.server.send_data(bulk, vec![1; 200_000].into());
    pair.server.send_data(small, vec![2; 10].into());
    let mut wire = Vec::new();
    pair.server.produce(&mut wire, 1 << 20);
    let mut rest = &wire[..];
    let mut data = Vec::new();
    while let Some(frame) = frame::take(&mut rest).unwrap() {
        if frame.kind == Some(Kind::Data) {
            data.push((frame.stream, frame.payload.len()));
        }
    }
    assert_eq!(data[..3], [(1, frame::MAX_DATA), (3, 10), (1, frame::MAX_DATA)]);
}

#[test]
fn a_cancelled_stream_is_forgotten_and_what_crosses_it_is_dropped() {
    let mut pair = pair();
    let (ours, theirs) = open(&mut pair, false);
    pair.server.send_head(theirs, false, text("200")).unwrap();
    pair.server.send_data(theirs, vec![0; 100_000].into());
    assert!(pair.server.poll_gone(theirs, &cx()).is_pending());
    pair.client.release(ours);
    // The answer and the RESET cross.
    exchange(&mut pair, usize::MAX);
    assert!(pair.server.poll_gone(theirs, &cx()).is_ready());
    pair.server.release(theirs);
    assert_eq!((pair.client.streams.len(), pair.server.streams.len(), pair.budget.held()), (0, 0, 0));
    assert_eq!(pair.server.poll_room(theirs, &cx()), Poll::Ready(Err(send::Stopped)));
}

#[test]
fn either_direction_may_end_first() {
    let mut pair = pair();
    let (ours, theirs) = open(&mut pair, false);
    pair.server.send_head(theirs, true, text("200")).unwrap();
    exchange(&mut pair, usize::MAX);
    pair.client.release(ours);
    pair.client.send_data(ours, Bytes::from_static(b"still sending"));
    exchange(&mut pair, usize::MAX);
    assert_eq!(read_all(&mut pair.server, theirs), 13);
    pair.client.send_end(ours, None);
    exchange(&mut pair, usize::MAX);
    assert_eq!(pair.server.poll_body(theirs, &cx()), Poll::Ready(None));
    pair.server.release(theirs);
    assert_eq!((pair.client.streams.len(), pair.server.streams.len()), (0, 0));
}

#[test]
fn a_reader_that_stops_does_not_spoil_the_answer() {
    let mut pair = pair();
    let (ours, theirs) = open(&mut pair, false);
    pair.client.send_data(ours, vec![0; 50_000].into());
    pair.server.send_head(theirs, false, text("413")).unwrap();
    pair.server.send_data(theirs, Bytes::from_static(b"too long"));
    pair.server.send_end(theirs, None);
    pair.server.release(theirs);
    exchange(&mut pair, usize::MAX);
    assert_eq!(pair.client.poll_room(ours, &cx()), Poll::Ready(Err(send::Stopped)));
    assert!(matches!(pair.client.poll_head(ours, &cx()), Poll::Ready(Ok(HeadPart::Final(_, false)))));
    assert_eq!(read_all(&mut pair.client, ours), 8);
    assert_eq!(pair.client.poll_body(ours, &cx()), Poll::Ready(None));
    pair.client.release(ours);
    assert_eq!((pair.client.streams.len(), pair.server.streams.len(), pair.budget.held()), (0, 0, 0));
}

#[test]
fn a_refusal_says_whether_it_was_processed() {
    let mut pair = pair();
    for unprocessed in [true, false] {
        let (ours, theirs) = open(&mut pair, true);
        pair.server.reset(theirs, Reason::DeniedByPolicy, unprocessed, "policy x");
        exchange(&mut pair, usize::MAX);
        let expected = StreamError { reason: Reason::DeniedByPolicy, unprocessed, detail: "policy x".into() };
        assert_eq!(pair.client.poll_head(ours, &cx()), Poll::Ready(Err(expected)));
    }
}

#[test]
fn draining_serves_what_crosses_it() {
    let mut pair = pair();
    let (_, early) = open(&mut pair, true);
    pair.server.drain(Reason::Draining, NOW);
    let late = pair.client.open(text("request"), true).unwrap();
    exchange(&mut pair, usize::MAX);
    let accepted = pair.server.next_accepted().unwrap();
    assert_eq!(pair.client.room().unwrap_err().reason, Reason::RefusedStream);
    assert!(!pair.server.is_drained());
    for key in [early, accepted.key] {
        pair.server.release(key);
        pair.server.send_head(key, true, text("200")).unwrap();
    }
    exchange(&mut pair, usize::MAX);
    assert!(pair.client.poll_head(late, &cx()).is_ready());
    assert!(pair.server.is_drained() && pair.client.is_drained());
}

#[test]
fn a_loss_tells_what_cannot_have_been_processed() {
    let mut pair = pair();
    let (sent, _) = open(&mut pair, true);
    let unsent = pair.client.open(text("request"), true).unwrap();
    pair.client.fail(Reason::UpstreamReset, "gone");
    let unprocessed = |poll| match poll {
        Poll::Ready(Err(StreamError { unprocessed, .. })) => unprocessed,
        other => panic!("{other:?}"),
    };
    assert!(!unprocessed(pair.client.poll_head(sent, &cx())));
    assert!(unprocessed(pair.client.poll_head(unsent, &cx())));
    assert!(pair.client.open(text("request"), true).unwrap_err().unprocessed);
}

#[test]
fn a_goaway_with_a_last_stream_frees_the_later_ones_for_a_retry() {
    let mut pair = pair();
    let (first, _) = open(&mut pair, true);
    let later = pair.client.open(text("request"), true).unwrap();
    let mut lost = Vec::new();
    pair.client.produce(&mut lost, 0);
    pair.server.close(Reason::CertificateRevoked, "serial 7");
    exchange(&mut pair, usize::MAX);
    pair.client.fail(Reason::UpstreamReset, "closed");
    let error = |poll| match poll {
        Poll::Ready(Err(error)) => error,
        other => panic!("{other:?}"),
    };
    let first: StreamError = error(pair.client.poll_head(first, &cx()));
    let later: StreamError = error(pair.client.poll_head(later, &cx()));
    assert_eq!((first.reason, first.unprocessed), (Reason::CertificateRevoked, false));
    assert_eq!((later.reason, later.unprocessed), (Reason::RefusedStream, true));
}

#[test]
fn silence_is_asked_about_and_then_fatal() {
    let mut pair = pair();
    assert_eq!(pair.client.tick(Duration::from_secs(100)).unwrap(), Duration::from_secs(130));
    open(&mut pair, true);
    let asked = pair.client.tick(Duration::from_secs(30)).unwrap();
    assert_eq!(asked, Duration::from_secs(45));
    let mut wire = Vec::new();
    pair.client.produce(&mut wire, 0);
    assert!(pair.client.tick(Duration::from_secs(45)).is_err());
    pair.server.receive(&wire, NOW).unwrap();
    exchange(&mut pair, usize::MAX);
    assert!(pair.client.tick(Duration::from_secs(45)).is_ok());
}

#[test]
fn streams_over_the_limit_are_refused_unprocessed() {
    let mut pair = pair();
    for _ in 0..MAX_STREAMS {
        pair.client.open(text("request"), true).unwrap();
    }
    assert_eq!(pair.client.open(text("request"), true).unwrap_err().reason, Reason::RefusedStream);
    exchange(&mut pair, usize::MAX);
    // A peer that does not count is told stream by stream.
    pair.server.receive(&put_frame(Kind::Head, frame::END, 2 * MAX_STREAMS + 1, b"request"), NOW).unwrap();
    let mut wire = Vec::new();
    pair.server.produce(&mut wire, 0);
    let answer = frame::take(&mut &wire[..]).unwrap().unwrap();
    assert_eq!((answer.kind, answer.flags & frame::UNPROCESSED), (Some(Kind::Reset), frame::UNPROCESSED));
    assert!(answer.payload.starts_with(b"refused_stream"));
    assert_eq!(pair.server.open_streams(), MAX_STREAMS);
}

/// One misbehaviour each, on a hop where stream 1 is open both ways and stream 3 has ended regularly.
#[test]
fn rules_that_a_peer_can_break() {
    let window = |n: u32| n.to_be_bytes().to_vec();
    let full = vec![0; frame::MAX_DATA];
    let overflow = [0; 17].iter().flat_map(|_| put_frame(Kind::Data, 0, 1, &full)).collect::<Vec<_>>();
    let head = |id| put_frame(Kind::Head, frame::END, id, b"x");
    let hello = {
        let mut out = Vec::new();
        HopWire.put_greeting(&mut out);
        out
    };
    let flood = |frame: Vec<u8>, n: usize| frame.repeat(n);
    let rapid: Vec<u8> =
        (0..11_000).flat_map(|n| [head(5 + 2 * n), put_frame(Kind::Reset, 0, 5 + 2 * n, b"x")].concat()).collect();
    for (what, bytes, expected) in [
        ("id reused", head(1), "opened after"),
        ("id of a closed stream", head(3), "opened after"),
        ("even id", head(6), "opened after"),
        ("DATA on a stream that was never opened", put_frame(Kind::Data, 0, 99, b"x"), "never opened"),
        ("RESET of a stream that was never opened", put_frame(Kind::Reset, 0, 99, b"x"), "never opened"),
        ("WINDOW of a stream that was never opened", put_frame(Kind::Window, 0, 99, &window(1)), "never opened"),
        ("DATA after the end", put_frame(Kind::Data, 0, 3, b"x"), "closed stream"),
        ("TRAILERS after the end", put_frame(Kind::Trailers, 0, 3, b"a: 1\r\n"), "closed stream"),
        ("window overflow", overflow, "more DATA than the window"),
        ("no credit", put_frame(Kind::Window, 0, 0, &window(0)), "out of range"),
        ("too much credit", put_frame(Kind::Window, 0, 1, &window(u32::MAX)), "out of range"),
        ("too much credit in all", put_frame(Kind::Window, 0, 0, &window(i32::MAX as u32)), "out of range"),
        ("short WINDOW", put_frame(Kind::Window, 0, 0, b"abc"), "malformed WINDOW"),
        ("short PING", put_frame(Kind::Ping, 0, 0, b"abc"), "malformed PING"),
        ("unasked PONG", put_frame(Kind::Ping, frame::ACK, 0, &[9; 8]), "not sent"),
        ("short GOAWAY", put_frame(Kind::Goaway, 0, 0, b"abc"), "malformed GOAWAY"),
        ("second HELLO", hello, "second HELLO"),
        ("INFO from the origination", put_frame(Kind::Info, 0, 1, b"100"), "interim head from"),
        ("STOP from the origination", put_frame(Kind::Stop, 0, 1, b""), "STOP from"),
        ("PING flood", flood(put_frame(Kind::Ping, 0, 0, &[0; 8]), 1002), "too many PINGs"),
        ("empty DATA flood", flood(put_frame(Kind::Data, 0, 1, b""), 1001), "too many empty"),
        ("unknown frames flood", flood(vec![0, 0, 0, 77, 0, 0, 0, 0, 0], 1001), "too many unknown"),
        ("rapid reset", rapid, "too many streams"),
        ("critical unknown frame", vec![0, 0, 0, 77, frame::CRITICAL, 0, 0, 0, 0], "critical"),
        ("oversize frame", vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1], "over its bound"),
    ] {
        let mut pair = pair();
        open(&mut pair, false);
        let (ours, theirs) = open(&mut pair, true);
        pair.server.send_head(theirs, true, text("200")).unwrap();
        pair.server.release(theirs);
        exchange(&mut pair, usize::MAX);
        pair.client.release(ours);
        let error = bytes
            .chunks(64 * 1024)
            .find_map(|piece| {
                let result = pair.server.receive(piece, NOW);
                while let Some(accepted) = pair.server.next_accepted() {
                    pair.server.reset(accepted.key, Reason::Overloaded, true, "");
                    pair.server.release(accepted.key);
                }
                let mut sink = Vec::new();
                pair.server.produce(&mut sink, 0);
                result.err()
            })
            .unwrap_or_else(|| panic!("{what} was accepted"));
        assert!(error.text.contains(expected), "{what}: {error}");
        pair.server.close(Reason::UpstreamProtocolError, &error.text);
        let mut farewell = Vec::new();
        pair.server.produce(&mut farewell, 0);
        assert!(farewell.windows(23).any(|w| w == b"upstream_protocol_error"), "{what}");
    }
}

#[test]
fn a_peer_that_never_reads_cannot_make_answers_grow() {
    let mut pair = pair();
    let mut refused = 0;
    let result = (0..1_000_000_u32).find_map(|n| {
        refused = n;
        pair.server.receive(&put_frame(Kind::Head, frame::END, 1 + 2 * n, b"x"), NOW).err()
    });
    assert!(result.unwrap().text.contains("more answers than it reads"));
    assert!(pair.server.control.len() < 512 * 1024 && refused > MAX_STREAMS);
}

#[test]
fn the_first_frame_must_be_hello() {
    for (bytes, expected) in [
        (put_frame(Kind::Ping, 0, 0, &[0; 8]), "not HELLO"),
        (put_frame(Kind::Hello, 0, 0, b"\0\x01"), "malformed HELLO"),
        (put_frame(Kind::Hello, 0, 0, b"\0\x02\0\x03"), "no common version"),
        (put_frame(Kind::Hello, 0, 0, b"\0\x03\0\x02"), "malformed HELLO"),
    ] {
        let mut server = Engine::new(Side::Termination, Rc::default());
        assert!(server.receive(&bytes, NOW).unwrap_err().text.contains(expected), "{expected}");
    }
}

#[test]
fn what_this_version_does_not_know_is_skipped() {
    let mut pair = pair();
    pair.server.receive(&[vec![0, 0, 3, 77, 0x7f, 0, 0, 0, 9], b"abc".to_vec()].concat(), NOW).unwrap();
    open(&mut pair, true);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any cut of the same bytes gives the same streams, and any order of work carries every byte.
    #[test]
    fn every_byte_arrives_however_it_is_cut(
        sizes in proptest::collection::vec((0_usize..300_000, 0_usize..300_000), 1..6),
        step in prop_oneof![1_usize..64, Just(16_384), Just(usize::MAX)],
        budget in 1_usize..100_000,
    ) {
        let mut pair = pair();
        let mut streams = Vec::new();
        for (up, down) in sizes {
            let (ours, theirs) = open(&mut pair, false);
            pair.client.send_data(ours, vec![1; up].into());
            pair.client.send_end(ours, None);
            pair.server.send_head(theirs, false, text("200")).unwrap();
            pair.server.send_data(theirs, vec![2; down].into());
            pair.server.send_end(theirs, None);
            streams.push((ours, theirs, up, down));
        }
        let mut wire = Vec::new();
        for _ in 0..4000 {
            wire.clear();
            pair.client.produce(&mut wire, budget);
            for piece in wire.chunks(step) { pair.server.receive(piece, NOW).unwrap(); }
            wire.clear();
            pair.server.produce(&mut wire, budget);
            for piece in wire.chunks(step) { pair.client.receive(piece, NOW).unwrap(); }
            for (ours, theirs, up, down) in &mut streams {
                *up -= read_all(&mut pair.server, *theirs);
                *down -= read_all(&mut pair.client, *ours);
            }
            if streams.iter().all(|s| s.2 + s.3 == 0) && !pair.client.has_output() && !pair.server.has_output() { break; }
        }
        for (ours, theirs, up, down) in streams {
            prop_assert_eq!((up, down), (0, 0));
            prop_assert_eq!(pair.server.poll_body(theirs, &cx()), Poll::Ready(None));
            prop_assert!(matches!(pair.client.poll_head(ours, &cx()), Poll::Ready(Ok(HeadPart::Final(..)))));
            prop_assert_eq!(pair.client.poll_body(ours, &cx()), Poll::Ready(None));
            pair.server.release(theirs);
            pair.client.release(ours);
        }
        prop_assert_eq!((pair.client.streams.len(), pair.server.streams.len(), pair.budget.held()), (0, 0, 0));
    }

    #[test]
    fn nothing_a_peer_sends_panics(frames in proptest::collection::vec((0_u8..11, any::<u8>(), 0_u32..8, proptest::collection::vec(any::<u8>(), 0..40)), 0..60), step in 1_usize..50) {
        for side in [Side::Termination, Side::Origination] {
            let mut engine = Engine::new(side, Rc::default());
            let mut bytes = Vec::new();
            HopWire.put_greeting(&mut bytes);
            engine.receive(&bytes, NOW).unwrap();
            if side == Side::Origination {
                for _ in 0..3 { engine.open(text("x"), false).unwrap(); }
            }
            bytes.clear();
            for (kind, flags, stream, payload) in &frames {
                let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
                bytes.extend_from_slice(&[length[1], length[2], length[3], *kind, flags & 0x7f]);
                bytes.extend_from_slice(&stream.to_be_bytes());
                bytes.extend_from_slice(payload);
            }
            for piece in bytes.chunks(step) {
                if let Err(error) = engine.receive(piece, NOW) {
                    engine.close(Reason::UpstreamProtocolError, &error.text);
                    break;
                }
                while let Some(accepted) = engine.next_accepted() {
                    let _ = engine.send_head(accepted.key, false, text("200"));
                    engine.send_data(accepted.key, Bytes::from_static(b"abc"));
                    let _ = engine.poll_body(accepted.key, &cx());
                }
                let mut sink = Vec::new();
                engine.produce(&mut sink, 1000);
            }
        }
    }
}
