//! Connections that made one request each and then do nothing: what they cost in memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Common;
use crate::http1::Reader;
use crate::outcome::Outcome;
use crate::usage::{self, Memory};

/// Requests on the first connection, so that whatever is made once is made before memory is read.
const FIRST: usize = 200;
/// Of so many connections one is asked again at the end: they must have been alive all the time.
const ASK_AGAIN: usize = 100;
/// An answer that is not there after this long will not come.
const LIMIT: Duration = Duration::from_secs(10);

/// Options of idle connections. The window is how long they do nothing before memory is read.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
}

/// Runs it to its end.
pub fn run(options: &Options) -> anyhow::Result<Outcome> {
    let common = &options.common;
    let request = format!("GET /bytes/1024 HTTP/1.1\r\nhost: {}\r\n\r\n", common.target);
    let open = || -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&common.target, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(stream)
    };
    let mut outcome = Outcome::default();
    let mut first = open()?;
    for _ in 0..FIRST {
        ask(&mut first, &request)?;
    }
    let before = each(&common.watch)?;
    let mut connections = Vec::new();
    for _ in 0..common.connections {
        let mut stream = open()?;
        ask(&mut stream, &request)?;
        connections.push(stream);
    }
    // Not a wait for a state: how long memory may take to come back is part of what is measured.
    std::thread::sleep(Duration::from_millis(common.window));
    let after = each(&common.watch)?;
    for stream in connections.iter_mut().step_by(ASK_AGAIN) {
        match ask(stream, &request) {
            Ok(()) => outcome.done += 1,
            Err(_) => outcome.errors += 1,
        }
    }
    outcome.seconds = common.window as f64 / 1e3;
    for ((before, after), name) in before.iter().zip(&after).zip(["far", "near"]) {
        let each = |kb: fn(&Memory) -> u64| (kb(after) as f64 - kb(before) as f64) / f64::from(common.connections);
        outcome.more.insert(format!("{name}_anonymous_kb"), each(|m| m.anonymous));
        outcome.more.insert(format!("{name}_before_anonymous_mb"), before.anonymous as f64 / 1024.0);
        outcome.more.insert(format!("{name}_before_resident_mb"), before.resident as f64 / 1024.0);
    }
    outcome.more.insert("connections".to_owned(), f64::from(common.connections));
    outcome.memory = usage::memory(&common.watch)?;
    Ok(outcome)
}

fn each(pids: &[u32]) -> anyhow::Result<Vec<Memory>> {
    pids.iter().map(|pid| Ok(usage::memory(&[*pid])?)).collect()
}

fn ask(stream: &mut TcpStream, request: &str) -> anyhow::Result<()> {
    stream.write_all(request.as_bytes())?;
    let (mut reader, mut answer) = (Reader::default(), None);
    let mut buffer = [0; 4096];
    while answer.is_none() {
        let length = stream.read(&mut buffer)?;
        anyhow::ensure!(length > 0, "the peer ended a connection");
        reader.feed(&buffer[..length], |m| answer = Some(m)).map_err(|_| anyhow::anyhow!("not HTTP"))?;
    }
    anyhow::ensure!(answer.is_some_and(|a| a.number == 200), "{answer:?}");
    Ok(())
}
