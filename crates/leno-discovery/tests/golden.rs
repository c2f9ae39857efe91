//! Messages of the released versions that every later version must read (upgrade rehearsal).
//!
//! `tests/golden/v1-*.bin` was written by version 1 and is never written again; `UPDATE=1` adds cases that have no file
//! yet. A case that no longer decodes to what it meant breaks running meshes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use leno_discovery::proto::{self, client_message as c, refused::Request, server_message as s};
use leno_discovery::{CollectionName, Key};
use prost::Message;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("v1-{name}.bin"))
}

fn check<M: Message + Default + PartialEq + std::fmt::Debug>(name: &str, expected: &M) {
    let path = file(name);
    if !path.exists() && std::env::var_os("UPDATE").is_some() {
        fs::write(&path, expected.encode_to_vec()).unwrap();
    }
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(&M::decode(&bytes[..]).unwrap(), expected, "{name}");
}

fn key() -> Option<proto::ResourceKey> {
    Some(Key::new("HTTPRoute", "shop", "web").to_proto())
}

fn text(t: &str) -> String {
    t.to_owned()
}

#[test]
fn client_messages_of_version_1_are_read() {
    let cases = [
        (
            "hello",
            c::Kind::Hello(proto::Hello {
                protocol_min: 1,
                protocol_max: 1,
                capabilities: vec![text("query.plan")],
                software: text("leno/0.1.0"),
                instance: text("web-7f"),
                bundle_version: 3,
                zone: text("a"),
            }),
        ),
        (
            "subscribe",
            c::Kind::Subscribe(proto::Subscribe {
                collection: CollectionName::Outbound(leno_model::NamespacedName::new("shop", "web").unwrap())
                    .to_string(),
                subscription: 9,
                have: vec![proto::Have { key: key(), version: u64::MAX }],
            }),
        ),
        ("unsubscribe", c::Kind::Unsubscribe(proto::Unsubscribe { collection: text("mesh") })),
        (
            "applied",
            c::Kind::Applied(proto::AppliedList {
                applied: vec![proto::Applied {
                    collection: text("mesh"),
                    key: key(),
                    version: 5,
                    error: text("no such port"),
                }],
            }),
        ),
        (
            "register",
            c::Kind::Register(proto::Register {
                instance: text("web-7f"),
                generation: 4,
                namespace: text("shop"),
                services: vec![proto::RegisteredService {
                    name: text("web"),
                    ports: vec![proto::RegisteredPort {
                        name: text("http"),
                        port: 80,
                        target_port: 8080,
                        protocol: text("http"),
                    }],
                }],
                addresses: vec![proto::TransportAddress {
                    transport: text("leno/1"),
                    address: text("[fd00::1]:15008"),
                    port: 0,
                }],
                labels: BTreeMap::from([(text("version"), text("v2"))]),
                zone: text("a"),
                conditions: vec![text("exposed")],
            }),
        ),
        ("deregister", c::Kind::Deregister(proto::Deregister { instance: text("web-7f"), generation: 4 })),
        ("renew", c::Kind::Renew(proto::RenewCertificate { id: 2, csr: vec![0x30, 0x82].into() })),
        ("answer", c::Kind::Answer(proto::QueryAnswer { id: 1, body: b"{}".to_vec().into(), error: text("") })),
        ("bundle-applied", c::Kind::BundleApplied(proto::BundleApplied { version: 4 })),
    ];
    for (name, kind) in cases {
        check(&format!("client-{name}"), &proto::ClientMessage { kind: Some(kind) });
    }
}

#[test]
fn server_messages_of_version_1_are_read() {
    let bundle = proto::Bundle {
        version: 7,
        domains: vec![proto::TrustedDomain { trust_domain: text("mesh.leno"), roots: vec![vec![0x30, 1].into()] }],
        revoked_identities: vec![text("spiffe://mesh.leno/ns/shop/sa/old")],
        revoked_serials: vec![text("0a1b")],
    };
    let chain = vec![vec![1].into(), vec![2].into()];
    let cases = [
        (
            "welcome",
            s::Kind::Welcome(proto::Welcome {
                protocol: 1,
                capabilities: vec![text("query.plan")],
                software: text("leno/0.1.0"),
                trust_domain: text("mesh.leno"),
                identity: text("spiffe://mesh.leno/ns/shop/sa/web"),
            }),
        ),
        (
            "resource",
            s::Kind::Resource(proto::Resource {
                collection: text("out:shop/web"),
                key: key(),
                version: 77,
                body: br#"{"kind":"HTTPRoute"}"#.to_vec().into(),
                deleted: false,
                subscription: 9,
            }),
        ),
        (
            "deleted",
            s::Kind::Resource(proto::Resource {
                collection: text("out:shop/web"),
                key: key(),
                deleted: true,
                subscription: 9,
                ..Default::default()
            }),
        ),
        ("complete", s::Kind::Complete(proto::Complete { collection: text("mesh"), version: 78, subscription: 9 })),
        ("missing", s::Kind::Missing(proto::Missing { collection: text("out:shop/none"), subscription: 9 })),
        (
            "denied",
            s::Kind::Denied(proto::Denied {
                collection: text("in:shop/web"),
                reason: text("unauthorised_member"),
                detail: text("why"),
                subscription: 9,
            }),
        ),
        ("registered", s::Kind::Registered(proto::Registered { instance: text("web-7f"), generation: 4 })),
        ("deregistered", s::Kind::Deregistered(proto::Deregistered { instance: text("web-7f"), generation: 4 })),
        (
            "refused",
            s::Kind::Refused(proto::Refused {
                request: Request::Renew.into(),
                subject: text("2"),
                reason: text("certificate_revoked"),
                detail: text("why"),
            }),
        ),
        ("issued", s::Kind::Issued(proto::Issued { id: 2, chain: chain.clone() })),
        ("bundle", s::Kind::Bundle(bundle.clone())),
        ("query", s::Kind::Query(proto::Query { id: 1, kind: text("plan"), argument: b"{}".to_vec().into() })),
        (
            "goodbye",
            s::Kind::Goodbye(proto::Goodbye { reason: text("draining"), detail: text("restart"), retry_after_ms: 500 }),
        ),
    ];
    for (name, kind) in cases {
        check(&format!("server-{name}"), &proto::ServerMessage { kind: Some(kind) });
    }
    check(
        "redeem-request",
        &proto::RedeemRequest {
            token_id: text("id"),
            token_secret: text("secret"),
            csr: vec![0x30].into(),
            instance: text("web-7f"),
        },
    );
    check(
        "redeem-response",
        &proto::RedeemResponse {
            chain,
            bundle: Some(bundle),
            identity: text("spiffe://mesh.leno/ns/shop/sa/web"),
            namespace: text("shop"),
            services: vec![text("web")],
        },
    );
}

#[test]
fn collections_stored_by_version_1_are_read() {
    use leno_discovery::{Entry, snapshot};
    let name: CollectionName = "out:shop/web".parse().unwrap();
    let entry = |version, body: &'static str| Entry { version, body: body.as_bytes().into() };
    let expected = BTreeMap::from([
        (Key::new("Endpoint", "shop", "web.web.a1"), entry(7, r#"{"kind":"Endpoint"}"#)),
        (Key::new("Service", "shop", "web"), entry(u64::MAX, r#"{"kind":"Service"}"#)),
    ]);
    let path = file("collection");
    if !path.exists() && std::env::var_os("UPDATE").is_some() {
        fs::write(&path, snapshot::encode(&name, &expected)).unwrap();
    }
    assert_eq!(snapshot::decode(&name, fs::read(&path).unwrap().into()).unwrap(), expected);
}

#[test]
fn what_a_later_version_adds_is_skipped() {
    // Field 50 of a known message, and member 60 of the oneof.
    let mut resource = proto::Complete { collection: text("mesh"), version: 1, subscription: 1 }.encode_to_vec();
    resource.extend([0x92, 0x03, 0x01, b'x']);
    assert_eq!(proto::Complete::decode(&resource[..]).unwrap().version, 1);
    let unknown = [0xe2, 0x03, 0x00];
    assert_eq!(proto::ServerMessage::decode(&unknown[..]).unwrap().kind, None);
}
