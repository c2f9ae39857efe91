//! A local caller's connection: may it use this port, what does it speak, and then request by request or as one stream.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use leno_http::detect::{Detected, detect, detect_http};
use leno_http::{Refusal, h1, h2, raw};
use leno_model::{AppProtocol, Reason};
use leno_plan::{DestinationPlan, defaults};
use leno_telemetry::metrics::Direction;
use tokio::net::TcpStream;

use super::{Entry, LocalCaller, destination, handle, tcp};
use crate::plane::Side;
use crate::worker::Worker;

/// How long a caller may be silent on a port whose protocol nobody declared before it is taken for one that waits for the server to
/// speak first. Declaring the protocol costs no such wait.
const SERVER_FIRST_AFTER: Duration = Duration::from_millis(200);

/// Serves one connection to its end. Dropping the future cuts it off.
pub async fn serve(worker: Rc<Worker>, io: TcpStream, entry: Entry) {
    let is_member = crate::callers::is_allowed(&worker.settings.local_callers, &io);
    if !is_member {
        worker.telemetry().refused(Direction::Outbound, Reason::NotMember);
    }
    let caller = Rc::new(LocalCaller { entry, is_member });
    // All but the usual is boxed: this future is as large as its largest branch, for every idle connection.
    let spoken = Box::pin(look(&worker, &caller, &io)).await;
    let settings = Rc::clone(&worker.server_settings);
    let drain = worker.drain_watch(Side::Outbound);
    match spoken {
        Spoken::Http1 => {
            let handler = move |request| handle(&worker, &caller, request);
            h1::serve(io, settings, handler, drain).await;
        }
        Spoken::Http2 => {
            let handler = move |request| handle(&worker, &caller, request);
            Box::pin(h2::serve(io, settings, handler, drain)).await;
        }
        Spoken::Tcp { plan, port } => Box::pin(tcp::connection(worker, caller, plan, port, io)).await,
        Spoken::Nothing => {}
    }
}

/// What a connection carries.
enum Spoken {
    Http1,
    Http2,
    /// A stream of bytes to a port of a service.
    Tcp {
        plan: Arc<DestinationPlan>,
        port: u16,
    },
    /// It is over already.
    Nothing,
}

async fn look(worker: &Rc<Worker>, caller: &LocalCaller, io: &TcpStream) -> Spoken {
    let Entry::Upstream { service, port } = &caller.entry else { return http(worker, io).await };
    let plan = worker.plan(service).await;
    let declared = match &plan {
        Ok(plan) => destination::port_of(plan, *port).map(|(number, port)| (number, port.protocol)),
        Err(refusal) => Err(refusal.clone()),
    };
    match (plan, declared) {
        (Ok(plan), Ok((port, Some(AppProtocol::Tcp)))) => Spoken::Tcp { plan, port },
        (Ok(_), Ok((_, Some(_)))) => http(worker, io).await,
        (Ok(plan), Ok((port, None))) => undeclared(plan, port, io).await,
        (_, Err(refusal)) | (Err(refusal), _) => unknown(worker, io, &refusal).await,
    }
}

/// Nobody said what the port speaks: the first bytes do.
async fn undeclared(plan: Arc<DestinationPlan>, port: u16, io: &TcpStream) -> Spoken {
    match detect(io, SERVER_FIRST_AFTER).await {
        Ok(Detected::Http1) => Spoken::Http1,
        Ok(Detected::Http2) => Spoken::Http2,
        Ok(Detected::Tls | Detected::Tcp) => Spoken::Tcp { plan, port },
        Err(_) => Spoken::Nothing,
    }
}

/// There is no plan to say what is spoken: an HTTP caller is told why, request by request (the next may find it mended); any other is
/// cut off.
async fn unknown(worker: &Worker, io: &TcpStream, refusal: &Refusal) -> Spoken {
    match detect(io, defaults::HEAD_TIMEOUT).await {
        Ok(Detected::Http1) => Spoken::Http1,
        Ok(Detected::Http2) => Spoken::Http2,
        Ok(_) => {
            worker.telemetry().refused(Direction::Outbound, refusal.reason);
            let _ = raw::reset(io);
            Spoken::Nothing
        }
        Err(_) => Spoken::Nothing,
    }
}

/// HTTP/1, or HTTP/2 by prior knowledge: both are told from their first bytes, on every HTTP port.
async fn http(worker: &Worker, io: &TcpStream) -> Spoken {
    match detect_http(io, worker.server_settings.head_timeout).await {
        Ok(Detected::Http2) => Spoken::Http2,
        // Whatever else came, or did not come, is the HTTP/1 codec's to refuse with the right answer.
        Ok(Detected::Http1 | Detected::Tls | Detected::Tcp) => Spoken::Http1,
        Err(_) => Spoken::Nothing,
    }
}
