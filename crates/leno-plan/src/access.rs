//! Who may call a port: deny, then allow, then the default (D15).
//!
//! A condition that cannot be judged counts against the caller: on plain TCP an allow rule with request conditions never
//! matches and a deny rule with them always does. For the same reason deny rules look at every header value and at the path
//! with and without its `;` parameters, while allow rules want every value, and the path as it is, to match.

mod index;

use std::sync::Arc;

use leno_model::{SpiffeId, TrustDomain};

use crate::matching::{HeaderMatch, Literal};
use crate::path;
use crate::request::RequestView;
use crate::route::PathMatch;
use index::CallerIndex;

/// The policy name in a [`Decision`] that no policy made.
pub const DEFAULT_POLICY: &str = "default";

/// The access rules of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessPlan {
    deny: Vec<AccessRule>,
    allow: Vec<AccessRule>,
    closed_by: Option<Arc<str>>,
    otherwise: DefaultAccess,
    matches_paths: bool,
    /// Which deny rules a caller may match.
    denied: CallerIndex,
    /// Which allow rules a caller may match.
    allowed: CallerIndex,
}

/// What is allowed where no policy says anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultAccess {
    /// Members of the mesh with this trust domain.
    Members(TrustDomain),
    /// Nobody.
    Deny,
}

/// One rule of a policy: caller, port and request conditions must all hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// The policy's name, for the log.
    pub policy: Arc<str>,
    /// One of them must match. Empty: in a deny rule everyone, in an allow rule everyone who proved an identity.
    pub from: Vec<CallerMatch>,
    /// Service ports; empty for all.
    pub ports: Vec<u16>,
    /// One of them must match; empty for no conditions on requests.
    pub requests: Vec<RequestMatch>,
}

/// A condition on the caller; all parts that are there must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallerMatch {
    /// The whole SPIFFE ID.
    pub identity: Option<Literal>,
    /// The trust domain. Set by the compiler beside `namespace` and `service_account`: without it a peer mesh's `ns/shop`
    /// would be taken for one's own.
    pub trust_domain: Option<TrustDomain>,
    /// Its namespace.
    pub namespace: Option<Literal>,
    /// Its service account.
    pub service_account: Option<Literal>,
}

/// A caller's identity, taken apart once per decision.
struct Caller<'c> {
    text: &'c str,
    domain: &'c str,
    /// Namespace and service account.
    workload: Option<(&'c str, &'c str)>,
}

impl<'c> Caller<'c> {
    fn of(id: &'c SpiffeId) -> Self {
        Self { text: id.as_str(), domain: id.trust_domain(), workload: id.workload_parts() }
    }
}

impl CallerMatch {
    fn is_match(&self, caller: &Caller<'_>) -> bool {
        let part = |wanted: &Option<Literal>, is: Option<&str>| match wanted {
            Some(literal) => is.is_some_and(|text| literal.is_match(text)),
            None => true,
        };
        part(&self.service_account, caller.workload.map(|w| w.1))
            && part(&self.namespace, caller.workload.map(|w| w.0))
            && self.trust_domain.as_ref().is_none_or(|d| d.as_str() == caller.domain)
            && part(&self.identity, Some(caller.text))
    }
}

/// Conditions on a request; all lists that are not empty must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestMatch {
    /// One of them, case-sensitive.
    pub methods: Vec<Box<str>>,
    /// One of them.
    pub paths: Vec<PathMatch>,
    /// All of them.
    pub headers: Vec<HeaderMatch>,
}

/// The path in the forms that rules compare.
struct Paths<'a> {
    decoded: &'a [u8],
    /// Without `;` parameters, if there are any.
    bare: Option<&'a [u8]>,
}

impl RequestMatch {
    fn allows(&self, request: &RequestView<'_>, paths: &Paths<'_>) -> bool {
        self.method_matches(request)
            && (self.paths.is_empty() || self.paths.iter().any(|p| p.is_match(paths.decoded)))
            && self.headers.iter().all(|h| h.every_value(request))
    }

    fn denies(&self, request: &RequestView<'_>, paths: &Paths<'_>) -> bool {
        let path = |p: &PathMatch| p.is_match(paths.decoded) || paths.bare.is_some_and(|b| p.is_match(b));
        self.method_matches(request)
            && (self.paths.is_empty() || self.paths.iter().any(path))
            && self.headers.iter().all(|h| h.some_value(request))
    }

    fn method_matches(&self, request: &RequestView<'_>) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|m| m.as_bytes() == request.method)
    }
}

/// What was decided, and by which policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'p> {
    /// Whether the call may go on; if not, the reason is `denied_by_policy`.
    pub allowed: bool,
    /// The policy that decided; for a refusal because no allow rule matched, the first one that closes the port.
    pub policy: &'p str,
}

impl AccessPlan {
    /// A plan without policies.
    #[must_use]
    pub fn open(otherwise: DefaultAccess) -> Self {
        Self::new(Vec::new(), Vec::new(), None, otherwise)
    }

    /// `closed_by` names an allow policy that targets this port, so that what it does not allow is refused. It is separate
    /// from `allow` because a policy whose rules were all set aside as broken still closes (BAD_INPUTS 19); if `allow` is not
    /// empty the port is closed anyway.
    #[must_use]
    pub fn new(
        deny: Vec<AccessRule>,
        allow: Vec<AccessRule>,
        closed_by: Option<Arc<str>>,
        otherwise: DefaultAccess,
    ) -> Self {
        let closed_by = closed_by.or_else(|| allow.first().map(|r| r.policy.clone()));
        let all = deny.iter().chain(&allow);
        let matches_paths = all.flat_map(|r| &r.requests).any(|r| !r.paths.is_empty());
        let (denied, allowed) = (CallerIndex::new(&deny), CallerIndex::new(&allow));
        Self { deny, allow, closed_by, otherwise, matches_paths, denied, allowed }
    }

    /// Whether some rule looks at paths, so that they must be normalised (DESIGN section 7).
    #[must_use]
    pub fn matches_paths(&self) -> bool {
        self.matches_paths
    }

    /// Whether some rule looks at requests: then a connection's caller alone does not decide.
    #[must_use]
    pub fn judges_requests(&self) -> bool {
        self.deny.iter().chain(&self.allow).any(|r| !r.requests.is_empty())
    }

    /// Decides. `caller` is the identity that the peer proved; `request` is absent on plain TCP. The request's path must be
    /// in normal form if [`Self::matches_paths`].
    #[must_use]
    pub fn decide(&self, caller: Option<&SpiffeId>, port: u16, request: Option<&RequestView<'_>>) -> Decision<'_> {
        if let Some((allowed, rule)) = self.decided_by(caller, port, request) {
            return Decision { allowed, policy: &rule.policy };
        }
        if let Some(policy) = &self.closed_by {
            return Decision { allowed: false, policy };
        }
        let allowed = match &self.otherwise {
            DefaultAccess::Members(domain) => caller.is_some_and(|c| c.trust_domain() == domain.as_str()),
            DefaultAccess::Deny => false,
        };
        Decision { allowed, policy: DEFAULT_POLICY }
    }

    /// The first deny rule that matches, else the first allow rule.
    fn decided_by(
        &self,
        caller: Option<&SpiffeId>,
        port: u16,
        request: Option<&RequestView<'_>>,
    ) -> Option<(bool, &AccessRule)> {
        if self.deny.is_empty() && self.allow.is_empty() {
            return None;
        }
        let raw = request.map_or(&b""[..], |r| r.path);
        let decoded = if self.matches_paths { path::decode(raw) } else { raw.into() };
        let bare = if self.matches_paths { path::without_parameters(&decoded) } else { None };
        let paths = Paths { decoded: &decoded, bare: bare.as_deref() };
        let caller = caller.map(Caller::of);

        let denies = |rule: &AccessRule| {
            rule.concerns(port)
                && (rule.requests.is_empty()
                    || request.is_none_or(|view| rule.requests.iter().any(|r| r.denies(view, &paths))))
        };
        if let Some(rule) = self.denied.first(&self.deny, caller.as_ref(), true, denies) {
            return Some((false, rule));
        }
        let allows = |rule: &AccessRule| {
            rule.concerns(port)
                && (rule.requests.is_empty()
                    || request.is_some_and(|view| rule.requests.iter().any(|r| r.allows(view, &paths))))
        };
        self.allowed.first(&self.allow, caller.as_ref(), false, allows).map(|rule| (true, rule))
    }
}

impl AccessRule {
    fn concerns(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }
}

#[cfg(test)]
mod tests;
