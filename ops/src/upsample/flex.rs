//! The sum with a coarser map on the CPU: one task a plane.

use super::backend::{UpsampleOps, composed_gradient, composed_sum};
use crate::cpu::{Number, Precision, contiguous, tensor_of, values, written_by};
use crate::vectorized;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::bf16;
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// The pixel of the coarser map that lies at each pixel of the finer one.
fn places(fine: usize, coarse: usize) -> Vec<usize> {
    (0..fine).map(|place| place * coarse / fine).collect()
}

fn sum<N: Number>(fine: FlexTensor, coarse: FlexTensor) -> FlexTensor {
    let shape: [usize; 4] = fine.shape().dims();
    let [images, channels, height, width] = shape;
    let [_, _, h, w] = coarse.shape().dims();
    let (rows, columns) = (places(height, h), places(width, w));
    let (fine, coarse) = (contiguous(fine), contiguous(coarse));
    let (fine, coarse) = (values::<N>(&fine), values::<N>(&coarse));
    let (plane, coarse_plane) = (height * width, h * w);
    // SAFETY: the planes cover the sum.
    let sum = unsafe {
        written_by(fine.len(), |sum| {
            (0..images * channels).into_par_iter().for_each_init(
                || vec![0.0f32; width],
                |upsampled, index| {
                    let coarse = &coarse[index * coarse_plane..][..coarse_plane];
                    // Planes do not overlap.
                    let target = sum.unwritten_part(index * plane..(index + 1) * plane);
                    let fine = fine[index * plane..][..plane].chunks_exact(width);
                    let mut last = None;
                    vectorized(
                        #[inline(always)]
                        || {
                            for ((target, fine), &row) in target.chunks_exact_mut(width).zip(fine).zip(&rows)
                            {
                                if last != Some(row) {
                                    let coarse = &coarse[row * w..(row + 1) * w];
                                    upsampled.iter_mut().zip(&columns).for_each(|(value, &column)| {
                                        *value = coarse[column].widened();
                                    });
                                    last = Some(row);
                                }
                                for ((target, fine), value) in target.iter_mut().zip(fine).zip(&*upsampled) {
                                    target.write(N::rounded(fine.widened() + value));
                                }
                            }
                        },
                    );
                },
            );
        })
    };
    tensor_of(sum, shape)
}

fn coarse_gradient<N: Number>(coarse: FlexTensor, gradient: FlexTensor) -> FlexTensor {
    let shape: [usize; 4] = coarse.shape().dims();
    let [images, channels, h, w] = shape;
    let [_, _, height, width] = gradient.shape().dims();
    let (rows, columns) = (places(height, h), places(width, w));
    let gradient = contiguous(gradient);
    let gradient = values::<N>(&gradient);
    let (plane, coarse_plane) = (height * width, h * w);
    // SAFETY: the planes cover the result.
    let result = unsafe {
        written_by(images * channels * coarse_plane, |result| {
            (0..images * channels).into_par_iter().for_each_init(
                || vec![0.0f32; coarse_plane],
                |sums, index| {
                    sums.fill(0.0);
                    let gradient = gradient[index * plane..][..plane].chunks_exact(width);
                    for (gradient, &row) in gradient.zip(&rows) {
                        let sums = &mut sums[row * w..(row + 1) * w];
                        for (value, &column) in gradient.iter().zip(&columns) {
                            sums[column] += value.widened();
                        }
                    }
                    // Planes do not overlap.
                    let target = result.unwritten_part(index * coarse_plane..(index + 1) * coarse_plane);
                    target.iter_mut().zip(&*sums).for_each(|(target, sum)| {
                        target.write(N::rounded(*sum));
                    });
                },
            );
        })
    };
    tensor_of(result, shape)
}

impl UpsampleOps for Flex {
    fn sum_with_upsampled(fine: FlexTensor, coarse: FlexTensor) -> FlexTensor {
        match Precision::of(&[&fine, &coarse], &[]) {
            Precision::F32 => sum::<f32>(fine, coarse),
            Precision::Bf16 => sum::<bf16>(fine, coarse),
            Precision::Other => composed_sum::<Self>(fine, coarse),
        }
    }

    fn coarse_gradient(coarse: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        match Precision::of(&[&gradient], &[]) {
            Precision::F32 => coarse_gradient::<f32>(coarse, gradient),
            Precision::Bf16 => coarse_gradient::<bf16>(coarse, gradient),
            Precision::Other => composed_gradient::<Self>(coarse, gradient),
        }
    }
}
