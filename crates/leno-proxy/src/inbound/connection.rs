//! A connection on the hop port: TLS or nothing, then streams until the peer or a drain ends it.

use std::cell::Cell;
use std::rc::Rc;

use leno_http::Request;
use leno_http::detect::{Detected, detect};
use leno_http::hop::{self, HopSettings, Peer, StreamMeta};
use leno_model::Reason;
use leno_net::tls::{ALPN_HOP, TlsSession};
use leno_plan::defaults;
use leno_telemetry::metrics::Direction;
use tokio::net::TcpStream;

use super::handle;
use crate::plane::Side;
use crate::worker::Worker;

/// Serves one connection to its end. Dropping the future cuts it off.
pub async fn serve(worker: Rc<Worker>, io: TcpStream) {
    // Silence must not hold a descriptor; a member's proxy speaks at once.
    match detect(&io, defaults::HANDSHAKE_TIMEOUT).await {
        Ok(Detected::Tls) => hop(worker, io).await,
        Ok(Detected::Http1 | Detected::Http2) => {
            worker.telemetry().refused(Direction::Inbound, Reason::PlaintextRefused);
            refuse_plaintext(&io).await;
        }
        // Silence, or bytes of something else: there is nobody to explain anything to.
        Ok(Detected::Tcp) => worker.telemetry().refused(Direction::Inbound, Reason::PlaintextRefused),
        Err(_) => {}
    }
}

/// A caller that speaks HTTP is told why; it has not understood that this port takes mesh traffic only.
async fn refuse_plaintext(io: &TcpStream) {
    let reason = Reason::PlaintextRefused;
    let body = format!("{reason}: {}\n", reason.next_step());
    let answer = format!(
        "HTTP/1.1 {} Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nleno-reason: {reason}\r\nconnection: close\r\n\r\n{body}",
        reason.http_status(),
        body.len(),
    );
    let _ = leno_http::raw::write_all(io, answer.as_bytes()).await;
    let _ = leno_http::raw::end_sending(io);
    // What the caller still sends is read and dropped for a moment: closing at once would reset the answer away.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), async {
        let mut buffer = [0; 4096];
        while io.readable().await.is_ok() {
            match io.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    })
    .await;
}

/// A bundle that came during the handshake did not find this hop yet: its peer is judged at its first stream.
fn judge_late(worker: &Worker, peer: &Rc<Peer>, generation: u64) {
    if let Some(now) = worker.snapshot().tls.as_ref().filter(|now| now.generation() != generation)
        && let Err(error) = now.recheck(&peer.identity)
    {
        worker.hops.registry().close_if(|p| std::ptr::eq(p, Rc::as_ptr(peer)), error.reason, &error.detail);
    }
}

/// TLS with a certificate of a member, then streams.
async fn hop(worker: Rc<Worker>, io: TcpStream) {
    // Without a certificate there is nothing to prove; the peer's retry goes elsewhere.
    let Some(tls) = worker.snapshot().tls.clone() else { return };
    let session = match TlsSession::server(&tls, &[ALPN_HOP]) {
        Ok(session) => session,
        Err(error) => return worker.telemetry().handshake(Direction::Inbound, Err(error.reason)),
    };
    let _ = io.set_nodelay(true);
    let settings = HopSettings {
        handshake_timeout: defaults::HANDSHAKE_TIMEOUT,
        local_not_after: Some(tls.identity().leaf().not_after),
        ..HopSettings::termination()
    };
    let is_told = Rc::new(Cell::new(false));
    let (streams, told, generation) = (Rc::clone(&worker), Rc::clone(&is_told), tls.generation());
    let handler = move |meta: StreamMeta, peer: Rc<Peer>, request: Request| {
        if !told.replace(true) {
            streams.telemetry().handshake(Direction::Inbound, Ok(&peer.handshake.group));
            judge_late(&streams, &peer, generation);
        }
        handle(&streams, peer, &meta, request)
    };
    let drain = worker.drain_watch(Side::Inbound);
    if let Err(error) = hop::serve(io, session, settings, worker.hops.registry(), handler, drain).await
        && !is_told.get()
    {
        tracing::debug!(%error, "hop refused");
        worker.telemetry().handshake(Direction::Inbound, Err(error.reason));
    }
}
