//! Tensors of the `flex` backend as slices of `f32`.

use burn::tensor::{DType, Shape, TensorData};
use burn_flex::FlexTensor;

/// Whether every tensor holds `f32`, the only type the kernels know.
pub(crate) fn all_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// The tensor itself, or a row-major copy of it.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// The elements of a contiguous `f32` tensor in row-major order.
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().expect("the kernels get contiguous f32 tensors")
}

/// A tensor that owns `values`.
pub(crate) fn tensor_of(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// Calls `fill(result, source)` to make a tensor of the shape of `tensor`.
///
/// If nobody else holds the tensor's memory, the result takes it: `result` then holds the elements and
/// `source` is `None`. Otherwise `result` is fresh memory and `source` the elements.
pub(crate) fn owned_or_copied(
    tensor: FlexTensor,
    fill: impl FnOnce(&mut [f32], Option<&[f32]>),
) -> FlexTensor {
    let mut tensor = contiguous(tensor);
    let shape = tensor.layout().shape().clone();
    let length = shape.num_elements();
    if tensor.layout().start_offset() == 0
        && let Some(storage) = tensor.try_storage_mut::<f32>()
        && storage.len() == length
    {
        fill(storage, None);
        return tensor;
    }
    let mut result = vec![0.0; length];
    fill(&mut result, Some(values(&tensor)));
    tensor_of(result, shape)
}
