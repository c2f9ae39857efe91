//! A mesh on the hosts of a network: one control plane, members under `leno run` or `leno proxy`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::network::{Host, Network};
use crate::process::{Output, Process, run};

/// The binary under test: `LENO_BIN`, or what the workspace built beside this test.
#[must_use]
pub fn leno() -> PathBuf {
    if let Some(path) = std::env::var_os("LENO_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST");
    let binary = profile.join("leno");
    assert!(binary.exists(), "{} is missing: cargo build --bin leno", binary.display());
    binary
}

/// A control plane and how to talk to it.
pub struct Mesh {
    /// Where it runs.
    pub host: Host,
    /// Its store, CA and admin token.
    pub data_dir: PathBuf,
    process: Process,
    folder: PathBuf,
    arguments: Vec<String>,
    /// Discovery address that members join.
    pub join: String,
    starts: u32,
}

/// API port; the host is the scenario's own.
const API: &str = "127.0.0.1:15101";

impl Mesh {
    /// Starts a control plane on `host` with further flags.
    #[must_use]
    pub fn start(network: &Network, host: &str, arguments: &[&str]) -> Self {
        Self::start_in(network, host, "control-plane", arguments)
    }

    /// The same with a data directory of another name.
    #[must_use]
    pub fn start_in(network: &Network, host: &str, name: &str, arguments: &[&str]) -> Self {
        let host = network.host(host).clone();
        let data_dir = network.subfolder(name);
        let folder = network.folder().to_owned();
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let process = start_control_plane(&host, &data_dir, &folder, &arguments, 0);
        let join = format!("{}:15100", host.address());
        Self { host, data_dir, process, folder, arguments, join, starts: 1 }
    }

    /// The control plane's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Lets the control plane stand still, with its connections open, or go on.
    pub fn pause(&self, still: bool) {
        self.process.signal(if still { Signal::STOP } else { Signal::CONT });
    }

    /// Starts it again on the same data directory.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = start_control_plane(&self.host, &self.data_dir, &self.folder, &self.arguments, self.starts);
        self.starts += 1;
    }

    /// An operator's command on the control plane's host.
    #[must_use]
    pub fn leno(&self, arguments: &[&str]) -> Output {
        run(&mut self.operator(arguments), Duration::from_secs(60))
    }

    fn operator(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(&leno().to_string_lossy());
        command
            .args(arguments)
            .env("LENO_API", format!("http://{API}"))
            .env("LENO_ADMIN_TOKEN_FILE", self.data_dir.join("admin.token"));
        command
    }

    /// Applies YAML that must be accepted.
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        let file = tempfile::NamedTempFile::with_suffix(".yaml").expect("a temporary file");
        std::fs::write(file.path(), yaml).expect("writing a temporary file");
        let output = self.leno(&["apply", "-f", &file.path().to_string_lossy()]);
        assert_eq!(output.code, 0, "apply:\n{yaml}\n{}{}", output.stdout, output.stderr);
    }

    /// A join token for one service in the default namespace.
    #[track_caller]
    #[must_use]
    pub fn token(&self, service: &str) -> String {
        self.leno(&["token", "create", "--service", service]).ok().trim().to_owned()
    }

    /// What an operator's command with `-o json` says.
    #[track_caller]
    #[must_use]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.leno(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text.stdout)
            .unwrap_or_else(|e| panic!("{arguments:?}: {e}\n{}{}", text.stdout, text.stderr))
    }

    /// Waits until a service has this many connected endpoints.
    #[track_caller]
    pub fn wait_for_endpoints(&self, service: &str, count: usize) {
        crate::wait::until(&format!("{service} has {count} endpoints"), || {
            let all = self.json(&["get", "endpoints", "-A"]);
            let found = all
                .as_array()
                .into_iter()
                .flatten()
                .filter(|e| e["service"] == service && e["state"] == "connected")
                .count();
            if found == count { Ok(()) } else { Err(format!("{found} now")) }
        });
    }

    /// Starts `leno run … -- child` as a member; flags go before `--`.
    #[track_caller]
    #[must_use]
    pub fn run(&self, host: &Host, name: &str, service: &str, flags: &[&str], child: &[&str]) -> Member {
        self.member(host, name, "run", service, flags, child, None)
    }

    /// Starts `leno proxy` as a member.
    #[track_caller]
    #[must_use]
    pub fn proxy(&self, host: &Host, name: &str, service: &str, flags: &[&str]) -> Member {
        self.member(host, name, "proxy", service, flags, &[], None)
    }

    /// The same with a limit on the descriptors that it may open.
    #[track_caller]
    #[must_use]
    pub fn proxy_limited(
        &self,
        host: &Host,
        name: &str,
        service: &str,
        flags: &[&str],
        descriptors: Option<usize>,
    ) -> Member {
        self.member(host, name, "proxy", service, flags, &[], descriptors)
    }

    #[track_caller]
    #[expect(clippy::too_many_arguments, reason = "of this file only, from functions with names")]
    fn member(
        &self,
        host: &Host,
        name: &str,
        verb: &str,
        service: &str,
        flags: &[&str],
        child: &[&str],
        descriptors: Option<usize>,
    ) -> Member {
        let state = self.folder.join(format!("state-{name}"));
        let token = self.token(service);
        let mut arguments: Vec<String> =
            [verb, "--service", service, "--join", &self.join, "--state-dir", &state.to_string_lossy()]
                .iter()
                .chain(flags)
                .map(|a| (*a).to_owned())
                .collect();
        if !child.is_empty() {
            arguments.push("--".to_owned());
            arguments.extend(child.iter().map(|c| (*c).to_owned()));
        }
        let mut member = Member {
            host: host.clone(),
            name: name.to_owned(),
            state,
            arguments,
            token,
            folder: self.folder.clone(),
            process: None,
            descriptors,
        };
        member.start();
        member
    }
}

#[track_caller]
fn start_control_plane(host: &Host, data_dir: &Path, folder: &Path, arguments: &[String], starts: u32) -> Process {
    let mut command = host.command(&leno().to_string_lossy());
    command
        .args(["control-plane", "--api", API, "--discovery", "[::]:15100", "--announce", "json", "--data-dir"])
        .arg(data_dir)
        .args(arguments)
        .env("LENO_LOG", "info");
    let name = format!("{}-{starts}", data_dir.file_name().unwrap_or_default().to_string_lossy());
    let mut process = Process::start(&name, &mut command, folder);
    process.wait_for_line("its addresses", |l| serde_json::from_str::<Value>(l).ok().filter(|v| v["leno"] == "ready"));
    process
}

/// A member of the mesh. Dropping it ends its processes.
pub struct Member {
    /// Where it runs.
    pub host: Host,
    /// Its name in the scenario, and of its log.
    pub name: String,
    /// State directory of its proxy.
    pub state: PathBuf,
    arguments: Vec<String>,
    token: String,
    folder: PathBuf,
    process: Option<Process>,
    descriptors: Option<usize>,
}

impl Member {
    /// Starts it, again if it ran before, with the same state.
    #[track_caller]
    pub fn start(&mut self) {
        let leno = leno();
        let mut command = match self.descriptors {
            None => self.host.command(&leno.to_string_lossy()),
            // It becomes the program, so the process is the same.
            Some(limit) => {
                let mut command = self.host.command("prlimit");
                command.arg(format!("--nofile={limit}:{limit}")).arg(leno);
                command
            }
        };
        command.args(&self.arguments).env("LENO_TOKEN", &self.token).env("LENO_LOG", "info");
        self.process = Some(Process::start(&self.name, &mut command, &self.folder));
    }

    /// Its process: the supervisor, or the proxy.
    #[track_caller]
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("started")
    }

    /// SIGTERM and wait for the end.
    pub fn end(&mut self) {
        if let Some(process) = &mut self.process {
            process.end();
        }
    }

    /// `kill -9` of its own process.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// `kill -9` of the supervisor, its proxy and its program at once, as when a host dies.
    pub fn kill_group(&mut self) {
        let Some(process) = &mut self.process else { return };
        let family = crate::process::descendants(process.pid());
        process.kill();
        for pid in family {
            crate::process::kill(pid);
        }
    }

    /// Process ids of the proxy under `leno run`, newest last.
    #[track_caller]
    pub fn proxy_pids(&mut self) -> Vec<u32> {
        let children = crate::process::descendants(self.process().pid());
        let is_proxy = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|b| *b == 0).nth(1) == Some(b"proxy")
        };
        children.into_iter().filter(is_proxy).collect()
    }

    /// SIGHUP: `leno run` replaces its proxy.
    pub fn replace_proxy(&mut self) {
        self.process().signal(Signal::HUP);
    }

    /// Everything it has printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Waits until its proxy says it is ready on the admin port given by `--admin 127.0.0.1:PORT`.
    #[track_caller]
    pub fn wait_ready(&mut self, admin: u16) {
        let host = self.host.clone();
        crate::wait::until(&format!("{} is ready", self.name), || {
            assert!(self.process().is_running(), "{} ended:\n{}", self.name, self.log());
            let answer =
                host.curl(&["-o", "/dev/null", "-w", "%{http_code}", &format!("http://127.0.0.1:{admin}/ready")]);
            if answer.stdout == "200" { Ok(()) } else { Err(answer.stdout + &answer.stderr) }
        });
    }

    /// The proxy's metrics page.
    #[must_use]
    pub fn metrics(&self, admin: u16) -> String {
        self.host.curl(&[&format!("http://127.0.0.1:{admin}/metrics")]).stdout
    }
}
