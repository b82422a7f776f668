//! The transforms of F(4, 3) at the points 0, ±a, ±b and ∞, along one dimension and along both.

use super::{PATCH, TILE};
use crate::cpu::lanes::{Lanes, array};

const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;
const A3: f32 = A2 * A;
const B3: f32 = B2 * B;
/// The coefficients of `(x² − a²)(x² − b²)`, without the sign of the second.
const PRODUCT: f32 = A2 * B2;
const SUM: f32 = A2 + B2;
/// The Lagrange weights of 0, ±a and ±b: the inverse of the product of the distances to the other finite points.
const AT_ZERO: f32 = 1.0 / (A2 * B2);
const AT_A: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
const AT_B: f32 = 1.0 / (2.0 * B2 * (B2 - A2));

/// A square of values by their rows and columns.
#[inline(always)]
pub(super) fn square<T: Copy, const SIDE: usize>(
    mut value: impl FnMut(usize, usize) -> T,
) -> [[T; SIDE]; SIDE] {
    array(
        #[inline(always)]
        |row| {
            array(
                #[inline(always)]
                |column| value(row, column),
            )
        },
    )
}

/// Multiplication by a matrix `F`, `[TO, FROM]`.
pub(super) trait Transform<const FROM: usize, const TO: usize> {
    /// `F x`
    fn of<L: Lanes>(x: [L; FROM]) -> [L; TO];

    /// `F X Fᵀ`
    #[inline(always)]
    fn of_square<L: Lanes>(x: [[L; FROM]; FROM]) -> [[L; TO]; TO] {
        let columns: [[L; TO]; FROM] = array(
            #[inline(always)]
            |column| {
                Self::of(array(
                    #[inline(always)]
                    |row| x[row][column],
                ))
            },
        );
        array(
            #[inline(always)]
            |row| {
                Self::of(array(
                    #[inline(always)]
                    |column| columns[column][row],
                ))
            },
        )
    }
}

/// `x · factor + y`
#[inline(always)]
fn scaled_sum<L: Lanes>(x: L, factor: f32, y: L) -> L {
    x.mul_add(x.filled(factor), y)
}

#[inline(always)]
fn scaled<L: Lanes>(x: L, factor: f32) -> L {
    x.mul(x.filled(factor))
}

/// `(x₀ ± x₁ p + x₂ p²) w`
#[inline(always)]
fn weighted<L: Lanes>(x: [L; 3], weight: f32, point: f32, square: f32) -> [L; 2] {
    let (even, odd) = (scaled_sum(x[2], square, x[0]), scaled(x[1], point));
    [scaled(even.add(odd), weight), scaled(even.sub(odd), weight)]
}

/// `x₀ ± x₁ p + x₂ p² ± x₃ p³`
#[inline(always)]
fn cubic<L: Lanes>(x: [L; TILE], point: f32, square: f32, cube: f32) -> [L; 2] {
    let (even, odd) = (scaled_sum(x[2], square, x[0]), scaled_sum(x[3], cube, scaled(x[1], point)));
    [even.add(odd), even.sub(odd)]
}

/// `Bᵀ`: the values of an input at the points.
pub(super) struct Input;

impl Transform<PATCH, PATCH> for Input {
    #[inline(always)]
    fn of<L: Lanes>(x: [L; PATCH]) -> [L; PATCH] {
        let [even_a, even_b] = [scaled_sum(x[2], -B2, x[4]), scaled_sum(x[2], -A2, x[4])];
        let [odd_a, odd_b] = [scaled(scaled_sum(x[1], -B2, x[3]), A), scaled(scaled_sum(x[1], -A2, x[3]), B)];
        [
            scaled_sum(x[0], PRODUCT, scaled_sum(x[2], -SUM, x[4])),
            even_a.add(odd_a),
            even_a.sub(odd_a),
            even_b.add(odd_b),
            even_b.sub(odd_b),
            scaled_sum(x[1], PRODUCT, scaled_sum(x[3], -SUM, x[5])),
        ]
    }
}

/// `G`: the values of a kernel at the points, times their weights.
pub(super) struct Kernel;

impl Transform<3, PATCH> for Kernel {
    #[inline(always)]
    fn of<L: Lanes>(x: [L; 3]) -> [L; PATCH] {
        let ([plus_a, minus_a], [plus_b, minus_b]) = (weighted(x, AT_A, A, A2), weighted(x, AT_B, B, B2));
        [scaled(x[0], AT_ZERO), plus_a, minus_a, plus_b, minus_b, x[2]]
    }
}

/// `Aᵀ`: the output of products at the points.
pub(super) struct Output;

impl Transform<PATCH, TILE> for Output {
    #[inline(always)]
    fn of<L: Lanes>(x: [L; PATCH]) -> [L; TILE] {
        let [even_a, odd_a] = [x[1].add(x[2]), x[1].sub(x[2])];
        let [even_b, odd_b] = [x[3].add(x[4]), x[3].sub(x[4])];
        [
            x[0].add(even_a.add(even_b)),
            scaled_sum(odd_a, A, scaled(odd_b, B)),
            scaled_sum(even_a, A2, scaled(even_b, B2)),
            scaled_sum(odd_a, A3, scaled_sum(odd_b, B3, x[5])),
        ]
    }
}

/// `A`: the transpose of [`Output`], for gradients.
pub(super) struct OutputGradient;

impl Transform<TILE, PATCH> for OutputGradient {
    #[inline(always)]
    fn of<L: Lanes>(x: [L; TILE]) -> [L; PATCH] {
        let ([plus_a, minus_a], [plus_b, minus_b]) = (cubic(x, A, A2, A3), cubic(x, B, B2, B3));
        [x[0], plus_a, minus_a, plus_b, minus_b, x[3]]
    }
}

/// `Gᵀ`: the transpose of [`Kernel`], for gradients.
pub(super) struct KernelGradient;

impl Transform<PATCH, 3> for KernelGradient {
    #[inline(always)]
    fn of<L: Lanes>(x: [L; PATCH]) -> [L; 3] {
        let [even_a, odd_a] = [scaled(x[1].add(x[2]), AT_A), scaled(x[1].sub(x[2]), AT_A)];
        let [even_b, odd_b] = [scaled(x[3].add(x[4]), AT_B), scaled(x[3].sub(x[4]), AT_B)];
        [
            scaled_sum(x[0], AT_ZERO, even_a.add(even_b)),
            scaled_sum(odd_a, A, scaled(odd_b, B)),
            scaled_sum(even_a, A2, scaled_sum(even_b, B2, x[5])),
        ]
    }
}
