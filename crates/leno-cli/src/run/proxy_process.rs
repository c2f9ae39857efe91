//! One proxy process under the supervisor: its start, its announcements, and the three ways to end it.

use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::sockets::Sockets;
use crate::Failure;

/// Drain, `signal(7)`.
pub const SIGTERM: i32 = 15;
/// Retire: a successor has taken over.
const SIGUSR1: i32 = 10;
/// A proxy that is not ready after this long has a reason that its log tells; joining is retried within it.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How to start a proxy, again and again.
pub struct ProxyCommand {
    executable: std::path::PathBuf,
    arguments: Vec<OsString>,
    sockets: Sockets,
}

impl ProxyCommand {
    /// The own command line with `run` replaced by `proxy` and without the program. The executable is looked up by its
    /// path at each start, so a proxy started after an upgrade of the file is the new version.
    pub fn from_own_arguments(sockets: Sockets) -> anyhow::Result<Self> {
        let executable = std::env::current_exe().context("finding the own executable")?;
        let mut arguments = Vec::new();
        let mut own = std::env::args_os().skip(1);
        let mut seen_run = false;
        while let Some(word) = own.next() {
            if word == "--" {
                break;
            }
            if !seen_run && word == "run" {
                seen_run = true;
                arguments.push("proxy".into());
            } else if word == "--stop-grace" {
                own.next();
            } else if !word.to_string_lossy().starts_with("--stop-grace=") {
                arguments.push(word);
            }
        }
        arguments.extend(["--announce", "json", "--supervised"].map(OsString::from));
        arguments.extend(sockets.arguments().into_iter().map(OsString::from));
        Ok(Self { executable, arguments, sockets })
    }

    /// Starts a proxy and waits until it is ready; `replaces` one that still serves.
    pub async fn start(&self, replaces: bool) -> Result<ProxyProcess, Failure> {
        self.sockets.set_inheritable(true)?;
        // A group of its own: Ctrl-C at the terminal reaches the supervisor, which ends things in order.
        let mut command = Command::new(&self.executable);
        leno_sys::process::die_with_parent(command.as_std_mut(), SIGTERM);
        let spawned = command
            .args(&self.arguments)
            .args(replaces.then_some("--replaces"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        self.sockets.set_inheritable(false)?;
        let mut child = spawned.with_context(|| format!("starting {}", self.executable.display()))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the proxy has no standard output")?;
        let mut process = ProxyProcess {
            child,
            stdin,
            lines: BufReader::new(stdout).lines(),
            addresses: Value::Null,
            drained: false,
            told: false,
        };
        match tokio::time::timeout(READY_LIMIT, process.until_event("ready")).await {
            Ok(Ok(line)) => {
                process.addresses = line;
                Ok(process)
            }
            Ok(Err(_)) => {
                let status = process.child.wait().await?;
                Err(Failure::Failed(anyhow::anyhow!(
                    "the proxy ended before it was ready ({status}); its message is above"
                )))
            }
            Err(_) => {
                process.child.kill().await?;
                Err(Failure::Failed(anyhow::anyhow!("the proxy was not ready within {READY_LIMIT:?}")))
            }
        }
    }
}

/// A running proxy.
pub struct ProxyProcess {
    child: Child,
    /// Open while outbound is wanted; closing it tells a draining proxy that the program is gone.
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    addresses: Value,
    drained: bool,
    /// Whether it was told to drain or to retire: a second SIGTERM would cut what is under way.
    told: bool,
}

impl ProxyProcess {
    /// Waits for an announcement; other lines (an access log on standard output) are passed on.
    async fn until_event(&mut self, event: &str) -> anyhow::Result<Value> {
        while let Some(line) = self.lines.next_line().await? {
            match serde_json::from_str::<Value>(&line) {
                Ok(value) if value["leno"] == event => return Ok(value),
                _ => println!("{line}"),
            }
        }
        anyhow::bail!("the proxy closed its standard output")
    }

    /// What the program is told: `LENO_HTTP_PROXY`, and `LENO_UPSTREAM_<NAME>` for every upstream.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut variables = Vec::new();
        if let Some(forward) = self.addresses["forward"].as_str() {
            variables.push(("LENO_HTTP_PROXY".to_owned(), format!("http://{forward}")));
        }
        for pair in self.addresses["upstreams"].as_array().into_iter().flatten() {
            if let (Some(name), Some(address)) = (pair[0].as_str(), pair[1].as_str()) {
                let name: String = name
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
                    .collect();
                variables.push((format!("LENO_UPSTREAM_{name}"), address.to_owned()));
            }
        }
        variables
    }

    /// Resolves when the process ends; meanwhile passes its output on. Cancel-safe.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        while let Some(line) = self.lines.next_line().await? {
            self.note(&line);
        }
        Ok(self.child.wait().await?)
    }

    fn note(&mut self, line: &str) {
        match serde_json::from_str::<Value>(line) {
            Ok(value) if value["leno"] == "inbound_drained" => self.drained = true,
            _ => println!("{line}"),
        }
    }

    /// Its number, until its end was taken note of.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether it is gone already, without waiting.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Deregister, finish inbound; outbound stays until [`end`](Self::end).
    pub fn drain(&mut self) {
        if !std::mem::replace(&mut self.told, true)
            && let Some(pid) = self.child.id()
        {
            let _ = leno_sys::process::send_signal(pid, SIGTERM);
        }
    }

    /// A successor has taken over: stop accepting, finish what is open, do not deregister.
    pub fn retire(&mut self) {
        self.told = true;
        if let Some(pid) = self.child.id() {
            let _ = leno_sys::process::send_signal(pid, SIGUSR1);
        }
    }

    /// Resolves when a drain has ended inbound, or the process is gone. Cancel-safe.
    pub async fn inbound_drained(&mut self) {
        while !self.drained {
            match self.lines.next_line().await {
                Ok(Some(line)) => self.note(&line),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Says that the program is gone, waits for the process, and kills it past `limit`.
    pub async fn end(&mut self, limit: Duration) {
        drop(self.stdin.take());
        self.drain();
        if tokio::time::timeout(limit, self.ended()).await.is_err() {
            tracing::warn!("the proxy did not end within {limit:?} and is killed");
            let _ = self.child.kill().await;
        }
    }
}
