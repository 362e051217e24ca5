//! The matrix products of one layer on one thread, compared with the core's peak; and the cost of summing by
//! leaves.

use crate::{Bench, Entrant, Error, Measurement, peak, race};
use ps_core::Kernel;
use ps_core::gradient::LayerProducts;
use std::fmt;

/// A layer, and the number of rows that it processes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Number of samples, the rows of the input.
    pub rows: usize,
    /// Number of inputs of the layer.
    pub inputs: usize,
    /// Number of outputs of the layer.
    pub outputs: usize,
}

/// The layers of the models that other groups measure.
pub const SHAPES: [Shape; 7] = [
    Shape::new(128, 784, 512),
    Shape::new(128, 512, 256),
    Shape::new(128, 2048, 2048),
    Shape::new(128, 784, 10),
    Shape::new(128, 256, 10),
    Shape::new(128, 784, 128),
    Shape::new(128, 784, 16),
];

/// The default number of samples of a leaf.
const LEAF: usize = 32;

impl Shape {
    /// Creates the shape of a layer for `rows` samples.
    pub(crate) const fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        Shape { rows, inputs, outputs }
    }

    /// Number of floating-point operations of each of the layer's products.
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

/// Races the products of `shape` against the peak and against `others`, which make as many operations each.
/// Returns the rates in GFLOP/s of all entrants.
///
/// # Errors
/// A figure cannot be reported.
pub fn products(
    bench: &mut Bench,
    shape: Shape,
    kernel: Kernel,
    others: Vec<Entrant>,
) -> Result<Vec<(String, f64)>, Error> {
    let mut entrants = vec![Entrant::new(peak::NAME, peak::multiply_adds)];
    for product in ["forward", "input-gradient", "weight-gradient"] {
        let name = format!("kernel/{product}/{shape}");
        if !bench.is_selected(&name) {
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
        bench.report(Measurement::new(&entrant.name, rate, "GFLOP/s").against(peak::NAME, peak))?;
        rates.push((entrant.name.clone(), rate));
    }
    Ok(rates)
}

/// Measures packing: once per step, the layer's weight is rearranged to the order of the products.
fn packing(bench: &mut Bench, shape: Shape, kernel: Kernel) -> Result<(), Error> {
    let name = format!("kernel/packing/{shape}");
    if !bench.is_selected(&name) {
        return Ok(());
    }
    let mut layer = layer(kernel, shape, LEAF);
    let times = race(&mut [Entrant::new(&name, || layer.pack())], bench.effort());
    bench.report(Measurement::new(&name, times[0] * 1e6, "us"))
}

/// Measures weight gradients that are summed by leaves, against one that is not.
///
/// # Errors
/// A figure cannot be reported.
pub fn tree(bench: &mut Bench, shape: Shape, kernel: Kernel) -> Result<(), Error> {
    let group = format!("tree/weight-gradient/{shape}");
    if !bench.is_selected(&group) {
        return Ok(());
    }
    let mut entrants: Vec<Entrant> = [("no-leaves", shape.rows), ("leaf-32", 32), ("leaf-64", 64)]
        .map(|(label, leaf)| weight_gradient(format!("{group}/{label}"), layer(kernel, shape, leaf), shape))
        .into();
    let times = race(&mut entrants, bench.effort());
    let names: Vec<String> = entrants.into_iter().map(|entrant| entrant.name).collect();
    bench.report(Measurement::new(&names[0], times[0] * 1e6, "us"))?;
    for (name, time) in names.iter().zip(&times).skip(1) {
        bench.report(Measurement::new(name, time * 1e6, "us").against(&names[0], times[0] * 1e6))?;
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
