//! A flat vector as the named tensors of a model, and back.

use ps_core::Layout;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;

/// The bytes of a safetensors file.
///
/// # Errors
/// The format's library refuses; what it says.
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

/// The flat vector; every tensor of the model must be there.
///
/// # Errors
/// It is no such file, or of another model; which tensor is not what.
pub fn from_bytes(layout: &Layout, bytes: &[u8]) -> Result<Vec<f32>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let mut values = vec![0.0; layout.len()];
    for tensor in layout.tensors() {
        let view =
            file.tensor(&tensor.name).map_err(|_| format!("the file has no tensor `{}`", tensor.name))?;
        if view.dtype() != Dtype::F32 || view.shape() != tensor.shape {
            let (dtype, shape) = (view.dtype(), view.shape());
            return Err(format!(
                "tensor `{}` is {dtype:?} {shape:?}, the model has F32 {:?}",
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
