//! Batch normalisation.

use burn::tensor::{Tensor, module};

/// What a training batch normalisation returns.
pub struct BatchNormOutput<const D: usize> {
    /// Normalised, scaled and shifted input, of the input's shape.
    pub output: Tensor<D>,
    /// Mean over the batch and all positions, `[channels]`.
    pub mean: Tensor<1>,
    /// Biased variance (divided by n) over the batch and all positions, `[channels]`.
    pub variance: Tensor<1>,
}

/// Normalises `input`, `[batch, channels, ...]`, by the statistics of this batch.
pub fn batch_norm_train<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> BatchNormOutput<D> {
    let result = module::batch_norm_train(input, weight, bias, epsilon);
    BatchNormOutput { output: result.output, mean: result.mean, variance: result.variance }
}

/// Normalises `input`, `[batch, channels, ...]`, by running statistics.
pub fn batch_norm_inference<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    running_mean: Tensor<1>,
    running_var: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    module::batch_norm(input, weight, bias, running_mean, running_var, epsilon)
}
