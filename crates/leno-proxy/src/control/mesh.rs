//! The mesh's defaults as workers see them: which names and addresses are the mesh's, and what happens to the others.

use leno_compile::MeshDefaults;
use leno_model::Name;
use leno_plan::{EgressName, Literal};

use crate::snapshot::{Egress, External, MeshView};

/// The view of a compiled `mesh` collection.
pub fn view(mesh: &MeshDefaults) -> MeshView {
    let external = mesh.egress.hosts.iter().map(|h| External { hosts: vec![literal(&h.host)], ports: h.ports.clone() });
    MeshView {
        namespaces: mesh.scope.namespaces.iter().filter_map(|n| Name::new(n).ok()).collect(),
        prefixes: mesh.scope.prefixes.iter().filter_map(|p| p.to_string().parse().ok()).collect(),
        egress: if mesh.egress.open { Egress::Allow } else { Egress::Deny },
        external: external.collect(),
        ..MeshView::default()
    }
}

fn literal(host: &EgressName) -> Literal {
    match host {
        EgressName::Exact(name) => Literal::Exact(name.clone()),
        EgressName::Below(name) => Literal::Suffix(format!(".{name}").into()),
        EgressName::Address(address) => Literal::Exact(address.to_string().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leno_model::TrustDomain;
    use leno_plan::EgressHost;

    #[test]
    fn what_may_leave_is_what_was_compiled() {
        let mut mesh = MeshDefaults::new(TrustDomain::default());
        mesh.egress.open = false;
        for host in ["*.example.com", "api.example.org", "192.0.2.7"] {
            let host = EgressName::parse(host);
            mesh.egress.hosts.push(EgressHost { resource: "shop/x".into(), host, ports: vec![443] });
        }
        mesh.scope.prefixes.push("244.0.0.0/16".parse().unwrap());
        mesh.scope.namespaces.insert("shop".to_owned());
        let view = view(&mesh);
        for (host, port, expected) in [
            ("a.example.com", 443, true),
            ("example.com", 443, false),
            ("notexample.com", 443, false),
            ("api.example.org", 443, true),
            ("api.example.org", 80, false),
            ("192.0.2.7", 443, true),
            ("192.0.2.8", 443, false),
        ] {
            assert_eq!(view.may_leave(host, port), expected, "{host}:{port}");
        }
        assert!(view.prefixes[0].contains("244.0.1.2".parse().unwrap()));
        assert_eq!(view.namespaces.len(), 1);
    }
}
