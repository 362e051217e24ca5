//! Connects the computing thread with the connection: weights arrive and sums leave while a gradient is
//! computed.

use crate::compute::{ComputeCommand, Computed, GradientSlice, WEIGHTS_TIMEOUT};
use crate::weights::HeldWeights;
use ps_core::MetricSums;
use ps_core::gradient::Flow;
use ps_plan::Node;
use ps_proto::limits::chunk_elements;
use ps_proto::tensor::SharedBuffer;
use ps_run::{Activity, Meter};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// One step's weights and sums.
pub(crate) struct StepFlow<'a> {
    pub step: u64,
    pub parameters: usize,
    pub classes: usize,
    pub held: &'a mut HeldWeights,
    pub commands: &'a Receiver<ComputeCommand>,
    pub results: &'a UnboundedSender<Computed>,
    pub meter: &'a Meter,
    /// Time spent waiting for weights.
    pub pulled: Duration,
    /// Gradients of earlier steps, whose memory is reused once they have been sent.
    pub spare: &'a mut Vec<SharedBuffer>,
    /// The nodes of this step that have a gradient.
    pub sums: Vec<Summing>,
    /// The nodes that are only evaluated.
    pub evaluated: Vec<(Node, MetricSums)>,
}

/// A node whose sum is being computed.
pub(crate) struct Summing {
    node: Node,
    /// Final as soon as any part of the gradient is.
    metric_sums: MetricSums,
    /// Whether the metric sums were passed on.
    is_announced: bool,
    gradient: SharedBuffer,
}

impl StepFlow<'_> {
    /// The computed nodes with their metric sums, all of which were passed on.
    pub(crate) fn into_sums(self) -> Vec<(Node, MetricSums)> {
        let StepFlow { spare, sums, evaluated, .. } = self;
        let summed = sums.into_iter().map(|Summing { node, metric_sums, gradient, .. }| {
            spare.push(gradient);
            (node, metric_sums)
        });
        summed.chain(evaluated).collect()
    }

    /// Waits until the first `needed` weights are here; `false` if they do not arrive in time.
    fn await_weights(&mut self, needed: usize) -> bool {
        loop {
            // Chunks that are already queued are taken first, so that layers whose weights are here are
            // computed together.
            let command = match self.commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => {
                    if self.held.of(self.step).is_some_and(|(here, _)| here >= needed) {
                        return true;
                    }
                    if !self.held.may_become(self.step) {
                        return false;
                    }
                    let begun = Instant::now();
                    let command = self.commands.recv_timeout(WEIGHTS_TIMEOUT);
                    self.meter.spend(Activity::Pull, begun.elapsed());
                    self.pulled += begun.elapsed();
                    match command {
                        Ok(command) => command,
                        Err(_) => return false,
                    }
                }
            };
            if !self.take(command) {
                return false;
            }
        }
    }

    /// Passes on a node's metric sums, without which no server accepts its chunks.
    fn announce(&self, node: Node, metric_sums: MetricSums) {
        // If the receiver is gone, the end of this computation will show it.
        let _ = self.results.send(Computed::Metrics { step: self.step, node, metric_sums });
    }

    /// Handles a command; `false` means that no more weights will arrive.
    fn take(&mut self, command: ComputeCommand) -> bool {
        match command {
            ComputeCommand::Weights(part) => {
                self.held.take(part);
                return true;
            }
            ComputeCommand::DropWeights => self.held.forget(),
            // The driver sends new work before this work ends only after the connection was lost.
            ComputeCommand::Compute { .. } => {}
        }
        false
    }
}

impl Flow for StepFlow<'_> {
    fn weights(&mut self, needed: usize) -> Option<(usize, &[f32])> {
        if !self.await_weights(needed) {
            return None;
        }
        self.held.of(self.step)
    }

    fn node(&mut self, node: Node) -> &mut MetricSums {
        // A buffer is in use until the connection has sent the last part of it, so a slow link makes a step
        // allocate another one instead of waiting.
        let free = self.spare.iter_mut().position(SharedBuffer::is_whole);
        let gradient =
            free.map_or_else(|| SharedBuffer::new(self.parameters), |index| self.spare.swap_remove(index));
        let number = self.sums.len();
        let metric_sums = MetricSums::new(self.classes);
        self.sums.push(Summing { node, metric_sums, is_announced: false, gradient });
        &mut self.sums[number].metric_sums
    }

    fn gradient(&mut self, number: usize) -> &mut [f32] {
        self.sums[number].gradient.open()
    }

    fn evaluated(&mut self, node: Node, metric_sums: MetricSums) {
        self.announce(node, metric_sums.clone());
        self.evaluated.push((node, metric_sums));
    }

    /// Passes on the complete chunks; a chunk that begins in an earlier layer waits for that layer.
    fn finished(&mut self, number: usize, from: usize) {
        let Summing { node, metric_sums, is_announced, .. } = &mut self.sums[number];
        if !std::mem::replace(is_announced, true) {
            let (node, metric_sums) = (*node, metric_sums.clone());
            self.announce(node, metric_sums);
        }
        let Summing { node, gradient, .. } = &mut self.sums[number];
        let offset = from.next_multiple_of(chunk_elements(self.parameters));
        if offset < gradient.open().len() {
            let part = GradientSlice { step: self.step, node: *node, offset, bytes: gradient.finish(offset) };
            // If the receiver is gone, the end of this computation will show it.
            let _ = self.results.send(Computed::Gradient(part));
        }
    }
}
