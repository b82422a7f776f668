//! Matrices as sums of bfloat16 matrices, in AMX's tile layout.
//!
//! A 32-bit float has 24 significant bits, a bfloat16 has 8 and the same exponents, so `x = high + middle + low`
//! exactly: `high` is `x` rounded, `middle` the rest rounded, `low` what then remains (Henry, Tang and
//! Heinecke, arXiv 1904.06376). Numbers below 2⁻¹¹⁰ lose their low parts; AMX takes subnormal numbers for 0.
//! Where bfloat16 is precise enough there is one part, the number rounded. How a number is cut is a [`Cut`].
//!
//! A tile has 16 rows of 32 numbers. A left tile's rows are the matrix's, its columns 32 steps of the inner
//! dimension. A right tile's row holds two neighbouring steps of the inner dimension of 16 columns, by turns.

use super::{
    Matrix,
    cut::{Cut, MAX_PARTS},
};
use crate::cpu::Number;
use std::arch::x86_64::*;

/// Rows of a tile; also pairs of numbers in a row.
pub(crate) const TILE: usize = 16;
/// Steps of the inner dimension in a tile.
pub(crate) const DEPTH: usize = 2 * TILE;
/// Rows or columns of a block of the result, two tiles each way.
pub(crate) const BLOCK: usize = 2 * TILE;

/// How far ahead of packing rows are asked for, in numbers.
const PREFETCH_DISTANCE: usize = 4 * DEPTH;

/// 16 rows of 16 pairs of bfloat16 numbers.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Tile([u32; TILE * TILE]);

impl Tile {
    pub(crate) const ZERO: Self = Self([0; TILE * TILE]);
}

/// Tiles of a block of an operand: two of each part.
pub(crate) const fn block_tiles<C: Cut>() -> usize {
    2 * C::PARTS
}

/// A matrix to be packed: `outer` rows of a left or columns of a right one, `depth` steps of the inner
/// dimension. One of the strides of a right operand is 1.
#[derive(Clone, Copy)]
pub(crate) struct Operand<N> {
    data: *const N,
    outer: usize,
    outer_stride: usize,
    depth: usize,
    depth_stride: usize,
}

impl<N: Number> Operand<N> {
    /// A left operand, `[rows, depth]`.
    pub(crate) fn left(matrix: Matrix<'_, N>, [rows, depth]: [usize; 2]) -> Self {
        Self {
            data: matrix.data.as_ptr(),
            outer: rows,
            outer_stride: matrix.row_stride,
            depth,
            depth_stride: matrix.column_stride,
        }
    }

    /// A right operand, `[depth, columns]`.
    pub(crate) fn right(matrix: Matrix<'_, N>, [depth, columns]: [usize; 2]) -> Self {
        Self::left(matrix.transposed(), [columns, depth])
    }

    /// `outer` rows or columns from `start` and `depth` steps from `from`.
    pub(crate) fn part(self, [start, outer]: [usize; 2], [from, depth]: [usize; 2]) -> Self {
        let offset = start * self.outer_stride + from * self.depth_stride;
        Self { data: self.data.wrapping_add(offset), outer, depth, ..self }
    }

    /// Blocks of 32 rows or columns and 32 steps.
    pub(crate) fn blocks(&self) -> usize {
        self.outer.div_ceil(BLOCK) * self.depth.div_ceil(DEPTH)
    }
}

/// Packs an operand, a left one or a right one.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and the operand's elements are there.
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn pack<C: Cut, const LEFT: bool>(operand: &Operand<C::Number>, tiles: &mut [Tile]) {
    let steps = operand.depth.div_ceil(DEPTH);
    let mut one = |start: usize, from: usize| {
        let place = (start / BLOCK * steps + from / DEPTH) * block_tiles::<C>();
        // SAFETY: the caller's promise.
        unsafe {
            pack_block::<C, LEFT>(operand, [start, from], &mut tiles[place..place + block_tiles::<C>()])
        };
    };
    // Memory is read along its rows.
    if operand.outer_stride == 1 {
        for from in (0..operand.depth).step_by(DEPTH) {
            (0..operand.outer).step_by(BLOCK).for_each(|start| one(start, from));
        }
    } else {
        for start in (0..operand.outer).step_by(BLOCK) {
            (0..operand.depth).step_by(DEPTH).for_each(|from| one(start, from));
        }
    }
}

/// Packs 32 rows or columns from `start` and 32 steps from `from` to the tiles of a block; zeros where the operand ends.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and the operand's elements are there.
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn pack_block<C: Cut, const LEFT: bool>(
    operand: &Operand<C::Number>,
    [start, from]: [usize; 2],
    tiles: &mut [Tile],
) {
    for half in 0..2 {
        let start = start + half * TILE;
        let outer = operand.outer.saturating_sub(start).min(TILE);
        let part = operand.part([start, outer], [from, (operand.depth - from).min(DEPTH)]);
        let tiles = &mut tiles[half..];
        // SAFETY: a part of an operand whose elements are there.
        unsafe {
            match (LEFT, operand.depth_stride == 1, operand.outer_stride == 1) {
                (true, true, _) | (false, false, _) => pack_tile::<C, LEFT>(&part, tiles),
                (true, false, true) | (false, true, _) => pack_transposed_tile::<C, LEFT>(&part, tiles),
                (true, false, false) => pack_scattered_tile::<C>(&part, tiles),
            }
        }
    }
}

/// Packs up to 16 × 32 elements of a left operand none of which are adjacent.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and the operand's elements are there.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_scattered_tile<C: Cut>(operand: &Operand<C::Number>, tiles: &mut [Tile]) {
    for row in 0..TILE {
        let count = if row < operand.outer { operand.depth } else { 0 };
        let source = operand.data.wrapping_add(row * operand.outer_stride);
        // SAFETY: the caller's promise; rows of tiles are 64 bytes on a boundary of 64 bytes.
        unsafe { store_row::<C>(tiles, row, C::spaced(source, operand.depth_stride, count)) };
    }
}

/// Writes row `row` of the tiles of the parts.
///
/// # Safety
/// The processor has AVX-512 (F and BW).
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn store_row<C: Cut>(tiles: &mut [Tile], row: usize, parts: C::Parts) {
    for (part, values) in parts.as_ref().iter().enumerate() {
        // SAFETY: rows of tiles are 64 bytes on a boundary of 64 bytes.
        unsafe { _mm512_store_si512(row_of(tiles, part, row), *values) };
    }
}

/// Row `row` of the first tile of a part.
#[inline]
fn row_of(tiles: &mut [Tile], part: usize, row: usize) -> *mut __m512i {
    tiles[2 * part].0[row * TILE..][..TILE].as_mut_ptr().cast()
}

/// Packs up to 16 × 32 elements whose adjacent ones are adjacent in the tile.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and the operand's elements are there.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_tile<C: Cut, const LEFT: bool>(operand: &Operand<C::Number>, tiles: &mut [Tile]) {
    for row in 0..TILE {
        // SAFETY: the caller's promise; rows of tiles are 64 bytes on a boundary of 64 bytes.
        unsafe {
            let parts = if LEFT { along_depth::<C>(operand, row) } else { across_depth::<C>(operand, row) };
            store_row::<C>(tiles, row, parts);
        }
    }
}

/// Packs up to 16 × 32 elements whose adjacent ones lie in different rows of the tile.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and the operand's elements are there.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_transposed_tile<C: Cut, const LEFT: bool>(operand: &Operand<C::Number>, tiles: &mut [Tile]) {
    let mut columns = [[_mm512_setzero_si512(); TILE]; MAX_PARTS];
    #[expect(clippy::needless_range_loop, reason = "a column of each part is written")]
    for column in 0..TILE {
        // SAFETY: the caller's promise.
        let parts = unsafe {
            if LEFT { across_depth::<C>(operand, column) } else { along_depth::<C>(operand, column) }
        };
        for (part, values) in parts.as_ref().iter().enumerate() {
            columns[part][column] = *values;
        }
    }
    for (part, columns) in columns.into_iter().take(C::PARTS).enumerate() {
        for (row, values) in transpose(columns).into_iter().enumerate() {
            // SAFETY: rows of tiles are 64 bytes on a boundary of 64 bytes.
            unsafe { _mm512_store_si512(row_of(tiles, part, row), values) };
        }
    }
}

/// The parts of 32 adjacent steps of the inner dimension at one outer index.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and the operand's elements are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn along_depth<C: Cut>(operand: &Operand<C::Number>, outer: usize) -> C::Parts {
    let count = if outer < operand.outer { operand.depth } else { 0 };
    let source = operand.data.wrapping_add(outer * operand.outer_stride);
    // Long rows of a matrix that is in no cache: what the same row's next steps need.
    for line in 0..size_of::<C::Number>() / 2 {
        _mm_prefetch::<_MM_HINT_T0>(
            source.wrapping_add(PREFETCH_DISTANCE).wrapping_byte_add(64 * line).cast(),
        );
    }
    // SAFETY: the caller's promise.
    unsafe { C::adjacent(source, count) }
}

/// The parts of 16 adjacent outer indices at one pair of steps of the inner dimension.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and the operand's elements are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn across_depth<C: Cut>(operand: &Operand<C::Number>, pair: usize) -> C::Parts {
    let count = |depth: usize| if depth < operand.depth { operand.outer } else { 0 };
    let row = operand.data.wrapping_add(2 * pair * operand.depth_stride);
    let rows = [row, row.wrapping_add(operand.depth_stride)];
    // SAFETY: the caller's promise.
    unsafe { C::paired(rows, [count(2 * pair), count(2 * pair + 1)]) }
}

/// Transposes 16 rows of 16 elements.
///
/// # Safety
/// The processor has AVX-512 (F and BW).
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose(rows: [__m512i; TILE]) -> [__m512i; TILE] {
    let (mut pairs, mut quads, mut columns) = (rows, rows, rows);
    for row in (0..TILE).step_by(2) {
        pairs[row] = _mm512_unpacklo_epi32(rows[row], rows[row + 1]);
        pairs[row + 1] = _mm512_unpackhi_epi32(rows[row], rows[row + 1]);
    }
    for row in (0..TILE).step_by(4) {
        for half in 0..2 {
            quads[row + 2 * half] = _mm512_unpacklo_epi64(pairs[row + half], pairs[row + half + 2]);
            quads[row + 2 * half + 1] = _mm512_unpackhi_epi64(pairs[row + half], pairs[row + half + 2]);
        }
    }
    // Lane l of quads[4g + c] is column 4l + c of the rows 4g to 4g + 3.
    for column in 0..4 {
        let [first, second, third, fourth] = [0, 4, 8, 12].map(|group| quads[group + column]);
        let even = [_mm512_shuffle_i32x4::<0x88>(first, second), _mm512_shuffle_i32x4::<0x88>(third, fourth)];
        let odd = [_mm512_shuffle_i32x4::<0xdd>(first, second), _mm512_shuffle_i32x4::<0xdd>(third, fourth)];
        columns[column] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
        columns[column + 4] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
        columns[column + 8] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
        columns[column + 12] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
    }
    columns
}
