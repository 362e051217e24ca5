//! The coefficients of linear models, in the units of the data.

use ps_core::{Head, Layer, Model};
use ps_data::{Encoder, Standard};

/// The coefficients of a linear, logistic, softmax or Poisson regression; see
/// [`Model::coefficients`](crate::Model::coefficients).
#[derive(Clone, Debug, PartialEq)]
pub struct Coefficients {
    /// Name of each feature. Each category is a separate feature, such as `color=red`, which is 1 or 0.
    pub feature_names: Vec<String>,
    /// One function for values, rates and two classes; otherwise one for each class.
    pub functions: Vec<LinearFunction>,
}

/// A linear function of the features: `intercept + Σ coefficient · feature`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearFunction {
    /// The class whose logit this is. With two classes, it is the second one. `None` for values, and for
    /// counts, where the function is the logarithm of the rate.
    pub class: Option<String>,
    /// The function's value where all features are 0.
    pub intercept: f64,
    /// How much the function grows with each feature, `[features]`.
    pub coefficients: Vec<f64>,
}

/// Computes the coefficients of a model with a single dense layer; `None` if there are more layers.
pub(crate) fn coefficients(network: &Model, weights: &[f32], encoder: &Encoder) -> Option<Coefficients> {
    let [Layer::Dense(_)] = network.layers() else { return None };
    let [weight, bias] = network.layout().tensors() else { return None };
    let features = network.features();
    // What a feature is divided by before it is standardized: bytes stand for values from 0 to 1.
    let unit = if encoder.are_pixels() { 255.0 } else { 1.0 };
    let standard = encoder.preprocessing().standard.as_ref();
    let functions =
        (weights[weight.offset..].chunks_exact(features).zip(&weights[bias.offset..][..bias.len()]))
            .zip(classes(network.head(), encoder.class_names()))
            .map(|((row, &bias), class)| {
                let mut intercept = f64::from(bias);
                let coefficient = |(feature, &weight): (usize, &f32)| {
                    let mut coefficient = f64::from(weight);
                    if let Some(Standard { mean, inv_std }) = standard {
                        coefficient *= f64::from(inv_std[feature]);
                        intercept -= coefficient * f64::from(mean[feature]);
                    }
                    coefficient / unit
                };
                let coefficients = row.iter().enumerate().map(coefficient).collect();
                LinearFunction { class, intercept, coefficients }
            })
            .collect();
    Some(Coefficients { feature_names: encoder.feature_names().to_vec(), functions })
}

/// The class of each output.
fn classes(head: Head, names: &[String]) -> Vec<Option<String>> {
    match head {
        Head::SquaredError | Head::Poisson => vec![None],
        Head::Logistic => vec![names.get(1).cloned()],
        Head::Softmax => names.iter().cloned().map(Some).collect(),
    }
}
