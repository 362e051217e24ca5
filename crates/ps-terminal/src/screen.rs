//! Standard error, shared by a progress bar and the lines above it.

use console::{Term, is_dumb, measure_text_width, style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Columns that a bar leaves free. The terminal echoes Ctrl-C as `^C` behind the bar; if that wraps, clearing
/// the bar leaves its first row behind.
const MARGIN: usize = 3;
/// Assumed width of a terminal that does not report its size.
const USUAL_WIDTH: usize = 80;
/// Maximum number of redraws per second.
const REDRAWS: u8 = 20;

/// Draws all bars. Other output to standard error is written while the bars are cleared.
static BARS: LazyLock<MultiProgress> = LazyLock::new(|| {
    MultiProgress::with_draw_target(if is_interactive() {
        let line = BarLine { term: Term::buffered_stderr(), columns: AtomicUsize::new(0) };
        ProgressDrawTarget::term_like_with_hz(Box::new(line), REDRAWS)
    } else {
        ProgressDrawTarget::hidden()
    })
});

/// Returns whether standard error is a terminal that can redraw a line.
pub fn is_interactive() -> bool {
    io::stderr().is_terminal() && !is_dumb()
}

/// Returns whether to color standard error: a terminal without `NO_COLOR` (<https://no-color.org>).
pub fn has_color() -> bool {
    is_interactive() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Columns of the terminal on standard error; `None` if it is not a terminal.
pub fn stderr_width() -> Option<usize> {
    io::stderr().is_terminal().then(|| size(&Term::stderr()).1)
}

/// Columns of the terminal on standard output; `None` if it is not a terminal.
pub fn stdout_width() -> Option<usize> {
    stdout_size().map(|(_, columns)| columns)
}

/// Rows and columns of the terminal on standard output; `None` if it is not a terminal.
pub fn stdout_size() -> Option<(usize, usize)> {
    io::stdout().is_terminal().then(|| size(&Term::stdout()))
}

fn size(term: &Term) -> (usize, usize) {
    term.size_checked().map_or((24, USUAL_WIDTH), |(rows, columns)| (rows.into(), columns.into()))
}

/// Writes a line to standard error, above the bar if one is drawn. Ignores a closed standard error.
pub fn print(line: &str) {
    // A single write keeps lines whole when several processes share a terminal.
    let _ = Stderr.write_all(format!("{line}\n").as_bytes());
}

/// Exits the process, after clearing the bar.
pub fn exit(code: u8) -> ! {
    // While the bars are suspended, no other thread can redraw one.
    BARS.suspend(|| std::process::exit(code.into()))
}

/// A writer to standard error for complete lines, such as those of a log. They appear above the bar.
#[derive(Clone, Copy, Debug)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        BARS.suspend(|| io::stderr().write_all(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A progress bar in the last row of standard error, removed when dropped. If standard error is not a
/// terminal, nothing is drawn.
pub struct Bar {
    bar: ProgressBar,
    is_under_way: AtomicBool,
}

impl Bar {
    /// Creates a bar that is first drawn by [`Bar::show`].
    pub fn new() -> Self {
        let style = ProgressStyle::with_template("{msg}").expect("the template is well formed");
        let bar = BARS.add(ProgressBar::no_length()).with_style(style);
        Bar { bar, is_under_way: AtomicBool::new(false) }
    }

    /// Creates a bar that is never drawn.
    pub fn hidden() -> Self {
        Bar { bar: ProgressBar::hidden(), is_under_way: AtomicBool::new(false) }
    }

    /// Shows that `done` of `all` units are done. `line` formats the text, given the available columns and
    /// the estimated remaining time, if it is known.
    pub fn show(&self, done: u64, all: u64, line: impl FnOnce(usize, Option<Duration>) -> String) {
        if self.bar.is_hidden() {
            return;
        }
        let width = stderr_width().unwrap_or(USUAL_WIDTH).saturating_sub(MARGIN);
        // An estimate of 0 means that there is none yet.
        let left = Some(self.bar.eta()).filter(|left| !left.is_zero());
        // The message must be set first: every other call redraws the bar, and the previous text may no
        // longer fit.
        self.bar.set_message(line(width, left));
        if self.bar.length() != Some(all) {
            self.bar.set_length(all);
        }
        self.bar.set_position(done);
        if !self.is_under_way.swap(true, Ordering::Relaxed) {
            // Work that was done before the run was resumed does not count towards its speed.
            self.bar.reset_eta();
        }
    }

    /// Removes the bar from the terminal.
    pub fn close(&self) {
        self.bar.finish_and_clear();
    }
}

impl Default for Bar {
    fn default() -> Self {
        Bar::new()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.close();
    }
}

/// Formats a bar of `columns` columns, filled up to `share`, from 0 to 1.
pub fn meter(share: f64, columns: usize, color: bool) -> String {
    let filled = (share.clamp(0.0, 1.0) * columns as f64) as usize;
    let (done, left) = ("━".repeat(filled), "─".repeat(columns - filled));
    format!("{}{}", style(done).cyan().force_styling(color), style(left).dim().force_styling(color))
}

/// The row of the terminal that contains the bar.
///
/// If the terminal becomes narrower, it breaks that row into several, all of which are cleared. Errors are
/// ignored, because a closed terminal must not end a run.
#[derive(Debug)]
struct BarLine {
    term: Term,
    /// Number of columns drawn since the row was last cleared.
    columns: AtomicUsize,
}

impl TermLike for BarLine {
    fn width(&self) -> u16 {
        size(&self.term).1.saturating_sub(MARGIN).clamp(1, u16::MAX.into()) as u16
    }

    fn height(&self) -> u16 {
        self.term.size().0
    }

    fn move_cursor_up(&self, rows: usize) -> io::Result<()> {
        let _ = self.term.move_cursor_up(rows);
        Ok(())
    }

    fn move_cursor_down(&self, rows: usize) -> io::Result<()> {
        let _ = self.term.move_cursor_down(rows);
        Ok(())
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        let _ = self.term.move_cursor_right(columns);
        Ok(())
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        let _ = self.term.move_cursor_left(columns);
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        let _ = self.term.write_line(text);
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.columns.fetch_add(measure_text_width(text), Ordering::Relaxed);
        let _ = self.term.write_str(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        let columns = self.columns.swap(0, Ordering::Relaxed);
        let rows = columns.div_ceil(size(&self.term).1.max(1));
        // Rows are cleared one by one. Clearing to the end of the screen from the first row would make tmux
        // keep them in its history.
        for _ in 1..rows {
            let _ = self.term.clear_line();
            let _ = self.term.move_cursor_up(1);
        }
        let _ = self.term.clear_line();
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let _ = self.term.flush();
        Ok(())
    }
}
