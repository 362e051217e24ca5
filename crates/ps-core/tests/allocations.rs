//! Once the first steps have created the buffers, a training step allocates no memory.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use ps_core::gradient::InPlace;
use ps_core::optim::Sgd;
use ps_core::{Activation, Gradients, Head, Kernel, LearningRate, Model, NodeSum, Samples, Trainer};
use ps_plan::BatchPlan;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the allocations of a pool's threads. Those of the test's own thread and of the test harness
/// do not count.
struct Counting;

thread_local! {
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

static ASKED: AtomicU64 = AtomicU64::new(0);

// SAFETY: all calls pass their arguments to the system's allocator unchanged, which keeps the trait's
// promises; counting neither allocates nor unwinds. The trait's default `realloc` and `alloc_zeroed` call
// these two functions.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(IS_COUNTED.get().into(), Ordering::Relaxed);
        // SAFETY: the caller promises that the layout has a size above 0.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller promises that `memory` came from `alloc`, so from the system's,
        // with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Points;

impl Samples for Points {
    fn len(&self) -> usize {
        1000
    }
    fn features(&self) -> usize {
        50
    }
    fn write_row(&self, index: usize, row: &mut [f32]) {
        row.iter_mut().enumerate().for_each(|(at, x)| *x = ((index * 31 + at * 7) % 256) as f32 / 255.0);
    }
    fn target(&self, index: usize) -> f32 {
        (index % 10) as f32
    }
}

/// Number of allocations in steps 3 to 20 of training with these hidden layers on `threads` threads.
fn asked_for(hidden: &[usize], batch: usize, threads: usize) -> u64 {
    let pool = pool(threads);
    let model = Model::new(50, hidden, Activation::Relu, Head::Softmax, 10);
    let plan = BatchPlan::new(1, 1000, batch, 8, 1000, None);
    let momentum = Sgd { momentum: 0.9, ..Sgd::default() };
    let mut trainer = Trainer::new(&model, plan, momentum, LearningRate::constant(0.001));
    let mut gradients = Gradients::new(model, plan, Kernel::detect());
    let mut sums = Vec::new();
    let mut before = 0;
    // The whole loop runs inside the pool, because entering the pool is not part of a step.
    pool.install(|| {
        for step in 0..20 {
            if step == 3 {
                before = ASKED.load(Ordering::Relaxed);
            }
            let leaves = plan.step(step).tree().leaves();
            gradients.compute_into(trainer.weights(), &Points, step, 0..leaves, &mut sums);
            let mut root = sums.pop().unwrap();
            let report = trainer.finish(&mut root).unwrap();
            gradients.recycle(NodeSum { metric_sums: report.metric_sums, ..root });
        }
        // The counter is read inside the pool, because rayon's thread may allocate on its way to sleep.
        ASKED.load(Ordering::Relaxed) - before
    })
}

/// Like [`asked_for`], but with the weights updated in place.
fn asked_for_in_place(hidden: &[usize], threads: usize) -> u64 {
    let pool = pool(threads);
    let model = Model::new(50, hidden, Activation::Relu, Head::Softmax, 10);
    let plan = BatchPlan::new(1, 1000, 100, 8, 1000, None);
    let momentum = Sgd { momentum: 0.9, ..Sgd::default() };
    let mut holder = InPlace::new(&model, plan, momentum, Kernel::detect());
    let mut before = 0;
    pool.install(|| {
        for step in 0..20 {
            if step == 3 {
                before = ASKED.load(Ordering::Relaxed);
            }
            let step = plan.step(step);
            holder.compute(&Points, step);
            assert!(holder.update(step, 0.001).gradient);
        }
        // The counter is read inside the pool, because rayon's thread may allocate on its way to sleep.
        ASKED.load(Ordering::Relaxed) - before
    })
}

fn pool(threads: usize) -> rayon::ThreadPool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.start_handler(|_| IS_COUNTED.set(true)).build().unwrap()
}

/// There is only one test, because the counter is that of the whole process.
#[test]
fn steps_after_the_first_allocate_nothing() {
    for hidden in [&[][..], &[16, 16], &[300, 300]] {
        assert_eq!(asked_for(hidden, 100, 1), 0, "{hidden:?}");
    }
    // When rayon hands work to other threads, it occasionally allocates a block for its queue;
    // nothing else allocates.
    let shared = asked_for(&[300, 300], 100, 2);
    assert!(shared <= 17, "{shared} in 17 steps on two threads");
    // On a busy machine, rayon's queue allocates a block or two.
    let in_place = asked_for_in_place(&[300, 300], 1);
    assert!(in_place <= 8, "{in_place} in 17 steps in place");
    let shared = asked_for_in_place(&[300, 300], 2);
    assert!(shared <= 17, "{shared} in 17 steps in place on two threads");
    // A small model's large batch is folded part by part, which takes a few small allocations per step.
    let parts = asked_for(&[16, 16], 500, 1);
    assert!(parts <= 17 * 16, "{parts} in 17 steps of several parts");
}
