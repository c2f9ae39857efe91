//! Where a request is going: the first stage, from an explicit upstream, or from the host that the caller named.

use std::net::{IpAddr, SocketAddr};

use leno_http::Refusal;
use leno_model::{NamespacedName, Reason};
use leno_plan::host::{Host, HostName};
use leno_plan::names::{self, Meaning};
use leno_plan::{DestinationPlan, DestinationPort};

use crate::snapshot::MeshView;

/// Where a request is going.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// To a service of the mesh, which may or may not exist.
    Service {
        /// The service.
        service: NamespacedName,
        /// The port named; 80 or else the service's lowest when absent.
        port: Option<u16>,
    },
    /// Out of the mesh.
    Outside {
        /// Name or address, as it is resolved and connected to.
        host: Box<str>,
        /// The port.
        port: u16,
    },
}

/// What the caller's host means. `usual_port` is the protocol's port when none is written.
pub fn of_host(authority: &[u8], own_namespace: &str, mesh: &MeshView, usual_port: u16) -> Result<Goal, Refusal> {
    let host = Host::parse(authority).map_err(|e| Refusal::new(Reason::MalformedRequest, e.to_string()))?;
    let name = match &host.name {
        HostName::Address(address) => return address_goal(*address, host.port.unwrap_or(usual_port), mesh),
        HostName::Name(name) => name,
    };
    match names::meaning(&host.name, own_namespace) {
        Meaning::Mesh(service) => return Ok(Goal::Service { service, port: host.port }),
        Meaning::Perhaps(service) if is_of_the_mesh(name, &service, mesh) => {
            return Ok(Goal::Service { service, port: host.port });
        }
        Meaning::Nowhere => return Err(Refusal::new(Reason::UnknownDestination, "no service can have this name")),
        Meaning::Perhaps(_) | Meaning::Outside => {}
    }
    outside(&host.name, name.as_ref().into(), host.port.unwrap_or(usual_port), mesh)
}

/// One label is always the mesh's, but for `localhost`; two labels are when the mesh has that service or namespace, so that
/// `example.com` stays the public one (D13).
fn is_of_the_mesh(name: &str, service: &NamespacedName, mesh: &MeshView) -> bool {
    if name.contains('.') { mesh.namespaces.contains(&service.namespace) } else { name != "localhost" }
}

fn address_goal(address: IpAddr, port: u16, mesh: &MeshView) -> Result<Goal, Refusal> {
    let address = address.to_canonical();
    if mesh.prefixes.iter().any(|p| p.contains(address)) {
        return Err(Refusal::new(Reason::UnknownDestination, "no service has this address of the mesh"));
    }
    outside(&HostName::Address(address), address.to_string().into(), port, mesh)
}

fn outside(named: &HostName<'_>, host: Box<str>, port: u16, mesh: &MeshView) -> Result<Goal, Refusal> {
    if mesh.egress.permits(named, port) { Ok(Goal::Outside { host, port }) } else { Err(egress_denied()) }
}

fn egress_denied() -> Refusal {
    Refusal::new(Reason::EgressDenied, "")
}

/// The port of a plan that is meant: the one named; else HTTP's, as a caller that writes none means it; else the lowest, so that a
/// service that gains a port does not lose the callers of its only one.
pub fn port_of(plan: &DestinationPlan, named: Option<u16>) -> Result<(u16, &DestinationPort), Refusal> {
    let missing = |text: String| Refusal::new(Reason::UnknownDestination, text);
    let found = match named {
        Some(port) => plan.ports.get_key_value(&port),
        None => plan.ports.get_key_value(&80).or_else(|| plan.ports.first_key_value()),
    };
    match (found, named) {
        (Some((port, found)), _) => Ok((*port, found)),
        (None, Some(port)) => Err(missing(format!("service {} has no port {port}", plan.service))),
        (None, None) => Err(missing(format!("service {} has no ports", plan.service))),
    }
}

/// Addresses that no egress may lead to: the proxy's own ports (a loop), link-local (cloud metadata, credentials) and what is
/// no destination at all (BAD_INPUTS 21).
pub fn forbidden(address: SocketAddr, own: &[SocketAddr]) -> Option<Refusal> {
    let ip = address.ip().to_canonical();
    let is_local =
        |at: &SocketAddr| at.port() == address.port() && (at.ip() == ip || ip.is_loopback() || ip.is_unspecified());
    if own.iter().any(is_local)
        || own.iter().any(|at| at.port() == address.port() && at.ip().is_unspecified() && ip.is_loopback())
    {
        return Some(Refusal::new(Reason::LoopDetected, "the address is a port of this proxy"));
    }
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0) == 0xfe80,
    };
    (link_local || ip.is_multicast() || ip.is_unspecified()).then(|| {
        Refusal::new(Reason::EgressDenied, "link-local, multicast and unspecified addresses are not reachable")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use leno_model::Name;
    use leno_plan::{EgressHost, EgressName, EgressPolicy};

    fn mesh(open: bool) -> MeshView {
        let host = EgressHost { resource: "x".into(), host: EgressName::parse("*.example.org"), ports: vec![443] };
        let mut mesh = MeshView { egress: EgressPolicy { open, hosts: vec![host] }, ..MeshView::default() };
        mesh.namespaces.insert(Name::new("prod").unwrap());
        mesh.prefixes.push("244.0.0.0/16".parse().unwrap());
        mesh
    }

    #[test]
    fn hosts_lead_where_they_say() {
        let show = |goal: Result<Goal, Refusal>| match goal {
            Ok(Goal::Service { service, port }) => format!("{service} {}", port.unwrap_or(0)),
            Ok(Goal::Outside { host, port }) => format!("> {host} {port}"),
            Err(refusal) => refusal.reason.to_string(),
        };
        for (host, open, closed) in [
            ("web", "web.shop 0", "web.shop 0"),
            ("WEB.:8080", "web.shop 8080", "web.shop 8080"),
            ("web.prod", "web.prod 0", "web.prod 0"),
            ("example.com", "> example.com 80", "egress_denied"),
            ("api.example.org:443", "> api.example.org 443", "> api.example.org 443"),
            ("api.example.org:80", "> api.example.org 80", "egress_denied"),
            ("web.com.mesh", "web.com 0", "web.com 0"),
            ("a.b.c.mesh", "unknown_destination", "unknown_destination"),
            ("localhost:9", "> localhost 9", "egress_denied"),
            ("244.0.0.8:80", "unknown_destination", "unknown_destination"),
            ("10.0.0.1:5432", "> 10.0.0.1 5432", "egress_denied"),
            ("[::1]:9", "> ::1 9", "egress_denied"),
            ("u@web", "malformed_request", "malformed_request"),
            ("", "malformed_request", "malformed_request"),
        ] {
            assert_eq!(show(of_host(host.as_bytes(), "shop", &mesh(true), 80)), open, "{host}");
            assert_eq!(show(of_host(host.as_bytes(), "shop", &mesh(false), 80)), closed, "{host}");
        }
    }

    #[test]
    fn own_ports_and_link_local_addresses_are_forbidden() {
        let own = ["0.0.0.0:15008".parse().unwrap(), "127.0.0.1:15020".parse().unwrap()];
        let reason = |text: &str| forbidden(text.parse().unwrap(), &own).map(|r| r.reason);
        for (address, expected) in [
            ("127.0.0.1:15008", Some(Reason::LoopDetected)),
            ("127.0.0.1:15020", Some(Reason::LoopDetected)),
            ("[::ffff:127.0.0.1]:15020", Some(Reason::LoopDetected)),
            ("[::1]:15008", Some(Reason::LoopDetected)),
            ("169.254.169.254:80", Some(Reason::EgressDenied)),
            ("[fe80::1]:80", Some(Reason::EgressDenied)),
            ("0.0.0.0:80", Some(Reason::EgressDenied)),
            ("224.0.0.1:80", Some(Reason::EgressDenied)),
            ("127.0.0.1:8080", None),
            ("192.0.2.1:15008", None),
        ] {
            assert_eq!(reason(address), expected, "{address}");
        }
    }
}
