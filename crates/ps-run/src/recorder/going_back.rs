//! Going back to a checkpoint during a run, because weights were lost or a worker was banned.

use super::Recorder;
use crate::bans::{self, Ban};
use crate::folder::FolderError;
use crate::hash_chain::HashChain;
use crate::lines::Line;
use crate::observer::Resumed;
use ps_checkpoint::Snapshot;
use std::time::Instant;

impl Recorder {
    /// Goes back to the newest checkpoint, or to the beginning if there is none, and drops the reports of
    /// later steps. Returns the snapshot.
    ///
    /// # Errors
    /// The checkpoints or the metrics file cannot be read or written, so the run must end.
    pub fn rewind(&mut self) -> Result<Option<Snapshot>, FolderError> {
        let (found, warnings) = match &mut self.checkpoints {
            Some(checkpoints) => checkpoints.newest()?,
            None => (None, Vec::new()),
        };
        self.warn(warnings);
        self.resume_at(found.as_ref())?;
        Ok(found)
    }

    /// Goes back to a checkpoint of at most `step` steps, or to the beginning if that is allowed, because
    /// later weights may depend on wrong sums. Later checkpoints are removed. Returns the snapshot, where the
    /// inner `None` means the beginning; the outer `None` means that there is nothing to go back to and the
    /// weights stay as they are.
    ///
    /// # Errors
    /// As for [`Recorder::rewind`].
    pub fn go_back(&mut self, step: u64) -> Result<Option<Option<Snapshot>>, FolderError> {
        let found = match &mut self.checkpoints {
            Some(checkpoints) => {
                let Some(found) = checkpoints.go_back(step)? else {
                    bans::accept(&mut self.bans);
                    self.write_bans()?;
                    return Ok(None);
                };
                self.warn(found.problems);
                found.snapshot
            }
            None => None,
        };
        self.resume_at(found.as_ref())?;
        // The bans are written last. If the process dies before that, the next one finds them unresolved and
        // goes back again.
        bans::undo(&mut self.bans, found.as_ref().map_or(0, |found| found.progress.step));
        self.write_bans()?;
        Ok(Some(found))
    }

    fn resume_at(&mut self, found: Option<&Snapshot>) -> Result<(), FolderError> {
        let from = found.map(|found| found.progress.clone()).unwrap_or_default();
        let mut lines = Vec::new();
        if let Some(metrics) = self.observers.metrics.take() {
            let metrics = metrics.rewind(from.lines)?;
            lines = metrics.read()?;
            self.observers.metrics = Some(metrics);
            self.hashes = Some(HashChain::new(self.plan.steps, &lines));
        }
        self.accumulator.resume(&from, &lines, Instant::now());
        self.report_resumed(found, &lines);
        Ok(())
    }

    /// Reports that the run continues from `found`, or from the beginning. Writes the hash of those weights
    /// unless the metrics file already contains it. It lacks the hash if they were the final weights of a run
    /// that has been made longer.
    pub(super) fn report_resumed(&mut self, found: Option<&Snapshot>, lines: &[Line]) {
        let (step, samples) = found.map_or((0, 0), |found| (found.progress.step, found.progress.samples));
        self.observers.each(|observer, _| observer.on_resume(&Resumed { step, samples, lines }));
        let is_there = |line: &Line| matches!(line, Line::Hash(line) if line.step == step);
        if let Some(found) = found.filter(|_| !lines.iter().any(is_there)) {
            self.hash(step, &found.weights);
        }
    }

    /// The workers banned so far.
    pub fn bans(&self) -> &[Ban] {
        &self.bans
    }

    /// Records the ban of a worker.
    ///
    /// # Errors
    /// The ban cannot be written, so it would be forgotten after a restart.
    pub fn ban(&mut self, ban: Ban) -> Result<(), FolderError> {
        self.bans.push(ban);
        self.write_bans()
    }

    fn write_bans(&self) -> Result<(), FolderError> {
        self.run_state().update(|snapshot| snapshot.bans = self.bans.clone());
        self.folder.as_ref().map_or(Ok(()), |folder| folder.write_bans(&self.bans))
    }
}
