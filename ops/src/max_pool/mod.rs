//! Two-dimensional maximum pooling.

mod autodiff;
mod backend;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;

use backend::MaxPoolOps;
use burn::{backend::Dispatch, tensor::Tensor};

/// Window of [`max_pool2d`], as `[vertical, horizontal]`, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaxPool2dOptions {
    /// Size of a window.
    pub kernel: [usize; 2],
    /// Pixels from one window to the next.
    pub stride: [usize; 2],
    /// Rows or columns on either side that never are the maximum.
    pub padding: [usize; 2],
}

impl MaxPool2dOptions {
    /// Output pixels along an axis of `length` input pixels; the last, partial window is left out.
    fn output(self, axis: usize, length: usize) -> usize {
        (length + 2 * self.padding[axis] - self.kernel[axis]) / self.stride[axis] + 1
    }
}

/// The largest value of each window; NaN where a window has one. The gradient goes to the first maximum.
///
/// # Shapes
/// - `input`: `[batch, channels, height, width]`
/// - output: `[batch, channels, (height + 2·padding − kernel) / stride + 1, …]`
///
/// # Panics
/// If a stride is zero, the padding more than half a window, or a window larger than the padded input.
pub fn max_pool2d(input: Tensor<4>, options: MaxPool2dOptions) -> Tensor<4> {
    let [_, _, height, width] = input.dims();
    for (axis, length) in [height, width].into_iter().enumerate() {
        let (kernel, padding) = (options.kernel[axis], options.padding[axis]);
        assert!(options.stride[axis] > 0, "max_pool2d: the stride must not be 0, it is {options:?}");
        assert!(2 * padding <= kernel, "max_pool2d: the padding is more than half a window: {options:?}");
        assert!(
            (1..=length + 2 * padding).contains(&kernel),
            "max_pool2d: {options:?} does not fit into {height}×{width} pixels"
        );
    }
    Tensor::from_dispatch(Dispatch::window_maximum(input.into_dispatch(), options))
}
