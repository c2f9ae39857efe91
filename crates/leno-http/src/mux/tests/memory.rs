//! What a stream and a hop hold while nothing happens.

use super::*;

#[test]
fn an_idle_stream_and_an_idle_hop_are_small() {
    let mut pair = pair();
    let keys: Vec<_> = (0..500).map(|_| open(&mut pair, true)).collect();
    for &(ours, theirs) in &keys {
        assert!(pair.client.poll_head(ours, &cx()).is_pending() && pair.server.poll_gone(theirs, &cx()).is_pending());
    }
    for (engine, key) in [(&mut pair.client, keys[0].0), (&mut pair.server, keys[0].1)] {
        let stream = engine.get(key).unwrap();
        assert!(stream.rare.is_none() && stream.queue.is_empty() && stream.inbox.is_empty(), "nothing on the heap");
        // The table of streams doubles when it is full.
        assert!(engine.heap() < 1024 * (size_of::<Stream<HopWire>>() + 64), "{}", engine.heap());
    }
    for (ours, theirs) in keys {
        pair.server.release(theirs);
        pair.server.send_head(theirs, false, text(&"x".repeat(1000))).unwrap();
        pair.server.send_data(theirs, vec![0; 1000].into());
        pair.server.send_data(theirs, vec![0; 5000].into());
        pair.server.send_end(theirs, None);
        exchange(&mut pair, 1000);
        assert!(pair.client.poll_head(ours, &cx()).is_ready());
        assert_eq!(read_all(&mut pair.client, ours), 6000);
        pair.client.release(ours);
    }
    for engine in [&pair.client, &pair.server] {
        assert_eq!(engine.streams.len(), 0);
        assert!(engine.heap() <= 4096, "{} bytes after a burst", engine.heap());
    }
    assert!(size_of::<Stream<HopWire>>() <= 304, "{}", size_of::<Stream<HopWire>>());
    assert!(size_of::<Engine>() <= 640, "{}", size_of::<Engine>());
}
