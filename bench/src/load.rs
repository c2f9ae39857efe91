//! The load generator: one thread, one kind of load at a time, one line of JSON at the end.
//!
//! Closed loop: each connection sends its next request when the answer to the last one is complete; this finds how much
//! goes through. Open loop: requests are due at times drawn beforehand (exponential gaps, so that arrivals are Poisson),
//! whether or not earlier ones were answered; a latency counts from the time a request was due, so that a stall is felt
//! by all who would have come during it and not only by the one who met it.

pub mod arrivals;
pub mod churn;
pub mod grpc;
pub mod handshakes;
pub mod http;
pub mod idle;
pub mod slow;
pub mod target;
pub mod tcp;

use std::time::Duration;

/// What every kind of load takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Address to call, IP:PORT
    #[arg(long)]
    pub target: std::net::SocketAddr,
    /// Connections
    #[arg(long, default_value_t = 1)]
    pub connections: u32,
    /// Milliseconds before the window
    #[arg(long, default_value_t = 500)]
    pub warmup: u64,
    /// Length of the window in milliseconds
    #[arg(long, default_value_t = 2000)]
    pub window: u64,
    /// Processes whose CPU and memory to read at both ends of the window
    #[arg(long, value_delimiter = ',')]
    pub watch: Vec<u32>,
}

impl Common {
    /// The window that was asked for, beginning to count now.
    #[must_use]
    pub fn window(&self) -> crate::outcome::Window {
        let millis = Duration::from_millis;
        crate::outcome::Window::new(millis(self.warmup), millis(self.window), self.watch.clone())
    }
}
