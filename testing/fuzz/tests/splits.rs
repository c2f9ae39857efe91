//! Any split of the bytes gives the same events: well-formed connections of every kind, cut anywhere, also with garbage behind
//! them. The fuzz targets assert the same of bytes that nobody formed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use fuzz::cut;
use fuzz::h1::{self, Seen};
use fuzz::mux::{Observed, Spoken};
use fuzz::{h2, hop};
use leno_http::h1::chunked::write_size;
use leno_http::h2::wire::Http2Wire;
use leno_http::hop::Engine;
use leno_http::hop::frame::{self, Kind};
use leno_http::mux::limits::Budget;
use leno_http::mux::{self, Side};
use proptest::prelude::*;

/// A message: the lines of its head, its body, and whether that is chunked.
#[derive(Debug, Clone)]
struct Message {
    fields: Vec<(String, String)>,
    body: Vec<Vec<u8>>,
    is_chunked: bool,
    trailer: Option<String>,
}

fn message() -> impl Strategy<Value = Message> {
    let field = ("x-[a-z0-9]{1,8}", "([!-~]([ -~]{0,20}[!-~])?)?");
    (
        prop::collection::vec(field, 0..6),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 1..80), 0..4),
        any::<bool>(),
        prop::option::of("[a-z]{1,6}"),
    )
        .prop_map(|(fields, body, is_chunked, trailer)| Message { fields, body, is_chunked, trailer })
}

impl Message {
    fn put(&self, first: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(first.as_bytes());
        for (name, value) in &self.fields {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        let body = self.body.concat();
        if !self.is_chunked {
            out.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
            out.extend_from_slice(&body);
            return;
        }
        out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
        for piece in &self.body {
            write_size(piece.len(), out);
            out.extend_from_slice(piece);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n");
        if let Some(trailer) = &self.trailer {
            out.extend_from_slice(format!("x-t: {trailer}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Whether `seen`, the events of this message, are what was put.
    fn is_told_by(&self, seen: &[Seen]) -> bool {
        let body = self.body.concat();
        let told: Vec<u8> = seen.iter().flat_map(|s| if let Seen::Body(b) = s { b.clone() } else { vec![] }).collect();
        let fields = match &seen[0] {
            Seen::Request(head, true) => head.fields.len(),
            Seen::Response(head, _, true) => head.fields.len(),
            _ => return false,
        };
        let has_end = matches!(seen.last(), Some(Seen::Trailers(_)));
        told == body && fields == self.fields.len() && has_end == self.is_chunked
    }
}

/// The events of each message: from its head to the next one's.
fn by_message(seen: &[Seen]) -> Vec<&[Seen]> {
    let is_head = |s: &Seen| matches!(s, Seen::Request(..) | Seen::Response(..));
    let heads: Vec<usize> = (0..seen.len()).filter(|&i| is_head(&seen[i])).collect();
    let ends = heads.iter().skip(1).copied().chain([seen.len()]);
    heads.iter().zip(ends).map(|(&from, to)| &seen[from..to]).collect()
}

fn text(text: &'static str) -> impl FnOnce(&mut Vec<u8>) -> Result<(), leno_http::HeadError> {
    move |out| {
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// What an origination sends that opens one stream for each body.
fn origination(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut engine = Engine::new(Side::Origination, Rc::new(Budget::default()));
    let mut wire = Vec::new();
    engine.produce(&mut wire, usize::MAX >> 1);
    let mut hello = Vec::new();
    let big = frame::MAX_WINDOW;
    frame::Hello { oldest: 1, newest: 1, stream_window: big, connection_window: big, max_streams: 100 }.put(&mut hello);
    engine.receive(&hello, Duration::ZERO).unwrap();
    for body in bodies {
        let key = engine.open(text("head"), body.is_empty()).unwrap();
        engine.send_data(key, Bytes::copy_from_slice(body));
        engine.send_end(key, None);
    }
    engine.produce(&mut wire, usize::MAX >> 1);
    wire
}

/// What a termination answers on streams 3 and 5 (the first has ended): interim heads, a head, a body, trailers.
fn termination(bodies: &[Vec<u8>; 2]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (stream, body) in [3, 5].into_iter().zip(bodies) {
        frame::put(&mut wire, Kind::Info, 0, stream, b"103\r\n");
        frame::put(&mut wire, Kind::Head, 0, stream, b"200\r\n");
        for piece in body.chunks(frame::MAX_DATA) {
            frame::put(&mut wire, Kind::Data, 0, stream, piece);
        }
        frame::put(&mut wire, Kind::Trailers, 0, stream, b"x: y\r\n");
    }
    wire
}

/// What an HTTP/2 client sends that opens one stream for each body; the server's windows are as large as they may be.
fn h2_client(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut engine = Http2Wire::engine(Side::Origination, Rc::new(Budget::default()));
    let mut wire = Vec::new();
    engine.produce(&mut wire, usize::MAX >> 1);
    let most = (i32::MAX as u32).to_be_bytes();
    let mut settings = Vec::new();
    mux::frame::put(&mut settings, 4, 0, 0, &[&[0, 4], &most[..]].concat());
    mux::frame::put(&mut settings, 8, 0, 0, &0x7000_0000_u32.to_be_bytes());
    engine.receive(&settings, Duration::ZERO).unwrap();
    for body in bodies {
        let request = |out: &mut Vec<u8>| {
            Http2Wire::put_request(out);
            Ok(())
        };
        let key = engine.open(request, body.is_empty()).unwrap();
        engine.send_data(key, Bytes::copy_from_slice(body));
        engine.send_end(key, None);
    }
    engine.produce(&mut wire, usize::MAX >> 1);
    wire
}

/// What an HTTP/2 server answers on streams 3 and 5 (the first has ended): interim heads, a head, a body, trailers; each block
/// in two frames, each piece of a body padded.
fn h2_server(bodies: &[Vec<u8>; 2]) -> Vec<u8> {
    let mut wire = Vec::new();
    let block = |wire: &mut Vec<u8>, flags: u8, stream: u32, block: &[u8]| {
        mux::frame::put(wire, 1, flags, stream, &block[..3]);
        mux::frame::put(wire, 9, 4, stream, &block[3..]);
    };
    for (stream, body) in [3, 5].into_iter().zip(bodies) {
        block(&mut wire, 0, stream, b"\x08\x03103\x40\x04link\x01x");
        block(&mut wire, 0, stream, b"\x88\xbe\x0f\x10\x01a");
        for piece in body.chunks(1000) {
            mux::frame::put(&mut wire, 0, 8, stream, &[&[2], piece, &[0, 0]].concat());
        }
        block(&mut wire, 1, stream, b"\x40\x0bgrpc-status\x010");
    }
    wire
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn h1_requests(messages in prop::collection::vec(message(), 1..5), garbage in prop::collection::vec(any::<u8>(), 0..60), cuts in prop::collection::vec(0_u8..40, 0..8)) {
        let mut wire = Vec::new();
        for message in &messages {
            message.put("POST /a?b HTTP/1.1\r\nhost: web\r\n", &mut wire);
        }
        let length = wire.len();
        for rest in [&[][..], &garbage] {
            wire.truncate(length);
            wire.extend_from_slice(rest);
            let (whole, pieces) = (h1::read(0, std::iter::once(&wire[..])), h1::read(0, cut(&wire, &cuts)));
            prop_assert_eq!(&whole, &pieces);
            let told = by_message(&whole);
            prop_assert!(told.len() >= messages.len());
            if rest.is_empty() {
                prop_assert_eq!(told.len(), messages.len());
                prop_assert!(messages.iter().zip(told).all(|(m, t)| m.is_told_by(t)), "{:?}", whole);
            }
        }
    }

    #[test]
    fn h1_responses(messages in prop::collection::vec(message(), 1..5), garbage in prop::collection::vec(any::<u8>(), 0..60), cuts in prop::collection::vec(0_u8..40, 0..8)) {
        let mut wire = Vec::new();
        for message in &messages {
            wire.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n");
            message.put("HTTP/1.1 200 OK\r\n", &mut wire);
        }
        let length = wire.len();
        for rest in [&[][..], &garbage] {
            wire.truncate(length);
            wire.extend_from_slice(rest);
            let (whole, pieces) = (h1::read(1, std::iter::once(&wire[..])), h1::read(1, cut(&wire, &cuts)));
            prop_assert_eq!(&whole, &pieces);
            let told = by_message(&whole);
            if rest.is_empty() {
                prop_assert_eq!(told.len(), 2 * messages.len());
                prop_assert!(messages.iter().zip(told.chunks(2)).all(|(m, t)| m.is_told_by(t[1])), "{:?}", whole);
            }
        }
    }

    #[test]
    fn hop_streams(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20_000), 1..5), garbage in prop::collection::vec(any::<u8>(), 0..60), cuts in prop::collection::vec(any::<u8>(), 0..8)) {
        let mut wire = origination(&bodies);
        let length = wire.len();
        for rest in [&[][..], &garbage] {
            wire.truncate(length);
            wire.extend_from_slice(rest);
            // 6: the peer says HELLO itself.
            let (whole, pieces) = (hop::observe(6, std::iter::once(&wire[..])), hop::observe(6, cut(&wire, &cuts)));
            prop_assert_eq!(&whole, &pieces);
            if rest.is_empty() {
                prop_assert_eq!(&whole.bodies, &bodies);
                prop_assert_eq!(whole.seen.len(), bodies.len(), "heads and no error: {:?}", whole.seen);
            }
        }
    }

    #[test]
    fn hop_answers(first in prop::collection::vec(any::<u8>(), 0..20_000), second in prop::collection::vec(any::<u8>(), 0..200), garbage in prop::collection::vec(any::<u8>(), 0..60), cuts in prop::collection::vec(any::<u8>(), 0..8)) {
        let bodies = [first, second];
        let mut wire = termination(&bodies);
        let length = wire.len();
        for rest in [&[][..], &garbage] {
            wire.truncate(length);
            wire.extend_from_slice(rest);
            let (whole, pieces) = (hop::observe(1, std::iter::once(&wire[..])), hop::observe(1, cut(&wire, &cuts)));
            prop_assert_eq!(&whole, &pieces);
            if rest.is_empty() {
                let Observed { seen, bodies: told, .. } = &whole;
                prop_assert_eq!(&told[1..], &bodies[..]);
                prop_assert_eq!(seen.len(), 6, "an interim head, a head and trailers for each: {:?}", seen);
            }
        }
    }

    #[test]
    fn h2_requests(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20_000), 1..5), garbage in prop::collection::vec(any::<u8>(), 0..60), cuts in prop::collection::vec(any::<u8>(), 0..8)) {
        let mut wire = h2_client(&bodies);
        let length = wire.len();
        for rest in [&[][..], &garbage] {
            wire.truncate(length);
            wire.extend_from_slice(rest);
            // 6: the peer says its preface and SETTINGS itself.
            let (whole, pieces) = (h2::observe(6, std::iter::once(&wire[..])), h2::observe(6, cut(&wire, &cuts)));
            prop_assert_eq!(&whole, &pieces);
            if rest.is_empty() {
                prop_assert_eq!(&whole.bodies, &bodies);
                prop_assert_eq!(whole.seen.len(), bodies.len(), "heads and no error: {:?}", whole.seen);
            }
        }
    }

    #[test]
    fn h2_answers(first in prop::collection::vec(any::<u8>(), 0..20_000), second in prop::collection::vec(any::<u8>(), 0..200), garbage in prop::collection::vec(any::<u8>(), 0..60), cuts in prop::collection::vec(any::<u8>(), 0..8)) {
        let bodies = [first, second];
        let mut wire = h2_server(&bodies);
        let length = wire.len();
        for rest in [&[][..], &garbage] {
            wire.truncate(length);
            wire.extend_from_slice(rest);
            let (whole, pieces) = (h2::observe(1, std::iter::once(&wire[..])), h2::observe(1, cut(&wire, &cuts)));
            prop_assert_eq!(&whole, &pieces);
            if rest.is_empty() {
                prop_assert_eq!(&whole.bodies[1..], &bodies[..]);
                prop_assert_eq!(whole.seen.len(), 6, "an interim head, a head and trailers for each: {:?}", whole.seen);
            }
        }
    }
}
