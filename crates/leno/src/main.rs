//! The `leno` binary: the command line, and the allocator that everything in it uses.

/// jemalloc gives memory back to the system after a burst, which glibc's allocator does not from a thread's arena.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc's options, which the linker takes along because they are named here.
#[used]
static TUNING: &&&[u8; leno_sys::heap::LENGTH] = &leno_sys::heap::TUNING;

fn main() -> std::process::ExitCode {
    leno_cli::main()
}
