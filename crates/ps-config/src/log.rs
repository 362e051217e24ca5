//! The log of a process: lines on stderr, or JSON.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How a process logs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Format of log lines
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// Log level: error, warn, info, debug or trace
    ///
    /// Levels can be set per module, as in info,ps_server=debug.
    #[arg(long = "log", env = "DOWNHILL_LOG", default_value = "info", value_name = "LEVEL", value_parser = filter)]
    pub level: String,

    /// Log only warnings and errors, and print only the result
    #[arg(long, short)]
    pub quiet: bool,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable lines
    #[default]
    Text,
    /// One JSON object per line
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
