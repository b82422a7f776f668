//! Arithmetic on the values of one channel.

/// A channel's normalisation: `(x − centre) · scale + shift`.
///
/// It is made of the single-precision statistics that the backward pass sees, so that both passes agree
/// on the sign of every output.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    pub(super) centre: f32,
    pub(super) scale: f32,
    pub(super) shift: f32,
}

impl Affine {
    pub(super) fn new([weight, bias, mean, variance]: [f32; 4], epsilon: f64) -> Self {
        let scale = (f64::from(weight) * inverse_deviation(variance, epsilon)) as f32;
        Self { centre: mean, scale, shift: bias }
    }

    #[inline(always)]
    pub(super) fn apply(self, x: f32) -> f32 {
        (x - self.centre) * self.scale + self.shift
    }

    /// Centres, scales and shifts.
    pub(super) fn columns(affines: &[Self]) -> [Vec<f32>; 3] {
        [
            affines.iter().map(|affine| affine.centre).collect(),
            affines.iter().map(|affine| affine.scale).collect(),
            affines.iter().map(|affine| affine.shift).collect(),
        ]
    }
}

pub(super) fn inverse_deviation(variance: f32, epsilon: f64) -> f64 {
    1.0 / (f64::from(variance) + epsilon).sqrt()
}

/// The activation as the least value that passes: 0 for ReLU, −∞ for none.
#[derive(Clone, Copy)]
pub(super) struct Floor(f32);

impl Floor {
    pub(super) fn of(relu: bool) -> Self {
        Self(if relu { 0.0 } else { f32::NEG_INFINITY })
    }

    /// The activation; what is not a number stays so.
    #[inline(always)]
    pub(super) fn raise(self, value: f32) -> f32 {
        if value < self.0 { self.0 } else { value }
    }

    /// The gradient before the activation, given its output.
    #[inline(always)]
    pub(super) fn pass(self, gradient: f32, output: f32) -> f32 {
        if output <= self.0 { 0.0 } else { gradient }
    }
}

/// How the gradient of a channel's input follows from that of its output: `g · scale − (x − centre) · slope − offset`.
#[derive(Clone, Copy)]
pub(super) struct Slope {
    pub(super) centre: f32,
    pub(super) scale: f32,
    pub(super) slope: f32,
    pub(super) offset: f32,
}

impl Slope {
    /// With statistics of the batch, which depend on the input.
    pub(super) fn by_batch(affine: Affine, inverse: f64, sums: ParameterSums, count: f64) -> Self {
        let scale = f64::from(affine.scale) / count;
        Self {
            slope: (scale * inverse * sums.weight) as f32,
            offset: (scale * sums.bias) as f32,
            ..Self::by_statistics(affine)
        }
    }

    /// With statistics that are constants.
    pub(super) fn by_statistics(affine: Affine) -> Self {
        Self { centre: affine.centre, scale: affine.scale, slope: 0.0, offset: 0.0 }
    }

    #[inline(always)]
    pub(super) fn apply(self, gradient: f32, x: f32) -> f32 {
        gradient * self.scale - (x - self.centre) * self.slope - self.offset
    }

    /// Slopes and offsets.
    pub(super) fn columns(slopes: &[Self]) -> [Vec<f32>; 2] {
        [slopes.iter().map(|slope| slope.slope).collect(), slopes.iter().map(|slope| slope.offset).collect()]
    }
}

/// Gradients of a channel's weight, `Σ g · normalised x`, and bias, `Σ g`.
#[derive(Clone, Copy, Default)]
pub(super) struct ParameterSums {
    pub(super) weight: f64,
    pub(super) bias: f64,
}
