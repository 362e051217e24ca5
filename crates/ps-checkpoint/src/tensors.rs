//! Conversion between a flat vector and the named tensors of a safetensors file.

use ps_core::Layout;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;

/// Serializes a flat vector as a safetensors file.
///
/// # Errors
/// Returns the error of the safetensors library.
pub fn to_bytes(
    layout: &Layout,
    values: &[f32],
    metadata: Option<HashMap<String, String>>,
) -> Result<Vec<u8>, String> {
    let little_endian: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let views = layout.tensors().iter().map(|tensor| {
        let bytes = &little_endian[4 * tensor.offset..4 * (tensor.offset + tensor.len())];
        TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).map(|view| (tensor.name.clone(), view))
    });
    let views = views.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    safetensors::serialize(views, metadata).map_err(|error| error.to_string())
}

/// Parses a safetensors file into a flat vector. The file must contain every tensor of the model.
///
/// # Errors
/// Returns a description of the fault if the file is invalid or belongs to another model.
pub fn from_bytes(layout: &Layout, bytes: &[u8]) -> Result<Vec<f32>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let mut values = vec![0.0; layout.len()];
    for tensor in layout.tensors() {
        let view =
            file.tensor(&tensor.name).map_err(|_| format!("the file has no tensor `{}`", tensor.name))?;
        if view.dtype() != Dtype::F32 || view.shape() != tensor.shape {
            let (dtype, shape) = (view.dtype(), view.shape());
            return Err(format!(
                "tensor `{}` is {dtype:?} {shape:?}, but the model has F32 {:?}",
                tensor.name, tensor.shape
            ));
        }
        let (elements, _) = view.data().as_chunks::<4>();
        for (value, element) in values[tensor.offset..].iter_mut().zip(elements) {
            *value = f32::from_le_bytes(*element);
        }
    }
    Ok(values)
}
