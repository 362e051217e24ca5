//! A thousand runs in which everything goes wrong end with the reference trainer's weights.

use ps_core::{reference, weights_hash};
use ps_sim::tiny::{TinySamples, tiny_job, workers_of};
use ps_sim::{Counts, Faults, SimJob, simulate};

fn expected(samples: &TinySamples) -> String {
    let SimJob { model, plan, optimizer, rate, .. } = tiny_job(samples, 1);
    weights_hash(&reference::train(&model, plan, optimizer, rate, samples, |_, _| {}).unwrap())
}

fn run(seed: u64, faults: &Faults) -> ps_sim::Report {
    let samples = TinySamples::new();
    let job = SimJob { expected: Some(expected(&samples)), ..tiny_job(&samples, workers_of(seed)) };
    simulate(&job, faults, seed).unwrap_or_else(|violation| {
        panic!("{}\n{violation}\nreplay it with: ps-sim --seed {seed} --trace", violation.log.join("\n"))
    })
}

#[test]
fn thousand_seeds_with_faults_end_with_the_reference_weights() {
    let mut totals = Counts::default();
    for seed in 0..1000 {
        let report = run(seed, &Faults::mix());
        assert_eq!(report.steps, 12, "seed {seed}");
        totals.add(&report.counts);
    }
    println!("{totals}");
    for (name, total) in totals.fields() {
        assert!(*total > 100, "only {total} {name} in a thousand runs: the fault does not happen");
    }
}

#[test]
fn a_seed_replays_to_the_last_event() {
    for seed in [3, 17, 400] {
        assert_eq!(run(seed, &Faults::mix()), run(seed, &Faults::mix()));
    }
}

#[test]
fn without_faults_nothing_is_lost_repeated_or_computed_twice() {
    for seed in 0..5 {
        let report = run(seed, &Faults::none());
        let counts = report.counts;
        assert_eq!((counts.losses, counts.duplicates, counts.reorderings, counts.ignored), (0, 0, 0, 0));
        assert_eq!(counts.admissions, u64::from(workers_of(seed)));
    }
}

#[test]
fn one_worker_that_keeps_dying_still_finishes() {
    let samples = TinySamples::new();
    let faults = Faults { crash: 0.5, most_workers: 1, ..Faults::mix() };
    for seed in 0..20 {
        let job = SimJob { expected: Some(expected(&samples)), ..tiny_job(&samples, 1) };
        simulate(&job, &faults, seed).unwrap_or_else(|violation| panic!("{violation}"));
    }
}
