//! One piece of the engine, run so many times: `instructions NAME TIMES`, or `instructions list`. `cargo xtask instructions`
//! counts what it executes.
//!
//! Everything is in memory and nothing depends on the clock or on chance, so that two runs execute the same instructions. A
//! piece is prepared once; two runs with different TIMES differ by the piece alone.

#![expect(clippy::unwrap_used, reason = "a tool for developers: a failure may as well end it here")]

mod codec;
mod decisions;
mod records;
mod tls;

use std::process::ExitCode;

/// Prepares a piece and gives what runs it once.
type Piece = fn() -> Box<dyn FnMut()>;

/// Every piece. The names of those of other people's code begin with `tls_`: they are reported, not held.
const PIECES: &[(&str, Piece)] = &[
    ("h1_request_parse", codec::h1_request_parse),
    ("h1_small_request_parse", codec::h1_small_request_parse),
    ("h1_small_response_parse", codec::h1_small_response_parse),
    ("h1_request_forward", codec::h1_request_forward),
    ("h1_response_forward", codec::h1_response_forward),
    ("hop_head_encode", codec::hop_head_encode),
    ("hop_head_decode", codec::hop_head_decode),
    ("hop_small_head_decode", codec::hop_small_head_decode),
    ("hop_exchange", codec::hop_exchange),
    ("hop_16_streams", codec::hop_16_streams),
    ("tls_seal_1k", tls::seal),
    ("tls_seal_and_open_1k", tls::seal_and_open),
    ("route_among_1", || decisions::route(1)),
    ("route_among_10", || decisions::route(10)),
    ("route_among_100", || decisions::route(100)),
    ("route_among_5000", || decisions::route(5000)),
    ("access_without_rules", || decisions::access(0)),
    ("access_with_50_rules", || decisions::access(50)),
    ("access_with_5000_rules", || decisions::access(5000)),
    ("pick_among_10", || decisions::pick(10)),
    ("pick_among_10000", || decisions::pick(10_000)),
    ("metrics_record", records::metrics),
    ("trace_span", records::trace_span),
    ("snapshot_swap", records::snapshot_swap),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => PIECES.iter().for_each(|(name, _)| println!("{name}")),
        [name, times] => {
            let (Some((_, prepare)), Ok(times)) = (PIECES.iter().find(|(n, _)| n == name), times.parse::<u32>()) else {
                eprintln!("no piece `{name}`, or `{times}` is no number");
                return ExitCode::from(2);
            };
            let mut run = prepare();
            // The first runs fill stocks and tables.
            (0..WARM_UP + times).for_each(|_| run());
        }
        _ => {
            eprintln!("usage: instructions list | NAME TIMES");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Runs before anything may be assumed to be in its steady state.
const WARM_UP: u32 = 20;
