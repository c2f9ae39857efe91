//! The upgrade rehearsal: a data directory that version 1 wrote, which every later version must open and serve.
//!
//! `tests/golden/v1-data` was written once and is never written again; `UPDATE=1` makes it if it is not there. The keys in it are
//! of no mesh.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use leno_api::{Client, RevocationRequest, TokenRequest};
use leno_control::registry::admission::{RegisteredAddress, RegisteredPort, RegisteredService};
use leno_control::{ControlPlane, Parts, Registration, Settings};
use leno_identity::{JoinToken, KeyPair, csr};
use serde_json::{Value, json};

const RESOURCES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {team: a}}
spec: {ports: [{port: 80, appProtocol: http}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
apiVersion: leno.dev/v1alpha1
kind: AccessPolicy
metadata: {name: web, namespace: shop}
spec: {targetRefs: [{name: web}], rules: [{action: allow, from: [{serviceAccounts: [cart]}]}]}
---
apiVersion: leno.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {egress: deny}
"#;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1-data")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn start(directory: &Path) -> (ControlPlane, Arc<Parts>, Client) {
    let mut settings = Settings::new(directory.to_owned());
    settings.api = "127.0.0.1:0".parse().unwrap();
    settings.discovery = "127.0.0.1:0".parse().unwrap();
    let parts = Arc::new(Mutex::new(None));
    let given = parts.clone();
    let plane = ControlPlane::start_with(settings, move |parts, _, drain| async move {
        *given.lock().unwrap() = Some(parts);
        drain.draining().await;
    });
    let plane = plane.await.unwrap();
    plane.ready().await;
    let parts = loop {
        // The server's task runs right after it is ready.
        if let Some(parts) = parts.lock().unwrap().take() {
            break parts;
        }
        tokio::task::yield_now().await;
    };
    let token = fs::read_to_string(directory.join("admin.token")).unwrap();
    let client = Client::new(&format!("http://{}", plane.api()), Some(&token)).unwrap();
    (plane, parts, client)
}

/// What a user sees of the mesh, without what changes with time.
async fn seen(parts: &Parts, client: &Client) -> Value {
    let spec = |item: &Value| json!([item["metadata"]["name"], item["metadata"]["uid"], item["spec"]]);
    let mut resources = Vec::new();
    for plural in ["services", "httproutes", "accesspolicies", "meshconfigs", "workloads"] {
        resources.extend(client.list(plural, None).await.unwrap().items.iter().map(spec));
    }
    let overview = client.overview().await.unwrap();
    let ca = client.ca().await.unwrap();
    let services: Vec<Value> =
        overview.services.iter().map(|s| json!([s.namespace, s.name, s.vips, s.authorised])).collect();
    let tokens: Vec<Value> =
        client.tokens().await.unwrap().iter().map(|t| json!([t.id, t.identity, t.services, t.redeemed])).collect();
    json!({
        "trustDomain": overview.trust_domain,
        "resources": resources,
        "services": services,
        "tokens": tokens,
        "revocations": client.revocations().await.unwrap(),
        "root": ca.roots[0].pin,
        "bundleVersion": ca.bundle_version,
        "revokedInBundle": parts.ca.bundle().borrow().revoked.identities,
        "firstAudit": client.audit(1000).await.unwrap()[0],
    })
}

async fn write_golden() {
    let directory = tempfile::tempdir().unwrap();
    let (plane, parts, client) = start(directory.path()).await;
    assert!(client.apply(RESOURCES, None, false).await.unwrap().is_success());
    let request = TokenRequest {
        services: vec!["web".into()],
        namespace: Some("shop".into()),
        service_account: None,
        ttl_seconds: None,
    };
    let token: JoinToken = client.create_token(&request).await.unwrap().token.parse().unwrap();
    let request = csr::make(&KeyPair::generate().unwrap()).unwrap();
    let redeemed = parts.tokens.redeem(token.id(), token.secret(), &request, "a").await.unwrap();
    let revoked = RevocationRequest {
        identity: Some("spiffe://mesh.leno/ns/shop/sa/old".into()),
        ..RevocationRequest::default()
    };
    client.revoke(&revoked).await.unwrap();
    let port = RegisteredPort { port: 80, target_port: 8080, protocol: "http".into(), name: String::new() };
    let registration = Registration {
        instance: "a".into(),
        generation: 1,
        namespace: "shop".into(),
        services: vec![RegisteredService { name: "web".into(), ports: vec![port] }],
        addresses: vec![RegisteredAddress { transport: "leno/1".into(), address: "10.0.0.1:15008".into(), port: 0 }],
        ..Registration::default()
    };
    parts.registry.register(&redeemed.issued.identity, 1, &registration).await.unwrap();
    let mut ticks = parts.world.ticks();
    while parts
        .world
        .read(|c| c.service_info("shop", "web").vips.is_empty() || c.resources(leno_model::Kind::Workload).count() == 0)
    {
        ticks.changed().await.unwrap();
    }
    let expected = seen(&parts, &client).await;
    drop(parts);
    plane.shutdown().await;
    copy(directory.path(), &golden());
    fs::remove_file(golden().join("lock")).unwrap();
    fs::write(golden().with_extension("json"), serde_json::to_string_pretty(&expected).unwrap() + "\n").unwrap();
}

#[tokio::test]
async fn a_data_directory_of_version_1_is_opened_and_served() {
    if !golden().exists() && std::env::var_os("UPDATE").is_some() {
        write_golden().await;
    }
    let expected: Value = serde_json::from_slice(&fs::read(golden().with_extension("json")).unwrap()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    copy(&golden(), directory.path());
    let (plane, parts, client) = start(directory.path()).await;
    assert_eq!(seen(&parts, &client).await, expected);
    // And it goes on: writes, renewals under the same root, the same addresses.
    assert!(client.apply(RESOURCES, None, false).await.unwrap().is_success());
    assert_eq!(parts.registry.counts(), (0, 1), "the registration has its grace");
    drop(parts);
    plane.shutdown().await;
}
