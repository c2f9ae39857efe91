//! The HTTP/2 side, as far as it is ours: header maps that the `h2` crate accepted become heads.
//!
//! The first byte chooses how the map comes about. 0: the rest is the wire of a client, given to the `h2` crate itself, so
//! that only what it lets through gets here. Else: lines `name: value` behind a request line, which reaches more rules
//! faster.

use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use leno_http::h2::convert;
use leno_http::{BodyLength, MAX_FIELDS, RequestHead};
use tokio::io::AsyncWriteExt;

/// See the module.
pub fn run(data: &[u8]) {
    match data {
        [0, wire @ ..] => over_the_wire(wire),
        [options, text @ ..] => from_lines(*options, text),
        [] => {}
    }
}

fn from_lines(options: u8, text: &[u8]) {
    let mut lines = text.split(|b| *b == b'\n');
    let mut first = lines.next().unwrap_or_default().splitn(2, |b| *b == b' ');
    let (method, uri) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let mut request = http::Request::new(());
    for line in lines {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&line[colon + 1..])) {
            // What the `h2` crate refuses itself (RFC 9113 section 8.2.2).
            if leno_http::hygiene::is_hop_by_hop(name.as_str().as_bytes()) || (name == "te" && value != "trailers") {
                continue;
            }
            request.headers_mut().append(name, value);
        }
    }
    if options & 2 != 0 {
        let status = http::StatusCode::from_u16(100 + u16::from(options) * 3).unwrap_or_default();
        if let Ok(head) = convert::response(status, request.headers(), options & 4 != 0) {
            assert!(head.fields.len() <= MAX_FIELDS);
            let _ = convert::to_response(&head);
        }
        let _ = convert::fields(request.headers(), &[]);
        return;
    }
    let (Ok(method), Ok(uri)) = (http::Method::from_bytes(method), http::Uri::try_from(uri)) else { return };
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    check(request.into_parts().0, options & 4 != 0);
}

fn check(parts: http::request::Parts, is_end: bool) {
    let Ok(head) = convert::request(parts, is_end) else { return };
    assert!(head.fields.len() <= MAX_FIELDS && head.fields.wire_len() <= 2 * leno_http::MAX_HEAD);
    let address = SocketAddr::from(([192, 0, 2, 1], 80));
    // What is forwarded must be the request that was judged, whichever protocol it goes on in.
    if let Ok(again) = convert::to_request(&head, address) {
        let again = convert::request(again.into_parts().0, is_end).expect("what we write we accept");
        let length = if head.length == BodyLength::Unknown { again.length } else { head.length };
        assert_eq!(again, RequestHead { length, ..without_hop_by_hop(head.clone()) });
    }
    crate::hop::same_over_the_hop(&head);
}

fn without_hop_by_hop(mut head: RequestHead) -> RequestHead {
    head.fields.remove_if(|name, _| leno_http::hygiene::is_hop_by_hop(name));
    head
}

/// Runs the `h2` crate's server on the bytes, without a task or a clock: everything is there from the start.
fn over_the_wire(wire: &[u8]) {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let cx = &mut Context::from_waker(Waker::noop());
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let fed = std::pin::pin!(async {
        client.write_all(preface).await?;
        client.write_all(wire).await?;
        client.shutdown().await
    });
    let Poll::Ready(Ok(())) = fed.poll(cx) else { return };
    let mut handshake = std::pin::pin!(h2::server::Builder::new().handshake::<_, Bytes>(server));
    let Poll::Ready(Ok(mut connection)) = handshake.as_mut().poll(cx) else { return };
    // Each stream takes at least a frame, so there are fewer than bytes.
    for _ in 0..wire.len() {
        let Poll::Ready(Some(Ok((request, _respond)))) = connection.poll_accept(cx) else { return };
        let is_end = request.body().is_end_stream();
        check(request.into_parts().0, is_end);
    }
}
