//! Slow readers that hold all that a worker may hold.

use super::*;

#[test]
fn readers_that_do_not_read_make_room_for_those_that_do() {
    let mut pair = pair();
    let slow: Vec<_> = (0..300).map(|_| open(&mut pair, true)).collect();
    for &(_, theirs) in &slow {
        pair.server.release(theirs);
        pair.server.send_head(theirs, false, text("200")).unwrap();
        pair.server.send_data(theirs, vec![0; 300 * 1024].into());
    }
    // One of them has come to its end, and is held all the same.
    let (whole, theirs) = open(&mut pair, true);
    pair.server.release(theirs);
    pair.server.send_head(theirs, false, text("200")).unwrap();
    pair.server.send_data(theirs, vec![0; 1000].into());
    pair.server.send_end(theirs, None);
    exchange(&mut pair, usize::MAX);
    assert!(pair.client.wants_relief() && !pair.server.wants_relief());
    let (ours, theirs) = open(&mut pair, true);
    pair.server.release(theirs);
    pair.server.send_head(theirs, false, text("200")).unwrap();
    pair.server.send_data(theirs, Bytes::from_static(b"small"));
    pair.server.send_end(theirs, None);
    exchange(&mut pair, usize::MAX);
    assert!(pair.client.poll_head(ours, &cx()).is_ready());
    assert!(pair.client.poll_body(ours, &cx()).is_pending(), "there is no room for it");
    // The first has read something in the meantime.
    let soon = Duration::from_secs(u64::from(limits::UNREAD_FOR) - 1);
    pair.client.relieve(soon);
    assert!(pair.client.poll_head(slow[0].0, &cx()).is_ready());
    assert!(pair.client.poll_body(slow[0].0, &cx()).is_ready());
    pair.client.relieve(Duration::from_secs(u64::from(limits::UNREAD_FOR)));
    exchange(&mut pair, usize::MAX);
    assert!(!pair.client.wants_relief());
    assert_eq!(pair.client.poll_body(ours, &cx()), Poll::Ready(Some(Ok(Frame::Data(Bytes::from_static(b"small"))))));
    assert!(matches!(pair.client.poll_body(slow[0].0, &cx()), Poll::Ready(Some(Ok(_)))), "who reads goes on");
    let Poll::Ready(Err(error)) = pair.client.poll_head(slow[1].0, &cx()) else { panic!("it was broken off") };
    assert_eq!(error.reason, Reason::Overloaded);
    let broken = slow.iter().filter(|(ours, _)| pair.client.poll_gone(*ours, &cx()).is_ready()).count();
    assert!((60..=160).contains(&broken), "{broken} of 300 were broken off");
    assert!(pair.client.poll_gone(whole, &cx()).is_pending(), "the longest unread go first");
}

#[test]
fn interim_heads_that_nobody_takes_are_bounded() {
    let mut pair = pair();
    let streams: Vec<_> = (0..100).map(|_| open(&mut pair, true)).collect();
    for &(_, theirs) in &streams {
        for _ in 0..16 {
            assert!(pair.server.send_info(theirs, text(&"x".repeat(60_000))).unwrap());
        }
    }
    exchange(&mut pair, usize::MAX);
    let taken = |pair: &mut Pair, ours| {
        std::iter::from_fn(|| match pair.client.poll_head(ours, &cx()) {
            Poll::Ready(Ok(HeadPart::Interim(text))) => Some(text.len()),
            _ => None,
        })
        .sum::<usize>()
    };
    let held: usize = streams.iter().map(|&(ours, _)| taken(&mut pair, ours)).sum();
    assert!((limits::MAX_HEADS - 60_000..=limits::MAX_HEADS).contains(&held), "{held}");
    for (ours, theirs) in streams {
        pair.server.send_head(theirs, true, text("204")).unwrap();
        pair.server.release(theirs);
        exchange(&mut pair, usize::MAX);
        assert!(
            matches!(pair.client.poll_head(ours, &cx()), Poll::Ready(Ok(HeadPart::Final(_, true)))),
            "the answer comes"
        );
        pair.client.release(ours);
    }
    let (ours, theirs) = open(&mut pair, true);
    pair.server.send_info(theirs, text("103")).unwrap();
    exchange(&mut pair, usize::MAX);
    assert_eq!(taken(&mut pair, ours), 3, "there is room again");
}
