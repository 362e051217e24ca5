//! Settings of the C library's allocator.

/// Makes glibc keep large freed blocks instead of returning them to the system. Otherwise every message of a
/// megabyte is mapped and unmapped, which costs more than copying it. Has no effect with other C libraries.
/// Each program calls this once, at the start.
pub fn keep_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::c_int;
        unsafe extern "C" {
            fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }
        const M_TRIM_THRESHOLD: c_int = -1;
        const M_TOP_PAD: c_int = -2;
        const M_MMAP_THRESHOLD: c_int = -3;
        // SAFETY: the declaration is that of glibc's <malloc.h>, and only glibc is linked here. mallopt takes
        // the allocator's own lock, does not affect existing blocks, and returns 0 for parameters that it
        // does not know.
        unsafe {
            // 32 MiB is the maximum that glibc accepts on 64-bit machines.
            mallopt(M_MMAP_THRESHOLD, 32 << 20);
            mallopt(M_TRIM_THRESHOLD, 512 << 20);
            mallopt(M_TOP_PAD, 16 << 20);
        }
    }
}
