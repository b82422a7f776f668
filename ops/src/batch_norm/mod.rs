//! Batch normalisation.

mod autodiff;
mod backend;
#[cfg(feature = "flex")]
mod flex;

use backend::BatchNormOps;
use burn::{backend::Dispatch, tensor::Tensor};

/// What a training batch normalisation returns.
pub struct BatchNormOutput<const D: usize> {
    /// Normalised, scaled and shifted input, of the input's shape.
    pub output: Tensor<D>,
    /// Mean over the batch and all positions, `[channels]`; detached.
    pub mean: Tensor<1>,
    /// Biased variance (divided by n) over the batch and all positions, `[channels]`; detached.
    pub variance: Tensor<1>,
}

/// Normalises `input`, `[batch, channels, ...]`, by the statistics of this batch.
///
/// `weight` and `bias`, `[channels]`, scale and shift the result. The gradient of the input takes into
/// account that the statistics depend on it.
///
/// # Panics
/// If the input has fewer than two axes or `weight` or `bias` not one value a channel.
pub fn batch_norm_train<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> BatchNormOutput<D> {
    check(&input, &[("weight", &weight), ("bias", &bias)]);
    let (output, mean, variance) = Dispatch::normalize_by_batch(
        input.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        epsilon,
    );
    BatchNormOutput {
        output: Tensor::from_dispatch(output),
        mean: Tensor::from_dispatch(mean),
        variance: Tensor::from_dispatch(variance),
    }
}

/// Normalises `input`, `[batch, channels, ...]`, by running statistics.
///
/// `weight` and `bias`, `[channels]`, scale and shift the result.
///
/// # Panics
/// If the input has fewer than two axes or one of the others not one value a channel.
pub fn batch_norm_inference<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    running_mean: Tensor<1>,
    running_var: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let statistics = [("running mean", &running_mean), ("running variance", &running_var)];
    check(&input, &[("weight", &weight), ("bias", &bias)]);
    check(&input, &statistics);
    Tensor::from_dispatch(Dispatch::normalize_by_statistics(
        input.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        running_mean.into_dispatch(),
        running_var.into_dispatch(),
        epsilon,
    ))
}

fn check<const D: usize>(input: &Tensor<D>, per_channel: &[(&str, &Tensor<1>)]) {
    assert!(D >= 2, "batch_norm: the input has {D} axes, it needs batch and channels");
    let channels = input.dims()[1];
    for (name, tensor) in per_channel {
        let [length] = tensor.dims();
        assert_eq!(length, channels, "batch_norm: the {name} has {length} values for {channels} channels");
    }
}
