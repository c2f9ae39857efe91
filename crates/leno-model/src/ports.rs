//! From the ports that callers use to the ports that an application listens on.

use std::collections::BTreeMap;

use crate::kinds::service::{ServicePort, TargetPort, Transport};
use crate::kinds::workload::WorkloadPort;

/// Service port → application port of an instance that registered `registered`. Callers and the instance's own proxy both ask this,
/// so that they agree. A service port that the instance has no port for is not in it. What a registration says of a service port decides; then the Service's `targetPort`, by number or
/// name; then the same number; and last an instance with one port serves a service with one port.
#[must_use]
pub fn application_ports(service: &[ServicePort], registered: &[WorkloadPort]) -> BTreeMap<u16, u16> {
    let carried = || service.iter().filter(|p| p.protocol == Transport::Tcp);
    let mut found = BTreeMap::new();
    for port in carried() {
        let said = registered.iter().find(|r| r.service_port == Some(port.port));
        let free = || registered.iter().filter(|r| r.service_port.is_none());
        let target = || match &port.target_port {
            Some(TargetPort::Number(number)) => free().find(|r| r.port == *number),
            Some(TargetPort::Name(name)) => free().find(|r| r.name.as_deref() == Some(name)),
            None => None,
        };
        let same = || free().find(|r| r.port == port.port);
        let only = || match registered {
            [only] if only.service_port.is_none() && carried().count() == 1 => Some(only),
            _ => None,
        };
        if let Some(r) = said.or_else(target).or_else(same).or_else(only) {
            found.insert(port.port, r.port);
        }
    }
    // Without a Service that declares ports, they are called by the number that the registration gives.
    if carried().next().is_none() {
        found.extend(registered.iter().map(|r| (r.service_port.unwrap_or(r.port), r.port)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_found_by_registration_target_number_or_being_alone() {
        for (service, registered, expected) in [
            (json!([{"port": 80}]), json!([{"port": 80}]), vec![(80, 80)]),
            (json!([{"port": 80}]), json!([{"port": 8080}]), vec![(80, 8080)]),
            (json!([{"port": 80, "targetPort": 8080}]), json!([{"port": 8080}, {"port": 9090}]), vec![(80, 8080)]),
            (
                json!([{"port": 80, "targetPort": "http"}]),
                json!([{"port": 1}, {"port": 2, "name": "http"}]),
                vec![(80, 2)],
            ),
            (json!([{"port": 80}]), json!([{"port": 1, "servicePort": 80}, {"port": 80}]), vec![(80, 1)]),
            (json!([{"port": 80}, {"port": 81}]), json!([{"port": 81}]), vec![(81, 81)]),
            (json!([{"port": 80}, {"port": 81}]), json!([{"port": 9}]), vec![]),
            (json!([{"port": 53, "protocol": "UDP"}, {"port": 80}]), json!([{"port": 8080}]), vec![(80, 8080)]),
            (json!([]), json!([{"port": 8080, "servicePort": 80}, {"port": 9}]), vec![(9, 9), (80, 8080)]),
            (json!([{"port": 80, "targetPort": 8080}, {"port": 81}]), json!([{"port": 80}]), vec![(80, 80)]),
            (json!([{"port": 80}]), json!([]), vec![]),
        ] {
            let ports: Vec<ServicePort> = serde_json::from_value(service.clone()).unwrap();
            let own: Vec<WorkloadPort> = serde_json::from_value(registered.clone()).unwrap();
            let found: Vec<_> = application_ports(&ports, &own).into_iter().collect();
            assert_eq!(found, expected, "{service} {registered}");
        }
    }
}
