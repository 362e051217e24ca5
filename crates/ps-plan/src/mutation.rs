//! Mutations: deliberate faults in the folding, the round logic and the simulator's drivers. A test enables
//! each of them to show that the simulator detects it.
//!
//! Only the feature `mutations` can enable one, and no released binary has it. Without the feature,
//! [`ActiveMutation`] is empty, and the compiler removes every check.

macro_rules! mutations {
    ($($(#[$documentation:meta])* $name:ident,)*) => {
        /// A deliberate fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutation {
            $($(#[$documentation])* $name,)*
        }

        impl Mutation {
            /// All mutations, so that a test cannot omit one.
            pub const ALL: &[Mutation] = &[$(Mutation::$name,)*];
        }
    };
}

mutations! {
    /// Sums are added to one total in order of arrival instead of along the tree.
    SumsAddedInArrivalOrder,
    /// A node's sum is added again although its leaves are covered.
    DuplicateCountsTwice,
    /// A sum of an older step counts for the open one.
    StaleSumCounts,
    /// The leaves of a lost worker count as delivered.
    LostLeavesSkipped,
    /// The leaves of a lost worker stay assigned to it.
    LostLeavesNotReassigned,
    /// Overdue leaves are not reassigned.
    OverdueLeavesNotReassigned,
    /// Leaves that do not reach every shard are not reassigned once the coordinator has all leaves.
    UnappliedLeavesNotReassigned,
    /// A worker that lacks weights is not sent them again.
    LostWeightsNotResent,
    /// A step is made although other shards have not applied it.
    ShardsNotAwaited,
    /// A step is made before its audits are settled.
    AuditsNotAwaited,
    /// A wrong sum stays in the open step although its sender is banned.
    WrongSumNotDiscarded,
    /// The contributions of a banned worker to earlier steps stay.
    PastSumsOfBannedWorkerKept,
    /// The contributions of a worker that was refused in the middle of a step stay.
    SumsOfRefusedWorkerKept,
    /// The round logic continues one step after the one that was restored.
    ResumesAtNextStep,
    /// A worker uses whatever weights it holds for the step it is assigned.
    WeightsOfWrongStepUsed,
    /// Work that was begun on one connection is pushed over the next.
    SumsPushedOverNewConnection,
    /// Two restores have the same number, so the answer to the first counts for the second.
    RestoreNumberReused,
    /// The run resumes when the first shard is restored instead of all of them.
    ResumesAfterFirstShard,
    /// The coordinator does not go back when a shard has refused a worker that is part of its sums.
    TaintIgnored,
    /// A shard does not report that it refused a worker that is part of its sums.
    TaintNotReported,
    /// A step ends before the shards have sent the weights that it waits for.
    FetchNotAwaited,
    /// A checkpoint is saved before all of it has arrived from the shards.
    CheckpointSavedIncomplete,
    /// A shard resumes before all of its weights have arrived.
    ResumesAfterFirstChunk,
    /// A shard does not send its workers away when it goes back.
    WorkersKeptOnRestore,
    /// A checkpoint counts as saved before it is durable.
    SavedBeforeDurable,
    /// A checkpoint is taken for that of the following step.
    StepSkippedOnResume,
    /// Weights are restored without velocity.
    VelocityNotRestored,
    /// A recovery restores the weights but not the optimizer's state.
    RecoveryLeavesState,
    /// A recovery does not restore the number of steps behind the optimizer's state.
    RecoveryLeavesStepCount,
    /// The guard keeps the weights of the step after the one that it chose.
    GuardKeepsLaterWeights,
    /// A shard counts its steps instead of taking the coordinator's count.
    ShardCountsSteps,
    /// Policies lose their state when a run resumes.
    PolicyStateLostOnResume,
    /// A node is added to the smaller nodes that it should replace.
    SmallerNodesNotReplaced,
    /// A step that starts over keeps the state that was updated with it.
    StateNotRolledBack,
    /// The metric sums of a step stay when it is committed.
    MetricsNotReset,
    /// The weights after the last step are served as those before it.
    NewWeightsServedAsPrevious,
    /// A shard drops the weights before a step as soon as it has applied it.
    PreviousWeightsDropped,
    /// Two sums that differ only in their metrics have the same hash.
    DigestOmitsMetrics,
    /// A chunk enters the sums, but its sender is not recorded as a contributor.
    ContributorNotRecorded,
    /// A chunk of an audited node enters the sums before the node has ended.
    IncompleteNodeCounts,
}

/// The mutation that is enabled in a component, if any.
#[derive(Clone, Copy, Debug, Default)]
pub struct ActiveMutation {
    #[cfg(feature = "mutations")]
    mutation: Option<Mutation>,
}

#[cfg(feature = "mutations")]
impl ActiveMutation {
    /// Enables a mutation.
    pub fn new(mutation: Mutation) -> Self {
        ActiveMutation { mutation: Some(mutation) }
    }

    /// Whether this mutation is enabled.
    pub fn is(self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

#[cfg(not(feature = "mutations"))]
impl ActiveMutation {
    /// Always false without the feature.
    pub const fn is(self, _: Mutation) -> bool {
        false
    }
}
