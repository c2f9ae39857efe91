//! epoll, level-triggered, on one thread: what the generator and the application run on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// What to be woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Bytes to read, or the end.
    Read,
    /// Room to write.
    Write,
}

/// Something happened to what was added with this number.
#[derive(Debug, Clone, Copy)]
pub struct Happened {
    /// As given to [`Reactor::add`].
    pub number: u64,
    /// There is room to write; otherwise there is something to read.
    pub writable: bool,
}

/// One epoll instance.
pub struct Reactor {
    poll: OwnedFd,
    events: Vec<epoll::Event>,
    happened: Vec<Happened>,
}

impl Reactor {
    /// An empty one that gives up to `turn` events at once.
    pub fn new(turn: usize) -> io::Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { poll, events: Vec::with_capacity(turn), happened: Vec::with_capacity(turn) })
    }

    /// Adds a descriptor. Closing it takes it away.
    pub fn add(&self, what: impl AsFd, number: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.poll, what, epoll::EventData::new_u64(number), flags(interest))?)
    }

    /// Changes what it is woken for.
    pub fn change(&self, what: impl AsFd, number: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.poll, what, epoll::EventData::new_u64(number), flags(interest))?)
    }

    /// Waits; with a limit it may come back with nothing. The limit is rounded up to milliseconds.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<Vec<Happened>> {
        let limit = limit.map(|l| Timespec { tv_sec: l.as_secs() as i64, tv_nsec: l.subsec_nanos().into() });
        self.events.clear();
        match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut self.events), limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut happened = std::mem::take(&mut self.happened);
        happened.clear();
        happened.extend(self.events.iter().map(|e| {
            let flags = e.flags; // a copy: the kernel's struct is packed
            Happened { number: e.data.u64(), writable: flags.contains(epoll::EventFlags::OUT) }
        }));
        Ok(happened)
    }

    /// Gives the list of [`Reactor::wait`] back, so that its memory is used again.
    pub fn give_back(&mut self, happened: Vec<Happened>) {
        self.happened = happened;
    }
}

fn flags(interest: Interest) -> epoll::EventFlags {
    match interest {
        Interest::Read => epoll::EventFlags::IN,
        Interest::Write => epoll::EventFlags::OUT,
    }
}
