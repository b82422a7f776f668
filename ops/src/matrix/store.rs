//! From a block of sums to the rows of a result.

use super::{
    Epilogue,
    cut::{mask, mask_32, nearest},
    split::{BLOCK, TILE},
};
use crate::cpu::{Affine, Number};
use std::arch::x86_64::*;

/// Where a block of a product goes: its first row, its place in the destination and how far rows are apart there.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) row: usize,
    pub(crate) offset: usize,
    pub(crate) row_stride: usize,
}

/// Writes the first `rows` rows and `columns` columns of a block of 32 × 32 sums; `target` is its place.
///
/// # Safety
/// The processor has AVX-512 (F and BW), those sums have been written, and the rows of the target are the caller's alone.
///
/// # Panics
/// If the residual ends before the place's rows.
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn store_block<O: Number>(
    [rows, columns]: [usize; 2],
    sums: *const f32,
    epilogue: &Epilogue<'_, O>,
    place: Place,
    target: *mut O,
) {
    for row in 0..rows {
        let residual = epilogue.residual(place.offset + row * place.row_stride, columns);
        let target = target.wrapping_add(row * place.row_stride);
        let affine = epilogue.affine(place.row + row);
        // SAFETY: the caller's promise.
        unsafe {
            let sums = std::slice::from_raw_parts(sums.add(row * BLOCK), columns);
            store_row(sums, affine, residual, epilogue.floor, target);
        }
    }
}

/// Asks for the memory that [`store_block`] will read and write: rows of it are far apart, which no prefetcher of a processor
/// foresees. It need not be there.
///
/// # Safety
/// The processor has AVX-512 (F and BW).
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn prefetch_block<O: Number>(
    rows: usize,
    epilogue: &Epilogue<'_, O>,
    place: Place,
    target: *const O,
) {
    let residual = epilogue.residual.map(|residual| residual.as_ptr().wrapping_add(place.offset));
    for row in 0..rows {
        let start = row * place.row_stride;
        let target = target.wrapping_add(start);
        // Rows of a block are one or two cache lines.
        _mm_prefetch::<_MM_HINT_ET0>(target.cast());
        _mm_prefetch::<_MM_HINT_ET0>(target.wrapping_add(BLOCK - 1).cast());
        if let Some(residual) = residual {
            let residual = residual.wrapping_add(start);
            _mm_prefetch::<_MM_HINT_T0>(residual.cast());
            _mm_prefetch::<_MM_HINT_T0>(residual.wrapping_add(BLOCK - 1).cast());
        }
    }
}

/// Writes sums through an epilogue as numbers of the target.
///
/// # Safety
/// The processor has AVX-512 (F and BW), as many elements of the target are the caller's alone, and the residual has as
/// many.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn store_row<O: Number>(
    sums: &[f32],
    affine: Affine,
    residual: Option<&[O]>,
    floor: f32,
    target: *mut O,
) {
    let (centre, scale) = (_mm512_set1_ps(affine.centre), _mm512_set1_ps(affine.scale));
    let shift = _mm512_set1_ps(affine.shift);
    let floor = _mm512_set1_ps(floor);
    for (start, sums) in (0..).step_by(TILE).zip(sums.chunks(TILE)) {
        let (target, lanes) = (target.wrapping_add(start), mask(sums.len()));
        // SAFETY: masked elements are neither read nor written, the others are there by the caller's promise.
        unsafe {
            let values = _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, sums.as_ptr()), centre);
            // As elsewhere, product and sum are rounded one after the other.
            let mut values = _mm512_add_ps(_mm512_mul_ps(values, scale), shift);
            if let Some(residual) = residual {
                values = _mm512_add_ps(values, load_row(residual.as_ptr().wrapping_add(start), sums.len()));
            }
            // The instruction returns its second operand if either is NaN.
            let values = _mm512_max_ps(floor, values);
            if O::IS_F32 {
                _mm512_mask_storeu_ps(target.cast(), lanes, values);
            } else {
                let numbers = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(nearest(values)));
                let numbers = _mm512_castsi256_si512(numbers);
                _mm512_mask_storeu_epi16(target.cast(), mask_32(sums.len()), numbers);
            }
        }
    }
}

/// Up to 16 numbers in 32 bits; zeros behind the last of them.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and `count` numbers are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn load_row<O: Number>(source: *const O, count: usize) -> __m512 {
    // SAFETY: masked elements are not read, the others are there by the caller's promise.
    unsafe {
        if O::IS_F32 {
            return _mm512_maskz_loadu_ps(mask(count), source.cast());
        }
        let numbers = _mm512_maskz_loadu_epi16(mask_32(count), source.cast());
        let numbers = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(numbers));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(numbers))
    }
}
