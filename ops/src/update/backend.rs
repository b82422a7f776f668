//! The steps as a backend extension.

use super::{GradientStepOptions, TrustRatio};
use burn::{
    backend::{Backend, TensorMetadata, backend_extension, get_device_settings, tensor::FloatTensor},
    tensor::Shape,
};

/// Steps that change parameters. The default bodies are Burn's operators.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
)]
pub(crate) trait UpdateOps: Backend {
    /// Parameter and the sum of the gradient's squares, `[1]`.
    fn plain_step(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        options: GradientStepOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        plain::<Self>(weight, gradient, options)
    }

    /// Parameter, momentum buffer and the sum of the gradient's squares, `[1]`.
    fn momentum_step(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        buffer: FloatTensor<Self>,
        options: GradientStepOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        with_momentum::<Self>(weight, gradient, buffer, options)
    }

    /// The moving average.
    fn average(average: FloatTensor<Self>, value: FloatTensor<Self>, momentum: f64) -> FloatTensor<Self> {
        weighted_mean::<Self>(average, value, momentum)
    }
}

/// A step without momentum, of Burn's operators.
pub(super) fn plain<B: Backend>(
    weight: FloatTensor<B>,
    gradient: FloatTensor<B>,
    options: GradientStepOptions,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (direction, squares) = direction::<B>(&weight, gradient, options);
    (moved::<B>(weight, direction, options.lr), squares)
}

/// A step with momentum, of Burn's operators.
pub(super) fn with_momentum<B: Backend>(
    weight: FloatTensor<B>,
    gradient: FloatTensor<B>,
    buffer: FloatTensor<B>,
    options: GradientStepOptions,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (direction, squares) = direction::<B>(&weight, gradient, options);
    let momentum = options.momentum;
    let buffer = B::float_add(B::float_mul_scalar(buffer, momentum.into()), direction.clone());
    let direction = if options.nesterov {
        B::float_add(direction, B::float_mul_scalar(buffer.clone(), momentum.into()))
    } else {
        buffer.clone()
    };
    (moved::<B>(weight, direction, options.lr), buffer, squares)
}

/// The moving average, of Burn's operators.
pub(super) fn weighted_mean<B: Backend>(
    average: FloatTensor<B>,
    value: FloatTensor<B>,
    momentum: f64,
) -> FloatTensor<B> {
    let value = B::float_mul_scalar(value, (1.0 - momentum).into());
    B::float_add(B::float_mul_scalar(average, momentum.into()), value)
}

/// `weight − lr·direction`
fn moved<B: Backend>(weight: FloatTensor<B>, direction: FloatTensor<B>, lr: f64) -> FloatTensor<B> {
    B::float_sub(weight, B::float_mul_scalar(direction, lr.into()))
}

/// The gradient with weight decay and trust ratio, and the sum of its squares before them.
fn direction<B: Backend>(
    weight: &FloatTensor<B>,
    gradient: FloatTensor<B>,
    options: GradientStepOptions,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let decay = options.weight_decay;
    let squares = sum_of_squares::<B>(gradient.clone());
    let ratio = options.trust.map(|trust| {
        let weight_norm = B::float_sqrt(sum_of_squares::<B>(weight.clone()));
        trust_ratio::<B>(weight_norm, B::float_sqrt(squares.clone()), decay, trust)
    });
    let decayed = match decay {
        0.0 => gradient,
        _ => B::float_add(gradient, B::float_mul_scalar(weight.clone(), decay.into())),
    };
    let direction = match ratio {
        Some(ratio) => {
            let ratio = B::float_reshape(ratio, Shape::from(vec![1; decayed.rank()]));
            B::float_mul(decayed, ratio)
        }
        None => decayed,
    };
    (direction, squares)
}

/// The trust ratio, `[1]`, which stays on the device.
pub(super) fn trust_ratio<B: Backend>(
    weight: FloatTensor<B>,
    gradient: FloatTensor<B>,
    decay: f64,
    TrustRatio { coefficient, eps }: TrustRatio,
) -> FloatTensor<B> {
    let bools = get_device_settings::<B>(&weight.device()).bool_dtype;
    let positive = |norm: &FloatTensor<B>| B::float_greater_elem(norm.clone(), 0.0.into(), bools);
    let positive = B::bool_and(positive(&weight), positive(&gradient));
    let decayed = B::float_mul_scalar(weight.clone(), decay.into());
    let denominator = B::float_add_scalar(B::float_add(gradient, decayed), eps.into());
    let ratio = B::float_div(B::float_mul_scalar(weight, coefficient.into()), denominator);
    B::float_mask_fill(ratio, B::bool_not(positive), 1.0.into())
}

pub(super) fn sum_of_squares<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    B::float_sum(B::float_mul(tensor.clone(), tensor))
}
