//! The load generator; see `bench::load`. Prints one line of JSON, see `bench::outcome::Outcome`.

use clap::Parser;

/// Calls a target and tells how it did.
#[derive(Debug, Parser)]
enum Kind {
    /// HTTP/1.1
    Http(bench::load::http::Options),
}

fn main() -> anyhow::Result<()> {
    let outcome = match Kind::parse() {
        Kind::Http(options) => bench::load::http::run(options)?,
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}
