//! The demo's shoppers: requests at a steady rate through a member's upstream port.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::app;

/// More requests under way than this means the shop hangs; new ones wait, so that memory stays bounded.
const UNDER_WAY: u32 = 256;
/// Latencies kept for a second's percentiles.
const KEPT: usize = 4096;
const PATHS: [&str; 4] = ["/", "/shoes", "/shirts", "/hats"];

/// What the shoppers saw.
#[derive(Default)]
pub struct Load {
    /// Requests answered with 200.
    pub fine: Cell<u64>,
    /// All others.
    pub failed: Cell<u64>,
    under_way: Cell<u32>,
    latencies: RefCell<Vec<Duration>>,
    last_error: RefCell<Option<String>>,
    first_answer: Cell<Option<Instant>>,
}

impl Load {
    /// Sends `rate` requests per second to `address` until dropped.
    pub async fn run(self: Rc<Self>, address: SocketAddr, rate: u32) {
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / f64::from(rate.max(1))));
        loop {
            ticks.tick().await;
            if self.under_way.get() >= UNDER_WAY {
                continue;
            }
            self.under_way.set(self.under_way.get() + 1);
            let load = Rc::clone(&self);
            tokio::task::spawn_local(async move { load.shop(address).await });
        }
    }

    async fn shop(&self, address: SocketAddr) {
        let path = PATHS[app::chance(4) as usize];
        let started = Instant::now();
        match app::call(address, "front", path, None).await {
            Ok((200, _)) => {
                self.fine.set(self.fine.get() + 1);
                if self.first_answer.get().is_none() {
                    self.first_answer.set(Some(Instant::now()));
                }
            }
            Ok((status, answer)) => self.note_failure(format!("{status} {answer}")),
            Err(error) => self.note_failure(error.to_string()),
        }
        let mut latencies = self.latencies.borrow_mut();
        if latencies.len() < KEPT {
            latencies.push(started.elapsed());
        }
        self.under_way.set(self.under_way.get() - 1);
    }

    fn note_failure(&self, text: String) {
        self.failed.set(self.failed.get() + 1);
        *self.last_error.borrow_mut() = Some(text);
    }

    /// When the first request was answered with 200.
    pub fn first_answer(&self) -> Option<Instant> {
        self.first_answer.get()
    }

    /// The newest failure, for the view's last line.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.borrow().clone()
    }

    /// p50 and p99 since the last call.
    pub fn take_percentiles(&self) -> (Duration, Duration) {
        let mut latencies = std::mem::take(&mut *self.latencies.borrow_mut());
        latencies.sort_unstable();
        let at =
            |share: usize| latencies.get(latencies.len().saturating_sub(1) * share / 100).copied().unwrap_or_default();
        (at(50), at(99))
    }
}
