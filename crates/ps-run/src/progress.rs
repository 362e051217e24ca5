//! Progress on standard error: a bar for people, lines for pipes, JSON for programs.

use crate::display;
use crate::lines::{Line, WARNED};
use ps_config::{LogArgs, LogFormat};
use ps_terminal::{Bar, print};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The style in which progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A bar that is redrawn in place.
    Bar,
    /// A plain line at intervals.
    Lines,
    /// One JSON object per line, as in the metrics file.
    Json,
    /// Only warnings are shown.
    Quiet,
    /// Nothing is shown, and warnings only go to observers.
    Silent,
}

impl Style {
    /// Chooses a style by the flags and by whether standard error is a terminal.
    pub fn choose(log: &LogArgs) -> Self {
        match log.log_format {
            _ if log.quiet => Style::Quiet,
            LogFormat::Json => Style::Json,
            LogFormat::Text if ps_terminal::is_interactive() => Style::Bar,
            LogFormat::Text => Style::Lines,
        }
    }
}

/// Writes progress to standard error in a given style.
pub(crate) struct Terminal {
    style: Style,
    bar: Bar,
}

impl Terminal {
    pub(crate) fn new(style: Style) -> Self {
        Terminal { style, bar: bar(style) }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.style == Style::Json
    }

    /// The shortest time between two displays of steps.
    pub(crate) fn interval(&self) -> Duration {
        match self.style {
            Style::Bar => Duration::from_millis(100),
            Style::Json => Duration::from_secs(1),
            Style::Lines | Style::Quiet | Style::Silent => Duration::from_secs(5),
        }
    }

    /// Redraws the bar or writes a line, depending on the style.
    pub(crate) fn show(&self, line: &Line) {
        match (self.style, line) {
            (Style::Bar, Line::Step(line)) => {
                self.bar.show(line.step, line.steps, |width, left| {
                    display::step(line, width, left, ps_terminal::has_color())
                });
            }
            (Style::Bar, Line::Epoch(line)) => {
                print(
                    &ps_terminal::stderr_width()
                        .map_or_else(|| line.text(), |width| display::epoch(line, width)),
                );
            }
            (Style::Lines, Line::Step(line)) => print(&format!("{}  {}", line.head(), line.text())),
            (Style::Lines, Line::Epoch(line)) => print(&line.text()),
            (Style::Json, line) => print(&line.to_json()),
            (Style::Bar | Style::Lines | Style::Quiet, Line::Event(event)) if event.event == WARNED => {
                self.warn(&format!("step {}: {}", event.step, event.text));
            }
            (Style::Bar | Style::Lines, Line::Event(event)) => {
                print(&format!("step {}: {}", event.step, event.text));
            }
            // A bar has no room for these lines, and the summary covers all probes.
            (Style::Bar | Style::Lines, Line::Probe(_) | Line::Hash(_))
            | (Style::Quiet | Style::Silent, _) => {}
        }
    }

    /// Writes a message for the user.
    pub(crate) fn note(&self, text: &str) {
        match self.style {
            Style::Bar | Style::Lines => print(text),
            Style::Json => print(&serde_json::json!({ "kind": "note", "text": text }).to_string()),
            Style::Quiet | Style::Silent => {}
        }
    }

    /// Writes a warning, in every style except [`Style::Silent`].
    pub(crate) fn warn(&self, text: &str) {
        match self.style {
            Style::Json => print(&serde_json::json!({ "kind": "warning", "text": text }).to_string()),
            Style::Bar | Style::Lines | Style::Quiet => print(&format!("warning: {text}")),
            Style::Silent => {}
        }
    }

    pub(crate) fn close(&self) {
        self.bar.close();
    }
}

/// Writes a message for the user. For use where no bar can be drawn yet.
pub fn note(style: Style, text: &str) {
    let style = if style == Style::Bar { Style::Lines } else { style };
    Terminal::new(style).note(text);
}

/// Shows the progress of another process, from the JSON lines that it writes.
pub struct Relay {
    terminal: Terminal,
}

impl Relay {
    /// Creates a relay that has not received a line yet.
    pub fn new(style: Style) -> Self {
        Relay { terminal: Terminal::new(style) }
    }

    /// Shows a line of progress. Returns whether `json` was one.
    pub fn take(&self, json: &str) -> bool {
        let line = serde_json::from_str(json);
        line.iter().for_each(|line| self.terminal.show(line));
        line.is_ok()
    }

    /// Prints a line, above the bar if one is drawn.
    pub fn print(&self, text: &str) {
        print(text);
    }

    /// Removes the bar.
    pub fn close(&self) {
        self.terminal.close();
    }
}

/// Shows the progress of reading data, with a bar; only on a terminal.
pub struct DataProgress {
    bar: Bar,
    files: Mutex<BTreeMap<String, (u64, u64)>>,
}

impl DataProgress {
    /// Creates the display; it draws nothing before the first report.
    pub fn new(style: Style) -> Self {
        DataProgress { bar: bar(style), files: Mutex::default() }
    }
}

impl ps_data::ReadProgress for DataProgress {
    fn file(&self, name: &str, bytes_done: u64, bytes_total: u64) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(name.into(), (bytes_done, bytes_total));
        let (done, total) = files.values().fold((0, 0), |sum, file| (sum.0 + file.0, sum.1 + file.1));
        let color = ps_terminal::has_color();
        self.bar.show(done, total, |width, _| {
            display::read_progress(name, files.len(), [done, total], width, color)
        });
    }
}

fn bar(style: Style) -> Bar {
    if style == Style::Bar { Bar::new() } else { Bar::hidden() }
}
