//! Ports, endpoints and identities.

use leno_model::{AppProtocol, Kind, Resource};
use serde_json::{Value, json};

use super::*;
use crate::testing::{collection, mesh, resource, said, service, web};

fn compile(resources: &[Resource]) -> (DestinationPlan, Vec<String>) {
    let (plan, diagnostics) = compile_destination(&web(), &collection(resources), &mesh());
    (plan, said(&diagnostics))
}

fn info(identities: Value) -> Resource {
    resource(Kind::ServiceInfo, "web", json!({"identities": identities}))
}

fn endpoint(name: &str, extra: Value) -> Resource {
    let mut spec =
        json!({"service": "web", "instance": "i", "addresses": [{"transport": "leno/1", "address": "10.0.0.1:15008"}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    resource(Kind::Endpoint, name, spec)
}

#[test]
fn ports_come_from_the_service() {
    let (plan, said) = compile(&[
        service(
            json!([{"port": 80, "appProtocol": "grpc"}, {"port": 53, "protocol": "UDP"}, {"port": 443, "appProtocol": "https"}]),
        ),
        info(json!([])),
        // Somebody else's.
        resource(Kind::Service, "api", json!({"ports": [{"port": 1}]})),
        resource(Kind::Service, "bank/web", json!({"ports": [{"port": 2}]})),
    ]);
    let ports: Vec<_> = plan.ports.iter().map(|(n, p)| (*n, p.protocol)).collect();
    assert_eq!(ports, [(80, Some(AppProtocol::Grpc)), (443, Some(AppProtocol::Tcp))]);
    assert!(said.is_empty() && plan.member && plan.version == 7);
    // Without a route, everything goes to the service itself.
    let (plan, _) = compile(&[service(json!([{"port": 90}]))]);
    let rule = plan.ports[&90].routes.choose_tcp().unwrap();
    assert_eq!(rule.backends[0].target, leno_plan::BackendTarget::Service { service: web(), port: Some(90) });
}

#[test]
fn identities_are_those_of_the_service_in_our_trust_domain() {
    let ours = "spiffe://mesh.leno/ns/shop/sa/web";
    let other = resource(Kind::ServiceInfo, "api", json!({"identities": ["spiffe://mesh.leno/ns/shop/sa/api"]}));
    let (plan, said) = compile(&[info(json!([ours, "spiffe://other/ns/shop/sa/web", ours])), other]);
    assert_eq!(plan.identities.iter().map(SpiffeId::as_str).collect::<Vec<_>>(), [ours]);
    assert_eq!(said, ["web InvalidValue spec.identities"]);
    assert!(compile(&[service(json!([{"port": 80}]))]).0.identities.is_empty());
}

#[test]
fn instances_of_two_identities_may_share_a_name() {
    let at = |address: &str| json!({"addresses": [{"transport": "leno/1", "address": address}]});
    let (plan, _) = compile(&[
        service(json!([{"port": 80}])),
        endpoint("web.blue.1", at("10.0.0.1:15008")),
        endpoint("web.green.1", at("10.0.0.2:15008")),
    ]);
    let endpoints = plan.ports[&80].endpoints.as_slice();
    let said: Vec<_> = endpoints.iter().map(|e| (&*e.key, e.transports[0].addr().to_string())).collect();
    assert_eq!(said, [("blue.1", "10.0.0.1:15008".to_owned()), ("green.1", "10.0.0.2:15008".to_owned())]);
}

#[test]
fn endpoints_serve_by_port_transport_and_readiness() {
    let mtls = json!({"addresses": [{"transport": "mtls", "address": "10.0.0.3:15009", "port": 80}, {"transport": "later/9", "address": "10.0.0.3:1"}]});
    let plain = json!({"addresses": [{"transport": "plain", "address": "10.0.0.4:80", "port": 80}]});
    let (plan, said) = compile(&[
        service(json!([{"port": 80, "name": "a"}, {"port": 81, "name": "b", "targetPort": 8081}])),
        endpoint("a", json!({"zone": "z1", "labels": {"v": "1"}, "workloadId": "w1"})),
        endpoint("b", json!({"ports": [{"port": 81}]})),
        // By target port, as the instance registered it.
        endpoint("h", json!({"ports": [{"port": 8081}]})),
        endpoint("c", mtls),
        endpoint("d", plain),
        endpoint("e", json!({"ready": false})),
        endpoint("f", json!({"service": "api"})),
        endpoint("bank/g", json!({})),
    ]);
    let keys = |port: u16| plan.ports[&port].endpoints.as_slice().iter().map(|e| e.key.to_string()).collect::<Vec<_>>();
    assert_eq!((keys(80), keys(81)), (vec!["a".into(), "c".into()], vec!["a".into(), "b".into(), "h".into()]));
    assert_eq!(said, ["d UnsupportedValue spec.addresses"]);
    let first = &plan.ports[&80].endpoints.as_slice()[0];
    assert_eq!((first.zone.as_deref(), first.labels["v"].as_str()), (Some("z1"), "1"));
    assert_eq!(first.transports, [Transport::Leno { addr: "10.0.0.1:15008".parse().unwrap(), sni: "w1".into() }]);
    // No transport of any endpoint is unprotected.
    let all = plan.ports.values().flat_map(|p| p.endpoints.as_slice()).flat_map(|e| &e.transports);
    assert!(all.clone().count() == 5 && !all.clone().any(Transport::is_plain));
}
