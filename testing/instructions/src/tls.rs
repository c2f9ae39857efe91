//! Sealing and opening records: rustls and aws-lc, whose code path depends on the processor.

use std::hint::black_box;
use std::sync::Arc;

use leno_identity::ca::Authority;
use leno_identity::{KeyPair, TrustBundle, csr};
use leno_model::{Name, SpiffeId, TrustDomain};
use leno_net::tls::{ALPN_HOP, Buffer, TlsContext, TlsIdentity, TlsSession};
use leno_runtime::{Clock, SystemClock};

/// Both ends of a session after its handshake.
fn sessions() -> (TlsSession, TlsSession) {
    let domain = TrustDomain::default();
    let now = SystemClock::new().unix_seconds();
    let mut authority = Authority::in_memory(&domain, now).unwrap();
    let id = SpiffeId::workload(&domain, &Name::new("shop").unwrap(), &Name::new("web").unwrap());
    let mut context = || {
        let key = KeyPair::generate().unwrap();
        let request = csr::verify(&csr::make(&key).unwrap(), &id).unwrap();
        let issued = authority.issue(&request, &id, 3600, now).unwrap();
        let bundle = Arc::new(TrustBundle::single(1, domain.clone(), authority.roots()));
        TlsContext::new(TlsIdentity::new(issued.chain, &key).unwrap(), bundle, 1, SystemClock::shared()).unwrap()
    };
    let (ours, theirs) = (context(), context());
    let mut client = TlsSession::client(&ours, Arc::from([id.clone()]), "web.shop", &[ALPN_HOP]).unwrap();
    let mut server = TlsSession::server(&theirs, &[ALPN_HOP]).unwrap();
    let (mut wire, mut plain) = (Buffer::new(), Buffer::new());
    while client.wants_write() || server.wants_write() {
        for (from, to) in [(0, 1), (1, 0)] {
            let (from, to) = if from < to { (&mut client, &mut server) } else { (&mut server, &mut client) };
            wire.clear();
            from.take_tls(&mut wire);
            to.read_tls(&wire, &mut plain).unwrap();
        }
    }
    (client, server)
}

/// 1 KiB to a record.
pub fn seal() -> Box<dyn FnMut()> {
    let (mut client, _) = sessions();
    let (plain, mut wire) = (vec![b'x'; 1024], Buffer::new());
    Box::new(move || {
        wire.clear();
        client.seal(black_box(&plain), &mut wire).unwrap();
        black_box(&wire);
    })
}

/// 1 KiB to a record and back.
pub fn seal_and_open() -> Box<dyn FnMut()> {
    let (mut client, mut server) = sessions();
    let (plain, mut wire, mut opened) = (vec![b'x'; 1024], Buffer::new(), Buffer::new());
    Box::new(move || {
        wire.clear();
        opened.clear();
        client.seal(black_box(&plain), &mut wire).unwrap();
        server.read_tls(&wire, &mut opened).unwrap();
        assert!(opened.len() == 1024);
        black_box(&opened);
    })
}
