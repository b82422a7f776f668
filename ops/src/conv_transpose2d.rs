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
    let bias = bias.map(|bias| bias.repeat_dim(0, stride * stride));
    let parts = conv2d(input, as_convolution(weight), bias, Conv2dOptions::default());
    beside_each_other(apart(parts, channels, stride), stride)
}

/// [`conv_transpose2d`] with a bias, then ReLU.
///
/// # Panics
/// As [`conv_transpose2d`].
pub fn conv_transpose2d_relu(input: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    let [_, _, stride, _] = weight.dims();
    beside_each_other(conv_transpose2d_relu_apart(input, weight, bias), stride)
}

/// [`conv_transpose2d_relu`] with the pixels that each pixel becomes still apart: `[batch · stride², channels_out, height, width]`, those
/// of an entry of the batch one after another, row by row.
///
/// What treats every pixel by itself, such as a 1×1 convolution, can come before [`beside_each_other`], which has less to move where
/// there are fewer channels then.
///
/// # Panics
/// As [`conv_transpose2d`].
pub fn conv_transpose2d_relu_apart(input: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    let [_, channels, stride, _] = weight.dims();
    let bias = bias.repeat_dim(0, stride * stride);
    apart(conv2d_relu(input, as_convolution(weight), bias, Conv2dOptions::default()), channels, stride)
}

/// Puts the pixels that [`conv_transpose2d_relu_apart`] makes in their places: from `[batch · stride², channels, height, width]` to
/// `[batch, channels, height · stride, width · stride]`.
///
/// # Panics
/// If the first dimension is not a multiple of `stride²`.
pub fn beside_each_other(parts: Tensor<4>, stride: usize) -> Tensor<4> {
    let [count, channels, height, width] = parts.dims();
    assert_eq!(count % (stride * stride), 0, "each pixel becomes stride² of them");
    let batch = count / (stride * stride);
    let pixels = parts.reshape([batch, stride, stride, channels, height, width]);
    pixels.permute([0, 3, 4, 1, 5, 2]).reshape([batch, channels, height * stride, width * stride])
}

/// `[stride · stride · channels_out, channels_in, 1, 1]`
fn as_convolution(weight: Tensor<4>) -> Tensor<4> {
    let [channels_in, channels_out, height, width] = weight.dims();
    assert_eq!(height, width, "the kernel is square");
    weight.permute([2, 3, 1, 0]).reshape([height * width * channels_out, channels_in, 1, 1])
}

/// The same numbers, an entry for each part.
fn apart(parts: Tensor<4>, channels: usize, stride: usize) -> Tensor<4> {
    let [batch, _, height, width] = parts.dims();
    parts.reshape([batch * stride * stride, channels, height, width])
}
