//! Batch normalisation on the CPU: one task a channel, whose planes stay in cache from pass to pass.
//!
//! Sums are taken in double precision in a fixed order, whatever the number of threads.

use super::backend::{BatchNormOps, input_gradient, parameter_gradients};
use crate::cpu::{DisjointMut, all_f32, contiguous, replaced_by, tensor_of, values, vectorized};
use burn::backend::{Flex, TensorMetadata, ops::ModuleOps};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::ops::Range;

/// A tensor `[batch, channels, plane]`; `plane` is the product of all further axes.
#[derive(Clone, Copy)]
struct Layout {
    batch: usize,
    channels: usize,
    plane: usize,
}

impl Layout {
    fn of(tensor: &FlexTensor) -> Self {
        let shape = tensor.shape();
        let (batch, channels) = (shape[0], shape[1]);
        Self { batch, channels, plane: shape.iter().skip(2).product() }
    }

    /// Where the planes of a channel lie.
    fn planes(self, channel: usize) -> impl Iterator<Item = Range<usize>> {
        (0..self.batch).map(move |image| {
            let start = (image * self.channels + channel) * self.plane;
            start..start + self.plane
        })
    }

    /// Values of a channel.
    fn count(self) -> f64 {
        (self.batch * self.plane) as f64
    }

    /// Calls `task` for each channel; the results in the order of the channels.
    fn for_each_channel<R: Send>(self, task: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
        (0..self.channels).into_par_iter().map(|channel| vectorized(|| task(channel))).collect()
    }
}

/// `Σ term(x, y)` over two slices of equal length, in sixteen interleaved sums.
#[inline(always)]
fn sum_terms(x: &[f32], y: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0.0f64; LANES];
    let (x_chunks, y_chunks) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let rest = x_chunks.remainder().iter().zip(y_chunks.remainder());
    let rest: f64 = rest.map(|(x, y)| term(f64::from(*x), f64::from(*y))).sum();
    for (x, y) in x_chunks.zip(y_chunks) {
        for lane in 0..LANES {
            sums[lane] += term(f64::from(x[lane]), f64::from(y[lane]));
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Writes `map(source)` to a range of `target`, or maps that range in place.
///
/// # Safety
/// No other thread may access the range, and without a source it has been written.
#[inline(always)]
unsafe fn map_plane(
    target: DisjointMut<'_>,
    source: Option<&[f32]>,
    range: Range<usize>,
    map: impl Fn(f32) -> f32,
) {
    match source {
        Some(source) => {
            // SAFETY: the caller's promise.
            let target = unsafe { target.unwritten_part(range.clone()) };
            for (target, value) in target.iter_mut().zip(&source[range]) {
                target.write(map(*value));
            }
        }
        None => {
            // SAFETY: the caller's promise.
            let target = unsafe { target.part(range) };
            target.iter_mut().for_each(|value| *value = map(*value));
        }
    }
}

fn inverse_deviation(variance: f64, epsilon: f64) -> f64 {
    1.0 / (variance + epsilon).sqrt()
}

/// Mean and biased variance of each channel; `result` becomes the output of `source`, or of itself.
fn by_batch(
    layout: Layout,
    result: DisjointMut<'_>,
    source: Option<&[f32]>,
    [weight, bias]: [&[f32]; 2],
    epsilon: f64,
) -> Vec<(f32, f32)> {
    layout.for_each_channel(
        #[inline(always)]
        |channel| {
            // SAFETY: a channel's planes belong to its task; mutable parts are taken one at a time below.
            let plane = |range: Range<usize>| match source {
                Some(source) => &source[range],
                None => unsafe { &*result.part(range) },
            };
            let sum: f64 = layout
                .planes(channel)
                .map(|range| sum_terms(plane(range.clone()), plane(range), |x, _| x))
                .sum();
            let mean = sum / layout.count();
            let square = |x: f64, _: f64| (x - mean) * (x - mean);
            let squares: f64 = layout
                .planes(channel)
                .map(|range| sum_terms(plane(range.clone()), plane(range), square))
                .sum();
            let variance = squares / layout.count();
            let scale = (f64::from(weight[channel]) * inverse_deviation(variance, epsilon)) as f32;
            let (centre, shift) = (mean as f32, bias[channel]);
            for range in layout.planes(channel) {
                // SAFETY: as above.
                unsafe { map_plane(result, source, range, |x| (x - centre) * scale + shift) };
            }
            (mean as f32, variance as f32)
        },
    )
}

/// Gradients of weight and bias of each channel: `Σ dY · normalised X` and `Σ dY`.
#[inline(always)]
fn channel_gradients<'a>(
    layout: Layout,
    channel: usize,
    input: &[f32],
    output_gradient: impl Fn(Range<usize>) -> &'a [f32],
    mean: f64,
    inverse_deviation: f64,
) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for range in layout.planes(channel) {
        let (x, gradient) = (&input[range.clone()], output_gradient(range));
        sums.0 += sum_terms(x, gradient, |x, gradient| (x - mean) * gradient);
        sums.1 += sum_terms(gradient, gradient, |gradient, _| gradient);
    }
    (sums.0 * inverse_deviation, sums.1)
}

/// Gradients of weight and bias of each channel; `result` becomes the gradient of the input where
/// `source`, or it itself, is that of the output.
fn by_batch_gradients(
    layout: Layout,
    result: DisjointMut<'_>,
    source: Option<&[f32]>,
    [input, weight, mean, variance]: [&[f32]; 4],
    epsilon: f64,
) -> Vec<(f64, f64)> {
    layout.for_each_channel(
        #[inline(always)]
        |channel| {
            // SAFETY: a channel's planes belong to its task; mutable parts are taken one at a time below.
            let plane = |range: Range<usize>| match source {
                Some(source) => &source[range],
                None => unsafe { &*result.part(range) },
            };
            let inverse = inverse_deviation(f64::from(variance[channel]), epsilon);
            let centre = mean[channel];
            let sums = channel_gradients(layout, channel, input, plane, f64::from(centre), inverse);
            let scale = f64::from(weight[channel]) * inverse;
            let slope = (scale * inverse * sums.0 / layout.count()) as f32;
            let offset = (scale * sums.1 / layout.count()) as f32;
            let scale = scale as f32;
            let term = |gradient: f32, x: f32| gradient * scale - (x - centre) * slope - offset;
            for range in layout.planes(channel) {
                let x = &input[range.clone()];
                match source {
                    Some(source) => {
                        // SAFETY: as above.
                        let target = unsafe { result.unwritten_part(range.clone()) };
                        for ((target, gradient), x) in target.iter_mut().zip(&source[range]).zip(x) {
                            target.write(term(*gradient, *x));
                        }
                    }
                    None => {
                        // SAFETY: as above.
                        let target = unsafe { result.part(range) };
                        target.iter_mut().zip(x).for_each(|(target, x)| *target = term(*target, *x));
                    }
                }
            }
            sums
        },
    )
}

/// `result` becomes `(source − centre) · scale + shift`, channel by channel.
fn transform(
    layout: Layout,
    result: DisjointMut<'_>,
    source: Option<&[f32]>,
    channel_terms: impl Fn(usize) -> (f32, f32, f32) + Sync + Send,
) {
    layout.for_each_channel(
        #[inline(always)]
        |channel| {
            let (centre, scale, shift) = channel_terms(channel);
            for range in layout.planes(channel) {
                // SAFETY: a channel's planes belong to its task.
                unsafe { map_plane(result, source, range, |x| (x - centre) * scale + shift) };
            }
        },
    );
}

/// Two `[channels]` tensors of pairs.
fn unzip(pairs: impl Iterator<Item = (f32, f32)>) -> (FlexTensor, FlexTensor) {
    let (first, second): (Vec<f32>, Vec<f32>) = pairs.unzip();
    let channels = first.len();
    (tensor_of(first, [channels]), tensor_of(second, [channels]))
}

impl BatchNormOps for Flex {
    fn normalize_by_batch(
        input: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        epsilon: f64,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if !all_f32(&[&input, &weight, &bias]) {
            let result = Self::batch_norm_train(input, weight, bias, epsilon);
            return (result.output, result.mean, result.variance);
        }
        let layout = Layout::of(&input);
        let (weight, bias) = (contiguous(weight), contiguous(bias));
        let mut statistics = Vec::new();
        // SAFETY: `by_batch` writes the planes of every channel.
        let output = unsafe {
            replaced_by(input, |result, source| {
                statistics = by_batch(layout, result, source, [values(&weight), values(&bias)], epsilon);
            })
        };
        let (mean, variance) = unzip(statistics.into_iter());
        (output, mean, variance)
    }

    fn normalize_by_batch_gradients(
        input: FlexTensor,
        weight: FlexTensor,
        mean: FlexTensor,
        variance: FlexTensor,
        epsilon: f64,
        output_gradient: FlexTensor,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if !all_f32(&[&input, &weight, &mean, &variance, &output_gradient]) {
            let gradients =
                Self::batch_norm_train_backward(input, weight, mean, variance, epsilon, output_gradient);
            return (gradients.x_grad, gradients.gamma_grad, gradients.beta_grad);
        }
        let layout = Layout::of(&input);
        let tensors = [input, weight, mean, variance].map(contiguous);
        let mut sums = Vec::new();
        // SAFETY: `by_batch_gradients` writes the planes of every channel.
        let gradient = unsafe {
            replaced_by(output_gradient, |result, source| {
                sums = by_batch_gradients(layout, result, source, tensors.each_ref().map(values), epsilon);
            })
        };
        let (weight, bias) = unzip(sums.into_iter().map(|(weight, bias)| (weight as f32, bias as f32)));
        (gradient, weight, bias)
    }

    fn normalize_by_statistics(
        input: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        mean: FlexTensor,
        variance: FlexTensor,
        epsilon: f64,
    ) -> FlexTensor {
        if !all_f32(&[&input, &weight, &bias, &mean, &variance]) {
            return Self::batch_norm(input, weight, bias, mean, variance, epsilon);
        }
        let layout = Layout::of(&input);
        let tensors = [weight, bias, mean, variance].map(contiguous);
        let [weight, bias, mean, variance] = tensors.each_ref().map(values);
        // SAFETY: `transform` writes the planes of every channel.
        unsafe {
            replaced_by(input, |result, source| {
                transform(layout, result, source, |channel| {
                    let inverse = inverse_deviation(f64::from(variance[channel]), epsilon);
                    (mean[channel], (f64::from(weight[channel]) * inverse) as f32, bias[channel])
                });
            })
        }
    }

    fn normalize_by_statistics_input_gradient(
        weight: FlexTensor,
        variance: FlexTensor,
        epsilon: f64,
        output_gradient: FlexTensor,
    ) -> FlexTensor {
        if !all_f32(&[&weight, &variance, &output_gradient]) {
            return input_gradient::<Self>(weight, variance, epsilon, output_gradient);
        }
        let layout = Layout::of(&output_gradient);
        let tensors = [weight, variance].map(contiguous);
        let [weight, variance] = tensors.each_ref().map(values);
        // SAFETY: `transform` writes the planes of every channel.
        unsafe {
            replaced_by(output_gradient, |result, source| {
                transform(layout, result, source, |channel| {
                    let inverse = inverse_deviation(f64::from(variance[channel]), epsilon);
                    (0.0, (f64::from(weight[channel]) * inverse) as f32, 0.0)
                });
            })
        }
    }

    fn normalize_by_statistics_parameter_gradients(
        input: FlexTensor,
        mean: FlexTensor,
        variance: FlexTensor,
        epsilon: f64,
        output_gradient: FlexTensor,
    ) -> (FlexTensor, FlexTensor) {
        if !all_f32(&[&input, &mean, &variance, &output_gradient]) {
            return parameter_gradients::<Self>(input, mean, variance, epsilon, output_gradient);
        }
        let layout = Layout::of(&input);
        let tensors = [input, mean, variance, output_gradient].map(contiguous);
        let [input, mean, variance, output_gradient] = tensors.each_ref().map(values);
        let sums = layout.for_each_channel(
            #[inline(always)]
            |channel| {
                let inverse = inverse_deviation(f64::from(variance[channel]), epsilon);
                let gradient = |range| &output_gradient[range];
                channel_gradients(layout, channel, input, gradient, f64::from(mean[channel]), inverse)
            },
        );
        unzip(sums.into_iter().map(|(weight, bias)| (weight as f32, bias as f32)))
    }
}
