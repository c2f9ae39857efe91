//! What the mesh found out about resources, written into their status: conditions from checking them together, and what proxies
//! say of them.
//!
//! `Accepted` and `ResolvedRefs` come from `leno_compile::lint` over all resources, on a thread of its own since it looks at
//! everything; `Programmed` from acknowledgements. Several changes share one run, and a run that took long makes the next one wait
//! longer, so that this never takes more than a tenth of a CPU.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use leno_api::{Condition, Nack};
use leno_discovery::Key;
use leno_model::{Code, Diagnostic, Kind, Resource, ResourceRef, Severity};
use leno_runtime::clock::Clock;
use leno_store::{Expect, Key as StoreKey, Store};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::audit::timestamp;
use crate::world::{World, encode};

/// Changes within this time share a run.
const SETTLE: Duration = Duration::from_millis(200);
/// A run is followed by a pause of so many times its own length.
const REST: u32 = 9;
/// Proxies remembered per refused resource; more are only counted.
const MAX_PROXIES: usize = 1000;
/// Refused resources remembered; a proxy can only refuse what it was sent.
const MAX_REFUSED: usize = 10_000;
/// Longest diagnostic of a proxy that is shown, in characters.
const MAX_ERROR: usize = 500;
/// Name of the controller in the Gateway API's route status.
const CONTROLLER: &str = "leno.dev/control-plane";

/// What proxies say of the resources they were sent.
#[derive(Default)]
pub struct Reports {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// By resource and proxy: the refused version and why.
    refused: HashMap<Key, BTreeMap<String, (u64, String)>>,
    /// Resources that some proxy uses.
    applied: HashMap<Key, u64>,
}

/// What proxies make of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Programmed {
    /// No proxy has said anything.
    Unknown,
    /// Proxies use it, and none refuses it.
    Yes,
    /// So many refuse it; what one of them says.
    Refused(usize, String),
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `proxy` uses this version of a resource, or refuses it with an error.
    pub fn applied(&self, proxy: &str, key: &Key, version: u64, error: Option<&str>) {
        let mut state = self.lock();
        let changed = match error {
            Some(error) => {
                let full = state.refused.len() >= MAX_REFUSED && !state.refused.contains_key(key);
                let error: String = error.chars().filter(|c| !c.is_control()).take(MAX_ERROR).collect();
                match state.refused.entry(key.clone()) {
                    _ if full => false,
                    entry => {
                        let proxies = entry.or_default();
                        (proxies.len() < MAX_PROXIES || proxies.contains_key(proxy))
                            && proxies.insert(proxy.to_owned(), (version, error.clone())) != Some((version, error))
                    }
                }
            }
            None => {
                let first = state.applied.insert(key.clone(), version).is_none();
                let cleared = match state.refused.get_mut(key) {
                    Some(proxies) => {
                        let cleared = proxies.remove(proxy).is_some();
                        if proxies.is_empty() {
                            state.refused.remove(key);
                        }
                        cleared
                    }
                    None => false,
                };
                first || cleared
            }
        };
        drop(state);
        if changed {
            self.changed.notify_one();
        }
    }

    /// A proxy's stream is over: what it refused counts no more.
    pub fn gone(&self, proxy: &str) {
        let mut changed = false;
        self.lock().refused.retain(|_, proxies| {
            changed |= proxies.remove(proxy).is_some();
            !proxies.is_empty()
        });
        if changed {
            self.changed.notify_one();
        }
    }

    /// What proxies make of a resource.
    #[must_use]
    pub fn programmed(&self, key: &Key) -> Programmed {
        let state = self.lock();
        match state.refused.get(key).and_then(|p| Some((p.len(), p.values().next()?))) {
            Some((count, (_, error))) => Programmed::Refused(count, error.clone()),
            None if state.applied.contains_key(key) => Programmed::Yes,
            None => Programmed::Unknown,
        }
    }

    /// All refusals, for people.
    #[must_use]
    pub fn nacks(&self) -> Vec<Nack> {
        let state = self.lock();
        let mut nacks: Vec<Nack> = state
            .refused
            .iter()
            .map(|(key, proxies)| Nack {
                resource: key.to_string(),
                proxies: proxies.len(),
                error: proxies.values().next().map(|(_, e)| e.clone()).unwrap_or_default(),
            })
            .collect();
        nacks.sort_by(|a, b| a.resource.cmp(&b.resource));
        nacks
    }

    fn forget_all_but(&self, exists: impl Fn(&Key) -> bool) {
        let mut state = self.lock();
        state.applied.retain(|key, _| exists(key));
        state.refused.retain(|key, _| exists(key));
    }
}

/// Keeps the status of resources current until dropped.
pub async fn run(world: Arc<World>, store: Arc<dyn Store>, reports: Arc<Reports>, clock: Arc<dyn Clock>) {
    world.synced().await;
    let mut ticks = world.ticks();
    loop {
        ticks.borrow_and_update();
        let began = Instant::now();
        once(&world, &*store, &reports, &*clock).await;
        tokio::time::sleep(SETTLE.max(began.elapsed() * REST)).await;
        tokio::select! {
            // Both are cancel-safe.
            changed = ticks.changed() => if changed.is_err() { return },
            () = reports.changed.notified() => {}
        }
    }
}

/// Works out and writes every status once.
async fn once(world: &World, store: &dyn Store, reports: &Reports, clock: &dyn Clock) {
    let resources: Vec<Arc<Resource>> = world.read(|contents| {
        let kinds = Kind::ALL.iter().filter(|k| k.user_writable());
        kinds.flat_map(|kind| contents.resources(*kind)).cloned().collect()
    });
    let for_lint: Vec<Resource> = resources.iter().map(|r| Resource::clone(r)).collect();
    let found = tokio::task::spawn_blocking(move || {
        let mut found: Vec<Diagnostic> = for_lint.iter().flat_map(leno_model::check).collect();
        found.extend(leno_compile::lint(&for_lint));
        found
    });
    let Ok(found) = found.await else {
        tracing::error!("checking the resources panicked; their status stays as it was");
        return;
    };
    let mut by_resource: HashMap<ResourceRef, Vec<Diagnostic>> = HashMap::new();
    for diagnostic in found {
        if let Some(reference) = diagnostic.resource.clone() {
            by_resource.entry(reference).or_default().push(diagnostic);
        }
    }
    let now = timestamp(clock.unix_seconds());
    for resource in &resources {
        let reference = resource.reference();
        let found = by_resource.get(&reference).map(Vec::as_slice).unwrap_or_default();
        let conditions = conditions(resource, found, &reports.programmed(&encode::key(&reference)));
        let status = status(resource, &conditions, &now);
        if status != resource.status {
            write(store, resource, status).await;
        }
    }
    reports.forget_all_but(|key| {
        Kind::ALL.iter().find(|k| k.as_str() == key.kind()).is_some_and(|kind| {
            // What only the wire knows has no status to show.
            kind.user_writable() && world.read(|c| c.resource(*kind, key.namespace(), key.name()).is_some())
        })
    });
}

/// A lost race is fine: the other write ticks the world, and this runs again.
async fn write(store: &dyn Store, resource: &Resource, status: Value) {
    let key = StoreKey::new(&resource.kind, &resource.metadata.namespace, &resource.metadata.name);
    let expect = Expect::Version(leno_store::Version::from_text(&resource.metadata.resource_version));
    let mut stored = resource.clone();
    stored.metadata.resource_version.clear();
    stored.status = status;
    match store.put(&key, stored.to_json().into(), expect).await {
        Ok(_) | Err(leno_store::StoreError::Conflict { .. }) => {}
        Err(error) => tracing::warn!(%key, %error, "a status could not be written"),
    }
}

/// The conditions of a resource, in the words of the Gateway API: `Accepted`, for routes `ResolvedRefs`, `PartiallyInvalid` only
/// if something in it is not acted on, and `Programmed` once proxies have said something.
#[must_use]
pub fn conditions(resource: &Resource, found: &[Diagnostic], programmed: &Programmed) -> Vec<Condition> {
    let is_route = matches!(resource.known_kind(), Some(Kind::HttpRoute | Kind::GrpcRoute));
    let of_references =
        |d: &&Diagnostic| matches!(d.code, Code::BackendNotFound | Code::RefNotPermitted | Code::InvalidKind);
    // Something of it is left out, and the rest is acted on.
    let of_a_part = |d: &&Diagnostic| {
        d.severity == Severity::Warning
            && matches!(d.code, Code::UnsupportedValue | Code::InvalidValue | Code::UnknownField)
    };
    let of_the_whole = |d: &&Diagnostic| !(of_a_part(d) || is_route && of_references(d));
    let accepted: Vec<&Diagnostic> = found.iter().filter(of_the_whole).collect();
    let mut conditions = vec![condition("Accepted", &accepted, "Accepted")];
    let partial: Vec<&Diagnostic> = found.iter().filter(of_a_part).collect();
    if !partial.is_empty() {
        let partial = condition("PartiallyInvalid", &partial, "PartiallyInvalid");
        conditions.push(Condition { status: "True".into(), ..partial });
    }
    if is_route {
        let references: Vec<&Diagnostic> = found.iter().filter(of_references).collect();
        conditions.push(condition("ResolvedRefs", &references, "ResolvedRefs"));
    }
    match programmed {
        Programmed::Unknown => {}
        Programmed::Yes => conditions.push(Condition {
            kind: "Programmed".into(),
            status: "True".into(),
            reason: "Programmed".into(),
            message: String::new(),
        }),
        Programmed::Refused(count, error) => conditions.push(Condition {
            kind: "Programmed".into(),
            status: "False".into(),
            reason: "RefusedByProxy".into(),
            message: format!("{count} {} it: {error}", if *count == 1 { "proxy refuses" } else { "proxies refuse" }),
        }),
    }
    conditions
}

fn condition(kind: &str, found: &[&Diagnostic], good: &str) -> Condition {
    // The worst first; then as found.
    let mut sorted: Vec<_> = found.to_vec();
    sorted.sort_by_key(|d| d.severity);
    let line =
        |d: &&Diagnostic| if d.path.is_empty() { d.message.clone() } else { format!("{}: {}", d.path, d.message) };
    let mut messages: Vec<String> = sorted.iter().map(line).collect();
    messages.dedup();
    messages.truncate(5);
    Condition {
        kind: kind.to_owned(),
        status: if found.is_empty() { "True" } else { "False" }.to_owned(),
        reason: sorted.first().map_or(good, |d| d.code.as_str()).to_owned(),
        message: messages.join("; "),
    }
}

/// The status object: for routes in the Gateway API's shape, one entry per parent.
fn status(resource: &Resource, conditions: &[Condition], now: &str) -> Value {
    let old = conditions_of(resource);
    let list: Vec<Value> = conditions
        .iter()
        .map(|c| {
            let before = old.iter().find(|o| o["type"] == c.kind.as_str() && o["status"] == c.status.as_str());
            let since = before.and_then(|o| o["lastTransitionTime"].as_str()).unwrap_or(now);
            json!({
                "type": c.kind, "status": c.status, "reason": c.reason, "message": c.message,
                "observedGeneration": resource.metadata.generation, "lastTransitionTime": since,
            })
        })
        .collect();
    // Parts of the status that others wrote stay.
    let mut status = resource.status.as_object().cloned().unwrap_or_else(Map::new);
    if matches!(resource.known_kind(), Some(Kind::HttpRoute | Kind::GrpcRoute)) {
        let parents = resource.spec.get("parentRefs").and_then(Value::as_array).cloned().unwrap_or_default();
        let entry = |parent: Value| json!({ "parentRef": parent, "controllerName": CONTROLLER, "conditions": list });
        status.insert("parents".into(), parents.into_iter().map(entry).collect());
    } else {
        status.insert("conditions".into(), Value::Array(list));
    }
    Value::Object(status)
}

fn conditions_of(resource: &Resource) -> &[Value] {
    let parent = resource.status.pointer("/parents/0/conditions");
    parent.or(resource.status.get("conditions")).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The conditions that are not as one wants them, for people.
#[must_use]
pub fn problems(resource: &Resource) -> Vec<Condition> {
    let text = |c: &Value, field: &str| c[field].as_str().unwrap_or_default().to_owned();
    let bad = conditions_of(resource).iter().filter(|c| {
        let good = if c["type"] == "PartiallyInvalid" { "False" } else { "True" };
        c["status"] != good
    });
    bad.map(|c| Condition {
        kind: text(c, "type"),
        status: text(c, "status"),
        reason: text(c, "reason"),
        message: text(c, "message"),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Resource {
        serde_json::from_value(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "r", "namespace": "shop", "generation": 4},
            "spec": {"parentRefs": [{"name": "web"}]}}))
        .unwrap()
    }

    fn found(code: Code, message: &str) -> Diagnostic {
        Diagnostic::about(route().reference(), Severity::Warning, code, "spec.x", message)
    }

    #[test]
    fn diagnostics_become_the_conditions_of_a_route() {
        let found = [found(Code::BackendNotFound, "no cart"), found(Code::UnsupportedValue, "no mirror")];
        let conditions = conditions(&route(), &found, &Programmed::Refused(2, "bad regex".into()));
        let said: Vec<_> =
            conditions.iter().map(|c| format!("{}={}/{} {}", c.kind, c.status, c.reason, c.message)).collect();
        assert_eq!(
            said,
            [
                "Accepted=True/Accepted ",
                "PartiallyInvalid=True/UnsupportedValue spec.x: no mirror",
                "ResolvedRefs=False/BackendNotFound spec.x: no cart",
                "Programmed=False/RefusedByProxy 2 proxies refuse it: bad regex"
            ]
        );
        let status = status(&route(), &conditions, "now");
        assert_eq!(status["parents"][0]["parentRef"], json!({"name": "web"}));
        assert_eq!(status["parents"][0]["conditions"][1]["observedGeneration"], 4);
        let mut resource = route();
        resource.status = status;
        let said: Vec<_> = problems(&resource).into_iter().map(|c| c.kind).collect();
        assert_eq!(said, ["PartiallyInvalid", "ResolvedRefs", "Programmed"]);
    }

    #[test]
    fn a_condition_keeps_the_time_of_its_last_turn() {
        let mut resource = route();
        resource.status = status(&resource, &conditions(&resource, &[], &Programmed::Unknown), "then");
        let again = status(&resource, &conditions(&resource, &[], &Programmed::Unknown), "now");
        assert_eq!(again, resource.status, "nothing new is no write");
        let bad = conditions(&resource, &[found(Code::Conflicted, "older")], &Programmed::Unknown);
        let turned = status(&resource, &bad, "now");
        assert_eq!(turned["parents"][0]["conditions"][0]["lastTransitionTime"], "now");
        assert_eq!(turned["parents"][0]["conditions"][1]["lastTransitionTime"], "then");
        resource.status = turned;
        assert_eq!(problems(&resource).len(), 1);
    }

    #[test]
    fn refusals_count_until_they_are_taken_back() {
        let reports = Reports::default();
        let key = Key::new("HTTPRoute", "shop", "r");
        assert_eq!(reports.programmed(&key), Programmed::Unknown);
        reports.applied("a", &key, 1, Some("bad\u{7} regex"));
        reports.applied("b", &key, 1, Some("bad regex"));
        reports.applied("c", &key, 1, None);
        assert_eq!(reports.programmed(&key), Programmed::Refused(2, "bad regex".into()));
        reports.applied("a", &key, 2, None);
        reports.gone("b");
        assert_eq!(reports.programmed(&key), Programmed::Yes);
        assert!(reports.nacks().is_empty());
        for i in 0..MAX_REFUSED + 10 {
            reports.applied("a", &Key::new("HTTPRoute", "shop", &i.to_string()), 1, Some("x"));
        }
        assert_eq!(reports.nacks().len(), MAX_REFUSED);
    }
}
