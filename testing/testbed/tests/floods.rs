//! Floods of HTTP/2 (BAD_INPUTS class 7): each ends in a refusal or costs the sender as much as us, memory stays flat, and an honest
//! client beside it loses nothing.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use testbed::apps;
use testbed::scene::{APP, Bound, Scene, UPSTREAM, metric};
use testbed::skip::can_run;
use testbed::wire::{self, CALM, END, HEADERS_END, block, field, flood, frame, get, integer, kind};

/// What a flood of one connection may take, in MiB: its windows (1 MiB), its frames in the kernel's and our buffers, 1,024 streams' state.
/// The far proxy sees requests of it at most.
const ONE_CONNECTION: Bound = Bound { near: 12, far: 12 };

#[test]
fn floods_end_or_cost_nothing() {
    if !can_run("http2_floods", apps::NEEDS) {
        return;
    }
    let mut scene = Scene::with_nginx("");
    let to = Scene::local(UPSTREAM);
    let stream = |n: u32| 2 * n + 1;

    // CVE-2023-44487: far more are reset than may be open at a time.
    let outcome = scene.attack("10,000 streams opened and reset", ONE_CONNECTION, |s| {
        let reset = 8_u32.to_be_bytes();
        flood(s.three(), to, 10_000, |n| [get(stream(n), "/reset"), frame(kind::RESET, 0, stream(n), &reset)].concat())
    });
    assert!(outcome.goaway == Some(CALM) && outcome.is_closed, "{outcome:?}");
    let seen = apps::nginx_log(scene.network.folder(), "web").iter().filter(|l| l.contains("/reset")).count();
    println!("the application saw {seen} of 10,000");
    assert!(seen < 3_000, "the application saw {seen} requests that nobody waited for");

    // CVE-2024-27919: a head that has no end.
    let outcome = scene.attack("CONTINUATION without end", ONE_CONNECTION, |s| {
        let crumb = field(b"x-endless", &[b'a'; 100]).repeat(100);
        flood(s.three(), to, 6_000, |n| match n {
            0 => frame(kind::HEADERS, 0, 1, &block("GET", "/endless", &[])),
            _ => frame(kind::CONTINUATION, 0, 1, &crumb),
        })
    });
    assert!(outcome.is_closed && outcome.sent < 6_000, "60 MB of a head were taken: {outcome:?}");

    // CVE-2026-47774 and its like: decoded, each of these heads is 60 MB of cookies that take 16 KB on the wire.
    let outcome = scene.attack("cookie crumbs from the HPACK table", ONE_CONNECTION, |s| {
        flood(s.three(), to, 40, |n| {
            let value = [b'c'; 3900];
            // Inserted into the dynamic table once (0x40: name is literal), then named by its index (62 is the newest entry).
            let first = [&[0x40][..], &integer(6), b"cookie", &integer(value.len()), &value].concat();
            let mut payload = block("GET", "/crumbs", &[]);
            payload.extend(if n == 0 { first } else { vec![0xbe] });
            let room = 16_000 - payload.len();
            payload.resize(payload.len() + room, 0xbe);
            frame(kind::HEADERS, END | HEADERS_END, stream(n), &payload)
        })
    });
    assert!(outcome.is_closed || outcome.resets.values().sum::<u32>() + heads(&outcome) >= 40, "{outcome:?}");

    // Crumbs that are small: 10,000 of one byte each.
    let outcome = scene.attack("10,000 cookie crumbs", ONE_CONNECTION, |s| {
        let crumb = field(b"cookie", b"a").repeat(1_500);
        flood(s.three(), to, 8, |n| match n {
            0 => frame(kind::HEADERS, END, 1, &block("GET", "/crumbs", &[])),
            7 => frame(kind::CONTINUATION, HEADERS_END, 1, &[]),
            _ => frame(kind::CONTINUATION, 0, 1, &crumb),
        })
    });
    assert!(outcome.is_closed || outcome.resets.values().sum::<u32>() + heads(&outcome) == 1, "{outcome:?}");
    let log = apps::nginx_log(scene.network.folder(), "web");
    assert!(
        !log.iter().any(|l| l.contains("/crumbs") || l.contains("/endless")),
        "a head beyond the limits was passed on"
    );

    // What has a price on both sides: answered at the pace at which the sender reads, and nothing is kept.
    let outcome = scene.attack("floods of PING, SETTINGS, PRIORITY and empty DATA", ONE_CONNECTION, |s| {
        let ping = frame(kind::PING, 0, 0, b"12345678");
        let settings = frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
        let priority = |n: u32| frame(kind::PRIORITY, 0, stream(n % 10_000), &[0, 0, 0, 0, 16]);
        let empty = frame(kind::DATA, 0, 1, &[]);
        let open = frame(kind::HEADERS, HEADERS_END, 1, &block("POST", "/empty", &[]));
        let three = s.three();
        [
            flood(three, to, 50_000, |_| ping.clone()),
            flood(three, to, 50_000, |_| settings.clone()),
            flood(three, to, 50_000, priority),
            flood(three, to, 50_000, |n| if n == 0 { open.clone() } else { empty.clone() }),
        ]
    });
    for outcome in &outcome {
        println!("{outcome:?}");
        assert!(!outcome.is_closed || outcome.goaway.is_some(), "closed without a word: {outcome:?}");
    }
    scene.wait_for_metric(&scene.near, "leno_requests_active", &[], 0.0);
}

/// HEADERS that came: refusals with a status.
fn heads(outcome: &wire::Flooded) -> u32 {
    outcome.frames.get(&kind::HEADERS).copied().unwrap_or_default()
}

const BIG: &str = "http://127.0.0.1:9080/big";
/// Streams of the slow reader: as many as a connection may have.
const SLOW: u32 = 1_000;
/// 64 KiB of each stream wait in its send buffer at the near proxy, and what all hops of a worker hold for slow readers is 64 MiB
/// (docs/reference/limits.md); the far proxy has 64 KiB of each in its queue, and one read of as much. A fifth on top for the allocator
/// and the streams' own state.
const SLOW_READER: Bound = Bound { near: (64 + 64) * 6 / 5, far: (64 + 64) * 6 / 5 };

#[test]
fn a_reader_without_windows_holds_a_bounded_amount() {
    if !can_run("http2_slow_read", apps::NEEDS) {
        return;
    }
    let mut scene = Scene::with_nginx("location /big { }");
    let big =
        std::fs::File::create(scene.network.folder().join("nginx-web/html/big")).expect("a file in our own folder");
    big.set_len(1 << 20).expect("a sparse file");
    scene.attack("1,000 streams of 1 MiB to a reader without a window", SLOW_READER, |s| {
        let mut io = s.three().connect(Scene::local(UPSTREAM));
        let window_0 = frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
        io.write_all(&[wire::PREFACE, &window_0].concat()).expect("sending");
        for n in 0..SLOW {
            io.write_all(&get(2 * n + 1, "/big")).expect("sending");
        }
        // Every one of them has its head, and waits.
        let mut heads = 0;
        while heads < SLOW {
            let (kind, ..) = wire::next(&io).expect("the connection stays");
            heads += u32::from(kind == kind::HEADERS);
            assert_ne!(kind, kind::DATA, "there is no window");
        }
        // What is held for it is all that may be held: some of it is let go, so that others are served.
        let other = s.three().curl(&["-s", "-m", "60", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", BIG]);
        assert_eq!(other.stdout, "200 1048576", "{other:?}");
        wire::reset(io);
    });
    scene.wait_for_metric(&scene.near, "leno_requests_active", &[], 0.0);
    scene.wait_for_metric(&scene.far, "leno_requests_active", &[], 0.0);
}

/// An application that takes one stream, says GOAWAY behind its answer, and from then on takes connections but no streams.
fn reluctant(listener: &std::net::TcpListener, taken: &'static AtomicU32) {
    let is_over: &'static AtomicBool = Box::leak(Box::default());
    for io in listener.incoming().flatten() {
        taken.fetch_add(1, Ordering::Relaxed);
        std::thread::spawn(move || serve_reluctantly(io, is_over));
    }
}

fn serve_reluctantly(mut io: TcpStream, is_over: &AtomicBool) {
    let mut preface = [0; 24];
    if std::io::Read::read_exact(&mut io, &mut preface).is_err() {
        return;
    }
    let streams = |n: u32| frame(kind::SETTINGS, 0, 0, &[&[0, 3][..], &n.to_be_bytes()].concat());
    let _ = io.write_all(&streams(u32::from(!is_over.load(Ordering::Relaxed))));
    while let Some((kind, flags, payload)) = wire::next(&io) {
        let answer = match kind {
            kind::PING if flags & END == 0 => frame(kind::PING, END, 0, &payload),
            kind::SETTINGS if flags & END == 0 => frame(kind::SETTINGS, END, 0, &[]),
            kind::HEADERS => {
                is_over.store(true, Ordering::Relaxed);
                let answer = frame(kind::HEADERS, END | HEADERS_END, 1, &field(b":status", b"200"));
                [answer, streams(0), frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])].concat()
            }
            _ => continue,
        };
        if io.write_all(&answer).is_err() {
            return;
        }
    }
}

#[test]
fn an_application_that_takes_no_more_streams_does_not_hold_its_callers() {
    if !can_run("http2_no_streams", apps::NEEDS) {
        return;
    }
    let taken: &'static AtomicU32 = Box::leak(Box::default());
    let scene = Scene::start(&format!("{APP}/http2"), &[], &[], |network| {
        let listener = network.host("two").listen(APP);
        std::thread::spawn(move || reluctant(&listener, taken));
        None
    });
    let first = scene.three().curl(&["-i", "http://127.0.0.1:9080/"]);
    assert!(first.stdout.contains(" 200 "), "{first:?}");
    // None of these may hang: each is refused within the connect timeout, and the reason says whose fault it is.
    let three = scene.three();
    let codes: Vec<String> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| three.curl(&["-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:9080/"]).stdout)
            })
            .collect();
        calls.into_iter().map(|c| c.join().expect("curl")).collect()
    });
    println!("{codes:?}, {} connections", taken.load(Ordering::Relaxed));
    assert!(codes.iter().all(|c| c == "503" || c == "504" || c == "502"), "{codes:?}");
    assert!(taken.load(Ordering::Relaxed) <= 40, "{} connections for 21 requests", taken.load(Ordering::Relaxed));
    scene.wait_for_metric(&scene.far, "leno_requests_active", &[], 0.0);
    assert!(metric(&scene.far.metrics(testbed::scene::ADMIN), "leno_requests_total", &[]) >= 21.0);
    scene.nobody_panicked();
}
