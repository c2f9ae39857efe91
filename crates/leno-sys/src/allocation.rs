//! An allocator that tells of every allocation, for tests that count them.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, with `seen` called before each allocation and each growth.
///
/// `seen` runs inside the allocator, on any thread at any time: what it does must not depend on anything but constants and
/// `const` thread-locals. It may allocate only if it keeps itself from being called again meanwhile.
pub struct Observed {
    seen: fn(bytes: usize),
}

impl Observed {
    /// For a `#[global_allocator]`.
    #[must_use]
    pub const fn new(seen: fn(bytes: usize)) -> Self {
        Self { seen }
    }
}

#[expect(unsafe_code, reason = "the trait of allocators is unsafe to implement")]
// SAFETY: every call is passed on unchanged to `System`, whose contract this has then.
unsafe impl GlobalAlloc for Observed {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        (self.seen)(layout.size());
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        (self.seen)(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` with this layout, because every allocation is made there.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        (self.seen)(size);
        // SAFETY: as above; the caller's promise about `size` is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
