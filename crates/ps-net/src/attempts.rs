//! Retries with exponential backoff.

use std::time::Duration;
use tokio::time::Instant;

/// Attempts at reaching a peer. The pause doubles after each failure up to a limit; `patience` bounds
/// the total time.
pub struct Attempts {
    started: Instant,
    pause: Duration,
    longest: Duration,
    patience: Duration,
}

/// The pause before the next attempt.
pub struct Pause {
    /// Time until the next attempt.
    pub length: Duration,
    /// Time for which attempts go on, including this pause.
    pub left: Duration,
}

impl Attempts {
    /// Starts now; `pauses` are the first and the longest pause.
    pub fn new(pauses: [Duration; 2], patience: Duration) -> Self {
        let [pause, longest] = pauses;
        Attempts { started: Instant::now(), pause, longest, patience }
    }

    /// Time since the first attempt.
    pub fn waited(&self) -> Duration {
        self.started.elapsed()
    }

    /// Records a failed attempt and returns the pause before the next one, or `None` once patience
    /// has run out.
    pub fn failed(&mut self) -> Option<Pause> {
        let left = self.patience.saturating_sub(self.waited());
        // The last pause ends exactly when patience does, so that a last attempt is made at that moment.
        let length = self.pause.min(left);
        self.pause = (2 * self.pause).min(self.longest);
        (!left.is_zero()).then_some(Pause { length, left })
    }
}
