//! The fully connected layer on the CPU: the result is cut into parts, each a product on one thread.
//!
//! The parts depend only on the shapes, so results are the same for any number of threads.

use super::backend::LinearOps;
use crate::cpu::{
    Number, Precision, contiguous, rounded, rounded_in_f32, tensor_of, values, widened, written_by,
};
use crate::matrix::{Destination, Epilogue, Factor, Left, Matrix, bf16_products, multiply};
use burn::backend::{Flex, TensorMetadata, ops::FloatTensorOps};
use burn::tensor::bf16;
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// Rows and columns of a part of the result at most.
const PART: usize = 512;
/// Parts that are wanted at least for the sake of threads, where rows and columns do not get fewer than...
const MIN_PARTS: usize = 4;
/// ...these.
const MIN_PART: usize = 64;

/// `lhs · rhs`, `[m, k] · [k, n]`.
fn product<N: Factor, O: Number>(
    [m, n, k]: [usize; 3],
    lhs: Matrix<'_, N>,
    rhs: Matrix<'_, N>,
) -> FlexTensor {
    let (mut rows, mut columns) = (PART, PART);
    while m.div_ceil(rows) * n.div_ceil(columns) < MIN_PARTS && rows.min(m).max(columns.min(n)) > MIN_PART {
        if rows.min(m) > columns.min(n) {
            rows = rows.min(m).div_ceil(2)
        } else {
            columns = columns.min(n).div_ceil(2)
        }
    }
    let starts = |length: usize, step: usize| (0..length).step_by(step);
    let parts: Vec<_> =
        starts(m, rows).flat_map(|row| starts(n, columns).map(move |column| [row, column])).collect();
    // SAFETY: the parts cover the result.
    let values: Vec<O> = unsafe {
        written_by(m * n, |data| {
            parts.into_par_iter().for_each(|[row, column]| {
                let sizes = [(m - row).min(rows), (n - column).min(columns), k];
                let destination =
                    Destination { data, offset: row * n + column, row_stride: n, epilogue: Epilogue::NONE };
                let lhs = Left::from(lhs.starting_at_row(row));
                let rhs = rhs.transposed().starting_at_row(column).transposed();
                // No two parts overlap, and each is computed by one thread.
                multiply(sizes, &lhs, rhs, destination, false);
            });
        })
    };
    tensor_of(values, [m, n])
}

/// `input · weightᵀ`.
fn outputs<N: Factor>(input: &FlexTensor, weight: &FlexTensor) -> FlexTensor {
    let ([rows, features], [outputs, _]) = (input.shape().dims(), weight.shape().dims());
    let lhs = Matrix::<N>::rows(values(input), features);
    let rhs = Matrix::<N>::rows(values(weight), features).transposed();
    product::<N, N>([rows, outputs, features], lhs, rhs)
}

/// `gradient · weight`.
fn input_gradient<N: Factor>(weight: &FlexTensor, output_gradient: &FlexTensor) -> FlexTensor {
    let ([outputs, features], [rows, _]) = (weight.shape().dims(), output_gradient.shape().dims());
    let lhs = Matrix::<N>::rows(values(output_gradient), outputs);
    let rhs = Matrix::<N>::rows(values(weight), features);
    product::<N, N>([rows, features, outputs], lhs, rhs)
}

/// `gradientᵀ · input`, in 32 bits.
fn weight_gradient<N: Factor>(input: &FlexTensor, output_gradient: &FlexTensor) -> FlexTensor {
    let ([rows, features], [_, outputs]) = (input.shape().dims(), output_gradient.shape().dims());
    let lhs = Matrix::<N>::rows(values(output_gradient), outputs).transposed();
    let rhs = Matrix::<N>::rows(values(input), features);
    product::<N, f32>([outputs, features, rows], lhs, rhs)
}

/// Whether a matrix has elements; Burn's products know what to make of one that has none.
fn has_elements(tensor: &FlexTensor) -> bool {
    tensor.shape().num_elements() > 0
}

impl LinearOps for Flex {
    fn linear_product(input: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let (input, weight) = (contiguous(input), contiguous(weight));
        match Precision::of(&[&input], &[&weight]) {
            Precision::F32 if has_elements(&weight) => outputs::<f32>(&input, &weight),
            Precision::Bf16 if bf16_products() && has_elements(&weight) => {
                outputs::<bf16>(&input, &rounded(weight))
            }
            Precision::Bf16 => rounded(Self::linear_product(widened(input), rounded_in_f32(weight))),
            _ => Self::float_matmul(input, Self::float_swap_dims(weight, 0, 1)),
        }
    }

    fn linear_input_gradient(weight: FlexTensor, output_gradient: FlexTensor) -> FlexTensor {
        let (weight, output_gradient) = (contiguous(weight), contiguous(output_gradient));
        match Precision::of(&[&output_gradient], &[&weight]) {
            Precision::F32 if has_elements(&weight) => input_gradient::<f32>(&weight, &output_gradient),
            Precision::Bf16 if bf16_products() && has_elements(&weight) => {
                input_gradient::<bf16>(&rounded(weight), &output_gradient)
            }
            Precision::Bf16 => {
                let weight = rounded_in_f32(weight);
                rounded(Self::linear_input_gradient(weight, widened(output_gradient)))
            }
            _ => Self::float_matmul(output_gradient, weight),
        }
    }

    fn linear_weight_gradient(input: FlexTensor, output_gradient: FlexTensor) -> FlexTensor {
        let (input, output_gradient) = (contiguous(input), contiguous(output_gradient));
        match Precision::of(&[&input, &output_gradient], &[]) {
            Precision::F32 if has_elements(&input) => weight_gradient::<f32>(&input, &output_gradient),
            Precision::Bf16 if bf16_products() && has_elements(&input) => {
                weight_gradient::<bf16>(&input, &output_gradient)
            }
            Precision::Bf16 => Self::linear_weight_gradient(widened(input), widened(output_gradient)),
            _ => Self::float_matmul(Self::float_swap_dims(output_gradient, 0, 1), input),
        }
    }
}
