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
