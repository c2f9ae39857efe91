//! Accepting connections and moving their bytes.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::{http, tcp};
use crate::reactor::{Interest, Reactor};

/// Read at once.
const BUFFER: usize = 256 << 10;

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// HTTP/1.1: any method, `/bytes/N` is answered with N bytes.
    Http,
    /// The first byte says what the connection is for; see `tcp`.
    Tcp,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// For more to come in.
    Reading,
    /// For room to send; nothing is read until then.
    Writing,
    /// For nothing: it is over.
    Over,
}

/// One connection's side of a protocol.
pub trait Session {
    /// Takes what came in.
    fn received(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Sends what there is to send.
    fn send(&mut self, stream: &mut TcpStream) -> io::Result<Flow>;
}

struct Connection {
    stream: TcpStream,
    session: Box<dyn Session>,
    flow: Flow,
}

/// Serves these ports for ever.
pub fn run(ports: &[(Kind, SocketAddr)]) -> anyhow::Result<()> {
    let mut reactor = Reactor::new(1024)?;
    let mut listeners = Vec::new();
    for (kind, address) in ports {
        let listener = TcpListener::bind(address)?;
        // The backlog of the standard library is 128; a storm of connections must not measure resent SYNs.
        rustix::net::listen(&listener, 4096)?;
        listener.set_nonblocking(true)?;
        reactor.add(&listener, listeners.len() as u64, Interest::Read)?;
        listeners.push((*kind, listener));
    }
    let mut next = listeners.len() as u64;
    let mut connections: BTreeMap<u64, Connection> = BTreeMap::new();
    let mut buffer = vec![0; BUFFER];
    println!("ready");
    loop {
        let happened = reactor.wait(None)?;
        for event in &happened {
            if let Some((kind, listener)) = listeners.get(event.number as usize) {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    reactor.add(&stream, next, Interest::Read)?;
                    let session: Box<dyn Session> = match kind {
                        Kind::Http => Box::<http::Http>::default(),
                        Kind::Tcp => Box::<tcp::Tcp>::default(),
                    };
                    connections.insert(next, Connection { stream, session, flow: Flow::Reading });
                    next += 1;
                }
                continue;
            }
            let Some(connection) = connections.get_mut(&event.number) else { continue };
            let before = connection.flow;
            let flow = turn(connection, event.writable, &mut buffer).unwrap_or(Flow::Over);
            connection.flow = flow;
            match flow {
                Flow::Over => drop(connections.remove(&event.number)),
                Flow::Writing if before != flow => reactor.change(&connection.stream, event.number, Interest::Write)?,
                Flow::Reading if before != flow => reactor.change(&connection.stream, event.number, Interest::Read)?,
                Flow::Reading | Flow::Writing => {}
            }
        }
        reactor.give_back(happened);
    }
}

fn turn(connection: &mut Connection, writable: bool, buffer: &mut [u8]) -> io::Result<Flow> {
    if !writable {
        match connection.stream.read(buffer) {
            Ok(0) => return Ok(Flow::Over),
            Ok(length) => connection.session.received(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(connection.flow),
            Err(error) => return Err(error),
        }
    }
    connection.session.send(&mut connection.stream)
}
