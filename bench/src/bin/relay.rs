//! The yardstick: a bare TCP relay, one epoll loop on one thread, without TLS, HTTP, policy or metrics.
//!
//! `relay LISTEN CONNECT [LISTEN CONNECT …]`. What it costs per request is what carrying bytes costs on this machine; every
//! proxy is quoted against it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use socket2::{Domain, Socket, Type};

/// Read buffer, shared: what is read is written at once or kept in `Side::unsent`, and then no more is read.
const BUFFER: usize = 64 << 10;

enum Entry {
    Listener(TcpListener, SocketAddr),
    Side(Side),
}

struct Side {
    socket: OwnedFd,
    peer: RawFd,
    /// Read from the peer, not yet taken by this socket; at most one buffer.
    unsent: Vec<u8>,
    sent: usize,
    /// It will send no more.
    ended: bool,
}

/// Everything by file descriptor.
struct Relay {
    poll: OwnedFd,
    entries: Vec<Option<Entry>>,
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    anyhow::ensure!(
        !words.is_empty() && words.len().is_multiple_of(2),
        "usage: relay LISTEN CONNECT [LISTEN CONNECT …]"
    );
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut relay = Relay { poll, entries: Vec::new() };
    for pair in words.chunks(2) {
        let listener = TcpListener::bind(&pair[0])?;
        rustix::net::listen(&listener, 4096)?;
        listener.set_nonblocking(true)?;
        let fd = listener.as_raw_fd();
        relay.add(&listener, epoll::EventFlags::IN)?;
        *relay.place(fd) = Some(Entry::Listener(listener, pair[1].parse()?));
    }
    println!("ready");
    let mut buffer = vec![0; BUFFER];
    let mut events = Vec::with_capacity(1024);
    loop {
        events.clear();
        match epoll::wait(&relay.poll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        }
        for event in &events {
            let flags = event.flags; // a copy: the kernel's struct is packed
            let fd = RawFd::try_from(event.data.u64())?;
            if let Some(Entry::Listener(..)) = relay.place(fd) {
                relay.accept(fd)?;
                continue;
            }
            let ending = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
            let readable = epoll::EventFlags::IN | ending;
            let goes_on = (!flags.contains(epoll::EventFlags::OUT) || relay.drain(fd, &mut buffer))
                && (!flags.intersects(readable) || relay.pump(fd, &mut buffer, flags.intersects(ending)));
            if !goes_on {
                relay.remove(fd);
            }
        }
    }
}

/// Begins to connect: until it is open, sending asks to be called again.
fn connect(target: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), None).ok()?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => None,
        _ => Some(socket.into()),
    }
}

impl Relay {
    fn place(&mut self, fd: RawFd) -> &mut Option<Entry> {
        let place = usize::try_from(fd).expect("descriptors are not negative");
        if self.entries.len() <= place {
            self.entries.resize_with(place + 1, || None);
        }
        &mut self.entries[place]
    }

    fn side(&mut self, fd: RawFd) -> Option<&mut Side> {
        match self.place(fd) {
            Some(Entry::Side(side)) => Some(side),
            _ => None,
        }
    }

    fn add(&self, source: &(impl AsFd + AsRawFd), flags: epoll::EventFlags) -> anyhow::Result<()> {
        let number = u64::try_from(source.as_raw_fd())?;
        Ok(epoll::add(&self.poll, source, epoll::EventData::new_u64(number), flags)?)
    }

    fn accept(&mut self, listening: RawFd) -> anyhow::Result<()> {
        loop {
            let Some(Entry::Listener(listener, target)) = self.place(listening) else { return Ok(()) };
            let Ok((near, _)) = listener.accept() else { return Ok(()) };
            let Some(far) = connect(*target) else { continue };
            let pair = [near, far];
            let fds = [pair[0].as_raw_fd(), pair[1].as_raw_fd()];
            for (position, stream) in pair.into_iter().enumerate() {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let both = epoll::EventFlags::IN | epoll::EventFlags::OUT;
                self.add(&stream, both | epoll::EventFlags::RDHUP | epoll::EventFlags::ET)?;
                let peer = fds[1 - position];
                let side = Side { socket: stream.into(), peer, unsent: Vec::new(), sent: 0, ended: false };
                *self.place(fds[position]) = Some(Entry::Side(side));
            }
        }
    }

    fn remove(&mut self, fd: RawFd) {
        if let Some(Entry::Side(side)) = self.place(fd).take() {
            self.place(side.peer).take();
        }
    }

    /// Reads all there is and gives it to the peer, until the peer takes no more; false when the pair is over. A short read
    /// emptied the socket and the edge comes again, unless the end may stand behind it: then `to_the_end`.
    fn pump(&mut self, fd: RawFd, buffer: &mut [u8], to_the_end: bool) -> bool {
        loop {
            let Some(side) = self.side(fd) else { return true };
            let (peer, ended) = (side.peer, side.ended);
            let blocked = self.side(peer).is_none_or(|p| !p.unsent.is_empty());
            if blocked || ended {
                return true; // goes on when the peer's rest is sent
            }
            let Some(side) = self.side(fd) else { return true };
            let length = match recv(&side.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            };
            side.ended = length == 0;
            let Some(to) = self.side(peer) else { return false };
            if length == 0 {
                let _ = shutdown(&to.socket, Shutdown::Write);
                return !to.ended;
            }
            match send(&to.socket, &buffer[..length], SendFlags::NOSIGNAL) {
                Ok(sent) if sent == length => {}
                Ok(sent) => to.unsent.extend_from_slice(&buffer[sent..length]),
                Err(Errno::AGAIN) => to.unsent.extend_from_slice(&buffer[..length]),
                Err(_) => return false,
            }
            if length < buffer.len() && !to_the_end {
                return true;
            }
        }
    }

    /// Sends what could not be sent before, then reads on from the peer; false when the pair is over.
    fn drain(&mut self, fd: RawFd, buffer: &mut [u8]) -> bool {
        let Some(side) = self.side(fd) else { return true };
        if side.unsent.is_empty() {
            return true;
        }
        while side.sent < side.unsent.len() {
            match send(&side.socket, &side.unsent[side.sent..], SendFlags::NOSIGNAL) {
                Ok(sent) => side.sent += sent,
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        side.unsent.clear();
        side.sent = 0;
        let peer = side.peer;
        self.pump(peer, buffer, true)
    }
}
