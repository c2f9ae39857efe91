//! TCP load: round trips of small messages, and one stream as fast as it goes.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{Common, target};
use crate::outcome::Outcome;
use crate::reactor::{Interest, Reactor};

/// Read at once.
const BUFFER: usize = 256 << 10;
/// The loop looks at the clock at least this often.
const TURN: Duration = Duration::from_millis(10);

/// Options of round trips.
#[derive(Debug, Clone, clap::Args)]
pub struct PingPong {
    #[command(flatten)]
    common: Common,
    /// Bytes sent and awaited back
    #[arg(long, default_value_t = 128)]
    size: usize,
}

/// Options of one stream.
#[derive(Debug, Clone, clap::Args)]
pub struct Bulk {
    #[command(flatten)]
    common: Common,
}

struct Ball {
    stream: TcpStream,
    since: Instant,
    missing: usize,
}

/// Every connection sends a message and awaits it back, again and again.
pub fn ping_pong(options: PingPong) -> anyhow::Result<Outcome> {
    let mut reactor = Reactor::new(1024)?;
    let mut window = options.common.window();
    let mut balls = Vec::new();
    let message = vec![b'x'; options.size];
    for place in 0..options.common.connections {
        let mut stream = target::open(options.common.target)?;
        stream.write_all(b"e")?;
        stream.write_all(&message)?;
        reactor.add(&stream, place.into(), Interest::Read)?;
        balls.push(Ball { stream, since: Instant::now(), missing: options.size });
    }
    let mut buffer = vec![0; BUFFER];
    loop {
        let happened = reactor.wait(Some(TURN))?;
        if !window.goes_on(Instant::now()) {
            return Ok(window.finish());
        }
        for event in &happened {
            let ball = &mut balls[event.number as usize];
            let length = match ball.stream.read(&mut buffer) {
                Ok(0) => anyhow::bail!("the peer ended a connection"),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            anyhow::ensure!(length <= ball.missing, "more came back than was sent");
            ball.missing -= length;
            if ball.missing == 0 {
                window.succeeded(ball.since.elapsed().as_nanos() as u64);
                ball.since = Instant::now();
                ball.missing = options.size;
                // Small beside a socket's buffer, which is empty.
                ball.stream.write_all(&message)?;
            }
        }
        reactor.give_back(happened);
    }
}

/// Reads what the application sends without end.
pub fn bulk(options: &Bulk) -> anyhow::Result<Outcome> {
    let mut stream = TcpStream::connect(options.common.target)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"s")?;
    let mut window = options.common.window();
    let mut buffer = vec![0; BUFFER];
    while window.goes_on(Instant::now()) {
        let length = stream.read(&mut buffer)?;
        anyhow::ensure!(length > 0, "the peer ended the stream");
        window.received(length);
    }
    Ok(window.finish())
}
