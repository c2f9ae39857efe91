//! The allocator's options are compiled into the binary, and jemalloc takes them.

use std::process::Command;

#[test]
fn the_allocator_is_tuned_as_written() {
    // Asked to confirm, jemalloc tells where it found options and what it made of them.
    let output = Command::new(env!("CARGO_BIN_EXE_leno"))
        .arg("--version")
        .env("MALLOC_CONF", "confirm_conf:true")
        .output()
        .expect("the binary of this package");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for option in leno_sys::heap::SETTINGS.split(',') {
        assert!(said.contains(&format!("Set conf value: {option}")), "{option} is not in force:\n{said}");
    }
    assert!(!said.contains("Invalid"), "{said}");
}
