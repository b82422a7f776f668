//! Matrices as sums of three bfloat16 matrices, in AMX's tile layout.
//!
//! A 32-bit float has 24 significant bits, a bfloat16 has 8 and the same exponents, so `x = high + middle + low`
//! exactly: `high` is `x` rounded, `middle` the rest rounded, `low` what then remains (Henry, Tang and
//! Heinecke, arXiv 1904.06376). Numbers below 2⁻¹¹⁰ lose their low parts; AMX takes subnormal numbers for 0.
//!
//! A tile has 16 rows of 32 numbers. A left tile's rows are the matrix's, its columns 32 steps of the inner
//! dimension. A right tile's row holds two neighbouring steps of the inner dimension of 16 columns, by turns.

use super::Matrix;
use std::arch::x86_64::*;

/// Rows of a tile; also pairs of numbers in a row.
pub(crate) const TILE: usize = 16;
/// Steps of the inner dimension in a tile.
pub(crate) const DEPTH: usize = 2 * TILE;
/// Rows or columns of a block of the result, two tiles each way.
pub(crate) const BLOCK: usize = 2 * TILE;
/// Parts of a number.
pub(crate) const PARTS: usize = 3;
/// Tiles of a block of an operand: two of each part.
pub(crate) const BLOCK_TILES: usize = 2 * PARTS;

/// How far ahead of packing rows are asked for, in numbers.
const PREFETCH_DISTANCE: usize = 4 * DEPTH;

/// 16 rows of 16 pairs of bfloat16 numbers.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Tile([u32; TILE * TILE]);

impl Tile {
    pub(crate) const ZERO: Self = Self([0; TILE * TILE]);
}

/// A matrix to be packed: `outer` rows of a left or columns of a right one, `depth` steps of the inner
/// dimension. One of the strides of a right operand is 1.
#[derive(Clone, Copy)]
pub(crate) struct Operand {
    data: *const f32,
    outer: usize,
    outer_stride: usize,
    depth: usize,
    depth_stride: usize,
}

impl Operand {
    /// A left operand, `[rows, depth]`.
    pub(crate) fn left(matrix: Matrix<'_>, [rows, depth]: [usize; 2]) -> Self {
        Self {
            data: matrix.data.as_ptr(),
            outer: rows,
            outer_stride: matrix.row_stride,
            depth,
            depth_stride: matrix.column_stride,
        }
    }

    /// A right operand, `[depth, columns]`.
    pub(crate) fn right(matrix: Matrix<'_>, [depth, columns]: [usize; 2]) -> Self {
        Self::left(matrix.transposed(), [columns, depth])
    }

    /// `outer` rows or columns from `start` and `depth` steps from `from`.
    pub(crate) fn part(self, [start, outer]: [usize; 2], [from, depth]: [usize; 2]) -> Self {
        let offset = start * self.outer_stride + from * self.depth_stride;
        Self { data: self.data.wrapping_add(offset), outer, depth, ..self }
    }

    /// Tiles that [`pack`] writes.
    pub(crate) fn tiles(&self) -> usize {
        self.outer.div_ceil(BLOCK) * self.depth.div_ceil(DEPTH) * BLOCK_TILES
    }
}

/// Packs an operand, a left one or a right one.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and the operand's elements are there.
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn pack<const LEFT: bool>(operand: &Operand, tiles: &mut [Tile]) {
    let steps = operand.depth.div_ceil(DEPTH);
    let mut one = |start: usize, from: usize| {
        let place = (start / BLOCK * steps + from / DEPTH) * BLOCK_TILES;
        // SAFETY: the caller's promise.
        unsafe { pack_block::<LEFT>(operand, [start, from], &mut tiles[place..place + BLOCK_TILES]) };
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

/// Packs 32 rows or columns from `start` and 32 steps from `from` to six tiles; zeros where the operand ends.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and the operand's elements are there.
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn pack_block<const LEFT: bool>(
    operand: &Operand,
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
                (true, true, _) | (false, false, _) => pack_tile::<LEFT>(&part, tiles),
                (true, false, true) | (false, true, _) => pack_transposed_tile::<LEFT>(&part, tiles),
                (true, false, false) => pack_scattered_tile(&part, tiles),
            }
        }
    }
}

/// Packs up to 16 × 32 elements of a left operand none of which are adjacent.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and the operand's elements are there.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_scattered_tile(operand: &Operand, tiles: &mut [Tile]) {
    let lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    let offsets = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(operand.depth_stride as i32));
    for row in 0..TILE {
        let parts = if row < operand.outer {
            let source = operand.data.wrapping_add(row * operand.outer_stride);
            // SAFETY: masked elements are not read, the others are there by the caller's promise.
            unsafe {
                let gather = |source: *const f32, count| {
                    _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), mask(count), offsets, source)
                };
                let first = gather(source, operand.depth);
                let second = source.wrapping_add(TILE * operand.depth_stride);
                side_by_side(first, gather(second, operand.depth.saturating_sub(TILE)))
            }
        } else {
            [_mm512_setzero_si512(); PARTS]
        };
        // SAFETY: rows of tiles are 64 bytes on a boundary of 64 bytes.
        unsafe { store_row(tiles, row, parts) };
    }
}

/// Writes row `row` of the tiles of the three parts.
///
/// # Safety
/// The processor has AVX-512 (F and BW).
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn store_row(tiles: &mut [Tile], row: usize, parts: [__m512i; PARTS]) {
    // SAFETY: rows of tiles are 64 bytes on a boundary of 64 bytes.
    unsafe {
        _mm512_store_si512(row_of(tiles, 0, row), parts[0]);
        _mm512_store_si512(row_of(tiles, 1, row), parts[1]);
        _mm512_store_si512(row_of(tiles, 2, row), parts[2]);
    }
}

/// Row `row` of the tiles of the three parts.
#[inline]
fn row_of(tiles: &mut [Tile], part: usize, row: usize) -> *mut __m512i {
    tiles[2 * part].0[row * TILE..][..TILE].as_mut_ptr().cast()
}

/// Packs up to 16 × 32 elements whose adjacent ones are adjacent in the tile.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and the operand's elements are there.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_tile<const LEFT: bool>(operand: &Operand, tiles: &mut [Tile]) {
    for row in 0..TILE {
        // SAFETY: the caller's promise; rows of tiles are 64 bytes on a boundary of 64 bytes.
        unsafe {
            let parts = if LEFT { along_depth(operand, row) } else { across_depth(operand, row) };
            store_row(tiles, row, parts);
        }
    }
}

/// Packs up to 16 × 32 elements whose adjacent ones lie in different rows of the tile.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and the operand's elements are there.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_transposed_tile<const LEFT: bool>(operand: &Operand, tiles: &mut [Tile]) {
    let zero = _mm512_setzero_si512();
    let (mut high, mut middle, mut low) = ([zero; TILE], [zero; TILE], [zero; TILE]);
    for column in 0..TILE {
        // SAFETY: the caller's promise.
        let parts =
            unsafe { if LEFT { across_depth(operand, column) } else { along_depth(operand, column) } };
        [high[column], middle[column], low[column]] = parts;
    }
    for (part, columns) in [high, middle, low].into_iter().enumerate() {
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
unsafe fn along_depth(operand: &Operand, outer: usize) -> [__m512i; PARTS] {
    if outer >= operand.outer {
        return [_mm512_setzero_si512(); PARTS];
    }
    let source = operand.data.wrapping_add(outer * operand.outer_stride);
    // Long rows of a matrix that is in no cache: what the same row's next steps need.
    for line in 0..2 {
        _mm_prefetch::<_MM_HINT_T0>(source.wrapping_add(PREFETCH_DISTANCE + line * TILE).cast());
    }
    // SAFETY: the caller's promise.
    unsafe { adjacent(source, operand.depth) }
}

/// The parts of up to 32 numbers, side by side; zeros behind them.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and `count` numbers are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn adjacent(source: *const f32, count: usize) -> [__m512i; PARTS] {
    // SAFETY: masked elements are not read, the others are there by the caller's promise.
    unsafe {
        let first = _mm512_maskz_loadu_ps(mask(count), source);
        let second = _mm512_maskz_loadu_ps(mask(count.saturating_sub(TILE)), source.wrapping_add(TILE));
        side_by_side(first, second)
    }
}

/// The parts of twice 16 numbers.
///
/// # Safety
/// The processor has AVX-512 (F and BW).
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn side_by_side(first: __m512, second: __m512) -> [__m512i; PARTS] {
    let (first, second) = (split(first), split(second));
    // The upper halves of the first vector's elements, then those of the second's.
    let order = _mm512_set_epi16(
        63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23, 21, 19, 17, 15,
        13, 11, 9, 7, 5, 3, 1,
    );
    [
        _mm512_permutex2var_epi16(first[0], order, second[0]),
        _mm512_permutex2var_epi16(first[1], order, second[1]),
        _mm512_permutex2var_epi16(first[2], order, second[2]),
    ]
}

/// The parts of 16 adjacent outer indices at one pair of steps of the inner dimension.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and the operand's elements are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn across_depth(operand: &Operand, pair: usize) -> [__m512i; PARTS] {
    let count = |depth: usize| if depth < operand.depth { operand.outer } else { 0 };
    let row = operand.data.wrapping_add(2 * pair * operand.depth_stride);
    let rows = [row, row.wrapping_add(operand.depth_stride)];
    // SAFETY: the caller's promise.
    unsafe { paired(rows, [count(2 * pair), count(2 * pair + 1)]) }
}

/// The parts of up to 16 numbers of two rows, by turns; zeros behind them.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and as many numbers are there as `counts` says.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn paired(rows: [*const f32; 2], counts: [usize; 2]) -> [__m512i; PARTS] {
    // SAFETY: masked elements are not read, the others are there by the caller's promise.
    let [even, odd] = unsafe {
        [
            split(_mm512_maskz_loadu_ps(mask(counts[0]), rows[0])),
            split(_mm512_maskz_loadu_ps(mask(counts[1]), rows[1])),
        ]
    };
    [by_turns(even[0], odd[0]), by_turns(even[1], odd[1]), by_turns(even[2], odd[2])]
}

const UPPER_HALF: i32 = 0xffff_0000_u32 as i32;

/// The upper halves of two vectors' elements, those of the second in the upper halves of the result.
///
/// # Safety
/// The processor has AVX-512 (F and BW).
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn by_turns(even: __m512i, odd: __m512i) -> __m512i {
    // even >> 16 | odd & 0xffff0000
    _mm512_ternarylogic_epi32::<0xf8>(_mm512_srli_epi32::<16>(even), odd, _mm512_set1_epi32(UPPER_HALF))
}

/// The three parts of 16 numbers, each in the upper half of its 32-bit element.
///
/// # Safety
/// The processor has AVX-512 (F and BW).
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split(values: __m512) -> [__m512i; PARTS] {
    // Ties are rounded away from zero: the next part holds what the rounding has cut off anyway.
    let round = |values: __m512| {
        let raised = _mm512_add_epi32(_mm512_castps_si512(values), _mm512_set1_epi32(0x8000));
        _mm512_and_si512(raised, _mm512_set1_epi32(UPPER_HALF))
    };
    let high = round(values);
    let rest = _mm512_sub_ps(values, _mm512_castsi512_ps(high));
    let middle = round(rest);
    let low = _mm512_sub_ps(rest, _mm512_castsi512_ps(middle));
    [high, middle, _mm512_castps_si512(low)]
}

/// The first `count` lanes of 16.
#[inline]
pub(crate) fn mask(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
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
