//! From a block of sums to the rows of a result.

use super::{
    cut::{mask, mask_32, nearest},
    split::{BLOCK, TILE},
};
use crate::cpu::Number;
use std::arch::x86_64::*;

/// Writes the first `rows` rows and `columns` columns of a block of 32 × 32 sums, plus a bias for each row.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and the rows of the target are the caller's alone.
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn store_block<O: Number>(
    [rows, columns]: [usize; 2],
    sums: &[f32; BLOCK * BLOCK],
    bias: Option<&[f32]>,
    target: *mut O,
    row_stride: usize,
) {
    for (row, sums) in sums.chunks_exact(BLOCK).take(rows).enumerate() {
        let bias = bias.map_or(0.0, |bias| bias[row]);
        // SAFETY: the caller's promise.
        unsafe { store_row(&sums[..columns], bias, target.wrapping_add(row * row_stride)) };
    }
}

/// Writes sums plus a bias as numbers of the target.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and as many elements of the target are the caller's alone.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn store_row<O: Number>(sums: &[f32], bias: f32, target: *mut O) {
    let bias = _mm512_set1_ps(bias);
    for (start, sums) in (0..).step_by(TILE).zip(sums.chunks(TILE)) {
        let target = target.wrapping_add(start);
        // SAFETY: masked elements are neither read nor written, the others are there by the caller's promise.
        unsafe {
            let values = _mm512_add_ps(_mm512_maskz_loadu_ps(mask(sums.len()), sums.as_ptr()), bias);
            if O::IS_F32 {
                _mm512_mask_storeu_ps(target.cast(), mask(sums.len()), values);
            } else {
                let numbers = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(nearest(values)));
                let numbers = _mm512_castsi256_si512(numbers);
                _mm512_mask_storeu_epi16(target.cast(), mask_32(sums.len()), numbers);
            }
        }
    }
}
