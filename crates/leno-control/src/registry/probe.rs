//! Is anybody there? One connection attempt to an instance that was lost together with many.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::presence::Probe;

/// Time for one attempt.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to each address in turn and closes again. Only a refusal, which takes a living host to say, counts as death.
pub async fn probe(addresses: &[SocketAddr]) -> Probe {
    let mut outcome = Probe::Silent;
    for address in addresses {
        match tokio::time::timeout(TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Probe::Answered,
            Ok(Err(e)) if e.kind() == ErrorKind::ConnectionRefused => outcome = Probe::Refused,
            Ok(Err(_)) | Err(_) => {}
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
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
}
