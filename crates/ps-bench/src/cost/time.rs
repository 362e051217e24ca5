//! Clocks and medians.

use std::time::Instant;

/// Returns the median of a few values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Median seconds of `turns` calls, each with cold caches, after one that does not count.
pub(crate) fn median_seconds(turns: usize, mut run: impl FnMut()) -> f64 {
    let mut evictor = CacheEvictor::default();
    run();
    let turn = |_| {
        evictor.evict();
        let begun = Instant::now();
        run();
        begun.elapsed().as_secs_f64()
    };
    median((0..turns).map(turn).collect())
}

/// A buffer that evicts everything else from the caches when it is read, as the bytes of a round do.
pub(crate) struct CacheEvictor(Vec<u8>);

/// More than the caches of one core hold, and about as much as those of all cores together.
const EVICTION_BYTES: usize = 32 << 20;

impl Default for CacheEvictor {
    fn default() -> Self {
        CacheEvictor(vec![0; EVICTION_BYTES])
    }
}

impl CacheEvictor {
    pub(crate) fn evict(&mut self) {
        self.0.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
        std::hint::black_box(&self.0);
    }
}

/// Seconds of CPU time of the calling thread. On systems that do not report it, elapsed seconds, which
/// include time spent waiting.
pub(crate) fn thread_seconds(#[cfg_attr(unix, allow(unused))] begun: Instant) -> f64 {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    if let Ok(time) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID) {
        return time.tv_sec() as f64 + 1e-9 * time.tv_nsec() as f64;
    }
    begun.elapsed().as_secs_f64()
}
