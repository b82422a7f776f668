//! The convolution as a backend extension.

use super::Conv2dOptions;
use crate::batch_norm::{Residual, composed_by_statistics};
use burn::{
    backend::{Backend, TensorMetadata, backend_extension, tensor::FloatTensor},
    tensor::Shape,
};

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Its output is all.
    Inference,
    /// A backward pass follows. Where rounding turns the sign of a value before ReLU, its gradient comes or goes as a
    /// whole, so that values are to be as accurate as plain sums of products.
    Training,
}

/// Convolution and its gradients. The default bodies are Burn's operators.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Capture,
    Autodiff,
)]
pub(crate) trait Conv2dOps: Backend {
    /// `[N, C, H, W]` and `[O, C, KH, KW]` to `[N, O, H', W']`.
    fn convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Conv2dOptions,
        _purpose: Purpose,
    ) -> FloatTensor<Self> {
        Self::conv2d(input, weight, None, options.burn())
    }

    /// The same plus a bias, `[O]`.
    fn biased_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: Conv2dOptions,
        _purpose: Purpose,
    ) -> FloatTensor<Self> {
        Self::conv2d(input, weight, Some(bias), options.burn())
    }

    /// The convolution without bias, and its input for other use.
    ///
    /// The gradient of the input is that of the convolution and that of the other use; the two are summed as the former
    /// is written.
    fn shared_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Conv2dOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        (Self::convolution(input.clone(), weight, options, Purpose::Inference), input)
    }

    /// The same through ReLU.
    fn rectified_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: Conv2dOptions,
        purpose: Purpose,
    ) -> FloatTensor<Self> {
        Self::relu(Self::biased_convolution(input, weight, bias, options, purpose))
    }

    /// A convolution without bias, then batch normalisation by given statistics, all `[O]`, then a residual, then ReLU.
    fn normalized_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        #[extension_type] residual: Residual<Self>,
        options: Conv2dOptions,
        epsilon: f64,
        relu: bool,
    ) -> FloatTensor<Self> {
        let output = Self::convolution(input, weight, options, Purpose::Inference);
        composed_by_statistics::<Self>(output, scale, shift, mean, variance, residual, epsilon, relu)
    }

    /// The gradient before ReLU, given its output and the gradient behind it.
    fn rectified_gradient(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::relu_backward(output, gradient)
    }

    /// Gradient of the input, `[N, C, H, W]`; the values of `input` are not read.
    fn convolution_input_gradient(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        output_gradient: FloatTensor<Self>,
        options: Conv2dOptions,
    ) -> FloatTensor<Self> {
        Self::conv2d_x_backward(input, weight, output_gradient, options.burn())
    }

    /// The sum of the gradient of the input and another one.
    fn convolution_input_gradient_sum(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        output_gradient: FloatTensor<Self>,
        other: FloatTensor<Self>,
        options: Conv2dOptions,
    ) -> FloatTensor<Self> {
        Self::float_add(other, Self::convolution_input_gradient(input, weight, output_gradient, options))
    }

    /// Gradient of the weight, `[O, C, KH, KW]`; the values of `weight` are not read.
    fn convolution_weight_gradient(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        output_gradient: FloatTensor<Self>,
        options: Conv2dOptions,
    ) -> FloatTensor<Self> {
        Self::conv2d_weight_backward(input, weight, output_gradient, options.burn())
    }

    /// Gradient of the bias, `[O]`: the sum over images and pixels.
    fn convolution_bias_gradient(output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let channels = output_gradient.shape()[1];
        Self::float_reshape(Self::float_sum_dims(output_gradient, &[0, 2, 3]), Shape::new([channels]))
    }
}

// Graph capture records the standard operator, which is what an exporter knows.
impl Conv2dOps for burn::backend::Capture {}
