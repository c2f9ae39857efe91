//! The application at the end of every pair; see `bench::app`.

use bench::app::Kind;
use clap::Parser;

/// Serves what the load generator asks for.
#[derive(Debug, Parser)]
struct Arguments {
    /// Addresses for HTTP/1.1
    #[arg(long)]
    http: Vec<std::net::SocketAddr>,
    /// Address for gRPC
    #[arg(long)]
    grpc: Option<std::net::SocketAddr>,
    /// Addresses for TCP
    #[arg(long)]
    tcp: Vec<std::net::SocketAddr>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let kinds = [(Kind::Http, &arguments.http), (Kind::Tcp, &arguments.tcp)];
    let ports: Vec<_> = kinds.into_iter().flat_map(|(kind, all)| all.iter().map(move |a| (kind, *a))).collect();
    if let Some(address) = arguments.grpc {
        std::thread::spawn(move || bench::app::grpc::run(address));
    }
    bench::app::run(&ports)
}
