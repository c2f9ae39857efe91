//! From the name a caller used to the service it may mean (D2, D13).

use leno_model::NamespacedName;

use crate::host::HostName;

/// What a host name means to the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// An address, or a name that no service can have: not of the mesh.
    Outside,
    /// This service if it exists, otherwise something outside.
    Perhaps(NamespacedName),
    /// This service and nothing else (`.mesh`, `.svc.cluster.local`): if it does not exist the answer is
    /// `unknown_destination`, never egress.
    Mesh(NamespacedName),
    /// A name under a suffix of the mesh that no service can have: `unknown_destination`.
    Nowhere,
}

impl Meaning {
    /// The service to look up, if any.
    #[must_use]
    pub fn service(&self) -> Option<&NamespacedName> {
        match self {
            Self::Perhaps(service) | Self::Mesh(service) => Some(service),
            Self::Outside | Self::Nowhere => None,
        }
    }
}

/// Suffixes of names that are the mesh's alone, longest first.
const SUFFIXES: [&str; 3] = [".svc.cluster.local", ".mesh", ".svc"];

/// Reads `web`, `web.ns`, `web.ns.mesh`, `web.ns.svc` or `web.ns.svc.cluster.local`; `own` is the caller's namespace.
#[must_use]
pub fn meaning(host: &HostName<'_>, own: &str) -> Meaning {
    let HostName::Name(name) = host else { return Meaning::Outside };
    for suffix in SUFFIXES {
        let Some(rest) = name.strip_suffix(suffix) else { continue };
        let service = match rest.split_once('.') {
            Some((service, namespace)) => NamespacedName::new(namespace, service),
            // `web.mesh`: the namespace happens to be called like the suffix.
            None => NamespacedName::parse(name, own),
        };
        return service.map_or(Meaning::Nowhere, Meaning::Mesh);
    }
    NamespacedName::parse(name, own).map_or(Meaning::Outside, Meaning::Perhaps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;

    #[test]
    fn names_mean_services() {
        let service = |n: &str| NamespacedName::parse(n, "default").unwrap();
        for (host, expected) in [
            ("web", Meaning::Perhaps(service("web.shop"))),
            ("WEB:80", Meaning::Perhaps(service("web.shop"))),
            ("web.prod", Meaning::Perhaps(service("web.prod"))),
            ("web.prod.", Meaning::Perhaps(service("web.prod"))),
            ("web.prod.mesh", Meaning::Mesh(service("web.prod"))),
            ("web.prod.svc", Meaning::Mesh(service("web.prod"))),
            ("web.prod.svc.cluster.local:80", Meaning::Mesh(service("web.prod"))),
            ("web.mesh", Meaning::Mesh(service("web.mesh"))),
            ("mesh", Meaning::Perhaps(service("mesh.shop"))),
            ("web.a.b.mesh", Meaning::Nowhere),
            ("a.b.c.svc.cluster.local", Meaning::Nowhere),
            ("my_svc.prod.mesh", Meaning::Nowhere),
            ("web.svc.cluster.local", Meaning::Nowhere),
            ("web.prod.example.com", Meaning::Outside),
            ("my_svc", Meaning::Outside),
            ("10.0.0.1", Meaning::Outside),
            ("[::1]", Meaning::Outside),
        ] {
            let parsed = Host::parse(host.as_bytes()).unwrap();
            assert_eq!(meaning(&parsed.name, "shop"), expected, "{host}");
        }
    }
}
