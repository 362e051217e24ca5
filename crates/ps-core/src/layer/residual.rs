//! Residual connections: add the input of an earlier layer to the output of a later one.

use super::kind::{Accepts, Kind, Setting};
use super::{Activation, Context, LayerSpec};
use crate::block::{Backward, Block};

/// Adds the input of an earlier layer to its own input (He et al. 2016).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residual {
    /// The boundary whose value is added.
    pub source: usize,
}

pub(super) static KIND: Kind = Kind {
    name: "residual",
    help: "adds the input of the layer `over` layers before it to its own input; both must have the same \
           width",
    settings: &[Setting { name: "over", accepts: Accepts::Count(1000) }],
    example: &[
        LayerSpec::Dense { units: 18 },
        LayerSpec::Activation(Activation::Tanh),
        LayerSpec::Dense { units: 7 },
        LayerSpec::Activation(Activation::Sigmoid),
        LayerSpec::Dense { units: 18 },
        LayerSpec::Residual { over: 3 },
        LayerSpec::Activation(Activation::Tanh),
        // The source is a value that the activation before would otherwise overwrite.
        LayerSpec::Residual { over: 1 },
        LayerSpec::Activation(Activation::Sigmoid),
        // A second connection with the same source.
        LayerSpec::Residual { over: 7 },
    ],
    build: |settings| LayerSpec::Residual { over: settings[0] as usize },
};

impl Residual {
    /// Checks that the connection can skip `over` layers. `widths` are those at the boundaries before it,
    /// `None` where not known.
    ///
    /// # Errors
    /// Returns a description of what does not fit.
    pub(super) fn check(over: usize, widths: &[Option<usize>]) -> Result<(), String> {
        let before = widths.len() - 1;
        let Some(source) = before.checked_sub(over) else {
            return Err(format!("residual over {over} layers, but only {before} come before it"));
        };
        match (widths[source], widths[before]) {
            (Some(added), Some(width)) if added != width => Err(format!(
                "residual over {over} layers: the first of them has {added} inputs, but the last has \
                 {width} outputs"
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn forward(self, k: usize, context: &Context, block: &mut Block) {
        let (rows, source, output) = block.value_and_copy(self.source, k);
        let panels = source.each_panel(rows).zip(output.each_panel(rows));
        context.engine.kernel.vectorize(
            #[inline(always)]
            || panels.for_each(|(source, output)| add(source, output)),
        );
    }

    /// Passes the delta on. It is added to the delta of the source where that is computed ([`add`]).
    pub(super) fn backward(self, k: usize, block: &mut Block) {
        let Backward { rows, above, below, .. } = block.backward(k);
        let panels = above.each_panel(rows).zip(below.each_panel(rows));
        panels.for_each(|(above, below)| below.copy_from_slice(above));
    }

    #[inline(always)]
    pub(super) fn plain_forward(self, input: &[f32], source: &[f32], output: &mut [f32]) {
        output.copy_from_slice(input);
        add(source, output);
    }
}

/// Computes `to = to + from`, elementwise.
#[inline(always)]
pub(crate) fn add(from: &[f32], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to += from);
}
