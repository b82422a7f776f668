//! What the CPU kernels share: tensors as slices and slices written by several threads.

mod disjoint;
mod tensor;

pub(crate) use disjoint::DisjointMut;
pub(crate) use tensor::{all_f32, contiguous, tensor_of, values, written_by};
