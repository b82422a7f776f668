//! What normalisation and bias do to the values of a channel.

/// A channel's normalisation: `(x − centre) · scale + shift`.
///
/// It is made of the single-precision statistics that a backward pass sees, so that both passes agree
/// on the sign of every output.
#[derive(Clone, Copy)]
pub(crate) struct Affine {
    pub(crate) centre: f32,
    pub(crate) scale: f32,
    pub(crate) shift: f32,
}

impl Affine {
    /// Leaves values as they are.
    pub(crate) const IDENTITY: Self = Self::bias(0.0);

    /// A batch normalisation by weight, bias, mean and variance.
    pub(crate) fn new([weight, bias, mean, variance]: [f32; 4], epsilon: f64) -> Self {
        let scale = (f64::from(weight) * inverse_deviation(variance, epsilon)) as f32;
        Self { centre: mean, scale, shift: bias }
    }

    /// Adds a bias.
    pub(crate) const fn bias(bias: f32) -> Self {
        Self { centre: 0.0, scale: 1.0, shift: bias }
    }

    /// The value that it makes of another.
    #[inline(always)]
    pub(crate) fn of(self, value: f32) -> f32 {
        (value - self.centre) * self.scale + self.shift
    }
}

/// `1 / √(variance + ε)`
pub(crate) fn inverse_deviation(variance: f32, epsilon: f64) -> f64 {
    1.0 / (f64::from(variance) + epsilon).sqrt()
}
