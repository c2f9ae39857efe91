//! The demo's processes: started side by side, ended with the demo, by their ids.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::shop::{MEMBERS, Member, RESOURCES, SHOPPERS};
use crate::Failure;
use crate::operator::connection::Api;

const SIGTERM: i32 = 15;
/// A process of the demo that has not announced itself after this long never will.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running member and where its proxy is observed.
pub struct Running {
    /// What it is.
    pub label: String,
    /// Admin address of its proxy.
    pub admin: SocketAddr,
    child: RefCell<Child>,
    log: PathBuf,
}

/// All of it. Dropping it ends the processes and removes the folder.
pub struct Mesh {
    /// The control plane's API.
    pub api: String,
    /// Folder with the admin token.
    pub data_dir: PathBuf,
    /// Every member with a proxy.
    pub members: Vec<Running>,
    shop: SocketAddr,
    /// When the first process was started.
    pub started: Instant,
    control_plane: RefCell<Child>,
    // Last: the folder outlives the processes that write into it.
    folder: Folder,
}

/// A temporary folder that goes with the demo.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Mesh {
    /// Starts the control plane, makes the tokens, then starts every member at once.
    pub async fn start() -> Result<Self, Failure> {
        let executable = std::env::current_exe().context("finding the own executable")?;
        let folder = Folder(std::env::temp_dir().join(format!("leno-demo-{}", std::process::id())));
        leno_runtime::files::create_private_dir(&folder.0)?;
        let data_dir = folder.0.join("control-plane");
        let started = Instant::now();
        let log = folder.0.join("control-plane.log");
        let mut command = Command::new(&executable);
        leno_sys::process::die_with_parent(command.as_std_mut(), SIGTERM);
        let mut control_plane = command
            .args([
                "control-plane",
                "--api",
                "127.0.0.1:0",
                "--discovery",
                "127.0.0.1:0",
                "--announce",
                "json",
                "--data-dir",
            ])
            .arg(&data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let addresses = announced(&mut control_plane, &log).await?;
        let text =
            |name: &str| addresses[name].as_str().map(str::to_owned).with_context(|| format!("no {name} announced"));
        let api = text("api")?;
        let join = text("discovery")?;
        let client = Api::open(&api, Some(&data_dir.join("admin.token")))?;
        client.apply_text("demo", RESOURCES).await?;
        let mut members = Vec::new();
        for (position, member) in MEMBERS.iter().enumerate() {
            let token = client.create_token("default", &[member.service], None, Duration::from_secs(600)).await?;
            members.push(start_member(&executable, &folder.0, position, member, &join, &token)?);
        }
        let token = client.create_token("default", &[SHOPPERS], None, Duration::from_secs(600)).await?;
        let (shoppers, shop) = start_shoppers(&executable, &folder.0, &join, &token).await?;
        members.push(shoppers);
        Ok(Self { api, data_dir, members, shop, started, control_plane: RefCell::new(control_plane), folder })
    }

    /// The local port that leads to the shop's front.
    pub fn shop_address(&self) -> SocketAddr {
        self.shop
    }

    /// The folder that goes with the demo.
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// Whether a process ended that should not have, and what it said last.
    pub fn dead_member(&self) -> Option<String> {
        if let Ok(Some(status)) = self.control_plane.borrow_mut().try_wait() {
            return Some(format!(
                "the control plane ended ({status}):\n{}",
                tail(&self.folder.0.join("control-plane.log"))
            ));
        }
        self.members.iter().find_map(|m| match m.child.borrow_mut().try_wait() {
            Ok(Some(status)) => Some(format!("{} ended ({status}):\n{}", m.label, tail(&m.log))),
            _ => None,
        })
    }
}

impl Drop for Mesh {
    /// SIGTERM to the supervisors, which end their proxies and programs; then to the control plane; stragglers are killed.
    fn drop(&mut self) {
        let mut children: Vec<&RefCell<Child>> = self.members.iter().map(|m| &m.child).collect();
        end_all(&children);
        children = vec![&self.control_plane];
        end_all(&children);
    }
}

fn end_all(children: &[&RefCell<Child>]) {
    for child in children {
        if let Some(pid) = child.borrow().id() {
            let _ = leno_sys::process::send_signal(pid, SIGTERM);
        }
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    for child in children {
        while matches!(child.borrow_mut().try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = child.borrow_mut().start_kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The JSON line that a process prints when it is ready.
async fn announced(child: &mut Child, log: &Path) -> Result<Value, Failure> {
    let stdout = child.stdout.take().context("no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(START_LIMIT, lines.next_line())
        .await
        .map_err(|_| anyhow!("not ready within {START_LIMIT:?}:\n{}", tail(log)))??
        .ok_or_else(|| anyhow!("ended before it was ready:\n{}", tail(log)))?;
    // The pipe stays open so that later lines do not end the process with SIGPIPE.
    tokio::task::spawn_local(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(serde_json::from_str(&line)?)
}

fn start_member(
    executable: &Path,
    folder: &Path,
    position: usize,
    member: &Member,
    join: &str,
    token: &str,
) -> Result<Running, Failure> {
    let name = format!("{}-{position}", member.service);
    let log = folder.join(format!("{name}.log"));
    let (listen, admin) = (free_address()?, free_address()?);
    let mut command = Command::new(executable);
    command
        .args(["run", "--service", member.service, "--port", &format!("80:{}", listen.port())])
        .args(["--labels", &format!("version={}", member.version), "--join", join, "--hop", "127.0.0.1:0"])
        .args(["--admin", &admin.to_string(), "--stop-grace", "1s", "--drain-deadline", "1s", "--drain-streams", "1s"])
        .arg("--state-dir")
        .arg(folder.join(&name))
        .env("LENO_TOKEN", token);
    for call in member.calls {
        command.args(["--upstream", &format!("{call}=0")]);
    }
    command.arg("--").arg(executable).args(["demo-app", "--name", member.service, "--version-label", member.version]);
    command.args(["--listen", &listen.to_string(), "--fail-percent", &member.fail_percent.to_string()]);
    command.args(["--latency-ms", &member.latency_ms.to_string()]);
    for call in member.calls {
        command.args(["--call", call]);
    }
    let child = spawn(&mut command, &log)?;
    Ok(Running { label: name, admin, child: RefCell::new(child), log })
}

async fn start_shoppers(
    executable: &Path,
    folder: &Path,
    join: &str,
    token: &str,
) -> Result<(Running, SocketAddr), Failure> {
    let log = folder.join("shoppers.log");
    let admin = free_address()?;
    let mut command = Command::new(executable);
    command
        .args(["proxy", "--service", SHOPPERS, "--join", join, "--upstream", "front=0", "--announce", "json"])
        .args([
            "--hop",
            "127.0.0.1:0",
            "--admin",
            &admin.to_string(),
            "--drain-deadline",
            "1s",
            "--drain-streams",
            "1s",
        ])
        .arg("--state-dir")
        .arg(folder.join(SHOPPERS))
        .env("LENO_TOKEN", token)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log)?)
        .process_group(0)
        .kill_on_drop(true);
    leno_sys::process::die_with_parent(command.as_std_mut(), SIGTERM);
    let mut child = command.spawn()?;
    let addresses = announced(&mut child, &log).await?;
    let shop = addresses["upstreams"][0][1].as_str().and_then(|a| a.parse().ok()).context("no upstream announced")?;
    Ok((Running { label: SHOPPERS.to_owned(), admin, child: RefCell::new(child), log }, shop))
}

fn spawn(command: &mut Command, log: &Path) -> Result<Child, Failure> {
    let file = std::fs::File::create(log)?;
    leno_sys::process::die_with_parent(command.as_std_mut(), SIGTERM);
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0).kill_on_drop(true);
    Ok(command.spawn()?)
}

/// A loopback address that was free a moment ago.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// The last lines of a log, for an error message.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
