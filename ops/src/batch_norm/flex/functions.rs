//! What is computed of the values at one place: `x` of the input, `r` of the residual, `y` of the output, `g`
//! of the output's gradient.
//!
//! In planes the coefficients of the channel are the same at all places. In rows, where planes are single
//! values, each place has its own, which are sources as well: `c` centre, `a` scale, `b` shift, `s` slope, `o`
//! offset.

use super::{channel::Slope, loops::Function};
use crate::cpu::Affine;
use crate::cpu::lanes::Lanes;

/// The least value that passes the activation: 0 for ReLU, −∞ for none.
#[derive(Clone, Copy)]
pub(super) struct Floor(f32);

impl Floor {
    pub(super) fn of(relu: bool) -> Self {
        Self(if relu { 0.0 } else { f32::NEG_INFINITY })
    }

    #[inline(always)]
    fn raise<L: Lanes>(self, value: L) -> L {
        value.raise(value.filled(self.0))
    }

    /// The gradient before the activation.
    #[inline(always)]
    fn pass<L: Lanes>(self, g: L, y: L) -> L {
        g.pass(y, y.filled(self.0))
    }
}

#[inline(always)]
fn normalized<L: Lanes>(x: L, [c, a, b]: [L; 3]) -> L {
    x.sub(c).mul(a).add(b)
}

#[inline(always)]
fn input_gradient<L: Lanes>(g: L, x: L, [c, a, s, o]: [L; 4]) -> L {
    g.mul(a).sub(x.sub(c).mul(s)).sub(o)
}

/// Centre, scale and shift in lanes of a kind.
#[inline(always)]
fn like<L: Lanes>(affine: Affine, lanes: L) -> [L; 3] {
    [lanes.filled(affine.centre), lanes.filled(affine.scale), lanes.filled(affine.shift)]
}

impl Slope {
    /// Centre, scale, slope and offset in lanes of a kind.
    #[inline(always)]
    fn like<L: Lanes>(self, affine: Affine, lanes: L) -> [L; 4] {
        [
            lanes.filled(affine.centre),
            lanes.filled(affine.scale),
            lanes.filled(self.slope),
            lanes.filled(self.offset),
        ]
    }
}

pub(super) struct Itself;

impl Function<1, 1> for Itself {
    #[inline(always)]
    fn apply<L: Lanes>(&self, x: [L; 1]) -> [L; 1] {
        x
    }
}

/// The difference to a value, and its square.
pub(super) struct Difference(pub(super) f32);

impl Function<1, 2> for Difference {
    #[inline(always)]
    fn apply<L: Lanes>(&self, [x]: [L; 1]) -> [L; 2] {
        let difference = x.sub(x.filled(self.0));
        [difference, difference.mul(difference)]
    }
}

/// Outputs of a plane.
pub(super) struct Output(pub(super) Affine, pub(super) Floor);

impl Function<1, 1> for Output {
    #[inline(always)]
    fn apply<L: Lanes>(&self, [x]: [L; 1]) -> [L; 1] {
        [self.1.raise(normalized(x, like(self.0, x)))]
    }
}

impl Function<2, 1> for Output {
    #[inline(always)]
    fn apply<L: Lanes>(&self, [x, r]: [L; 2]) -> [L; 1] {
        [self.1.raise(normalized(x, like(self.0, x)).add(r))]
    }
}

/// Terms of the gradients of a plane's weight, yet without the inverse deviation, and bias.
pub(super) struct ParameterTerms(pub(super) Affine, pub(super) Floor);

impl Function<2, 2> for ParameterTerms {
    #[inline(always)]
    fn apply<L: Lanes>(&self, [g, x]: [L; 2]) -> [L; 2] {
        self.apply([g, x, normalized(x, like(self.0, x))])
    }
}

impl Function<3, 2> for ParameterTerms {
    #[inline(always)]
    fn apply<L: Lanes>(&self, [g, x, y]: [L; 3]) -> [L; 2] {
        let g = self.1.pass(g, y);
        [g.mul(x.sub(x.filled(self.0.centre))), g]
    }
}

/// Gradients of a plane's input and residual.
pub(super) struct InputGradient(pub(super) Affine, pub(super) Slope, pub(super) Floor);

impl Function<2, 1> for InputGradient {
    #[inline(always)]
    fn apply<L: Lanes>(&self, [g, x]: [L; 2]) -> [L; 1] {
        self.apply([g, x, normalized(x, like(self.0, x))])
    }
}

impl Function<3, 1> for InputGradient {
    #[inline(always)]
    fn apply<L: Lanes>(&self, values: [L; 3]) -> [L; 1] {
        let [input, _]: [L; 2] = self.apply(values);
        [input]
    }
}

impl Function<3, 2> for InputGradient {
    #[inline(always)]
    fn apply<L: Lanes>(&self, [g, x, y]: [L; 3]) -> [L; 2] {
        let g = self.2.pass(g, y);
        [input_gradient(g, x, self.1.like(self.0, g)), g]
    }
}

/// A sum with the next row's squared difference to the centres.
pub(super) struct RowSquares;

impl Function<3, 1> for RowSquares {
    #[inline(always)]
    fn apply<L: Lanes>(&self, [sum, x, c]: [L; 3]) -> [L; 1] {
        let difference = x.sub(c);
        [sum.add(difference.mul(difference))]
    }
}

/// Outputs of a row.
pub(super) struct RowOutput(pub(super) Floor);

impl Function<4, 1> for RowOutput {
    #[inline(always)]
    fn apply<L: Lanes>(&self, [x, c, a, b]: [L; 4]) -> [L; 1] {
        [self.0.raise(normalized(x, [c, a, b]))]
    }
}

impl Function<5, 1> for RowOutput {
    #[inline(always)]
    fn apply<L: Lanes>(&self, [x, c, a, b, r]: [L; 5]) -> [L; 1] {
        [self.0.raise(normalized(x, [c, a, b]).add(r))]
    }
}

/// The gradient before the activation, for a row's mask of the output.
pub(super) struct RowMasked(pub(super) Floor);

impl Function<2, 1> for RowMasked {
    #[inline(always)]
    fn apply<L: Lanes>(&self, [g, y]: [L; 2]) -> [L; 1] {
        [self.0.pass(g, y)]
    }
}

impl Function<5, 1> for RowMasked {
    #[inline(always)]
    fn apply<L: Lanes>(&self, [g, x, c, a, b]: [L; 5]) -> [L; 1] {
        [self.0.pass(g, normalized(x, [c, a, b]))]
    }
}

/// The sums of [`ParameterTerms`] with those of the next row, whose gradient is masked.
pub(super) struct RowParameterTerms;

impl Function<5, 2> for RowParameterTerms {
    #[inline(always)]
    fn apply<L: Lanes>(&self, [weight, bias, g, x, c]: [L; 5]) -> [L; 2] {
        [weight.add(g.mul(x.sub(c))), bias.add(g)]
    }
}

/// Gradients of a row's input, whose own gradient is masked.
pub(super) struct RowInputGradient;

impl Function<6, 1> for RowInputGradient {
    #[inline(always)]
    fn apply<L: Lanes>(&self, [g, x, c, a, s, o]: [L; 6]) -> [L; 1] {
        [input_gradient(g, x, [c, a, s, o])]
    }
}
