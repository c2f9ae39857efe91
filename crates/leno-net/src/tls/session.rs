//! One TLS connection as bytes in, bytes out: no socket, no task, no clock of its own.
//!
//! ```text
//!   socket ──read_tls──▶ ┌────────────┐ ──▶ plain bytes
//!   socket ◀──take_tls── │ TlsSession │ ◀──write── plain bytes
//!                        └────────────┘
//! ```
//!
//! After an error `take_tls` still has the alert to send; nothing else works any more.

use std::io::{BufRead, Write};
use std::sync::Arc;

use leno_identity::{PeerIdentity, Serial};
use leno_model::{Reason, SpiffeId};
use rustls::{ClientConnection, Connection, ServerConnection};
use rustls_pki_types::ServerName;

use super::context::{TlsContext, client_config, server_config};
use super::error::{Role, TlsError};
use super::judge::{Judge, Permitted, Trust};

/// First byte of every TLS handshake record (RFC 8446 section 5.1): anything else on a mesh port is plaintext.
const HANDSHAKE_RECORD: u8 = 22;

/// What was negotiated, for status, metrics and captures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeInfo {
    /// Always `TLSv1_3`.
    pub version: String,
    /// Key exchange group, e.g. `X25519MLKEM768`.
    pub group: String,
    /// Cipher suite, e.g. `TLS13_AES_128_GCM_SHA256`.
    pub cipher: String,
}

/// A client's or server's end of a mutual TLS connection.
#[derive(Debug)]
pub struct TlsSession {
    connection: Connection,
    judge: Arc<Judge>,
    local_serial: Serial,
    generation: u64,
    started: bool,
    peer_closed: bool,
}

impl TlsSession {
    /// A client that accepts only `permitted` at the other end. `sni` is an opaque label that selects the workload on
    /// a shared port; it must have the form of a DNS name. If `alpn` matters the caller checks [`Self::alpn`].
    pub fn client(
        context: &TlsContext,
        permitted: Arc<[SpiffeId]>,
        sni: &str,
        alpn: &[&[u8]],
    ) -> Result<Self, TlsError> {
        let trust =
            Trust::Bundle { anchors: context.anchors(), permitted: Permitted::OneOf(permitted), expired_grace_s: 0 };
        let judge = Judge::new(trust, true);
        let config = client_config(Some(context.identity()), context.clock(), judge.clone(), alpn);
        let connection = ClientConnection::new(Arc::new(config), server_name(sni)?)
            .map_err(|e| TlsError::from_rustls(&e, None, Role::Client))?;
        Ok(Self::of(connection.into(), judge, context))
    }

    /// A server that demands a certificate of any member; who may do what is the access policy's to say.
    pub fn server(context: &TlsContext, alpn: &[&[u8]]) -> Result<Self, TlsError> {
        let trust = Trust::Bundle { anchors: context.anchors(), permitted: Permitted::AnyMember, expired_grace_s: 0 };
        let judge = Judge::new(trust, true);
        let config = server_config(context, judge.clone(), alpn);
        let connection =
            ServerConnection::new(Arc::new(config)).map_err(|e| TlsError::from_rustls(&e, None, Role::Server))?;
        Ok(Self::of(connection.into(), judge, context))
    }

    fn of(mut connection: Connection, judge: Arc<Judge>, context: &TlsContext) -> Self {
        // Bounded by the caller's flow control: a limit here would make `write` partial.
        connection.set_buffer_limit(None);
        let local_serial = context.identity().serial().clone();
        Self { connection, judge, local_serial, generation: context.generation(), started: false, peer_closed: false }
    }

    fn role(&self) -> Role {
        if matches!(self.connection, Connection::Client(_)) { Role::Client } else { Role::Server }
    }

    /// Feeds all of `input`, appends the plaintext to `plain` and returns its length. After an error send what
    /// [`Self::take_tls`] has (an alert) and close.
    pub fn read_tls(&mut self, mut input: &[u8], plain: &mut Vec<u8>) -> Result<usize, TlsError> {
        if let (false, Some(&first)) = (self.started, input.first()) {
            self.started = true;
            if self.role() == Role::Server && first != HANDSHAKE_RECORD {
                return Err(TlsError::new(Reason::PlaintextRefused, "plaintext was sent to a port for mesh traffic"));
            }
        }
        let before = plain.len();
        while !input.is_empty() && !self.peer_closed {
            let taken = self.connection.read_tls(&mut input).map_err(|e| self.failed(&e.to_string()))?;
            let state = match self.connection.process_new_packets() {
                Ok(state) => state,
                Err(error) => return Err(TlsError::from_rustls(&error, self.judge.refusal(), self.role())),
            };
            self.peer_closed = state.peer_has_closed();
            if state.plaintext_bytes_to_read() > 0 {
                self.drain_plaintext(plain)?;
            }
            if taken == 0 {
                break;
            }
        }
        Ok(plain.len() - before)
    }

    fn drain_plaintext(&mut self, plain: &mut Vec<u8>) -> Result<(), TlsError> {
        loop {
            let mut reader = self.connection.reader();
            let length = match reader.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(chunk) => {
                    plain.extend_from_slice(chunk);
                    chunk.len()
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(self.failed(&error.to_string())),
            };
            self.connection.reader().consume(length);
        }
    }

    /// Seals `plain`; while handshaking it is kept until the peer is verified. The caller's flow control bounds it.
    pub fn write(&mut self, plain: &[u8]) -> Result<(), TlsError> {
        self.connection.writer().write_all(plain).map_err(|e| self.failed(&e.to_string()))
    }

    /// Appends the bytes to send: handshake messages, sealed records, alerts.
    pub fn take_tls(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            self.connection.write_tls(out).expect("writing to a Vec does not fail");
        }
    }

    /// Whether [`Self::take_tls`] has something.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// Whether the handshake is still running.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// The verified peer, once the handshake is complete.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerIdentity> {
        if self.is_handshaking() { None } else { self.judge.verdict().map(|v| &v.peer) }
    }

    /// The protocol agreed on by ALPN.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// At the server: the label that the client named.
    #[must_use]
    pub fn sni(&self) -> Option<&str> {
        match &self.connection {
            Connection::Server(connection) => connection.server_name(),
            Connection::Client(_) => None,
        }
    }

    /// What was negotiated; empty words before the handshake has come so far.
    #[must_use]
    pub fn handshake_info(&self) -> HandshakeInfo {
        let connection = &self.connection;
        HandshakeInfo {
            version: connection.protocol_version().map(|v| format!("{v:?}")).unwrap_or_default(),
            group: connection.negotiated_key_exchange_group().map(|g| format!("{:?}", g.name())).unwrap_or_default(),
            cipher: connection.negotiated_cipher_suite().map(|s| format!("{:?}", s.suite())).unwrap_or_default(),
        }
    }

    /// Says that we send no more; take_tls has the alert. The peer may go on sending.
    pub fn close_notify(&mut self) {
        self.connection.send_close_notify();
    }

    /// Whether the peer said that it sends no more. An end of the socket without this is a truncation.
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// The serial number of our own leaf in this session.
    #[must_use]
    pub fn local_serial(&self) -> &Serial {
        &self.local_serial
    }

    /// The generation of the context that this session began with.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn failed(&self, detail: &str) -> TlsError {
        let reason = match self.role() {
            Role::Client => Reason::UpstreamTlsFailed,
            Role::Server => Reason::MalformedRequest,
        };
        TlsError::new(reason, format!("TLS failed: {detail}"))
    }
}

pub(super) fn server_name(sni: &str) -> Result<ServerName<'static>, TlsError> {
    let malformed = || TlsError::new(Reason::UpstreamTlsFailed, format!("`{sni}` cannot be a TLS server name"));
    ServerName::try_from(sni.to_owned()).map_err(|_| malformed())
}
