//! `AccessPolicy`, and the targets of policies.

use super::{label, text};
use crate::diagnostic::Code;
use crate::kinds::AccessPolicySpec;
use crate::kinds::access_policy::{AccessFrom, AccessTo};
use crate::kinds::references::TargetRef;
use crate::path::FieldPath;
use crate::pattern::Pattern;
use crate::resource::Resource;
use crate::schema::Findings;
use crate::yaml::clip;

/// Judges what a policy applies to.
pub fn target_refs(targets: &[TargetRef], path: &FieldPath, findings: &mut Findings<'_>) {
    for (index, target) in targets.iter().enumerate() {
        let path = path.key("targetRefs").index(index);
        if target.is_service() {
            label(&target.name, &path.key("name"), findings);
        } else {
            let message = format!(
                "a policy applies to a Service, not to a {}; leave targetRefs out for the whole namespace",
                clip(&target.kind)
            );
            findings.error(Code::InvalidKind, &path.key("kind"), message);
        }
    }
}

/// Judges an AccessPolicy.
pub fn access_policy(spec: &AccessPolicySpec, resource: &Resource, path: &FieldPath, findings: &mut Findings<'_>) {
    target_refs(&spec.target_refs, path, findings);
    for (index, rule) in spec.rules.iter().enumerate() {
        let path = path.key("rules").index(index);
        if let Some(name) = &rule.name {
            label(name, &path.key("name"), findings);
        }
        for (index, from) in rule.from.iter().enumerate() {
            caller(from, &resource.metadata.namespace, &path.key("from").index(index), findings);
        }
        for (index, to) in rule.to.iter().enumerate() {
            called(to, &path.key("to").index(index), findings);
        }
    }
}

fn caller(from: &AccessFrom, namespace: &str, path: &FieldPath, findings: &mut Findings<'_>) {
    if *from == AccessFrom::default() {
        // `from: [{}]` is one slip of indentation away from a list of callers.
        findings.error(Code::MissingField, path, "names no caller; leave `from` out to mean any caller");
    }
    if !from.namespaces.is_empty() && !from.service_accounts.is_empty() {
        let message = "not together with `namespaces`: write NAMESPACE/NAME";
        findings.error(Code::InvalidValue, &path.key("serviceAccounts"), message);
    }
    for (index, text) in from.identities.iter().enumerate() {
        let path = path.key("identities").index(index);
        let Some(pattern) = pattern(text, &path, findings) else { continue };
        let fine = match &pattern {
            Pattern::Exact(id) => crate::identity::SpiffeId::new(id).is_ok(),
            Pattern::Prefix(prefix) => prefix.starts_with("spiffe://"),
            Pattern::Suffix(_) | Pattern::Any => true,
        };
        if !fine {
            let message = format!("`{}` is not a SPIFFE ID, nor the start of one", clip(text));
            findings.error(Code::InvalidValue, &path, message);
        }
    }
    for (index, text) in from.namespaces.iter().enumerate() {
        let path = path.key("namespaces").index(index);
        if let Some(Pattern::Exact(name)) = pattern(text, &path, findings) {
            label(&name, &path, findings);
        }
    }
    for (index, text) in from.service_accounts.iter().enumerate() {
        let path = path.key("serviceAccounts").index(index);
        if let Err(error) = service_account(text, namespace) {
            findings.error(Code::InvalidValue, &path, error);
        }
    }
}

/// The pattern that a `serviceAccounts` entry means, over `NAMESPACE/NAME`.
pub fn service_account(text: &str, own_namespace: &str) -> Result<Pattern, String> {
    let pattern: Pattern = text.parse().map_err(|e: crate::pattern::PatternError| e.to_string())?;
    if text.matches('/').count() > 1 {
        return Err(format!("`{}` is not of the form NAME or NAMESPACE/NAME", clip(text)));
    }
    let pattern = if text.contains('/') {
        pattern
    } else {
        pattern.under(&format!("{own_namespace}/")).map_err(|e| e.to_string())?
    };
    if let Pattern::Exact(exact) = &pattern {
        let (namespace, name) = exact.split_once('/').unwrap_or_default();
        crate::names::NamespacedName::new(namespace, name).map_err(|e| e.to_string())?;
    }
    Ok(pattern)
}

fn called(to: &AccessTo, path: &FieldPath, findings: &mut Findings<'_>) {
    if *to == AccessTo::default() {
        findings.error(Code::MissingField, path, "names nothing that is called; leave `to` out to mean anything");
    }
    for (index, _) in to.ports.iter().enumerate().filter(|(_, port)| **port == 0) {
        findings.error(Code::InvalidValue, &path.key("ports").index(index), "0 is not a port");
    }
    for (index, method) in to.methods.iter().enumerate() {
        if !text::is_token(method) || method.contains('*') {
            let message = format!("`{}` is not a method", clip(method));
            findings.error(Code::InvalidValue, &path.key("methods").index(index), message);
        }
    }
    for (index, entry) in to.paths.iter().enumerate() {
        let path = path.key("paths").index(index);
        let judged = match pattern(entry, &path, findings) {
            Some(Pattern::Exact(exact)) => text::path(&exact),
            // By whole segments, so that `/admin/*` covers `/admin` and nobody is surprised by `/administrator`.
            Some(Pattern::Prefix(prefix)) if prefix.ends_with('/') => text::path(&prefix),
            Some(Pattern::Prefix(_)) => Err(format!("`{}` is not a path prefix: end it with `/*`", clip(entry))),
            // What a path ends with is judged as if a path began before it.
            Some(Pattern::Suffix(suffix)) if suffix.starts_with('/') => text::path(&suffix),
            Some(Pattern::Suffix(suffix)) => text::path(&format!("/x{suffix}")),
            Some(Pattern::Any) | None => Ok(()),
        };
        if let Err(error) = judged {
            findings.error(Code::InvalidValue, &path, error);
        }
    }
}

fn pattern(text: &str, path: &FieldPath, findings: &mut Findings<'_>) -> Option<Pattern> {
    match text.parse() {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let error: crate::pattern::PatternError = error;
            findings.error(Code::InvalidValue, path, error.to_string());
            None
        }
    }
}
