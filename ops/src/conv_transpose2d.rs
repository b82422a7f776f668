//! Transposed convolution whose windows do not overlap.

use burn::tensor::Tensor;

use crate::{Conv2dOptions, conv2d, conv2d_relu};

/// Transposed convolution with a stride as long as its kernel, as in PyTorch's `ConvTranspose2d`: each pixel becomes
/// `stride × stride` of them.
///
/// It is a 1×1 [`conv2d`] to `stride²` times as many channels, whose outputs are put beside each other; its gradients are that
/// operator's.
///
/// # Shapes
/// - `input`: `[batch, channels_in, height, width]`
/// - `weight`: `[channels_in, channels_out, stride, stride]`
/// - `bias`: `[channels_out]`
/// - output: `[batch, channels_out, height · stride, width · stride]`
///
/// # Panics
/// If the channels of input, weight and bias disagree, or the kernel is not square.
pub fn conv_transpose2d(input: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
    let [_, channels, stride, _] = weight.dims();
    let bias = bias.map(|bias| spread_bias(bias, stride));
    let output = conv2d(input, as_convolution(weight), bias, Conv2dOptions::default());
    beside_each_other(output, channels, stride)
}

/// [`conv_transpose2d`] with a bias, then ReLU.
///
/// # Panics
/// As [`conv_transpose2d`].
pub fn conv_transpose2d_relu(input: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    let [_, channels, stride, _] = weight.dims();
    let bias = spread_bias(bias, stride);
    let output = conv2d_relu(input, as_convolution(weight), bias, Conv2dOptions::default());
    beside_each_other(output, channels, stride)
}

/// `[channels_out · stride · stride, channels_in, 1, 1]`
fn as_convolution(weight: Tensor<4>) -> Tensor<4> {
    let [channels_in, channels_out, height, width] = weight.dims();
    assert_eq!(height, width, "the kernel is square");
    weight.permute([1, 2, 3, 0]).reshape([channels_out * height * width, channels_in, 1, 1])
}

/// The bias of each pixel that a pixel becomes.
fn spread_bias(bias: Tensor<1>, stride: usize) -> Tensor<1> {
    let [channels] = bias.dims();
    bias.reshape([channels, 1]).expand([channels, stride * stride]).reshape([channels * stride * stride])
}

/// From `[batch, channels · stride · stride, height, width]` to `[batch, channels, height · stride, width · stride]`.
fn beside_each_other(output: Tensor<4>, channels: usize, stride: usize) -> Tensor<4> {
    let [batch, _, height, width] = output.dims();
    let pixels = output.reshape([batch, channels, stride, stride, height, width]);
    pixels.permute([0, 1, 4, 2, 5, 3]).reshape([batch, channels, height * stride, width * stride])
}
