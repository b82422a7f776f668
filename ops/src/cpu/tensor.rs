//! Tensors of the `flex` backend as slices of `f32`.

use super::DisjointMut;
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

/// `length` values that `fill` writes.
///
/// # Safety
/// `fill` writes every element of what it is given.
pub(crate) unsafe fn written_by(length: usize, fill: impl FnOnce(DisjointMut<'_>)) -> Vec<f32> {
    let mut values = Vec::with_capacity(length);
    fill(DisjointMut::unwritten(&mut values.spare_capacity_mut()[..length]));
    // SAFETY: that many elements are allocated, and `fill` has written them.
    unsafe { values.set_len(length) };
    values
}

/// Makes a tensor of the shape of `tensor` by `fill(result, source)`.
///
/// If nobody else holds the tensor's memory, the result takes it: `result` then holds the elements and
/// `source` is `None`. Otherwise `result` is memory yet to be written and `source` the elements.
///
/// # Safety
/// `fill` writes every element of `result` where there is a source.
pub(crate) unsafe fn replaced_by(
    tensor: FlexTensor,
    fill: impl FnOnce(DisjointMut<'_>, Option<&[f32]>),
) -> FlexTensor {
    let mut tensor = contiguous(tensor);
    let shape = tensor.layout().shape().clone();
    let length = shape.num_elements();
    if tensor.layout().start_offset() == 0
        && let Some(storage) = tensor.try_storage_mut::<f32>()
        && storage.len() == length
    {
        fill(DisjointMut::new(storage), None);
        return tensor;
    }
    // SAFETY: `fill` gets a source and therefore writes everything.
    let result = unsafe { written_by(length, |result| fill(result, Some(values(&tensor)))) };
    tensor_of(result, shape)
}
