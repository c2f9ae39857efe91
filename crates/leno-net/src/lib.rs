//! Sockets and mutual TLS: everything between a file descriptor and verified bytes.
//!
//! *Owns*: listening, connecting, connection caps, and [`tls`], which turns a byte stream into a verified peer identity
//! (the sole direct user of `rustls`).
//!
//! *Must not know*: HTTP, the hop's frames, policies, services.
//!
//! *Start reading at*: [`tls`] (the session and who judges a peer), then [`listen`] and [`mod@connect`].

pub mod connect;
pub mod listen;
pub mod tls;

pub use connect::{ConnectError, ConnectOptions, connect};
pub use leno_sys::shortest_round_trip;
pub use listen::{ListenError, Listener};
pub use tls::{HandshakeInfo, Permitted, TlsContext, TlsError, TlsIdentity, TlsSession};
