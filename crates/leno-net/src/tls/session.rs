//! One TLS connection as bytes in, bytes out: no socket, no task, no clock of its own.
//!
//! ```text
//!   socket ──read_tls──▶ ┌────────────┐ ──▶ plain bytes
//!   socket ◀──take_tls── │ TlsSession │ ◀──write── plain bytes
//!                        └────────────┘
//! ```
//!
//! The handshake is the TLS library's ([`super::handshake`]); behind it the records are opened and sealed by
//! [`super::records`]. After an error `take_tls` still has the alert to send; nothing else works any more.

use std::fmt;
use std::sync::Arc;

use leno_identity::{PeerIdentity, Serial};
use leno_model::{Reason, SpiffeId};
use rustls::Error;
use rustls_pki_types::ServerName;

use super::buffer::Buffer;
use super::context::{TlsContext, client_config, server_config};
use super::error::{Role, TlsError};
use super::handshake::Handshake;
use super::judge::{Judge, Permitted, Trust};
use super::records::Records;

/// First byte of every TLS handshake record (RFC 8446 section 5.1): anything else on a mesh port is plaintext.
const HANDSHAKE_RECORD: u8 = 22;

/// What was negotiated, for status, metrics and captures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HandshakeInfo {
    /// Always `TLSv1_3`.
    pub version: String,
    /// Key exchange group, e.g. `X25519MLKEM768`.
    pub group: String,
    /// Cipher suite, e.g. `TLS13_AES_128_GCM_SHA256`.
    pub cipher: String,
}

enum Stage {
    Shaking(Box<Handshake>),
    Open(Box<Records>),
    /// With the error of it.
    Failed(Box<Error>),
}

/// What the handshake found out.
#[derive(Default)]
struct Facts {
    alpn: Option<Box<[u8]>>,
    sni: Option<Box<str>>,
    info: HandshakeInfo,
}

/// A client's or server's end of a mutual TLS connection.
pub struct TlsSession {
    role: Role,
    stage: Stage,
    facts: Facts,
    /// Plaintext that waits for the handshake.
    early: Vec<u8>,
    /// Sealed bytes that wait for [`TlsSession::take_tls`].
    out: Buffer,
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
        let name = server_name(sni)?;
        Self::new(Role::Client, Handshake::client(config, name), judge, context)
    }

    /// A server that demands a certificate of any member; who may do what is the access policy's to say.
    pub fn server(context: &TlsContext, alpn: &[&[u8]]) -> Result<Self, TlsError> {
        let trust = Trust::Bundle { anchors: context.anchors(), permitted: Permitted::AnyMember, expired_grace_s: 0 };
        let judge = Judge::new(trust, true);
        let config = server_config(context, judge.clone(), alpn);
        Self::new(Role::Server, Handshake::server(config, context.identity().resolver()), judge, context)
    }

    fn new(
        role: Role,
        handshake: Result<Handshake, Error>,
        judge: Arc<Judge>,
        context: &TlsContext,
    ) -> Result<Self, TlsError> {
        let mut handshake = handshake.map_err(|e| TlsError::from_rustls(&e, None, role))?;
        let mut out = Buffer::new();
        handshake.advance(&[], &mut Buffer::new(), &mut out).map_err(|e| TlsError::from_rustls(&e, None, role))?;
        Ok(Self {
            role,
            stage: Stage::Shaking(Box::new(handshake)),
            facts: Facts::default(),
            early: Vec::new(),
            out,
            judge,
            local_serial: context.identity().serial().clone(),
            generation: context.generation(),
            started: false,
            peer_closed: false,
        })
    }

    /// Feeds all of `input`, appends the plaintext to `plain` and returns its length. After an error send what
    /// [`Self::take_tls`] has (an alert) and close.
    pub fn read_tls(&mut self, input: &[u8], plain: &mut Buffer) -> Result<usize, TlsError> {
        if let (false, Some(&first)) = (self.started, input.first()) {
            self.started = true;
            if self.role == Role::Server && first != HANDSHAKE_RECORD {
                return Err(TlsError::new(Reason::PlaintextRefused, "plaintext was sent to a port for mesh traffic"));
            }
        }
        let before = plain.len();
        let result = match &mut self.stage {
            Stage::Open(records) => {
                let result = records.open(input, plain);
                self.peer_closed = records.is_closed_by_peer();
                result
            }
            Stage::Shaking(_) => self.shake(input, plain),
            Stage::Failed(error) => Err(Error::clone(error)),
        };
        match result {
            Ok(()) => Ok(plain.len() - before),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Goes on with the handshake, and with the records if it is complete.
    fn shake(&mut self, input: &[u8], plain: &mut Buffer) -> Result<(), Error> {
        let Stage::Shaking(handshake) = &mut self.stage else { return Ok(()) };
        let progress = handshake.advance(input, plain, &mut self.out)?;
        self.peer_closed |= progress.is_closed_by_peer;
        if !progress.is_complete {
            return Ok(());
        }
        let state = handshake.state();
        self.facts = Facts {
            alpn: state.alpn_protocol().map(Into::into),
            sni: handshake.sni().map(Into::into),
            info: HandshakeInfo {
                version: state.protocol_version().map(|v| format!("{v:?}")).unwrap_or_default(),
                group: state.negotiated_key_exchange_group().map(|g| format!("{:?}", g.name())).unwrap_or_default(),
                cipher: state.negotiated_cipher_suite().map(|s| format!("{:?}", s.suite())).unwrap_or_default(),
            },
        };
        // Nothing looks at the error that stands here for the moment.
        let before = std::mem::replace(&mut self.stage, Stage::Failed(Box::new(Error::HandshakeNotComplete)));
        let Stage::Shaking(handshake) = before else { return Ok(()) };
        let (mut records, rest) = handshake.finish()?;
        records.seal(&std::mem::take(&mut self.early), &mut self.out)?;
        let result = if self.peer_closed { Ok(()) } else { records.open(&rest, plain) };
        self.peer_closed |= records.is_closed_by_peer();
        self.stage = Stage::Open(Box::new(records));
        result
    }

    /// Seals `plain`; while handshaking it is kept until the peer is verified. The caller's flow control bounds it.
    pub fn write(&mut self, plain: &[u8]) -> Result<(), TlsError> {
        let mut out = std::mem::take(&mut self.out);
        let result = self.seal(plain, &mut out);
        self.out = out;
        result
    }

    /// Appends what [`Self::take_tls`] has and `plain`, sealed: [`Self::write`] without a buffer between.
    pub fn seal(&mut self, plain: &[u8], sealed: &mut Buffer) -> Result<(), TlsError> {
        self.take_tls(sealed);
        match &mut self.stage {
            Stage::Open(records) => match records.seal(plain, sealed) {
                Ok(()) => Ok(()),
                Err(error) => Err(self.failed(error)),
            },
            Stage::Shaking(_) => {
                self.early.extend_from_slice(plain);
                Ok(())
            }
            // There is nobody to read it.
            Stage::Failed(_) => Ok(()),
        }
    }

    /// Appends the bytes to send: handshake messages, sealed records, alerts.
    pub fn take_tls(&mut self, out: &mut Buffer) {
        if !self.out.is_empty() {
            out.extend_from_slice(&std::mem::take(&mut self.out));
        }
    }

    /// Whether [`Self::take_tls`] has something.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether the handshake is still running, or never came to its end.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        matches!(self.stage, Stage::Shaking(_)) || self.facts.info.version.is_empty()
    }

    /// The verified peer, once the handshake is complete.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerIdentity> {
        if self.is_handshaking() { None } else { self.judge.verdict().map(|v| &v.peer) }
    }

    /// The protocol agreed on by ALPN, once the handshake is complete.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.facts.alpn.as_deref()
    }

    /// At the server: the label that the client named.
    #[must_use]
    pub fn sni(&self) -> Option<&str> {
        self.facts.sni.as_deref()
    }

    /// What was negotiated; empty words before the handshake is complete.
    #[must_use]
    pub fn handshake_info(&self) -> HandshakeInfo {
        self.facts.info.clone()
    }

    /// Says that we send no more; take_tls has the alert. The peer may go on sending. Before the handshake is complete there
    /// is nothing to end, and the end of the socket says as much.
    pub fn close_notify(&mut self) {
        if let Stage::Open(records) = &mut self.stage
            && let Err(error) = records.close(&mut self.out)
        {
            let _ = self.failed(error);
        }
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

    /// The end of the session: the alert is ready, the keys are gone.
    fn failed(&mut self, error: Error) -> TlsError {
        match &mut self.stage {
            Stage::Shaking(handshake) => handshake.last_words(&mut self.out),
            Stage::Open(records) => records.fail(&error, &mut self.out),
            Stage::Failed(_) => {}
        }
        let failure = TlsError::from_rustls(&error, self.judge.refusal(), self.role);
        self.stage = Stage::Failed(Box::new(error));
        failure
    }
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSession")
            .field("role", &self.role)
            .field("is_handshaking", &self.is_handshaking())
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}

pub(super) fn server_name(sni: &str) -> Result<ServerName<'static>, TlsError> {
    let malformed = || TlsError::new(Reason::UpstreamTlsFailed, format!("`{sni}` cannot be a TLS server name"));
    ServerName::try_from(sni.to_owned()).map_err(|_| malformed())
}
