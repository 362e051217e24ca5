//! A graph of operators under construction.

use crate::proto::tensor_shape_proto::{Dimension, dimension};
use crate::proto::{
    AttributeProto, GraphProto, NodeProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto, tensor_proto, type_proto,
};
use std::collections::BTreeSet;

pub(crate) use tensor_proto::DataType;

/// The domain of the operators for classical machine learning. That of the standard operators is empty.
pub(crate) const ML_DOMAIN: &str = "ai.onnx.ml";

/// The name of the first dimension of inputs and outputs, the number of samples.
const SAMPLES: &str = "N";

/// A graph under construction. Every value has a unique name, by which operators refer to it.
pub(crate) struct Graph {
    proto: GraphProto,
    names: BTreeSet<String>,
    outputs: &'static [&'static str],
}

/// The elements of a constant.
pub(crate) enum Elements<'a> {
    F32(&'a [f32]),
    I64(&'a [i64]),
    Strings(&'a [String]),
}

impl Graph {
    /// Creates an empty graph, whose outputs will be called `outputs`, in this order. No other value gets one of
    /// these names.
    pub(crate) fn new(outputs: &'static [&'static str]) -> Self {
        let proto = GraphProto { name: Some("downhill".into()), ..GraphProto::default() };
        Graph { proto, names: outputs.iter().map(|&name| name.into()).collect(), outputs }
    }

    /// Adds an input of shape `[N, columns]`. Its name is `name` unless that is empty or taken.
    pub(crate) fn input(&mut self, name: &str, elements: DataType, columns: usize, doc: &str) -> String {
        let name = self.unique(name, "_input");
        let info = ValueInfoProto { doc_string: Some(doc.into()), ..value_info(&name, elements, &[columns]) };
        self.proto.input.push(info);
        name
    }

    /// Adds a constant.
    pub(crate) fn constant(&mut self, name: &str, shape: &[usize], elements: &Elements<'_>) -> String {
        let name = self.unique(name, "_constant");
        let mut tensor = TensorProto {
            name: Some(name.clone()),
            dims: shape.iter().map(|&size| size as i64).collect(),
            ..TensorProto::default()
        };
        let elements = match *elements {
            Elements::F32(values) => {
                tensor.raw_data = Some(values.iter().flat_map(|value| value.to_le_bytes()).collect());
                DataType::Float
            }
            Elements::I64(values) => {
                tensor.raw_data = Some(values.iter().flat_map(|value| value.to_le_bytes()).collect());
                DataType::Int64
            }
            Elements::Strings(strings) => {
                tensor.string_data = strings.iter().map(|string| string.clone().into_bytes()).collect();
                DataType::String
            }
        };
        tensor.data_type = Some(elements as i32);
        self.proto.initializer.push(tensor);
        name
    }

    /// Adds a constant row of shape `[1, values]`, which is broadcast over the samples.
    pub(crate) fn row(&mut self, name: &str, values: &[f32]) -> String {
        self.constant(name, &[1, values.len()], &Elements::F32(values))
    }

    /// Applies an operator without attributes. Returns the name of its result, which is `name` unless that is
    /// taken.
    pub(crate) fn apply(&mut self, operator: &str, name: &str, inputs: &[&str]) -> String {
        self.apply_with(operator, name, inputs, Vec::new())
    }

    /// Like [`Graph::apply`], with attributes.
    pub(crate) fn apply_with(
        &mut self,
        operator: &str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let name = self.unique(name, "_");
        self.node("", operator, &name, inputs, attributes);
        name
    }

    /// Like [`Graph::apply_with`], with an operator from [`ML_DOMAIN`].
    pub(crate) fn apply_ml(
        &mut self,
        operator: &str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let name = self.unique(name, "_");
        self.node(ML_DOMAIN, operator, &name, inputs, attributes);
        name
    }

    /// Applies an operator whose result is the output `name` of the graph, of shape `[N]` or `[N, columns]`.
    pub(crate) fn output(
        &mut self,
        operator: &str,
        (name, elements, columns): (&str, DataType, Option<usize>),
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) {
        self.node("", operator, name, inputs, attributes);
        self.proto.output.push(value_info(name, elements, columns.as_slice()));
    }

    /// Adds a node with a single result, called `name`.
    fn node(
        &mut self,
        domain: &str,
        operator: &str,
        name: &str,
        inputs: &[&str],
        attribute: Vec<AttributeProto>,
    ) {
        self.proto.node.push(NodeProto {
            name: Some(name.into()),
            domain: (!domain.is_empty()).then(|| domain.into()),
            op_type: Some(operator.into()),
            input: inputs.iter().map(|&input| input.into()).collect(),
            output: vec![name.into()],
            attribute,
            ..NodeProto::default()
        });
    }

    /// Returns `name`, followed by `suffix` as often as it takes to be new, and reserves it.
    fn unique(&mut self, name: &str, suffix: &str) -> String {
        let mut name = name.to_string();
        while name.is_empty() || self.names.contains(&name) {
            name.push_str(suffix);
        }
        self.names.insert(name.clone());
        name
    }

    /// Returns the finished graph.
    pub(crate) fn finish(mut self) -> GraphProto {
        // The list begins with the label, which is computed from the probabilities and therefore added after
        // them.
        self.proto.output.sort_by_key(|output| self.outputs.iter().position(|&name| name == output.name()));
        self.proto
    }

    /// Whether any operator is from [`ML_DOMAIN`].
    pub(crate) fn uses_ml(&self) -> bool {
        self.proto.node.iter().any(|node| node.domain() == ML_DOMAIN)
    }
}

/// Describes an input or output of shape `[N, columns...]`.
fn value_info(name: &str, elements: DataType, columns: &[usize]) -> ValueInfoProto {
    let dimension = |value| Dimension { value: Some(value), ..Dimension::default() };
    let samples = dimension(dimension::Value::DimParam(SAMPLES.into()));
    let columns = columns.iter().map(|&size| dimension(dimension::Value::DimValue(size as i64)));
    let shape = TensorShapeProto { dim: std::iter::once(samples).chain(columns).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(elements as i32), shape: Some(shape) };
    let value = Some(type_proto::Value::TensorType(tensor));
    let r#type = Some(TypeProto { value, ..TypeProto::default() });
    ValueInfoProto { name: Some(name.into()), r#type, ..ValueInfoProto::default() }
}

/// An integer as an attribute.
pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, attribute_proto::AttributeType::Int) }
}

/// A list of integers as an attribute.
pub(crate) fn ints(name: &str, values: Vec<i64>) -> AttributeProto {
    AttributeProto { ints: values, ..attribute(name, attribute_proto::AttributeType::Ints) }
}

/// A list of strings as an attribute.
pub(crate) fn strings(name: &str, values: impl Iterator<Item = String>) -> AttributeProto {
    let strings = values.map(String::into_bytes).collect();
    AttributeProto { strings, ..attribute(name, attribute_proto::AttributeType::Strings) }
}

fn attribute(name: &str, kind: attribute_proto::AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind as i32), ..AttributeProto::default() }
}

/// A pair of strings that describes a model.
pub(crate) fn property(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) }
}
