//! The fuzzer: libFuzzer around one target, which `LENO_FUZZ_TARGET` names. Built by `scripts/fuzz` only.
//!
//! One binary for all targets is linked once; coverage follows the code that runs, so the others cost nothing.

#![no_main]

use std::sync::OnceLock;

static TARGET: OnceLock<fuzz::Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(init: {
    let name = std::env::var("LENO_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = fuzz::target(&name) else {
        eprintln!("LENO_FUZZ_TARGET is `{name}`; it must be one of {}", fuzz::names());
        std::process::exit(2);
    };
    TARGET.set(target).expect("libFuzzer initialises once");
}, |data: &[u8]| {
    let target = TARGET.get().expect("set before the first input");
    target(data);
});
