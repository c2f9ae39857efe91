//! Which rules a caller may match, so that a policy for fifty callers costs little more than one for one.
//!
//! ```text
//!   spiffe://mesh.leno/ns/shop/sa/web ─┬─ the whole ID ──────────▶ [rule 3]     ┐
//!                                      ├─ namespace and account ─▶ [rule 7, 9]  │
//!                                      ├─ namespace ─────────────▶ [rule 0]     ├─▶ the first rule that matches
//!                                      ├─ account ───────────────▶ []           │
//!                                      └─ always ────────────────▶ [rule 5]     ┘
//! ```
//!
//! It only leaves out conditions that cannot hold: those that it gives are compared whole, and of all rules that match the first
//! is taken, as if all had been compared. Names with `*`, a trust domain alone, and rules for everybody are always compared.

use super::{AccessRule, Caller, CallerMatch};
use crate::lookup::{Positions, TextHash};
use crate::matching::Literal;

/// Up to so many conditions on callers are compared one by one: that costs less than hashing the caller.
const FEW: usize = 4;

/// What of a caller is hashed; also the kind of the hash, and the bit in [`CallerIndex::kinds`].
#[derive(Debug, Clone, Copy)]
enum Kind {
    Identity,
    Workload,
    Namespace,
    Account,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct CallerIndex {
    /// All conditions in order of their rules.
    conditions: Box<[Condition]>,
    named: Positions,
    /// Kinds that are in `named`.
    kinds: u8,
    others: Box<[u32]>,
}

/// One condition on callers of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    rule: u32,
    /// Position in the rule's `from`; none of them if that is empty.
    from: u32,
}

impl CallerIndex {
    /// Of rules in order.
    pub(super) fn new(rules: &[AccessRule]) -> Self {
        let mut conditions = Vec::new();
        for (rule, at) in rules.iter().zip(0..) {
            conditions.extend((0..rule.from.len().max(1)).map(|from| Condition { rule: at, from: from as u32 }));
        }
        let (mut kinds, mut named, mut others) = (0, Vec::new(), Vec::new());
        let is_short = conditions.len() <= FEW;
        for (condition, at) in conditions.iter().zip(0..) {
            let from = rules[condition.rule as usize].from.get(condition.from as usize);
            match from.filter(|_| !is_short).and_then(name_of) {
                Some((kind, hash)) => {
                    kinds |= 1 << kind as u8;
                    named.push((hash, at));
                }
                None => others.push(at),
            }
        }
        Self { conditions: conditions.into(), named: Positions::new(named), kinds, others: others.into() }
    }

    /// The first of `rules` whose condition on the caller holds and of which `is_match` says yes. A rule without a condition on
    /// the caller is for everybody if `is_for_strangers`, else for everyone who proved an identity.
    pub(super) fn first<'r>(
        &self,
        rules: &'r [AccessRule],
        caller: Option<&Caller<'_>>,
        is_for_strangers: bool,
        is_match: impl Fn(&AccessRule) -> bool,
    ) -> Option<&'r AccessRule> {
        let mut best = u32::MAX;
        let mut consider = |positions: &[u32]| {
            // A rule whose other conditions do not hold is not asked about for each of its callers.
            let mut refused = u32::MAX;
            for condition in positions.iter().map(|&at| self.conditions[at as usize]) {
                if condition.rule >= best {
                    return;
                }
                let rule = &rules[condition.rule as usize];
                let is_caller = match rule.from.get(condition.from as usize) {
                    Some(from) => caller.is_some_and(|c| from.is_match(c)),
                    None => is_for_strangers || caller.is_some(),
                };
                if is_caller && condition.rule != refused {
                    if is_match(rule) {
                        best = condition.rule;
                        return;
                    }
                    refused = condition.rule;
                }
            }
        };
        if let Some(caller) = caller.filter(|_| self.kinds != 0) {
            for kind in [Kind::Identity, Kind::Workload, Kind::Namespace, Kind::Account] {
                if self.kinds & 1 << kind as u8 != 0
                    && let Some(hash) = hash_of(kind, caller)
                {
                    consider(self.named.of(hash));
                }
            }
        }
        consider(&self.others);
        rules.get(best as usize)
    }

    /// Heap bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.conditions) + self.named.bytes() + size_of_val(&*self.others)
    }
}

fn hash_of(kind: Kind, caller: &Caller<'_>) -> Option<u32> {
    if let Kind::Identity = kind {
        return Some(hash(kind, caller.text, ""));
    }
    let (namespace, account) = caller.workload?;
    Some(match kind {
        Kind::Namespace => hash(kind, namespace, ""),
        Kind::Account => hash(kind, account, ""),
        Kind::Identity | Kind::Workload => hash(kind, namespace, account),
    })
}

/// The most telling whole name in a condition, if there is one.
fn name_of(condition: &CallerMatch) -> Option<(Kind, u32)> {
    let exact = |literal: &Option<Literal>| match literal {
        Some(Literal::Exact(text)) => Some(text.clone()),
        _ => None,
    };
    let CallerMatch { identity, trust_domain: _, namespace, service_account } = condition;
    let (kind, first, second) = match (exact(identity), exact(namespace), exact(service_account)) {
        (Some(identity), ..) => (Kind::Identity, identity, None),
        (None, Some(namespace), Some(account)) => (Kind::Workload, namespace, Some(account)),
        (None, Some(namespace), None) => (Kind::Namespace, namespace, None),
        (None, None, Some(account)) => (Kind::Account, account, None),
        (None, None, None) => return None,
    };
    Some((kind, hash(kind, &first, second.as_deref().unwrap_or_default())))
}

fn hash(kind: Kind, first: &str, second: &str) -> u32 {
    // A slash stands in no name, so that it ends the first.
    TextHash::new(kind as u8).text(first.as_bytes()).text(b"/").text(second.as_bytes()).get()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{AccessPlan, DEFAULT_POLICY, Decision, DefaultAccess, Paths, RequestMatch};
    use super::*;
    use crate::matching::{HeaderMatch, TextMatch};
    use crate::path;
    use crate::request::RequestView;
    use crate::route::PathMatch;
    use leno_model::{SpiffeId, TrustDomain};
    use proptest::prelude::*;

    fn holds(condition: &CallerMatch, caller: &SpiffeId) -> bool {
        let part = |wanted: &Option<Literal>, is: Option<&str>| {
            wanted.as_ref().is_none_or(|literal| is.is_some_and(|text| literal.is_match(text)))
        };
        part(&condition.identity, Some(caller.as_str()))
            && condition.trust_domain.as_ref().is_none_or(|d| d.as_str() == caller.trust_domain())
            && part(&condition.namespace, caller.namespace())
            && part(&condition.service_account, caller.service_account())
    }

    /// Every rule compared in order: what a plan means.
    fn linear<'p>(
        plan: &'p AccessPlan,
        caller: Option<&SpiffeId>,
        port: u16,
        request: Option<&RequestView<'_>>,
    ) -> Decision<'p> {
        let raw = request.map_or(&b""[..], |r| r.path);
        let decoded = if plan.matches_paths() { path::decode(raw) } else { raw.into() };
        let bare = if plan.matches_paths() { path::without_parameters(&decoded) } else { None };
        let paths = Paths { decoded: &decoded, bare: bare.as_deref() };
        let concerns = |rule: &AccessRule| rule.ports.is_empty() || rule.ports.contains(&port);
        for rule in &plan.deny {
            let is_caller = rule.from.is_empty() || caller.is_some_and(|c| rule.from.iter().any(|m| holds(m, c)));
            let is_request = rule.requests.is_empty()
                || request.is_none_or(|view| rule.requests.iter().any(|r| r.denies(view, &paths)));
            if concerns(rule) && is_caller && is_request {
                return Decision { allowed: false, policy: &rule.policy };
            }
        }
        for rule in &plan.allow {
            let is_caller = caller.is_some_and(|c| rule.from.is_empty() || rule.from.iter().any(|m| holds(m, c)));
            let is_request = rule.requests.is_empty()
                || request.is_some_and(|view| rule.requests.iter().any(|r| r.allows(view, &paths)));
            if concerns(rule) && is_caller && is_request {
                return Decision { allowed: true, policy: &rule.policy };
            }
        }
        if let Some(policy) = &plan.closed_by {
            return Decision { allowed: false, policy };
        }
        let allowed = match &plan.otherwise {
            DefaultAccess::Members(domain) => caller.is_some_and(|c| c.trust_domain() == domain.as_str()),
            DefaultAccess::Deny => false,
        };
        Decision { allowed, policy: DEFAULT_POLICY }
    }

    /// Few letters, so that names meet.
    fn name() -> impl Strategy<Value = Option<Literal>> {
        prop_oneof![
            2 => Just(None),
            5 => "[ab]{1,2}".prop_map(|t| Literal::parse(&t)),
            1 => "[ab]\\*".prop_map(|t| Literal::parse(&t)),
            1 => "\\*[ab]".prop_map(|t| Literal::parse(&t)),
            1 => Just(Literal::parse("*")),
        ]
    }

    fn caller_match() -> impl Strategy<Value = CallerMatch> {
        let domain = prop_oneof![Just(None), Just(Some(TrustDomain::default())), Just(TrustDomain::new("peer").ok())];
        let identity = prop_oneof![
            6 => Just(None),
            2 => "spiffe://(mesh.leno|peer)/ns/[ab]{1,2}/sa/[ab]{1,2}".prop_map(|t| Literal::parse(&t)),
            1 => "spiffe://mesh.leno/ns/[ab]/\\*".prop_map(|t| Literal::parse(&t)),
        ];
        (identity, domain, name(), name()).prop_map(|(identity, trust_domain, namespace, service_account)| {
            CallerMatch { identity, trust_domain, namespace, service_account }
        })
    }

    fn request_match() -> impl Strategy<Value = RequestMatch> {
        let methods = prop_oneof![2 => Just(vec![]), 1 => Just(vec!["GET".into()])];
        let paths = proptest::collection::vec("(/[ab]){1,2}".prop_map(|p| PathMatch::prefix(&p).unwrap()), 0..3);
        let header = HeaderMatch { name: "x-a".into(), value: Some(TextMatch::Exact("1".into())) };
        let headers = prop_oneof![4 => Just(vec![]), 1 => Just(vec![header])];
        (methods, paths, headers).prop_map(|(methods, paths, headers)| RequestMatch { methods, paths, headers })
    }

    fn rules() -> impl Strategy<Value = Vec<AccessRule>> {
        let ports = prop_oneof![2 => Just(vec![]), 1 => Just(vec![80]), 1 => Just(vec![90, 80]), 1 => Just(vec![90])];
        let from = proptest::collection::vec(caller_match(), 0..4);
        let requests = proptest::collection::vec(request_match(), 0..3);
        let rule = (from, ports, requests);
        proptest::collection::vec(rule, 0..14).prop_map(|rules| {
            let named = |(at, (from, ports, requests))| AccessRule {
                policy: format!("policy-{at}").into(),
                from,
                ports,
                requests,
            };
            rules.into_iter().enumerate().map(named).collect()
        })
    }

    fn default_access() -> impl Strategy<Value = DefaultAccess> {
        prop_oneof![Just(DefaultAccess::Deny), Just(DefaultAccess::Members(TrustDomain::default()))]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn the_index_decides_as_comparing_all_in_order(
            deny in rules(),
            allow in rules(),
            closed_by in prop_oneof![Just(None), Just(Some(Arc::from("broken")))],
            otherwise in default_access(),
            asked in proptest::collection::vec((
                "(spiffe://(mesh.leno|peer)(/ns/[ab]{1,2}/sa/[ab]{1,2}|/ns/a|/x/y|))?",
                prop_oneof![Just(80_u16), Just(90)],
                (any::<bool>(), any::<bool>(), any::<bool>()),
                "(/[ab]){1,3}(;x)?",
            ), 1..20),
        ) {
            let plan = AccessPlan::new(deny, allow, closed_by, otherwise);
            for (caller, port, (is_tcp, is_get, has_header), path) in &asked {
                let caller = SpiffeId::new(caller).ok();
                let headers: &[(&str, &str)] = if *has_header { &[("x-a", "1")] } else { &[] };
                let view = RequestView {
                    method: if *is_get { b"GET" } else { b"POST" },
                    path: path.as_bytes(),
                    query: None,
                    authority: b"web",
                    headers: &headers,
                };
                let request = (!is_tcp).then_some(&view);
                let (caller, port) = (caller.as_ref(), *port);
                prop_assert_eq!(plan.decide(caller, port, request), linear(&plan, caller, port, request));
            }
        }
    }

    #[test]
    fn an_index_of_many_callers_is_small_and_asks_little() {
        let from = |n: usize| CallerMatch {
            trust_domain: Some(TrustDomain::default()),
            namespace: Literal::parse("shop"),
            service_account: Literal::parse(&format!("caller-{n}")),
            ..CallerMatch::default()
        };
        let rule = |n: usize| AccessRule {
            policy: format!("policy-{n}").into(),
            from: (0..10).map(|m| from(10 * n + m)).collect(),
            ports: vec![],
            requests: vec![],
        };
        let rules: Vec<_> = (0..500).map(rule).collect();
        let index = CallerIndex::new(&rules);
        println!("index of 5,000 callers: {} bytes", index.bytes());
        assert!(index.bytes() / 5000 <= 48, "{} bytes per caller", index.bytes() / 5000);
        let id = SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/caller-4321").unwrap();
        let asked = std::cell::Cell::new(0);
        let found = index.first(&rules, Some(&Caller::of(&id)), false, |_| {
            asked.set(asked.get() + 1);
            true
        });
        assert_eq!((found.map(|r| &*r.policy), asked.get()), (Some("policy-432"), 1));
    }
}
