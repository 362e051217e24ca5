//! The log of a process on standard error, as lines or as JSON.

use clap::{Args, ValueEnum};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, filter::FilterExt, fmt};

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
    /// Starts logging to standard error for the rest of the process. Further calls have no effect.
    pub fn start(&self) {
        // This fails only if a logger is already installed, as in tests that start two processes in one.
        let _ = self.dispatch(|| ps_terminal::Stderr).try_init();
    }

    fn dispatch(&self, writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) -> Dispatch {
        let level = if self.quiet { "warn" } else { &self.level };
        let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
        let lines = fmt::layer().with_writer(writer);
        let lines: Box<dyn Layer<Registry> + Send + Sync> = match self.log_format {
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
            LogFormat::Text => lines.with_ansi(ps_terminal::has_color()).with_target(false).boxed(),
        };
        let lines = lines.with_filter(filter.and(RateLimit::default()));
        Dispatch::new(tracing_subscriber::registry().with(lines))
    }
}

/// Passes at most one line per second of what [`LIBRARIES`] log about peers, so that no peer can fill the
/// disk. The levels `debug` and `trace` are not limited, because they are off by default.
#[derive(Debug, Default)]
struct RateLimit {
    last: Mutex<Option<Instant>>,
}

/// Libraries in which a peer can provoke any number of log lines at level `warn`.
const LIBRARIES: [&str; 4] = ["h2", "hyper", "rustls", "tonic"];

impl RateLimit {
    const EVERY: Duration = Duration::from_secs(1);

    fn is_due(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.duration_since(last) >= Self::EVERY);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

impl<S> Filter<S> for RateLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::always()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let source = event.metadata().target().split("::").next().unwrap_or_default();
        !LIBRARIES.contains(&source) || *event.metadata().level() > Level::INFO || self.is_due(Instant::now())
    }
}

fn filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map_err(|error| format!("{error}; use error, warn, info, debug or trace"))?;
    Ok(text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::Arc;

    /// A writer that collects the log.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(quiet: bool, level: &str, work: impl FnOnce()) -> String {
        let args = LogArgs { log_format: LogFormat::Text, level: level.into(), quiet };
        let lines = Lines::default();
        let written = lines.clone();
        tracing::dispatcher::with_default(&args.dispatch(move || written.clone()), work);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn library_logs_are_limited_to_one_per_second() {
        let both = || {
            for number in 0..100 {
                tracing::warn!(target: "h2::proto::streams::recv", "a peer resets stream {number}");
                tracing::warn!("ours {number}");
                tracing::debug!(target: "h2::codec", "not asked for");
            }
        };
        let text = logged(false, "info", both);
        assert_eq!((text.matches("a peer").count(), text.matches("ours").count()), (1, 100), "{text}");
        assert!(!text.contains("not asked for"), "{text}");
        let text = logged(false, "debug", both);
        assert_eq!((text.matches("a peer").count(), text.matches("not asked for").count()), (1, 100));
    }

    #[test]
    fn a_line_is_due_again_after_a_second() {
        let (sparing, start) = (RateLimit::default(), Instant::now());
        let due: Vec<bool> = [0, 1, 999, 1000, 1001, 2000]
            .map(|millis| sparing.is_due(start + Duration::from_millis(millis)))
            .into();
        assert_eq!(due, [true, false, false, true, false, true]);
    }

    #[test]
    fn quiet_keeps_warnings_and_errors() {
        let text = logged(true, "info", || {
            tracing::error!("first");
            tracing::warn!("second");
            tracing::info!("third");
        });
        assert!(text.contains("first") && text.contains("second") && !text.contains("third"), "{text}");
    }
}
