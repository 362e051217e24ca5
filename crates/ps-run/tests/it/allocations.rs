//! Recording a step allocates no memory, unless the step gets a line of metrics.

use crate::observers::job;
use ps_core::{MetricSums, StepReport};
use ps_run::{Needs, Recorder, StepLine, Style};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// An allocator that counts the allocations of a thread while counting is switched on.
struct Counting;

thread_local! {
    static ASKED: Cell<Option<u64>> = const { Cell::new(None) };
}

// SAFETY: layouts and pointers are passed to the system's allocator unchanged, which upholds the contract of
// the trait. Counting neither allocates nor unwinds. The trait's own `realloc` and `alloc_zeroed` call these
// two methods.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get().map(|asked| asked + 1));
        // SAFETY: the caller guarantees that the layout has a size above 0.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller guarantees that `memory` came from `alloc`, and thus from the system's
        // allocator, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_step_without_a_metrics_line_allocates_nothing() {
    let job = job("train.epochs = 1000");
    let mut recorder = Recorder::new(&job, None, Style::Quiet).unwrap();
    let mut counted = 0;
    for step in 0..job.plan.steps {
        let report = StepReport {
            step,
            epoch: job.plan.step(step).epoch,
            rate: 0.1,
            metric_sums: MetricSums { samples: 20, loss: 46.0, correct: 2, ..MetricSums::new(10) },
            validation: None,
            is_last: false,
            events: Vec::new(),
            probe: None,
        };
        ASKED.set(Some(0));
        recorder.step(&report, 1);
        let needs = recorder.needs(step + 1).unwrap();
        let asked = ASKED.take().unwrap();
        assert_eq!(needs, Needs::default());
        if !StepLine::is_due(step + 1) && !job.plan.ends_epoch(step) {
            assert_eq!(asked, 0, "step {step}");
            counted += 1;
        }
    }
    assert!(counted > 0);
}
