//! `leno lint` and `leno explain`: without a control plane.

use std::process::ExitCode;

use leno_model::diagnostic::Diagnostic;
use leno_model::path::FieldPath;

use super::{files, print};
use crate::Failure;
use crate::arguments::{ExplainArguments, LintArguments, OutputFormat};

/// Checks files as `leno apply` would, and then what they mean together: references, conflicts, unreachable rules.
pub fn run(arguments: &LintArguments) -> Result<ExitCode, Failure> {
    let mut diagnostics: Vec<Diagnostic> = Vec::new();
    let mut resources = Vec::new();
    let mut parsed = Vec::new();
    for source in files::read(&arguments.files)? {
        let (documents, found) = leno_model::document::parse_documents(&source.name, &source.text);
        diagnostics.extend(found);
        for document in documents {
            resources.push(document.resource.clone());
            parsed.push((source.name.clone(), document));
        }
    }
    for diagnostic in leno_compile::lint(&resources) {
        // Found on resources, told at the place in the text that they came from.
        let place = parsed.iter().find(|(_, d)| diagnostic.resource.as_ref() == Some(&d.resource.reference()));
        diagnostics.push(match place {
            Some((name, document)) => document.locate(name, diagnostic, &FieldPath::default()),
            None => diagnostic,
        });
    }
    let errors = diagnostics.iter().filter(|d| d.is_error()).count();
    if arguments.output == OutputFormat::Table {
        for diagnostic in &diagnostics {
            eprintln!("{diagnostic}");
        }
        println!("{} resources, {errors} errors, {} warnings", resources.len(), diagnostics.len() - errors);
    } else {
        println!("{}", print::json(&diagnostics));
    }
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what a kind or field is for, from the same definition that parses it.
pub fn explain(arguments: &ExplainArguments) -> Result<ExitCode, Failure> {
    match leno_model::explain::explain(&arguments.path) {
        Ok(text) => {
            print!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(Failure::NotFound(error.to_string())),
    }
}
