//! Left operands in tiles, shared by threads.

use super::{
    Matrix, amx,
    cut::Cut,
    split::{BLOCK, DEPTH, Operand, Tile, block_tiles, pack_block},
};
use crate::cpu::Spare;
use rayon::prelude::*;

/// A left operand in tiles: for every block of rows, for every step of the inner dimension, the two tiles of
/// each part.
pub(crate) struct Packed {
    tiles: Vec<Tile>,
    /// Tiles of a step.
    step: usize,
    /// Steps of a block.
    steps: usize,
}

static SPARE: Spare<Tile> = Spare::new(4);

impl Packed {
    /// Packs a `[rows, depth]` matrix with all threads.
    ///
    /// # Panics
    /// As [`sum_of`](Self::sum_of).
    pub(super) fn new<C: Cut>(matrix: Matrix<'_, C::Number>, sizes: [usize; 2]) -> Self {
        Self::sum_of::<C>(matrix, sizes, &[0])
    }

    /// Packs the matrices `[rows, depth]` that begin at `offsets` in the memory of the first: a product with
    /// this operand is the sum of products with each. Its steps are 32 of the inner dimension of the first
    /// matrix, of the second, ..., and again.
    ///
    /// # Panics
    /// If there are no kernels for such parts, or a matrix overruns its slice.
    pub(crate) fn sum_of<C: Cut>(
        matrix: Matrix<'_, C::Number>,
        [rows, depth]: [usize; 2],
        offsets: &[usize],
    ) -> Self {
        amx::require::<C>();
        for &offset in offsets {
            let matrix = Matrix { data: matrix.data.get(offset..).unwrap_or_default(), ..matrix };
            assert!(matrix.holds(rows, depth), "a matrix of {rows}×{depth} overruns its slice");
        }
        let (step, steps) = (block_tiles::<C>(), depth.div_ceil(DEPTH) * offsets.len());
        let length = rows.div_ceil(BLOCK) * steps * step;
        let mut tiles = SPARE.take(length, Tile::ZERO);
        tiles[..length].par_chunks_exact_mut(steps * step).enumerate().for_each(|(block, tiles)| {
            let mut tiles = tiles.chunks_exact_mut(step);
            for from in (0..depth).step_by(DEPTH) {
                for (&offset, tiles) in offsets.iter().zip(&mut tiles) {
                    let matrix = Matrix { data: &matrix.data[offset..], ..matrix };
                    let operand = Operand::left(matrix, [rows, depth]);
                    // SAFETY: there are kernels, and with them AVX-512; the matrix holds its rows (both asserted
                    // above).
                    unsafe { pack_block::<C, true>(&operand, [block * BLOCK, from], tiles) };
                }
            }
        });
        Self { tiles, step, steps }
    }

    /// The tiles of block `block` of the rows, from a step on.
    pub(crate) fn block(&self, block: usize, step: usize) -> *const Tile {
        self.tiles[(block * self.steps + step) * self.step..].as_ptr()
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        SPARE.give(std::mem::take(&mut self.tiles));
    }
}
