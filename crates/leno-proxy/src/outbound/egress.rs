//! Out of the mesh: what is passed on unprotected because `MeshConfig` or an `ExternalService` allows it. Counted, never to the
//! proxy's own ports or link-local addresses (BAD_INPUTS 21).

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use leno_http::{Method, Refusal, Request, Response, StreamError};
use leno_model::{AppProtocol, Reason};
use leno_plan::defaults;
use leno_plan::resilience::Timeouts;

use super::destination;
use crate::exchange::Exchange;
use crate::live::Class;
use crate::replay::Replay;
use crate::worker::Worker;

/// For a name to be resolved; the resolver's own default is 5 s per server.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;
/// The rule's name in metrics.
const RULE: &str = "egress";

/// Sends a request, or opens a tunnel for CONNECT.
pub async fn request(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    host: &str,
    port: u16,
    request: Request,
) -> Result<Response, Refusal> {
    exchange.facts.route = Some(RULE.into());
    exchange.facts.port = port;
    let is_tunnel = request.head.method == Method::Connect;
    if is_tunnel {
        exchange.live.set_class(Class::Stream);
        exchange.facts.protocol = AppProtocol::Tcp;
    }
    exchange.set_idle(&Timeouts::default());
    let addresses = resolve(worker, host, port).await?;
    let Request { head, body, interim } = request;
    let mut bodies = Replay::new(exchange.count_request(body), addresses.len() > 1);
    let mut last = StreamError::unprocessed(Reason::NoHealthyEndpoint, "the name has no address");
    for address in addresses {
        let Some(body) = bodies.next_attempt() else { break };
        exchange.facts.upstream = Some(address);
        exchange.facts.attempts += 1;
        exchange.set_active();
        let outcome = if is_tunnel {
            worker.plain.tcp(address, defaults::CONNECT_TIMEOUT, body).await
        } else {
            let request = Request { head: head.clone(), body, interim: interim.clone() };
            worker.plain.send(address, AppProtocol::Http, request, defaults::CONNECT_TIMEOUT).await
        };
        match outcome {
            Ok(mut response) => {
                bodies.settle();
                // What is outside the mesh must not speak with a proxy's voice.
                leno_http::hygiene::strip_internal(&mut response.head.fields);
                return Ok(response);
            }
            Err(error) if error.unprocessed => last = error,
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.into())
}

/// The addresses of a host that may be called, in the resolver's order. The refusal of a forbidden one counts for all: a name that
/// leads there among others is no accident.
async fn resolve(worker: &Rc<Worker>, host: &str, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
    let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => {
            let failed = |detail: String| Refusal::new(Reason::NoHealthyEndpoint, detail);
            match tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, port))).await {
                Ok(Ok(found)) => found.take(MAX_ADDRESSES).collect(),
                Ok(Err(error)) => return Err(failed(format!("the name does not resolve: {error}"))),
                Err(_) => return Err(failed("the name did not resolve in time".to_owned())),
            }
        }
    };
    let prefixes = &worker.snapshot().mesh.prefixes;
    if found.iter().any(|address| prefixes.iter().any(|p| p.contains(address.ip().to_canonical()))) {
        // Never in the clear what is the mesh's, whatever a name server says (D2).
        return Err(Refusal::new(Reason::UnknownDestination, "the name leads to an address of the mesh"));
    }
    let own = &worker.process.own_addresses;
    let refused = found.iter().find_map(|address| {
        let here = own.iter().any(|o| o.port() == address.port()) && is_this_host(address.ip());
        let address = if here { SocketAddr::new([127, 0, 0, 1].into(), address.port()) } else { *address };
        destination::forbidden(address, own)
    });
    refused.map_or(Ok(found), Err)
}

/// Whether an address is one of this host's: the kernel then routes to it from itself.
fn is_this_host(address: IpAddr) -> bool {
    // The port plays no part in the choice of the source address.
    leno_sys::source_address_towards(SocketAddr::new(address, 9)).is_ok_and(|source| source == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_knows_itself() {
        assert!(is_this_host([127, 0, 0, 1].into()));
        assert!(!is_this_host([192, 0, 2, 1].into()));
    }
}
