//! Changes of one endpoint at a steady pace, by the discovery protocol, while another load runs.
//!
//! It is a member like any other: with the identity of the real instance it registers a second one at the same address, and
//! registers it again with another label a hundred times a second. Requests that are balanced to it reach the real one, so
//! nothing fails; each change is stored, sent to the calling proxy, compiled and swapped there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use leno_discovery::client::{BoxedIo, Connector, ConnectorError, Stream, connect};
use leno_discovery::limits::PROTOCOL;
use leno_discovery::proto::{self, client_message, server_message};
use leno_identity::{KeyPair, TrustBundle, pem};
use leno_net::tls::{ALPN_H2, TlsContext, TlsIdentity, stream};
use leno_runtime::clock::SystemClock;
use tokio::net::TcpStream;

use super::Common;
use crate::outcome::Outcome;

/// Of the second instance.
const INSTANCE: &str = "ghost";
/// For connecting, and for an answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Options of changes.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Changes per second
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// State directory of the real instance's proxy
    #[arg(long)]
    state: PathBuf,
    /// Hop address of the real instance
    #[arg(long)]
    hop: SocketAddr,
    /// The service, in the default namespace
    #[arg(long)]
    service: String,
    /// Its ports: PORT/PROTOCOL
    #[arg(long)]
    port: Vec<String>,
}

/// Runs it to its end.
pub fn run(options: &Options) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(changes(options))
}

async fn changes(options: &Options) -> anyhow::Result<Outcome> {
    let hello = proto::Hello {
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        software: "bench".into(),
        instance: INSTANCE.into(),
        ..proto::Hello::default()
    };
    let first = vec![message(client_message::Kind::Hello(hello)), registration(options, 1)?];
    let mut stream = connect(&connector(options)?, first).await?;
    answered(&mut stream).await?;
    let mut window = options.common.window();
    let gap = Duration::from_secs(1) / options.rate;
    let (mut due, mut number) = (Instant::now(), 1);
    while window.goes_on(Instant::now()) {
        tokio::time::sleep_until(due.into()).await;
        number += 1;
        stream.outgoing.send(registration(options, number)?).await?;
        answered(&mut stream).await?;
        window.succeeded(due.elapsed().as_nanos() as u64);
        due += gap;
    }
    let over = proto::Deregister { instance: INSTANCE.into(), generation: number };
    stream.outgoing.send(message(client_message::Kind::Deregister(over))).await?;
    answered(&mut stream).await?;
    Ok(window.finish())
}

/// Waits until the control plane has stored what was sent.
async fn answered(stream: &mut Stream) -> anyhow::Result<()> {
    loop {
        let told = tokio::time::timeout(LIMIT, stream.next()).await.context("no answer from the control plane")??;
        match told.context("the control plane ended the stream")?.kind {
            Some(server_message::Kind::Registered(_) | server_message::Kind::Deregistered(_)) => return Ok(()),
            Some(server_message::Kind::Refused(refused)) => anyhow::bail!("the control plane refused: {refused:?}"),
            Some(server_message::Kind::Goodbye(goodbye)) => anyhow::bail!("the control plane said {goodbye:?}"),
            _ => {}
        }
    }
}

fn message(kind: client_message::Kind) -> proto::ClientMessage {
    proto::ClientMessage { kind: Some(kind) }
}

fn registration(options: &Options, number: u64) -> anyhow::Result<proto::ClientMessage> {
    let ports = options.port.iter().map(|text| {
        let (port, protocol) = text.split_once('/').context("PORT/PROTOCOL")?;
        let port = port.parse()?;
        Ok(proto::RegisteredPort { port, target_port: port, protocol: protocol.into(), ..Default::default() })
    });
    let ports = ports.collect::<anyhow::Result<Vec<_>>>()?;
    let address = proto::TransportAddress {
        transport: "leno/1".into(),
        address: options.hop.to_string(),
        ..proto::TransportAddress::default()
    };
    Ok(message(client_message::Kind::Register(proto::Register {
        instance: INSTANCE.into(),
        generation: number,
        namespace: "default".into(),
        services: vec![proto::RegisteredService { name: options.service.clone(), ports }],
        addresses: vec![address],
        labels: [("change".to_owned(), number.to_string())].into(),
        ..proto::Register::default()
    })))
}

/// Connects as the real instance.
fn connector(options: &Options) -> anyhow::Result<Connector> {
    let text = std::fs::read_to_string(options.state.join("identity.pem"))?;
    let key = KeyPair::from_pem(text.split("-----BEGIN CERTIFICATE").next().unwrap_or_default())?;
    let identity = TlsIdentity::new(pem::read_chain(&text)?, &key)?;
    let bundle = TrustBundle::from_json(&std::fs::read(options.state.join("bundle.json"))?)?;
    let context = TlsContext::new(identity, Arc::new(bundle), 1, Arc::new(SystemClock::new()))?;
    let (expect, target) = (stream::Expect::control_plane(context), options.common.target);
    Ok(Arc::new(move || {
        let expect = expect.clone();
        Box::pin(async move {
            let unreachable = |error: std::io::Error| ConnectorError {
                reason: leno_model::Reason::ControlPlaneUnreachable,
                detail: error.to_string(),
            };
            let tcp = TcpStream::connect(target).await.map_err(unreachable)?;
            tcp.set_nodelay(true).map_err(unreachable)?;
            let secured = stream::connect(tcp, &expect, "control-plane", &[ALPN_H2], LIMIT).await;
            secured
                .map(|io| Box::new(io) as BoxedIo)
                .map_err(|error| ConnectorError { reason: error.reason, detail: error.detail })
        })
    }))
}
