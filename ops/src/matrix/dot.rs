//! Products of blocks of tiles on AVX512-BF16, for processors that have it and no AMX. Tiles and panels are those of AMX.

use super::split::{BLOCK, TILE, Tile};
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// Rows whose sums are kept in registers, two for each row.
const ROWS: usize = 8;

/// Whether these instructions are to be used: the processor has them, and the environment says `SCRL_AVX512_BF16=1`.
///
/// They are not used by themselves: on the Xeon where they could be measured they take longer than 32-bit products.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        std::env::var_os("SCRL_AVX512_BF16").is_some_and(|value| value == "1")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16")
    })
}

/// Adds the products of `steps` steps to a block of 32 × 32 elements, or writes them in its place.
///
/// `left` gives the 16 pairs of a row, `right` the pairs of 16 columns at one pair of steps, by step, place and half.
///
/// # Safety
/// The processor has AVX-512 (F, BW and BF16); what is asked for is there; the target's elements are the caller's alone, and
/// written where they are added to.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn multiply(
    steps: usize,
    left: impl Fn(usize, usize) -> *const u32,
    right: impl Fn(usize, usize, usize) -> *const u32,
    target: *mut f32,
    row_stride: usize,
    accumulate: bool,
) {
    for first in (0..BLOCK).step_by(ROWS) {
        // SAFETY: the caller's promises.
        unsafe {
            let place = |row: usize, half: usize| target.add((first + row) * row_stride + half * TILE);
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            if accumulate {
                for (row, sums) in sums.iter_mut().enumerate() {
                    *sums = [_mm512_loadu_ps(place(row, 0)), _mm512_loadu_ps(place(row, 1))];
                }
            }
            for step in 0..steps {
                for pair in 0..TILE {
                    let columns = [
                        pairs(_mm512_loadu_si512(right(step, pair, 0).cast())),
                        pairs(_mm512_loadu_si512(right(step, pair, 1).cast())),
                    ];
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let value = left(step, first + row).add(pair).cast::<i32>().read_unaligned();
                        let value = pairs(_mm512_set1_epi32(value));
                        sums[0] = _mm512_dpbf16_ps(sums[0], value, columns[0]);
                        sums[1] = _mm512_dpbf16_ps(sums[1], value, columns[1]);
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                _mm512_storeu_ps(place(row, 0), sums[0]);
                _mm512_storeu_ps(place(row, 1), sums[1]);
            }
        }
    }
}

/// 16 pairs as the instruction wants them.
#[inline]
fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits, any of which are numbers.
    unsafe { std::mem::transmute(bits) }
}

/// The row `row` of a tile.
#[inline]
fn tile_row(tile: *const Tile, row: usize) -> *const u32 {
    tile.cast::<u32>().wrapping_add(row * TILE)
}

/// As AMX's products of blocks of 2 × 2 tiles.
///
/// # Safety
/// As [`multiply`]; left and right have `steps` steps.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn product(
    [left, right]: [*const Tile; 2],
    steps: usize,
    target: *mut f32,
    row_stride: usize,
    accumulate: bool,
) {
    let left = |step: usize, row: usize| tile_row(left.wrapping_add(2 * step + row / TILE), row % TILE);
    let right = |step: usize, pair: usize, half: usize| tile_row(right.wrapping_add(2 * step + half), pair);
    // SAFETY: the caller's promises.
    unsafe { multiply(steps, left, right, target, row_stride, accumulate) }
}

/// As AMX's [`product_with_panel`](super::amx::product_with_panel).
///
/// # Safety
/// As [`multiply`]; all tiles lie inside their memory.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn product_with_panel(
    left: *const Tile,
    panel: *const u32,
    row_bytes: usize,
    offsets: &[usize],
    target: *mut f32,
    row_stride: usize,
) {
    let left = |step: usize, row: usize| tile_row(left.wrapping_add(2 * step + row / TILE), row % TILE);
    let right = |step: usize, pair: usize, half: usize| {
        panel.wrapping_byte_add(offsets[step] + pair * row_bytes).wrapping_add(half * TILE)
    };
    // SAFETY: the caller's promises.
    unsafe { multiply(offsets.len(), left, right, target, row_stride, false) }
}

/// As AMX's [`add_product_of_panel`](super::amx::add_product_of_panel).
///
/// # Safety
/// As [`multiply`]; all tiles lie inside their memory.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn add_product_of_panel(
    panel: *const u16,
    row_bytes: usize,
    right: *const Tile,
    steps: usize,
    target: *mut f32,
    row_stride: usize,
) {
    let left = |step: usize, row: usize| {
        panel.wrapping_byte_add(row * row_bytes + step * size_of::<[u32; TILE]>()).cast::<u32>()
    };
    let right = |step: usize, pair: usize, half: usize| tile_row(right.wrapping_add(2 * step + half), pair);
    // SAFETY: the caller's promises.
    unsafe { multiply(steps, left, right, target, row_stride, true) }
}
