//! A worker whose sums are finite but wrong is found out where sums are audited.

use crate::support::{self, Server, Tapped, Worker, data, options, reference_hash, run_file, wide_run};
use ps_core::gradient::Flow;
use ps_core::{Gradients, weights_hash};
use ps_run::Job;
use ps_server::ServerOptions;
use ps_worker::{Computer, Ended, WorkerError};
use std::ops::Range;

/// Computes as every worker does, but for one bit of one element in some steps.
struct Liar(Gradients);

impl Liar {
    fn of(run: &str, folder: &std::path::Path) -> Box<dyn Computer> {
        Box::new(Liar(support::job(run, folder).gradients()))
    }
}

impl Computer for Liar {
    fn compute(&mut self, job: &Job, flow: &mut dyn Flow, step: u64, leaves: Range<u32>) -> bool {
        let finished = |flow: &mut dyn Flow, number, from: usize| {
            if step >= 3 {
                let element = &mut flow.gradient(number)[from];
                *element = f32::from_bits(element.to_bits() ^ 1);
            }
            flow.finished(number, from);
        };
        self.0.compute_flowing(&mut Tapped { flow, finished }, &job.data.train, step, leaves)
    }
}

#[test]
fn a_worker_that_lies_is_named_and_banned_and_changes_no_bit() {
    let folder = data(1);
    // Long enough for all to be back before the end.
    for run in [run_file(100), wide_run(20, ""), wide_run(20, "[wire]\nweights = \"bf16\"\n")] {
        let server = Server::start(&run, folder.path(), ServerOptions { audit: 1.0, ..options(3) });
        let liar = Worker::start_computing(&server.address, folder.path(), Liar::of(&run, folder.path()));
        let honest = [0, 1].map(|_| Worker::start_named(&server.address, folder.path(), "honest"));
        server.finish_at_reference();
        let error = liar.finish().unwrap_err();
        assert_eq!(error.exit_code(), 42);
        let WorkerError::Banned(why) = error else { panic!("{error}") };
        assert!(why.contains("is not what they give"), "{why}");
        honest.into_iter().for_each(|worker| assert_eq!(worker.finish().unwrap(), Ended::Done));
    }
}

#[test]
fn the_server_itself_is_the_second_where_there_is_only_one_worker() {
    let folder = data(1);
    let run = run_file(8);
    let server = Server::start(&run, folder.path(), ServerOptions { audit: 1.0, ..options(1) });
    let liar = Worker::start_computing(&server.address, folder.path(), Liar::of(&run, folder.path()));
    assert!(matches!(liar.finish(), Err(WorkerError::Banned(_))));
    // It does not get in again under the same name.
    let again = Worker::start(&server.address, folder.path()).finish().unwrap_err();
    assert_eq!(again.exit_code(), 42, "{again}");
    assert!(again.to_string().contains("it is banned"), "{again}");
    let honest = Worker::start_named(&server.address, folder.path(), "honest");
    server.finish_at_reference();
    assert_eq!(honest.finish().unwrap(), Ended::Done);
}

#[test]
fn without_audit_a_lie_gets_through() {
    let folder = data(1);
    let run = run_file(8);
    let server = Server::start(&run, folder.path(), options(1));
    let liar = Worker::start_computing(&server.address, folder.path(), Liar::of(&run, folder.path()));
    let finished = server.finish().unwrap();
    assert!(finished.is_done);
    assert_ne!(weights_hash(&finished.weights), reference_hash(&support::job(&run, folder.path())));
    assert_eq!(liar.finish().unwrap(), Ended::Done);
}
