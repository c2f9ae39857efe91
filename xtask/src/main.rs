//! Development tasks: `cargo xtask <tidy | licences | codegen [--check] | docs [--check] | skips |
//! instructions [--check | --update]>`.
//!
//! Each task is a module; this file only dispatches.

mod codegen;
mod docs;
mod instructions;
mod licences;
mod skips;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The root of the checkout that this binary was built from.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["tidy"] => tidy::run(&root(), false),
        ["tidy", "--update"] => tidy::run(&root(), true),
        ["codegen"] => codegen::run(false),
        ["codegen", "--check"] => codegen::run(true),
        ["docs"] => docs::run(&root(), false),
        ["docs", "--check"] => docs::run(&root(), true),
        ["licences"] => licences::run(&root()),
        ["instructions"] => instructions::run(&root(), instructions::Mode::Print),
        ["instructions", "--check"] => instructions::run(&root(), instructions::Mode::Check),
        ["instructions", "--update"] => instructions::run(&root(), instructions::Mode::Update),
        ["skips", file] => skips::run(&root(), Path::new(file)),
        _ => {
            eprintln!(
                "usage: cargo xtask tidy [--update] | licences | codegen [--check] | docs [--check] | skips FILE | instructions [--check | --update]"
            );
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
