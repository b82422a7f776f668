//! Two-dimensional convolution.
//!
//! N images in the batch, C channels in, O channels out, H×W input pixels, KH×KW kernel.

mod autodiff;
mod backend;
#[cfg(feature = "flex")]
mod flex;

use backend::Conv2dOps;
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
    /// The same in Burn's terms: one group.
    fn burn(self) -> ConvOptions<2> {
        ConvOptions::new(self.stride, self.padding, self.dilation, 1)
    }
}

/// Convolves `input` with `weight` (cross-correlation, as every deep-learning library does).
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
        Some(bias) => Dispatch::biased_convolution(input, weight, bias.into_dispatch(), options),
        None => Dispatch::convolution(input, weight, options),
    })
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
