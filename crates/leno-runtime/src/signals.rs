//! The signals that processes of the mesh act on.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: drain and end.
    Terminate,
    /// SIGINT: the same, from a terminal.
    Interrupt,
    /// SIGHUP: for the supervisor, replace the proxy.
    Hangup,
    /// SIGUSR1: retire; a successor has taken over the listeners.
    Retire,
}

/// The stream of them. While it exists the default actions are off.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
    retire: Stream,
}

impl Signals {
    /// Takes over the four signals; needs a runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            retire: signal(SignalKind::user_defined1())?,
        })
    }

    /// The next one. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        // Signal::recv is cancel safe, and a stream never ends while its runtime lives.
        tokio::select! {
            biased;
            Some(()) = self.terminate.recv() => Signal::Terminate,
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            Some(()) = self.retire.recv() => Signal::Retire,
            Some(()) = self.hangup.recv() => Signal::Hangup,
            else => Signal::Terminate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[tokio::test]
    async fn each_signal_arrives() {
        let mut signals = Signals::new().unwrap();
        let pid = std::process::id().to_string();
        for (name, expected) in [
            ("-TERM", Signal::Terminate),
            ("-INT", Signal::Interrupt),
            ("-HUP", Signal::Hangup),
            ("-USR1", Signal::Retire),
        ] {
            assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
            assert_eq!(signals.next().await, expected);
        }
    }
}
