//! The hop: frames, the state of both ends, heads as text.

use std::rc::Rc;

use bytes::Bytes;
use leno_http::hop::wire::HopWire;
use leno_http::hop::{Engine, StreamKind, StreamMeta, frame, head_text};
use leno_http::mux::limits::Budget;
use leno_http::mux::{ProtocolError, Side};
use leno_http::{Method, RequestHead};
use leno_model::{AppProtocol, Reason};

use crate::mux::{self, Observed, Spoken};

impl Spoken for HopWire {
    fn engine(side: Side, budget: Rc<Budget>) -> Engine {
        Engine::new(side, budget)
    }

    fn greeting(_: Side) -> Vec<u8> {
        let mut hello = Vec::new();
        frame::Hello {
            oldest: frame::VERSION,
            newest: frame::VERSION,
            stream_window: 64 * 1024,
            connection_window: 128 * 1024,
            max_streams: 16,
        }
        .put(&mut hello);
        hello
    }

    fn put_request(out: &mut Vec<u8>) {
        out.extend_from_slice(b"request");
    }

    fn put_response(out: &mut Vec<u8>) {
        out.extend_from_slice(b"200");
    }

    fn close_for(engine: &mut Engine, error: &ProtocolError) {
        engine.close(Reason::UpstreamProtocolError, &error.to_string());
    }

    fn check_frames(out: &[u8], _: bool) {
        let mut rest = out;
        while let Some(taken) = frame::take(&mut rest).expect("our own frames are fine") {
            assert!(taken.kind.is_some());
        }
        assert!(rest.is_empty(), "no half frames");
    }
}

/// See [`mux::observe`].
pub fn observe<'a>(options: u8, pieces: impl Iterator<Item = &'a [u8]>) -> Observed {
    mux::observe::<HopWire>(options, pieces)
}

/// See [`mux::run`].
pub fn run(data: &[u8]) {
    mux::run::<HopWire>(data);
}

/// What our writer makes of a head, the far end's reader takes for the same head. A head that cannot be written is refused
/// to the caller, which is fine.
pub(crate) fn same_over_the_hop(head: &RequestHead) {
    // A tunnel crosses the hop as a TCP stream, never as this.
    if head.method == Method::Connect {
        return;
    }
    let meta = StreamMeta {
        service: Bytes::from_static(b"shop/web"),
        port: 80,
        kind: StreamKind::Http,
        protocol: AppProtocol::Http,
        attempt: 0,
        deadline_ms: None,
    };
    let mut text = Vec::new();
    if head_text::put_request(&mut text, &meta, head).is_err() {
        return;
    }
    let (_, read) = match head_text::parse_request(&Bytes::from(text.clone())) {
        Ok(read) => read,
        Err(error) => panic!("written but not read: {error}: {:?}", String::from_utf8_lossy(&text)),
    };
    let mut expected = head.clone();
    expected.fields.remove_if(|name, _| leno_http::hygiene::is_owned_by_writers(name));
    expected.upgrade = read.upgrade.clone();
    assert_eq!(read, expected, "{:?}", String::from_utf8_lossy(&text));
    assert_eq!(read.upgrade.is_some(), head.upgrade.is_some());
}

/// A peer's heads as text: whatever is accepted is written and read again as the same, also as HTTP/1.
pub fn heads(data: &[u8]) {
    let [which, text @ ..] = data else { return };
    let text = Bytes::copy_from_slice(text);
    match which % 4 {
        0 => {
            let Ok((meta, head)) = head_text::parse_request(&text) else { return };
            let (namespace, name) = meta.service_parts();
            assert!(!namespace.is_empty() && !name.is_empty());
            let mut again = Vec::new();
            head_text::put_request(&mut again, &meta, &head).expect("what we accept we can say");
            assert_eq!(head_text::parse_request(&Bytes::from(again)).expect("and read"), (meta.clone(), head.clone()));
            if meta.kind == StreamKind::Http {
                crate::h1::same_when_forwarded(&head);
            }
        }
        1 | 2 => {
            let parse = if which % 4 == 1 { head_text::parse_response } else { head_text::parse_interim };
            let Ok(head) = parse(&text) else { return };
            let mut again = Vec::new();
            head_text::put_response(&mut again, &head).expect("what we accept we can say");
            assert_eq!(parse(&Bytes::from(again)).expect("and read"), head);
        }
        _ => {
            if let Ok(fields) = head_text::parse_trailers(text) {
                assert!(fields.iter().all(|(name, _)| !leno_http::hygiene::forbidden_in_trailers(name)));
            }
        }
    }
}
