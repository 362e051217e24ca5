//! Explains how to resume a run that was stopped.

use crate::progress::Style;
use ps_config::OutArgs;
use std::path::Path;

/// The command that resumes the run of this process.
#[derive(Clone, Debug)]
pub struct ResumeHint {
    /// The message; `None` in quiet runs.
    text: Option<String>,
}

impl ResumeHint {
    /// Creates the hint for a run whose results are in `folder`. The command is the one that started this
    /// process, with `--out folder` added if the user did not choose a folder.
    pub fn new(out: &OutArgs, folder: &Path, style: Style) -> Self {
        let out = if out.out.is_some() { Vec::new() } else { vec!["--out".into(), folder.into()] };
        let command = ps_terminal::this_command(&out);
        let text = match style {
            Style::Quiet | Style::Silent => None,
            // The command has its own line so that it can be copied as a whole.
            Style::Bar | Style::Lines => Some(format!("to resume this run:\n  {command}")),
            Style::Json => Some(serde_json::json!({ "kind": "resume", "command": command }).to_string()),
        };
        ResumeHint { text }
    }

    /// Prints the message on standard error.
    pub fn print(&self) {
        self.text.iter().for_each(|text| ps_terminal::print(text));
    }
}
