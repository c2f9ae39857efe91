//! The contents of the world and its indexes: what a change touches is looked up, never searched for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use leno_discovery::{CollectionName, Entry, Key};
use leno_model::kinds::{MeshConfigStatus, ServiceInfoSpec, WorkloadSpec};
use leno_model::names::SYSTEM_NAMESPACE;
use leno_model::{Kind, Name, NamespacedName, Resource, SpiffeId, Target, TrustDomain, targets};
use serde_json::Value;

use super::{Change, encode};
use crate::records::{Grant, Vip};

/// Namespace and name of a service.
type ServiceKey = (String, String);
/// Kind, namespace and name of a resource.
type ResourceKey = (Kind, String, String);
/// Resources of one collection.
type Resources = BTreeMap<Key, Entry>;

/// One change of the store.
#[derive(Debug, Clone)]
pub enum Input {
    /// A resource is new or different.
    Resource(Box<Resource>),
    /// A resource is gone; no kind if this version does not know it.
    Deleted {
        /// Its kind.
        kind: Option<Kind>,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A grant, by namespace and service account.
    Grant(String, String, Option<Grant>),
    /// A virtual address, by its slot.
    Vip(String, Option<Vip>),
}

/// A resource and what was worked out about it once.
#[derive(Debug, Clone)]
struct Held {
    resource: Arc<Resource>,
    entry: Entry,
    targets: Vec<Target>,
    /// Namespaces other than its own that its backends are in.
    foreign: BTreeSet<String>,
}

/// What a service's subscribers have, without its endpoints.
#[derive(Debug, Default)]
struct View {
    outbound: Resources,
    inbound: Resources,
    /// Namespaces whose ReferenceGrants are part of it.
    grant_namespaces: BTreeSet<String>,
}

/// Everything, with indexes.
pub struct Contents {
    domain: TrustDomain,
    prefixes: Vec<String>,
    resources: BTreeMap<ResourceKey, Held>,
    by_target: HashMap<Target, BTreeSet<ResourceKey>>,
    /// Services whose routes have backends in a namespace.
    grant_users: HashMap<String, BTreeSet<ServiceKey>>,
    endpoints: HashMap<ServiceKey, Resources>,
    /// What each workload, by namespace and name, is an endpoint of.
    workload_endpoints: HashMap<(String, String), Vec<(ServiceKey, Key)>>,
    grants: BTreeMap<(String, String), Grant>,
    /// Service accounts that may serve a service of their namespace.
    servers: HashMap<ServiceKey, BTreeSet<String>>,
    vips: BTreeMap<String, Vip>,
    vip_slots: HashMap<ServiceKey, String>,
    /// Services that exist.
    views: BTreeMap<ServiceKey, View>,
    mesh: Resources,
}

impl Contents {
    pub(super) fn new(domain: TrustDomain, prefixes: Vec<String>) -> Self {
        let mut contents = Self {
            domain,
            prefixes,
            resources: BTreeMap::new(),
            by_target: HashMap::new(),
            grant_users: HashMap::new(),
            endpoints: HashMap::new(),
            workload_endpoints: HashMap::new(),
            grants: BTreeMap::new(),
            servers: HashMap::new(),
            vips: BTreeMap::new(),
            vip_slots: HashMap::new(),
            views: BTreeMap::new(),
            mesh: Resources::new(),
        };
        contents.refresh_mesh(&mut Vec::new());
        contents
    }

    /// The resources of a collection, or none if it does not exist.
    #[must_use]
    pub fn collection(&self, name: &CollectionName) -> Option<Resources> {
        match name {
            CollectionName::Mesh => Some(self.mesh.clone()),
            CollectionName::Inbound(service) => self.views.get(&service_key(service)).map(|v| v.inbound.clone()),
            CollectionName::Outbound(service) => {
                let key = service_key(service);
                let mut resources = self.views.get(&key)?.outbound.clone();
                resources.extend(self.endpoints.get(&key).into_iter().flatten().map(|(k, e)| (k.clone(), e.clone())));
                Some(resources)
            }
        }
    }

    /// Whether this identity may register this service.
    #[must_use]
    pub fn permits(&self, identity: &SpiffeId, service: &NamespacedName) -> bool {
        let Some((namespace, account)) = identity.workload_parts() else { return false };
        identity.trust_domain() == self.domain.as_str()
            && namespace == service.namespace.as_str()
            && self
                .grants
                .get(&(namespace.to_owned(), account.to_owned()))
                .is_some_and(|g| g.services.contains(service.name.as_str()))
    }

    /// A resource.
    #[must_use]
    pub fn resource(&self, kind: Kind, namespace: &str, name: &str) -> Option<Arc<Resource>> {
        self.resources.get(&(kind, namespace.to_owned(), name.to_owned())).map(|h| Arc::clone(&h.resource))
    }

    /// The resources of a kind, by namespace and name.
    pub fn resources(&self, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        let all = self.resources.range((kind, String::new(), String::new())..);
        all.take_while(move |((k, ..), _)| *k == kind).map(|(_, held)| &held.resource)
    }

    /// Namespace and name of every service that exists.
    pub fn services(&self) -> impl Iterator<Item = &(String, String)> {
        self.views.keys()
    }

    /// Whether a service exists.
    #[must_use]
    pub fn has_service(&self, namespace: &str, name: &str) -> bool {
        self.views.contains_key(&(namespace.to_owned(), name.to_owned()))
    }

    /// The virtual addresses that are stored, by slot.
    #[must_use]
    pub fn vips(&self) -> &BTreeMap<String, Vip> {
        &self.vips
    }

    /// What the mesh knows of a service.
    #[must_use]
    pub fn service_info(&self, namespace: &str, service: &str) -> ServiceInfoSpec {
        let key = (namespace.to_owned(), service.to_owned());
        let vip = self.vip_slots.get(&key).and_then(|slot| self.vips.get(slot));
        let accounts = self.servers.get(&key).into_iter().flatten();
        ServiceInfoSpec {
            vips: vip.map(|v| vec![IpAddr::V4(v.v4), IpAddr::V6(v.v6)]).unwrap_or_default(),
            identities: accounts.filter_map(|account| identity(&self.domain, namespace, account)).collect(),
        }
    }

    /// Takes one change of the store in.
    pub(super) fn apply(&mut self, input: Input, changes: &mut Vec<Change>) {
        match input {
            Input::Resource(resource) => match resource.known_kind() {
                Some(kind) => self.put(kind, *resource, changes),
                None => tracing::debug!(resource = %resource.reference(), "a kind of a later version is left out"),
            },
            Input::Deleted { kind: Some(kind), namespace, name } => self.delete(kind, namespace, name, changes),
            Input::Deleted { kind: None, .. } => {}
            Input::Grant(namespace, account, grant) => self.set_grant(namespace, account, grant, changes),
            Input::Vip(slot, vip) => self.set_vip(slot, vip, changes),
        }
    }

    fn put(&mut self, kind: Kind, resource: Resource, changes: &mut Vec<Change>) {
        let (namespace, name) = (resource.metadata.namespace.clone(), resource.metadata.name.clone());
        let held = Held {
            entry: encode::resource(&resource),
            targets: targets(&resource),
            foreign: foreign_namespaces(kind, &resource),
            resource: Arc::new(resource),
        };
        let key = (kind, namespace, name);
        for target in &held.targets {
            self.by_target.entry(target.clone()).or_default().insert(key.clone());
        }
        let old = self.resources.insert(key.clone(), held.clone());
        if let Some(old) = &old {
            self.unindex(&key, old.targets.iter().filter(|t| !held.targets.contains(t)));
            if old.entry == held.entry {
                // Status or the store's version only: nothing that proxies see.
                return;
            }
        }
        let mut reached = held.targets.clone();
        reached.extend(old.into_iter().flat_map(|o| o.targets));
        self.touched(&key, Some(&held.resource), &reached, changes);
    }

    fn delete(&mut self, kind: Kind, namespace: String, name: String, changes: &mut Vec<Change>) {
        let key = (kind, namespace, name);
        let Some(old) = self.resources.remove(&key) else { return };
        self.unindex(&key, old.targets.iter());
        self.touched(&key, None, &old.targets, changes);
    }

    fn unindex<'a>(&mut self, key: &ResourceKey, gone: impl Iterator<Item = &'a Target>) {
        for target in gone {
            if let Some(keys) = self.by_target.get_mut(target) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_target.remove(target);
                }
            }
        }
    }

    /// Works out what a changed resource means for collections.
    fn touched(
        &mut self,
        key: &ResourceKey,
        now: Option<&Arc<Resource>>,
        reached: &[Target],
        changes: &mut Vec<Change>,
    ) {
        let (kind, namespace, name) = key;
        match kind {
            Kind::Service => {
                self.refresh(&(namespace.clone(), name.clone()), changes);
                self.refresh_mesh(changes);
            }
            Kind::MeshConfig | Kind::ExternalService => self.refresh_mesh(changes),
            Kind::Workload => self.set_workload(namespace, name, now, changes),
            Kind::ReferenceGrant => {
                for service in self.grant_users.get(namespace).cloned().unwrap_or_default() {
                    self.refresh(&service, changes);
                }
            }
            _ => {
                for service in self.reached_services(reached) {
                    self.refresh(&service, changes);
                }
            }
        }
    }

    fn reached_services(&self, reached: &[Target]) -> BTreeSet<ServiceKey> {
        let mut services = BTreeSet::new();
        for target in reached {
            match target {
                Target::Service { namespace, name } => {
                    services.insert((namespace.clone(), name.clone()));
                }
                Target::Namespace(namespace) => {
                    let of_namespace = self.views.range((namespace.clone(), String::new())..);
                    services.extend(of_namespace.map(|(k, _)| k).take_while(|k| k.0 == *namespace).cloned());
                }
                Target::Mesh => services.extend(self.views.keys().cloned()),
            }
        }
        services
    }

    /// Makes a service's view anew and tells the difference. Its cost is what is attached to the service, not its endpoints.
    fn refresh(&mut self, service: &ServiceKey, changes: &mut Vec<Change>) {
        let exists = self.resources.contains_key(&(Kind::Service, service.0.clone(), service.1.clone()));
        let old = self.views.remove(service);
        for namespace in old.iter().flat_map(|v| &v.grant_namespaces) {
            if let Some(users) = self.grant_users.get_mut(namespace) {
                users.remove(service);
            }
        }
        let Some((outbound, inbound)) = collections(service) else { return };
        if !exists {
            if old.is_some() {
                changes.extend([Change::Vanished(outbound), Change::Vanished(inbound)]);
            }
            return;
        }
        let view = self.view(service);
        for namespace in &view.grant_namespaces {
            self.grant_users.entry(namespace.clone()).or_default().insert(service.clone());
        }
        let appeared = old.is_none();
        if appeared {
            changes.extend([Change::Appeared(outbound.clone()), Change::Appeared(inbound.clone())]);
        }
        let old = old.unwrap_or_default();
        difference(&outbound, &old.outbound, &view.outbound, changes);
        difference(&inbound, &old.inbound, &view.inbound, changes);
        if appeared {
            let endpoints = self.endpoints.get(service).into_iter().flatten();
            changes.extend(endpoints.map(|(k, e)| Change::Put(outbound.clone(), k.clone(), e.clone())));
        }
        self.views.insert(service.clone(), view);
    }

    fn view(&self, service: &ServiceKey) -> View {
        let (namespace, name) = service;
        let mut view = View::default();
        let of_service = self.resources.get(&(Kind::Service, namespace.clone(), name.clone()));
        let shared = of_service.map(|h| (encode::key(&h.resource.reference()), h.entry.clone()));
        let info = encode::service_info(namespace, name, &self.service_info(namespace, name));
        for (key, entry) in shared.into_iter().chain([info]) {
            view.outbound.insert(key.clone(), entry.clone());
            view.inbound.insert(key, entry);
        }
        let ways = [
            Target::Service { namespace: namespace.clone(), name: name.clone() },
            Target::Namespace(namespace.clone()),
            Target::Mesh,
        ];
        for key in ways.iter().filter_map(|t| self.by_target.get(t)).flatten() {
            let Some(held) = self.resources.get(key) else { continue };
            let wire = encode::key(&held.resource.reference());
            match key.0 {
                Kind::HttpRoute | Kind::GrpcRoute => {
                    view.grant_namespaces.extend(held.foreign.iter().cloned());
                    view.outbound.insert(wire, held.entry.clone());
                }
                Kind::TrafficPolicy => {
                    view.outbound.insert(wire.clone(), held.entry.clone());
                    view.inbound.insert(wire, held.entry.clone());
                }
                Kind::AccessPolicy => {
                    view.inbound.insert(wire, held.entry.clone());
                }
                _ => {}
            }
        }
        for namespace in &view.grant_namespaces {
            let grants = self.resources.range((Kind::ReferenceGrant, namespace.clone(), String::new())..);
            let grants = grants.take_while(|((k, ns, _), _)| *k == Kind::ReferenceGrant && ns == namespace);
            view.outbound.extend(grants.map(|(_, h)| (encode::key(&h.resource.reference()), h.entry.clone())));
        }
        view
    }

    fn refresh_mesh(&mut self, changes: &mut Vec<Change>) {
        let status = MeshConfigStatus {
            trust_domain: self.domain.as_str().to_owned(),
            namespaces: self.views.keys().map(|(namespace, _)| namespace.clone()).collect(),
            prefixes: self.prefixes.clone(),
        };
        let user = self.resource(Kind::MeshConfig, SYSTEM_NAMESPACE, encode::MESH_CONFIG);
        let mut mesh = Resources::from([encode::mesh_config(user.as_deref(), &status)]);
        let external = self.resources.range((Kind::ExternalService, String::new(), String::new())..);
        let external = external.take_while(|((k, ..), _)| *k == Kind::ExternalService);
        mesh.extend(external.map(|(_, h)| (encode::key(&h.resource.reference()), h.entry.clone())));
        difference(&CollectionName::Mesh, &self.mesh, &mesh, changes);
        self.mesh = mesh;
    }

    fn set_workload(&mut self, namespace: &str, name: &str, now: Option<&Arc<Resource>>, changes: &mut Vec<Change>) {
        let mut endpoints = Vec::new();
        if let Some(resource) = now {
            match resource.spec::<WorkloadSpec>() {
                Ok(spec) => endpoints = encode::endpoints(resource, &spec),
                Err(error) => tracing::error!(%error, "a registration does not decode and is left out"),
            }
        }
        let workload = (namespace.to_owned(), name.to_owned());
        for (service, key) in self.workload_endpoints.remove(&workload).unwrap_or_default() {
            if endpoints.iter().any(|(_, k, _)| *k == key) {
                continue;
            }
            if let Some(of_service) = self.endpoints.get_mut(&service) {
                of_service.remove(&key);
                if of_service.is_empty() {
                    self.endpoints.remove(&service);
                }
            }
            self.endpoint_changed(&service, key, None, changes);
        }
        let mut kept = Vec::new();
        for (service, key, entry) in endpoints {
            let service = (namespace.to_owned(), service);
            let of_service = self.endpoints.entry(service.clone()).or_default();
            if of_service.insert(key.clone(), entry.clone()).as_ref() != Some(&entry) {
                self.endpoint_changed(&service, key.clone(), Some(entry), changes);
            }
            kept.push((service, key));
        }
        if !kept.is_empty() {
            self.workload_endpoints.insert(workload, kept);
        }
    }

    fn endpoint_changed(&self, service: &ServiceKey, key: Key, entry: Option<Entry>, changes: &mut Vec<Change>) {
        if !self.views.contains_key(service) {
            return;
        }
        let Some((outbound, _)) = collections(service) else { return };
        changes.push(match entry {
            Some(entry) => Change::Put(outbound, key, entry),
            None => Change::Delete(outbound, key),
        });
    }

    fn set_grant(&mut self, namespace: String, account: String, grant: Option<Grant>, changes: &mut Vec<Change>) {
        let key = (namespace.clone(), account.clone());
        let old = match &grant {
            Some(grant) => self.grants.insert(key, grant.clone()),
            None => self.grants.remove(&key),
        };
        let old = old.unwrap_or_default().services;
        let new = grant.unwrap_or_default().services;
        for service in old.symmetric_difference(&new) {
            let service_key = (namespace.clone(), service.clone());
            let accounts = self.servers.entry(service_key.clone()).or_default();
            if new.contains(service) {
                accounts.insert(account.clone());
            } else {
                accounts.remove(&account);
            }
            if self.views.contains_key(&service_key) {
                self.refresh(&service_key, changes);
            }
        }
    }

    fn set_vip(&mut self, slot: String, vip: Option<Vip>, changes: &mut Vec<Change>) {
        let old = match &vip {
            Some(vip) => self.vips.insert(slot.clone(), vip.clone()),
            None => self.vips.remove(&slot),
        };
        let mut touched = BTreeSet::new();
        if let Some(old) = old.filter(|o| o.released.is_none()) {
            let key = (old.namespace, old.service);
            if self.vip_slots.get(&key) == Some(&slot) {
                self.vip_slots.remove(&key);
            }
            touched.insert(key);
        }
        if let Some(new) = vip.filter(|n| n.released.is_none()) {
            let key = (new.namespace, new.service);
            self.vip_slots.insert(key.clone(), slot);
            touched.insert(key);
        }
        for service in touched {
            if self.views.contains_key(&service) {
                self.refresh(&service, changes);
            }
        }
    }
}

fn service_key(service: &NamespacedName) -> ServiceKey {
    (service.namespace.to_string(), service.name.to_string())
}

/// The outbound and inbound collection of a service; none if its name is not one that proxies can ask for.
fn collections(service: &ServiceKey) -> Option<(CollectionName, CollectionName)> {
    let name = NamespacedName::new(&service.0, &service.1).ok()?;
    Some((CollectionName::Outbound(name.clone()), CollectionName::Inbound(name)))
}

fn identity(domain: &TrustDomain, namespace: &str, account: &str) -> Option<SpiffeId> {
    Some(SpiffeId::workload(domain, &Name::new(namespace).ok()?, &Name::new(account).ok()?))
}

fn difference(collection: &CollectionName, old: &Resources, new: &Resources, changes: &mut Vec<Change>) {
    for key in old.keys().filter(|k| !new.contains_key(k)) {
        changes.push(Change::Delete(collection.clone(), key.clone()));
    }
    for (key, entry) in new.iter().filter(|(k, e)| old.get(k) != Some(e)) {
        changes.push(Change::Put(collection.clone(), key.clone(), entry.clone()));
    }
}

/// Namespaces that a route's backends are in, other than its own. Read from the raw spec: every `backendRefs` and mirror
/// counts, also of rules that do not decode.
fn foreign_namespaces(kind: Kind, resource: &Resource) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if matches!(kind, Kind::HttpRoute | Kind::GrpcRoute) {
        collect_namespaces(&resource.spec, &mut found);
        found.remove(&resource.metadata.namespace);
    }
    found
}

fn collect_namespaces(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(namespace) if name == "namespace" => {
                        found.insert(namespace.clone());
                    }
                    _ if name == "parentRefs" => {}
                    _ => collect_namespaces(field, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_namespaces(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn put(contents: &mut Contents, kind: &str, api: &str, namespace: &str, name: &str, spec: Value) -> Vec<Change> {
        let mut changes = Vec::new();
        let value =
            json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec});
        contents.apply(Input::Resource(Box::new(serde_json::from_value(value).unwrap())), &mut changes);
        changes
    }

    fn service(contents: &mut Contents, namespace: &str, name: &str) -> Vec<Change> {
        put(contents, "Service", "v1", namespace, name, json!({"ports": [{"port": 80}]}))
    }

    fn delete(contents: &mut Contents, kind: Kind, namespace: &str, name: &str) -> Vec<Change> {
        let mut changes = Vec::new();
        let input = Input::Deleted { kind: Some(kind), namespace: namespace.into(), name: name.into() };
        contents.apply(input, &mut changes);
        changes
    }

    fn new() -> Contents {
        Contents::new(TrustDomain::default(), vec!["244.0.0.0/16".into()])
    }

    /// `+out:shop/web Service/web`, `-…`, `appeared …`.
    fn said(changes: &[Change]) -> Vec<String> {
        let mut said: Vec<_> = changes
            .iter()
            .map(|c| match c {
                Change::Appeared(c) => format!("appeared {c}"),
                Change::Vanished(c) => format!("vanished {c}"),
                Change::Put(c, k, _) => format!("+{c} {}/{}", k.kind(), k.name()),
                Change::Delete(c, k) => format!("-{c} {}/{}", k.kind(), k.name()),
            })
            .collect();
        said.sort();
        said
    }

    fn outbound(contents: &Contents, namespace: &str, name: &str) -> Vec<String> {
        let name = CollectionName::Outbound(NamespacedName::new(namespace, name).unwrap());
        contents.collection(&name).unwrap().keys().map(|k| format!("{}/{}", k.kind(), k.name())).collect()
    }

    const GATEWAY: &str = leno_model::kind::GATEWAY_GROUP;
    const LENO: &str = leno_model::kind::LENO_GROUP;

    #[test]
    fn a_service_appears_with_what_was_there_before_it() {
        let mut world = new();
        let route = json!({"parentRefs": [{"name": "web"}], "rules": []});
        assert_eq!(said(&put(&mut world, "HTTPRoute", GATEWAY, "shop", "r", route)), [""; 0]);
        let changes = service(&mut world, "shop", "web");
        assert_eq!(
            said(&changes),
            [
                "+in:shop/web Service/web",
                "+in:shop/web ServiceInfo/web",
                "+mesh MeshConfig/mesh",
                "+out:shop/web HTTPRoute/r",
                "+out:shop/web Service/web",
                "+out:shop/web ServiceInfo/web",
                "appeared in:shop/web",
                "appeared out:shop/web"
            ]
        );
        assert_eq!(said(&service(&mut world, "shop", "web")), [""; 0], "the same again is no change");
        let gone = delete(&mut world, Kind::Service, "shop", "web");
        assert_eq!(said(&gone), ["+mesh MeshConfig/mesh", "vanished in:shop/web", "vanished out:shop/web"]);
        assert!(world.collection(&"out:shop/web".parse().unwrap()).is_none());
    }

    #[test]
    fn an_edit_touches_only_its_targets() {
        let mut world = new();
        for (namespace, name) in [("shop", "web"), ("shop", "cart"), ("bank", "web")] {
            service(&mut world, namespace, name);
        }
        let policy = json!({"rules": [{"action": "deny"}]});
        let changes = put(&mut world, "AccessPolicy", LENO, "shop", "p", policy.clone());
        assert_eq!(said(&changes), ["+in:shop/cart AccessPolicy/p", "+in:shop/web AccessPolicy/p"]);
        let narrower = json!({"targetRefs": [{"name": "cart"}], "rules": []});
        let changes = put(&mut world, "AccessPolicy", LENO, "shop", "p", narrower);
        assert_eq!(said(&changes), ["+in:shop/cart AccessPolicy/p", "-in:shop/web AccessPolicy/p"]);
        let changes = put(&mut world, "AccessPolicy", LENO, "leno-system", "all", policy);
        assert_eq!(changes.len(), 3);
        let changes = put(&mut world, "TrafficPolicy", LENO, "bank", "t", json!({"targetRefs": [{"name": "web"}]}));
        assert_eq!(said(&changes), ["+in:bank/web TrafficPolicy/t", "+out:bank/web TrafficPolicy/t"]);
    }

    #[test]
    fn status_writes_tell_nobody() {
        let mut world = new();
        service(&mut world, "shop", "web");
        let mut changes = Vec::new();
        let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop", "resourceVersion": "9"},
            "spec": {"ports": [{"port": 80}]}, "status": {"conditions": []}});
        world.apply(Input::Resource(Box::new(serde_json::from_value(value).unwrap())), &mut changes);
        assert!(changes.is_empty(), "{changes:?}");
        assert_eq!(world.resource(Kind::Service, "shop", "web").unwrap().metadata.resource_version, "9");
    }

    #[test]
    fn grants_of_foreign_backends_come_along() {
        let mut world = new();
        service(&mut world, "shop", "web");
        let route = json!({"parentRefs": [{"name": "web", "namespace": "shop"}], "rules": [{"backendRefs": [{"name": "x", "namespace": "bank", "port": 1}]}]});
        put(&mut world, "HTTPRoute", GATEWAY, "shop", "r", route);
        let changes = put(&mut world, "ReferenceGrant", GATEWAY, "bank", "g", json!({"from": [], "to": []}));
        assert_eq!(said(&changes), ["+out:shop/web ReferenceGrant/g"]);
        assert_eq!(said(&put(&mut world, "ReferenceGrant", GATEWAY, "other", "g", json!({}))), [""; 0]);
        assert_eq!(said(&delete(&mut world, Kind::ReferenceGrant, "bank", "g")), ["-out:shop/web ReferenceGrant/g"]);
        put(&mut world, "ReferenceGrant", GATEWAY, "bank", "g", json!({}));
        let changes = delete(&mut world, Kind::HttpRoute, "shop", "r");
        assert_eq!(said(&changes), ["-out:shop/web HTTPRoute/r", "-out:shop/web ReferenceGrant/g"]);
    }

    #[test]
    fn endpoints_come_and_go_as_single_changes() {
        let mut world = new();
        let workload = |generation: u64, services: Value| json!({"instance": "a", "generation": generation, "identity": "spiffe://mesh.leno/ns/shop/sa/web", "services": services});
        let two = json!([{"name": "web", "ports": [{"port": 8080, "servicePort": 80}]}, {"name": "api"}]);
        put(&mut world, "Workload", LENO, "shop", "web.a", workload(1, two));
        assert!(said(&service(&mut world, "shop", "web")).contains(&"+out:shop/web Endpoint/web.web.a".to_owned()));
        let changes = put(&mut world, "Workload", LENO, "shop", "web.a", workload(2, json!([{"name": "web"}])));
        assert_eq!(said(&changes), ["+out:shop/web Endpoint/web.web.a"]);
        assert_eq!(outbound(&world, "shop", "web"), ["Endpoint/web.web.a", "Service/web", "ServiceInfo/web"]);
        let changes = delete(&mut world, Kind::Workload, "shop", "web.a");
        assert_eq!(said(&changes), ["-out:shop/web Endpoint/web.web.a"]);
        service(&mut world, "shop", "api");
        assert_eq!(outbound(&world, "shop", "api"), ["Service/api", "ServiceInfo/api"], "it left that service before");
    }

    #[test]
    fn identities_come_from_grants_alone() {
        let mut world = new();
        service(&mut world, "shop", "web");
        let mut changes = Vec::new();
        let grant = Grant { services: ["web".to_owned()].into() };
        world.apply(Input::Grant("shop".into(), "web".into(), Some(grant.clone())), &mut changes);
        assert_eq!(said(&changes), ["+in:shop/web ServiceInfo/web", "+out:shop/web ServiceInfo/web"]);
        world.apply(Input::Grant("bank".into(), "web".into(), Some(grant)), &mut changes);
        let web = SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/web").unwrap();
        assert_eq!(world.service_info("shop", "web").identities, std::slice::from_ref(&web));
        let may = |id: &str, ns: &str, name: &str| {
            world.permits(&SpiffeId::new(id).unwrap(), &NamespacedName::new(ns, name).unwrap())
        };
        assert!(may(web.as_str(), "shop", "web"));
        assert!(!may(web.as_str(), "shop", "cart"));
        assert!(!may(web.as_str(), "bank", "web"), "a grant is for its own namespace");
        assert!(!may("spiffe://other.mesh/ns/shop/sa/web", "shop", "web"), "nor for another mesh's workload");
        world.apply(Input::Grant("shop".into(), "web".into(), None), &mut Vec::new());
        assert!(world.service_info("shop", "web").identities.is_empty());
    }
}
