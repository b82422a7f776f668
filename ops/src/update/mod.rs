//! Steps of training that change parameters: SGD with momentum, LARS, and the moving average.
//!
//! Tensors are without autodiff. On the CPU a tensor that nobody else holds is changed in place.

mod backend;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;

use backend::UpdateOps;
use burn::{backend::Dispatch, tensor::Tensor};

/// How [`gradient_step`] changes a parameter; w parameter, g gradient, b momentum buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientStepOptions {
    /// Learning rate.
    pub lr: f64,
    /// `b ← momentum·b + g`
    pub momentum: f64,
    /// Moves `w` against `g + momentum·b` instead of `b`.
    pub nesterov: bool,
    /// First of all, `g ← g + weight_decay·w`.
    pub weight_decay: f64,
    /// LARS: `g` is then multiplied by the trust ratio.
    pub trust: Option<TrustRatio>,
}

/// `coefficient·‖w‖ / (‖g‖ + weight_decay·‖w‖ + eps)`, and 1 unless both norms are positive; g is the gradient
/// before decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrustRatio {
    /// LARS' trust coefficient.
    pub coefficient: f64,
    /// Added to the denominator.
    pub eps: f64,
}

/// What a gradient step makes of a parameter.
pub struct GradientStep<const D: usize> {
    /// The parameter.
    pub weight: Tensor<D>,
    /// The momentum buffer, where there was one.
    pub buffer: Option<Tensor<D>>,
    /// Sum of the gradient's squares, before decay and trust ratio; `[1]`.
    pub gradient_squares: Tensor<1>,
}

/// `w ← w − lr·b`, or without a buffer `w ← w − lr·g`; see [`GradientStepOptions`].
///
/// A buffer of zeros begins a momentum. Sums are in a fixed order, so results do not depend on the number of threads.
///
/// # Panics
/// If the shapes differ or a tensor is on an autodiff device.
pub fn gradient_step<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    buffer: Option<Tensor<D>>,
    options: GradientStepOptions,
) -> GradientStep<D> {
    assert_eq!(weight.dims(), gradient.dims(), "gradient_step: parameter and gradient differ in shape");
    let (weight, gradient) = (weight.into_dispatch(), gradient.into_dispatch());
    let (weight, buffer, gradient_squares) = match buffer {
        Some(buffer) => {
            let buffer = buffer.into_dispatch();
            let (weight, buffer, squares) = Dispatch::momentum_step(weight, gradient, buffer, options);
            (weight, Some(Tensor::from_dispatch(buffer)), squares)
        }
        None => {
            let (weight, squares) = Dispatch::plain_step(weight, gradient, options);
            (weight, None, squares)
        }
    };
    GradientStep {
        weight: Tensor::from_dispatch(weight),
        buffer,
        gradient_squares: Tensor::from_dispatch(gradient_squares),
    }
}

/// `momentum·average + (1 − momentum)·value`.
///
/// # Panics
/// If the shapes differ or a tensor is on an autodiff device.
pub fn moving_average<const D: usize>(average: Tensor<D>, value: Tensor<D>, momentum: f64) -> Tensor<D> {
    assert_eq!(average.dims(), value.dims(), "moving_average: average and value differ in shape");
    Tensor::from_dispatch(Dispatch::average(average.into_dispatch(), value.into_dispatch(), momentum))
}
