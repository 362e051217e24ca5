//! Handles Ctrl-C: the first one asks the run to finish, the second one ends it immediately. The run can be
//! resumed after either.

use crate::failure::Failure;
use ps_run::ResumeHint;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a run that was stopped by a signal. It is that of a shell after SIGINT, so that a script does
/// not continue as if training were done.
pub(crate) const STOPPED: u8 = 130;

static STOP: AtomicBool = AtomicBool::new(false);

/// Handles Ctrl-C, SIGTERM and SIGHUP from now on. The first one sets the returned flag and calls `first`;
/// each further one calls `again`.
pub(crate) fn listen(
    first: impl Fn() + Send + 'static,
    again: impl Fn() + Send + 'static,
) -> Result<&'static AtomicBool, Failure> {
    let handler = move || if STOP.swap(true, Ordering::SeqCst) { again() } else { first() };
    ctrlc::set_handler(handler)
        .map_err(|error| Failure::Failed(format!("cannot listen for Ctrl-C: {error}")))?;
    Ok(&STOP)
}

/// Returns a handler for the second Ctrl-C, which prints how to resume the run and exits.
pub(crate) fn end_at_once(hint: ResumeHint) -> impl Fn() + Send + 'static {
    move || {
        hint.print();
        ps_terminal::exit(STOPPED)
    }
}
