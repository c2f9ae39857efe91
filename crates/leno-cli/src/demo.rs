//! `leno demo`: a whole mesh on one machine, as real processes, with nothing left behind.
//!
//! Control plane, shop services under `leno run` with a proxy each, a client-only member for the shoppers, and a live
//! view fed by the proxies' own metrics. Everything lives below one temporary folder and one process group each.

pub mod app;
mod load;
mod processes;
mod scrape;
mod shop;
mod view;

use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::Failure;
use crate::arguments::DemoArguments;
use load::Load;
use processes::Mesh;

/// How often the view is drawn.
const FRAME: Duration = Duration::from_secs(1);

/// Runs the demo until Ctrl-C, SIGTERM or `--seconds`.
pub fn run(arguments: &DemoArguments) -> Result<ExitCode, Failure> {
    crate::logging::start("error");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let outcome = tokio::select! {
            outcome = show(arguments) => outcome,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
            _ = hangup.recv() => Ok(()),
        };
        view::restore();
        outcome.map(|()| ExitCode::SUCCESS)
    })
}

/// Starts everything, then draws until cancelled. Dropping this future ends every process and removes the folder.
async fn show(arguments: &DemoArguments) -> Result<(), Failure> {
    if !arguments.json {
        eprintln!("Starting a control plane and {} members ...", shop::MEMBERS.len() + 1);
    }
    let mesh = Mesh::start().await?;
    let load = Rc::new(Load::default());
    tokio::task::spawn_local(Rc::clone(&load).run(mesh.shop_address(), arguments.rate));
    let mut frames = tokio::time::interval(FRAME);
    let mut view = view::View::new(arguments.json);
    let end = arguments.seconds.map(|s| Instant::now() + Duration::from_secs(s));
    loop {
        frames.tick().await;
        if let Some(dead) = mesh.dead_member() {
            return Err(Failure::Failed(anyhow::anyhow!("{dead}")));
        }
        let edges = scrape::edges(&mesh).await;
        view.draw(&mesh, &load, &edges);
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(());
        }
    }
}
