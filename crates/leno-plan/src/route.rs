//! Which rule a request takes, and which backend of that rule.
//!
//! `leno-compile` flattens Gateway API rules to entries (one per match) in order of precedence, so that the first entry that
//! matches is the answer.

mod index;

use std::sync::Arc;
use std::time::Duration;

use leno_model::NamespacedName;

use crate::destination::CallPolicy;
use crate::filter::Filter;
use crate::matching::{HeaderMatch, Pattern, QueryMatch, TextMatch};
use crate::path::{self, PathError};
use crate::request::RequestView;
use crate::resilience::RetryPolicy;
use index::PathIndex;

/// The name of the rule of a service to which no route is attached, as seen in metrics.
pub const DIRECT_RULE: &str = "default";

/// Entries that a table may have without an index.
const FEW: usize = 6;

/// The routes of one service port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteTable {
    rules: Vec<Arc<RouteRule>>,
    entries: Vec<RouteEntry>,
    matches_paths: bool,
    /// Which entries a path may take; a few entries are compared one by one, which costs less than hashing the path.
    index: Option<Box<PathIndex>>,
}

/// One match of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteEntry {
    /// The conditions, all of which must hold.
    pub condition: RouteMatch,
    /// Position of the rule in the table.
    pub rule: usize,
}

/// What happens to requests that match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRule {
    /// For metrics, logs and `why`: the route's name and the rule's name or position.
    pub name: Arc<str>,
    /// In order.
    pub filters: Vec<Filter>,
    /// Where matching requests go, by weight; empty with a redirect.
    pub backends: Vec<Backend>,
    /// Overrides of the called service's timeouts.
    pub timeouts: RouteTimeouts,
    /// Overrides the called service's retries.
    pub retry: Option<RetryPolicy>,
}

/// A weighted target of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Where to.
    pub target: BackendTarget,
    /// Share of the rule's requests, relative to the sum.
    pub weight: u32,
    /// Applied after the rule's.
    pub filters: Vec<Filter>,
}

/// Where a backend's requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendTarget {
    /// A service, perhaps another than the one that was called: the proxy subscribes to its collection too, and uses its
    /// balancing, ejection, limits and identities.
    Service {
        /// The service.
        service: NamespacedName,
        /// Its port; its only one if absent ([`crate::DestinationPlan::backend_port`]).
        port: Option<u16>,
    },
    /// A reference that may not be used (absent, not granted, of an unknown kind). Its share of requests is refused with
    /// `configuration_rejected`: they must not silently go elsewhere (Gateway API, `backendRefs`).
    Refused {
        /// For the log.
        detail: Arc<str>,
    },
}

/// A timeout in a route, where absent and off differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeoutSetting {
    /// As the called service's policy says.
    #[default]
    Inherit,
    /// `0s`: none.
    Off,
    /// This long.
    After(Duration),
}

impl TimeoutSetting {
    /// Resolves against the inherited value.
    #[must_use]
    pub fn over(self, inherited: Option<Duration>) -> Option<Duration> {
        match self {
            Self::Inherit => inherited,
            Self::Off => None,
            Self::After(d) => Some(d),
        }
    }
}

/// Timeouts of a rule (GEP-1742).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteTimeouts {
    /// The whole request with its retries.
    pub request: TimeoutSetting,
    /// One attempt.
    pub attempt: TimeoutSetting,
}

impl RouteRule {
    /// A rule without conditions' consequences: everything to one service.
    #[must_use]
    pub fn to_service(name: &str, service: NamespacedName, port: u16) -> Self {
        let target = BackendTarget::Service { service, port: Some(port) };
        Self {
            name: name.into(),
            filters: Vec::new(),
            backends: vec![Backend { target, weight: 1, filters: Vec::new() }],
            timeouts: RouteTimeouts::default(),
            retry: None,
        }
    }

    /// Chooses a backend by weight. `random` is uniform over all of `u64`. `None` if there is no backend with a weight: the
    /// request is then refused with `configuration_rejected`.
    #[must_use]
    pub fn pick_backend(&self, random: u64) -> Option<&Backend> {
        if let [only] = self.backends.as_slice() {
            return (only.weight > 0).then_some(only);
        }
        let total: u64 = self.backends.iter().map(|b| u64::from(b.weight)).sum();
        // Multiply-shift: uniform without division, and zero total gives no point in any share.
        let point = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        let mut end = 0;
        self.backends.iter().find(|b| {
            end += u64::from(b.weight);
            point < end
        })
    }

    /// The timeout of the whole request.
    #[must_use]
    pub fn request_timeout(&self, policy: &CallPolicy) -> Option<Duration> {
        self.timeouts.request.over(policy.timeouts.request)
    }

    /// The timeout of one attempt.
    #[must_use]
    pub fn attempt_timeout(&self, policy: &CallPolicy) -> Option<Duration> {
        self.timeouts.attempt.over(policy.timeouts.attempt)
    }

    /// The retries in force.
    #[must_use]
    pub fn retry<'a>(&'a self, policy: &'a CallPolicy) -> &'a RetryPolicy {
        self.retry.as_ref().unwrap_or(&policy.retry)
    }
}

/// The conditions of one entry; an empty one matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteMatch {
    /// On the path.
    pub path: Option<PathMatch>,
    /// The method, case-sensitive.
    pub method: Option<Box<str>>,
    /// All must hold, for every value.
    pub headers: Vec<HeaderMatch>,
    /// All must hold, for every value.
    pub query: Vec<QueryMatch>,
}

/// A condition on the path. Texts are kept decoded, and compared with the request's path decoded once, so that an
/// escape that normalisation keeps (`%3A`) cannot make two spellings of what the application takes for one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// The same path.
    Exact(Box<[u8]>),
    /// By whole elements: `/a` covers `/a` and `/a/b`, not `/ab`.
    Prefix {
        /// Without a trailing slash; empty for `/`.
        text: Box<[u8]>,
        /// Number of path elements in it.
        elements: usize,
    },
    /// The path ends so; of access rules only.
    Suffix(Box<[u8]>),
    /// A regex over the whole path.
    Regex(Pattern),
    /// A gRPC method: `/service/method`.
    Grpc {
        /// Full service name with its package.
        service: Option<TextMatch>,
        /// Method name.
        method: Option<TextMatch>,
    },
}

impl PathMatch {
    /// An exact match, normalised as requests are.
    pub fn exact(text: &str) -> Result<Self, PathError> {
        let normal = path::normalise(text.as_bytes())?;
        Ok(Self::Exact(path::decode(&normal).into_owned().into()))
    }

    /// A prefix by elements, normalised as requests are.
    pub fn prefix(text: &str) -> Result<Self, PathError> {
        let normal = path::normalise(text.as_bytes())?;
        let decoded = path::decode(&normal).into_owned();
        let text = decoded.strip_suffix(b"/").unwrap_or(&decoded);
        Ok(Self::Prefix { text: text.into(), elements: text.iter().filter(|&&b| b == b'/').count() })
    }

    /// Whether a decoded path ([`path::decode`]) matches.
    #[must_use]
    pub fn is_match(&self, decoded: &[u8]) -> bool {
        match self {
            Self::Exact(text) => **text == *decoded,
            Self::Prefix { text, .. } => {
                decoded.strip_prefix(&**text).is_some_and(|rest| rest.first().is_none_or(|&b| b == b'/'))
            }
            Self::Suffix(text) => decoded.ends_with(text),
            Self::Regex(pattern) => pattern.is_match(decoded),
            Self::Grpc { service, method } => {
                let Some((s, m)) = grpc_parts(decoded) else { return false };
                service.as_ref().is_none_or(|x| x.is_match(s)) && method.as_ref().is_none_or(|x| x.is_match(m))
            }
        }
    }
}

/// Service and method of a gRPC path (gRPC over HTTP/2, `Path`).
fn grpc_parts(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = path.strip_prefix(b"/")?;
    let slash = rest.iter().position(|&b| b == b'/')?;
    let (service, method) = (&rest[..slash], &rest[slash + 1..]);
    (!service.is_empty() && !method.is_empty() && !method.contains(&b'/')).then_some((service, method))
}

/// Order of precedence of matches (Gateway API `HTTPRouteRule.matches`): greater first, then the older route, then its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    /// Exact 3, gRPC and regex 2, prefix 1, none 0.
    kind: u8,
    /// Length of the path text.
    length: usize,
    /// Whether a method is asked for.
    method: bool,
    /// Number of header conditions.
    headers: usize,
    /// Number of query conditions.
    query: usize,
}

impl RouteMatch {
    /// How specific this match is.
    #[must_use]
    pub fn specificity(&self) -> Specificity {
        let text = |t: &Option<TextMatch>| match t {
            Some(TextMatch::Exact(t)) => t.len(),
            Some(TextMatch::Regex(p)) => p.as_str().len(),
            None => 0,
        };
        let (kind, length) = match &self.path {
            Some(PathMatch::Exact(t)) => (3, t.len()),
            Some(PathMatch::Grpc { service, method }) => (2, text(service) * 1024 + text(method)),
            Some(PathMatch::Regex(p)) => (2, p.as_str().len()),
            Some(PathMatch::Prefix { text, .. }) => (1, text.len()),
            Some(PathMatch::Suffix(text)) => (1, text.len()),
            None => (0, 0),
        };
        let (headers, query) = (self.headers.len(), self.query.len());
        Specificity { kind, length, method: self.method.is_some(), headers, query }
    }

    fn is_match(&self, request: &RequestView<'_>, decoded: &[u8]) -> bool {
        self.path.as_ref().is_none_or(|p| p.is_match(decoded))
            && self.method.as_ref().is_none_or(|m| m.as_bytes() == request.method)
            && self.headers.iter().all(|h| h.every_value(request))
            && self.query.iter().all(|q| q.every_value(request.query))
    }

    fn is_empty(&self) -> bool {
        self.path.is_none() && self.method.is_none() && self.headers.is_empty() && self.query.is_empty()
    }
}

/// The rule that a request takes.
#[derive(Debug, Clone, Copy)]
pub struct RouteChoice<'t> {
    /// The rule; its `name` is the metrics label.
    pub rule: &'t Arc<RouteRule>,
    /// The entry that matched.
    pub condition: &'t RouteMatch,
}

impl RouteChoice<'_> {
    /// Number of path elements that a prefix match covered, for [`crate::filter::PathModifier`].
    #[must_use]
    pub fn prefix_elements(&self) -> usize {
        match &self.condition.path {
            Some(PathMatch::Prefix { elements, .. }) => *elements,
            _ => 0,
        }
    }
}

impl RouteTable {
    /// A table of rules and its entries in order of precedence. An entry whose rule does not exist is dropped.
    #[must_use]
    pub fn new(rules: Vec<RouteRule>, mut entries: Vec<RouteEntry>) -> Self {
        entries.retain(|e| e.rule < rules.len());
        let matches_paths = entries.iter().any(|e| e.condition.path.is_some());
        let index = (entries.len() > FEW).then(|| Box::new(PathIndex::new(&entries)));
        Self { rules: rules.into_iter().map(Arc::new).collect(), entries, matches_paths, index }
    }

    /// The table of a service to which no route is attached: everything to itself.
    #[must_use]
    pub fn direct(service: NamespacedName, port: u16) -> Self {
        let rule = RouteRule::to_service(DIRECT_RULE, service, port);
        Self::new(vec![rule], vec![RouteEntry { condition: RouteMatch::default(), rule: 0 }])
    }

    /// Chooses the rule; `None` is `no_route`. The path must be in normal form if [`Self::matches_paths`].
    #[must_use]
    pub fn choose<'t>(&'t self, request: &RequestView<'_>) -> Option<RouteChoice<'t>> {
        let decoded = if self.matches_paths { path::decode(request.path) } else { request.path.into() };
        let is_match = |entry: &&RouteEntry| entry.condition.is_match(request, &decoded);
        let entry = match &self.index {
            None => self.entries.iter().find(is_match)?,
            Some(index) => &self.entries[index.first(&decoded, |at| is_match(&&self.entries[at as usize]))? as usize],
        };
        Some(RouteChoice { rule: &self.rules[entry.rule], condition: &entry.condition })
    }

    /// The rule for plain TCP: the first that asks nothing of a request.
    #[must_use]
    pub fn choose_tcp(&self) -> Option<&Arc<RouteRule>> {
        self.entries.iter().find(|e| e.condition.is_empty()).map(|e| &self.rules[e.rule])
    }

    /// Whether some rule looks at paths, so that they must be normalised (DESIGN section 7).
    #[must_use]
    pub fn matches_paths(&self) -> bool {
        self.matches_paths
    }

    /// The rules, for plan dumps.
    #[must_use]
    pub fn rules(&self) -> &[Arc<RouteRule>] {
        &self.rules
    }

    /// The entries in order of precedence, for plan dumps and `why`.
    #[must_use]
    pub fn entries(&self) -> &[RouteEntry] {
        &self.entries
    }

    /// Every service that some rule sends to, perhaps more than once.
    pub fn backends(&self) -> impl Iterator<Item = (&NamespacedName, Option<u16>)> {
        self.rules.iter().flat_map(|r| &r.backends).filter_map(|b| match &b.target {
            BackendTarget::Service { service, port } => Some((service, *port)),
            BackendTarget::Refused { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests;
