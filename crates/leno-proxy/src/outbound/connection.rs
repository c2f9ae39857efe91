//! A local caller's connection: may it use this port, what does it speak, and then request by request or as one stream.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use leno_http::detect::{Detected, detect};
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
    let Entry::Upstream { service, port } = &caller.entry else { return http(worker, caller, io).await };
    let plan = worker.plan(service).await;
    let declared = match &plan {
        Ok(plan) => destination::port_of(plan, *port).map(|(number, port)| (number, port.protocol)),
        Err(refusal) => Err(refusal.clone()),
    };
    match (plan, declared) {
        (Ok(plan), Ok((port, Some(AppProtocol::Tcp)))) => tcp::connection(worker, caller, plan, port, io).await,
        (Ok(_), Ok((_, Some(_)))) => http(worker, caller, io).await,
        (Ok(plan), Ok((port, None))) => undeclared(worker, caller, plan, port, io).await,
        (_, Err(refusal)) | (Err(refusal), _) => unknown(worker, caller, io, &refusal).await,
    }
}

/// Nobody said what the port speaks: the first bytes do.
async fn undeclared(worker: Rc<Worker>, caller: Rc<LocalCaller>, plan: Arc<DestinationPlan>, port: u16, io: TcpStream) {
    match detect(&io, SERVER_FIRST_AFTER).await {
        Ok(Detected::Http1 | Detected::Http2) => http(worker, caller, io).await,
        Ok(Detected::Tls | Detected::Tcp) => tcp::connection(worker, caller, plan, port, io).await,
        Err(_) => {}
    }
}

/// There is no plan to say what is spoken: an HTTP caller is told why, request by request (the next may find it mended); any other is
/// cut off.
async fn unknown(worker: Rc<Worker>, caller: Rc<LocalCaller>, io: TcpStream, refusal: &Refusal) {
    match detect(&io, defaults::HEAD_TIMEOUT).await {
        Ok(Detected::Http1 | Detected::Http2) => http(worker, caller, io).await,
        Ok(_) => {
            worker.telemetry().refused(Direction::Outbound, refusal.reason);
            let _ = raw::reset(&io);
        }
        Err(_) => {}
    }
}

/// HTTP/1, or HTTP/2 by prior knowledge: both are told from their first bytes, on every HTTP port.
async fn http(worker: Rc<Worker>, caller: Rc<LocalCaller>, io: TcpStream) {
    let settings = Rc::clone(&worker.server_settings);
    let drain = worker.drain_watch(Side::Outbound);
    let detected = detect(&io, settings.head_timeout).await;
    let handler = move |request| handle(Rc::clone(&worker), Rc::clone(&caller), request);
    match detected {
        Ok(Detected::Http2) => h2::serve(io, settings, handler, drain).await,
        // Whatever else came, or did not come, is the HTTP/1 codec's to refuse with the right answer.
        Ok(Detected::Http1 | Detected::Tls | Detected::Tcp) => h1::serve(io, settings, handler, drain).await,
        Err(_) => {}
    }
}
