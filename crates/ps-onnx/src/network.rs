//! The layers and the head as operators.

use crate::graph::{DataType, Elements, Graph, int};
use ps_core::{Activation, Dense, Head, Layer, Model};
use ps_data::Encoder;

/// The outputs of a classifier and of a regression, named like those of `skl2onnx` (without its ZipMap).
const LABEL: &str = "label";
const PROBABILITIES: &str = "probabilities";
const VARIABLE: &str = "variable";

/// The names of a model's outputs.
pub(crate) fn outputs(head: Head) -> &'static [&'static str] {
    match head {
        Head::Logistic | Head::Softmax => &[LABEL, PROBABILITIES],
        Head::SquaredError | Head::Poisson => &[VARIABLE],
    }
}

/// Passes `features` through all layers. Returns the last layer's output.
pub(crate) fn add_layers(graph: &mut Graph, network: &Model, weights: &[f32], features: String) -> String {
    let mut values = vec![features];
    for (number, layer) in network.layers().iter().enumerate() {
        let input = values[number].as_str();
        let output = match layer {
            Layer::Dense(dense) => add_dense(graph, network, weights, dense, input),
            Layer::Activation(activation) => {
                let operator = match activation {
                    Activation::Relu => "Relu",
                    Activation::Tanh => "Tanh",
                    Activation::Sigmoid => "Sigmoid",
                };
                graph.apply(operator, &format!("values.{number}"), &[input])
            }
            // Dropout does nothing outside of training.
            Layer::Dropout(_) => input.into(),
            Layer::Residual(residual) => {
                graph.apply("Add", &format!("values.{number}"), &[&values[residual.source], input])
            }
        };
        values.push(output);
    }
    values.pop().expect("the features are a value")
}

/// Computes `x W^T + b`.
fn add_dense(graph: &mut Graph, network: &Model, weights: &[f32], dense: &Dense, input: &str) -> String {
    let tensors = network.layout().tensors();
    let [weight, bias] = [dense.weight, dense.bias].map(|offset| {
        let tensor = tensors.iter().find(|tensor| tensor.offset == offset);
        let tensor = tensor.expect("the layout lists all parameters");
        let elements = Elements::F32(&weights[offset..offset + tensor.len()]);
        graph.constant(&tensor.name, &tensor.shape, &elements)
    });
    let name = weight.trim_end_matches(".weight");
    graph.apply_with("Gemm", name, &[input, &weight, &bias], vec![int("transB", 1)])
}

/// Turns the last layer's output into the outputs of the graph.
pub(crate) fn add_head(graph: &mut Graph, head: Head, last: &str, encoder: &Encoder) {
    let probabilities = (PROBABILITIES, DataType::Float, Some(encoder.class_names().len()));
    match head {
        Head::SquaredError => graph.output("Identity", (VARIABLE, DataType::Float, Some(1)), &[last], vec![]),
        Head::Poisson => graph.output("Exp", (VARIABLE, DataType::Float, Some(1)), &[last], vec![]),
        Head::Softmax => {
            graph.output("Softmax", probabilities, &[last], vec![int("axis", 1)]);
            add_label(graph, encoder);
        }
        Head::Logistic => {
            let second = graph.apply("Sigmoid", "probability", &[last]);
            let one = graph.row("one", &[1.0]);
            let first = graph.apply("Sub", "other_probability", &[&one, &second]);
            graph.output("Concat", probabilities, &[&first, &second], vec![int("axis", 1)]);
            add_label(graph, encoder);
        }
    }
}

/// Names the most probable class, the first one in a tie: an integer if all classes are integers, otherwise a
/// string.
fn add_label(graph: &mut Graph, encoder: &Encoder) {
    let attributes = vec![int("axis", 1), int("keepdims", 0)];
    let class = graph.apply_with("ArgMax", "class", &[PROBABILITIES], attributes);
    let names = encoder.class_names();
    let (elements, classes) = match encoder.class_numbers().and_then(integers) {
        Some(integers) => {
            (DataType::Int64, graph.constant("classes", &[names.len()], &Elements::I64(&integers)))
        }
        None => (DataType::String, graph.constant("classes", &[names.len()], &Elements::Strings(names))),
    };
    graph.output("Gather", (LABEL, elements, None), &[&classes, &class], vec![int("axis", 0)]);
}

/// Returns the numbers as integers, if all of them are integers that binary64 represents exactly.
fn integers(numbers: &[f64]) -> Option<Vec<i64>> {
    const MAX: f64 = (1_u64 << 53) as f64;
    let is_integer = |number: &f64| number.fract() == 0.0 && number.abs() <= MAX;
    numbers.iter().map(|number| is_integer(number).then_some(*number as i64)).collect()
}
