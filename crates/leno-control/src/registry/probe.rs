//! Is anybody there? One connection attempt to each address of an instance that was lost together with many.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::net::TcpStream;

use super::presence::Probe;

/// Time for one attempt.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Attempts at one time. The addresses of one registration, all without an answer, take less than the pause between two probes, and
/// all probes at one time leave most of the open-file limit to proxies.
const AT_ONCE: usize = 32;

/// Connects to the addresses and closes again. Only a refusal, which takes a living host to say, counts as death.
pub async fn probe(addresses: &[SocketAddr]) -> Probe {
    let mut attempts = stream::iter(addresses.iter().copied().map(attempt)).buffer_unordered(AT_ONCE);
    let mut outcome = Probe::Silent;
    while let Some(found) = attempts.next().await {
        match found {
            Probe::Answered => return Probe::Answered,
            Probe::Refused => outcome = Probe::Refused,
            Probe::Silent => {}
        }
    }
    outcome
}

async fn attempt(address: SocketAddr) -> Probe {
    match tokio::time::timeout(TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Probe::Answered,
        Ok(Err(e)) if e.kind() == ErrorKind::ConnectionRefused => Probe::Refused,
        Ok(Err(_)) | Err(_) => Probe::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::super::admission::MAX_ADDRESSES;
    use super::super::presence::PROBE_INTERVAL;
    use super::*;

    #[tokio::test]
    async fn a_listener_answers_and_a_closed_port_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(probe(&[address]).await, Probe::Answered);
        drop(listener);
        assert_eq!(probe(&[address]).await, Probe::Refused);
        assert_eq!(probe(&[]).await, Probe::Silent);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_ends_before_the_next_one_of_the_same_instance() {
        // A listener whose queue is full: what more comes in is dropped without an answer.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = socket.listen(1).unwrap();
        let address = full.local_addr().unwrap();
        let _queued: Vec<_> = (0..2).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        // The clock is the runtime's: it goes on when there is nothing left but to wait.
        let began = tokio::time::Instant::now();
        assert_eq!(probe(&[address; MAX_ADDRESSES]).await, Probe::Silent);
        assert!(began.elapsed() <= PROBE_INTERVAL, "{:?}", began.elapsed());
    }
}
