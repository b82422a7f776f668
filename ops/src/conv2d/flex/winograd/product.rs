//! Products of matrices with right operands of 32 columns.

use crate::cpu::lanes::{Lanes, WIDTH, array};

/// Columns of a right operand and of a product.
pub(super) const COLUMNS: usize = 2 * WIDTH;
/// Rows of a product are multiples of this.
pub(super) const ROWS: usize = 8;

/// A matrix by its first element and the elements from one row to the next and from one column to the next.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub start: *const f32,
    pub row: usize,
    pub column: usize,
}

/// `target = left · right`, or `target += left · right`: `[rows, depth] · [depth, 32]`, the rows of right and target one
/// after the other. `rows` is a multiple of eight.
///
/// # Safety
/// The processor has the instructions of the lanes; the operands may be read and the target written, and read where it is
/// added to.
#[inline(always)]
pub(super) unsafe fn product<L: Lanes>(
    [rows, depth]: [usize; 2],
    left: Left,
    right: *const f32,
    target: *mut f32,
    accumulate: bool,
) {
    debug_assert!(rows.is_multiple_of(ROWS));
    // SAFETY: the caller's promise.
    unsafe {
        if L::MANY {
            for row in (0..rows).step_by(ROWS) {
                let left = Left { start: left.start.add(row * left.row), ..left };
                block::<L, ROWS, 2>(depth, left, right, target.add(row * COLUMNS), accumulate);
            }
        } else {
            for row in (0..rows).step_by(ROWS / 2) {
                let left = Left { start: left.start.add(row * left.row), ..left };
                for column in [0, WIDTH] {
                    let target = target.add(row * COLUMNS + column);
                    block::<L, { ROWS / 2 }, 1>(depth, left, right.add(column), target, accumulate);
                }
            }
        }
    }
}

/// A block of the product, which stays in registers.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
unsafe fn block<L: Lanes, const HEIGHT: usize, const LANES: usize>(
    depth: usize,
    left: Left,
    right: *const f32,
    target: *mut f32,
    accumulate: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[L::splat(0.0); LANES]; HEIGHT];
        if accumulate {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (lanes, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load(target.add(row * COLUMNS + lanes * WIDTH));
                }
            }
        }
        let (mut column, mut right) = (left.start, right);
        for _ in 0..depth {
            let factors: [L; LANES] = array(
                #[inline(always)]
                |lanes| L::load(right.add(lanes * WIDTH)),
            );
            for (row, sums) in sums.iter_mut().enumerate() {
                let factor = L::splat(column.add(row * left.row).read());
                for (sum, other) in sums.iter_mut().zip(&factors) {
                    *sum = factor.mul_add(*other, *sum);
                }
            }
            column = column.wrapping_add(left.column);
            right = right.wrapping_add(COLUMNS);
        }
        for (row, sums) in sums.iter().enumerate() {
            for (lanes, sum) in sums.iter().enumerate() {
                sum.store(target.add(row * COLUMNS + lanes * WIDTH));
            }
        }
    }
}
