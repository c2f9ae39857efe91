//! Full mutual TLS 1.3 handshakes, one after the other, without resumption.
//!
//! The client offers X25519MLKEM768 first and X25519 with it, so that each server takes the best it can without a second
//! round trip; which one it took is told.

use std::io::Read;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, Stream};

use super::Common;
use crate::outcome::Outcome;

/// A handshake that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(5);

/// Options of handshakes.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// PEM file with the client's chain and key
    #[arg(long)]
    identity: PathBuf,
    /// Protocol to offer
    #[arg(long)]
    alpn: Option<String>,
}

/// Runs it to its end.
pub fn run(options: &Options) -> anyhow::Result<Outcome> {
    let config = Arc::new(config(options)?);
    let mut window = options.common.window();
    let mut group = String::new();
    while window.goes_on(Instant::now()) {
        let begun = Instant::now();
        match one(&config, options) {
            Ok(named) => {
                window.succeeded(begun.elapsed().as_nanos() as u64);
                group = named;
            }
            Err(error) => {
                window.failed();
                anyhow::ensure!(window.errors() < 100, "handshakes fail: {error:#}");
            }
        }
    }
    let mut outcome = window.finish();
    outcome.note = group;
    Ok(outcome)
}

/// Connects, shakes hands, says goodbye and waits until the server has too: only then it has judged our certificate.
fn one(config: &Arc<ClientConfig>, options: &Options) -> anyhow::Result<String> {
    let mut socket = TcpStream::connect_timeout(&options.common.target, LIMIT)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(LIMIT))?;
    let mut tls = ClientConnection::new(config.clone(), ServerName::IpAddress(options.common.target.ip().into()))?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    let group = tls.negotiated_key_exchange_group().context("no key exchange")?.name();
    tls.send_close_notify();
    while tls.wants_write() {
        tls.write_tls(&mut socket)?;
    }
    socket.shutdown(std::net::Shutdown::Write)?;
    // Whatever the server still says (tickets, settings) is read and dropped; an alert is an error.
    let mut rest = Vec::new();
    match Stream::new(&mut tls, &mut socket).read_to_end(&mut rest) {
        Ok(_) => {}
        // Closed without a goodbye, after ours: accepted all the same.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => return Err(error.into()),
    }
    Ok(format!("{group:?}"))
}

fn config(options: &Options) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_file_iter(&options.identity)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&options.identity)?;
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_client_auth_cert(chain, key)?;
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = options.alpn.iter().map(|a| a.as_bytes().to_vec()).collect();
    Ok(config)
}

/// Any server is fine, as long as it holds the key of its certificate: what is measured is the server's side.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
