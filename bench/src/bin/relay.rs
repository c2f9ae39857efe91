//! The yardstick: a bare TCP relay, one epoll loop on one thread, without TLS, HTTP, policy or metrics.
//!
//! `relay LISTEN CONNECT`. What it costs per request is what carrying bytes costs on this machine; every proxy is quoted
//! against it.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// One direction's read buffer; shared, since what is read is written at once or kept in `Side::unsent`.
const BUFFER: usize = 64 << 10;

struct Side {
    socket: OwnedFd,
    peer: RawFd,
    /// Read from the peer, not yet taken by this socket.
    unsent: Vec<u8>,
    ended: bool,
}

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(listen), Some(target)) = (words.next(), words.next()) else {
        anyhow::bail!("usage: relay LISTEN CONNECT")
    };
    let target: SocketAddr = target.parse()?;
    let listener = TcpListener::bind(&listen)?;
    listener.set_nonblocking(true)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let listening = listener.as_raw_fd();
    add(&poll, &listener, listening, epoll::EventFlags::IN)?;
    println!("ready");
    let mut sides: BTreeMap<RawFd, Side> = BTreeMap::new();
    let mut buffer = vec![0; BUFFER];
    let mut events = Vec::with_capacity(1024);
    loop {
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        }
        for event in &events {
            let flags = event.flags; // a copy: the kernel's struct is packed
            let fd = RawFd::try_from(event.data.u64())?;
            if fd == listening {
                accept(&poll, &listener, target, &mut sides)?;
            } else {
                let ends = (flags.contains(epoll::EventFlags::OUT) && !drain(&mut sides, fd))
                    || (flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
                        && !pump(&mut sides, fd, &mut buffer));
                if ends && let Some(side) = sides.remove(&fd) {
                    sides.remove(&side.peer);
                }
            }
        }
    }
}

fn add(poll: &OwnedFd, source: impl AsFd, fd: RawFd, flags: epoll::EventFlags) -> anyhow::Result<()> {
    Ok(epoll::add(poll, source, epoll::EventData::new_u64(u64::try_from(fd)?), flags)?)
}

fn accept(
    poll: &OwnedFd,
    listener: &TcpListener,
    target: SocketAddr,
    sides: &mut BTreeMap<RawFd, Side>,
) -> anyhow::Result<()> {
    while let Ok((near, _)) = listener.accept() {
        let Ok(far) = TcpStream::connect(target) else { continue };
        let pair = [near, far];
        let fds = [pair[0].as_raw_fd(), pair[1].as_raw_fd()];
        for (position, stream) in pair.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            add(poll, &stream, fds[position], flags)?;
            let side = Side { socket: stream.into(), peer: fds[1 - position], unsent: Vec::new(), ended: false };
            sides.insert(fds[position], side);
        }
    }
    Ok(())
}

/// Reads all there is and gives it to the peer; false when the pair is over.
fn pump(sides: &mut BTreeMap<RawFd, Side>, fd: RawFd, buffer: &mut [u8]) -> bool {
    loop {
        let Some(side) = sides.get(&fd) else { return true };
        let peer = side.peer;
        match recv(&side.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => {
                if let Some(side) = sides.get_mut(&fd) {
                    side.ended = true;
                }
                return false;
            }
            Ok((length, _)) => {
                let Some(to) = sides.get_mut(&peer) else { return false };
                if to.unsent.is_empty() {
                    match send(&to.socket, &buffer[..length], SendFlags::NOSIGNAL) {
                        Ok(sent) if sent == length => {}
                        Ok(sent) => to.unsent.extend_from_slice(&buffer[sent..length]),
                        Err(Errno::AGAIN) => to.unsent.extend_from_slice(&buffer[..length]),
                        Err(_) => return false,
                    }
                } else {
                    to.unsent.extend_from_slice(&buffer[..length]);
                }
                if length < buffer.len() {
                    return true; // a short read emptied the socket; the edge comes again
                }
            }
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
}

/// Sends what could not be sent before; false when the pair is over.
fn drain(sides: &mut BTreeMap<RawFd, Side>, fd: RawFd) -> bool {
    let Some(side) = sides.get_mut(&fd) else { return true };
    while !side.unsent.is_empty() {
        match send(&side.socket, &side.unsent, SendFlags::NOSIGNAL) {
            Ok(sent) => drop(side.unsent.drain(..sent)),
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
    true
}
