//! How a command fails: what went wrong, and the exit code that says which kind (DESIGN section 10).

use std::fmt;
use std::process::ExitCode;

/// A failed command.
#[derive(Debug)]
pub enum Failure {
    /// It failed: exit 1.
    Failed(anyhow::Error),
    /// The command line does not make sense: exit 2.
    Usage(String),
    /// What was asked for does not exist: exit 3.
    NotFound(String),
    /// The control plane cannot be reached: exit 4.
    Unreachable(String),
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Unreachable(_) => 4,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "{error:#}"),
            Self::Usage(text) | Self::NotFound(text) | Self::Unreachable(text) => f.write_str(text),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}
