//! One collection as this proxy uses it: decoded for the compiler, as bytes for the disk, and what was refused and why.
//!
//! A resource that cannot be used is set aside: its last good version stays in use, the rest takes effect, and the diagnostic
//! goes back to the control plane. Not so for what is about security: an old policy may allow what the new one was written to
//! forbid, so a broken one closes, also after a restart from disk.

use std::collections::BTreeMap;

use leno_compile::Collection;
use leno_discovery::session::client::Change;
use leno_discovery::{Entry, Key};
use leno_model::{Diagnostic, ResourceRef, Severity};

/// Kinds whose broken versions are kept, because they close.
const SECURITY_KINDS: [&str; 2] = ["AccessPolicy", "AuthenticationPolicy"];

/// An answer to the control plane: this version is in use, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which resource.
    pub key: Key,
    /// The version that was sent.
    pub version: u64,
    /// Why it is not in use.
    pub error: Option<String>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Replica {
    collection: Collection,
    /// What is in use, as it was sent; what is stored on disk.
    stored: BTreeMap<Key, Entry>,
    refused: BTreeMap<Key, String>,
}

impl Replica {
    /// Begins with what was stored.
    pub fn stored(stored: BTreeMap<Key, Entry>) -> Self {
        let mut replica = Self::default();
        for (key, entry) in stored {
            // Faults, if any, are the compiler's to report when it meets them.
            replica.collection.upsert(reference(&key), entry.version, &entry.body);
            replica.stored.insert(key, entry);
        }
        replica
    }

    /// For the compiler.
    pub fn collection(&self) -> &Collection {
        &self.collection
    }

    /// What is in use; what is stored on disk.
    pub fn in_use(&self) -> &BTreeMap<Key, Entry> {
        &self.stored
    }

    /// What is not in use and why.
    pub fn refused(&self) -> &BTreeMap<Key, String> {
        &self.refused
    }

    /// The collection has ceased to exist.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes changes in, before the compiler runs.
    pub fn take(&mut self, changes: &[Change], version: u64) {
        for Change { key, entry } in changes {
            self.refused.remove(key);
            let Some(entry) = entry else {
                self.collection.delete(&reference(key));
                self.stored.remove(key);
                continue;
            };
            match self.collection.upsert(reference(key), entry.version, &entry.body) {
                None => {
                    self.stored.insert(key.clone(), entry.clone());
                }
                Some(fault) => {
                    self.refused.insert(key.clone(), text(fault));
                    if SECURITY_KINDS.contains(&key.kind()) {
                        self.stored.insert(key.clone(), entry.clone());
                    }
                }
            }
        }
        self.collection.complete(version);
    }

    /// The answers to `changes`, after the compiler has run and said what it found.
    pub fn verdicts(&mut self, changes: &[Change], diagnostics: &[Diagnostic]) -> Vec<Verdict> {
        for diagnostic in diagnostics.iter().filter(|d| d.severity == Severity::Error) {
            let Some(key) = diagnostic.resource.as_ref().map(key) else { continue };
            // Decoding has said it already, and more than one fault of a resource is more than its author can mend at once.
            if self.stored.contains_key(&key) {
                self.refused.entry(key).or_insert_with(|| text(diagnostic));
            }
        }
        let answer = |change: &Change| {
            let version = change.entry.as_ref()?.version;
            Some(Verdict { key: change.key.clone(), version, error: self.refused.get(&change.key).cloned() })
        };
        changes.iter().filter_map(answer).collect()
    }
}

fn reference(key: &Key) -> ResourceRef {
    let (kind, namespace, name) = (key.kind().to_owned(), key.namespace().to_owned(), key.name().to_owned());
    ResourceRef { kind, namespace, name }
}

fn key(reference: &ResourceRef) -> Key {
    Key::new(&reference.kind, &reference.namespace, &reference.name)
}

fn text(diagnostic: &Diagnostic) -> String {
    match diagnostic.path.as_str() {
        "" => diagnostic.message.clone(),
        path => format!("{path}: {}", diagnostic.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use leno_compile::{MeshDefaults, compile_destination, compile_inbound};
    use leno_model::kinds::workload::WorkloadPort;
    use leno_model::{NamespacedName, SpiffeId, TrustDomain};
    use leno_plan::{InboundPlan, NoHeaders, RequestView};

    fn put(kind: &str, api: &str, name: &str, spec: &str) -> Change {
        let body = format!(
            r#"{{"apiVersion":"{api}","kind":"{kind}","metadata":{{"name":"{name}","namespace":"shop"}},"spec":{spec}}}"#
        );
        Change { key: Key::new(kind, "shop", name), entry: Some(Entry::new(Bytes::from(body))) }
    }

    fn service() -> NamespacedName {
        NamespacedName::new("shop", "web").unwrap()
    }

    fn web(port: u16) -> Change {
        put("Service", "v1", "web", &format!(r#"{{"ports":[{{"port":{port}}}]}}"#))
    }

    fn apply(replica: &mut Replica, changes: &[Change]) -> (Vec<u16>, Vec<Option<String>>) {
        replica.take(changes, 1);
        let (plan, diagnostics) =
            compile_destination(&service(), replica.collection(), &MeshDefaults::new(TrustDomain::default()));
        let verdicts = replica.verdicts(changes, &diagnostics);
        (plan.ports.keys().copied().collect(), verdicts.into_iter().map(|v| v.error).collect())
    }

    #[test]
    fn the_last_good_version_stays_and_is_what_is_stored() {
        let mut replica = Replica::default();
        assert_eq!(apply(&mut replica, &[web(80)]), (vec![80], vec![None]));
        let broken = put("Service", "v1", "web", r#"{"ports":"none"}"#);
        let (ports, errors) = apply(&mut replica, std::slice::from_ref(&broken));
        assert_eq!(ports, [80]);
        assert!(errors[0].is_some() && replica.refused().len() == 1);
        let mut restarted = Replica::stored(replica.in_use().clone());
        assert_eq!(apply(&mut restarted, &[]), (vec![80], vec![]));
        assert_eq!(apply(&mut replica, &[web(81)]), (vec![81], vec![None]));
        assert!(replica.refused().is_empty());
        apply(&mut replica, std::slice::from_ref(&broken));
        assert_eq!(apply(&mut replica, &[Change { entry: None, ..broken }]), (vec![], vec![]));
        assert!(replica.refused().is_empty());
    }

    #[test]
    fn unknown_kinds_and_lies_are_refused() {
        let mut replica = Replica::default();
        let mut other = web(80);
        other.key = Key::new("Service", "shop", "other");
        let later = put("NovelPolicy", "leno.dev/v9", "n", "{}");
        let (_, errors) = apply(&mut replica, &[other, later]);
        assert!(errors.iter().all(Option::is_some), "{errors:?}");
        assert!(replica.in_use().is_empty());
    }

    fn may_call(plan: &InboundPlan) -> bool {
        let caller = SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/cart").unwrap();
        let request = RequestView { method: b"GET", path: b"/", query: None, authority: b"web", headers: &NoHeaders };
        plan.ports[&80].access.decide(Some(&caller), 80, Some(&request)).allowed
    }

    #[test]
    fn a_broken_access_policy_closes_also_after_a_restart() {
        let mesh = MeshDefaults::new(TrustDomain::default());
        let registered = [WorkloadPort { port: 80, service_port: None, name: None, app_protocol: None }];
        let compile = |replica: &Replica| compile_inbound(&service(), replica.collection(), &mesh, &registered).0;
        let mut replica = Replica::default();
        replica.take(&[web(80)], 1);
        assert!(may_call(&compile(&replica)));
        let broken = put("AccessPolicy", "leno.dev/v1alpha1", "p", r#"{"rules":7}"#);
        replica.take(&[broken], 2);
        assert!(!may_call(&compile(&replica)));
        assert!(!may_call(&compile(&Replica::stored(replica.in_use().clone()))));
    }
}
