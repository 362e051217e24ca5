//! One worker that is also the holder of the weights: each tile of a gradient is applied as soon as it is known.

use super::{LocalError, Trained, lane, patience, server_config};
use ps_coord::{Outcome, ServerAction, ServerCore, ServerEvent, WorkerId};
use ps_core::control::State;
use ps_core::gradient::InPlace;
use ps_plan::Section;
use ps_run::{Job, Part, Recorder};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const WORKER: WorkerId = WorkerId(0);

/// Trains `job` until all steps are made or `stop` is set.
pub fn train(job: &Job, stop: &AtomicBool, recorder: &mut Recorder) -> Result<Trained, LocalError> {
    let clock = Instant::now();
    let now = || clock.elapsed().as_millis() as u64;
    let mut holder = InPlace::new(&job.model, job.plan, job.optimizer.params, &job.rate, job.kernel);
    if let Some(start) = recorder.take_start() {
        holder.resume(start.progress.step, start.weights, start.state);
    }
    let mut core = ServerCore::new(0, server_config(job, 1, holder.version()));
    let (mut actions, mut events) = (Vec::new(), VecDeque::from([ServerEvent::Joined { worker: WORKER }]));
    let (mut stopping, mut validation) = (false, None);
    loop {
        if !stopping && stop.load(Ordering::Relaxed) {
            stopping = true;
            events.push_back(ServerEvent::Stop);
        }
        let event = events.pop_front().unwrap_or_else(|| {
            std::thread::sleep(patience(&core, now()));
            ServerEvent::Timeout
        });
        core.step(now(), event, &mut actions);
        for action in actions.drain(..) {
            match action {
                ServerAction::Assign { worker, step, leaves } => {
                    let section = Section::of(leaves.start);
                    let begun = Instant::now();
                    recorder.board().assigned(|| lane(worker), step, || Section::words(&leaves));
                    match section {
                        Section::Training => holder.compute(&job.data.train),
                        // It is in place: nobody else waits for the tallies of the other leaves.
                        _ => validation = job.validate(holder.weights()),
                    }
                    recorder.board().meter.spend(Part::Compute, begun.elapsed());
                    recorder.board().contributed(|| lane(worker));
                    let node = job.plan.step(step).tree().root_of(section);
                    events.push_back(ServerEvent::Contributed { worker, step, node, digest: None });
                }
                ServerAction::Update { step } => {
                    let begun = Instant::now();
                    let mut report = holder.update().map_err(LocalError::Diverged)?;
                    report.validation = validation.take();
                    recorder.step(&report, 1);
                    recorder.board().meter.spend(Part::Update, begun.elapsed());
                    recorder.board().made("update", begun);
                    let version = holder.version();
                    let wanted = recorder.wants(version).map_err(LocalError::Unsaved)?;
                    if wanted.look {
                        recorder.look(version, holder.weights());
                    }
                    if wanted.save {
                        save(&mut holder, recorder)?;
                    }
                    events.push_back(ServerEvent::Updated { step });
                }
                ServerAction::Finish(Outcome::TooFewWorkers { .. }) => {
                    return Err(LocalError::Lost("its only worker is gone".into()));
                }
                ServerAction::Finish(_) => {
                    if holder.version() < job.plan.steps {
                        save(&mut holder, recorder)?;
                    } else {
                        if recorder.keeps_end() {
                            let (version, weights) = (holder.version(), holder.weights().to_vec());
                            let velocity = holder.velocity().to_vec();
                            recorder.keep_end(version, State::plain(version), weights, velocity);
                        }
                        recorder.validate(job, holder.weights());
                    }
                    return Ok((holder.weights().to_vec(), holder.version()));
                }
                ServerAction::Notice(notice) => tracing::debug!("{notice}"),
                ServerAction::SendWeights { .. }
                | ServerAction::Dismiss { .. }
                | ServerAction::Judge { .. }
                | ServerAction::AskMissing { .. }
                | ServerAction::Ban { .. }
                | ServerAction::GoBack { .. }
                | ServerAction::StartOver { .. } => {}
            }
        }
    }
}

fn save(holder: &mut InPlace, recorder: &mut Recorder) -> Result<(), LocalError> {
    let (version, weights) = (holder.version(), holder.weights().to_vec());
    let progress = recorder.progress(version, State::plain(version));
    recorder.checkpoint(progress, weights, holder.velocity().to_vec()).map_err(LocalError::Unsaved)
}
