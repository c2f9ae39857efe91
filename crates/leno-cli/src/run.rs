//! `leno run`: a small supervisor of two processes, the proxy and the program (D11).
//!
//! The supervisor owns the listening sockets. A proxy inherits them, so replacing it (on SIGHUP, or when it dies) never
//! closes a port: the successor accepts on the same sockets, and the predecessor retires with its connections.
//!
//! ```text
//!   bind sockets → start proxy → proxy ready → start program → wait ─┬─ program ended → end what it left → end proxy → exit with its code
//!                                                                    ├─ SIGTERM/SIGINT → drain inbound → end program → end outbound
//!                                                                    ├─ SIGHUP → successor ready → retire predecessor
//!                                                                    └─ proxy died → start it again on the same sockets
//! ```

mod exposure;
mod left_behind;
mod proxy_process;
mod sockets;

use std::ffi::OsString;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::arguments::RunArguments;
use crate::{Failure, logging};
use proxy_process::{ProxyCommand, ProxyProcess, SIGTERM};
use sockets::Sockets;

/// A proxy that dies is started again after this long, doubled each time up to [`RESTART_LIMIT`].
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// A proxy that cannot live must not be started more often than this.
const RESTART_LIMIT: Duration = Duration::from_secs(10);
/// A drain is bounded by the proxy's own deadlines; past this on top of them the proxy is killed.
const DRAIN_MARGIN: Duration = Duration::from_secs(10);

/// Runs the program as a member until it ends; the exit code is the program's.
pub fn run(arguments: RunArguments) -> Result<ExitCode, Failure> {
    logging::start("warn");
    let settings = arguments.member.settings()?;
    let _lock = own_state(&settings.state_dir)?;
    let sockets = Sockets::bind(&settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let exposure = exposure::Watch::new(&settings);
        let drain_limit = settings.drain.deregister + settings.drain.requests + DRAIN_MARGIN;
        let command = ProxyCommand::from_own_arguments(sockets)?;
        let mut signals = Signals::listen()?;
        leno_sys::process::adopt_orphans()?;
        // Nothing is under way yet: whoever stops the member now does not wait for a control plane that is not there.
        let mut proxy = tokio::select! {
            proxy = command.start(false) => proxy?,
            _ = signals.terminate.recv() => return Ok(ExitCode::from(128 + 15)),
            _ = signals.interrupt.recv() => return Ok(ExitCode::from(128 + 2)),
        };
        let program = match start_program(&arguments.child, &proxy) {
            Ok(program) => program,
            Err(failure) => {
                // It has registered already: nobody may be sent to a program that does not exist.
                proxy.end(drain_limit).await;
                return Err(failure);
            }
        };
        let mut supervisor = Supervisor {
            signals,
            program,
            command,
            proxy,
            retiring: Vec::new(),
            stop_grace: arguments.stop_grace,
            drain_limit,
            exposure,
        };
        supervisor.watch().await
    })
}

/// Two members that share a key and an instance name would push each other out of the registry for ever. The supervisor holds
/// the lock, because a proxy and its successor share the directory on purpose.
fn own_state(folder: &std::path::Path) -> Result<leno_sys::FileLock, Failure> {
    let failed = |e: std::io::Error| {
        Failure::Failed(anyhow::anyhow!(
            "the state directory {} cannot be used: {e}\n      Another member of this service on this host needs a --state-dir of its own.",
            folder.display()
        ))
    };
    leno_runtime::files::create_private_dir(folder).map_err(failed)?;
    leno_sys::FileLock::acquire(&folder.join("lock")).map_err(failed)
}

/// The program, started when the proxy is ready so that its first call already finds the mesh.
fn start_program(words: &[OsString], proxy: &ProxyProcess) -> Result<Child, Failure> {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).kill_on_drop(true);
    // A supervisor that is killed takes its program along: nothing of a member stays behind unsupervised.
    leno_sys::process::die_with_parent(command.as_std_mut(), SIGTERM);
    for (name, value) in proxy.environment() {
        command.env(name, value);
    }
    command.spawn().map_err(|e| Failure::Failed(anyhow::anyhow!("cannot start {}: {e}", words[0].to_string_lossy())))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    replace: Signal,
    /// A child has ended; also one that was adopted, which nobody else waits for.
    child: Signal,
    /// Asks many programs to open their logs again; there is nothing to do here, and it must not end anything.
    _reopen: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            replace: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
            _reopen: signal(SignalKind::user_defined1())?,
        })
    }
}

struct Supervisor {
    signals: Signals,
    program: Child,
    command: ProxyCommand,
    proxy: ProxyProcess,
    /// Predecessors that still carry connections.
    retiring: Vec<ProxyProcess>,
    stop_grace: Duration,
    drain_limit: Duration,
    exposure: exposure::Watch,
}

enum Event {
    ProgramEnded(ExitStatus),
    ProxyDied(ExitStatus),
    Stop,
    Replace,
    Orphans,
    Exposed(String),
}

/// What came of starting another proxy.
enum Successor {
    Ready(Box<ProxyProcess>),
    Failed(Failure),
    Overtaken(Event),
}

impl Supervisor {
    /// Handles events until the program has ended.
    async fn watch(&mut self) -> Result<ExitCode, Failure> {
        let (mut restart_delay, mut started) = (RESTART_FIRST, Instant::now());
        let mut pending = None;
        loop {
            self.retiring.retain_mut(|p| !p.has_ended());
            let event = match pending.take() {
                Some(event) => event,
                None => self.next_event().await?,
            };
            match event {
                Event::ProgramEnded(status) => {
                    say(status);
                    // Nobody is sent here any more, while what the program left behind ends.
                    self.proxy.drain();
                    self.end_left_behind(self.stop_grace).await;
                    self.end_proxies().await;
                    return Ok(exit_code_of(status));
                }
                Event::Stop => return self.stop().await,
                Event::Orphans => self.reap_left_behind(),
                Event::Exposed(message) => {
                    tracing::error!("{message}");
                    self.stop().await?;
                    return Err(Failure::Failed(anyhow::anyhow!("{message}")));
                }
                Event::Replace => match self.successor(None).await? {
                    Successor::Ready(successor) => {
                        let mut predecessor = std::mem::replace(&mut self.proxy, *successor);
                        predecessor.retire();
                        self.retiring.push(predecessor);
                        started = Instant::now();
                    }
                    Successor::Failed(failure) => tracing::error!("the proxy is not replaced: {failure:#}"),
                    Successor::Overtaken(event) => pending = Some(event),
                },
                Event::ProxyDied(status) => {
                    tracing::error!("the proxy ended by itself ({status}); starting it again");
                    if started.elapsed() > RESTART_LIMIT * 2 {
                        restart_delay = RESTART_FIRST;
                    }
                    let delay = restart_delay;
                    restart_delay = (restart_delay * 2).min(RESTART_LIMIT);
                    match self.successor(Some(delay)).await? {
                        Successor::Ready(successor) => (self.proxy, started) = (*successor, Instant::now()),
                        Successor::Failed(failure) => tracing::error!("the proxy cannot be started: {failure:#}"),
                        Successor::Overtaken(event) => pending = Some(event),
                    }
                }
            }
        }
    }

    /// Starts a proxy in place of one that died, after a delay, or of one that still serves. What ends the member is heard
    /// meanwhile: the one that is starting is killed then.
    async fn successor(&mut self, after: Option<Duration>) -> anyhow::Result<Successor> {
        let command = &self.command;
        let starting = async {
            tokio::time::sleep(after.unwrap_or_default()).await;
            command.start(after.is_none()).await
        };
        Ok(tokio::select! {
            started = starting => started.map_or_else(Successor::Failed, |proxy| Successor::Ready(Box::new(proxy))),
            status = self.program.wait() => {
                Successor::Overtaken(Event::ProgramEnded(status.context("waiting for the program")?))
            }
            _ = self.signals.terminate.recv() => Successor::Overtaken(Event::Stop),
            _ = self.signals.interrupt.recv() => Successor::Overtaken(Event::Stop),
        })
    }

    /// Every branch is cancel-safe: signals, waiting for a process, and the exposure watch keep their state.
    async fn next_event(&mut self) -> anyhow::Result<Event> {
        Ok(tokio::select! {
            status = self.program.wait() => Event::ProgramEnded(status.context("waiting for the program")?),
            status = self.proxy.ended() => Event::ProxyDied(status?),
            _ = self.signals.terminate.recv() => Event::Stop,
            _ = self.signals.interrupt.recv() => Event::Stop,
            _ = self.signals.replace.recv() => Event::Replace,
            _ = self.signals.child.recv() => Event::Orphans,
            message = self.exposure.exposed() => Event::Exposed(message),
        })
    }

    /// Inbound first, then the program, then outbound: the program can call others until it is gone.
    async fn stop(&mut self) -> Result<ExitCode, Failure> {
        self.proxy.drain();
        tracing::warn!("stopping: what is under way may finish; a second signal ends it at once");
        let drained = tokio::time::timeout(self.drain_limit, self.proxy.inbound_drained());
        tokio::select! {
            _ = drained => {}
            status = self.program.wait() => {
                let status = status?;
                say(status);
                self.end_left_behind(self.stop_grace).await;
                self.end_proxies().await;
                return Ok(exit_code_of(status));
            }
            _ = self.signals.terminate.recv() => {}
            _ = self.signals.interrupt.recv() => {}
        }
        if let Some(pid) = self.program.id() {
            let _ = leno_sys::process::send_signal(pid, SIGTERM);
        }
        let asked = Instant::now();
        let status = match tokio::time::timeout(self.stop_grace, self.program.wait()).await {
            Ok(status) => status?,
            Err(_) => {
                tracing::warn!("the program did not end within {:?} and is killed", self.stop_grace);
                self.program.kill().await?;
                self.program.wait().await?
            }
        };
        say(status);
        self.end_left_behind(self.stop_grace.saturating_sub(asked.elapsed())).await;
        self.end_proxies().await;
        Ok(exit_code_of(status))
    }

    /// Ends the proxy and its predecessors.
    async fn end_proxies(&mut self) {
        self.proxy.end(self.drain_limit).await;
        for proxy in &mut self.retiring {
            proxy.end(self.drain_limit).await;
        }
    }
}

/// How the program ended. That it did what it was to do is no news.
fn say(status: ExitStatus) {
    if status.success() {
        tracing::info!("the program ended ({status})");
    } else {
        tracing::warn!("the program ended ({status})");
    }
}

/// The program's own code, or 128 + signal as shells say it.
fn exit_code_of(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
