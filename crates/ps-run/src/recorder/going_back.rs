//! Going back to a checkpoint while the run is under way: because weights were lost, or because a worker was banned.

use super::Recorder;
use crate::bans::{self, Ban};
use crate::folder::FolderError;
use crate::hash_chain::HashChain;
use crate::lines::Line;
use crate::observer::Resumed;
use ps_checkpoint::Snapshot;
use std::time::Instant;

impl Recorder {
    /// Goes back to what was saved last, or to the beginning, and drops what was reported of later steps. Returns what was
    /// saved.
    ///
    /// # Errors
    /// The checkpoints or the metrics file cannot be read or written: the run must not continue.
    pub fn rewind(&mut self) -> Result<Option<Snapshot>, FolderError> {
        let (found, warnings) = match &mut self.checkpoints {
            Some(checkpoints) => checkpoints.newest()?,
            None => (None, Vec::new()),
        };
        self.warn(warnings);
        self.resume_at(found.as_ref())?;
        Ok(found)
    }

    /// Goes back to a checkpoint of at most `step` steps, or to the beginning if that counts as one: later weights may hold
    /// wrong sums, and what was saved of them is removed. Returns what was saved; nothing at all if there is neither, and
    /// then the weights stay as they are.
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

    /// The run continues from `found`, or begins again. Writes the hash of its weights, too, unless it is there: it is not
    /// where they were the last of a run that has become longer.
    pub(super) fn report_resumed(&mut self, found: Option<&Snapshot>, lines: &[Line]) {
        let (step, samples) = found.map_or((0, 0), |found| (found.progress.step, found.progress.samples));
        self.observers.each(|observer, _| observer.on_resume(&Resumed { step, samples, lines }));
        let is_there = |line: &Line| matches!(line, Line::Hash(line) if line.step == step);
        if let Some(found) = found.filter(|_| !lines.iter().any(is_there)) {
            self.hash(step, &found.weights);
        }
    }

    /// The workers that were banned so far.
    pub fn bans(&self) -> &[Ban] {
        &self.bans
    }

    /// A worker was banned.
    ///
    /// # Errors
    /// The folder cannot be written: after a restart nobody would know.
    pub fn ban(&mut self, ban: Ban) -> Result<(), FolderError> {
        self.bans.push(ban);
        self.write_bans()
    }

    fn write_bans(&self) -> Result<(), FolderError> {
        self.board().tell(|seen| seen.bans = self.bans.clone());
        self.folder.as_ref().map_or(Ok(()), |folder| folder.write_bans(&self.bans))
    }
}
