//! Writes rounds to a file for trace viewers (<https://ui.perfetto.dev>, `chrome://tracing`).
//!
//! The format is the JSON array format of Chrome's trace events:
//! <https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU>.
//! The closing bracket is optional, so viewers can also read the file of a process that was killed.

use crate::folder::FolderError;
use crate::run_state::{Round, Span};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// A trace file that rounds are written to.
#[derive(Debug)]
pub struct Trace {
    file: BufWriter<File>,
    process: u32,
    /// The number of each lane, which serves as its thread id.
    lanes: BTreeMap<String, usize>,
    is_begun: bool,
}

impl Trace {
    /// Creates the file. An existing file is overwritten, as is usual for trace files.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path, process: &str) -> Result<Self, FolderError> {
        let file = File::create(path).map_err(|error| FolderError::File { path: path.into(), error })?;
        let process_id = std::process::id();
        let mut trace = Trace {
            file: BufWriter::new(file),
            process: process_id,
            lanes: BTreeMap::new(),
            is_begun: false,
        };
        trace.event(&json!({
            "ph": "M", "name": "process_name", "pid": process_id, "args": { "name": process },
        }));
        Ok(trace)
    }

    /// Writes a round and all its spans.
    pub fn round(&mut self, round: &Round) {
        let step = Span {
            lane: "steps".into(),
            what: "step",
            from: round.began,
            until: round.ended,
            detail: format!("step {}", round.step),
        };
        self.span(&step);
        round.spans.iter().for_each(|span| self.span(span));
    }

    /// Writes a span.
    pub fn span(&mut self, span: &Span) {
        let next = self.lanes.len();
        let lane = *self.lanes.entry(span.lane.clone()).or_insert(next);
        if lane == next {
            self.event(&json!({
                "ph": "M", "name": "thread_name", "pid": self.process, "tid": lane, "args": { "name": span.lane },
            }));
        }
        let micros = |seconds: f64| (seconds * 1e6).round();
        self.event(&json!({
            "ph": "X", "name": span.what, "pid": self.process, "tid": lane, "ts": micros(span.from),
            "dur": micros(span.until - span.from), "args": { "detail": span.detail },
        }));
    }

    /// A full disk is no reason to stop training; the file then ends early.
    fn event(&mut self, event: &Value) {
        let before = if std::mem::replace(&mut self.is_begun, true) { ",\n" } else { "[\n" };
        let _ = write!(self.file, "{before}{event}");
    }

    /// Writes buffered events.
    pub fn flush(&mut self) {
        let _ = self.file.flush();
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = writeln!(self.file, "\n]");
        self.flush();
    }
}
