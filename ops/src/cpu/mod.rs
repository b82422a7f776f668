//! What the CPU kernels share: numbers, tensors as slices and slices written by several threads.

mod affine;
mod disjoint;
pub(crate) mod lanes;
mod number;
mod spare;
mod tensor;

pub(crate) use affine::{Affine, inverse_deviation};
pub(crate) use disjoint::DisjointMut;
pub(crate) use number::Number;
pub(crate) use spare::Spare;
pub(crate) use tensor::{
    Precision, all_of, contiguous, rounded, rounded_in_f32, tensor_of, values, widened, written_by,
};
