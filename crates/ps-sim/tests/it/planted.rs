//! The simulated runs detect every mutation of the code that they should detect.

use ps_plan::planted::{Defect, Planted};
use ps_sim::tiny::{TinySamples, tiny_job_of};
use ps_sim::{Faults, SimJob, Violation, seeds, simulate};
use std::convert::Infallible;

/// Number of seeds within which a mutation must be detected.
const SEEDS: u64 = 200;

/// The first seed whose run breaks an invariant. The runs are the first of the ten thousand.
fn first_violation(planted: Planted) -> Option<Violation> {
    let samples = TinySamples::new();
    (0..SEEDS).find_map(|seed| {
        let job = tiny_job_of(&samples, seed);
        let (expected, _) = job.reference().expect("the tiny job does not diverge");
        let job = SimJob { expected: Some(expected), planted, ..job };
        simulate(&job, &Faults::mix(), seed).err()
    })
}

#[test]
fn each_defect_comes_to_light_within_two_hundred_seeds() {
    let mut hidden = Vec::new();
    let run = |index| {
        let defect = Defect::ALL[index as usize];
        Ok::<_, Infallible>((defect, first_violation(Planted::new(defect))))
    };
    let Ok(()) = seeds::run_all(0..Defect::ALL.len() as u64, run, |(defect, found)| match found {
        Some(violation) => println!("{defect:?}: {violation}"),
        None => hidden.push(defect),
    });
    assert!(hidden.is_empty(), "these do not come to light: {hidden:?}");
}

#[test]
fn without_a_defect_nothing_comes_to_light() {
    if let Some(violation) = first_violation(Planted::default()) {
        panic!("{}\n{violation}", violation.log.join("\n"));
    }
}
