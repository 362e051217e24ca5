//! Defects that a test plants into the folding, the round logic and the simulator's drivers, to see that the simulator
//! brings them to light.
//!
//! Only the feature `planted` can plant one, and no released binary has it: elsewhere [`Planted`] is nothing, and what
//! it says is known to the compiler.

macro_rules! defects {
    ($($(#[$documentation:meta])* $name:ident,)*) => {
        /// What can be wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Defect {
            $($(#[$documentation])* $name,)*
        }

        impl Defect {
            /// All of them, so that a test cannot leave one out.
            pub const ALL: &[Defect] = &[$(Defect::$name,)*];
        }
    };
}

defects! {
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
    /// Two orders to restore the weights have the same number, so that the answer to the first counts for the second.
    OrderNumberUsedTwice,
    /// The run resumes when the first shard is restored, not all of them.
    FirstRestoredIsEnough,
    /// The coordinator does not go back when a shard has refused a worker that is part of its sums.
    TaintedStepStays,
    /// A shard that refuses such a worker does not report it.
    TaintNotReported,
    /// A step is over before the shards have sent the weights that it waits for.
    FetchNotAwaited,
    /// A checkpoint is saved before all of it has arrived from the shards.
    SavedBeforeArrived,
    /// A shard resumes before all of its weights have arrived.
    ResumesFromFirstChunk,
    /// A shard does not send its workers away when it goes back.
    WorkersStayOnRestore,
    /// A checkpoint counts as saved before it is.
    SavedBeforeDurable,
    /// A checkpoint is taken for that of the step after.
    StepSkippedOnResume,
    /// Weights are restored without velocity.
    VelocityNotRestored,
    /// A recovery restores the weights and not the optimizer's state.
    RecoveryKeepsState,
    /// A recovery does not restore the number of steps that the optimizer's state has seen.
    RecoveryKeepsCount,
    /// The guard keeps the weights at the step after the one that it chose.
    GoodWeightsKeptLate,
    /// A shard counts its steps instead of taking the coordinator's count.
    ShardCountsSteps,
    /// Policies do not remember what they have seen when a run resumes.
    PoliciesForgetOnResume,
    /// A node that stands in for smaller ones is added to them.
    SmallerNodesStay,
    /// A step that starts over keeps the state that was updated with it.
    StateNotTakenBack,
    /// The metric sums of a step stay when it is committed.
    MetricsOfLastStepStay,
    /// What is served as the weights before the last step are the weights after it.
    PreviousWeightsAreNew,
    /// A shard drops the weights before a step as soon as it has applied it.
    PreviousWeightsDropped,
    /// Two sums that differ only in their metrics have one hash.
    DigestOmitsMetrics,
    /// A chunk enters the sums, and its sender is not known to be part of them.
    SenderNotCounted,
    /// A chunk of an audited node enters the sums before the node has ended.
    UnendedNodeCounts,
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
