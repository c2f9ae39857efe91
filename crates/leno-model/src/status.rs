//! Conditions: what the mesh says of a resource, in its status.

use serde::{Deserialize, Serialize};

use crate::diagnostic::{Code, Diagnostic};

/// One thing that is so or not (Kubernetes `metav1.Condition`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is judged: [`ACCEPTED`], [`RESOLVED_REFS`] or [`PARTIALLY_INVALID`].
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// A [`Code`]'s word, or the type's own if all is well.
    pub reason: String,
    /// For people; every finding, one per line.
    pub message: String,
    /// The generation of the spec that was judged.
    #[serde(default)]
    pub observed_generation: u64,
    /// RFC 3339; when `status` last changed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_transition_time: String,
}

/// The resource is acted on as it is written.
pub const ACCEPTED: &str = "Accepted";
/// What it refers to exists and may be referred to.
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// Some of it is not acted on, the rest is.
pub const PARTIALLY_INVALID: &str = "PartiallyInvalid";
/// Findings told in one condition; the first ones say enough.
const MAX_MESSAGES: usize = 20;

/// The conditions that say what was found: `Accepted` is false if the resource is set aside, `ResolvedRefs` if a reference leads
/// nowhere or is not permitted, and `PartiallyInvalid` is there and true if something in it is not acted on (Gateway API v1,
/// `RouteConditionPartiallyInvalid`).
#[must_use]
pub fn conditions(generation: u64, diagnostics: &[Diagnostic]) -> Vec<Condition> {
    let about_refs = |d: &&Diagnostic| {
        matches!(d.code, Code::BackendNotFound | Code::RefNotPermitted | Code::InvalidKind | Code::NoMatchingParent)
    };
    let refs: Vec<&Diagnostic> = diagnostics.iter().filter(about_refs).collect();
    let errors: Vec<&Diagnostic> = diagnostics.iter().filter(|d| d.is_error() && !about_refs(d)).collect();
    let partial: Vec<&Diagnostic> = diagnostics.iter().filter(|d| !d.is_error() && !about_refs(d)).collect();
    let mut found = vec![condition(ACCEPTED, generation, &errors), condition(RESOLVED_REFS, generation, &refs)];
    if !partial.is_empty() {
        found.push(Condition { status: "True".to_owned(), ..condition(PARTIALLY_INVALID, generation, &partial) });
    }
    found
}

fn condition(kind: &str, generation: u64, found: &[&Diagnostic]) -> Condition {
    let line =
        |d: &&Diagnostic| if d.path.is_empty() { d.message.clone() } else { format!("{}: {}", d.path, d.message) };
    let mut messages: Vec<String> = found.iter().take(MAX_MESSAGES).map(line).collect();
    if found.len() > MAX_MESSAGES {
        messages.push(format!("and {} more", found.len() - MAX_MESSAGES));
    }
    Condition {
        kind: kind.to_owned(),
        status: if found.is_empty() { "True" } else { "False" }.to_owned(),
        reason: found.first().map_or(kind, |d| d.code.as_str()).to_owned(),
        message: messages.join("\n"),
        observed_generation: generation,
        last_transition_time: String::new(),
    }
}

/// Gives new conditions their times: the old one's where the status is the same, else `now`. Whether anything else than the
/// generation differs is the caller's to compare, so that an equal status is not written again.
pub fn carry_times(old: &[Condition], new: &mut [Condition], now: &str) {
    for condition in new {
        let same = old.iter().find(|o| o.kind == condition.kind && o.status == condition.status);
        same.map_or(now, |o| &o.last_transition_time).clone_into(&mut condition.last_transition_time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::parse_documents;

    #[test]
    fn findings_become_conditions() {
        let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {hostnames: [a.b], parentRefs: [{name: web, namespace: other}]}\n";
        let (_, diagnostics) = parse_documents("f", text);
        let found = conditions(7, &diagnostics);
        let seen: Vec<_> = found.iter().map(|c| (c.kind.as_str(), c.status.as_str(), c.reason.as_str())).collect();
        let expected = [
            ("Accepted", "True", "Accepted"),
            ("ResolvedRefs", "False", "NoMatchingParent"),
            ("PartiallyInvalid", "True", "UnsupportedValue"),
        ];
        assert_eq!(seen, expected);
        assert!(found[2].message.starts_with("spec.hostnames: ") && found[2].observed_generation == 7);
        let about = found[0].clone();
        assert_eq!((about.message.as_str(), conditions(1, &diagnostics[..0]).len()), ("", 2));
        let mut worse = diagnostics;
        worse[0].severity = crate::diagnostic::Severity::Error;
        assert_eq!(conditions(7, &worse)[0].reason, "UnsupportedValue");
        let fine = conditions(1, &[]);
        assert!(fine.iter().all(|c| c.status == "True" && c.reason == c.kind && c.message.is_empty()));
    }

    #[test]
    fn times_change_with_the_status_only() {
        let mut old = conditions(1, &[]);
        carry_times(&[], &mut old, "T1");
        let mut new = conditions(2, &[]);
        carry_times(&old, &mut new, "T2");
        assert!(new.iter().all(|c| c.last_transition_time == "T1"));
        new[0].status = "False".to_owned();
        let before = old.clone();
        carry_times(&before, &mut new, "T3");
        assert_eq!((new[0].last_transition_time.as_str(), new[1].last_transition_time.as_str()), ("T3", "T1"));
    }
}
