//! The fully connected layer on the CPU: the result is cut into parts, each a product on one thread.
//!
//! The parts depend only on the shapes, so results are the same for any number of threads.

use super::backend::LinearOps;
use crate::cpu::{all_f32, contiguous, tensor_of, values, written_by};
use crate::matrix::{Destination, Left, Matrix, multiply};
use burn::backend::{Flex, TensorMetadata, ops::FloatTensorOps};
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// Rows and columns of a part of the result at most.
const PART: usize = 512;
/// Parts that are wanted at least for the sake of threads, where rows and columns do not get fewer than...
const MIN_PARTS: usize = 4;
/// ...these.
const MIN_PART: usize = 64;

/// `lhs · rhs`, `[m, k] · [k, n]`.
fn product([m, n, k]: [usize; 3], lhs: Matrix<'_>, rhs: Matrix<'_>) -> Vec<f32> {
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
    unsafe {
        written_by(m * n, |data| {
            parts.into_par_iter().for_each(|[row, column]| {
                let sizes = [(m - row).min(rows), (n - column).min(columns), k];
                let destination = Destination { data, offset: row * n + column, row_stride: n };
                let lhs = Left::from(lhs.starting_at_row(row));
                let rhs = rhs.transposed().starting_at_row(column).transposed();
                // No two parts overlap, and each is computed by one thread.
                multiply(sizes, &lhs, rhs, destination, false);
            });
        })
    }
}

impl LinearOps for Flex {
    fn linear_product(input: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let ([rows, features], [outputs, _]) = (input.shape().dims(), weight.shape().dims());
        if !all_f32(&[&input, &weight]) || features == 0 {
            return Self::float_matmul(input, Self::float_swap_dims(weight, 0, 1));
        }
        let (input, weight) = (contiguous(input), contiguous(weight));
        let lhs = Matrix::rows(values(&input), features);
        let rhs = Matrix::rows(values(&weight), features).transposed();
        tensor_of(product([rows, outputs, features], lhs, rhs), [rows, outputs])
    }

    fn linear_input_gradient(weight: FlexTensor, output_gradient: FlexTensor) -> FlexTensor {
        let ([outputs, features], [rows, _]) = (weight.shape().dims(), output_gradient.shape().dims());
        if !all_f32(&[&weight, &output_gradient]) || outputs == 0 {
            return Self::float_matmul(output_gradient, weight);
        }
        let (weight, output_gradient) = (contiguous(weight), contiguous(output_gradient));
        let lhs = Matrix::rows(values(&output_gradient), outputs);
        let rhs = Matrix::rows(values(&weight), features);
        tensor_of(product([rows, features, outputs], lhs, rhs), [rows, features])
    }

    fn linear_weight_gradient(input: FlexTensor, output_gradient: FlexTensor) -> FlexTensor {
        let ([rows, features], [_, outputs]) = (input.shape().dims(), output_gradient.shape().dims());
        if !all_f32(&[&input, &output_gradient]) || rows == 0 {
            return Self::float_matmul(Self::float_swap_dims(output_gradient, 0, 1), input);
        }
        let (input, output_gradient) = (contiguous(input), contiguous(output_gradient));
        let lhs = Matrix::rows(values(&output_gradient), outputs).transposed();
        let rhs = Matrix::rows(values(&input), features);
        tensor_of(product([outputs, features, rows], lhs, rhs), [outputs, features])
    }
}
