//! The contributions of a table's columns to an output.

use ps_core::{Head, Model, reference};
use ps_data::{Column, ColumnContent};
use ps_plot::{Amounts, number};

/// Maximum length of the name of a column or class in a line. It makes lines fit into 80 columns.
const NAME: usize = 36;
const CLASS: usize = 26;

/// A sample as the model sees it.
pub(super) struct Sample<'a> {
    /// The features as the source contains them, `[features]`.
    pub raw: &'a [f32],
    /// Whether features are standardized before the first layer.
    pub is_standardized: bool,
    /// Returns whether the source has no value for a feature.
    pub is_missing: &'a dyn Fn(usize) -> bool,
    /// The inputs of each dense layer, `[layers][inputs]`. Elements beyond a layer's inputs are ignored.
    pub activations: &'a [Vec<f32>],
}

/// The contributions to an output before the head.
pub(super) struct Contributions {
    /// Name of the output, such as `the log-odds of class yes`.
    pub output: String,
    /// Whether the model has no hidden layers: contributions are then exact, and the remainder is the bias.
    pub is_linear: bool,
    /// Whether the inputs are standardized.
    pub is_standardized: bool,
    /// The contributions, largest magnitude first.
    pub parts: Vec<Contribution>,
    /// The output minus all contributions.
    pub remainder: f64,
    /// The output before the head.
    pub total: f64,
}

/// The contribution of a column to an output.
pub(super) struct Contribution {
    /// Name of the column, such as `age`, or `country=France` for a column of categories.
    pub name: String,
    /// The value in the source; `None` for a missing value, and for a category, which is part of the name.
    pub value: Option<f32>,
    /// The input of the first layer, after preprocessing.
    pub input: Option<f32>,
    /// Whether the source has no value for the column.
    pub is_missing: bool,
    /// Whether the column is encoded as several inputs, one per category, which are summed.
    pub is_categorical: bool,
    /// The sum of gradient × input over the column's features.
    pub amount: f64,
}

impl Contributions {
    /// Computes the contributions to output `unit`. `total` is that output before the head, and `class` its
    /// name if outputs are classes.
    pub(super) fn new(
        model: &Model,
        weights: &[f32],
        columns: &[Column],
        sample: &Sample<'_>,
        (unit, class, total): (usize, &str, f32),
    ) -> Self {
        let products = gradient_times_input(model, weights, sample.activations, unit);
        let mut parts: Vec<Contribution> =
            columns.iter().map(|column| Contribution::new(column, sample, &products)).collect();
        parts.sort_by(|a, b| b.amount.abs().total_cmp(&a.amount.abs()));
        let total = f64::from(total);
        let class = cut(class, CLASS);
        Contributions {
            output: match model.head() {
                Head::SquaredError => "the output".into(),
                Head::Logistic => format!("the log-odds of class {class}"),
                Head::Softmax => format!("the logit of class {class}"),
                Head::Poisson => "the logarithm of the rate".into(),
            },
            is_linear: model.layers().len() == 1,
            is_standardized: sample.is_standardized,
            remainder: total - parts.iter().map(|part| part.amount).sum::<f64>(),
            parts,
            total,
        }
    }

    /// Describes how the contributions are computed.
    pub(super) fn method(&self) -> &'static str {
        if self.is_linear { "weight × input" } else { "gradient × input" }
    }

    /// Formats the `top` largest contributions as a table, with at most 80 characters per line.
    pub(super) fn lines(&self, top: usize) -> Vec<String> {
        let (shown, others) = self.split(top);
        let row = |name: &str, value: &str, input: &str, amount: &str| {
            let input = if self.is_standardized { format!(" {input:>13}") } else { String::new() };
            format!("  {:<NAME$} {value:>12}{input} {amount:>13}", cut(name, NAME))
        };
        let shown_number = |value: Option<f32>| value.map_or_else(String::new, |value| number(value.into()));
        let mut lines = vec![
            format!("contributions to {}: {}", self.output, self.method()),
            row("column", "value", "standardized", "contribution"),
        ];
        lines.extend(shown.iter().map(|part| {
            let value = if part.is_missing { "missing".into() } else { shown_number(part.value) };
            row(&part.name, &value, &shown_number(part.input), &signed(part.amount))
        }));
        if let Some((name, amount)) = others {
            lines.push(row(&name, "", "", &signed(amount)));
        }
        lines.push(row(self.remainder_name(), "", "", &signed(self.remainder)));
        lines.push(row("sum", "", "", &signed(self.total)));
        if self.is_standardized {
            lines
                .push("A standardized input is 0 at the training mean, where it contributes nothing.".into());
        }
        if shown.iter().any(|part| part.is_categorical) {
            lines.push("The contribution of a categorical column covers all of its categories.".into());
        }
        if shown.iter().any(|part| part.is_missing) {
            lines.push("A missing value is replaced by the training mean of its column.".into());
        }
        if !self.is_linear {
            lines.push("Gradient × input approximates the network linearly near this sample; the".into());
            lines.push("remainder comes from its biases and nonlinearities.".into());
        }
        lines
    }

    /// Returns the `top` largest contributions as bars.
    pub(super) fn bars(&self, top: usize) -> Amounts {
        let (shown, others) = self.split(top);
        let name = |part: &Contribution| match part.value {
            _ if part.is_missing => format!("{} (missing)", part.name),
            Some(value) => format!("{}={}", part.name, number(value.into())),
            None => part.name.clone(),
        };
        let mut rows: Vec<(String, f64)> = shown.iter().map(|part| (name(part), part.amount)).collect();
        rows.extend(others);
        rows.push((self.remainder_name().into(), self.remainder));
        Amounts { title: format!("contributions to {}: {}", self.output, self.method()), rows }
    }

    /// Returns the `top` largest contributions, and the sum of the others with a name for them.
    fn split(&self, top: usize) -> (&[Contribution], Option<(String, f64)>) {
        let (shown, others) = self.parts.split_at(top.min(self.parts.len()));
        let name = match others.len() {
            0 => return (shown, None),
            1 => "1 other column".into(),
            count => format!("{} other columns", number(count as f64)),
        };
        (shown, Some((name, others.iter().map(|part| part.amount).sum())))
    }

    fn remainder_name(&self) -> &'static str {
        if self.is_linear { "bias" } else { "remainder" }
    }
}

impl Contribution {
    fn new(column: &Column, sample: &Sample<'_>, products: &[f64]) -> Self {
        let is_missing = column.features.clone().any(sample.is_missing);
        let is_categorical = !matches!(column.content, ColumnContent::Number { .. });
        let mut category = column.features.clone().zip(column.categories());
        let category = category.find(|(feature, _)| !is_missing && sample.raw[*feature] == 1.0);
        let (name, feature) = match category {
            Some((feature, category)) => (format!("{}={category}", column.name), Some(feature)),
            None if is_categorical => (column.name.clone(), None),
            None => (column.name.clone(), Some(column.features.start)),
        };
        Contribution {
            name,
            value: feature.filter(|_| !is_categorical && !is_missing).map(|feature| sample.raw[feature]),
            input: feature.map(|feature| sample.activations[0][feature]),
            is_missing,
            is_categorical,
            amount: products[column.features.clone()].iter().sum(),
        }
    }
}

/// Returns for each feature the derivative of output `unit`, multiplied by the feature's value. Without
/// hidden layers, this is `weight × input`.
fn gradient_times_input(model: &Model, weights: &[f32], activations: &[Vec<f32>], unit: usize) -> Vec<f64> {
    let slopes = reference::input_gradient(model, weights, &activations[0], unit);
    slopes.iter().zip(&activations[0]).map(|(slope, input)| f64::from(*slope) * f64::from(*input)).collect()
}

/// Formats a number with its sign.
fn signed(value: f64) -> String {
    match number(value) {
        text if value > 0.0 && text != "0" => format!("+{text}"),
        text => text,
    }
}

/// Truncates a name to `limit` characters.
pub(super) fn cut(name: &str, limit: usize) -> String {
    match name.char_indices().nth(limit) {
        None => name.into(),
        Some(_) => name.chars().take(limit - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ps_core::Activation;

    /// A numeric column and one with three categories.
    fn columns() -> Vec<Column> {
        let categories = ["red", "green", "blue"].map(String::from).to_vec();
        vec![
            Column { name: "size".into(), content: ColumnContent::Number { clip: None }, features: 0..1 },
            Column {
                name: "colour".into(),
                content: ColumnContent::Category { names: categories, has_other: false },
                features: 1..4,
            },
        ]
    }

    /// Returns the contributions to output `unit`, and that output.
    fn explained(
        model: &Model,
        weights: &[f32],
        unit: usize,
        row: &[f32],
        raw: &[f32],
    ) -> (Contributions, f32) {
        let activations = reference::dense_inputs(model, weights, row);
        let total = activations[model.dense_layers().count()][unit];
        let sample =
            Sample { raw, is_standardized: row != raw, is_missing: &|_| false, activations: &activations };
        (Contributions::new(model, weights, &columns(), &sample, (unit, "yes", total)), total)
    }

    #[test]
    fn contributions_and_bias_sum_to_the_output_of_every_linear_model() {
        let row = [1.5, -0.5, 2.0, -0.25];
        for (head, classes) in
            [(Head::SquaredError, 0), (Head::Logistic, 2), (Head::Poisson, 0), (Head::Softmax, 3)]
        {
            let model = Model::new(4, &[], Activation::Relu, head, classes);
            let weights: Vec<f32> = (0..model.parameters()).map(|index| (index as f32 * 1.7).sin()).collect();
            for unit in 0..model.outputs() {
                let (parts, total) = explained(&model, &weights, unit, &row, &[3.0, 0.0, 1.0, 0.0]);
                let bias = weights[model.dense_layers().next().unwrap().bias + unit];
                assert!((parts.remainder - f64::from(bias)).abs() < 1e-6, "{head:?} {unit}");
                let sum: f64 = parts.parts.iter().map(|part| part.amount).sum();
                assert!((sum + f64::from(bias) - f64::from(total)).abs() < 1e-6, "{head:?} {unit}");
            }
        }
    }

    #[test]
    fn a_column_of_categories_is_one_part_under_the_name_of_its_category() {
        let model = Model::new(4, &[], Activation::Relu, Head::Logistic, 2);
        let (parts, _) =
            explained(&model, &[0.5, 1.0, 2.0, 3.0, 0.1], 0, &[3.0, 0.0, 1.0, 0.0], &[3.0, 0.0, 1.0, 0.0]);
        let named: Vec<(&str, Option<f32>, f64)> =
            parts.parts.iter().map(|part| (part.name.as_str(), part.value, part.amount)).collect();
        assert_eq!(named, [("colour=green", None, 2.0), ("size", Some(3.0), 1.5)]);
        let (parts, _) =
            explained(&model, &[0.5, 1.0, 2.0, 3.0, 0.1], 0, &[0.0, -1.0, 2.0, -0.5], &[3.0, 0.0, 1.0, 0.0]);
        assert_eq!((parts.parts[0].amount, parts.parts[0].input), (1.5, Some(2.0)));
    }

    #[test]
    fn without_biases_a_relu_network_is_the_sum_of_its_contributions() {
        let model = Model::new(4, &[5, 3], Activation::Relu, Head::Softmax, 2);
        let mut weights: Vec<f32> = (0..model.parameters()).map(|index| (index as f32 * 2.3).sin()).collect();
        for layer in model.dense_layers() {
            weights[layer.bias..][..layer.outputs].fill(0.0);
        }
        let row = [1.5, -0.5, 2.0, -0.25];
        let (parts, total) = explained(&model, &weights, 1, &row, &row);
        assert!(parts.remainder.abs() < 1e-6 && total != 0.0, "{} of {total}", parts.remainder);
    }

    #[test]
    fn a_missing_value_is_named_as_such_and_lines_fit_a_terminal() {
        let model = Model::new(4, &[2], Activation::Tanh, Head::Softmax, 2);
        let weights = model.initial(1);
        let mut columns = columns();
        columns[0].name = "a name of a column that is far longer than a terminal is wide".into();
        let row = [0.1, 0.2, -0.3, 0.1];
        let activations = reference::dense_inputs(&model, &weights, &row);
        let sample = Sample {
            raw: &[1234.5, 0.3, 0.3, 0.4],
            is_standardized: true,
            is_missing: &|feature| feature > 0,
            activations: &activations,
        };
        let class = "a class with a name that is long, too";
        let parts = Contributions::new(&model, &weights, &columns, &sample, (0, class, activations[2][0]));
        let lines = parts.lines(10);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        let row = lines.iter().find(|line| line.starts_with("  colour ")).unwrap();
        assert!(row.contains(" missing "), "{row}");
        assert!(parts.lines(1).iter().any(|line| line.starts_with("  1 other column ")));
        assert!(parts.bars(10).rows.iter().any(|(name, _)| name == "colour (missing)"));
    }
}
