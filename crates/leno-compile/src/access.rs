//! AccessPolicies of a service → one [`AccessPlan`]. Every doubt closes.

use std::sync::Arc;

use leno_model::diagnostic::{Code, Diagnostic, Severity};
use leno_model::kinds::AccessPolicySpec;
use leno_model::kinds::access_policy::{AccessAction, AccessFrom, AccessRule as RuleSpec, AccessTo};
use leno_model::resource::ResourceRef;
use leno_model::validate::access::service_account;
use leno_model::{NamespacedName, Pattern, TrustDomain};
use leno_plan::{AccessPlan, AccessRule, CallerMatch, Literal, PathMatch, RequestMatch};

use crate::collection::{Body, Collection, Fault};
use crate::mesh::MeshDefaults;
use crate::policy::closeness;

/// Callers of one rule after their lists are multiplied out; more would cost every request.
const MAX_CALLERS: usize = 4096;

/// The rules of one policy.
#[derive(Default)]
struct Compiled {
    deny: Vec<AccessRule>,
    allow: Vec<AccessRule>,
    /// It has an allow, also if that cannot match anybody.
    closes: bool,
}

/// Whether the policy compiles on its own; the trust domain makes no difference to that.
pub(crate) fn probe(key: &ResourceRef, spec: &AccessPolicySpec) -> Result<(), Fault> {
    compile_policy(key, spec, &TrustDomain::default()).map(|_| ())
}

/// The plan of a service. A policy that cannot be understood denies everything (BAD_INPUTS 19).
pub(crate) fn access_plan(
    service: &NamespacedName,
    collection: &Collection,
    mesh: &MeshDefaults,
    diagnostics: &mut Vec<Diagnostic>,
) -> AccessPlan {
    let mut all = Compiled::default();
    let mut closed_by: Option<Arc<str>> = None;
    for key in collection.closing() {
        all.deny.push(deny_all(key));
    }
    for (key, good) in collection.good() {
        let Body::Access(spec) = &good.body else { continue };
        if !concerns(key, spec, service) {
            let message = format!("does not act on {service}: it is of another namespace or names other services");
            diagnostics.push(Diagnostic::about(
                key.clone(),
                Severity::Warning,
                Code::NoMatchingParent,
                "spec.targetRefs",
                message,
            ));
            continue;
        }
        match compile_policy(key, spec, &mesh.trust_domain) {
            Ok(compiled) => {
                if compiled.closes && closed_by.is_none() {
                    closed_by = Some(policy_name(key));
                }
                all.deny.extend(compiled.deny);
                all.allow.extend(compiled.allow);
            }
            Err(fault) => {
                diagnostics.push(*fault);
                all.deny.push(deny_all(key));
            }
        }
    }
    AccessPlan::new(all.deny, all.allow, closed_by, mesh.default_access())
}

/// A policy acts on its own namespace, or mesh-wide from `leno-system` (D14). One with a target that is not a Service acts on all of
/// its namespace, and is refused by [`compile_policy`].
fn concerns(key: &ResourceRef, spec: &AccessPolicySpec, service: &NamespacedName) -> bool {
    let unreadable = spec.target_refs.iter().any(|t| !t.is_service());
    closeness(&key.namespace, if unreadable { &[] } else { &spec.target_refs }, service).is_some()
}

fn policy_name(key: &ResourceRef) -> Arc<str> {
    format!("{}/{}", key.namespace, key.name).into()
}

fn deny_all(key: &ResourceRef) -> AccessRule {
    AccessRule { policy: policy_name(key), from: Vec::new(), ports: Vec::new(), requests: Vec::new() }
}

fn compile_policy(key: &ResourceRef, spec: &AccessPolicySpec, domain: &TrustDomain) -> Result<Compiled, Fault> {
    let fault = |path: &str, message: String| {
        Box::new(Diagnostic::about(key.clone(), Severity::Error, Code::InvalidValue, path, message))
    };
    if let Some(at) = spec.target_refs.iter().position(|t| !t.is_service()) {
        let message = format!("a {} is not a target of this version", spec.target_refs[at].kind);
        return Err(fault(&format!("spec.targetRefs[{at}]"), message));
    }
    let mut compiled = Compiled::default();
    for (index, rule) in spec.rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        let list = match rule.action {
            AccessAction::Allow => {
                compiled.closes = true;
                &mut compiled.allow
            }
            AccessAction::Deny => &mut compiled.deny,
            AccessAction::Unknown => return Err(fault(&path, "the action is unknown to this version".to_owned())),
        };
        list.extend(compile_rule(key, rule, domain).map_err(|message| fault(&path, message))?);
    }
    Ok(compiled)
}

/// One plan rule per `to`, since ports and requests go together in it.
fn compile_rule(key: &ResourceRef, rule: &RuleSpec, domain: &TrustDomain) -> Result<Vec<AccessRule>, String> {
    let mut from = Vec::new();
    for entry in &rule.from {
        // An entry that asks nothing fits everybody: no allow may be so by a slip, and a deny may.
        if *entry == AccessFrom::default() && rule.action == AccessAction::Allow {
            return Err("an entry of `from` names no caller".to_owned());
        }
        from.extend(callers(entry, &key.namespace, domain)?);
        if from.len() > MAX_CALLERS {
            return Err(format!("more than {MAX_CALLERS} combinations of callers"));
        }
    }
    let policy = match &rule.name {
        Some(name) => format!("{}/{}", policy_name(key), name).into(),
        None => policy_name(key),
    };
    let build = |ports: &[u16], requests| AccessRule {
        policy: Arc::clone(&policy),
        from: from.clone(),
        ports: ports.into(),
        requests,
    };
    if rule.to.is_empty() {
        return Ok(vec![build(&[], Vec::new())]);
    }
    let mut rules = Vec::new();
    for entry in &rule.to {
        if *entry == AccessTo::default() && rule.action == AccessAction::Allow {
            return Err("an entry of `to` names nothing".to_owned());
        }
        let requests =
            if entry.methods.is_empty() && entry.paths.is_empty() { Vec::new() } else { vec![request(entry)?] };
        rules.push(build(&entry.ports, requests));
    }
    Ok(rules)
}

/// Every combination of the lists: of the fields given each must fit, in a list one entry must.
fn callers(entry: &AccessFrom, namespace: &str, domain: &TrustDomain) -> Result<Vec<CallerMatch>, String> {
    if !entry.namespaces.is_empty() && !entry.service_accounts.is_empty() {
        return Err("namespaces and serviceAccounts exclude each other in one entry".to_owned());
    }
    let mut identities = Vec::new();
    for text in &entry.identities {
        identities.push(Some(literal(text)?));
    }
    let mut accounts: Vec<(Option<Literal>, Option<Literal>)> = Vec::new();
    for text in &entry.namespaces {
        accounts.push((Some(literal(text)?), None));
    }
    for text in &entry.service_accounts {
        accounts.push(account(text, namespace)?);
    }
    if identities.len().max(1).saturating_mul(accounts.len().max(1)) > MAX_CALLERS {
        return Err(format!("more than {MAX_CALLERS} combinations of callers"));
    }
    // A list that is absent asks nothing.
    if identities.is_empty() {
        identities.push(None);
    }
    if accounts.is_empty() {
        accounts.push((None, None));
    }
    let mut found = Vec::new();
    for identity in &identities {
        for (namespace, service_account) in &accounts {
            let local = namespace.is_some() || service_account.is_some();
            found.push(CallerMatch {
                identity: identity.clone(),
                trust_domain: local.then(|| domain.clone()),
                namespace: namespace.clone(),
                service_account: service_account.clone(),
            });
        }
    }
    Ok(found)
}

fn literal(text: &str) -> Result<Literal, String> {
    Literal::parse(text)
        .ok_or_else(|| format!("`{}` is not text with at most one `*`, at its start or its end", text.escape_debug()))
}

/// Splits a pattern over `NAMESPACE/NAME` at its slash.
fn account(text: &str, own: &str) -> Result<(Option<Literal>, Option<Literal>), String> {
    let pattern = service_account(text, own)?;
    let (whole, star_first, star_last) = match &pattern {
        Pattern::Any => return Ok((None, Some(Literal::Any))),
        Pattern::Exact(t) => (t, false, false),
        Pattern::Prefix(t) => (t, false, true),
        Pattern::Suffix(t) => (t, true, false),
    };
    let malformed = || format!("`{}` is not of the form NAME or NAMESPACE/NAME", text.escape_debug());
    let (namespace, name) = whole.split_once('/').ok_or_else(malformed)?;
    let namespace = if star_first { format!("*{namespace}") } else { namespace.to_owned() };
    let name = if star_last { format!("{name}*") } else { name.to_owned() };
    Ok((Some(literal(&namespace)?), Some(literal(&name)?)))
}

fn request(entry: &AccessTo) -> Result<RequestMatch, String> {
    let mut paths = Vec::new();
    for text in &entry.paths {
        let pattern: Pattern = text.parse().map_err(|e: leno_model::pattern::PatternError| e.to_string())?;
        let compiled = match &pattern {
            // A condition, not the absence of one: it still asks for a request. Also fits `OPTIONS *`, which is below no prefix.
            Pattern::Any => Ok(PathMatch::Suffix(Box::default())),
            Pattern::Exact(path) => PathMatch::exact(path),
            Pattern::Prefix(path) if path.ends_with('/') => PathMatch::prefix(path),
            Pattern::Prefix(_) => {
                return Err(format!("the path prefix `{}` does not end with `/*`", text.escape_debug()));
            }
            Pattern::Suffix(path) => {
                Ok(PathMatch::Suffix(leno_plan::path::decode(path.as_bytes()).into_owned().into()))
            }
        };
        paths.push(compiled.map_err(|e| format!("`{}`: {e}", text.escape_debug()))?);
    }
    Ok(RequestMatch { methods: entry.methods.iter().map(|m| m.as_str().into()).collect(), paths, headers: Vec::new() })
}

#[cfg(test)]
mod tests;
