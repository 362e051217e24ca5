//! Finds the bottleneck of a step.

use crate::cluster::{Cluster, Placement};
use crate::costs::Costs;
use crate::round::step_seconds;
use std::fmt;

/// The resource that would shorten a step the most if it cost nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// Computing gradients in the workers.
    Compute,
    /// Computing gradients, while some workers have no leaf: only smaller leaves or larger batches help.
    Leaves,
    /// Bandwidth of the links.
    Link,
    /// Folding gradients and updating weights.
    Fold,
    /// CPU time for sending and receiving messages.
    Messages,
    /// The round logic in the coordinator.
    Control,
    /// Waiting for messages in transit, and for threads to wake up.
    Latency,
}

impl Bound {
    /// Returns the bottleneck of a step of `cluster`.
    pub fn of(cluster: &Cluster, costs: &Costs) -> Bound {
        let bounds =
            [Bound::Compute, Bound::Link, Bound::Fold, Bound::Messages, Bound::Control, Bound::Latency];
        let without = bounds.map(|bound| {
            let (cluster, costs) = bound.removed(cluster, costs);
            (step_seconds(&cluster, &costs), bound)
        });
        let (_, bound) = without.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).expect("there are some");
        match bound {
            Bound::Compute if cluster.workers > cluster.leaves as usize => Bound::Leaves,
            other => other,
        }
    }

    /// Returns the cluster and costs as if this resource cost nothing.
    fn removed(self, cluster: &Cluster, costs: &Costs) -> (Cluster, Costs) {
        let (mut cluster, mut costs) = (cluster.clone(), costs.clone());
        let nothing = Costs::nothing();
        match self {
            Bound::Compute | Bound::Leaves => {
                costs.compute = nothing.compute;
                costs.extra_node = 0.0;
                costs.jitter = 0.0;
            }
            Bound::Link => cluster.link.bandwidth = f64::INFINITY,
            Bound::Fold => [costs.check_byte, costs.add_byte, costs.update_byte, costs.take_byte] = [0.0; 4],
            Bound::Messages => [costs.send_byte, costs.receive_byte, costs.message, costs.switch] = [0.0; 4],
            Bound::Control => [costs.control, costs.control_worker] = [0.0; 2],
            Bound::Latency => {
                [costs.wire_wake, costs.handoff] = [0.0; 2];
                cluster.link.latency = 0.0;
            }
        }
        (cluster, costs)
    }

    /// Explains why adding workers does not help here, and what would.
    pub fn advice(self, cluster: &Cluster) -> &'static str {
        match (self, cluster.placement) {
            (Bound::Compute, Placement::SharedHost) => "the cores of this one host are all busy",
            (Bound::Compute, Placement::SeparateHosts) => {
                "each worker's part is too small to be computed efficiently"
            }
            (Bound::Leaves, _) => {
                "there are fewer leaves than workers; a larger batch or smaller leaves give more"
            }
            (Bound::Link, _) => {
                "the links are full; more shards or shards beside the workers share the bytes out, weights as bf16 \
                 make them fewer, a larger batch makes steps rarer"
            }
            (Bound::Fold, _) => "servers fold and update without a pause; more shards share that out",
            (Bound::Messages, _) => "processors are busy sending and receiving; more shards share that out",
            (Bound::Control, _) => {
                "the coordinator is busy with the round logic; a larger batch makes steps rarer"
            }
            (Bound::Latency, _) => {
                "messages are under way most of the time; a larger batch makes steps rarer"
            }
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Bound::Compute => "compute",
            Bound::Leaves => "leaves",
            Bound::Link => "link",
            Bound::Fold => "fold and update",
            Bound::Messages => "messages",
            Bound::Control => "round logic",
            Bound::Latency => "latency",
        })
    }
}
