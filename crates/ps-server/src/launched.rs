//! The messages that a server started by `downhill launch` (`--launched`) writes to standard output instead
//! of text: one [`Message`] in JSON per line.

use serde::{Deserialize, Serialize};

/// A message to the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The data has been read; workers can connect.
    Listening {
        /// `HOST:PORT` or `unix:PATH`.
        address: String,
    },
    /// The run has ended, or was stopped.
    Summary {
        /// Lines of any length.
        lines: Vec<String>,
    },
}

impl Message {
    /// The message as a line, without the line break.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("strings can be written as JSON")
    }

    /// Parses a line; `None` if it is not a message.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}
