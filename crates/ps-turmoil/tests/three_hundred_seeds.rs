//! Three hundred runs of the real servers and workers, on a network and a disk with faults, end with the
//! reference trainer's weights.

use ps_turmoil::simulate_all;

#[test]
fn three_hundred_seeds_with_faults_give_the_reference_weights() {
    let report = simulate_all(0..300, |_| ()).unwrap_or_else(|violation| panic!("{violation}"));
    println!("{}\nlongest: {} ms of virtual time", report.counts, report.took.as_millis());
    for (name, total) in report.counts.fields() {
        assert!(total > 20, "only {total} {name} in three hundred runs: the fault does not happen");
    }
}
