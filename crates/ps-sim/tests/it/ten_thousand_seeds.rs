//! Ten thousand runs with all faults end with the reference trainer's weights.

use ps_coord::Outcome;
use ps_core::{Activation, Head, LearningRate, Model, Samples};
use ps_plan::BatchPlan;
use ps_sim::tiny::{TinySamples, tiny_job, tiny_job_for_seed};
use ps_sim::{Counts, Faults, Report, SimJob, seeds, simulate};
use std::convert::Infallible;

fn with_expected(job: SimJob<'_>) -> SimJob<'_> {
    SimJob { expected: Some(job.reference().unwrap().0), ..job }
}

fn run_job(job: &SimJob<'_>, faults: &Faults, seed: u64) -> Report {
    simulate(job, faults, seed)
        .unwrap_or_else(|violation| panic!("{}\n{violation}", violation.log.join("\n")))
}

/// The run that `ps-sim --seed` reproduces.
fn run(seed: u64, faults: &Faults) -> Report {
    let samples = TinySamples::new();
    let job = with_expected(tiny_job_for_seed(&samples, seed));
    simulate(&job, faults, seed).unwrap_or_else(|violation| {
        panic!("{}\n{violation}\nreplay it with: ps-sim --seed {seed} --trace", violation.log.join("\n"))
    })
}

#[test]
fn ten_thousand_seeds_with_faults_give_the_reference_weights() {
    let mut totals = Counts::default();
    let run_mixed = |seed| {
        let report = run(seed, &Faults::mix());
        assert_eq!(report.steps, 12, "seed {seed}");
        Ok::<_, Infallible>(report)
    };
    let Ok(()) = seeds::run_all(0..10_000, run_mixed, |report| totals.add(&report.counts));
    println!("{totals}");
    for (name, total) in totals.fields() {
        assert!(*total > 100, "only {total} {name} in ten thousand runs: the fault does not happen");
    }
}

#[test]
fn some_of_these_runs_exercise_the_policies() {
    let samples = TinySamples::new();
    let (_, events) = tiny_job_for_seed(&samples, 101).reference().unwrap();
    let count = |name| events.iter().filter(|event| event.name() == name).count();
    assert!(count("recovered") >= 2 && count("lowered") >= 1, "{events:?}");
}

#[test]
fn a_seed_replays_every_event() {
    for seed in [3, 17, 400] {
        assert_eq!(run(seed, &Faults::mix()), run(seed, &Faults::mix()));
    }
}

#[test]
fn without_faults_nothing_is_lost_or_repeated() {
    let samples = TinySamples::new();
    for seed in 0..20 {
        let report = run_job(&with_expected(tiny_job_for_seed(&samples, seed)), &Faults::none(), seed);
        let counts = report.counts;
        assert_eq!((counts.losses, counts.duplicates, counts.reorderings), (0, 0, 0));
        assert_eq!(counts.admissions, u64::from(tiny_job_for_seed(&samples, seed).workers));
    }
}

#[test]
fn a_single_worker_that_keeps_crashing_still_finishes() {
    let samples = TinySamples::new();
    let faults = Faults { crash: 0.5, max_workers: 1, ..Faults::mix() };
    for seed in 0..40 {
        let servers = 1 + seed as u32 % 4;
        run_job(&with_expected(SimJob { servers, ..tiny_job(&samples, 1) }), &faults, seed);
    }
}

#[test]
fn any_leaf_size_and_number_of_workers_gives_the_reference_weights() {
    let samples = TinySamples::new();
    for seed in 0..120 {
        // Batches of up to 50 samples in up to 50 leaves, with many more workers than leaves and
        // with far fewer.
        let batch = [7, 16, 33, 50][seed as usize % 4];
        let leaf = [1, 2, 5][seed as usize % 3];
        let tiny = tiny_job(&samples, 1 + seed as u32 % 9);
        let plan = BatchPlan::new(seed, samples.len(), batch, leaf, 2, Some(10));
        let servers = 1 + seed as u32 / 12 % 4;
        run_job(&with_expected(SimJob { plan, servers, ..tiny }), &Faults::mix(), seed);
    }
}

#[test]
fn a_diverging_run_ends_at_the_same_step_under_all_faults() {
    let samples = TinySamples::new();
    let model = Model::new(samples.features(), &[], Activation::Relu, Head::SquaredError, 1);
    // Each step multiplies the weights by a million, until they overflow.
    let mut job = SimJob { model, rate: LearningRate::constant(1e6).into(), ..tiny_job(&samples, 3) };
    let mut steps = Vec::new();
    for seed in 0..40 {
        job.servers = 1 + seed as u32 % 4;
        steps.push(run_job(&job, &Faults::mix(), seed).outcome);
    }
    assert!(matches!(steps[0], Outcome::Diverged { .. }), "{:?}", steps[0]);
    assert!(steps.iter().all(|outcome| *outcome == steps[0]), "{steps:?}");
}
