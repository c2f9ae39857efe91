//! Mutual TLS 1.3 between members and towards the control plane.
//!
//! ```text
//!   TlsContext  = our chain and key + the trust bundle + a clock        (immutable; a renewal makes a new one)
//!      ├─ TlsSession::client / ::server   bytes in, bytes out           (the hop, driven by the data plane)
//!      └─ stream::connect / ::accept      AsyncRead + AsyncWrite        (control-plane connections)
//!   judge       = chain against the roots of the leaf's OWN trust domain → SPIFFE rules → validity → revocation
//!                 → permitted identities                                (one place, both directions, both drivers)
//! ```
//!
//! TLS 1.3 only, X25519MLKEM768 first, no resumption, no tickets, no early data: every connection is a full handshake
//! whose two leaves were judged at its start, so nothing outlives a revocation by way of a session cache.

mod buffer;
mod context;
mod error;
mod handshake;
mod judge;
mod key_log;
mod records;
mod server;
mod session;
pub mod stream;

pub use buffer::Buffer;
pub use context::{TlsContext, TlsIdentity};
pub use error::TlsError;
pub use judge::Permitted;
pub use key_log::log_keys_to;
pub use server::ReloadableServer;
pub use session::{HandshakeInfo, TlsSession};

use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// ALPN of the hop between Leno proxies.
pub const ALPN_HOP: &[u8] = b"leno/1";
/// ALPN of gRPC, which the control plane speaks.
pub const ALPN_H2: &[u8] = b"h2";

/// The cryptography that every session uses.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        use aws_lc_rs::{cipher_suite as suite, kx_group as group};
        Arc::new(CryptoProvider {
            // AES-128 first: hardware does it everywhere at two thirds of AES-256's cost, and NIST counts it as safe
            // against quantum search (category 1).
            cipher_suites: vec![
                suite::TLS13_AES_128_GCM_SHA256,
                suite::TLS13_AES_256_GCM_SHA384,
                suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            // The classical groups are for members of other kinds that do not have the hybrid yet.
            kx_groups: vec![group::X25519MLKEM768, group::X25519, group::SECP256R1],
            ..aws_lc_rs::default_provider()
        })
    })
}
