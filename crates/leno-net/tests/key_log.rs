//! The key log has what a capture tool needs, and nobody else may read it. Apart from other tests, for it is per process.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use leno_identity::{Authority, KeyPair, TrustBundle, csr};
use leno_model::{SpiffeId, TrustDomain};
use leno_net::tls::Buffer;
use leno_net::{TlsContext, TlsIdentity, TlsSession};
use leno_runtime::ManualClock;

const NOW: u64 = 1_800_000_000;

#[test]
fn both_ends_write_their_secrets_into_a_private_file() {
    let path = std::env::temp_dir().join(format!("leno-key-log-{}", std::process::id()));
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    leno_net::tls::log_keys_to(&path).unwrap();

    let domain = TrustDomain::default();
    let mut authority = Authority::in_memory(&domain, NOW).unwrap();
    let id = SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/web").unwrap();
    let key = KeyPair::generate().unwrap();
    let request = csr::verify(&csr::make(&key).unwrap(), &id).unwrap();
    let issued = authority.issue(&request, &id, 3600, NOW).unwrap();
    let bundle = Arc::new(TrustBundle::single(1, domain, authority.roots()));
    let identity = TlsIdentity::new(issued.chain, &key).unwrap();
    let context = TlsContext::new(identity, bundle, 1, Arc::new(ManualClock::at(NOW))).unwrap();
    let mut client = TlsSession::client(&context, vec![id].into(), "w", &[]).unwrap();
    let mut server = TlsSession::server(&context, &[]).unwrap();
    for _ in 0..3 {
        let (mut forth, mut back) = (Buffer::new(), Buffer::new());
        client.take_tls(&mut forth);
        server.read_tls(&forth, &mut Buffer::new()).unwrap();
        server.take_tls(&mut back);
        client.read_tls(&back, &mut Buffer::new()).unwrap();
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());

    let (text, mode) =
        (std::fs::read_to_string(&path).unwrap(), std::fs::metadata(&path).unwrap().permissions().mode());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(mode & 0o777, 0o600);
    for label in ["CLIENT_HANDSHAKE_TRAFFIC_SECRET ", "SERVER_TRAFFIC_SECRET_0 "] {
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with(label)).collect();
        assert_eq!(lines.len(), 2, "one of each end: {text}");
        assert_eq!(lines[0], lines[1], "both ends agree on the secret");
    }
}
