//! A job so small that a thousand simulated runs of it take seconds.

use crate::SimJob;
use ps_core::control::Guard;
use ps_core::optim::{Adam, Sgd};
use ps_core::{Activation, ControlConfig, Head, Kernel, LearningRate, Model, Samples, ScheduleKind};
use ps_plan::BatchPlan;
use ps_plan::mutation::ActiveMutation;
use ps_plan::seed::{Purpose, random};

/// Number of samples of the tiny job.
const SAMPLES: usize = 50;
/// Number of features per sample.
const FEATURES: usize = 3;

/// Random samples of three features and two classes.
#[derive(Clone, Debug)]
pub struct TinySamples {
    rows: Vec<[f32; FEATURES]>,
}

impl TinySamples {
    /// Creates the samples, which are always the same.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let row = |index| {
            let words = random(7, Purpose::Simulation, 1, index as u64);
            std::array::from_fn(|feature| (words[feature] >> 8) as f32 / 8_388_608.0 - 1.0)
        };
        TinySamples { rows: (0..SAMPLES).map(row).collect() }
    }
}

impl Samples for TinySamples {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn features(&self) -> usize {
        FEATURES
    }

    fn write_row(&self, index: usize, row: &mut [f32]) {
        row.copy_from_slice(&self.rows[index]);
    }

    fn target(&self, index: usize) -> f32 {
        f32::from(u8::from(self.rows[index].iter().sum::<f32>() > 0.0))
    }
}

/// Twelve steps of an MLP on one server. Each step has six leaves, except the last one of each epoch,
/// which has one.
pub fn tiny_job(samples: &TinySamples, workers: u32) -> SimJob<'_> {
    SimJob {
        model: Model::new(FEATURES, &[4], Activation::Tanh, Head::Softmax, 2),
        plan: BatchPlan::new(11, SAMPLES, 16, 3, 3, None),
        optimizer: Sgd { momentum: 0.9, ..Sgd::default() }.into(),
        rate: LearningRate::constant(0.1).into(),
        control: ControlConfig::default(),
        samples,
        validation: samples,
        kernel: Kernel::detect(),
        workers,
        servers: 1,
        checkpoint_every: 2,
        audit: 0.0,
        expected: None,
        mutation: ActiveMutation::default(),
    }
}

/// The variant of the tiny job that belongs to `seed`, with one to five workers at the start, one to four
/// servers, and a checkpoint every one to three steps. With one server, some or all nodes may be audited. In
/// every second hundred of seeds, the run evaluates the validation set after each epoch and probes every
/// other step; in every second one of these, policies decide about the steps.
pub fn tiny_job_for_seed(samples: &TinySamples, seed: u64) -> SimJob<'_> {
    let (servers, checkpoint_every) = (1 + (seed / 5 % 4) as u32, 1 + seed / 20 % 3);
    let audit = if servers == 1 { [0.0, 0.3, 1.0][(seed % 3) as usize] } else { 0.0 };
    let job = tiny_job(samples, 1 + (seed % 5) as u32);
    let plan = if seed / 100 % 2 == 1 { job.plan.watching(SAMPLES, 2) } else { job.plan };
    let job = SimJob { plan, servers, checkpoint_every, audit, ..job };
    if seed / 100 % 2 == 1 && seed % 2 == 1 { watched(job) } else { job }
}

/// A job with policies that decide about steps. Its rate is so high that the guard recovers three times, and
/// a validation lowers it. Adam's state has vectors and a step count, which a recovery must restore.
fn watched(job: SimJob<'_>) -> SimJob<'_> {
    let rate = LearningRate {
        schedule: ScheduleKind::Plateau,
        factor: 0.5,
        patience: 0,
        threshold: 0.9,
        ..LearningRate::constant(1.0)
    };
    let guard = Guard { can_recover: true, factor: 0.5, retries: 3, rise: 1.2, every: 2 };
    let control = ControlConfig { guard: Some(guard), ..ControlConfig::default() };
    SimJob { optimizer: Adam::default().into(), rate: rate.into(), control, ..job }
}
