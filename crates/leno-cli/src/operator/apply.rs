//! `leno apply` and `leno delete`.

use std::process::ExitCode;

use leno_api::{Action, ApplyResponse, ClientError, ErrorReason};
use leno_model::kind::Kind;

use super::connection::{Api, block_on, failure};
use super::{files, print};
use crate::Failure;
use crate::arguments::{ApiArguments, ApplyArguments, DeleteArguments, OutputFormat};

/// Applies every file; one refused document does not keep the others from being applied.
pub fn apply(api: &ApiArguments, arguments: &ApplyArguments) -> Result<ExitCode, Failure> {
    let sources = files::read(&arguments.files)?;
    let api = Api::from_arguments(api)?;
    block_on(async {
        let mut whole = true;
        let mut answers = Vec::new();
        for source in &sources {
            if source.text.trim().is_empty() {
                return Err(Failure::Failed(anyhow::anyhow!("{}: it is empty: nothing to apply", source.name)));
            }
            let answer = api
                .client
                .apply(&source.text, arguments.namespace.as_deref(), arguments.dry_run)
                .await
                .map_err(|e| about(&source.name, e))?;
            whole &= answer.is_success();
            eprint!("{}", print::diagnostics(&source.name, &answer.diagnostics));
            if arguments.output == OutputFormat::Table {
                report(&source.name, &answer);
            }
            answers.push(answer);
        }
        if arguments.output != OutputFormat::Table {
            println!("{}", print::json(&answers));
        }
        Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Deletes what the files name, or one resource by kind and name.
pub fn delete(api: &ApiArguments, arguments: &DeleteArguments) -> Result<ExitCode, Failure> {
    let sources = files::read(&arguments.files)?;
    let api = Api::from_arguments(api)?;
    block_on(async {
        let mut whole = true;
        for source in &sources {
            let answer = api.client.delete_documents(&source.text, Some(&arguments.namespace), false).await;
            let answer = answer.map_err(|e| about(&source.name, e))?;
            whole &= answer.is_success();
            eprint!("{}", print::diagnostics(&source.name, &answer.diagnostics));
            report(&source.name, &answer);
        }
        if let (Some(kind), Some(name)) = (&arguments.kind, &arguments.name) {
            let kind = super::get::kind(kind)?;
            let namespace = namespace(kind, &arguments.namespace);
            let result = api.client.delete(kind.plural(), namespace, name, None).await.map_err(failure)?;
            println!("{} {} deleted", result.object.kind, result.object.name);
            if kind == Kind::Service {
                warn_of_instances(&api, namespace, name).await;
            }
        }
        Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// A Service may be deleted while instances run; then nobody reaches them, which should not be a surprise.
async fn warn_of_instances(api: &Api, namespace: &str, name: &str) {
    let instances = api.client.endpoints(Some(namespace), Some(name)).await.map_or(0, |all| all.len());
    if instances > 0 {
        eprintln!(
            "warning: {instances} instances are registered for {name}.{namespace}; callers get unknown_destination until one \
             registers again or the Service is applied"
        );
    }
}

/// A failure of a whole file, with its name; what keeps every request from being answered is about no file.
fn about(source: &str, error: ClientError) -> Failure {
    match error {
        ClientError::Refused { body, .. } if matches!(body.reason, ErrorReason::TooLarge | ErrorReason::BadRequest) => {
            Failure::Failed(anyhow::anyhow!("{source}: {}", body.message))
        }
        other => failure(other),
    }
}

/// MeshConfig lives in the system namespace whatever `-n` says.
pub fn namespace(kind: Kind, given: &str) -> &str {
    if given == leno_model::names::DEFAULT_NAMESPACE { kind.default_namespace() } else { given }
}

fn report(source: &str, answer: &ApplyResponse) {
    let suffix = if answer.dry_run { " (dry run)" } else { "" };
    for result in &answer.results {
        let object = format!("{} {}.{}", result.object.kind, result.object.name, result.object.namespace);
        let word = match result.action {
            Action::Created => "created",
            Action::Configured => "configured",
            Action::Unchanged => "unchanged",
            Action::Deleted => "deleted",
            Action::Refused => "refused",
        };
        match &result.error {
            // What is wrong with the text was told with its place already.
            Some(error) if error.reason == ErrorReason::Invalid && !result.diagnostics.is_empty() => {
                eprintln!("{source}: {object} {word}")
            }
            Some(error) => eprintln!("{source}: {object} {word}: {}", error.message),
            None => println!("{object} {word}{suffix}"),
        }
    }
}
