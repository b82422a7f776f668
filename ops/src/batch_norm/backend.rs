//! Batch normalisation as a backend extension.

use super::exchange::Exchange;
use burn::{
    backend::{Backend, ExtensionType, TensorMetadata, backend_extension, tensor::FloatTensor},
    tensor::Shape,
};

/// What is added to the normalised values.
#[derive(ExtensionType)]
pub(crate) enum Residual<B: Backend> {
    Absent,
    /// A tensor of the input's shape.
    Added(FloatTensor<B>),
}

#[cfg(any(feature = "flex", feature = "cube"))]
impl<B: Backend> Residual<B> {
    pub(crate) fn into_tensor(self) -> Option<FloatTensor<B>> {
        match self {
            Residual::Absent => None,
            Residual::Added(tensor) => Some(tensor),
        }
    }
}

impl<B: Backend> From<Option<FloatTensor<B>>> for Residual<B> {
    fn from(tensor: Option<FloatTensor<B>>) -> Self {
        tensor.map_or(Residual::Absent, Residual::Added)
    }
}

/// Batch normalisation, then a residual, then ReLU. The default bodies are Burn's operators.
///
/// `input` is `[batch, channels, ...]`, `weight`, `bias`, `mean` and `variance` are `[channels]`.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Capture,
    Autodiff,
)]
pub(crate) trait BatchNormOps: Backend {
    /// Output, mean and biased variance.
    fn normalize_by_batch(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        #[extension_type] residual: Residual<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed_by_batch::<Self>(input, weight, bias, residual, epsilon, relu)
    }

    /// Output, given statistics.
    fn normalize_by_statistics(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        #[extension_type] residual: Residual<Self>,
        epsilon: f64,
        relu: bool,
    ) -> FloatTensor<Self> {
        composed_by_statistics::<Self>(input, weight, bias, mean, variance, residual, epsilon, relu)
    }

    /// Mean and biased variance of each channel; without gradient.
    fn statistics(input: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed_statistics::<Self>(input)
    }

    /// Output, given statistics of the batches of several processes, this one's among them.
    fn normalize_by_group(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        #[extension_type] residual: Residual<Self>,
        epsilon: f64,
        relu: bool,
        exchange: Exchange,
    ) -> FloatTensor<Self> {
        // Only a backward pass exchanges something.
        drop(exchange);
        Self::normalize_by_statistics(input, weight, bias, mean, variance, residual, epsilon, relu)
    }
}

/// What the backward pass knows of the forward pass.
#[derive(Clone)]
pub(crate) struct Saved<T> {
    /// Needed with statistics of the batch, for the gradients of weight and bias, and without an output.
    pub(super) input: Option<T>,
    /// Needed for ReLU after a residual.
    pub(super) output: Option<T>,
    pub(super) weight: T,
    pub(super) bias: T,
    pub(super) mean: T,
    pub(super) variance: T,
    pub(super) epsilon: f64,
    pub(super) relu: bool,
    /// Whether the statistics depend on the input.
    pub(super) by_batch: bool,
    /// The gradients of weight and bias that this dependence follows from, as if all were of this batch; by default they are.
    pub(super) sums: Option<[T; 2]>,
}

/// The gradients that somebody needs.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(super) input: bool,
    pub(super) residual: bool,
    pub(super) parameters: bool,
}

/// The wanted gradients.
pub(crate) struct Gradients<T> {
    pub(super) input: Option<T>,
    pub(super) residual: Option<T>,
    /// Those of weight and bias.
    pub(super) parameters: Option<[T; 2]>,
}

/// The backward passes of [`BatchNormOps`]. The default body is Burn's operators.
pub(crate) trait BatchNormGradients: Backend {
    /// Gradients, given that of the output.
    fn normalization_gradients(
        saved: Saved<FloatTensor<Self>>,
        wanted: Wanted,
        gradient: FloatTensor<Self>,
    ) -> Gradients<FloatTensor<Self>> {
        composed_gradients::<Self>(saved, wanted, gradient)
    }
}

/// [`BatchNormOps::normalize_by_batch`] of Burn's operators.
pub(super) fn composed_by_batch<B: Backend>(
    input: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    residual: Residual<B>,
    epsilon: f64,
    relu: bool,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let result = B::batch_norm_train(input, weight, bias, epsilon);
    (composed_ending::<B>(result.output, residual, relu), result.mean, result.variance)
}

/// [`BatchNormOps::normalize_by_statistics`] of Burn's operators.
pub(crate) fn composed_by_statistics<B: Backend>(
    input: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    mean: FloatTensor<B>,
    variance: FloatTensor<B>,
    residual: Residual<B>,
    epsilon: f64,
    relu: bool,
) -> FloatTensor<B> {
    composed_ending::<B>(B::batch_norm(input, weight, bias, mean, variance, epsilon), residual, relu)
}

fn composed_ending<B: Backend>(
    normalized: FloatTensor<B>,
    residual: Residual<B>,
    relu: bool,
) -> FloatTensor<B> {
    let sum = match residual {
        Residual::Absent => normalized,
        Residual::Added(residual) => B::float_add(normalized, residual),
    };
    if relu { B::relu(sum) } else { sum }
}

/// [`BatchNormGradients::normalization_gradients`] of Burn's operators.
pub(super) fn composed_gradients<B: Backend>(
    saved: Saved<FloatTensor<B>>,
    wanted: Wanted,
    gradient: FloatTensor<B>,
) -> Gradients<FloatTensor<B>> {
    let Saved { input, output, weight, bias, mean, variance, epsilon, relu, by_batch, sums } = saved;
    let kept = || input.clone().expect("the forward pass keeps the input where it is needed");
    let gradient = if relu {
        let output = output.unwrap_or_else(|| {
            B::batch_norm(kept(), weight.clone(), bias, mean.clone(), variance.clone(), epsilon)
        });
        B::relu_backward(output, gradient)
    } else {
        gradient
    };
    let residual = wanted.residual.then(|| gradient.clone());
    if let (true, Some(sums)) = (by_batch, sums) {
        let input = dependent_gradient::<B>(kept(), [weight, mean, variance], sums, epsilon, gradient);
        return Gradients { input: Some(input), residual, parameters: None };
    }
    if by_batch {
        let gradients = B::batch_norm_train_backward(kept(), weight, mean, variance, epsilon, gradient);
        let parameters = Some([gradients.gamma_grad, gradients.beta_grad]);
        return Gradients { input: Some(gradients.x_grad), residual, parameters };
    }
    let parameters = wanted
        .parameters
        .then(|| parameter_gradients::<B>(kept(), mean, variance.clone(), epsilon, gradient.clone()));
    let input = wanted.input.then(|| input_gradient::<B>(weight, variance, epsilon, gradient));
    Gradients { input, residual, parameters }
}

/// Gradient of the input where the statistics depend on it: with the normalised `x̂`, gradients `s` of the weight and `b` of the
/// bias, and `n` values a channel, `weight / σ · (g − (b + x̂ · s) / n)`.
fn dependent_gradient<B: Backend>(
    input: FloatTensor<B>,
    [weight, mean, variance]: [FloatTensor<B>; 3],
    [weight_gradient, bias_gradient]: [FloatTensor<B>; 2],
    epsilon: f64,
    output_gradient: FloatTensor<B>,
) -> FloatTensor<B> {
    let rank = input.rank();
    let count = input.shape().num_elements() / input.shape()[1];
    let centred = B::float_sub(input, per_channel::<B>(mean, rank));
    let deviation = deviation::<B>(variance.clone(), epsilon);
    let slope = per_channel::<B>(B::float_div(weight_gradient, deviation), rank);
    let dependent = B::float_add(B::float_mul(centred, slope), per_channel::<B>(bias_gradient, rank));
    let dependent = B::float_div_scalar(dependent, (count as f64).into());
    input_gradient::<B>(weight, variance, epsilon, B::float_sub(output_gradient, dependent))
}

/// [`BatchNormOps::statistics`] of Burn's operators.
pub(super) fn composed_statistics<B: Backend>(input: FloatTensor<B>) -> (FloatTensor<B>, FloatTensor<B>) {
    let (rank, shape) = (input.rank(), input.shape());
    let count = (shape.num_elements() / shape[1]) as f64;
    let mean = B::float_div_scalar(channel_sums::<B>(input.clone()), count.into());
    let centred = B::float_sub(input, per_channel::<B>(mean.clone(), rank));
    let squares = channel_sums::<B>(B::float_mul(centred.clone(), centred));
    (mean, B::float_div_scalar(squares, count.into()))
}

/// Gradients where the statistics are those of several processes: the ranks exchange the gradients of weight and bias, then each
/// finds those of its activations. The gradients of weight and bias that come back are of this batch alone.
pub(super) fn group_gradients<B: BatchNormGradients>(
    saved: Saved<FloatTensor<B>>,
    wanted: Wanted,
    gradient: FloatTensor<B>,
    exchange: &Exchange,
) -> Gradients<FloatTensor<B>> {
    let constant = Saved { by_batch: false, sums: None, ..saved.clone() };
    let only = Wanted { input: false, residual: false, parameters: true };
    let parameters = B::normalization_gradients(constant, only, gradient.clone()).parameters;
    let parameters = parameters.expect("the gradients of weight and bias are wanted");
    let sums = exchange.sum::<B>(parameters.clone());
    let saved = Saved { by_batch: exchange.counts(), sums: exchange.counts().then_some(sums), ..saved };
    let Gradients { input, residual, .. } =
        B::normalization_gradients(saved, Wanted { parameters: false, ..wanted }, gradient);
    Gradients { input, residual, parameters: wanted.parameters.then_some(parameters) }
}

/// Gradient of the input where the statistics are constants.
fn input_gradient<B: Backend>(
    weight: FloatTensor<B>,
    variance: FloatTensor<B>,
    epsilon: f64,
    output_gradient: FloatTensor<B>,
) -> FloatTensor<B> {
    let scale = B::float_div(weight, deviation::<B>(variance, epsilon));
    let scale = per_channel::<B>(scale, output_gradient.rank());
    B::float_mul(output_gradient, scale)
}

/// Gradients of weight and bias where the statistics are constants.
fn parameter_gradients<B: Backend>(
    input: FloatTensor<B>,
    mean: FloatTensor<B>,
    variance: FloatTensor<B>,
    epsilon: f64,
    output_gradient: FloatTensor<B>,
) -> [FloatTensor<B>; 2] {
    let rank = input.rank();
    let centred = B::float_sub(input, per_channel::<B>(mean, rank));
    let deviation = per_channel::<B>(deviation::<B>(variance, epsilon), rank);
    let weight = B::float_mul(output_gradient.clone(), B::float_div(centred, deviation));
    [channel_sums::<B>(weight), channel_sums::<B>(output_gradient)]
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

// Graph capture records the standard operators, which is what an exporter knows.
impl BatchNormOps for burn::backend::Capture {}
impl BatchNormGradients for burn::backend::Capture {}
