//! Maximum pooling as a backend extension.

use super::MaxPool2dOptions;
use burn::{
    backend::{Backend, backend_extension, tensor::FloatTensor},
    tensor::IntDType,
};

/// Maximum pooling and its gradient. The default bodies are Burn's operators.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Capture,
    Autodiff,
)]
pub(crate) trait MaxPoolOps: Backend {
    /// `[N, C, H, W]` to `[N, C, H', W']`.
    fn window_maximum(input: FloatTensor<Self>, options: MaxPool2dOptions) -> FloatTensor<Self> {
        let MaxPool2dOptions { kernel, stride, padding } = options;
        Self::max_pool2d(input, kernel, stride, padding, [1, 1], false)
    }

    /// Gradient of the input, `[N, C, H, W]`.
    fn window_maximum_gradient(
        input: FloatTensor<Self>,
        output_gradient: FloatTensor<Self>,
        options: MaxPool2dOptions,
    ) -> FloatTensor<Self> {
        input_gradient::<Self>(input, output_gradient, options)
    }
}

/// Gradient of the input, of Burn's operators.
pub(super) fn input_gradient<B: Backend>(
    input: FloatTensor<B>,
    output_gradient: FloatTensor<B>,
    options: MaxPool2dOptions,
) -> FloatTensor<B> {
    let MaxPool2dOptions { kernel, stride, padding } = options;
    let pooled =
        B::max_pool2d_with_indices(input.clone(), kernel, stride, padding, [1, 1], false, IntDType::I32);
    let gradients = B::max_pool2d_with_indices_backward(
        input,
        kernel,
        stride,
        padding,
        [1, 1],
        false,
        output_gradient,
        pooled.indices,
    );
    gradients.x_grad
}

// Graph capture records the standard operator, which is what an exporter knows.
impl MaxPoolOps for burn::backend::Capture {}
