//! Coefficients of a channel.

use crate::cpu::Affine;

/// How the gradient of a channel's input follows from that of its normalised values:
/// `g · scale − (x − centre) · slope − offset`, with scale and centre of the [`Affine`].
#[derive(Clone, Copy)]
pub(super) struct Slope {
    pub(super) slope: f32,
    pub(super) offset: f32,
}

impl Slope {
    /// With statistics that are constants.
    pub(super) const BY_STATISTICS: Self = Self { slope: 0.0, offset: 0.0 };

    /// With statistics of the batch, which depend on the input.
    pub(super) fn by_batch(affine: Affine, inverse: f64, sums: ParameterSums, count: f64) -> Self {
        let scale = f64::from(affine.scale) / count;
        Self { slope: (scale * inverse * sums.weight) as f32, offset: (scale * sums.bias) as f32 }
    }
}

/// Gradients of a channel's weight, `Σ g · normalised x`, and bias, `Σ g`.
#[derive(Clone, Copy, Default)]
pub(super) struct ParameterSums {
    pub(super) weight: f64,
    pub(super) bias: f64,
}
