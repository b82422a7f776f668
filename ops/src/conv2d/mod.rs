//! Two-dimensional convolution.
//!
//! N images in the batch, C channels in, O channels out, H×W input pixels, KH×KW kernel.

mod autodiff;
mod backend;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;

use crate::batch_norm::{self, BatchNormOptions, Residual};
use backend::{Conv2dOps, Purpose};
use burn::{
    backend::Dispatch,
    tensor::{Tensor, ops::ConvOptions},
};

/// Stride, zero padding and dilation of [`conv2d`], as `[vertical, horizontal]`, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dOptions {
    /// Pixels from one window to the next.
    pub stride: [usize; 2],
    /// Rows or columns of zeros on either side.
    pub padding: [usize; 2],
    /// Pixels from one value of the kernel to the next.
    pub dilation: [usize; 2],
}

impl Default for Conv2dOptions {
    /// Stride 1, no padding, no dilation.
    fn default() -> Self {
        Self { stride: [1; 2], padding: [0; 2], dilation: [1; 2] }
    }
}

impl Conv2dOptions {
    /// Shape of the output, for those of input and weight.
    fn output(self, input: [usize; 4], weight: [usize; 4]) -> [usize; 4] {
        let size = |axis: usize| {
            let reach = self.dilation[axis] * (weight[2 + axis] - 1);
            (input[2 + axis] + 2 * self.padding[axis] - reach - 1) / self.stride[axis] + 1
        };
        [input[0], weight[0], size(0), size(1)]
    }

    /// The same in Burn's terms: one group.
    fn burn(self) -> ConvOptions<2> {
        ConvOptions::new(self.stride, self.padding, self.dilation, 1)
    }
}

/// Convolves `input` with `weight` (cross-correlation, as every deep-learning library does).
///
/// An input in bfloat16 is multiplied with the weight rounded to bfloat16, summed in 32 bits, and the output is
/// rounded; weight, bias and their gradients stay in 32 bits. Every operator of this module does so.
///
/// # Shapes
/// - `input`: `[batch, channels_in, height, width]`
/// - `weight`: `[channels_out, channels_in, kernel_height, kernel_width]`
/// - `bias`: `[channels_out]`
/// - output: `[batch, channels_out, (height + 2·padding − dilation·(kernel − 1) − 1) / stride + 1, …]`
///
/// # Panics
/// If the channels of input, weight and bias disagree, a stride or dilation is zero, or the kernel is larger than the
/// padded input.
pub fn conv2d(
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: Conv2dOptions,
) -> Tensor<4> {
    check(input.dims(), weight.dims(), bias.as_ref().map(|bias| bias.dims()), options);
    let (input, weight) = (input.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        Some(bias) => {
            Dispatch::biased_convolution(input, weight, bias.into_dispatch(), options, Purpose::Inference)
        }
        None => Dispatch::convolution(input, weight, options, Purpose::Inference),
    })
}

/// [`conv2d`] without bias, and the input for another use, for example as the residual of a block.
///
/// The gradient of the other use is added to the convolution's as that is written, which saves a pass over both. Both results
/// must be part of what is differentiated, or the gradient of the other use is lost.
///
/// # Panics
/// As [`conv2d`].
pub fn conv2d_shared(input: Tensor<4>, weight: Tensor<4>, options: Conv2dOptions) -> (Tensor<4>, Tensor<4>) {
    check(input.dims(), weight.dims(), None, options);
    let (input, weight) = (input.into_dispatch(), weight.into_dispatch());
    let (output, input) = Dispatch::shared_convolution(input, weight, options);
    (Tensor::from_dispatch(output), Tensor::from_dispatch(input))
}

/// [`conv2d`] with a bias, then ReLU, in one operator.
///
/// # Panics
/// As [`conv2d`].
pub fn conv2d_relu(
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    options: Conv2dOptions,
) -> Tensor<4> {
    check(input.dims(), weight.dims(), Some(bias.dims()), options);
    let (input, weight) = (input.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::rectified_convolution(
        input,
        weight,
        bias.into_dispatch(),
        options,
        Purpose::Inference,
    ))
}

/// The running statistics of a batch normalisation and what it scales and shifts by, all `[channels]`.
pub struct Normalization {
    /// Scale.
    pub weight: Tensor<1>,
    /// Shift.
    pub bias: Tensor<1>,
    /// Mean.
    pub mean: Tensor<1>,
    /// Variance.
    pub variance: Tensor<1>,
}

/// [`conv2d`] without bias and [`batch_norm_inference`](crate::batch_norm_inference), with what its options ask for, in one
/// operator: nothing is written in between.
///
/// # Panics
/// As the two.
pub fn conv2d_batch_norm(
    input: Tensor<4>,
    weight: Tensor<4>,
    options: Conv2dOptions,
    norm: Normalization,
    ending: impl Into<BatchNormOptions<4>>,
) -> Tensor<4> {
    let BatchNormOptions { epsilon, residual, relu, .. } = ending.into();
    check(input.dims(), weight.dims(), None, options);
    let Normalization { weight: scale, bias: shift, mean, variance } = norm;
    let per_channel =
        [("weight", &scale), ("bias", &shift), ("running mean", &mean), ("running variance", &variance)];
    batch_norm::check(options.output(input.dims(), weight.dims()), &per_channel, residual.as_ref());
    let [scale, shift, mean, variance] = [scale, shift, mean, variance].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::normalized_convolution(
        input.into_dispatch(),
        weight.into_dispatch(),
        scale,
        shift,
        mean,
        variance,
        Residual::from(residual.map(Tensor::into_dispatch)),
        options,
        epsilon,
        relu,
    ))
}

fn check(input: [usize; 4], weight: [usize; 4], bias: Option<[usize; 1]>, options: Conv2dOptions) {
    let [_, channels, height, width] = input;
    let [channels_out, weight_channels, kernel_height, kernel_width] = weight;
    assert_eq!(channels, weight_channels, "conv2d: the input has {channels} channels, the weight {weight:?}");
    if let Some([length]) = bias {
        assert_eq!(length, channels_out, "conv2d: the bias has {length} values, the weight {weight:?}");
    }
    let [stride_y, stride_x] = options.stride;
    assert!(stride_y > 0 && stride_x > 0, "conv2d: the stride is {:?}, it must not be 0", options.stride);
    let [dilation_y, dilation_x] = options.dilation;
    assert!(
        dilation_y > 0 && dilation_x > 0,
        "conv2d: the dilation is {:?}, it must not be 0",
        options.dilation
    );
    assert!(kernel_height > 0 && kernel_width > 0, "conv2d: the weight {weight:?} has an empty kernel");
    let padded = [height + 2 * options.padding[0], width + 2 * options.padding[1]];
    assert!(
        dilation_y * (kernel_height - 1) < padded[0] && dilation_x * (kernel_width - 1) < padded[1],
        "conv2d: the kernel of weight {weight:?} does not fit into the padded input, {padded:?}"
    );
}
