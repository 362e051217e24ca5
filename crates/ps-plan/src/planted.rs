//! Defects that a test plants into the folding, the round logic and the simulator's drivers, to see that the simulator
//! brings them to light.
//!
//! Only the feature `planted` can plant one, and no released binary has it: elsewhere [`Planted`] is nothing, and what
//! it says is known to the compiler.

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Sums are added to one total as they come, not by the tree.
    SumsInOrderOfArrival,
    /// A node's sum that is covered already is added once more.
    CopyCountsTwice,
    /// A sum of an older step counts for the open one.
    StaleSumCounts,
    /// Leaves of a worker that is lost count as if they were in.
    LostLeavesSkipped,
    /// Leaves of a worker that is lost stay with it.
    LostLeavesNotGivenOut,
    /// Leaves that are overdue are not given out again.
    OverdueLeavesNotGivenOut,
    /// Leaves that are all in, but do not reach every shard, are not given out again.
    UnappliedStepStays,
    /// A worker that lacks weights is not sent them again.
    LostWeightsNotSentAgain,
    /// A step is made though other shards have not applied it.
    ShardsNotAwaited,
    /// A step is made before its audits are settled.
    AuditsNotAwaited,
    /// What a liar has sent stays, though it is banned.
    LiarsSumStays,
    /// What a liar contributed to earlier steps stays, though it is banned.
    LiarsPastStays,
    /// What a worker sent that was refused in the middle of a step stays.
    RefusedSumStays,
    /// The round logic goes on a step after the one that was restored.
    ResumesAtNextStep,
    /// A worker takes the weights that it holds for those of the step it is given leaves of.
    WeightsOfAnotherStep,
    /// What a worker began on one connection is pushed over the next.
    SumsOfOldConnection,
    /// What was under way when a shard was lost counts for what comes after.
    OrderNumberUsedTwice,
    /// A checkpoint counts as saved before it is.
    SavedBeforeDurable,
    /// A checkpoint is taken for that of the step after.
    StepSkippedOnResume,
    /// Weights are restored without velocity.
    VelocityNotRestored,
}

/// The defect that a run has, if any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    #[cfg(feature = "planted")]
    defect: Option<Defect>,
}

#[cfg(feature = "planted")]
impl Planted {
    /// Plants a defect.
    pub fn new(defect: Defect) -> Self {
        Planted { defect: Some(defect) }
    }

    /// Whether it is this one.
    pub fn has(self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }
}

#[cfg(not(feature = "planted"))]
impl Planted {
    /// There is none.
    pub const fn has(self, _: Defect) -> bool {
        false
    }
}
