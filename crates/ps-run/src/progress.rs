//! Progress on stderr: a bar for people, lines for pipes, JSON for programs.

use crate::lines::Line;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ps_config::{LogArgs, LogFormat};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A bar that moves.
    Bar,
    /// A plain line now and then.
    Lines,
    /// A JSON object a line, as in the metrics file.
    Json,
    /// Not at all.
    Quiet,
}

impl Style {
    /// What fits the flags and where stderr goes.
    pub fn choose(log: &LogArgs) -> Self {
        match log.log_format {
            _ if log.quiet => Style::Quiet,
            LogFormat::Json => Style::Json,
            LogFormat::Text if std::io::stderr().is_terminal() => Style::Bar,
            LogFormat::Text => Style::Lines,
        }
    }
}

/// The progress of a run.
pub(crate) struct Progress {
    style: Style,
    bar: ProgressBar,
}

impl Progress {
    pub(crate) fn new(style: Style, steps: u64) -> Self {
        let template = "{prefix}  {bar:30.cyan/dim}  {percent} %, {eta} left\n{msg}";
        let bar = bar(style, steps, template);
        Progress { style, bar }
    }

    pub(crate) fn is_bar(&self) -> bool {
        self.style == Style::Bar
    }

    pub(crate) fn is_json(&self) -> bool {
        self.style == Style::Json
    }

    /// After how long steps are shown again.
    pub(crate) fn due(&self) -> Duration {
        match self.style {
            Style::Bar => Duration::from_millis(100),
            Style::Json => Duration::from_secs(1),
            Style::Lines | Style::Quiet => Duration::from_secs(5),
        }
    }

    /// Moves the bar, or writes a line.
    pub(crate) fn show(&self, line: &Line) {
        match (self.style, line) {
            (Style::Bar, Line::Step(line)) => {
                self.bar.set_length(line.steps);
                self.bar.set_prefix(line.head());
                self.bar.set_message(line.text());
                self.bar.set_position(line.step);
            }
            // The bar has just said how fast it was.
            (Style::Bar, Line::Epoch(line)) => self.print(&line.text(false)),
            (Style::Lines, Line::Step(line)) => self.print(&format!("{}  {}", line.head(), line.text())),
            (Style::Lines, Line::Epoch(line)) => self.print(&line.text(true)),
            (Style::Bar | Style::Lines, Line::Event(event)) => {
                self.print(&format!("step {}: {}", event.step, event.text));
            }
            // A bar has no room for it, and the summary says what came of all of them.
            (Style::Bar | Style::Lines, Line::Probe(_)) | (_, Line::Hash(_)) => {}
            (Style::Json, line) => self.print(&line.to_json()),
            (Style::Quiet, _) => {}
        }
    }

    /// A word to the user.
    pub(crate) fn note(&self, text: &str) {
        match self.style {
            Style::Bar | Style::Lines => self.print(text),
            Style::Json => self.print(&serde_json::json!({ "kind": "note", "text": text }).to_string()),
            Style::Quiet => {}
        }
    }

    /// A line that stays. A reader who has gone is no reason to stop.
    fn print(&self, text: &str) {
        if self.is_bar() && !self.bar.is_hidden() {
            self.bar.suspend(|| drop(writeln!(std::io::stderr(), "{text}")));
        } else {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    pub(crate) fn close(&self) {
        self.bar.finish_and_clear();
    }
}

/// Shows how another process's run goes, from what it writes as JSON.
pub struct Relay {
    progress: Progress,
}

impl Relay {
    /// Nothing is known of the run yet.
    pub fn new(style: Style) -> Self {
        Relay { progress: Progress::new(style, 0) }
    }

    /// Shows a line of progress, and says whether it was one.
    pub fn take(&self, json: &str) -> bool {
        let line = serde_json::from_str(json);
        line.iter().for_each(|line| self.progress.show(line));
        line.is_ok()
    }

    /// Writes a line that stays.
    pub fn print(&self, text: &str) {
        self.progress.print(text);
    }

    /// The bar goes.
    pub fn close(&self) {
        self.progress.close();
    }
}

/// Shows how far reading the data has come; on a terminal only.
pub struct DataProgress {
    bar: ProgressBar,
    files: Mutex<BTreeMap<String, (u64, u64)>>,
}

impl DataProgress {
    /// Nothing is read yet.
    pub fn new(style: Style) -> Self {
        let template = "reading {msg}  {bar:30.cyan/dim}  {bytes} of {total_bytes}";
        DataProgress { bar: bar(style, 0, template), files: Mutex::default() }
    }
}

impl ps_data::Progress for DataProgress {
    fn file(&self, name: &str, bytes_done: u64, bytes_total: u64) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let new = files.insert(name.into(), (bytes_done, bytes_total)).is_none();
        if new {
            let name = name.rsplit('/').next().unwrap_or(name);
            let others = files.len() - 1;
            let message = if others > 0 { format!("{name} and {others} more") } else { name.to_string() };
            self.bar.set_message(message);
        }
        let (done, total) = files.values().fold((0, 0), |sum, file| (sum.0 + file.0, sum.1 + file.1));
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}

impl Drop for DataProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn bar(style: Style, length: u64, template: &str) -> ProgressBar {
    if style != Style::Bar {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    bar.set_style(style.progress_chars("━╸━"));
    bar
}
