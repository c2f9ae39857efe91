//! What a plan decides: route, access, endpoint.

use std::hint::black_box;
use std::sync::Arc;

use leno_model::{NamespacedName, SpiffeId, TrustDomain};
use leno_plan::{
    AccessPlan, AccessRule, BalancePolicy, Balancer, CallerMatch, DefaultAccess, Endpoint, EndpointSet, Literal,
    NoHeaders, Part, PathMatch, RequestMatch, RequestView, RouteEntry, RouteMatch, RouteRule, RouteTable,
    ServiceHealth,
};

fn view(path: &[u8]) -> RequestView<'_> {
    RequestView { method: b"GET", path, query: None, authority: b"web.shop", headers: &NoHeaders }
}

/// The last of so many rules by path prefix matches.
pub fn route(count: usize) -> Box<dyn FnMut()> {
    let service = NamespacedName::new("shop", "web").unwrap();
    let rules = (0..count).map(|n| RouteRule::to_service(&format!("rule-{n}"), service.clone(), 80)).collect();
    let entry = |n: usize| RouteEntry {
        condition: RouteMatch {
            path: Some(PathMatch::prefix(&format!("/api/v1/part-{n}")).unwrap()),
            ..RouteMatch::default()
        },
        rule: n,
    };
    let table = RouteTable::new(rules, (0..count).map(entry).collect());
    let path = format!("/api/v1/part-{}/items/4711", count - 1).into_bytes();
    Box::new(move || {
        let choice = table.choose(black_box(&view(&path))).expect("the last rule matches");
        assert!(choice.rule.backends.len() == 1);
        black_box(choice);
    })
}

/// The last of so many allow rules matches; without rules, the default.
pub fn access(count: usize) -> Box<dyn FnMut()> {
    let rule = |n: usize| AccessRule {
        policy: format!("policy-{n}").into(),
        from: vec![CallerMatch {
            trust_domain: Some(TrustDomain::default()),
            namespace: Literal::parse("shop"),
            service_account: Literal::parse(&format!("caller-{n}")),
            ..CallerMatch::default()
        }],
        ports: vec![80],
        requests: vec![RequestMatch {
            methods: vec!["GET".into()],
            paths: vec![PathMatch::prefix("/api").unwrap()],
            ..RequestMatch::default()
        }],
    };
    let members = DefaultAccess::Members(TrustDomain::default());
    let plan = AccessPlan::new(Vec::new(), (0..count).map(rule).collect(), None, members);
    let caller = format!("spiffe://{}/ns/shop/sa/caller-{}", TrustDomain::default().as_str(), count.saturating_sub(1));
    let caller = SpiffeId::new(&caller).unwrap();
    Box::new(move || {
        let decision = plan.decide(black_box(Some(&caller)), 80, Some(&view(b"/api/v1/items")));
        assert!(decision.allowed);
        black_box(decision);
    })
}

/// Power of two choices among so many endpoints; the answer is measured, as for a request.
pub fn pick(count: usize) -> Box<dyn FnMut()> {
    let endpoint = |n: usize| {
        Arc::new(Endpoint {
            key: format!("web-{n:05}").into(),
            transports: Vec::new(),
            zone: None,
            labels: Arc::default(),
            weight: 1,
        })
    };
    let set = EndpointSet::new((0..count).map(endpoint));
    let health = ServiceHealth::default().update(&set);
    let balancer = Balancer::new(BalancePolicy::default(), &set, &health, None, None, Part::WHOLE, 1);
    // A linear congruential generator (Knuth): the same chances in every run.
    let (mut random, mut now) = (1_u64, 0_u64);
    Box::new(move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        now += 1_000;
        let picked = balancer.pick(now, black_box(random), &[]).expect("all are ready");
        picked.answered(leno_plan::Outcome::Success, now + 500);
        black_box(picked);
    })
}
