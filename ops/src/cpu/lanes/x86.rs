//! The wide registers of x86-64.

use super::{Lanes, Work, array};
use burn::tensor::bf16;
use std::arch::x86_64::*;

/// AVX2's lanes.
#[derive(Clone, Copy)]
struct Avx2(__m256, __m256);

impl Lanes for Avx2 {
    const MANY: bool = false;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's promise.
        let half = unsafe { _mm256_set1_ps(value) };
        Self(half, half)
    }

    #[inline(always)]
    unsafe fn load(place: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(_mm256_loadu_ps(place), _mm256_loadu_ps(place.add(8))) }
    }

    #[inline(always)]
    unsafe fn store(self, place: *mut f32) {
        // SAFETY: `self` exists, so the processor has the instructions; the rest is the caller's promise.
        unsafe {
            _mm256_storeu_ps(place, self.0);
            _mm256_storeu_ps(place.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn load_widened(place: *const bf16) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let widened = |place: *const bf16| {
                let numbers = _mm256_cvtepu16_epi32(_mm_loadu_si128(place.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(numbers))
            };
            Self(widened(place), widened(place.add(8)))
        }
    }

    #[inline(always)]
    unsafe fn store_rounded(self, place: *mut bf16) {
        // SAFETY: `self` exists, so the processor has the instructions; the rest is the caller's promise.
        unsafe {
            let rounded = |values: __m256| {
                let bits = _mm256_castps_si256(values);
                let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let raised = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
                let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
                let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
                _mm256_srli_epi32::<16>(_mm256_blendv_epi8(raised, quiet, nan))
            };
            // Packing goes by halves of registers; the quarters are put back in order.
            let packed = _mm256_packus_epi32(rounded(self.0), rounded(self.1));
            _mm256_storeu_si256(place.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            Self(_mm256_fmadd_ps(self.0, factor.0, summand.0), _mm256_fmadd_ps(self.1, factor.1, summand.1))
        }
    }

    #[inline(always)]
    unsafe fn transpose(source: *const f32, source_stride: usize, target: *mut f32, target_stride: usize) {
        for (row, column) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
            // SAFETY: the caller's promise.
            unsafe {
                let source = source.add(row * source_stride + column);
                let target = target.add(column * target_stride + row);
                let rows: [_; 8] = array(
                    #[inline(always)]
                    |row| _mm256_loadu_ps(source.add(row * source_stride)),
                );
                // Pairs of values of neighbouring rows, then fours, then eights.
                let pairs: [_; 8] = array(
                    #[inline(always)]
                    |index| {
                        let [a, b] = [rows[index & !1], rows[index | 1]];
                        if index & 1 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) }
                    },
                );
                let fours: [_; 8] = array(
                    #[inline(always)]
                    |index| {
                        let first = index & 4 | index >> 1 & 1;
                        let [a, b] = [_mm256_castps_pd(pairs[first]), _mm256_castps_pd(pairs[first | 2])];
                        let four =
                            if index & 1 == 0 { _mm256_unpacklo_pd(a, b) } else { _mm256_unpackhi_pd(a, b) };
                        _mm256_castpd_ps(four)
                    },
                );
                for column in 0..4 {
                    let [a, b] = [fours[column], fours[column + 4]];
                    let low = _mm256_permute2f128_ps::<0x20>(a, b);
                    let high = _mm256_permute2f128_ps::<0x31>(a, b);
                    _mm256_storeu_ps(target.add(column * target_stride), low);
                    _mm256_storeu_ps(target.add((column + 4) * target_stride), high);
                }
            }
        }
    }

    #[inline(always)]
    fn raise(self, floor: Self) -> Self {
        // The instruction returns its second operand if either is NaN.
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe { Self(_mm256_max_ps(floor.0, self.0), _mm256_max_ps(floor.1, self.1)) }
    }

    #[inline(always)]
    fn pass(self, output: Self, floor: Self) -> Self {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            let low = _mm256_cmp_ps::<_CMP_NLE_UQ>(output.0, floor.0);
            let high = _mm256_cmp_ps::<_CMP_NLE_UQ>(output.1, floor.1);
            Self(_mm256_and_ps(self.0, low), _mm256_and_ps(self.1, high))
        }
    }
}

/// AVX-512's lanes.
#[derive(Clone, Copy)]
struct Avx512(__m512);

impl Lanes for Avx512 {
    const MANY: bool = true;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(place: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { _mm512_loadu_ps(place) })
    }

    #[inline(always)]
    unsafe fn store(self, place: *mut f32) {
        // SAFETY: `self` exists, so the processor has the instructions; the rest is the caller's promise.
        unsafe { _mm512_storeu_ps(place, self.0) }
    }

    #[inline(always)]
    unsafe fn load_widened(place: *const bf16) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let numbers = _mm512_cvtepu16_epi32(_mm256_loadu_si256(place.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(numbers)))
        }
    }

    #[inline(always)]
    unsafe fn store_rounded(self, place: *mut bf16) {
        // SAFETY: `self` exists, so the processor has the instructions; the rest is the caller's promise.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let raised = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let kept = _mm512_mask_or_epi32(raised, nan, bits, _mm512_set1_epi32(0x0040_0000));
            let numbers = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(kept));
            _mm256_storeu_si256(place.cast(), numbers);
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: `self` exists, so the processor has the instructions.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: `self` exists, so the processor has the instructions.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: `self` exists, so the processor has the instructions.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        // SAFETY: `self` exists, so the processor has the instructions.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, summand.0) })
    }

    #[inline(always)]
    unsafe fn transpose(source: *const f32, source_stride: usize, target: *mut f32, target_stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let rows: [_; 16] = array(
                #[inline(always)]
                |row| _mm512_loadu_ps(source.add(row * source_stride)),
            );
            // Pairs of values of neighbouring rows, then fours: those of rows 4r.. in columns c, c + 4, c + 8, c + 12
            // are at 4r + c.
            let pairs: [_; 16] = array(
                #[inline(always)]
                |index| {
                    let [a, b] = [rows[index & !1], rows[index | 1]];
                    if index & 1 == 0 { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) }
                },
            );
            let fours: [_; 16] = array(
                #[inline(always)]
                |index| {
                    let first = index & 12 | index >> 1 & 1;
                    let [a, b] = [_mm512_castps_pd(pairs[first]), _mm512_castps_pd(pairs[first | 2])];
                    let four =
                        if index & 1 == 0 { _mm512_unpacklo_pd(a, b) } else { _mm512_unpackhi_pd(a, b) };
                    _mm512_castpd_ps(four)
                },
            );
            for column in 0..4 {
                let [a, b, c, d] = array(
                    #[inline(always)]
                    |row| fours[4 * row + column],
                );
                // Quarters 0 and 2 of two registers, or 1 and 3.
                let [even, odd] = [
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
                ];
                let [even_below, odd_below] = [
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(c, d),
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d),
                ];
                let columns = [
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(even, even_below),
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(odd, odd_below),
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(even, even_below),
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(odd, odd_below),
                ];
                for (quarter, values) in columns.into_iter().enumerate() {
                    _mm512_storeu_ps(target.add((4 * quarter + column) * target_stride), values);
                }
            }
        }
    }

    #[inline(always)]
    fn raise(self, floor: Self) -> Self {
        // The instruction returns its second operand if either is NaN.
        // SAFETY: `self` exists, so the processor has the instructions.
        Self(unsafe { _mm512_max_ps(floor.0, self.0) })
    }

    #[inline(always)]
    fn pass(self, output: Self, floor: Self) -> Self {
        // SAFETY: `self` exists, so the processor has the instructions.
        unsafe {
            let mask = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(output.0, floor.0);
            Self(_mm512_maskz_mov_ps(mask, self.0))
        }
    }
}

/// Does the work with AVX-512F.
///
/// # Safety
/// The processor has it.
#[target_feature(enable = "avx512f")]
pub(in crate::cpu) fn with_avx512<W: Work>(work: W) -> W::Output {
    // SAFETY: this function is compiled for AVX-512, so only a processor that has it may get here.
    unsafe { work.run::<Avx512>() }
}

/// Does the work with AVX2 and fused products.
///
/// # Safety
/// The processor has both.
#[target_feature(enable = "avx2,fma")]
pub(in crate::cpu) fn with_avx2<W: Work>(work: W) -> W::Output {
    // SAFETY: this function is compiled for AVX2, so only a processor that has it may get here.
    unsafe { work.run::<Avx2>() }
}
