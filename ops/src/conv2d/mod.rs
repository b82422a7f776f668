//! Two-dimensional convolution.

use burn::tensor::{Tensor, module, ops::ConvOptions};

/// Stride and zero padding of [`conv2d`], as `[vertical, horizontal]`, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dOptions {
    pub stride: [usize; 2],
    pub padding: [usize; 2],
}

/// Convolves `input` with `weight` (cross-correlation, as every deep-learning library does).
///
/// # Shapes
/// - `input`: `[batch, channels_in, height, width]`
/// - `weight`: `[channels_out, channels_in, kernel_height, kernel_width]`
/// - `bias`: `[channels_out]`
/// - output: `[batch, channels_out, (height + 2·padding − kernel) / stride + 1, …]`
pub fn conv2d(
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: Conv2dOptions,
) -> Tensor<4> {
    module::conv2d(input, weight, bias, ConvOptions::new(options.stride, options.padding, [1, 1], 1))
}
