//! What a registration may look like: everything in it comes from a peer.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use leno_discovery::server::Refusal;
use leno_model::kinds::WorkloadSpec;
use leno_model::kinds::endpoint::{EndpointAddress, EndpointTransport};
use leno_model::kinds::workload::{WorkloadPort, WorkloadService};
use leno_model::{AppProtocol, Name, NamespacedName, Reason, Resource, SpiffeId};

/// Most services of one registration.
pub const MAX_SERVICES: usize = 64;
/// Most ports of one service.
pub const MAX_PORTS: usize = 64;
/// Most addresses.
pub const MAX_ADDRESSES: usize = 128;
/// Most labels.
pub const MAX_LABELS: usize = 64;
/// Longest label key or value, zone, condition (Kubernetes allows 63 for a value and 253 for a key's prefix).
pub const MAX_TEXT: usize = 253;
/// Most conditions.
pub const MAX_CONDITIONS: usize = 16;

/// A registration as it came over the stream.
#[derive(Debug, Clone, Default)]
pub struct Registration {
    /// Names the instance among those of its identity: a DNS label.
    pub instance: String,
    /// Grows with every start.
    pub generation: u64,
    /// Must be the identity's own.
    pub namespace: String,
    /// What it serves; may be none.
    pub services: Vec<RegisteredService>,
    /// Where it is reached.
    pub addresses: Vec<RegisteredAddress>,
    /// For selection; they authorise nothing.
    pub labels: BTreeMap<String, String>,
    /// Empty for none.
    pub zone: String,
    /// For display.
    pub conditions: Vec<String>,
}

/// A service of a registration.
#[derive(Debug, Clone, Default)]
pub struct RegisteredService {
    /// In the registration's namespace.
    pub name: String,
    /// Its ports.
    pub ports: Vec<RegisteredPort>,
}

/// A port of a registration.
#[derive(Debug, Clone, Default)]
pub struct RegisteredPort {
    /// Empty for none.
    pub name: String,
    /// The port callers name.
    pub port: u32,
    /// Where the application listens; 0 for the same.
    pub target_port: u32,
    /// Empty if not declared.
    pub protocol: String,
}

/// An address of a registration.
#[derive(Debug, Clone, Default)]
pub struct RegisteredAddress {
    /// `leno/1` or `mtls`.
    pub transport: String,
    /// IP:port.
    pub address: String,
    /// For `mtls`: the service port; 0 for none.
    pub port: u32,
}

fn refused(detail: impl Into<String>) -> Refusal {
    Refusal::new(Reason::MalformedRequest, detail)
}

fn at_most<T>(items: &[T], limit: usize, what: &str) -> Result<(), Refusal> {
    if items.len() > limit {
        return Err(refused(format!("{} {what}, more than {limit}", items.len())));
    }
    Ok(())
}

/// What selects the workload on a hop port. It crosses the network readable (SNI), so it says nothing of the service; the same
/// instance keeps it.
fn workload_id(peer: &SpiffeId, instance: &str) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    (peer.as_str(), instance).hash(&mut hasher);
    format!("w{:016x}", hasher.finish())
}

/// Namespace and name of the `Workload` of an instance: `ACCOUNT.INSTANCE`. Neither part has a dot, so that two identities never
/// share one.
#[must_use]
pub fn workload_key(peer: &SpiffeId, instance: &str) -> Option<(String, String)> {
    let (namespace, account) = peer.workload_parts()?;
    Some((namespace.to_owned(), format!("{account}.{instance}")))
}

/// Checks a registration of `peer` and makes the resource that is stored. What services it may have is decided elsewhere.
pub fn workload(peer: &SpiffeId, given: &Registration) -> Result<Resource, Refusal> {
    let instance = Name::new(&given.instance).map_err(|e| refused(format!("instance: {e}")))?;
    let not_a_workload = || Refusal::new(Reason::UnauthorisedMember, format!("{peer} is not a workload"));
    let (namespace, account) = peer.workload_parts().ok_or_else(not_a_workload)?;
    let account = Name::new(account).map_err(|_| not_a_workload())?;
    if given.namespace != namespace {
        let detail = format!("{peer} may not register in namespace {}", clip(&given.namespace));
        return Err(Refusal::new(Reason::UnauthorisedMember, detail));
    }
    at_most(&given.services, MAX_SERVICES, "services")?;
    at_most(&given.addresses, MAX_ADDRESSES, "addresses")?;
    at_most(&given.conditions, MAX_CONDITIONS, "conditions")?;
    let services = given.services.iter().map(service).collect::<Result<Vec<_>, _>>()?;
    for (position, service) in services.iter().enumerate() {
        if services[..position].iter().any(|s| s.name == service.name) {
            return Err(refused(format!("service {} twice", service.name)));
        }
    }
    let addresses = given.addresses.iter().map(address).collect::<Result<Vec<_>, _>>()?;
    if !services.is_empty() && addresses.is_empty() {
        return Err(refused("a workload with services has at least one address"));
    }
    labels(&given.labels)?;
    for text in given.conditions.iter().chain([&given.zone]) {
        plain(text, "zone or condition")?;
    }
    let spec = WorkloadSpec {
        instance: instance.to_string(),
        generation: given.generation,
        identity: peer.clone(),
        services,
        addresses,
        zone: (!given.zone.is_empty()).then(|| given.zone.clone()),
        workload_id: workload_id(peer, instance.as_str()),
    };
    let name = NamespacedName::new(namespace, instance.as_str()).map_err(|_| not_a_workload())?;
    let mut resource = Resource::new(&name, &spec);
    resource.metadata.name = format!("{account}.{instance}");
    resource.metadata.labels = given.labels.clone();
    Ok(resource)
}

fn service(given: &RegisteredService) -> Result<WorkloadService, Refusal> {
    let name = Name::new(&given.name).map_err(|e| refused(format!("service: {e}")))?;
    at_most(&given.ports, MAX_PORTS, "ports")?;
    let mut ports: Vec<WorkloadPort> = Vec::new();
    for port in &given.ports {
        let number = port_number(port.port)?;
        let target = if port.target_port == 0 { number } else { port_number(port.target_port)? };
        if ports.iter().any(|p| p.service_port.unwrap_or(p.port) == number) {
            return Err(refused(format!("port {number} of {name} twice")));
        }
        if !port.name.is_empty() {
            Name::new(&port.name).map_err(|e| refused(format!("port: {e}")))?;
        }
        if !port.protocol.is_empty() {
            port.protocol.parse::<AppProtocol>().map_err(|e| refused(clip(&e)))?;
        }
        let text = |t: &String| (!t.is_empty()).then(|| t.clone());
        ports.push(WorkloadPort {
            port: target,
            service_port: (number != target).then_some(number),
            name: text(&port.name),
            app_protocol: text(&port.protocol),
        });
    }
    Ok(WorkloadService { name: name.to_string(), ports })
}

fn port_number(port: u32) -> Result<u16, Refusal> {
    u16::try_from(port).ok().filter(|p| *p != 0).ok_or_else(|| refused(format!("port {port} is not 1 to 65535")))
}

/// Canonical or refused (BAD_INPUTS 16): no names, no zone ids, v4-mapped addresses unmapped, nothing that is not one host.
fn address(given: &RegisteredAddress) -> Result<EndpointAddress, Refusal> {
    let transport = match given.transport.as_str() {
        "leno/1" => EndpointTransport::Leno1,
        "mtls" => EndpointTransport::Mtls,
        // A member is never called in plaintext (D15).
        "plain" => return Err(refused("a member cannot register a plaintext address")),
        other => return Err(refused(format!("unknown transport `{}`", clip(other)))),
    };
    let bad = || refused(format!("address `{}` is not IP:PORT", clip(&given.address)));
    let parsed: SocketAddr = given.address.parse().map_err(|_| bad())?;
    if matches!(parsed, SocketAddr::V6(v6) if v6.scope_id() != 0) || given.address.contains('%') {
        return Err(refused(format!(
            "address `{}` has a zone id, which means nothing elsewhere",
            clip(&given.address)
        )));
    }
    let ip = parsed.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_unspecified() || ip.is_multicast() || broadcast || parsed.port() == 0 {
        return Err(refused(format!("address `{}` is not that of one host and port", clip(&given.address))));
    }
    let port = match (transport, given.port) {
        (EndpointTransport::Mtls, port) => Some(port_number(port)?),
        (_, 0) => None,
        (_, port) => return Err(refused(format!("port {port} is for mtls addresses only"))),
    };
    Ok(EndpointAddress { transport, address: SocketAddr::new(ip, parsed.port()), port })
}

fn labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if labels.len() > MAX_LABELS {
        return Err(refused(format!("{} labels, more than {MAX_LABELS}", labels.len())));
    }
    labels.iter().flat_map(|(k, v)| [k, v]).try_for_each(|text| plain(text, "label"))
}

fn plain(text: &str, what: &str) -> Result<(), Refusal> {
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(refused(format!("a {what} is too long or has control characters")));
    }
    Ok(())
}

fn clip(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> SpiffeId {
        SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/web").unwrap()
    }

    fn good() -> Registration {
        Registration {
            instance: "a1".into(),
            generation: 3,
            namespace: "shop".into(),
            services: vec![RegisteredService {
                name: "web".into(),
                ports: vec![RegisteredPort {
                    port: 80,
                    target_port: 8080,
                    protocol: "http".into(),
                    ..Default::default()
                }],
            }],
            addresses: vec![RegisteredAddress {
                transport: "leno/1".into(),
                address: "[::ffff:10.0.0.1]:15008".into(),
                port: 0,
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_registration_becomes_a_workload() {
        let resource = workload(&web(), &good()).unwrap();
        assert_eq!(resource.reference().to_string(), "Workload shop/web.a1");
        let spec: WorkloadSpec = resource.spec().unwrap();
        assert_eq!(spec.addresses[0].address.to_string(), "10.0.0.1:15008", "v4-mapped is canonical");
        assert_eq!((spec.services[0].ports[0].port, spec.services[0].ports[0].service_port), (8080, Some(80)));
    }

    #[test]
    fn strange_registrations_are_refused() {
        type Change = fn(&mut Registration);
        let changes: &[(&str, Change)] = &[
            ("instance", |r| r.instance = "a.b".into()),
            ("may not register in namespace bank", |r| r.namespace = "bank".into()),
            ("service", |r| r.services[0].name = "Web".into()),
            ("twice", |r| r.services.push(r.services[0].clone())),
            ("port 0", |r| r.services[0].ports[0].port = 0),
            ("port 70000", |r| r.services[0].ports[0].port = 70_000),
            ("unknown protocol", |r| r.services[0].ports[0].protocol = "udp".into()),
            ("at least one address", |r| r.addresses.clear()),
            ("zone id", |r| r.addresses[0].address = "[fe80::1%3]:1".into()),
            ("not IP:PORT", |r| r.addresses[0].address = "host:1".into()),
            ("one host and port", |r| r.addresses[0].address = "10.0.0.1:0".into()),
            ("one host and port", |r| r.addresses[0].address = "0.0.0.0:1".into()),
            ("plaintext", |r| r.addresses[0].transport = "plain".into()),
            ("unknown transport", |r| r.addresses[0].transport = "x".into()),
            ("65 labels", |r| r.labels = (0..65).map(|i| (i.to_string(), String::new())).collect()),
            ("control characters", |r| r.zone = "a\nb".into()),
        ];
        for (expected, change) in changes {
            let mut registration = good();
            change(&mut registration);
            let refusal = workload(&web(), &registration).unwrap_err();
            assert!(refusal.detail.contains(expected), "{expected}: {}", refusal.detail);
        }
        let plane = SpiffeId::new("spiffe://mesh.leno/x").unwrap();
        assert_eq!(workload(&plane, &good()).unwrap_err().reason, Reason::UnauthorisedMember);
    }
}
