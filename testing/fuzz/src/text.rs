//! Text that users and peers write: YAML, identities, tokens, authorities, paths, trace headers, certificates.

use leno_http::authority::Authority;
use leno_identity::token::JoinToken;
use leno_model::Name;
use leno_model::identity::{SpiffeId, TrustDomain};
use leno_plan::host::Host;
use leno_plan::path;

/// Resources as a user wrote them: accepted or refused with positions that lie in the text, never a panic; what was accepted
/// is accepted again when it comes back from the store.
pub fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (resources, diagnostics) = leno_model::document::parse_documents("fuzz", text);
    // A CR alone also ends a line (YAML 1.2 section 5.4).
    let lines = u32::try_from(text.matches(['\n', '\r']).count() + 1).unwrap_or(u32::MAX);
    for diagnostic in &diagnostics {
        assert!(diagnostic.line >= 1 && diagnostic.line <= lines + 1, "line {} of {lines}", diagnostic.line);
    }
    for parsed in resources {
        let bytes = parsed.resource.to_json();
        let again = leno_model::resource::Resource::from_json(&bytes).expect("what we store we read");
        assert_eq!(again, parsed.resource);
    }
}

/// Names and addresses: whatever is accepted has one spelling, which is accepted and means the same.
pub fn names(data: &[u8]) {
    let [which, bytes @ ..] = data else { return };
    let text = std::str::from_utf8(bytes);
    match (which % 7, text) {
        (0, Ok(text)) => {
            let Ok(id) = SpiffeId::new(text) else { return };
            assert_eq!(id.as_str(), text);
            assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
            TrustDomain::new(id.trust_domain()).expect("a checked domain");
            if let Some((namespace, account)) = id.workload_parts() {
                assert_eq!(id.path(), format!("/ns/{namespace}/sa/{account}"));
            }
        }
        (1, Ok(text)) => {
            let Ok(token) = text.parse::<JoinToken>() else { return };
            assert!(*token.to_text() == text.trim(), "one spelling");
            assert!(token.secret_hash().matches(token.secret()));
        }
        (2, _) => {
            let Ok(authority) = Authority::parse(bytes) else { return };
            let host = authority.canonical_host().into_owned();
            // Two parsers of one thing must not disagree about what is accepted on the wire.
            let found = Host::parse(bytes);
            if let Ok(found) = &found {
                assert_eq!(found.port, authority.port);
                let again = found.to_string();
                assert_eq!(&Host::parse(again.as_bytes()).expect("the canonical form is accepted"), found);
            }
            assert!(!host.is_empty() && host.chars().all(|c| !c.is_ascii_uppercase()));
        }
        (3, _) => {
            let Ok(normal) = path::normalise(bytes) else { return };
            let again = path::normalise(&normal).expect("a normal path is fine");
            assert_eq!(again, normal, "normalising twice is normalising once");
            let _ = (path::decode(bytes), path::decode_form(bytes), path::without_parameters(&normal));
        }
        (4, Ok(text)) => {
            if let Ok(name) = Name::new(text) {
                assert_eq!(name.as_str(), text);
            }
            let _ = text.parse::<leno_discovery::CollectionName>();
            let _ = leno_identity::pem::read_chain(text);
        }
        (5, _) => {
            let _ = leno_telemetry::trace::RemoteSpan::parse(bytes.split(|b| *b == b'\n'));
            let _ = leno_telemetry::trace::tracestate_is_fine(bytes.split(|b| *b == b'\n'));
        }
        (6, _) => {
            let permitted = SpiffeId::new("spiffe://a/ns/b/sa/c").expect("a fine identity");
            let _ = leno_identity::csr::verify(bytes, &permitted);
            let _ = leno_identity::certificate::check_leaf(bytes);
            let _ = leno_identity::certificate::spki_pin(bytes);
        }
        _ => {}
    }
}
