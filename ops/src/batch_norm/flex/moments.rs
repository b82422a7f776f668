//! Mean and variance in one pass.

use super::{
    functions::{Difference, Itself},
    loops::{BLOCK, sums},
};
use crate::cpu::lanes::{InLanes, Lanes};

/// Number, mean and sum of squared deviations of the values so far.
///
/// Blocks of values are summed in single precision as differences to the mean so far, and blocks are
/// combined in double precision (Chan, Golub and LeVeque 1983). The squared shifts between the mean so far
/// and a block's mean add up to at most twice the result, so nothing cancels, however large the mean is.
#[derive(Clone, Copy, Default)]
pub(super) struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Takes in more values.
    ///
    /// # Safety
    /// The processor has the instructions of the lanes.
    #[inline(always)]
    pub(super) unsafe fn add<L: Lanes, N: InLanes>(&mut self, values: &[N]) {
        for block in values.chunks(BLOCK) {
            if self.count == 0.0 {
                // SAFETY: the caller's promise.
                let [sum] = unsafe { sums::<L, N, 1, 1>([block], Itself) };
                self.mean = sum / block.len() as f64;
            }
            let shift = self.mean as f32;
            // SAFETY: as above.
            let sums = unsafe { sums::<L, N, 1, 2>([block], Difference(shift)) };
            self.combine(block.len() as f64, self.mean - f64::from(shift), sums);
        }
    }

    /// Takes in `count` values, given the sums of their differences to `mean − rest` and of the squares.
    #[inline(always)]
    fn combine(&mut self, count: f64, rest: f64, [sum, squares]: [f64; 2]) {
        let squares = squares - rest * (2.0 * sum - count * rest);
        let sum = sum - count * rest;
        self.count += count;
        let step = sum / self.count;
        self.mean += step;
        self.squares += squares - sum * step;
    }

    pub(super) fn mean(&self) -> f32 {
        self.mean as f32
    }

    /// The biased variance.
    pub(super) fn variance(&self) -> f32 {
        // Rounding may leave a trace below zero; a result that is not a number stays so.
        let squares = if self.squares < 0.0 { 0.0 } else { self.squares };
        (squares / self.count) as f32
    }
}
