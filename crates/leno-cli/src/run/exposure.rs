//! Refuses a program that listens off loopback, where callers would bypass the mesh (D12a).

use std::net::SocketAddr;
use std::time::Duration;

use leno_proxy::settings::ProxySettings;

/// How often the kernel is asked who listens. A program may open a port at any time, so the watch never ends.
const INTERVAL: Duration = Duration::from_millis(250);

/// Watches the ports that the member serves.
pub struct Watch {
    ports: Vec<u16>,
    ticks: tokio::time::Interval,
}

impl Watch {
    /// Nothing is watched when `--allow-exposed` was given.
    pub fn new(settings: &ProxySettings) -> Self {
        let ports = if settings.allow_exposed {
            Vec::new()
        } else {
            settings.ports.iter().map(|p| p.app_address().port()).collect()
        };
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        Self { ports, ticks }
    }

    /// Resolves with what is wrong and how to mend it. Cancel-safe.
    pub async fn exposed(&mut self) -> String {
        loop {
            if self.ports.is_empty() {
                std::future::pending::<()>().await;
            }
            self.ticks.tick().await;
            for port in &self.ports {
                if let Some(address) = exposed_listener(*port) {
                    return format!(
                        "exposed_app: the program listens on {address}, where callers can bypass the mesh; \
                         bind it to 127.0.0.1:{port}, or pass --allow-exposed to accept that"
                    );
                }
            }
        }
    }
}

/// A listener on the port that is not bound to loopback.
fn exposed_listener(port: u16) -> Option<SocketAddr> {
    leno_proxy::exposure::exposed_listeners(port).ok()?.into_iter().next()
}
