//! `leno token`.

use std::process::ExitCode;

use super::connection::{Api, block_on, failure};
use super::print;
use crate::Failure;
use crate::arguments::{ApiArguments, OutputFormat, TokenArguments, TokenCommand};

/// `create` prints the token alone, so that `TOKEN=$(leno token create …)` works.
pub fn run(api: &ApiArguments, arguments: TokenArguments) -> Result<ExitCode, Failure> {
    let api = Api::from_arguments(api)?;
    block_on(async {
        match arguments.command {
            TokenCommand::Create(a) => {
                let services: Vec<&str> = a.services.iter().map(String::as_str).collect();
                let token = api.create_token(&a.namespace, &services, a.service_account.as_deref(), a.ttl).await?;
                println!("{token}");
            }
            TokenCommand::List(a) => {
                let tokens = api.client.tokens().await.map_err(failure)?;
                if a.output != OutputFormat::Table {
                    println!("{}", print::json(&tokens));
                    return Ok(ExitCode::SUCCESS);
                }
                let rows: Vec<Vec<String>> = tokens
                    .iter()
                    .map(|t| {
                        let used = t
                            .redeemed
                            .as_deref()
                            .map_or_else(|| "no".to_owned(), |at| format!("{} ago", print::age(at)));
                        vec![
                            t.id.clone(),
                            t.identity.clone(),
                            t.services.join(","),
                            print::age(&t.created),
                            t.expires.clone(),
                            used,
                        ]
                    })
                    .collect();
                print!("{}", print::table(&["ID", "IDENTITY", "SERVICES", "AGE", "EXPIRES", "USED"], &rows));
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
