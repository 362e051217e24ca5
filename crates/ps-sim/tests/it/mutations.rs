//! The simulated runs detect every mutation of the code that they should detect.

use ps_plan::mutation::{ActiveMutation, Mutation};
use ps_sim::tiny::{TinySamples, tiny_job_for_seed};
use ps_sim::{Faults, SimJob, Violation, seeds, simulate};
use std::convert::Infallible;

/// Number of seeds within which a mutation must be detected.
const SEEDS: u64 = 200;

/// The first seed whose run breaks an invariant. The runs are the first of the ten thousand.
fn first_violation(mutation: ActiveMutation) -> Option<Violation> {
    let samples = TinySamples::new();
    (0..SEEDS).find_map(|seed| {
        let job = tiny_job_for_seed(&samples, seed);
        let (expected, _) = job.reference().expect("the tiny job does not diverge");
        let job = SimJob { expected: Some(expected), mutation, ..job };
        simulate(&job, &Faults::mix(), seed).err()
    })
}

#[test]
fn every_mutation_is_detected_within_200_seeds() {
    let mut hidden = Vec::new();
    let run = |index| {
        let mutation = Mutation::ALL[index as usize];
        Ok::<_, Infallible>((mutation, first_violation(ActiveMutation::new(mutation))))
    };
    let Ok(()) = seeds::run_all(0..Mutation::ALL.len() as u64, run, |(mutation, found)| match found {
        Some(violation) => println!("{mutation:?}: {violation}"),
        None => hidden.push(mutation),
    });
    assert!(hidden.is_empty(), "these do not come to light: {hidden:?}");
}

#[test]
fn nothing_is_detected_without_a_mutation() {
    if let Some(violation) = first_violation(ActiveMutation::default()) {
        panic!("{}\n{violation}", violation.log.join("\n"));
    }
}
