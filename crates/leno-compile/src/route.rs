//! Routes attached to a service → one table per port, its entries in order of precedence.
//!
//! Order (Gateway API v1, `HTTPRouteRule.matches` and `GRPCRouteRule.matches`): the more specific match, then the older route, then
//! the route's name, then the order in the route. A port with a GRPCRoute is not routed by HTTPRoutes (GEP-1426: the more specific
//! kind of route).

pub mod grpc;
pub mod http;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use leno_model::diagnostic::{Code, Diagnostic, Severity};
use leno_model::kinds::filters::{HeaderModifier, NamedMatch, TextMatchType};
use leno_model::kinds::references::{BackendRef, ParentRef};
use leno_model::kinds::service::ServicePort;
use leno_model::resource::ResourceRef;
use leno_model::{AppProtocol, NamespacedName};
use leno_plan::filter::{header_is_editable, header_value_is_fine};
use leno_plan::{
    Backend, BackendTarget, HeaderEdit, HeaderMatch, Pattern, RetryPolicy, RouteEntry, RouteMatch, RouteRule,
    RouteTable, RouteTimeouts, TextMatch,
};

use crate::collection::{Body, Collection, Fault, age};

/// Who may refer to a Service of another namespace: kind and namespace of the one that refers, the Service's namespace and name.
type Grants<'g> = &'g dyn Fn(&str, &str, &str, &str) -> bool;

/// What compiling a route needs beside the route.
pub(crate) struct RouteContext<'a> {
    key: &'a ResourceRef,
    grants: Grants<'a>,
    /// The retries of the service, which a rule's own change in parts.
    retry: &'a RetryPolicy,
    warnings: Vec<Diagnostic>,
}

/// A rule, and the matches that lead to it.
pub(crate) struct CompiledRule {
    rule: RouteRule,
    matches: Vec<RouteMatch>,
}

/// A route of a service.
struct Attached<'c> {
    key: &'c ResourceRef,
    parents: &'c [ParentRef],
    grpc: bool,
    rules: Vec<CompiledRule>,
}

/// The tables of the ports that have routes.
pub(crate) fn tables(
    service: &NamespacedName,
    collection: &Collection,
    ports: &BTreeMap<u16, ServicePort>,
    retry: &RetryPolicy,
    diagnostics: &mut Vec<Diagnostic>,
) -> BTreeMap<u16, RouteTable> {
    let routes = attached(service, collection, retry, diagnostics);
    report_absent_ports(&routes, service, ports, diagnostics);
    let mut tables = BTreeMap::new();
    for (&number, port) in ports {
        let mut here: Vec<&Attached<'_>> =
            routes.iter().filter(|r| r.parents.iter().any(|p| parent_is(p, r.key, service, port))).collect();
        if port.declared_protocol() == Some(AppProtocol::Tcp) {
            for route in here.drain(..) {
                let message = format!("port {number} of {service} is tcp, whose bytes are not routed by requests");
                diagnostics.push(warning(route.key, Code::NoMatchingParent, "spec.parentRefs", message));
            }
        }
        if here.iter().any(|r| r.grpc) {
            for route in here.iter().filter(|r| !r.grpc) {
                let message = format!("port {number} of {service} has a GRPCRoute, which goes before every HTTPRoute");
                diagnostics.push(warning(route.key, Code::Conflicted, "spec.parentRefs", message));
            }
            here.retain(|r| r.grpc);
        }
        if !here.is_empty() {
            report_shadowed(&here, diagnostics);
            tables.insert(number, table(&here));
        }
    }
    tables
}

/// Compiled, oldest first.
fn attached<'c>(
    service: &NamespacedName,
    collection: &'c Collection,
    retry: &RetryPolicy,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Attached<'c>> {
    let grants = |kind: &str, from: &str, namespace: &str, name: &str| {
        collection.good().any(|(_, good)| match &good.body {
            Body::Grant(grant) => good.metadata.namespace == namespace && grant.permits_service(kind, from, name),
            _ => false,
        })
    };
    let mut found = Vec::new();
    for (key, good) in collection.good() {
        let mut context = RouteContext { key, grants: &grants, retry, warnings: Vec::new() };
        let (parents, grpc, compiled) = match &good.body {
            Body::HttpRoute(spec) => (&spec.parent_refs, false, http::compile(spec, &mut context)),
            Body::GrpcRoute(spec) => (&spec.parent_refs, true, grpc::compile(spec, &mut context)),
            _ => continue,
        };
        // Routes act in their own namespace only, whatever the collection holds (D14).
        if key.namespace != service.namespace.as_str() {
            let message = format!("a route of another namespace does not act on {service}");
            diagnostics.push(warning(key, Code::NoMatchingParent, "spec.parentRefs", message));
            continue;
        }
        diagnostics.append(&mut context.warnings);
        match compiled {
            Ok(rules) => found.push((age(&good.metadata), Attached { key, parents, grpc, rules })),
            Err(fault) => diagnostics.push(*fault),
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found.into_iter().map(|(_, route)| route).collect()
}

fn names_service(parent: &ParentRef, route: &ResourceRef, service: &NamespacedName) -> bool {
    parent.is_service()
        && parent.name == service.name.as_str()
        && parent.namespace.as_ref().is_none_or(|n| *n == route.namespace)
        && route.namespace == service.namespace.as_str()
}

fn parent_is(parent: &ParentRef, route: &ResourceRef, service: &NamespacedName, port: &ServicePort) -> bool {
    names_service(parent, route, service)
        && parent.port.is_none_or(|p| p == port.port)
        && parent.section_name.as_ref().is_none_or(|s| port.name.as_ref() == Some(s))
}

fn report_absent_ports(
    routes: &[Attached<'_>],
    service: &NamespacedName,
    ports: &BTreeMap<u16, ServicePort>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for route in routes {
        for (index, parent) in route.parents.iter().enumerate() {
            let nowhere = !ports.is_empty() && !ports.values().any(|port| parent_is(parent, route.key, service, port));
            if names_service(parent, route.key, service) && nowhere {
                let message = format!("{service} has no such port");
                let path = format!("spec.parentRefs[{index}]");
                diagnostics.push(warning(route.key, Code::NoMatchingParent, &path, message));
            }
        }
    }
}

/// A match that an older route, or an earlier rule, has too is never taken.
fn report_shadowed(routes: &[&Attached<'_>], diagnostics: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for route in routes {
        for compiled in &route.rules {
            for condition in &compiled.matches {
                match seen.entry(format!("{condition:?}")) {
                    Entry::Vacant(entry) => {
                        entry.insert(&compiled.rule.name);
                    }
                    // The same match twice in one rule harms nobody.
                    Entry::Occupied(entry) if **entry.get() != *compiled.rule.name => {
                        let message = format!(
                            "rule {} has the same match and goes first; {} is not taken by it",
                            entry.get(),
                            compiled.rule.name
                        );
                        diagnostics.push(warning(route.key, Code::Conflicted, "spec.rules", message));
                    }
                    Entry::Occupied(_) => {}
                }
            }
        }
    }
}

fn table(routes: &[&Attached<'_>]) -> RouteTable {
    let mut rules = Vec::new();
    let mut entries = Vec::new();
    for route in routes {
        for compiled in &route.rules {
            let rule = rules.len();
            rules.push(compiled.rule.clone());
            for condition in &compiled.matches {
                entries.push(RouteEntry { condition: condition.clone(), rule });
            }
        }
    }
    // Stable: what is as specific stays in order of age, name and place.
    entries.sort_by_key(|e| Reverse(e.condition.specificity()));
    RouteTable::new(rules, entries)
}

fn warning(key: &ResourceRef, code: Code, path: &str, message: impl Into<String>) -> Diagnostic {
    Diagnostic::about(key.clone(), Severity::Warning, code, path, message)
}

impl RouteContext<'_> {
    fn error(&self, code: Code, path: &str, message: impl Into<String>) -> Fault {
        Box::new(Diagnostic::about(self.key.clone(), Severity::Error, code, path, message))
    }

    fn warn(&mut self, code: Code, path: &str, message: impl Into<String>) {
        self.warnings.push(warning(self.key, code, path, message));
    }

    fn rule_name(&self, name: Option<&str>, index: usize) -> String {
        match name {
            Some(name) => format!("{}/{name}", self.key.name),
            None => format!("{}/{index}", self.key.name),
        }
    }

    /// A rule of which nothing may be carried out: every request is refused (Gateway API: never skip a filter).
    fn refused_rule(&self, name: String, detail: &str) -> RouteRule {
        let target = BackendTarget::Refused { detail: format!("{}: {detail}", self.key).into() };
        RouteRule {
            name: name.into(),
            filters: Vec::new(),
            backends: vec![Backend { target, weight: 1, filters: Vec::new() }],
            timeouts: RouteTimeouts::default(),
            retry: None,
        }
    }

    /// A reference that cannot be used keeps its weight and refuses its share.
    fn backends(&mut self, backends: &[BackendRef], path: &str) -> Vec<Backend> {
        let mut compiled = Vec::new();
        for (index, backend) in backends.iter().enumerate() {
            let path = format!("{path}.backendRefs[{index}]");
            let target = match self.backend(backend) {
                Ok((service, port)) => BackendTarget::Service { service, port },
                Err((code, detail)) => {
                    self.warn(code, &path, format!("{detail}; its share of requests is refused"));
                    BackendTarget::Refused { detail: format!("{}: {detail}", self.key).into() }
                }
            };
            compiled.push(Backend { target, weight: backend.weight, filters: Vec::new() });
        }
        compiled
    }

    fn backend(&self, backend: &BackendRef) -> Result<(NamespacedName, Option<u16>), (Code, String)> {
        if !backend.is_service() {
            return Err((Code::InvalidKind, format!("a backend is a Service, not a {}", backend.kind)));
        }
        if backend.port == Some(0) {
            return Err((Code::InvalidValue, "0 is not a port".to_owned()));
        }
        if !backend.filters.is_empty() {
            return Err((Code::UnsupportedValue, "filters of one backend are not supported".to_owned()));
        }
        let namespace = backend.namespace.as_deref().unwrap_or(&self.key.namespace);
        let service = NamespacedName::new(namespace, &backend.name).map_err(|e| (Code::InvalidValue, e.to_string()))?;
        let own = namespace == self.key.namespace;
        if !own && !(self.grants)(&self.key.kind, &self.key.namespace, namespace, &backend.name) {
            return Err((
                Code::RefNotPermitted,
                format!("no ReferenceGrant of {namespace} permits a reference to {service}"),
            ));
        }
        Ok((service, backend.port))
    }

    fn headers(&self, matches: &[NamedMatch], path: &str) -> Result<Vec<HeaderMatch>, Fault> {
        let mut compiled: Vec<HeaderMatch> = Vec::new();
        for (index, m) in matches.iter().enumerate() {
            let name: Box<str> = m.name.to_ascii_lowercase().into();
            // "Only the first entry with an equivalent name" counts (Gateway API, `HTTPHeaderMatch.name`).
            if compiled.iter().all(|c| c.name != name) {
                let value = Some(self.text(m.kind, &m.value, &format!("{path}.headers[{index}]"))?);
                compiled.push(HeaderMatch { name, value });
            }
        }
        Ok(compiled)
    }

    fn text(&self, kind: TextMatchType, value: &str, path: &str) -> Result<TextMatch, Fault> {
        match kind {
            TextMatchType::Exact => Ok(TextMatch::Exact(value.into())),
            TextMatchType::RegularExpression => Ok(TextMatch::Regex(self.regex(value, path)?)),
            TextMatchType::Unknown => {
                Err(self.error(Code::UnsupportedValue, &format!("{path}.type"), "unknown to this version"))
            }
        }
    }

    fn regex(&self, value: &str, path: &str) -> Result<Pattern, Fault> {
        Pattern::new(value).map_err(|e| self.error(Code::InvalidValue, &format!("{path}.value"), e.to_string()))
    }

    fn header_edit(&self, modifier: &HeaderModifier, path: &str) -> Result<HeaderEdit, Fault> {
        let name = |name: &str| -> Result<Box<str>, Fault> {
            if header_is_editable(name) {
                Ok(name.to_ascii_lowercase().into())
            } else {
                Err(self.error(
                    Code::InvalidValue,
                    path,
                    format!("header `{}` may not be changed", name.escape_debug()),
                ))
            }
        };
        let pair = |h: &leno_model::kinds::filters::HeaderValue| {
            if header_value_is_fine(&h.value) {
                Ok((name(&h.name)?, h.value.as_str().into()))
            } else {
                Err(self.error(
                    Code::InvalidValue,
                    path,
                    format!("the value of `{}` is not one of a header", h.name.escape_debug()),
                ))
            }
        };
        Ok(HeaderEdit {
            set: modifier.set.iter().map(pair).collect::<Result<_, _>>()?,
            add: modifier.add.iter().map(pair).collect::<Result<_, _>>()?,
            remove: modifier.remove.iter().map(|n| name(n)).collect::<Result<_, _>>()?,
        })
    }
}

/// Runs a compilation of one route alone, as if every reference were permitted.
fn probe(
    key: &ResourceRef,
    compile: impl FnOnce(&mut RouteContext<'_>) -> Result<Vec<CompiledRule>, Fault>,
) -> Result<(), Fault> {
    let retry = RetryPolicy::default();
    let mut context = RouteContext { key, grants: &|_, _, _, _| true, retry: &retry, warnings: Vec::new() };
    compile(&mut context).map(|_| ())
}

#[cfg(test)]
mod tests;
