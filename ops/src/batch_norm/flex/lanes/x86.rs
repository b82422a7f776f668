//! The wide registers of x86-64.

use super::{Lanes, Work};
use burn::tensor::bf16;
use std::arch::x86_64::*;

/// AVX2's lanes.
#[derive(Clone, Copy)]
struct Avx2(__m256, __m256);

impl Lanes for Avx2 {
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
pub(super) fn with_avx512<W: Work>(work: W) -> W::Output {
    // SAFETY: this function is compiled for AVX-512, so only a processor that has it may get here.
    unsafe { work.run::<Avx512>() }
}

/// Does the work with AVX2.
///
/// # Safety
/// The processor has it.
#[target_feature(enable = "avx2")]
pub(super) fn with_avx2<W: Work>(work: W) -> W::Output {
    // SAFETY: this function is compiled for AVX2, so only a processor that has it may get here.
    unsafe { work.run::<Avx2>() }
}
