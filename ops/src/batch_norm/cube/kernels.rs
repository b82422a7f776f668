//! The kernels. All but two visit rows of channels as [`Grid`](crate::cube::Grid) shares them out: `row` and `channel` count
//! vectors. Sums are of 32 bits whatever the type of the activations.

use crate::cube::fold;
use cubecl::prelude::*;

/// Sums over a slice of the rows, `[slices, 2, channels]`: of the distances from the channel's first value and of their squares.
///
/// The distances keep the variance accurate where it is small beside the mean.
#[cube(launch)]
pub(super) fn distance_sums<F: Float, N: Size>(
    input: &[Vector<F, N>],
    sums: &mut [Vector<f32, N>],
    rows: usize,
    channels: usize,
    pitch: usize,
    #[comptime] units: [u32; 2],
    #[define(F)] _element: ElemType,
) {
    let channel = (CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X) as usize;
    let mut sum = Vector::<f32, N>::new(0.0);
    let mut squares = Vector::<f32, N>::new(0.0);
    if channel < channels {
        let first = Vector::<f32, N>::cast_from(input[channel]);
        let mut row = (CUBE_POS_Y * CUBE_DIM_Y + UNIT_POS_Y) as usize;
        while row < rows {
            let distance = Vector::<f32, N>::cast_from(input[row * pitch + channel]) - first;
            sum += distance;
            squares += distance * distance;
            row += (CUBE_COUNT_Y * CUBE_DIM_Y) as usize;
        }
    }
    let sum = fold::<N>(sum, units);
    let squares = fold::<N>(squares, units);
    if UNIT_POS_Y == 0 && channel < channels {
        let place = 2 * CUBE_POS_Y as usize * channels + channel;
        sums[place] = sum;
        sums[place + channels] = squares;
    }
}

/// The sum of column `column` of a matrix of `height` rows that are `pitch` apart.
#[cube]
fn column_sum(matrix: &[f32], column: usize, height: usize, pitch: usize) -> f32 {
    let mut sum = 0.0f32;
    for row in 0..height {
        sum += matrix[row * pitch + column];
    }
    sum
}

/// Mean and biased variance from [`distance_sums`].
#[cube(launch)]
pub(super) fn moments<F: Float>(
    input: &[F],
    sums: &[f32],
    mean: &mut [f32],
    variance: &mut [f32],
    rows: usize,
    channels: usize,
    slices: usize,
    #[define(F)] _element: ElemType,
) {
    let channel = ABSOLUTE_POS;
    if channel >= channels {
        terminate!();
    }
    let count = f32::cast_from(rows);
    let distance = column_sum(sums, channel, slices, 2 * channels) / count;
    let square = column_sum(sums, channels + channel, slices, 2 * channels) / count;
    mean[channel] = f32::cast_from(input[channel]) + distance;
    // Rounding can make it negative. What is not a number stays so.
    let mut value = square - distance * distance;
    if value < 0.0f32 {
        value = 0.0f32;
    }
    variance[channel] = value;
}

/// Mean, scale and shift of a vector of channels: the normalised value is `(x − mean) · scale + shift`.
#[derive(CubeType)]
struct Channels<N: Size> {
    mean: Vector<f32, N>,
    scale: Vector<f32, N>,
    shift: Vector<f32, N>,
    /// One over the standard deviation.
    rate: Vector<f32, N>,
}

#[cube]
fn channels_at<N: Size>(
    mean: &[Vector<f32, N>],
    variance: &[Vector<f32, N>],
    weight: &[Vector<f32, N>],
    bias: &[Vector<f32, N>],
    channel: usize,
    epsilon: f32,
) -> Channels<N> {
    let one = Vector::<f32, N>::new(1.0);
    let rate = one / Vector::sqrt(variance[channel] + Vector::new(epsilon));
    Channels::<N> { mean: mean[channel], scale: weight[channel] * rate, shift: bias[channel], rate }
}

/// What is above zero stays, and what is not a number.
#[cube]
fn rectified<N: Size>(value: Vector<f32, N>) -> Vector<f32, N> {
    let zero = Vector::<f32, N>::new(0.0);
    select_many(value.less_equal(&zero), zero, value)
}

/// The normalised input plus the residual, through ReLU.
#[cube(launch)]
pub(super) fn apply<F: Float, N: Size>(
    input: &[Vector<F, N>],
    residual: &[Vector<F, N>],
    mean: &[Vector<f32, N>],
    variance: &[Vector<f32, N>],
    weight: &[Vector<f32, N>],
    bias: &[Vector<f32, N>],
    output: &mut [Vector<F, N>],
    rows: usize,
    channels: usize,
    input_pitch: usize,
    residual_pitch: usize,
    epsilon: f32,
    #[comptime] with_residual: bool,
    #[comptime] relu: bool,
    #[define(F)] _element: ElemType,
) {
    let channel = (CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X) as usize;
    if channel < channels {
        let of = channels_at::<N>(mean, variance, weight, bias, channel, epsilon);
        let mut row = (CUBE_POS_Y * CUBE_DIM_Y + UNIT_POS_Y) as usize;
        while row < rows {
            let value = Vector::<f32, N>::cast_from(input[row * input_pitch + channel]);
            let mut result = (value - of.mean) * of.scale + of.shift;
            if comptime!(with_residual) {
                result += Vector::<f32, N>::cast_from(residual[row * residual_pitch + channel]);
            }
            if comptime!(relu) {
                result = rectified::<N>(result);
            }
            output[row * channels + channel] = Vector::cast_from(result);
            row += (CUBE_COUNT_Y * CUBE_DIM_Y) as usize;
        }
    }
}

/// How the backward pass knows where ReLU let a value pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Mask {
    /// There was no ReLU.
    None,
    /// By its output.
    Output,
    /// By its input, which is the normalised value.
    Normalized,
}

/// The gradient before ReLU.
#[cube]
fn passed<F: Float, N: Size>(
    gradient: Vector<F, N>,
    output: Vector<F, N>,
    normalized: Vector<f32, N>,
    #[comptime] mask: Mask,
) -> Vector<f32, N> {
    let zero = Vector::<f32, N>::new(0.0);
    let gradient = Vector::<f32, N>::cast_from(gradient);
    match comptime!(mask) {
        Mask::None => gradient,
        Mask::Output => {
            let output = Vector::<f32, N>::cast_from(output);
            select_many(output.less_equal(&zero), zero, gradient)
        }
        Mask::Normalized => select_many(normalized.less_equal(&zero), zero, gradient),
    }
}

/// Sums over a slice of the rows, `[slices, 2, channels]`: of the gradient before ReLU, and of that times the distance from the
/// mean.
#[cube(launch)]
pub(super) fn gradient_sums<F: Float, N: Size>(
    input: &[Vector<F, N>],
    output: &[Vector<F, N>],
    gradient: &[Vector<F, N>],
    mean: &[Vector<f32, N>],
    variance: &[Vector<f32, N>],
    weight: &[Vector<f32, N>],
    bias: &[Vector<f32, N>],
    sums: &mut [Vector<f32, N>],
    rows: usize,
    channels: usize,
    input_pitch: usize,
    output_pitch: usize,
    gradient_pitch: usize,
    epsilon: f32,
    #[comptime] mask: Mask,
    #[comptime] units: [u32; 2],
    #[define(F)] _element: ElemType,
) {
    let channel = (CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X) as usize;
    let mut sum = Vector::<f32, N>::new(0.0);
    let mut products = Vector::<f32, N>::new(0.0);
    if channel < channels {
        let of = channels_at::<N>(mean, variance, weight, bias, channel, epsilon);
        let mut row = (CUBE_POS_Y * CUBE_DIM_Y + UNIT_POS_Y) as usize;
        while row < rows {
            let distance = Vector::<f32, N>::cast_from(input[row * input_pitch + channel]) - of.mean;
            let value = passed::<F, N>(
                gradient[row * gradient_pitch + channel],
                output[row * output_pitch + channel],
                distance * of.scale + of.shift,
                mask,
            );
            sum += value;
            products += value * distance;
            row += (CUBE_COUNT_Y * CUBE_DIM_Y) as usize;
        }
    }
    let sum = fold::<N>(sum, units);
    let products = fold::<N>(products, units);
    if UNIT_POS_Y == 0 && channel < channels {
        let place = 2 * CUBE_POS_Y as usize * channels + channel;
        sums[place] = sum;
        sums[place + channels] = products;
    }
}

/// Gradients of weight and bias from [`gradient_sums`].
#[cube(launch)]
pub(super) fn parameter_gradients(
    sums: &[f32],
    variance: &[f32],
    weight_gradient: &mut [f32],
    bias_gradient: &mut [f32],
    channels: usize,
    slices: usize,
    epsilon: f32,
) {
    let channel = ABSOLUTE_POS;
    if channel >= channels {
        terminate!();
    }
    bias_gradient[channel] = column_sum(sums, channel, slices, 2 * channels);
    let products = column_sum(sums, channels + channel, slices, 2 * channels);
    weight_gradient[channel] = products / f32::sqrt(variance[channel] + epsilon);
}

/// Gradients of the input and of the residual, which is that before ReLU.
///
/// Where the statistics are those of the batch, the input's is
/// `weight / σ · (g − mean(g) − (x − μ) / σ · mean(g · (x − μ) / σ))` (Ioffe and Szegedy, 2015).
#[cube(launch)]
pub(super) fn input_gradient<F: Float, N: Size>(
    input: &[Vector<F, N>],
    output: &[Vector<F, N>],
    gradient: &[Vector<F, N>],
    mean: &[Vector<f32, N>],
    variance: &[Vector<f32, N>],
    weight: &[Vector<f32, N>],
    bias: &[Vector<f32, N>],
    weight_gradient: &[Vector<f32, N>],
    bias_gradient: &[Vector<f32, N>],
    result: &mut [Vector<F, N>],
    residual: &mut [Vector<F, N>],
    rows: usize,
    channels: usize,
    input_pitch: usize,
    output_pitch: usize,
    gradient_pitch: usize,
    epsilon: f32,
    #[comptime] mask: Mask,
    #[comptime] by_batch: bool,
    #[comptime] with_residual: bool,
    #[define(F)] _element: ElemType,
) {
    let channel = (CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X) as usize;
    if channel < channels {
        let of = channels_at::<N>(mean, variance, weight, bias, channel, epsilon);
        let count = Vector::<f32, N>::new(f32::cast_from(rows));
        let mut offset = Vector::<f32, N>::new(0.0);
        let mut slope = Vector::<f32, N>::new(0.0);
        if comptime!(by_batch) {
            offset = bias_gradient[channel] / count;
            slope = weight_gradient[channel] * of.rate / count;
        }
        let mut row = (CUBE_POS_Y * CUBE_DIM_Y + UNIT_POS_Y) as usize;
        while row < rows {
            let distance = Vector::<f32, N>::cast_from(input[row * input_pitch + channel]) - of.mean;
            let value = passed::<F, N>(
                gradient[row * gradient_pitch + channel],
                output[row * output_pitch + channel],
                distance * of.scale + of.shift,
                mask,
            );
            if comptime!(with_residual) {
                residual[row * channels + channel] = Vector::cast_from(value);
            }
            let centred = value - offset - distance * slope;
            result[row * channels + channel] = Vector::cast_from(centred * of.scale);
            row += (CUBE_COUNT_Y * CUBE_DIM_Y) as usize;
        }
    }
}
