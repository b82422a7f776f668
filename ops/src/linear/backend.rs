//! The fully connected layer as a backend extension.

use burn::backend::{Backend, backend_extension, tensor::FloatTensor};

/// Products of a fully connected layer. The default bodies are Burn's operators.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Capture,
    Autodiff,
)]
pub(crate) trait LinearOps: Backend {
    /// `[N, I]` and `[O, I]` to `[N, O]`.
    fn linear_product(input: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(input, Self::float_swap_dims(weight, 0, 1))
    }

    /// Gradient of the input, `[N, I]`.
    fn linear_input_gradient(
        weight: FloatTensor<Self>,
        output_gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::float_matmul(output_gradient, weight)
    }

    /// Gradient of the weight, `[O, I]`.
    fn linear_weight_gradient(
        input: FloatTensor<Self>,
        output_gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::float_matmul(Self::float_swap_dims(output_gradient, 0, 1), input)
    }
}

// Graph capture records the standard operator, which is what an exporter knows.
impl LinearOps for burn::backend::Capture {}
