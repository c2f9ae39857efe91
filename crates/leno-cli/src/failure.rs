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
            Self::Failed(error) => f.write_str(&whole(error)),
            Self::Usage(text) | Self::NotFound(text) | Self::Unreachable(text) => f.write_str(text),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// A message with its causes. Many messages have their cause in their words already: it is not said twice.
fn whole(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let io = || std::io::Error::from_raw_os_error(98);
        let once = "cannot listen on 1.2.3.4:1: Address already in use (os error 98)";
        let told = Failure::Failed(anyhow::Error::new(io()).context("cannot listen on 1.2.3.4:1"));
        assert_eq!(told.to_string(), once);
        let twice: Result<(), _> = Err(io()).with_context(|| format!("cannot listen on 1.2.3.4:1: {}", io()));
        assert_eq!(Failure::Failed(twice.unwrap_err()).to_string(), once);
    }
}
