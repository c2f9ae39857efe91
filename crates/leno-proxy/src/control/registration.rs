//! What a workload registers as: its services and ports from the settings, and where peers reach it.

use std::net::{IpAddr, SocketAddr};

use leno_discovery::proto;

use super::driver::Parts;
use crate::settings::{ProxySettings, ServedPort};

/// The address that peers are told: what the settings say; else the one listened on; if that is no single address, our own
/// on the connection to the control plane.
pub(super) fn announced(settings: &ProxySettings, hop: SocketAddr, local: Option<IpAddr>) -> Option<SocketAddr> {
    match settings.announced_hop {
        Some(address) if address.port() == 0 => Some(SocketAddr::new(address.ip(), hop.port())),
        Some(address) => Some(address),
        None if hop.ip().is_unspecified() => local.map(|ip| SocketAddr::new(ip.to_canonical(), hop.port())),
        None => Some(hop),
    }
}

/// The registration of this workload, reached at `address`.
pub(super) fn message(parts: &Parts, address: SocketAddr) -> proto::Register {
    let settings = &parts.settings;
    let port = |p: &ServedPort| proto::RegisteredPort {
        name: String::new(),
        port: p.port.into(),
        target_port: p.app_address().port().into(),
        protocol: p.protocol.as_str().to_owned(),
    };
    let service = proto::RegisteredService {
        name: settings.service.name.to_string(),
        ports: settings.ports.iter().map(port).collect(),
    };
    // A member that only calls registers too: a rotation waits for every live registration.
    let services = if settings.ports.is_empty() { Vec::new() } else { vec![service] };
    proto::Register {
        instance: parts.client.instance.clone(),
        generation: parts.generation,
        namespace: settings.service.namespace.to_string(),
        services,
        addresses: vec![proto::TransportAddress {
            transport: "leno/1".to_owned(),
            address: address.to_string(),
            port: 0,
        }],
        labels: settings.labels.clone(),
        zone: settings.zone.clone().unwrap_or_default(),
        conditions: if settings.allow_exposed { vec!["exposed_app".to_owned()] } else { Vec::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leno_model::NamespacedName;

    #[test]
    fn peers_are_told_an_address_that_they_can_use() {
        let mut settings = ProxySettings::new(NamespacedName::new("shop", "web").unwrap(), "/nonexistent".into());
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let local = Some("192.0.2.7".parse().unwrap());
        assert_eq!(announced(&settings, address("127.0.0.1:15008"), local), Some(address("127.0.0.1:15008")));
        assert_eq!(announced(&settings, address("0.0.0.0:15008"), local), Some(address("192.0.2.7:15008")));
        assert_eq!(announced(&settings, address("0.0.0.0:15008"), None), None, "not before it is known");
        let mapped = Some("::ffff:192.0.2.7".parse().unwrap());
        assert_eq!(announced(&settings, address("[::]:15008"), mapped), Some(address("192.0.2.7:15008")));
        settings.announced_hop = Some(address("198.51.100.1:0"));
        assert_eq!(announced(&settings, address("0.0.0.0:15008"), local), Some(address("198.51.100.1:15008")));
        settings.announced_hop = Some(address("198.51.100.1:7"));
        assert_eq!(announced(&settings, address("0.0.0.0:15008"), local), Some(address("198.51.100.1:7")));
    }
}
