//! Properties of the simulated rounds that hold for all costs.

use ps_scale::{
    Bound, Cluster, Costs, CostsError, Link, Placement, Stragglers, Sweep, WeightHolders, compute_name,
    step_seconds,
};

const MB: u32 = 1_000_000;
/// Bandwidth of all links, in bytes per second.
const BANDWIDTH: f64 = 1e9;

/// Workers on separate hosts, and one server with eight chunks of a megabyte.
fn cluster(workers: usize) -> Cluster {
    Cluster {
        workers,
        threads: 1,
        holders: WeightHolders::Servers,
        parts: vec![vec![MB; 8]],
        weight_share: 1.0,
        leaves: 64,
        placement: Placement::SeparateHosts,
        cores: 2,
        link: Link { bandwidth: BANDWIDTH, latency: 0.0, unevenness: 0.0 },
        stragglers: None,
        seed: 1,
    }
}

/// The same eight chunks in eight shards.
fn sharded(workers: usize, holders: WeightHolders) -> Cluster {
    Cluster { holders, parts: vec![vec![MB]; 8], ..cluster(workers) }
}

/// Costs in which computing a leaf takes a millisecond and everything else is free.
fn only_compute() -> Costs {
    Costs { compute: vec![(1, 1e-3), (64, 64e-3)], ..Costs::nothing() }
}

fn only_fold() -> Costs {
    Costs { check_byte: 1e-10, add_byte: 1e-10, update_byte: 1e-10, ..Costs::nothing() }
}

/// Costs in which nothing is free.
fn everything() -> Costs {
    Costs {
        extra_node: 1e-4,
        take_byte: 1e-11,
        send_byte: 2e-10,
        receive_byte: 2e-10,
        message: 1e-5,
        wire_wake: 1e-5,
        handoff: 1e-5,
        switch: 5e-6,
        jitter: 0.05,
        control: 1e-7,
        control_worker: 1e-9,
        crowding: 1.1,
        ..only_fold()
    }
}

#[track_caller]
fn check(seconds: f64, expected: f64) {
    assert!((seconds / expected - 1.0).abs() < 0.001, "{seconds} s, expected {expected} s");
}

#[test]
fn one_worker_alone_takes_compute_plus_wire() {
    let one_chunk = Cluster { parts: vec![vec![8 * MB]], ..cluster(1) };
    check(step_seconds(&one_chunk, &only_compute()), 64e-3 + 2.0 * 8e6 / BANDWIDTH);
    let far = Cluster { link: Link { latency: 5e-3, ..one_chunk.link }, ..one_chunk };
    check(step_seconds(&far, &only_compute()), 64e-3 + 2.0 * (8e6 / BANDWIDTH + 5e-3));
}

#[test]
fn chunks_travel_back_while_others_still_come() {
    check(step_seconds(&cluster(1), &only_compute()), 64e-3 + 9.0 * 1e6 / BANDWIDTH);
}

#[test]
fn on_one_host_a_gradient_is_received_once_it_is_sent() {
    let link = Link { bandwidth: f64::INFINITY, latency: 0.0, unevenness: 0.0 };
    let costs = Costs { send_byte: 1e-10, receive_byte: 2e-10, ..only_compute() };
    let seconds = step_seconds(&Cluster { link, placement: Placement::SharedHost, ..cluster(1) }, &costs);
    // All chunks of the gradient are sent at once, and then all chunks of the weights, since all of them are
    // updated at once.
    check(seconds, 64e-3 + 2.0 * 8e6 * 3e-10);
}

#[test]
fn chunks_that_are_final_early_are_sent_during_the_computation() {
    let link = Link { bandwidth: f64::INFINITY, latency: 0.0, unevenness: 0.0 };
    let cluster = Cluster { link, ..cluster(1) };
    let half = 4 * MB as usize / 4;
    let whole = Costs { send_byte: 1e-9, ..only_compute() };
    let flowing = Costs {
        // The second half of the weights is needed after a quarter of the time, and its gradient is complete
        // after three quarters.
        needs: vec![(half, 0.0), (2 * half, 0.25)],
        gives: vec![(half, 0.75), (0, 1.0)],
        ..whole.clone()
    };
    check(step_seconds(&cluster, &whole), 64e-3 + 16e-3);
    // In each direction, the round only waits for the first half of the chunks.
    check(step_seconds(&cluster, &flowing), 64e-3 + 8e-3);
}

#[test]
fn workers_share_what_is_to_be_computed() {
    let endless = |workers| {
        let link = Link { bandwidth: f64::INFINITY, latency: 0.0, unevenness: 0.0 };
        step_seconds(&Cluster { link, ..cluster(workers) }, &only_compute())
    };
    check(endless(1), 64e-3);
    check(endless(4), 16e-3);
    check(endless(64), 1e-3);
    // With 64 leaves for 5 workers, one worker has 13.
    check(endless(5), 13e-3);
}

#[test]
fn doubling_the_bandwidth_halves_a_bandwidth_bound_round() {
    let seconds = |factor| {
        let link = Link { bandwidth: factor * BANDWIDTH, latency: 0.0, unevenness: 0.0 };
        step_seconds(&Cluster { link, ..cluster(8) }, &Costs::nothing())
    };
    check(seconds(1.0), 2.0 * seconds(2.0));
    // All eight gradients pass the server's link one after the other, while the weights pass in the other
    // direction.
    check(seconds(1.0), 9.0 * 8e6 / BANDWIDTH);
    assert_eq!(Bound::of(&cluster(8), &everything()), Bound::Link);
}

#[test]
fn half_precision_weights_reduce_only_the_downlink() {
    let one_chunk = Cluster { parts: vec![vec![8 * MB]], weight_share: 0.5, ..cluster(1) };
    check(step_seconds(&one_chunk, &Costs::nothing()), 1.5 * 8e6 / BANDWIDTH);
}

#[test]
fn more_shards_never_slow_a_round_down_that_is_bound_by_the_server() {
    // With one server, checking gradients for finite values is an additional cost. The rounds are so short
    // that the speed of no worker is known: the one whose sum is folded first would count as the fastest.
    let costs = Costs { check_byte: 0.0, add_byte: 1e-11, update_byte: 1e-11, ..only_fold() };
    let seconds = |shards: usize| {
        let parts = (0..shards).map(|_| vec![MB; 8 / shards]).collect();
        let link = Link { bandwidth: f64::INFINITY, latency: 0.0, unevenness: 0.0 };
        step_seconds(&Cluster { parts, link, ..cluster(16) }, &costs)
    };
    let each = [1, 2, 4, 8].map(seconds);
    for pair in each.windows(2) {
        check(pair[1], pair[0] / 2.0);
    }
    let bound =
        Cluster { link: Link { bandwidth: f64::INFINITY, latency: 0.0, unevenness: 0.0 }, ..cluster(16) };
    assert_eq!(Bound::of(&bound, &only_fold()), Bound::Fold);
}

#[test]
fn colocated_shards_transfer_as_many_bytes_as_a_ring() {
    // Each worker sends 7 of 8 shards and then receives as many. Sending and receiving overlap except for one
    // shard.
    let seconds = step_seconds(&sharded(8, WeightHolders::Workers), &Costs::nothing());
    let ring = 2.0 * 7.0 / 8.0 * 8e6 / BANDWIDTH;
    assert!(seconds >= 0.5 * ring && seconds <= 1.05 * ring, "{seconds} s, ring: {ring} s");
    // A single worker that holds the only shard sends nothing over its link.
    let alone = Cluster { holders: WeightHolders::Workers, ..cluster(1) };
    assert!(step_seconds(&alone, &Costs::nothing()) < 0.01 * ring);
}

#[test]
fn processes_on_one_host_share_its_cores() {
    let together = |workers, cores| {
        let link = Link { bandwidth: f64::INFINITY, latency: 0.0, unevenness: 0.0 };
        let placement = Placement::SharedHost;
        step_seconds(&Cluster { placement, cores, link, ..cluster(workers) }, &only_compute())
    };
    check(together(1, 2), 64e-3);
    check(together(2, 2), 32e-3);
    check(together(8, 2), 32e-3);
    check(together(8, 8), 8e-3);
}

#[test]
fn a_message_costs_its_sender_and_its_receiver_time() {
    let costs = Costs { send_byte: 1e-9, receive_byte: 2e-9, ..Costs::nothing() };
    let link = Link { bandwidth: f64::INFINITY, latency: 0.0, unevenness: 0.0 };
    let one_chunk = Cluster { parts: vec![vec![8 * MB]], link, ..cluster(1) };
    check(step_seconds(&one_chunk, &costs), 2.0 * (8e-3 + 16e-3));
}

#[test]
fn one_straggler_makes_all_wait() {
    let link = Link { bandwidth: f64::INFINITY, latency: 0.0, unevenness: 0.0 };
    let seconds = |share| {
        let stragglers = Some(Stragglers { share, factor: 3.0 });
        step_seconds(&Cluster { stragglers, link, ..cluster(16) }, &only_compute())
    };
    check(seconds(0.0), 4e-3);
    check(seconds(1.0), 12e-3);
    let rare = seconds(0.02);
    // In 1 - 0.98^16 = 28 % of all steps, at least one worker is slow.
    assert!((5e-3..8e-3).contains(&rare), "{rare}");
}

#[test]
fn leaves_that_are_late_are_also_computed_by_another_worker() {
    let link = Link { bandwidth: f64::INFINITY, latency: 0.0, unevenness: 0.0 };
    let stragglers = Some(Stragglers { share: 0.02, factor: 1000.0 });
    let seconds = step_seconds(&Cluster { stragglers, link, ..cluster(16) }, &only_compute());
    // Waiting for stragglers would take 4 s in 28 % of all steps, but leaves count as late after 100 ms.
    assert!((4e-3..0.1).contains(&seconds), "{seconds}");
}

#[test]
fn leaves_go_to_the_workers_whose_gradients_arrive_first() {
    // With four workers on uneven links, some take more than 1.5 times as long as others to send.
    let seconds = |unevenness| {
        let link = Link { bandwidth: 0.1 * BANDWIDTH, latency: 0.0, unevenness };
        step_seconds(&Cluster { link, ..cluster(4) }, &Costs { jitter: 0.01, ..only_compute() })
    };
    // With ranges of equal size, uneven links make steps a quarter longer. Ranges of several nodes would
    // double the bytes.
    assert!(seconds(0.6) > 2.0 * seconds(0.0));
}

#[test]
fn uneven_workers_wait_for_the_last_one() {
    let link = Link { bandwidth: f64::INFINITY, latency: 0.0, unevenness: 0.0 };
    let seconds = |workers| {
        let costs = Costs { jitter: 0.1, ..only_compute() };
        step_seconds(&Cluster { link, ..cluster(workers) }, &costs) / (64e-3 / workers as f64)
    };
    assert!((seconds(1) - 1.0).abs() < 0.05);
    // On average, the slowest of 16 workers is 1.77 standard deviations late.
    assert!((seconds(16) - 1.177).abs() < 0.03, "{}", seconds(16));
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let seconds = |seed| {
        let stragglers = Some(Stragglers { share: 0.05, factor: 3.0 });
        step_seconds(&Cluster { stragglers, seed, ..sharded(12, WeightHolders::Workers) }, &only_compute())
    };
    assert_eq!(seconds(7).to_bits(), seconds(7).to_bits());
    assert_ne!(seconds(7), seconds(8));
}

#[test]
fn a_thousand_workers_are_simulated_with_either_weight_holder() {
    for holders in [WeightHolders::Servers, WeightHolders::Workers] {
        let seconds = step_seconds(&sharded(1000, holders), &everything());
        assert!(seconds.is_finite() && seconds > 0.0);
    }
}

#[test]
fn workers_beyond_the_leaves_do_not_pay() {
    let link = Link { bandwidth: f64::INFINITY, latency: 0.0, unevenness: 0.0 };
    let cluster = |workers| Cluster { link, ..cluster(workers) };
    let sweep = Sweep::new(&[1, 16, 256], cluster, &only_compute());
    assert_eq!(sweep.stops_paying, Some((64, Bound::Leaves)));
    let speedups: Vec<f64> = sweep.rows.iter().map(|row| row.speedup.round()).collect();
    assert_eq!(speedups, [1.0, 16.0, 64.0]);
    let bounds: Vec<Bound> = sweep.rows.iter().map(|row| row.bound).collect();
    assert_eq!(bounds, [Bound::Compute, Bound::Compute, Bound::Leaves]);
}

#[test]
fn workers_stop_paying_once_the_servers_link_is_saturated() {
    let sweep = Sweep::new(&[1, 64], cluster, &only_compute());
    // Computation takes 64 ms, and the link 8 ms for each worker.
    let (workers, bound) = sweep.stops_paying.expect("the link is full long before");
    assert!(workers <= 4 && bound == Bound::Link, "{workers} {bound}");
    let beside = |workers: usize| {
        let parts = vec![vec![MB; 8 / workers.min(8)]; workers.min(8)];
        Cluster { holders: WeightHolders::Workers, parts, ..cluster(workers) }
    };
    let better = Sweep::new(&[64], beside, &only_compute());
    assert!(better.rows[0].step_seconds < sweep.rows[1].step_seconds / 4.0);
}

#[test]
fn figures_that_are_written_can_be_read() {
    let compute = compute_name("784-16-10", 32, 2);
    let costs = Costs { compute: vec![(1, 0.25), (4, 0.5)], ..everything() };
    let lines = costs.lines(&compute);
    let other = r#"{"name": "peak/fma", "value": 115.0, "unit": "GFLOP/s"}"#;
    let read = Costs::read(&format!("{other}\n\n{}", lines.join("\n")), &compute).unwrap();
    assert_eq!(read.lines(&compute), lines);
    let missing =
        Costs::read(&lines[1..].join("\n"), &compute_name("784-16-10", 32, 1)).unwrap_err().to_string();
    assert!(missing.contains("cost/take/kB") && missing.contains("leaf32/t1/leaves/N"), "{missing}");
    assert_eq!(Costs::read("{}\n", &compute), Err(CostsError::Line(1)));
    assert_eq!(Costs::read("\nno", &compute), Err(CostsError::Line(2)));
}

#[test]
fn unmeasured_costs_are_interpolated() {
    let costs = Costs { compute: vec![(2, 2.0), (4, 3.0)], extra_node: 0.5, ..Costs::nothing() };
    let seconds = [0, 1, 2, 3, 4, 8].map(|leaves| costs.compute_seconds(leaves, 1));
    assert_eq!(seconds, [0.0, 2.0, 2.0, 2.5, 3.0, 6.0]);
    assert_eq!(costs.compute_seconds(3, 2), 3.0);
}

#[test]
fn the_median_of_several_measurements_is_used() {
    let measured =
        [3.0, 1.0, 20.0].map(|value| Costs { compute: vec![(1, value)], message: value, ..Costs::nothing() });
    let median = Costs::medians(&measured);
    assert_eq!((median.compute[0].1, median.message), (3.0, 3.0));
}
