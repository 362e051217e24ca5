//! The log of a process: lines on stderr, or JSON.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How a process logs.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// How log lines look.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug or trace, or per module such as info,ps_server=debug.
    #[arg(long = "log", env = "DOWNHILL_LOG", default_value = "info", value_name = "LEVEL", value_parser = filter)]
    pub level: String,

    /// Write only warnings and errors to standard error, and only the result to standard output.
    #[arg(long, short)]
    pub quiet: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogArgs {
    /// Starts logging to stderr for the rest of the process. A second call changes nothing.
    pub fn start(&self) {
        let level = if self.quiet { "warn" } else { &self.level };
        let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(|| ps_terminal::Stderr)
            .with_span_events(FmtSpan::NONE)
            .with_target(false);
        // Only fails where a log is already set up, as in tests that start two processes in one.
        let _ = match self.log_format {
            LogFormat::Json => builder.json().flatten_event(true).with_target(true).try_init(),
            LogFormat::Text => builder.with_ansi(ps_terminal::has_color()).try_init(),
        };
    }
}

fn filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map_err(|error| format!("{error}; use error, warn, info, debug or trace"))?;
    Ok(text.to_string())
}
