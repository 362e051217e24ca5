//! Workers that were banned for wrong sums, and what happened to their earlier contributions.

use crate::folder::FolderError;
use serde::{Deserialize, Serialize};

/// The file with the bans of a run. Bans outlive the process: the contributions of a banned worker stay
/// suspect until they are undone.
pub const BANS_FILE: &str = "bans.json";

/// A worker that was banned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// The name under which it joined.
    pub worker: String,
    /// The address that it connected from.
    pub address: String,
    /// The banned certificate or token. Without one, a ban cannot be enforced: workers share theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// The step in which the wrong sum was found.
    pub step: u64,
    /// What was wrong with its sum.
    pub reason: String,
    /// The first step with sums of this worker that were not all checked, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The step that the run went back to, so that the weights no longer depend on the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub went_back_to: Option<u64>,
    /// Whether training continued with the worker's contributions because there was no step to go back to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remains: bool,
}

impl Ban {
    /// Returns whether the weights may depend on wrong sums of the worker.
    pub fn is_tainting(&self) -> bool {
        self.since.is_some() && self.went_back_to.is_none()
    }

    /// Describes the ban in a line: the worker, the reason, the effect on the weights, and whether the ban
    /// can be enforced.
    pub fn line(&self) -> String {
        let Ban { worker, address, step, reason, .. } = self;
        let weights = match (self.since, self.went_back_to) {
            (None, _) => format!("step {step} was made without it"),
            (Some(since), Some(to)) => {
                format!("it had contributed since step {since}, so the run went back to step {to}")
            }
            (Some(since), None) => {
                format!(
                    "the weights may contain its wrong sums since step {since}, because no earlier \
                     checkpoint is kept"
                )
            }
        };
        let enforced = match &self.credential {
            Some(credential) => format!("{credential} is banned"),
            None => "the ban cannot be enforced, because workers share credentials; give each worker its own, and start the server with --individual-credentials"
                .into(),
        };
        format!("{worker} at {address}: {reason}; {weights}; {enforced}")
    }
}

/// Returns the latest step that the run may go back to, if the process ended before it could do so.
pub(crate) fn pending_since(bans: &[Ban]) -> Option<u64> {
    bans.iter().filter(|ban| ban.is_tainting() && !ban.remains).filter_map(|ban| ban.since).min()
}

/// Marks the bans as impossible to undo: there is no step to go back to.
pub(crate) fn accept(bans: &mut [Ban]) {
    bans.iter_mut().filter(|ban| ban.is_tainting()).for_each(|ban| ban.remains = true);
}

/// Records that the run went back to `step`, which undoes all later contributions.
pub(crate) fn undo(bans: &mut [Ban], step: u64) {
    // A checkpoint after `step` steps contains contributions to the steps below `step` only.
    let undone = bans.iter_mut().filter(|ban| ban.is_tainting() && ban.since >= Some(step));
    undone.for_each(|ban| (ban.went_back_to, ban.remains) = (Some(step), false));
}

/// Parses the content of the bans file.
pub(crate) fn parse(content: &[u8], path: &std::path::Path) -> Result<Vec<Ban>, FolderError> {
    serde_json::from_slice(content).map_err(|error| FolderError::Content {
        path: path.into(),
        problem: format!("not a valid list of banned workers: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban() -> Ban {
        Ban {
            worker: "w".into(),
            address: "10.0.0.9:4000".into(),
            step: 9,
            reason: "its sum is wrong".into(),
            ..Ban::default()
        }
    }

    #[test]
    fn a_ban_line_describes_the_weights_and_the_enforcement() {
        let shared = ban().line();
        assert!(shared.contains("step 9 was made without it"), "{shared}");
        assert!(
            shared.contains("cannot be enforced") && shared.contains("--individual-credentials"),
            "{shared}"
        );
        let credential = Some("the token on line 3".into());
        let back = Ban { credential, since: Some(4), went_back_to: Some(2), ..ban() }.line();
        assert!(back.contains("since step 4, so the run went back to step 2"), "{back}");
        assert!(back.ends_with("the token on line 3 is banned"), "{back}");
        let kept = Ban { since: Some(4), ..ban() }.line();
        assert!(kept.contains("may contain its wrong sums since step 4"), "{kept}");
    }

    #[test]
    fn going_back_undoes_later_contributions_only() {
        let mut bans = [Some(7), Some(3), None].map(|since| Ban { since, ..ban() });
        assert_eq!(pending_since(&bans), Some(3));
        undo(&mut bans, 5);
        assert_eq!(bans.clone().map(|ban| ban.went_back_to), [Some(5), None, None]);
        accept(&mut bans);
        assert_eq!((pending_since(&bans), bans.clone().map(|ban| ban.remains)), (None, [false, true, false]));
        undo(&mut bans, 0);
        assert_eq!((bans[1].went_back_to, bans[1].is_tainting()), (Some(0), false));
    }
}
