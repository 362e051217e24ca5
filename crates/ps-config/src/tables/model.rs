//! The `[model]` table: kind and layers of the model.

use crate::document::Document;
use crate::error::ConfigError;
use crate::field::{Field, field};
use crate::key::*;
use crate::setting::{Named, Setting, named};
use ps_core::model::{ModelKind, chain};
use ps_core::{Activation, Head, LayerSpec};

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The kind of model: a regression or a multilayer perceptron.
    pub kind: ModelKind,
    /// Widths of the hidden layers, from input to output (mlp only).
    pub hidden: Vec<usize>,
    /// Activation function of the hidden layers (mlp only).
    pub activation: Activation,
    /// The hidden layers, if they are listed individually instead of by width and activation (mlp only).
    pub layers: Option<Vec<LayerSpec>>,
    /// The meaning of the outputs, and the loss. Only mlp has a choice.
    pub head: Head,
}

impl ModelConfig {
    /// Returns the layers before the output layer, from input to output.
    pub fn hidden_layers(&self) -> Vec<LayerSpec> {
        self.layers.clone().unwrap_or_else(|| chain(&self.hidden, self.activation))
    }
}

named!(ModelKind {
    "linear" = ModelKind::Linear,
    "logistic" = ModelKind::Logistic,
    "softmax" = ModelKind::Softmax,
    "poisson" = ModelKind::Poisson,
    "mlp" = ModelKind::Mlp,
});
named!(Activation {
    "relu" = Activation::Relu,
    "tanh" = Activation::Tanh,
    "sigmoid" = Activation::Sigmoid,
});
named!(Head {
    "squared-error" = Head::SquaredError,
    "logistic" = Head::Logistic,
    "softmax" = Head::Softmax,
    "poisson" = Head::Poisson,
});

const MLP: Use = When("model.kind", &["mlp"]);

#[rustfmt::skip]
const HIDDEN: Field<ModelConfig> =
    field!(hidden, "model.hidden", Widths, Described("required unless `layers` is set"), MLP,
        "Widths of the hidden layers, from first to last.");
#[rustfmt::skip]
const ACTIVATION: Field<ModelConfig> =
    field!(activation, "model.activation", Name(Activation::NAMES), Value("\"relu\""), MLP,
        "Activation function after each hidden layer.");

#[rustfmt::skip]
pub(crate) static FIELDS: &[Field<ModelConfig>] = &[
    field!(kind, "model.kind", Name(ModelKind::NAMES), Required("\"softmax\""), Always,
        "Linear, logistic, softmax or Poisson regression, or a multilayer perceptron."),
    Field {
        get: |model, _| if model.layers.is_none() { model.hidden.write() } else { None },
        ..HIDDEN
    },
    Field {
        get: |model, _| if model.layers.is_none() { model.activation.write() } else { None },
        ..ACTIVATION
    },
    field!(layers, "model.layers", Layers, Described("dense layers according to `hidden` and `activation`"), MLP,
        "The hidden layers one by one, instead of `hidden` and `activation`; see below."),
    field!(head, "model.head", Name(Head::NAMES), Value("\"softmax\""), MLP,
        "Interpretation of the outputs, which determines the loss."),
];

pub(crate) fn read(document: &Document) -> Result<ModelConfig, ConfigError> {
    let mut model = ModelConfig {
        kind: ModelKind::Softmax,
        hidden: Vec::new(),
        activation: Activation::default(),
        layers: None,
        head: Head::Softmax,
    };
    document.read(FIELDS, &mut model)?;
    if model.layers.is_some() {
        document.refuse_replaced("model.layers", &["model.hidden", "model.activation"])?;
    } else if model.kind == ModelKind::Mlp && model.hidden.is_empty() {
        return Err(document.missing(&HIDDEN.key, "[128]"));
    }
    if model.kind != ModelKind::Mlp {
        model.head = Head::of(model.kind);
    }
    Ok(model)
}
