//! TrafficPolicies of a service → one [`CallPolicy`].

use leno_model::diagnostic::{Code, Diagnostic, Severity};
use leno_model::kinds::TrafficPolicySpec;
use leno_model::kinds::references::TargetRef;
use leno_model::kinds::traffic_policy::{self as spec};
use leno_model::names::SYSTEM_NAMESPACE;
use leno_model::resource::ResourceRef;
use leno_model::{NamespacedName, TimeSpan};
use leno_plan::{
    Algorithm, BalancePolicy, CallPolicy, EjectionPolicy, Limits, RetryBudgetPolicy, RetryPolicy, Timeouts,
};

use crate::collection::{Body, Collection, age};

/// How closely a policy is attached to a service; the closest holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Closeness {
    Service,
    Namespace,
    Mesh,
}

/// How a policy of `namespace` with these targets is attached to `service`, if it is (D14: own namespace, or mesh-wide from
/// `leno-system`).
pub(crate) fn closeness(namespace: &str, targets: &[TargetRef], service: &NamespacedName) -> Option<Closeness> {
    let own = namespace == service.namespace.as_str();
    match targets {
        [] if namespace == SYSTEM_NAMESPACE => Some(Closeness::Mesh),
        [] => own.then_some(Closeness::Namespace),
        targets => {
            let named = targets.iter().any(|t| t.is_service() && t.name == service.name.as_str());
            (own && named).then_some(Closeness::Service)
        }
    }
}

/// Takes each section from the closest policy that has it; of two as close, from the older.
pub(crate) fn call_policy(service: &NamespacedName, collection: &Collection) -> (CallPolicy, Vec<Diagnostic>) {
    let mut attached: Vec<_> = collection
        .good()
        .filter_map(|(key, good)| match &good.body {
            Body::Traffic(spec) => {
                let closeness = closeness(&good.metadata.namespace, &spec.target_refs, service)?;
                Some((closeness, age(&good.metadata), key, spec))
            }
            _ => None,
        })
        .collect();
    attached.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let attached: Vec<_> = attached.into_iter().map(|(closeness, _, key, spec)| (closeness, key, spec)).collect();

    let mut diagnostics = Vec::new();
    let mut policy = CallPolicy::default();
    if let Some(section) = winner(&attached, "balancing", |s| s.balancing.as_ref(), &mut diagnostics) {
        policy.balance = balance(section.1, section.0, &mut diagnostics);
    }
    if let Some((_, section)) = winner(&attached, "timeouts", |s| s.timeouts.as_ref(), &mut diagnostics) {
        policy.timeouts = timeouts(section);
    }
    if let Some((_, section)) = winner(&attached, "retries", |s| s.retries.as_ref(), &mut diagnostics) {
        policy.retry = retries(section);
    }
    if let Some((_, section)) = winner(&attached, "limits", |s| s.limits.as_ref(), &mut diagnostics) {
        policy.limits = Limits { max_requests: section.max_requests, max_connections: section.max_connections };
    }
    if let Some((_, section)) = winner(&attached, "ejection", |s| s.ejection.as_ref(), &mut diagnostics) {
        policy.ejection = ejection(section);
    }
    (policy, diagnostics)
}

type Attached<'c> = (Closeness, &'c ResourceRef, &'c TrafficPolicySpec);

/// The first policy that has a section; those as close that have it too are told that they lost.
fn winner<'c, T>(
    attached: &[Attached<'c>],
    section: &str,
    get: impl Fn(&'c TrafficPolicySpec) -> Option<&'c T>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<(&'c ResourceRef, &'c T)> {
    let mut having = attached.iter().filter_map(|&(closeness, key, spec)| Some((closeness, key, get(spec)?)));
    let (closeness, winner, value) = having.next()?;
    for (_, key, _) in having.take_while(|(c, ..)| *c == closeness) {
        let message = format!("{winner} is older and holds for the same service");
        let path = format!("spec.{section}");
        diagnostics.push(Diagnostic::about(key.clone(), Severity::Warning, Code::Conflicted, &path, message));
    }
    Some((winner, value))
}

fn balance(section: &spec::Balancing, key: &ResourceRef, diagnostics: &mut Vec<Diagnostic>) -> BalancePolicy {
    let algorithm = match section.algorithm {
        spec::Algorithm::PeakEwma => Algorithm::PeakEwma,
        spec::Algorithm::RoundRobin => Algorithm::RoundRobin,
        spec::Algorithm::LeastRequest => Algorithm::LeastRequest,
        spec::Algorithm::Random => Algorithm::Random,
        spec::Algorithm::Unknown => {
            let message = "unknown to this version; peakEwma is used";
            let path = "spec.balancing.algorithm";
            diagnostics.push(Diagnostic::about(key.clone(), Severity::Warning, Code::UnsupportedValue, path, message));
            Algorithm::default()
        }
    };
    BalancePolicy { algorithm, ..BalancePolicy::default() }
}

fn timeouts(section: &spec::Timeouts) -> Timeouts {
    let base = Timeouts::default();
    let limit = |span: Option<TimeSpan>, otherwise| span.map_or(otherwise, TimeSpan::limit);
    Timeouts {
        // A connection attempt always ends: `0s` here means the default.
        connect: section.connect.and_then(TimeSpan::limit).unwrap_or(base.connect),
        handshake: base.handshake,
        request: limit(section.request, base.request),
        attempt: limit(section.attempt, base.attempt),
        idle: limit(section.idle, base.idle),
        tcp_idle: limit(section.tcp_idle, base.tcp_idle),
    }
}

fn retries(section: &spec::Retries) -> RetryPolicy {
    let base = RetryPolicy::default();
    let budget = section.budget.as_ref();
    RetryPolicy {
        retries: section.attempts.map_or(base.retries, small),
        statuses: section.statuses.clone(),
        grpc_statuses: section.grpc_statuses.clone(),
        backoff: section.backoff.map_or(base.backoff, TimeSpan::get),
        budget: RetryBudgetPolicy {
            percent: budget.and_then(|b| b.percent).map_or(base.budget.percent, |p| small(p).min(100)),
            min_per_second: budget.and_then(|b| b.min_per_second).unwrap_or(base.budget.min_per_second),
        },
    }
}

fn ejection(section: &spec::Ejection) -> EjectionPolicy {
    let base = EjectionPolicy::default();
    EjectionPolicy {
        failures: section.consecutive_errors.unwrap_or(base.failures),
        base: section.base_time.and_then(TimeSpan::limit).unwrap_or(base.base),
        max_percent: section.max_percent.map_or(base.max_percent, |p| small(p).min(100)),
    }
}

/// The schema bounds these numbers; what comes from elsewhere is cut.
pub(crate) fn small(number: u32) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests;
