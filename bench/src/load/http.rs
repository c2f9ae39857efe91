//! HTTP/1.1 load, closed or open loop.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Common;
use super::arrivals::Arrivals;
use super::slow::SlowReader;
use super::target;
use crate::http1::Reader;
use crate::outcome::{Outcome, Window};
use crate::reactor::{Interest, Reactor};

/// Read at once.
const BUFFER: usize = 256 << 10;
/// The loop looks at the clock at least this often, also when nothing comes.
const TURN: Duration = Duration::from_millis(10);
/// With so many failures something is broken, and the rest of the window would only repeat it.
const MAX_ERRORS: u64 = 10_000;
/// The number of the timer in the reactor.
const TIMER: u64 = u64::MAX;

/// Options of HTTP/1.1 load.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Requests per second of an open loop; without it the loop is closed
    #[arg(long)]
    rate: Option<f64>,
    /// Seed of the arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Bytes of an answer
    #[arg(long, default_value_t = 1024)]
    answer: u64,
    /// Send a body of so many bytes with POST
    #[arg(long)]
    post: Option<usize>,
    /// Further request headers, of 50 bytes each
    #[arg(long, default_value_t = 0)]
    headers: usize,
    /// A new connection for every request
    #[arg(long)]
    close: bool,
    /// One more client that asks for 1 GB and reads it slowly
    #[arg(long)]
    slow_reader: bool,
}

struct Connection {
    stream: TcpStream,
    reader: Reader,
    /// When its request was due or sent, in nanoseconds since the start; none while it is free.
    since: Option<u64>,
    /// Bytes of the request that are sent.
    sent: usize,
}

struct Load {
    options: Options,
    request: Vec<u8>,
    reactor: Reactor,
    connections: Vec<Connection>,
    free: Vec<usize>,
    /// Due, but no connection was free.
    waiting: VecDeque<u64>,
    arrivals: Option<Arrivals>,
    window: Window,
}

/// Runs it to its end.
pub fn run(options: Options) -> anyhow::Result<Outcome> {
    let reactor = Reactor::new(1024)?;
    let arrivals = options.rate.map(|rate| Arrivals::new(rate, options.seed)).transpose()?;
    if let Some(arrivals) = &arrivals {
        reactor.add(arrivals.timer(), TIMER, Interest::Read)?;
        arrivals.arm(0)?;
    }
    let mut slow = options.slow_reader.then(|| SlowReader::open(options.common.target)).transpose()?;
    let window = options.common.window();
    let mut load = Load {
        request: request(&options),
        reactor,
        connections: Vec::new(),
        free: Vec::new(),
        waiting: VecDeque::new(),
        arrivals,
        window,
        options,
    };
    for place in 0..load.options.common.connections as usize {
        let connection = load.open(place)?;
        load.connections.push(connection);
        if load.arrivals.is_some() {
            load.free.push(place);
        } else {
            let now = load.now();
            load.send(place, now)?;
        }
    }
    let mut buffer = vec![0; BUFFER];
    loop {
        let happened = load.reactor.wait(Some(TURN))?;
        let now = Instant::now();
        if !load.window.goes_on(now) || load.window.errors() > MAX_ERRORS {
            break;
        }
        for event in &happened {
            load.handle(event.number, event.writable, &mut buffer)?;
        }
        load.reactor.give_back(happened);
        if let Some(slow) = &mut slow
            && !slow.turn(now - load.window.started())
        {
            anyhow::bail!("the slow reader's connection ended after {} bytes", slow.read);
        }
    }
    let mut outcome = load.window.finish();
    if let Some(slow) = slow {
        anyhow::ensure!(slow.read > 0, "the slow reader read nothing");
        outcome.note = format!("slow reader: {} bytes", slow.read);
    }
    Ok(outcome)
}

fn request(options: &Options) -> Vec<u8> {
    let method = if options.post.is_some() { "POST" } else { "GET" };
    let mut text = format!("{method} /bytes/{} HTTP/1.1\r\nhost: {}\r\n", options.answer, options.common.target);
    for position in 0..options.headers {
        // 50 bytes each, name and separators and line end included.
        text.push_str(&format!("x-header-{position:02}: {}\r\n", "v".repeat(35)));
    }
    if options.close {
        text.push_str("connection: close\r\n");
    }
    if let Some(length) = options.post {
        text.push_str(&format!("content-length: {length}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(&"b".repeat(options.post.unwrap_or(0)));
    text.into_bytes()
}

impl Load {
    fn now(&self) -> u64 {
        self.window.started().elapsed().as_nanos() as u64
    }

    fn open(&self, place: usize) -> io::Result<Connection> {
        let stream = target::open(self.options.common.target)?;
        self.reactor.add(&stream, place as u64, Interest::Read)?;
        Ok(Connection { stream, reader: Reader::default(), since: None, sent: 0 })
    }

    fn handle(&mut self, number: u64, writable: bool, buffer: &mut [u8]) -> anyhow::Result<()> {
        if number == TIMER {
            return Ok(self.arrive()?);
        }
        let place = number as usize;
        if writable {
            return Ok(self.go_on_sending(place)?);
        }
        let connection = &mut self.connections[place];
        let length = match connection.stream.read(buffer) {
            Ok(0) => return self.replace(place),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => return self.replace(place),
        };
        self.window.received(length);
        let mut answer = None;
        let fed = connection.reader.feed(&buffer[..length], |m| answer = Some(m));
        let since = connection.since;
        match (fed, answer, since) {
            (Ok(()), None, Some(_)) => Ok(()), // more of it is to come
            (Ok(()), Some(answer), Some(since)) => {
                if answer.number == 200 {
                    let latency = self.now().saturating_sub(since);
                    self.window.succeeded(latency);
                } else {
                    self.window.failed();
                }
                if answer.close || self.options.close {
                    self.connections[place] = self.open(place)?;
                }
                self.next(place)
            }
            // Not HTTP, or an answer that nobody asked for.
            (Err(_), ..) | (Ok(()), _, None) => self.replace(place),
        }
    }

    /// The connection is gone. That is a failure when a request was under way, and always when nobody asked to close.
    fn replace(&mut self, place: usize) -> anyhow::Result<()> {
        self.window.failed();
        let was_free = self.connections[place].since.is_none();
        self.connections[place] = self.open(place)?;
        if was_free { Ok(()) } else { self.next(place) }
    }

    /// What a connection does when its request is done.
    fn next(&mut self, place: usize) -> anyhow::Result<()> {
        self.connections[place].since = None;
        if self.arrivals.is_none() {
            let now = self.now();
            self.send(place, now)?;
        } else if let Some(due) = self.waiting.pop_front() {
            self.send(place, due)?;
        } else {
            self.free.push(place);
        }
        Ok(())
    }

    fn arrive(&mut self) -> io::Result<()> {
        let now = self.now();
        while let Some(due) = self.arrivals.as_mut().and_then(|a| a.due(now)) {
            match self.free.pop() {
                Some(place) => self.send(place, due)?,
                None => self.waiting.push_back(due),
            }
        }
        let now = self.now();
        if let Some(arrivals) = &self.arrivals {
            arrivals.arm(now)?;
        }
        Ok(())
    }

    fn send(&mut self, place: usize, since: u64) -> io::Result<()> {
        let connection = &mut self.connections[place];
        connection.since = Some(since);
        connection.sent = 0;
        let interest = write_on(connection, &self.request)?;
        if interest == Interest::Write {
            self.reactor.change(&self.connections[place].stream, place as u64, interest)?;
        }
        Ok(())
    }

    fn go_on_sending(&mut self, place: usize) -> io::Result<()> {
        let interest = write_on(&mut self.connections[place], &self.request)?;
        if interest == Interest::Read {
            self.reactor.change(&self.connections[place].stream, place as u64, interest)?;
        }
        Ok(())
    }
}

/// Writes what it can; says what to wait for. A broken connection is found when it is read.
fn write_on(connection: &mut Connection, request: &[u8]) -> io::Result<Interest> {
    while connection.sent < request.len() {
        match connection.stream.write(&request[connection.sent..]) {
            Ok(length) => connection.sent += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Interest::Write),
            Err(_) => return Ok(Interest::Read),
        }
    }
    Ok(Interest::Read)
}
