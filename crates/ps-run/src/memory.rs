//! The process's memory: large blocks in huge pages.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, which is asked to put large blocks into huge pages. Weights, gradients and samples are read
/// from end to end or at random every step; with pages of 4 kB the processor spends a tenth to a fifth of such a step
/// looking up where they lie. Each binary names it as its global allocator.
pub struct HugePages;

/// Blocks from this size on: two huge pages of x86-64.
const LARGE: usize = 4 << 20;

// SAFETY: every call is passed on to the system's allocator as it is; advice changes nothing that a program can see.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises.
        advised(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises.
        advised(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promises.
        advised(unsafe { System.realloc(memory, layout, size) }, size)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Gives the advice for a block that is large, and the block back.
#[inline]
fn advised(memory: *mut u8, size: usize) -> *mut u8 {
    if size >= LARGE && !memory.is_null() {
        advise(memory, size);
    }
    memory
}

#[cfg(target_os = "linux")]
#[cold]
fn advise(memory: *mut u8, size: usize) {
    use std::ffi::{c_int, c_void};
    unsafe extern "C" {
        fn madvise(memory: *mut c_void, size: usize, advice: c_int) -> c_int;
    }
    const MADV_HUGEPAGE: c_int = 14;
    /// Advice is for whole pages; this is at least one on every Linux.
    const PAGE: usize = 64 << 10;
    let skipped = memory.align_offset(PAGE);
    let whole = size.saturating_sub(skipped) / PAGE * PAGE;
    // SAFETY: the range lies inside a block that was just allocated; the advice only says which pages to prefer, and
    // where the kernel knows none or is told to use none, it says so and nothing changes.
    unsafe { madvise(memory.wrapping_add(skipped).cast(), whole, MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn advise(_: *mut u8, _: usize) {}
