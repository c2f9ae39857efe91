//! File descriptors that outlive a process: a supervisor owns the listeners, proxies come and go.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use socket2::SockRef;

/// Lets `fd` survive an `exec`, or not. Process-wide: prefer [`pass_fds`], which touches one child only.
pub fn set_inheritable(fd: impl AsFd, inheritable: bool) -> io::Result<()> {
    let flags = fcntl_getfd(&fd)?;
    let wanted = if inheritable { flags - FdFlags::CLOEXEC } else { flags | FdFlags::CLOEXEC };
    Ok(fcntl_setfd(&fd, wanted)?)
}

/// Gives `fds` to the child that `command` will start, and to no other; returns their numbers there, in order.
/// The command owns them until it is dropped.
#[expect(unsafe_code, reason = "Command::pre_exec is unsafe")]
pub fn pass_fds(command: &mut Command, fds: Vec<OwnedFd>) -> Vec<RawFd> {
    let numbers = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let clear = move || fds.iter().try_for_each(|fd| Ok(fcntl_setfd(fd, FdFlags::empty())?));
    // SAFETY: between fork and exec the closure makes fcntl system calls only: no allocation, no lock, no other
    // thread's state. It owns the descriptors, so their numbers are still theirs.
    unsafe { command.pre_exec(clear) };
    numbers
}

/// Takes over a listening socket that the parent passed by number. It is closed on exec and non-blocking from then on.
///
/// Each number may be taken once. Numbers that are not an open, listening stream socket are refused, so a wrong number
/// cannot take a descriptor that the process uses for something else and that is not a listener.
#[expect(unsafe_code, reason = "a number becomes an owned descriptor")]
pub fn take_listener(number: RawFd) -> io::Result<TcpListener> {
    let refuse = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("file descriptor {number} {why}"));
    if number <= 2 {
        return Err(refuse("is standard input, output or error"));
    }
    // SAFETY: fcntl(F_GETFD) of any number is harmless; it fails with EBADF for one that is not open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(refuse("is not open: was it passed by the supervisor?"));
    }
    // SAFETY: the number is open (just checked), stays open for these calls because nothing else in the process knows
    // it, and is only borrowed.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    if !SockRef::from(&borrowed).is_listener().unwrap_or(false) {
        return Err(refuse("is not a listening socket"));
    }
    // SAFETY: open, a listener, and by the contract above owned by nobody else in this process.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    set_inheritable(&owned, false)?;
    let listener = TcpListener::from(owned);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpStream;
    use std::os::fd::IntoRawFd;
    use std::process::Stdio;

    #[test]
    fn a_listener_is_taken_by_number() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let number = listener.into_raw_fd();
        let taken = take_listener(number).unwrap();
        assert_eq!(taken.local_addr().unwrap(), address);
        assert!(fcntl_getfd(&taken).unwrap().contains(FdFlags::CLOEXEC));
        set_inheritable(&taken, true).unwrap();
        assert!(!fcntl_getfd(&taken).unwrap().contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn other_descriptors_are_refused_and_stay_open() {
        let file = tempfile::tempfile().unwrap();
        for (number, word) in [(0, "standard"), (-1, "standard"), (9999, "not open"), (file.as_raw_fd(), "listening")] {
            let error = take_listener(number).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        file.sync_all().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(take_listener(stream.as_raw_fd()).is_err());
        stream.peer_addr().unwrap();
    }

    #[test]
    fn a_child_gets_what_is_passed_and_nothing_else() {
        let link = |fd: RawFd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().display().to_string();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let kept = TcpListener::bind("127.0.0.1:0").unwrap();
        let (passed, private) = (link(listener.as_raw_fd()), link(kept.as_raw_fd()));
        let mut command = Command::new("ls");
        command.args(["-l", "/proc/self/fd"]).stdout(Stdio::piped());
        let numbers = pass_fds(&mut command, vec![listener.into()]);
        let mut child = command.spawn().unwrap();
        let mut seen = String::new();
        child.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(seen.contains(&format!(" {} -> {passed}", numbers[0])), "{seen}");
        assert!(!seen.contains(&private), "{seen}");
    }
}
