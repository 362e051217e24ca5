//! The global allocator of the binaries, which puts large blocks into huge pages.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, with advice to put large blocks into huge pages. Weights, gradients and samples
/// are read sequentially or at random in every step. With pages of 4 kB, the processor spends 10 to 20 % of
/// such a step on address translation. Every binary uses this as its global allocator.
pub struct HugePages;

/// Minimum size of a block that gets the advice: two huge pages on x86-64.
const LARGE: usize = 4 << 20;

// SAFETY: every call is passed on to the system's allocator unchanged; the advice has no effect that a
// program can observe.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `alloc`.
        advised(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `alloc_zeroed`.
        advised(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `realloc`.
        advised(unsafe { System.realloc(memory, layout, size) }, size)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Gives the advice if the block is large, and returns the block.
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
    /// The advice must cover whole pages. A page is at most this large on every Linux.
    const PAGE: usize = 64 << 10;
    let skipped = memory.align_offset(PAGE);
    let whole = size.saturating_sub(skipped) / PAGE * PAGE;
    // SAFETY: the range lies inside a block that was just allocated. The advice only states a preference for
    // a page size; if the kernel has no huge pages or they are disabled, it returns an error and nothing
    // changes.
    unsafe { madvise(memory.wrapping_add(skipped).cast(), whole, MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn advise(_: *mut u8, _: usize) {}
