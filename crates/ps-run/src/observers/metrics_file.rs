//! The metrics file, `metrics.jsonl`.

use super::epoch_throttle::EpochThrottle;
use crate::folder::{FolderError, METRICS_FILE, RunFolder};
use crate::lines::{Length, Line};
use crate::observer::Observer;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::Instant;

/// Writes each line of metrics to a file. Write errors, such as a full disk, do not stop training;
/// [`MetricsFile::close`] reports them.
pub(crate) struct MetricsFile {
    folder: RunFolder,
    length: Length,
    file: BufWriter<File>,
    throttle: EpochThrottle,
}

impl MetricsFile {
    /// Opens the metrics file in `folder` for a run of this length, and keeps only its first `lines` lines.
    pub(crate) fn open(folder: RunFolder, lines: u64, length: Length) -> Result<Self, FolderError> {
        let file = BufWriter::new(folder.metrics(lines, length)?);
        Ok(MetricsFile { folder, length, file, throttle: EpochThrottle::default() })
    }

    /// Reads all lines in the file.
    pub(crate) fn read(&self) -> Result<Vec<Line>, FolderError> {
        Line::read_all(&self.folder.path().join(METRICS_FILE))
    }

    /// Keeps only the first `lines` lines.
    pub(crate) fn rewind(self, lines: u64) -> Result<Self, FolderError> {
        let (folder, length) = (self.folder.clone(), self.length);
        self.close()?;
        MetricsFile::open(folder, lines, length)
    }

    /// Writes buffered lines, for programs that follow the file.
    pub(crate) fn flush(&mut self) {
        let _ = self.file.flush();
    }

    /// Writes buffered lines and closes the file.
    ///
    /// # Errors
    /// A write failed, now or earlier, so the file is incomplete.
    pub(crate) fn close(mut self) -> Result<(), FolderError> {
        let flushed = self.file.flush();
        flushed.map_err(|error| FolderError::File { path: self.folder.path().join(METRICS_FILE), error })
    }

    /// Replaces the file that the lines are written to.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) fn redirect(&mut self, file: File) {
        self.file = BufWriter::new(file);
    }
}

impl Observer for MetricsFile {
    fn on_line(&mut self, line: &Line) {
        // The error is not lost: the buffer keeps what could not be written, so `close` fails as well.
        let _ = writeln!(self.file, "{}", line.to_json());
        if let Line::Epoch(epoch) = line
            && self.throttle.admits(epoch, Instant::now())
        {
            self.flush();
        }
    }
}
