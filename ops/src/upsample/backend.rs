//! The sum with a coarser map as a backend extension.

use burn::backend::{Backend, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};

/// The sum and the gradient of the coarser map. The default bodies are Burn's operators.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Capture,
    Autodiff,
)]
pub(crate) trait UpsampleOps: Backend {
    /// `[N, C, H, W]` and `[N, C, h, w]` to `[N, C, H, W]`.
    fn sum_with_upsampled(fine: FloatTensor<Self>, coarse: FloatTensor<Self>) -> FloatTensor<Self> {
        composed_sum::<Self>(fine, coarse)
    }

    /// Gradient of the coarser map, `[N, C, h, w]`, whose values are not read, given that of the sum.
    fn coarse_gradient(coarse: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        composed_gradient::<Self>(coarse, gradient)
    }
}

/// [`UpsampleOps::sum_with_upsampled`] of Burn's operators.
pub(super) fn composed_sum<B: Backend>(fine: FloatTensor<B>, coarse: FloatTensor<B>) -> FloatTensor<B> {
    let [_, _, height, width] = fine.shape().dims();
    B::float_add(fine, B::interpolate(coarse, [height, width], nearest()))
}

/// [`UpsampleOps::coarse_gradient`] of Burn's operators.
pub(super) fn composed_gradient<B: Backend>(
    coarse: FloatTensor<B>,
    gradient: FloatTensor<B>,
) -> FloatTensor<B> {
    let [_, _, height, width] = gradient.shape().dims();
    B::interpolate_backward(coarse, gradient, [height, width], nearest())
}

fn nearest() -> InterpolateOptions {
    InterpolateOptions::new(InterpolateMode::Nearest)
}

// Graph capture records the standard operators, which is what an exporter knows.
impl UpsampleOps for burn::backend::Capture {}

#[cfg(feature = "cube")]
impl UpsampleOps for burn::backend::Cube {}
