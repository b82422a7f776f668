//! How numbers are cut into bfloat16 parts; see [`split`](super::split).

use super::split::TILE;
use crate::cpu::Number;
use burn::tensor::bf16;
use std::arch::x86_64::*;

/// Parts of any cut at most.
pub(crate) const MAX_PARTS: usize = 3;

/// A way from numbers to bfloat16 parts, 32 at a time: those of a part side by side in a register.
///
/// The methods are compiled for AVX-512 (F and BW), which every processor with AMX has.
pub(crate) trait Cut {
    /// What is cut.
    type Number: Number;
    /// A register for each part.
    type Parts: Copy + AsRef<[__m512i]>;
    /// How many parts there are.
    const PARTS: usize;

    /// The parts of up to 32 numbers, side by side; zeros behind them.
    ///
    /// # Safety
    /// The processor has AVX-512 (F and BW), and `count` numbers are there.
    unsafe fn adjacent(source: *const Self::Number, count: usize) -> Self::Parts;

    /// The parts of up to 16 numbers of two rows, by turns; zeros behind them.
    ///
    /// # Safety
    /// The processor has AVX-512 (F and BW), and as many numbers are there as `counts` says.
    unsafe fn paired(rows: [*const Self::Number; 2], counts: [usize; 2]) -> Self::Parts;

    /// The parts of up to 32 numbers that lie `stride` apart; zeros behind them.
    ///
    /// # Safety
    /// The processor has AVX-512 (F and BW), and `count` numbers are there.
    unsafe fn spaced(source: *const Self::Number, stride: usize, count: usize) -> Self::Parts;
}

/// 32-bit numbers in three parts, exactly.
pub(crate) struct Exact;

/// 32-bit numbers, rounded.
pub(crate) struct Rounded;

/// Numbers that are bfloat16 already.
pub(crate) struct Stored;

impl Cut for Exact {
    type Number = f32;
    type Parts = [__m512i; 3];
    const PARTS: usize = 3;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn adjacent(source: *const f32, count: usize) -> [__m512i; 3] {
        // SAFETY: the caller's promise.
        let [first, second] = unsafe { adjacent(source, count) };
        let (first, second) = (split(first), split(second));
        [
            side_by_side(first[0], second[0]),
            side_by_side(first[1], second[1]),
            side_by_side(first[2], second[2]),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn paired(rows: [*const f32; 2], counts: [usize; 2]) -> [__m512i; 3] {
        // SAFETY: masked elements are not read, the others are there by the caller's promise.
        let [even, odd] = unsafe {
            [
                split(_mm512_maskz_loadu_ps(mask(counts[0]), rows[0])),
                split(_mm512_maskz_loadu_ps(mask(counts[1]), rows[1])),
            ]
        };
        [by_turns(even[0], odd[0]), by_turns(even[1], odd[1]), by_turns(even[2], odd[2])]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn spaced(source: *const f32, stride: usize, count: usize) -> [__m512i; 3] {
        // SAFETY: the caller's promise.
        let [first, second] = unsafe { spaced(source, stride, count) };
        let (first, second) = (split(first), split(second));
        [
            side_by_side(first[0], second[0]),
            side_by_side(first[1], second[1]),
            side_by_side(first[2], second[2]),
        ]
    }
}

impl Cut for Rounded {
    type Number = f32;
    type Parts = [__m512i; 1];
    const PARTS: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn adjacent(source: *const f32, count: usize) -> [__m512i; 1] {
        // SAFETY: the caller's promise.
        let [first, second] = unsafe { adjacent(source, count) };
        [side_by_side(nearest(first), nearest(second))]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn paired(rows: [*const f32; 2], counts: [usize; 2]) -> [__m512i; 1] {
        // SAFETY: masked elements are not read, the others are there by the caller's promise.
        let [even, odd] = unsafe {
            [
                nearest(_mm512_maskz_loadu_ps(mask(counts[0]), rows[0])),
                nearest(_mm512_maskz_loadu_ps(mask(counts[1]), rows[1])),
            ]
        };
        [by_turns(even, odd)]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn spaced(source: *const f32, stride: usize, count: usize) -> [__m512i; 1] {
        // SAFETY: the caller's promise.
        let [first, second] = unsafe { spaced(source, stride, count) };
        [side_by_side(nearest(first), nearest(second))]
    }
}

impl Cut for Stored {
    type Number = bf16;
    type Parts = [__m512i; 1];
    const PARTS: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn adjacent(source: *const bf16, count: usize) -> [__m512i; 1] {
        // SAFETY: masked elements are not read, the others are there by the caller's promise.
        unsafe { [_mm512_maskz_loadu_epi16(mask_32(count), source.cast())] }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn paired(rows: [*const bf16; 2], counts: [usize; 2]) -> [__m512i; 1] {
        let order = _mm512_set_epi16(
            47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3,
            34, 2, 33, 1, 32, 0,
        );
        // SAFETY: masked elements are not read, the others are there by the caller's promise.
        unsafe {
            let even = _mm512_maskz_loadu_epi16(mask_32(counts[0].min(TILE)), rows[0].cast());
            let odd = _mm512_maskz_loadu_epi16(mask_32(counts[1].min(TILE)), rows[1].cast());
            [_mm512_permutex2var_epi16(even, order, odd)]
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn spaced(source: *const bf16, stride: usize, count: usize) -> [__m512i; 1] {
        let mut values = [bf16::ZERO; 2 * TILE];
        for (index, value) in values.iter_mut().enumerate().take(count) {
            // SAFETY: the caller's promise.
            *value = unsafe { source.add(index * stride).read() };
        }
        // SAFETY: there are 32 of them.
        unsafe { Self::adjacent(values.as_ptr(), values.len()) }
    }
}

/// Twice 16 adjacent numbers; zeros behind the last of them.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and `count` numbers are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn adjacent(source: *const f32, count: usize) -> [__m512; 2] {
    // SAFETY: masked elements are not read, the others are there by the caller's promise.
    unsafe {
        [
            _mm512_maskz_loadu_ps(mask(count), source),
            _mm512_maskz_loadu_ps(mask(count.saturating_sub(TILE)), source.wrapping_add(TILE)),
        ]
    }
}

/// Twice 16 numbers that lie `stride` apart; zeros behind the last of them.
///
/// # Safety
/// The processor has AVX-512 (F and BW), and `count` numbers are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn spaced(source: *const f32, stride: usize, count: usize) -> [__m512; 2] {
    let lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    let offsets = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(stride as i32));
    // SAFETY: masked elements are not read, the others are there by the caller's promise.
    unsafe {
        let gather = |source: *const f32, count| {
            _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), mask(count), offsets, source)
        };
        [gather(source, count), gather(source.wrapping_add(TILE * stride), count.saturating_sub(TILE))]
    }
}

const UPPER_HALF: i32 = 0xffff_0000_u32 as i32;

/// The upper halves of the first vector's elements, then those of the second's.
///
/// # Safety
/// The processor has AVX-512 (F and BW).
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn side_by_side(first: __m512i, second: __m512i) -> __m512i {
    let order = _mm512_set_epi16(
        63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23, 21, 19, 17, 15,
        13, 11, 9, 7, 5, 3, 1,
    );
    _mm512_permutex2var_epi16(first, order, second)
}

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
fn split(values: __m512) -> [__m512i; 3] {
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

/// 16 numbers rounded to bfloat16 as [`Number::rounded`] does, in the upper halves of the elements; the lower halves
/// hold anything.
///
/// # Safety
/// The processor has AVX-512 (F and BW).
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn nearest(values: __m512) -> __m512i {
    let bits = _mm512_castps_si512(values);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let raised = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
    _mm512_mask_or_epi32(raised, nan, bits, _mm512_set1_epi32(0x0040_0000))
}

/// The first `count` lanes of 16.
#[inline]
pub(crate) fn mask(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// The first `count` lanes of 32.
#[inline]
pub(crate) fn mask_32(count: usize) -> __mmask32 {
    if count >= 32 { !0 } else { (1 << count) - 1 }
}
