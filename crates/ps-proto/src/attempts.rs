//! How often somebody who is not there is tried again.

use std::time::Duration;
use tokio::time::Instant;

/// Attempts at reaching somebody: after each that failed a pause, twice as long as the one before up to a limit, until
/// patience ends.
pub struct Attempts {
    started: Instant,
    pause: Duration,
    longest: Duration,
    patience: Duration,
}

/// The time until the next attempt.
pub struct Pause {
    /// How long it is.
    pub length: Duration,
    /// For how much longer attempts are made, the pause included.
    pub left: Duration,
}

impl Attempts {
    /// The first attempt is made now; `pauses` are the first and the longest.
    pub fn new(pauses: [Duration; 2], patience: Duration) -> Self {
        let [pause, longest] = pauses;
        Attempts { started: Instant::now(), pause, longest, patience }
    }

    /// For how long attempts have been made.
    pub fn waited(&self) -> Duration {
        self.started.elapsed()
    }

    /// An attempt has failed: the pause before the next one; nothing once patience has ended.
    pub fn failed(&mut self) -> Option<Pause> {
        let left = self.patience.saturating_sub(self.waited());
        let length = self.pause.min(left);
        self.pause = (2 * self.pause).min(self.longest);
        (!left.is_zero()).then_some(Pause { length, left })
    }
}
