//! Ctrl-C: the first asks to finish, the second to end at once.

use crate::failure::Failure;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a run that was stopped by a signal: that of a shell for SIGINT, so that a script does not go
/// on as if training were done.
pub const STOPPED: u8 = 130;

static STOP: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C (or SIGTERM or SIGHUP) sets the returned flag and calls `first`; each further one calls
/// `again`.
pub fn listen(
    first: impl Fn() + Send + 'static,
    again: impl Fn() + Send + 'static,
) -> Result<&'static AtomicBool, Failure> {
    let handler = move || if STOP.swap(true, Ordering::SeqCst) { again() } else { first() };
    ctrlc::set_handler(handler)
        .map_err(|error| Failure::Failed(format!("cannot listen for Ctrl-C: {error}")))?;
    Ok(&STOP)
}
