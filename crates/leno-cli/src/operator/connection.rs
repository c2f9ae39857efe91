//! Finding the control plane's API and the admin token, and the calls that more than one command makes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use leno_api::{ApplyResponse, Client, ClientError, ErrorReason, TokenRequest};

use crate::Failure;
use crate::arguments::ApiArguments;
use crate::member::state_home;

/// A connection to the API with the failures of the command line.
pub struct Api {
    /// The typed client.
    pub client: Client,
}

impl Api {
    /// Opens `url` with the token in `token_file`.
    pub fn open(url: &str, token_file: Option<&Path>) -> Result<Self, Failure> {
        let token = match token_file {
            Some(file) => Some(std::fs::read_to_string(file).map_err(|e| {
                Failure::Failed(anyhow::anyhow!("cannot read the admin token file {}: {e}", file.display()))
            })?),
            None => None,
        };
        let client = Client::new(url, token.as_deref()).map_err(|e| Failure::Usage(format!("--api-url: {e}")))?;
        Ok(Self { client })
    }

    /// By the flags; without a token file, the one that a control plane on this host left word of.
    pub fn from_arguments(arguments: &ApiArguments) -> Result<Self, Failure> {
        let file = arguments.admin_token_file.clone().or_else(|| announced_token_file(&arguments.url));
        Self::open(&arguments.url, file.as_deref())
    }

    /// Applies documents that the program itself wrote; any refusal is an error.
    pub async fn apply_text(&self, what: &str, text: &str) -> Result<ApplyResponse, Failure> {
        let response = self.client.apply(text, None, false).await.map_err(failure)?;
        if response.is_success() {
            return Ok(response);
        }
        Err(Failure::Failed(anyhow::anyhow!("{what}: {}", super::print::diagnostics(what, &response.diagnostics))))
    }

    /// A join token for these services.
    pub async fn create_token(
        &self,
        namespace: &str,
        services: &[&str],
        service_account: Option<&str>,
        ttl: Duration,
    ) -> Result<String, Failure> {
        let request = TokenRequest {
            services: services.iter().map(|s| (*s).to_owned()).collect(),
            namespace: Some(namespace.to_owned()),
            service_account: service_account.map(str::to_owned),
            ttl_seconds: Some(ttl.as_secs().max(1)),
        };
        Ok(self.client.create_token(&request).await.map_err(failure)?.token)
    }
}

/// Runs one command's calls on a small runtime of their own.
pub fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// The exit code follows from what the API said.
pub fn failure(error: ClientError) -> Failure {
    match &error {
        ClientError::Unreachable { address, detail } => Failure::Unreachable(format!(
            "cannot reach the control plane at {address}: {detail}\n      \
             Is it running? Set LENO_API or --api-url to where it is."
        )),
        ClientError::Refused { body, .. } => match body.reason {
            ErrorReason::NotFound => Failure::NotFound(body.message.clone()),
            ErrorReason::Unauthenticated => Failure::Failed(anyhow::anyhow!(
                "{}\n      Set LENO_ADMIN_TOKEN_FILE to the control plane's admin.token (in its data directory).",
                body.message
            )),
            _ => Failure::Failed(error.into()),
        },
        _ => Failure::Failed(error.into()),
    }
}

/// Where a control plane on this host leaves word of its admin token: a file named by the API's address.
#[must_use]
pub fn hint_file(address: &str) -> PathBuf {
    state_home().join("api").join(address.replace(['/', ':'], "_"))
}

fn announced_token_file(url: &str) -> Option<PathBuf> {
    let address = url.strip_prefix("http://")?.trim_end_matches('/').replace("localhost", "127.0.0.1");
    let file = std::fs::read_to_string(hint_file(&address)).ok()?;
    Some(PathBuf::from(file.trim())).filter(|f| f.exists())
}
