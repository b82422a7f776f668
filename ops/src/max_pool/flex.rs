//! Maximum pooling on the CPU: one task a plane.

use super::{
    MaxPool2dOptions,
    backend::{MaxPoolOps, input_gradient},
};
use crate::cpu::{DisjointMut, Number, Precision, contiguous, tensor_of, values, written_by};
use crate::vectorized;
use burn::backend::{Flex, TensorMetadata, ops::ModuleOps};
use burn::tensor::bf16;
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

impl Plane {
    /// Output columns whose window has an input column at offset `column`, and the first of those input columns.
    #[inline(always)]
    fn covered(self, column: usize) -> (Range<usize>, usize) {
        let (stride, padding) = (self.options.stride[1], self.options.padding[1]);
        let start = padding.saturating_sub(column).div_ceil(stride);
        let end = (self.input[1] + padding).saturating_sub(column).div_ceil(stride);
        let outputs = start.min(self.output[1])..end.min(self.output[1]).max(start.min(self.output[1]));
        let first = (outputs.start * stride + column).saturating_sub(padding);
        (outputs, first)
    }
}

/// Whether `value` takes the place of the maximum so far; the first NaN does and stays.
#[inline(always)]
fn exceeds(value: f32, maximum: f32) -> bool {
    value > maximum || (value.is_nan() && !maximum.is_nan())
}

#[inline(always)]
fn larger(value: f32, maximum: f32) -> f32 {
    if exceeds(value, maximum) { value } else { maximum }
}

/// Writes the maxima of a plane: first of each window's rows, column by column, then across columns.
#[inline(always)]
fn pool<N: Number>(plane: Plane, input: &[N], output: &mut [MaybeUninit<N>]) {
    let width = plane.input[1];
    let mut columns = vec![0.0; width];
    let [mut maxima, mut values] = [(); 2].map(|()| vec![0.0; plane.output[1]]);
    for (y, output) in output.chunks_exact_mut(plane.output[1]).enumerate() {
        let rows = plane.window(0, y);
        columns.fill(f32::NEG_INFINITY);
        for row in input[rows.start * width..rows.end * width].chunks_exact(width) {
            let columns = columns.iter_mut().zip(row);
            columns.for_each(|(maximum, value)| *maximum = larger(value.widened(), *maximum));
        }
        maxima.fill(f32::NEG_INFINITY);
        for column in 0..plane.options.kernel[1] {
            let (outputs, first) = plane.covered(column);
            let values = &mut values[outputs.clone()];
            pick(&columns, first, plane.options.stride[1], values);
            let pairs = maxima[outputs].iter_mut().zip(values);
            pairs.for_each(|(maximum, value)| *maximum = larger(*value, *maximum));
        }
        output.iter_mut().zip(&maxima).for_each(|(output, maximum)| {
            output.write(N::rounded(*maximum));
        });
    }
}

/// Adds each output pixel's gradient to the place of its maximum, the first in the window.
#[inline(always)]
fn route<N: Number>(plane: Plane, input: &[N], output_gradient: &[N], gradient: &mut [f32]) {
    let (width, stride) = (plane.input[1], plane.options.stride[1]);
    let [mut maxima, mut values] = [(); 2].map(|()| vec![0.0; plane.output[1]]);
    let mut places = vec![0u32; plane.output[1]];
    for (y, row) in output_gradient.chunks_exact(plane.output[1]).enumerate() {
        let rows = plane.window(0, y);
        maxima.fill(f32::NEG_INFINITY);
        for (x, place) in places.iter_mut().enumerate() {
            *place = (rows.start * width + plane.window(1, x).start) as u32;
        }
        for start in rows.map(|y| y * width) {
            for column in 0..plane.options.kernel[1] {
                let (outputs, first) = plane.covered(column);
                let values = &mut values[outputs.clone()];
                pick(&input[start..start + width], first, stride, values);
                let targets = maxima[outputs.clone()].iter_mut().zip(&mut places[outputs]);
                for (x, ((maximum, place), value)) in targets.zip(values).enumerate() {
                    let found = exceeds(*value, *maximum);
                    *maximum = if found { *value } else { *maximum };
                    *place = if found { (start + first + x * stride) as u32 } else { *place };
                }
            }
        }
        for (place, value) in places.iter().zip(row) {
            gradient[*place as usize] += value.widened();
        }
    }
}

/// Copies every `stride`-th value of a row from `first` on.
#[inline(always)]
fn pick<N: Number>(row: &[N], first: usize, stride: usize, values: &mut [f32]) {
    let Some(row) = row.get(first..) else { return };
    match stride {
        1 => values.iter_mut().zip(row).for_each(|(value, source)| *value = source.widened()),
        // The usual stride as a constant, so that the loop gets wide loads.
        2 => {
            let (pairs, rest) = row.as_chunks::<2>();
            values.iter_mut().zip(pairs).for_each(|(value, pair)| *value = pair[0].widened());
            if let (Some(value), Some(source)) = (values.get_mut(pairs.len()), rest.first()) {
                *value = source.widened();
            }
        }
        _ => values
            .iter_mut()
            .zip(row.iter().step_by(stride))
            .for_each(|(value, source)| *value = source.widened()),
    }
}

/// Where plane `index` of so many pixels lies.
fn part(index: usize, pixels: usize) -> Range<usize> {
    index * pixels..(index + 1) * pixels
}

impl MaxPoolOps for Flex {
    fn window_maximum(input: FlexTensor, options: MaxPool2dOptions) -> FlexTensor {
        match Precision::of(&[&input], &[]) {
            Precision::F32 => maxima::<f32>(input, options),
            Precision::Bf16 => maxima::<bf16>(input, options),
            Precision::Other => {
                let MaxPool2dOptions { kernel, stride, padding } = options;
                Self::max_pool2d(input, kernel, stride, padding, [1, 1], false)
            }
        }
    }

    fn window_maximum_gradient(
        input: FlexTensor,
        output_gradient: FlexTensor,
        options: MaxPool2dOptions,
    ) -> FlexTensor {
        match Precision::of(&[&input, &output_gradient], &[]) {
            Precision::F32 => routed::<f32>(input, output_gradient, options),
            Precision::Bf16 => routed::<bf16>(input, output_gradient, options),
            Precision::Other => input_gradient::<Self>(input, output_gradient, options),
        }
    }
}

fn maxima<N: Number>(input: FlexTensor, options: MaxPool2dOptions) -> FlexTensor {
    let [batch, channels, height, width] = input.shape().dims();
    let plane = Plane::new([height, width], options);
    let input = contiguous(input);
    let source = values::<N>(&input);
    let run = |index: usize, output: DisjointMut<'_, N>| {
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

fn routed<N: Number>(
    input: FlexTensor,
    output_gradient: FlexTensor,
    options: MaxPool2dOptions,
) -> FlexTensor {
    let shape: [usize; 4] = input.shape().dims();
    let [batch, channels, height, width] = shape;
    let plane = Plane::new([height, width], options);
    let (input, output_gradient) = (contiguous(input), contiguous(output_gradient));
    let (source, output_gradient) = (values::<N>(&input), values::<N>(&output_gradient));
    let run = |sums: &mut Vec<f32>, index: usize, gradient: DisjointMut<'_, N>| {
        let range = part(index, plane.input_pixels());
        // SAFETY: planes do not overlap.
        let target = unsafe { gradient.unwritten_part(range.clone()) };
        let (input, output) = (&source[range], &output_gradient[part(index, plane.output_pixels())]);
        sums.clear();
        sums.resize(input.len(), 0.0);
        vectorized(
            #[inline(always)]
            || {
                route(plane, input, output, sums);
                target.iter_mut().zip(&*sums).for_each(|(target, sum)| {
                    target.write(N::rounded(*sum));
                });
            },
        );
    };
    // SAFETY: each plane is written.
    let gradient: Vec<N> = unsafe {
        written_by(shape.iter().product(), |gradient| {
            let planes = (0..batch * channels).into_par_iter();
            planes.for_each_init(Vec::new, |sums, index| run(sums, index, gradient));
        })
    };
    tensor_of(gradient, shape)
}
