//! A handshake as bytes in, bytes out, up to the keys of the records behind it.
//!
//! ```text
//!   incoming ─▶ the library's state machine ─▶ out          until neither moves
//!                     │ complete, and all it had to say is said
//!                     ▼
//!                  Records
//! ```

use std::sync::{Arc, OnceLock};

use rustls::client::UnbufferedClientConnection;
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, InvalidMessage, ServerConfig};
use rustls_pki_types::ServerName;

use super::buffer::Buffer;
use super::records::{Records, Secrets};

/// Most bytes that wait for the rest of a message: what the library takes for one message, and a record.
const MAX_INCOMING: usize = 96 * 1024;

enum Machine {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What comes next.
enum Next {
    /// Something moved; look again.
    Again,
    /// More bytes are needed.
    Blocked,
    /// The peer sends no more.
    PeerClosed,
    /// Nothing is left to do here.
    Complete,
}

/// A handshake under way.
pub(super) struct Handshake {
    machine: Machine,
    /// Bytes that the library has not finished with.
    incoming: Vec<u8>,
    named: Option<Arc<Named>>,
}

impl Handshake {
    pub fn client(mut config: ClientConfig, name: ServerName<'static>) -> Result<Self, Error> {
        config.enable_secret_extraction = true;
        let machine = Machine::Client(UnbufferedClientConnection::new(Arc::new(config), name)?);
        Ok(Self { machine, incoming: Vec::new(), named: None })
    }

    pub fn server(mut config: ServerConfig, certificate: Arc<SingleCertAndKey>) -> Result<Self, Error> {
        config.enable_secret_extraction = true;
        let named = Arc::new(Named { certificate, sni: OnceLock::new() });
        config.cert_resolver = Arc::<Named>::clone(&named);
        let machine = Machine::Server(UnbufferedServerConnection::new(Arc::new(config))?);
        Ok(Self { machine, incoming: Vec::new(), named: Some(named) })
    }

    /// What is known so far.
    pub fn state(&self) -> &CommonState {
        match &self.machine {
            Machine::Client(c) => c,
            Machine::Server(s) => s,
        }
    }

    /// At the server: the label that the client named.
    pub fn sni(&self) -> Option<&str> {
        self.named.as_ref()?.sni.get().map(AsRef::as_ref)
    }

    /// Goes on with what came; appends what is to be sent, and data that came right behind the peer's last message. `true`
    /// once it is complete: then [`Handshake::finish`].
    pub fn advance(&mut self, input: &[u8], plain: &mut Buffer, out: &mut Buffer) -> Result<Progress, Error> {
        self.incoming.extend_from_slice(input);
        let mut progress = Progress::default();
        loop {
            let (discard, next) = match &mut self.machine {
                Machine::Client(c) => step(c.process_tls_records(&mut self.incoming), plain, out),
                Machine::Server(s) => step(s.process_tls_records(&mut self.incoming), plain, out),
            };
            self.incoming.drain(..discard);
            match next? {
                Next::Again => {}
                Next::PeerClosed => progress.is_closed_by_peer = true,
                Next::Blocked if self.incoming.len() > MAX_INCOMING => {
                    return Err(InvalidMessage::HandshakePayloadTooLarge.into());
                }
                Next::Blocked => return Ok(progress),
                Next::Complete => {
                    progress.is_complete = !self.state().is_handshaking();
                    return Ok(progress);
                }
            }
        }
    }

    /// Appends what the library has to say after an error. It is not asked for more: it may have places of the incoming bytes
    /// in mind that are gone.
    pub fn last_words(&mut self, out: &mut Buffer) {
        let mut nothing = Buffer::new();
        while self.state().wants_write() {
            let (_, next) = match &mut self.machine {
                Machine::Client(c) => step(c.process_tls_records(&mut []), &mut nothing, out),
                Machine::Server(s) => step(s.process_tls_records(&mut []), &mut nothing, out),
            };
            if next.is_err() {
                return;
            }
        }
    }

    /// The records behind it, and bytes of them that have come already.
    pub fn finish(self) -> Result<(Records, Vec<u8>), Error> {
        let records = match self.machine {
            Machine::Client(c) => {
                let (secrets, next) = c.dangerous_into_kernel_connection()?;
                Records::new(secrets, Secrets::Client(next))?
            }
            Machine::Server(s) => {
                let (secrets, next) = s.dangerous_into_kernel_connection()?;
                Records::new(secrets, Secrets::Server(next))?
            }
        };
        Ok((records, self.incoming))
    }
}

/// How far a handshake has come.
#[derive(Default)]
pub(super) struct Progress {
    pub is_complete: bool,
    pub is_closed_by_peer: bool,
}

/// Does what the library asks for; how many of the incoming bytes it has finished with.
fn step<D>(status: UnbufferedStatus<'_, '_, D>, plain: &mut Buffer, out: &mut Buffer) -> (usize, Result<Next, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let next = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Next::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut message)) => {
            let at = out.len();
            if let Err(EncodeError::InsufficientSize(needed)) = message.encode(&mut []) {
                out.room(needed.required_size);
            }
            let encoded = message.encode(&mut out[at..]);
            encoded.map(|_| Next::Again).map_err(|e| Error::General(e.to_string()))
        }
        Ok(ConnectionState::TransmitTlsData(message)) => {
            message.done();
            Ok(Next::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Next::PeerClosed),
        Ok(ConnectionState::WriteTraffic(_) | ConnectionState::Closed) => Ok(Next::Complete),
        Ok(ConnectionState::BlockedHandshake) => Ok(Next::Blocked),
        Ok(_) => Err(Error::General("the library asks for what we do not offer".to_owned())),
    };
    (discard, next)
}

/// Our certificate, whatever name the client gives, which is remembered.
#[derive(Debug)]
struct Named {
    certificate: Arc<SingleCertAndKey>,
    sni: OnceLock<Box<str>>,
}

impl ResolvesServerCert for Named {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            let _ = self.sni.set(name.into());
        }
        self.certificate.resolve(hello)
    }
}
