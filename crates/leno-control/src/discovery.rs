//! The discovery port: proxies enrol, subscribe, register and renew here.
//!
//! ```text
//!   accept ─► TLS (client certificate optional) ─► HTTP/2 ─┬─ Enrollment: token ─► Tokens
//!                                                          └─ Discovery: Decisions ─► World, Registry, Ca, Reports
//!   World ── changes ──► Feed ──► hub ──► streams          Ca ── bundle ──► attend ──► streams, and closes revoked and expired ones
//! ```
//!
//! What a peer may do follows from its verified identity alone (module `decisions`).

mod accept;
mod decisions;
mod feed;
mod streams;

use std::sync::Arc;

use leno_discovery::Hub;
use leno_discovery::server::Discovery;
use leno_runtime::drain::DrainWatch;
use leno_runtime::scope::Scope;
use tokio::net::TcpListener;

use crate::assembly::Parts;

use decisions::Decisions;
use feed::Feed;
use streams::Streams;

/// Serves proxies until the drain begins, then tells them to go elsewhere and ends.
///
/// The world must be whole: what is not read yet would be answered as missing. Dropping the future cuts every stream.
pub async fn serve(parts: Arc<Parts>, listener: TcpListener, watch: DrainWatch) {
    let hub = Arc::new(Hub::new());
    parts.world.observe(Arc::new(Feed(hub.clone())));
    let streams = Arc::new(Streams::default());
    let decisions = Arc::new(Decisions { parts: parts.clone(), hub: hub.clone(), streams: streams.clone() });
    // Three scopes, because they end in this order: no new connections, then goodbyes, then the readers.
    let (accepting, readers) = (Scope::new("discovery-accept"), Scope::new("discovery-streams"));
    let incoming = accept::incoming(listener, parts.certificate.clone(), &accepting);
    let attending = Scope::new("discovery-attend");
    attending.spawn("attend", streams::attend(parts.ca.clone(), streams.clone(), parts.clock.clone()));
    let spawn = {
        let readers = readers.clone();
        Arc::new(move |future| drop(readers.spawn("stream", future)))
    };
    let goodbye = {
        let (streams, accepting) = (streams.clone(), accepting.clone());
        async move {
            watch.draining().await;
            accepting.cancel();
            streams.goodbye();
        }
    };
    if let Err(error) = Discovery::new(decisions, hub, spawn).serve(incoming, goodbye).await {
        tracing::error!(%error, "proxies cannot be served any more");
    }
    accepting.cancel();
    attending.cancel();
    readers.join().await;
    attending.join().await;
    accepting.join().await;
}
