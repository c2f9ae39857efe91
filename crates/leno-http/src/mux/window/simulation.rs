//! Two ends of a hop over a link with a delay and a rate, in simulated time: what windows do to throughput.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::body::Frame;
use crate::head::HeadError;
use crate::hop::Engine;
use crate::mux::limits::{Budget, MAX_STREAM_WINDOW, STREAM_WINDOW, WORKER_BUDGET, WORKER_GROWTH};
use crate::mux::{Side, StreamKey};

/// Unsent bytes in the kernel beyond which nothing is produced, as the driver sets it.
const UNSENT: usize = 128 * 1024;

/// One direction.
struct Link {
    delay: Duration,
    bytes_per_ms: usize,
    backlog: VecDeque<u8>,
    /// Sent, and when it arrives.
    on_its_way: VecDeque<(Duration, Vec<u8>)>,
}

impl Link {
    /// Takes what the sender has, sends what the rate allows in `step`, and gives what arrives.
    fn step(&mut self, from: &mut Engine, to: &mut Engine, now: Duration, step: Duration) {
        from.tell_time(now);
        if from.wants_round_trip() {
            from.tell_round_trip(Some(self.delay * 2));
        }
        while self.backlog.len() < UNSENT && from.has_output() {
            let mut out = Vec::new();
            from.produce(&mut out, 64 * 1024);
            self.backlog.extend(out);
        }
        let most = self.bytes_per_ms * usize::try_from(step.as_micros()).unwrap() / 1000;
        let sent: Vec<u8> = self.backlog.drain(..most.min(self.backlog.len())).collect();
        if !sent.is_empty() {
            self.on_its_way.push_back((now + self.delay, sent));
        }
        while self.on_its_way.front().is_some_and(|(at, _)| *at <= now) {
            let (_, bytes) = self.on_its_way.pop_front().unwrap();
            to.receive(&bytes, now).unwrap();
        }
    }
}

fn text(text: &str) -> impl FnOnce(&mut Vec<u8>) -> Result<(), HeadError> {
    move |out| {
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Bulk from the termination to the origination.
struct World {
    client: Engine,
    server: Engine,
    budget: Rc<Budget>,
    up: Link,
    down: Link,
    now: Duration,
    step: Duration,
    streams: Vec<(StreamKey, StreamKey)>,
}

impl World {
    fn new(round_trip: Duration, bytes_per_ms: usize, streams: usize) -> Self {
        let budget = Rc::new(Budget::default());
        let link =
            || Link { delay: round_trip / 2, bytes_per_ms, backlog: VecDeque::new(), on_its_way: VecDeque::new() };
        let mut world = Self {
            client: Engine::new(Side::Origination, Rc::clone(&budget)),
            server: Engine::new(Side::Termination, Rc::default()),
            budget,
            up: link(),
            down: link(),
            now: Duration::ZERO,
            step: (round_trip / 20).min(Duration::from_millis(1)),
            streams: Vec::new(),
        };
        while !world.client.is_ready() {
            world.pass();
        }
        for _ in 0..streams {
            let ours = world.client.open(text("request"), true).unwrap();
            let accepted = loop {
                world.pass();
                if let Some(accepted) = world.server.next_accepted() {
                    break accepted;
                }
            };
            world.server.send_head(accepted.key, false, text("200")).unwrap();
            world.streams.push((ours, accepted.key));
        }
        world
    }

    fn pass(&mut self) {
        self.now += self.step;
        self.up.step(&mut self.client, &mut self.server, self.now, self.step);
        self.down.step(&mut self.server, &mut self.client, self.now, self.step);
    }

    /// Goes on for so long; every writer writes what it may, every reader reads at most so many bytes per millisecond. How many
    /// bytes were read.
    fn run(&mut self, time: Duration, read_per_ms: i64) -> usize {
        let cx = Context::from_waker(Waker::noop());
        let (until, mut sum, mut may_read) = (self.now + time, 0, 0_i64);
        while self.now < until {
            for &(_, theirs) in &self.streams {
                while self.server.poll_room(theirs, &cx).is_ready() {
                    self.server.send_data(theirs, vec![0; 16 * 1024].into());
                }
            }
            self.pass();
            may_read = (may_read + read_per_ms * i64::try_from(self.step.as_micros()).unwrap() / 1000).min(1 << 40);
            self.client.tell_time(self.now);
            for &(ours, _) in &self.streams {
                while may_read > 0
                    && let Poll::Ready(Some(Ok(Frame::Data(bytes)))) = self.client.poll_body(ours, &cx)
                {
                    may_read -= i64::try_from(bytes.len()).unwrap();
                    sum += bytes.len();
                }
            }
        }
        sum
    }

    fn window(&mut self) -> u32 {
        let (ours, _) = self.streams[0];
        self.client.get(ours).unwrap().window
    }
}

const SECOND: Duration = Duration::from_secs(1);
const FAST: i64 = 1 << 30;

#[test]
fn over_a_long_way_throughput_grows_with_the_window() {
    let mut world = World::new(Duration::from_millis(100), 50_000, 1);
    let first = world.run(SECOND / 2, FAST);
    assert!(first < 5_000_000, "at first a window or two per round trip: {first}");
    world.run(2 * SECOND, FAST);
    let later = world.run(SECOND / 2, FAST);
    // A link of 50 MB/s holds 5 MB in a round trip of 100 ms.
    assert!(later > 22_500_000, "the link is full: {later} after {first}");
    assert_eq!(world.window(), MAX_STREAM_WINDOW);
    assert!(world.client.growth.connection_window() > MAX_STREAM_WINDOW, "the connection's is larger");
    assert_eq!(world.budget.granted(), world.client.growth.taken());
}

#[test]
fn a_window_that_is_not_used_falls_back() {
    let mut world = World::new(Duration::from_millis(100), 50_000, 1);
    world.run(3 * SECOND, FAST);
    assert_eq!(world.window(), MAX_STREAM_WINDOW);
    // A reader of 150 KB/s takes the first window in 17 round trips.
    world.step = Duration::from_millis(5);
    world.run(90 * SECOND, 150);
    assert_eq!(world.window(), STREAM_WINDOW);
    assert_eq!(world.client.growth.streams, 0);
    assert!(world.client.bytes_held().0 <= 2 * STREAM_WINDOW as usize);
    let (ours, _) = world.streams[0];
    world.client.release(ours);
    world.streams.clear();
    drop(world.client);
    assert_eq!((world.budget.granted(), world.budget.held()), (0, 0));
}

#[test]
fn over_a_short_way_nothing_grows() {
    let mut world = World::new(Duration::from_micros(200), 1_000_000, 2);
    let sum = world.run(SECOND / 4, FAST);
    assert!(sum > 100_000_000, "{sum}");
    assert_eq!((world.window(), world.budget.granted()), (STREAM_WINDOW, 0));
}

#[test]
fn a_link_that_is_full_with_the_first_window_gets_no_long_queue() {
    // 2 MB/s over 20 ms: 40 KB are on their way, everything beyond waits in a queue.
    let mut world = World::new(Duration::from_millis(20), 2_000, 1);
    let sum = world.run(10 * SECOND, FAST);
    assert!(sum > 18_000_000, "{sum}");
    let window = world.window();
    assert!(window <= 4 * STREAM_WINDOW, "{window}");
}

#[test]
fn many_streams_share_what_the_worker_lets_them_grow_by() {
    let mut world = World::new(Duration::from_millis(100), 100_000, 8);
    world.run(4 * SECOND, FAST);
    let granted = world.budget.granted();
    assert!((WORKER_GROWTH / 2..=WORKER_GROWTH).contains(&granted), "{granted}");
    let sum = world.run(SECOND, FAST);
    assert!(sum > 80_000_000, "{sum}");
}

#[test]
fn a_worker_that_holds_much_lets_nothing_grow() {
    let mut world = World::new(Duration::from_millis(100), 50_000, 1);
    world.budget.add(WORKER_BUDGET / 2 + 1);
    world.run(2 * SECOND, FAST);
    assert_eq!((world.window(), world.budget.granted()), (STREAM_WINDOW, 0));
}

#[test]
fn a_reset_stream_gives_its_growth_back() {
    let mut world = World::new(Duration::from_millis(100), 50_000, 1);
    world.run(3 * SECOND, FAST);
    assert!(world.budget.granted() > 0);
    let (ours, _) = world.streams[0];
    world.client.release(ours);
    world.streams.clear();
    assert_eq!(world.budget.granted(), world.client.growth.connection as usize);
    // What is on its way is taken for late, however large the window was.
    world.run(SECOND, FAST);
    assert_eq!(world.client.open_streams(), 0);
}

/// Why there is no second connection for bulk: what a small answer waits for is bounded by what is unsent in the kernel and
/// one slice of each bulk stream, and on a second connection it would wait for its half of the link all the same.
#[test]
fn a_small_answer_beside_bulk_waits_for_what_is_unsent_and_a_slice_of_each() {
    const BULK: usize = 4;
    // 1 Gbit/s over 1 ms.
    let bytes_per_ms = 125_000;
    let mut world = World::new(Duration::from_millis(1), bytes_per_ms, BULK);
    world.run(SECOND / 2, FAST);
    let cx = Context::from_waker(Waker::noop());
    let mut worst = Duration::ZERO;
    for _ in 0..50 {
        let ours = world.client.open(text("request"), true).unwrap();
        let theirs = loop {
            world.run(world.step, FAST);
            if let Some(accepted) = world.server.next_accepted() {
                break accepted.key;
            }
        };
        let since = world.now;
        world.server.release(theirs);
        world.server.send_head(theirs, false, text("200")).unwrap();
        world.server.send_data(theirs, vec![0; 1024].into());
        world.server.send_end(theirs, None);
        let mut got = 0;
        while got < 1024 {
            world.run(world.step, FAST);
            while let Poll::Ready(Some(Ok(Frame::Data(bytes)))) = world.client.poll_body(ours, &cx) {
                got += bytes.len();
            }
        }
        worst = worst.max(world.now - since);
        world.client.release(ours);
    }
    let ahead = UNSENT + 64 * 1024 + BULK * 16 * 1024;
    let bound = Duration::from_micros(u64::try_from(ahead * 1000 / bytes_per_ms).unwrap()) + world.down.delay;
    assert!(worst <= bound + 3 * world.step, "{worst:?}, bound {bound:?}");
}
