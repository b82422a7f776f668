//! Maximum pooling on the CPU: one task a plane.

use super::{
    MaxPool2dOptions,
    backend::{MaxPoolOps, input_gradient},
};
use crate::cpu::{DisjointMut, all_f32, contiguous, tensor_of, values, vectorized, written_by};
use burn::backend::{Flex, TensorMetadata, ops::ModuleOps};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::{mem::MaybeUninit, ops::Range};

/// Sizes of one channel of one image.
#[derive(Clone, Copy)]
struct Plane {
    input: [usize; 2],
    output: [usize; 2],
    options: MaxPool2dOptions,
}

impl Plane {
    fn new([height, width]: [usize; 2], options: MaxPool2dOptions) -> Self {
        let output = [options.output(0, height), options.output(1, width)];
        Self { input: [height, width], output, options }
    }

    fn input_pixels(self) -> usize {
        self.input[0] * self.input[1]
    }

    fn output_pixels(self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Input rows (axis 0) or columns (axis 1) of a window; never empty.
    #[inline(always)]
    fn window(self, axis: usize, index: usize) -> Range<usize> {
        let start = index * self.options.stride[axis];
        let padding = self.options.padding[axis];
        let end = (start + self.options.kernel[axis]).saturating_sub(padding).min(self.input[axis]);
        start.saturating_sub(padding).min(end)..end
    }
}

/// Whether `value` takes the place of the maximum so far; NaN always does and stays.
#[inline(always)]
fn exceeds(value: f32, maximum: f32) -> bool {
    value > maximum || value.is_nan()
}

/// Writes the maxima of a plane: first of each window's rows, column by column, then across columns.
#[inline(always)]
fn pool(plane: Plane, input: &[f32], output: &mut [MaybeUninit<f32>]) {
    let width = plane.input[1];
    let mut columns = vec![0.0; width];
    for (y, output) in output.chunks_exact_mut(plane.output[1]).enumerate() {
        let rows = plane.window(0, y);
        columns.fill(f32::NEG_INFINITY);
        for row in input[rows.start * width..rows.end * width].chunks_exact(width) {
            for (maximum, value) in columns.iter_mut().zip(row) {
                *maximum = if exceeds(*value, *maximum) { *value } else { *maximum };
            }
        }
        for (x, output) in output.iter_mut().enumerate() {
            let maximum = columns[plane.window(1, x)].iter().fold(f32::NEG_INFINITY, |maximum, value| {
                if exceeds(*value, maximum) { *value } else { maximum }
            });
            output.write(maximum);
        }
    }
}

/// Adds each output pixel's gradient to the place of its maximum.
#[inline(always)]
fn route(plane: Plane, input: &[f32], output_gradient: &[f32], gradient: &mut [f32]) {
    let width = plane.input[1];
    let mut columns = vec![0i64; width];
    for (y, row) in output_gradient.chunks_exact(plane.output[1]).enumerate() {
        let rows = plane.window(0, y);
        columns.fill(i64::MIN);
        for y in rows {
            let row = &input[y * width..(y + 1) * width];
            for ((rank, value), place) in columns.iter_mut().zip(row).zip((y * width) as u32..) {
                *rank = rank_of(*value, place).max(*rank);
            }
        }
        for (x, value) in row.iter().enumerate() {
            let window = &columns[plane.window(1, x)];
            let first = window.iter().fold(i64::MIN, |maximum, rank| maximum.max(*rank));
            gradient[place_of(first)] += value;
        }
    }
}

/// A number that is larger for larger values and, between equal ones, for the earlier place; NaN is the
/// largest. Comparing whole numbers needs no branch, and branches on noise are what would take the time.
#[inline(always)]
fn rank_of(value: f32, place: u32) -> i64 {
    // Adding zero makes -0 equal to 0. Negative values have their order reversed by all bits but the sign.
    let bits = (value + 0.0).to_bits() as i32;
    let ordered = bits ^ ((bits >> 31) & i32::MAX);
    let ordered = if value.is_nan() { i32::MAX } else { ordered };
    (i64::from(ordered) << 32) | i64::from(u32::MAX - place)
}

/// The place that a rank was made of.
#[inline(always)]
fn place_of(rank: i64) -> usize {
    (u32::MAX - rank as u32) as usize
}

/// Where plane `index` of so many pixels lies.
fn part(index: usize, pixels: usize) -> Range<usize> {
    index * pixels..(index + 1) * pixels
}

impl MaxPoolOps for Flex {
    fn window_maximum(input: FlexTensor, options: MaxPool2dOptions) -> FlexTensor {
        if !all_f32(&[&input]) {
            let MaxPool2dOptions { kernel, stride, padding } = options;
            return Self::max_pool2d(input, kernel, stride, padding, [1, 1], false);
        }
        let [batch, channels, height, width] = input.shape().dims();
        let plane = Plane::new([height, width], options);
        let input = contiguous(input);
        let source = values(&input);
        let run = |index: usize, output: DisjointMut<'_>| {
            // SAFETY: planes do not overlap.
            let target = unsafe { output.unwritten_part(part(index, plane.output_pixels())) };
            vectorized(
                #[inline(always)]
                || pool(plane, &source[part(index, plane.input_pixels())], target),
            );
        };
        // SAFETY: each plane's maxima are written.
        let output = unsafe {
            written_by(batch * channels * plane.output_pixels(), |output| {
                (0..batch * channels).into_par_iter().for_each(|index| run(index, output));
            })
        };
        tensor_of(output, [batch, channels, plane.output[0], plane.output[1]])
    }

    fn window_maximum_gradient(
        input: FlexTensor,
        output_gradient: FlexTensor,
        options: MaxPool2dOptions,
    ) -> FlexTensor {
        if !all_f32(&[&input, &output_gradient]) {
            return input_gradient::<Self>(input, output_gradient, options);
        }
        let shape: [usize; 4] = input.shape().dims();
        let [batch, channels, height, width] = shape;
        let plane = Plane::new([height, width], options);
        let (input, output_gradient) = (contiguous(input), contiguous(output_gradient));
        let (source, output_gradient) = (values(&input), values(&output_gradient));
        let run = |index: usize, gradient: DisjointMut<'_>| {
            let range = part(index, plane.input_pixels());
            // SAFETY: planes do not overlap; written before it is read.
            let target = unsafe {
                gradient.unwritten_part(range.clone()).fill(MaybeUninit::new(0.0));
                gradient.part(range.clone())
            };
            let (input, output) = (&source[range], &output_gradient[part(index, plane.output_pixels())]);
            vectorized(
                #[inline(always)]
                || route(plane, input, output, target),
            );
        };
        // SAFETY: each plane is filled with zeros at least.
        let gradient = unsafe {
            written_by(shape.iter().product(), |gradient| {
                (0..batch * channels).into_par_iter().for_each(|index| run(index, gradient));
            })
        };
        tensor_of(gradient, shape)
    }
}
