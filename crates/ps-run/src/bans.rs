//! Workers that were banned for wrong sums, and what was done about the sums that they had sent before.

use crate::folder::FolderError;
use serde::{Deserialize, Serialize};

/// The bans of a run. They outlive the process: what a banned worker contributed stays suspect until it is undone.
pub const BANS_FILE: &str = "bans.json";

/// A worker that was banned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// The name that it gave.
    pub worker: String,
    /// Where it was.
    pub address: String,
    /// The certificate or token that the ban follows. Without one, the ban cannot be enforced: workers share theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// The step in which it was found out.
    pub step: u64,
    /// What it sent.
    pub reason: String,
    /// The first step that it had a part in without all of its sums being checked, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The step that the run went back to, so that nothing of the worker is part of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub went_back_to: Option<u64>,
    /// Whether there was no step to go back to, so that training went on with what the worker had sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remains: bool,
}

impl Ban {
    /// Whether the weights may hold wrong sums of the worker.
    pub fn is_tainting(&self) -> bool {
        self.since.is_some() && self.went_back_to.is_none()
    }

    /// The ban in a line: who, why, what became of the weights, and whether it can be enforced.
    pub fn line(&self) -> String {
        let Ban { worker, address, step, reason, .. } = self;
        let weights = match (self.since, self.went_back_to) {
            (None, _) => format!("step {step} was made without it"),
            (Some(since), Some(to)) => {
                format!("it had taken part since step {since}, so the run went back to step {to}")
            }
            (Some(since), None) => {
                format!(
                    "wrong sums of it may be part of the weights since step {since}: no earlier checkpoint is kept"
                )
            }
        };
        let enforced = match &self.credential {
            Some(credential) => format!("{credential} is banned"),
            None => "the ban cannot be enforced because workers share credentials: give each its own and start the \
                     server with --individual-credentials"
                .into(),
        };
        format!("{worker} at {address}: {reason}; {weights}; {enforced}")
    }
}

/// The step that the run was about to go back to, or before it, when the process ended.
pub(crate) fn pending_since(bans: &[Ban]) -> Option<u64> {
    bans.iter().filter(|ban| ban.is_tainting() && !ban.remains).filter_map(|ban| ban.since).min()
}

/// The run cannot go back.
pub(crate) fn accept(bans: &mut [Ban]) {
    bans.iter_mut().filter(|ban| ban.is_tainting()).for_each(|ban| ban.remains = true);
}

/// The run went back to `step`, which undoes what was contributed later.
pub(crate) fn undo(bans: &mut [Ban], step: u64) {
    let undone = bans.iter_mut().filter(|ban| ban.is_tainting() && ban.since >= Some(step));
    undone.for_each(|ban| (ban.went_back_to, ban.remains) = (Some(step), false));
}

/// What the content of the file says.
pub(crate) fn parse(content: &[u8], path: &std::path::Path) -> Result<Vec<Ban>, FolderError> {
    serde_json::from_slice(content).map_err(|error| FolderError::Content {
        path: path.into(),
        problem: format!("it does not list banned workers: {error}"),
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
    fn a_line_says_what_became_of_the_weights_and_whether_the_ban_is_enforced() {
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
        assert!(kept.contains("may be part of the weights since step 4"), "{kept}");
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
