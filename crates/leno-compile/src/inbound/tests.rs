//! What an instance serves.

use leno_model::{AppProtocol, Kind};
use serde_json::json;

use super::*;
use crate::testing::{collection, mesh, resource, said, service, web};

fn own(ports: serde_json::Value) -> Vec<WorkloadPort> {
    serde_json::from_value(ports).unwrap()
}

#[test]
fn ports_lead_to_the_application() {
    let c = collection(&[
        service(json!([{"port": 80, "targetPort": 8080, "appProtocol": "http"}, {"port": 81}, {"port": 9}])),
        resource(Kind::TrafficPolicy, "t", json!({"limits": {"maxRequests": 3}})),
    ]);
    let (plan, diagnostics) =
        compile_inbound(&web(), &c, &mesh(), &own(json!([{"port": 8080}, {"port": 9, "appProtocol": "tcp"}])));
    let ports: Vec<_> = plan.ports.iter().map(|(n, p)| (*n, p.app_port, p.protocol)).collect();
    assert_eq!(ports, [(9, 9, Some(AppProtocol::Tcp)), (80, 8080, Some(AppProtocol::Http))]);
    assert!(diagnostics.is_empty() && plan.version == 7 && plan.ports[&80].limits.max_requests == Some(3));
}

#[test]
fn a_member_that_serves_nothing_has_no_ports() {
    let c = collection(&[service(json!([{"port": 80}]))]);
    assert!(compile_inbound(&web(), &c, &mesh(), &[]).0.ports.is_empty());
}

#[test]
fn what_is_wrong_is_named() {
    let mut c = collection(&[service(json!([{"port": 80}]))]);
    c.upsert(crate::testing::key("AccessPolicy", "shop", "p"), 1, b"{}");
    let (_, diagnostics) = compile_inbound(&web(), &c, &mesh(), &own(json!([{"port": 80}])));
    assert_eq!(said(&diagnostics), ["p Undecodable"]);
}
