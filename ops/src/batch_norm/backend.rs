//! Batch normalisation as a backend extension.

use burn::{
    backend::{Backend, TensorMetadata, backend_extension, tensor::FloatTensor},
    tensor::Shape,
};

/// Batch normalisation and its gradients. The default bodies are Burn's operators.
///
/// `input` is `[batch, channels, ...]`, `weight`, `bias`, `mean` and `variance` are `[channels]`.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu")),
    Capture,
    Autodiff,
)]
pub(crate) trait BatchNormOps: Backend {
    /// Output, mean and biased variance.
    fn normalize_by_batch(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let result = Self::batch_norm_train(input, weight, bias, epsilon);
        (result.output, result.mean, result.variance)
    }

    /// Gradients of input, weight and bias, given the forward pass's statistics.
    fn normalize_by_batch_gradients(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        epsilon: f64,
        output_gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let gradients =
            Self::batch_norm_train_backward(input, weight, mean, variance, epsilon, output_gradient);
        (gradients.x_grad, gradients.gamma_grad, gradients.beta_grad)
    }

    /// Output, given statistics.
    fn normalize_by_statistics(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        Self::batch_norm(input, weight, bias, mean, variance, epsilon)
    }

    /// Gradient of the input where the statistics are constants.
    fn normalize_by_statistics_input_gradient(
        weight: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        epsilon: f64,
        output_gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        input_gradient::<Self>(weight, variance, epsilon, output_gradient)
    }

    /// Gradients of weight and bias where the statistics are constants.
    fn normalize_by_statistics_parameter_gradients(
        input: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        epsilon: f64,
        output_gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        parameter_gradients::<Self>(input, mean, variance, epsilon, output_gradient)
    }
}

/// Gradient of the input where the statistics are constants, of Burn's operators.
pub(super) fn input_gradient<B: Backend>(
    weight: FloatTensor<B>,
    variance: FloatTensor<B>,
    epsilon: f64,
    output_gradient: FloatTensor<B>,
) -> FloatTensor<B> {
    let scale = B::float_div(weight, deviation::<B>(variance, epsilon));
    let scale = per_channel::<B>(scale, output_gradient.rank());
    B::float_mul(output_gradient, scale)
}

/// Gradients of weight and bias where the statistics are constants, of Burn's operators.
pub(super) fn parameter_gradients<B: Backend>(
    input: FloatTensor<B>,
    mean: FloatTensor<B>,
    variance: FloatTensor<B>,
    epsilon: f64,
    output_gradient: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let rank = input.rank();
    let centred = B::float_sub(input, per_channel::<B>(mean, rank));
    let deviation = per_channel::<B>(deviation::<B>(variance, epsilon), rank);
    let weight = B::float_mul(output_gradient.clone(), B::float_div(centred, deviation));
    (channel_sums::<B>(weight), channel_sums::<B>(output_gradient))
}

fn deviation<B: Backend>(variance: FloatTensor<B>, epsilon: f64) -> FloatTensor<B> {
    B::float_sqrt(B::float_add_scalar(variance, epsilon.into()))
}

/// `[channels]` as `[1, channels, 1, ...]`.
fn per_channel<B: Backend>(tensor: FloatTensor<B>, rank: usize) -> FloatTensor<B> {
    let mut shape = vec![1; rank];
    shape[1] = tensor.shape()[0];
    B::float_reshape(tensor, Shape::from(shape))
}

/// Sums over every axis but the channels.
fn channel_sums<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    let channels = tensor.shape()[1];
    let axes: Vec<usize> = (0..tensor.rank()).filter(|axis| *axis != 1).collect();
    B::float_reshape(B::float_sum_dims(tensor, &axes), Shape::new([channels]))
}

// Graph capture records the standard operator, which is what an exporter knows.
impl BatchNormOps for burn::backend::Capture {}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl BatchNormOps for burn::backend::Cube {}
