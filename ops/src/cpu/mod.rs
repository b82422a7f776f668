//! What the CPU kernels share: tensors as slices, slices written by several threads, wide arithmetic.

mod disjoint;
mod tensor;
mod vectorized;

pub(crate) use disjoint::DisjointMut;
pub(crate) use tensor::{all_f32, contiguous, tensor_of, values, written_by};
pub(crate) use vectorized::vectorized;
