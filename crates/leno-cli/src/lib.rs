//! The commands of `leno`, and the only place that links both planes.
//!
//! *Owns*: the command line, how its errors read and exit, the supervisor of `leno run`, and the demo.
//!
//! *Must not know*: how a plane works inside; it fills in settings and prints answers.
//!
//! *Start reading at*: [`arguments`], then [`main`].

pub mod arguments;
mod control_plane;
mod demo;
mod failure;
mod logging;
mod member;
mod operator;
mod proxy;
mod run;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
pub use failure::Failure;

/// Parses the command line, runs the command, and says how it ended (DESIGN section 10, exit codes).
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(arguments) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("leno: {failure:#}");
            failure.exit_code()
        }
    }
}

/// One line per command.
fn dispatch(arguments: Arguments) -> Result<ExitCode, Failure> {
    if !arguments.command.is_long_running() {
        // `leno status | head` ends quietly, like every other filter's source.
        leno_sys::process::end_on_closed_pipe();
    }
    match arguments.command {
        Command::Demo(a) => demo::run(&a),
        Command::ControlPlane(a) => control_plane::run(*a),
        Command::Run(a) => run::run(*a),
        Command::Proxy(a) => proxy::run(*a),
        Command::Token(a) => operator::token::run(&a.api, a.what),
        Command::Apply(a) => operator::apply::apply(&a.api, &a.what),
        Command::Delete(a) => operator::apply::delete(&a.api, &a.what),
        Command::Get(a) => operator::get::get(&a.api, &a.what),
        Command::Describe(a) => operator::get::describe(&a.api, &a.what),
        Command::Lint(a) => operator::lint::run(&a),
        Command::Explain(a) => operator::lint::explain(&a),
        Command::Status(a) => operator::status::run(&a.api, &a.what),
        Command::Ca(a) => operator::ca::run(&a.api, a.what),
        Command::Revoke(a) => operator::ca::revoke(&a.api, &a.what),
        Command::DemoApp(a) => demo::app::run(&a),
    }
}
