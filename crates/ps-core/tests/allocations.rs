//! A step of training asks the system for no memory, once the first ones have made the buffers.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use ps_core::gradient::InPlace;
use ps_core::optim::Sgd;
use ps_core::{Activation, Gradients, Head, Kernel, LearningRate, Model, NodeSum, Samples, Trainer};
use ps_plan::BatchPlan;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what the threads of a pool ask of the system's allocator; the test's own thread and the harness do as they
/// like.
struct Counting;

thread_local! {
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

static ASKED: AtomicU64 = AtomicU64::new(0);

// SAFETY: layouts and pointers go to the system's allocator as they come, which keeps the trait's promises; counting
// neither allocates nor unwinds. The trait's own `realloc` and `alloc_zeroed` go through these two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(IS_COUNTED.get().into(), Ordering::Relaxed);
        // SAFETY: the caller promises that the layout has a size above 0.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller promises that `memory` came from `alloc`, so from the system's, with this layout.
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

/// What is asked for in steps 3 to 20 of training with these hidden layers on `threads` threads.
fn asked_for(hidden: &[usize], batch: usize, threads: usize) -> u64 {
    let pool = pool(threads);
    let model = Model::new(50, hidden, Activation::Relu, Head::Softmax, 10);
    let plan = BatchPlan::new(1, 1000, batch, 8, 1000, None);
    let momentum = Sgd { momentum: 0.9, ..Sgd::default() };
    let mut trainer = Trainer::new(&model, plan, momentum, LearningRate::constant(0.001));
    let mut gradients = Gradients::new(model, plan, Kernel::detect());
    let mut sums = Vec::new();
    let mut before = 0;
    // All inside the pool, since the way into it is not part of a step.
    pool.install(|| {
        for step in 0..20 {
            if step == 3 {
                before = ASKED.load(Ordering::Relaxed);
            }
            let leaves = plan.step(step).tree().leaves();
            gradients.compute_into(trainer.weights(), &Points, step, 0..leaves, &mut sums);
            let mut root = sums.pop().unwrap();
            let report = trainer.finish(&mut root).unwrap();
            gradients.recycle(NodeSum { tally: report.tally, ..root });
        }
        // Looked at in here, for on its way to sleep rayon's thread does as it likes.
        ASKED.load(Ordering::Relaxed) - before
    })
}

/// The same, with the weights updated in place.
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
        // Looked at in here, for on its way to sleep rayon's thread does as it likes.
        ASKED.load(Ordering::Relaxed) - before
    })
}

fn pool(threads: usize) -> rayon::ThreadPool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.start_handler(|_| IS_COUNTED.set(true)).build().unwrap()
}

/// One test, for the count is that of the whole process.
#[test]
fn steps_after_the_first_ask_for_no_memory() {
    for hidden in [&[][..], &[16, 16], &[300, 300]] {
        assert_eq!(asked_for(hidden, 100, 1), 0, "{hidden:?}");
    }
    // Handing work to other threads, rayon takes a block for its queue now and then; nothing else asks for any.
    let shared = asked_for(&[300, 300], 100, 2);
    assert!(shared <= 17, "{shared} in 17 steps on two threads");
    // On a busy machine rayon's queue takes a block or two.
    let in_place = asked_for_in_place(&[300, 300], 1);
    assert!(in_place <= 8, "{in_place} in 17 steps in place");
    let shared = asked_for_in_place(&[300, 300], 2);
    assert!(shared <= 17, "{shared} in 17 steps in place on two threads");
    // A small model's large batch is folded part by part, whose book-keeping takes a few small blocks a step.
    let parts = asked_for(&[16, 16], 500, 1);
    assert!(parts <= 17 * 16, "{parts} in 17 steps of several parts");
}
