//! The load generator; see `bench::load`. Prints one line of JSON, see `bench::outcome::Outcome`.

use clap::Parser;

/// Calls a target and tells how it did.
#[derive(Debug, Parser)]
enum Kind {
    /// HTTP/1.1
    Http(bench::load::http::Options),
    /// gRPC
    Grpc(bench::load::grpc::Options),
    /// Round trips over TCP
    PingPong(bench::load::tcp::PingPong),
    /// One TCP stream as fast as it goes
    Bulk(bench::load::tcp::Bulk),
    /// HTTP/1.1 connections that do nothing
    Idle(bench::load::idle::Options),
    /// Changes of an endpoint, at a steady pace
    Churn(bench::load::churn::Options),
    /// Full mutual TLS handshakes
    Handshakes(bench::load::handshakes::Options),
}

fn main() -> anyhow::Result<()> {
    let outcome = match Kind::parse() {
        Kind::Http(options) => bench::load::http::run(options)?,
        Kind::Grpc(options) => bench::load::grpc::run(options)?,
        Kind::PingPong(options) => bench::load::tcp::ping_pong(options)?,
        Kind::Bulk(options) => bench::load::tcp::bulk(&options)?,
        Kind::Idle(options) => bench::load::idle::run(&options)?,
        Kind::Churn(options) => bench::load::churn::run(&options)?,
        Kind::Handshakes(options) => bench::load::handshakes::run(&options)?,
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}
