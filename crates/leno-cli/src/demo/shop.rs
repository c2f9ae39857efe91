//! The shop: which services there are, who calls whom, and the resources that split the catalog.

/// One member of the demo.
pub struct Member {
    /// Service, and the name it is registered by.
    pub service: &'static str,
    /// Version label.
    pub version: &'static str,
    /// Services it calls for each request.
    pub calls: &'static [&'static str],
    /// Share of its answers that are 503, in percent.
    pub fail_percent: u32,
    /// Mean time to answer.
    pub latency_ms: u64,
}

const fn member(service: &'static str, version: &'static str, calls: &'static [&'static str]) -> Member {
    Member { service, version, calls, fail_percent: 0, latency_ms: 2 }
}

/// Every member, one instance each.
pub const MEMBERS: &[Member] = &[
    member("payment", "v1", &[]),
    member("payment", "v1", &[]),
    // This one is ill: its answers make the callers eject it.
    Member { fail_percent: 100, ..member("payment", "v1", &[]) },
    member("cart", "v1", &["payment"]),
    member("catalog-v1", "v1", &[]),
    Member { latency_ms: 5, ..member("catalog-v2", "v2", &[]) },
    member("front", "v1", &["catalog", "cart"]),
];

/// The client-only member that the load comes from.
pub const SHOPPERS: &str = "shoppers";

/// Nine of ten requests to `catalog` go to v1, one to v2.
pub const RESOURCES: &str = "\
apiVersion: v1
kind: Service
metadata: {name: catalog}
spec:
  ports: [{name: http, port: 80, appProtocol: http}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: catalog-canary}
spec:
  parentRefs: [{group: \"\", kind: Service, name: catalog}]
  rules:
  - backendRefs:
    - {name: catalog-v1, port: 80, weight: 90}
    - {name: catalog-v2, port: 80, weight: 10}
---
apiVersion: leno.dev/v1alpha1
kind: AccessPolicy
metadata: {name: payment-callers}
spec:
  targetRefs: [{group: \"\", kind: Service, name: payment}]
  rules:
  - action: allow
    from: [{serviceAccounts: [cart]}]
";
