//! Tensors of the `flex` backend as slices.

use super::{DisjointMut, Number};
use burn::tensor::{DType, Shape, TensorData, bf16};
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// Elements that a thread converts at a time.
const CHUNK: usize = 64 * 1024;

/// Whether every tensor holds numbers of this type.
pub(crate) fn all_of<T: Number>(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == T::dtype())
}

/// What an operator is given: numbers of which type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// 32 bits throughout.
    F32,
    /// Activations, or gradients of such, in bfloat16, weights and statistics in 32 bits.
    Bf16,
    /// Anything else, for which there are no kernels.
    Other,
}

impl Precision {
    /// That of an operator on these tensors.
    pub(crate) fn of(activations: &[&FlexTensor], parameters: &[&FlexTensor]) -> Self {
        match all_of::<f32>(parameters) {
            true if all_of::<f32>(activations) => Self::F32,
            true if all_of::<bf16>(activations) => Self::Bf16,
            _ => Self::Other,
        }
    }
}

/// The tensor itself, or a row-major copy of it.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// The elements of a contiguous tensor in row-major order.
///
/// # Panics
/// If they are of another type.
pub(crate) fn values<T: Number>(tensor: &FlexTensor) -> &[T] {
    tensor.as_slice::<T>().expect("the kernels get contiguous tensors of their type")
}

/// A tensor that owns `values`.
pub(crate) fn tensor_of<T: Number>(values: Vec<T>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// `length` values that `fill` writes.
///
/// # Safety
/// `fill` writes every element of what it is given.
pub(crate) unsafe fn written_by<T>(length: usize, fill: impl FnOnce(DisjointMut<'_, T>)) -> Vec<T> {
    let mut values = Vec::with_capacity(length);
    fill(DisjointMut::unwritten(&mut values.spare_capacity_mut()[..length]));
    // SAFETY: that many elements are allocated, and `fill` has written them.
    unsafe { values.set_len(length) };
    values
}

/// A tensor of bfloat16 numbers in 32 bits; any other as it is.
pub(crate) fn widened(tensor: FlexTensor) -> FlexTensor {
    if tensor.dtype() == DType::BF16 { converted::<bf16, f32>(tensor) } else { tensor }
}

/// A tensor of 32-bit numbers rounded to bfloat16.
pub(crate) fn rounded(tensor: FlexTensor) -> FlexTensor {
    converted::<f32, bf16>(tensor)
}

/// A tensor of 32-bit numbers rounded to bfloat16, in 32 bits.
pub(crate) fn rounded_in_f32(tensor: FlexTensor) -> FlexTensor {
    widened(rounded(tensor))
}

fn converted<T: Number, U: Number>(tensor: FlexTensor) -> FlexTensor {
    let tensor = contiguous(tensor);
    let source = values::<T>(&tensor);
    // SAFETY: the chunks cover the target.
    let target = unsafe {
        written_by(source.len(), |target| {
            source.par_chunks(CHUNK).enumerate().for_each(|(chunk, source)| {
                // Chunks do not overlap.
                let target = target.unwritten_part(chunk * CHUNK..chunk * CHUNK + source.len());
                crate::vectorized(
                    #[inline(always)]
                    || {
                        target.iter_mut().zip(source).for_each(|(target, value)| {
                            target.write(U::rounded(value.widened()));
                        });
                    },
                );
            });
        })
    };
    tensor_of(target, tensor.layout().shape().clone())
}
