//! The inputs of a graph, and how they become features.

use crate::OnnxError;
use crate::graph::{DataType, Elements, Graph, int, ints, strings};
use ps_data::{Column, ColumnContent, Encoder, Preprocessing, Standard};

/// What a graph takes as input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Input {
    /// What the training source consisted of: for a table, one input for each column, `[N, 1]`, which is
    /// binary32 for numbers and string for categories; for images, `pixels` of bytes, `[N, pixels]`; otherwise
    /// as for [`Input::Features`].
    #[default]
    Columns,
    /// One input `features` of binary32, `[N, features]`: encoded, but neither clipped, filled nor standardized. A
    /// missing value is NaN.
    Features,
}

/// Adds the inputs, and the operators that turn them into encoded features. Returns the features.
///
/// # Errors
/// ONNX cannot encode a column.
pub(crate) fn add_input(graph: &mut Graph, encoder: &Encoder, input: Input) -> Result<String, OnnxError> {
    let width = encoder.feature_names().len();
    Ok(match input {
        Input::Columns if encoder.is_table() => add_columns(graph, encoder)?,
        Input::Columns if encoder.are_pixels() => {
            let pixels = graph.input("pixels", DataType::Uint8, width, "the pixels, row by row");
            let values = graph.apply_with("Cast", "values", &[&pixels], vec![to_float()]);
            let scale = graph.row("scale", &[255.0]);
            graph.apply("Div", "scaled", &[&values, &scale])
        }
        Input::Columns | Input::Features => {
            let doc = "the encoded features before clipping, filling and standardization; NaN where missing";
            graph.input("features", DataType::Float, width, doc)
        }
    })
}

fn add_columns(graph: &mut Graph, encoder: &Encoder) -> Result<String, OnnxError> {
    let (columns, markers) = (encoder.columns(), encoder.missing_markers());
    let numbers = encoder.missing_numbers();
    // All inputs come first, so that no other value takes the name of a column.
    let inputs =
        columns.iter().map(|column| add_column_input(graph, column)).collect::<Result<Vec<_>, _>>()?;
    let encoded = columns.iter().zip(inputs).map(|(column, input)| match &column.content {
        ColumnContent::Category { names, has_other } => {
            add_categories(graph, &input, names, *has_other, &markers)
        }
        ColumnContent::Number { .. } | ColumnContent::Date { .. } => add_number(graph, input, &numbers),
    });
    let encoded: Vec<String> = encoded.collect();
    let all: Vec<&str> = encoded.iter().map(String::as_str).collect();
    Ok(graph.apply_with("Concat", "encoded", &all, vec![int("axis", 1)]))
}

fn add_column_input(graph: &mut Graph, column: &Column) -> Result<String, OnnxError> {
    let (elements, doc) = match column.content {
        ColumnContent::Number { .. } => (DataType::Float, "a number; NaN if it is missing"),
        ColumnContent::Category { .. } => (DataType::String, "a category; empty if it is missing"),
        ColumnContent::Date { .. } => return Err(OnnxError::Date { column: column.name.clone() }),
    };
    Ok(graph.input(&column.name, elements, 1, doc))
}

/// Replaces numbers that mark a missing value by NaN.
fn add_number(graph: &mut Graph, input: String, markers: &[f32]) -> String {
    markers.iter().fold(input, |number, &marker| {
        // The graph gets numbers instead of cells. A marker that is a number, such as -999, would otherwise
        // count as a value.
        let marker = graph.row(&format!("{number}/marker"), &[marker]);
        let is_missing = graph.apply("Equal", &format!("{number}/is_missing"), &[&number, &marker]);
        let nan = graph.row(&format!("{number}/nan"), &[f32::NAN]);
        graph.apply("Where", &format!("{number}/known"), &[&is_missing, &nan, &number])
    })
}

/// Encodes categories: a 1 in the feature of the category, NaN in all features if it is missing. An unknown
/// category has a 1 in the last feature if `has_other`, and otherwise only zeros.
///
/// `OneHotEncoder` would do most of it in one node, but fewer runtimes have it.
fn add_categories(
    graph: &mut Graph,
    input: &str,
    categories: &[String],
    has_other: bool,
    markers: &[String],
) -> String {
    let width = categories.len() + usize::from(has_other);
    // No feature has one of these two codes: -1 sets none of them, and the code after the last feature makes
    // all of them NaN below.
    let (unknown, missing) = (if has_other { categories.len() as i64 } else { -1 }, width as i64);
    let codes = (0..categories.len() as i64).chain(markers.iter().map(|_| missing));
    let attributes = vec![
        ints("cats_int64s", codes.collect()),
        strings("cats_strings", categories.iter().chain(markers).cloned()),
        int("default_int64", unknown),
    ];
    let code = graph.apply_ml("CategoryMapper", &format!("{input}/code"), &[input], attributes);
    let codes: Vec<i64> = (0..width as i64).collect();
    let codes = graph.constant(&format!("{input}/codes"), &[1, width], &Elements::I64(&codes));
    let is_category = graph.apply("Equal", &format!("{input}/is_category"), &[&code, &codes]);
    let encoded = graph.apply_with("Cast", &format!("{input}/encoded"), &[&is_category], vec![to_float()]);
    let missing = graph.constant(&format!("{input}/missing_code"), &[1, 1], &Elements::I64(&[missing]));
    let is_missing = graph.apply("Equal", &format!("{input}/is_missing"), &[&code, &missing]);
    let nan = graph.row(&format!("{input}/nan"), &[f32::NAN]);
    graph.apply("Where", &format!("{input}/features"), &[&is_missing, &nan, &encoded])
}

/// Clips, fills and standardizes encoded features.
pub(crate) fn add_preprocessing(graph: &mut Graph, encoder: &Encoder, mut features: String) -> String {
    let Preprocessing { fill, standard } = encoder.preprocessing();
    let bounds = bounds(encoder);
    if fill.is_some() || bounds.is_some() {
        let is_missing = graph.apply("IsNaN", "is_missing", &[&features]);
        if let Some([low, high]) = &bounds {
            let (low, high) = (graph.row("low", low), graph.row("high", high));
            features = graph.apply("Max", "raised", &[&features, &low]);
            features = graph.apply("Min", "clipped", &[&features, &high]);
        }
        // Not every runtime returns NaN from `Max` and `Min` for NaN.
        let fill = graph.row("fill", fill.as_deref().unwrap_or(&[f32::NAN]));
        features = graph.apply("Where", "filled", &[&is_missing, &fill, &features]);
    }
    if let Some(Standard { mean, inv_std }) = standard {
        let (mean, inv_std) = (graph.row("mean", mean), graph.row("inv_std", inv_std));
        // A subtraction and a product, because Downhill rounds after each. A single scaling with an offset
        // would round differently.
        features = graph.apply("Sub", "centered", &[&features, &mean]);
        features = graph.apply("Mul", "standardized", &[&features, &inv_std]);
    }
    features
}

/// The bounds to which features are clipped, infinite where there is none; `None` if no feature has any.
fn bounds(encoder: &Encoder) -> Option<[Vec<f32>; 2]> {
    let columns = encoder.columns();
    let clips = columns.iter().filter_map(|column| match column.content {
        ColumnContent::Number { clip: Some(clip) } => Some((column.features.start, clip)),
        _ => None,
    });
    clips.fold(None, |bounds, (feature, [low, high])| {
        let width = encoder.feature_names().len();
        let infinite = || [vec![f32::NEG_INFINITY; width], vec![f32::INFINITY; width]];
        let mut bounds = bounds.unwrap_or_else(infinite);
        (bounds[0][feature], bounds[1][feature]) = (low, high);
        Some(bounds)
    })
}

/// The target type of a cast to binary32.
fn to_float() -> crate::proto::AttributeProto {
    int("to", DataType::Float as i64)
}
