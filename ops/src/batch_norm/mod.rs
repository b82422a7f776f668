//! Batch normalisation, alone or with the residual sum and ReLU that follow it in residual networks.

mod autodiff;
mod backend;
#[cfg(feature = "cube")]
mod cube;
mod exchange;
#[cfg(feature = "flex")]
mod flex;

use crate::Group;
use exchange::{Exchange, GroupStatistics};

pub(crate) use backend::{BatchNormOps, Residual, composed_by_statistics};
use burn::{backend::Dispatch, tensor::Tensor};
#[cfg(feature = "flex")]
pub(crate) use flex::normalizations;

/// Epsilon of a batch normalisation and what is done to the normalised values before they are written.
///
/// A number converts into options with that epsilon and nothing else.
#[derive(Clone, Debug)]
pub struct BatchNormOptions<const D: usize> {
    /// Added to the variance.
    pub epsilon: f64,
    /// Added to the normalised values; of the input's shape.
    pub residual: Option<Tensor<D>>,
    /// Whether negative sums become zero.
    pub relu: bool,
    /// The processes whose batches have statistics in common (SyncBN); used in training.
    pub group: Group,
    /// Whether this process's batch is part of them. One that is not must have no gradient.
    pub counts: bool,
}

impl<const D: usize> BatchNormOptions<D> {
    /// The normalisation alone.
    pub fn new(epsilon: f64) -> Self {
        Self { epsilon, residual: None, relu: false, group: Group::alone(), counts: true }
    }

    /// Adds `residual`, of the input's shape, to the normalised values.
    pub fn add_residual(self, residual: Tensor<D>) -> Self {
        Self { residual: Some(residual), ..self }
    }

    /// Ends with ReLU.
    pub fn relu(self) -> Self {
        Self { relu: true, ..self }
    }

    /// Takes the statistics over the batches of all processes of `group`; this one's is left out unless it `counts`.
    ///
    /// Each process must then make the same forward and backward passes.
    pub fn over(self, group: Group, counts: bool) -> Self {
        Self { group, counts, ..self }
    }
}

impl<const D: usize> From<f64> for BatchNormOptions<D> {
    fn from(epsilon: f64) -> Self {
        Self::new(epsilon)
    }
}

/// What a training batch normalisation returns.
pub struct BatchNormOutput<const D: usize> {
    /// Normalised, scaled and shifted input with what the options ask for, of the input's shape.
    pub output: Tensor<D>,
    /// Mean over the batch and all positions, `[channels]`; detached.
    pub mean: Tensor<1>,
    /// Biased variance (divided by n) over the batch and all positions, `[channels]`; detached.
    pub variance: Tensor<1>,
    /// The number of values of a channel that these are of.
    pub count: f64,
}

/// Normalises `input`, `[batch, channels, ...]`, by the statistics of this batch, or of those of all processes.
///
/// `weight` and `bias`, `[channels]`, scale and shift the result. The gradient of the input takes into
/// account that the statistics depend on it.
///
/// On the CPU the output takes the memory of the input or the residual where nobody else holds it and the
/// backward pass does not need it.
///
/// # Panics
/// If the input has fewer than two axes, `weight` or `bias` not one value a channel, or the residual another
/// shape than the input.
pub fn batch_norm_train<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    options: impl Into<BatchNormOptions<D>>,
) -> BatchNormOutput<D> {
    let options = options.into();
    check(input.dims(), &[("weight", &weight), ("bias", &bias)], options.residual.as_ref());
    let count = (input.shape().num_elements() / input.dims()[1]) as f64;
    if !options.group.is_alone() {
        return synchronised(input, weight, bias, options, count);
    }
    let (output, mean, variance) = Dispatch::normalize_by_batch(
        input.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        Residual::from(options.residual.map(Tensor::into_dispatch)),
        options.epsilon,
        options.relu,
    );
    BatchNormOutput {
        output: Tensor::from_dispatch(output),
        mean: Tensor::from_dispatch(mean),
        variance: Tensor::from_dispatch(variance),
        count,
    }
}

/// Normalises a batch of `local` values a channel by the statistics of all processes' batches.
fn synchronised<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    BatchNormOptions { epsilon, residual, relu, group, counts }: BatchNormOptions<D>,
    local: f64,
) -> BatchNormOutput<D> {
    let (mean, variance) = Dispatch::statistics(input.clone().into_dispatch());
    let own = [mean, variance].map(Tensor::from_dispatch);
    let GroupStatistics { mean, variance, count } =
        GroupStatistics::exchanged(&group, own, if counts { local } else { 0.0 });
    let output = Dispatch::normalize_by_group(
        input.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        mean.clone().into_dispatch(),
        variance.clone().into_dispatch(),
        Residual::from(residual.map(Tensor::into_dispatch)),
        epsilon,
        relu,
        Exchange::new(group, local, counts, count),
    );
    BatchNormOutput { output: Tensor::from_dispatch(output), mean, variance, count }
}

/// Normalises `input`, `[batch, channels, ...]`, by running statistics.
///
/// `weight` and `bias`, `[channels]`, scale and shift the result. On the CPU the output takes memory as in
/// [`batch_norm_train`].
///
/// # Panics
/// If the input has fewer than two axes, one of the `[channels]` tensors not one value a channel, or the
/// residual another shape than the input.
pub fn batch_norm_inference<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    running_mean: Tensor<1>,
    running_var: Tensor<1>,
    options: impl Into<BatchNormOptions<D>>,
) -> Tensor<D> {
    let options = options.into();
    let per_channel = [
        ("weight", &weight),
        ("bias", &bias),
        ("running mean", &running_mean),
        ("running variance", &running_var),
    ];
    check(input.dims(), &per_channel, options.residual.as_ref());
    Tensor::from_dispatch(Dispatch::normalize_by_statistics(
        input.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        running_mean.into_dispatch(),
        running_var.into_dispatch(),
        Residual::from(options.residual.map(Tensor::into_dispatch)),
        options.epsilon,
        options.relu,
    ))
}

/// Checks what is given beside values of this shape.
pub(crate) fn check<const D: usize>(
    shape: [usize; D],
    per_channel: &[(&str, &Tensor<1>)],
    residual: Option<&Tensor<D>>,
) {
    assert!(D >= 2, "batch_norm: the input has {D} axes, it needs batch and channels");
    for (name, tensor) in per_channel {
        let ([length], channels) = (tensor.dims(), shape[1]);
        assert_eq!(length, channels, "batch_norm: the {name} has {length} values for {channels} channels");
    }
    if let Some(residual) = residual {
        assert_eq!(residual.dims(), shape, "batch_norm: the residual's shape is not the input's");
    }
}
