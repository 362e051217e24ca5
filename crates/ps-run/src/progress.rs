//! Progress on stderr: a bar for people, lines for pipes, JSON for programs.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ps_config::{LogArgs, LogFormat};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

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

    /// Moves the bar.
    pub(crate) fn advance(&self, position: u64, prefix: String, message: String) {
        self.bar.set_prefix(prefix);
        self.bar.set_message(message);
        self.bar.set_position(position);
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str, json: &str) {
        let mut stderr = std::io::stderr();
        // A reader who has gone is no reason to stop.
        let _ = match self.style {
            Style::Bar => {
                self.bar.println(text);
                Ok(())
            }
            Style::Lines => writeln!(stderr, "{text}"),
            Style::Json => writeln!(stderr, "{json}"),
            Style::Quiet => Ok(()),
        };
    }

    pub(crate) fn close(&self) {
        self.bar.finish_and_clear();
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
