//! The products of one layer, one thread, beside the core's peak; and what the tree of leaves costs them.

use crate::{Bench, Entrant, Error, Measurement, peak, race};
use ps_core::Kernel;
use ps_core::gradient::LayerProducts;
use std::fmt;

/// A layer, and how many rows go through it.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Samples.
    pub rows: usize,
    /// Inputs of the layer.
    pub inputs: usize,
    /// Its outputs.
    pub outputs: usize,
}

/// The layers of the models that are measured elsewhere.
pub const SHAPES: [Shape; 7] = [
    Shape::new(128, 784, 512),
    Shape::new(128, 512, 256),
    Shape::new(128, 2048, 2048),
    Shape::new(128, 784, 10),
    Shape::new(128, 256, 10),
    Shape::new(128, 784, 128),
    Shape::new(128, 784, 16),
];

/// The usual leaf.
const LEAF: usize = 32;

impl Shape {
    /// `rows` samples through a layer.
    pub(crate) const fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        Shape { rows, inputs, outputs }
    }

    /// Floating-point operations of each of its products.
    pub(crate) fn operations(self) -> f64 {
        2.0 * (self.rows * self.inputs * self.outputs) as f64
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.rows, self.inputs, self.outputs)
    }
}

pub(crate) fn measure(bench: &mut Bench, kernel: Kernel) -> Result<(), Error> {
    for shape in SHAPES {
        products(bench, shape, kernel, Vec::new())?;
        packing(bench, shape, kernel)?;
    }
    for shape in SHAPES {
        tree(bench, shape, kernel)?;
    }
    Ok(())
}

/// Races the products of `shape` against the peak, and `others`, each of which makes as many operations; gives the
/// rates in GFLOP/s of all that took part.
///
/// # Errors
/// A figure cannot be told.
pub fn products(
    bench: &mut Bench,
    shape: Shape,
    kernel: Kernel,
    others: Vec<Entrant>,
) -> Result<Vec<(String, f64)>, Error> {
    let mut entrants = vec![Entrant::new(peak::NAME, peak::multiply_adds)];
    for product in ["forward", "input-gradient", "weight-gradient"] {
        let name = format!("kernel/{product}/{shape}");
        if !bench.wants(&name) {
            continue;
        }
        let mut layer = layer(kernel, shape, LEAF);
        entrants.push(match product {
            "forward" => Entrant::new(name, move || layer.forward()),
            "input-gradient" => Entrant::new(name, move || layer.input_gradient()),
            _ => weight_gradient(name, layer, shape),
        });
    }
    entrants.extend(others);
    if entrants.len() == 1 {
        return Ok(Vec::new());
    }
    let times = race(&mut entrants, bench.effort());
    let peak = peak::OPERATIONS / times[0] / 1e9;
    let mut rates = Vec::new();
    for (entrant, time) in entrants.iter().zip(times).skip(1) {
        let rate = shape.operations() / time / 1e9;
        bench.tell(Measurement::new(&entrant.name, rate, "GFLOP/s").against(peak::NAME, peak))?;
        rates.push((entrant.name.clone(), rate));
    }
    Ok(rates)
}

/// Bringing the layer's weight into the order in which products read it, once a step.
fn packing(bench: &mut Bench, shape: Shape, kernel: Kernel) -> Result<(), Error> {
    let name = format!("kernel/packing/{shape}");
    if !bench.wants(&name) {
        return Ok(());
    }
    let mut layer = layer(kernel, shape, LEAF);
    let times = race(&mut [Entrant::new(&name, || layer.pack())], bench.effort());
    bench.tell(Measurement::new(&name, times[0] * 1e6, "us"))
}

/// Weight gradients with leaves, against one without.
///
/// # Errors
/// A figure cannot be told.
pub fn tree(bench: &mut Bench, shape: Shape, kernel: Kernel) -> Result<(), Error> {
    let group = format!("tree/weight-gradient/{shape}");
    if !bench.wants(&group) {
        return Ok(());
    }
    let mut entrants: Vec<Entrant> = [("no-leaves", shape.rows), ("leaf-32", 32), ("leaf-64", 64)]
        .map(|(label, leaf)| weight_gradient(format!("{group}/{label}"), layer(kernel, shape, leaf), shape))
        .into();
    let times = race(&mut entrants, bench.effort());
    let names: Vec<String> = entrants.into_iter().map(|entrant| entrant.name).collect();
    bench.tell(Measurement::new(&names[0], times[0] * 1e6, "us"))?;
    for (name, time) in names.iter().zip(&times).skip(1) {
        bench.tell(Measurement::new(name, time * 1e6, "us").against(&names[0], times[0] * 1e6))?;
    }
    Ok(())
}

fn layer(kernel: Kernel, shape: Shape, leaf: usize) -> LayerProducts {
    LayerProducts::new(kernel, shape.rows, shape.inputs, shape.outputs, leaf)
}

fn weight_gradient<'a>(name: String, mut layer: LayerProducts, shape: Shape) -> Entrant<'a> {
    let mut gradient = vec![0.0; (shape.inputs + 1) * shape.outputs];
    Entrant::new(name, move || layer.weight_gradient(&mut gradient))
}
