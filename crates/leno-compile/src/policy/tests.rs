//! Which policy holds, and what it becomes.

use std::time::Duration;

use leno_model::Kind;
use leno_model::Resource;
use serde_json::{Value, json};

use super::*;
use crate::testing::{collection, resource, said, web};

fn policy(name: &str, spec: Value) -> Resource {
    resource(Kind::TrafficPolicy, name, spec)
}

fn compile(resources: &[Resource]) -> (CallPolicy, Vec<String>) {
    let (policy, diagnostics) = call_policy(&web(), &collection(resources));
    (policy, said(&diagnostics))
}

const WEB: &str = "web";

fn of_web(mut spec: Value) -> Value {
    spec["targetRefs"] = json!([{"kind": "Service", "name": WEB}]);
    spec
}

#[test]
fn every_field_acts() {
    let spec = of_web(json!({
        "balancing": {"algorithm": "leastRequest"},
        "timeouts": {"connect": "1s", "request": "2s", "attempt": "3s", "idle": "0s", "tcpIdle": "4s"},
        "retries": {"attempts": 4, "statuses": [503], "grpcStatuses": [14], "backoff": "5ms", "budget": {"percent": 6, "minPerSecond": 7}},
        "limits": {"maxConnections": 8, "maxRequests": 9},
        "ejection": {"consecutiveErrors": 10, "baseTime": "11s", "maxPercent": 12},
    }));
    let (policy, said) = compile(&[policy("a", spec)]);
    let seconds = |n| Some(Duration::from_secs(n));
    assert_eq!(said, [""; 0]);
    assert_eq!(policy.balance.algorithm, Algorithm::LeastRequest);
    let t = policy.timeouts;
    assert_eq!(
        (Some(t.connect), t.request, t.attempt, t.idle, t.tcp_idle),
        (seconds(1), seconds(2), seconds(3), None, seconds(4))
    );
    let r = &policy.retry;
    assert_eq!(
        (r.retries, &r.statuses[..], &r.grpc_statuses[..], r.backoff),
        (4, &[503][..], &[14][..], Duration::from_millis(5))
    );
    assert_eq!((r.budget.percent, r.budget.min_per_second), (6, 7));
    assert_eq!((policy.limits.max_connections, policy.limits.max_requests), (Some(8), Some(9)));
    assert_eq!(
        (policy.ejection.failures, policy.ejection.base, policy.ejection.max_percent),
        (10, Duration::from_secs(11), 12)
    );
}

#[test]
fn what_is_absent_or_senseless_is_the_default() {
    assert_eq!(compile(&[]), (CallPolicy::default(), vec![]));
    let empty = of_web(
        json!({"balancing": {}, "timeouts": {"connect": "0s"}, "retries": {"budget": {}}, "limits": {}, "ejection": {"baseTime": "0s"}}),
    );
    assert_eq!(compile(&[policy("a", empty)]).0, CallPolicy::default());
    let (found, said) = compile(&[policy("a", of_web(json!({"balancing": {"algorithm": "psychic"}})))]);
    assert_eq!((found, said), (CallPolicy::default(), vec!["a UnsupportedValue spec.balancing.algorithm".to_owned()]));
}

#[test]
fn the_closest_then_the_oldest_holds_section_by_section() {
    let limit = |n: u32| json!({"limits": {"maxRequests": n}});
    let retry = |n: u32| json!({"retries": {"attempts": n}});
    for (resources, requests, retries, expected) in [
        (vec![policy("b", of_web(limit(1))), policy("a", limit(2))], Some(1), 2, vec![]),
        (
            vec![policy("b", of_web(limit(1))), policy("a", of_web(limit(2)))],
            Some(2),
            2,
            vec!["b Conflicted spec.limits"],
        ),
        (vec![policy("b", of_web(limit(1))), policy("a", of_web(retry(5)))], Some(1), 5, vec![]),
        (vec![policy("leno-system/a", limit(3)), policy("b", retry(5))], Some(3), 5, vec![]),
        (vec![policy("leno-system/a", limit(3)), policy("b", limit(1))], Some(1), 2, vec![]),
        // Of another namespace, or for another service: no effect.
        (vec![policy("bank/a", limit(3)), policy("bank/b", of_web(limit(4)))], None, 2, vec![]),
        (vec![policy("leno-system/a", of_web(limit(4)))], None, 2, vec![]),
        (vec![policy("a", json!({"targetRefs": [{"name": "api"}], "limits": {"maxRequests": 4}}))], None, 2, vec![]),
    ] {
        let (found, said) = compile(&resources);
        assert_eq!(
            (found.limits.max_requests, found.retry.retries, said),
            (requests, retries, expected.iter().map(ToString::to_string).collect())
        );
    }
}
