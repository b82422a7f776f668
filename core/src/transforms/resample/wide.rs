//! Resampling with AVX-512's sums of four products of bytes.
//!
//! A weight of 23 bits is three signed digits of 8 bits: `w = d₀ + 2⁸·d₁ + 2¹⁶·d₂`. For each digit one instruction
//! multiplies four bytes of pixels by four digits and adds them up in 32 bits, 16 sums at a time.

use std::arch::x86_64::*;
use std::ops::Range;

use super::Rows;
use super::windows::{BITS, HALF, Windows};

/// Sums in a register.
const LANES: usize = 16;

/// Rows resampled together: weights are loaded once for all of them.
const GROUP: usize = 4;

/// Whether the processor has the instructions.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vnni")
}

/// A weight's digits to base 256, each in −128..=127, the least first.
fn digits(weight: i32) -> [i8; 3] {
    let low = weight as i8;
    let rest = (weight - i32::from(low)) >> 8;
    let middle = rest as i8;
    [low, middle, ((rest - i32::from(middle)) >> 8) as i8]
}

/// Up to four products of each of 16 neighbouring bytes of a resampled row.
#[repr(C, align(64))]
struct Step {
    /// For each product, which of the 64 bytes from `base` on is multiplied.
    places: [u8; 64],
    /// For each product, the digits of its weight; 0 where there is none.
    digits: [[u8; 64]; 3],
    base: usize,
    /// Which of the 64 bytes lie in the row.
    mask: u64,
}

/// How a row is resampled: the steps of each 16 bytes.
struct RowFilter {
    steps: Vec<Step>,
    blocks: Vec<Range<usize>>,
}

impl RowFilter {
    fn new(windows: &Windows, row_len: usize) -> Self {
        let len = 3 * windows.len();
        let mut filter = Self { steps: Vec::new(), blocks: Vec::with_capacity(len.div_ceil(LANES)) };
        for start in (0..len).step_by(LANES) {
            let first_step = filter.steps.len();
            filter.add_block(windows, start..len.min(start + LANES), row_len);
            filter.blocks.push(first_step..filter.steps.len());
        }
        filter
    }

    /// Adds steps until every product of the bytes is in one: each starts at the first byte that is still needed.
    fn add_block(&mut self, windows: &Windows, bytes: Range<usize>, row_len: usize) {
        let mut left: Vec<(usize, &[i32])> = bytes
            .map(|byte| {
                let (start, weights) = windows.get(byte / 3);
                (3 * start + byte % 3, weights)
            })
            .collect();
        while let Some(base) = left.iter().filter(|lane| !lane.1.is_empty()).map(|lane| lane.0).min() {
            let mut step = Step {
                places: [0; 64],
                digits: [[0; 64]; 3],
                base,
                mask: u64::MAX >> (64 - (row_len - base).min(64)),
            };
            for (lane, (place, weights)) in left.iter_mut().enumerate() {
                for product in 4 * lane..4 * lane + 4 {
                    let Some((&weight, rest)) = weights.split_first() else { break };
                    if *place >= base + 64 {
                        break;
                    }
                    step.places[product] = (*place - base) as u8;
                    for (digits, digit) in step.digits.iter_mut().zip(digits(weight)) {
                        digits[product] = digit as u8;
                    }
                    (*place, *weights) = (*place + 3, rest);
                }
            }
            self.steps.push(step);
        }
    }
}

/// Resamples along rows.
///
/// # Panics
/// If the processor has not the instructions, or `out` has not the rows of the source with the pixels of the windows.
pub(super) fn resample_rows(source: Rows, windows: &Windows, out: &mut [u8]) {
    assert!(is_available());
    let len = 3 * windows.len();
    assert_eq!(out.len(), len * source.count);
    let filter = RowFilter::new(windows, source.len);
    for (first, out) in (0..).step_by(GROUP).zip(out.chunks_mut(GROUP * len)) {
        // SAFETY: the processor has the instructions.
        unsafe {
            match out.len() / len {
                4 => resample_group::<4>(source, first, &filter, out),
                3 => resample_group::<3>(source, first, &filter, out),
                2 => resample_group::<2>(source, first, &filter, out),
                _ => resample_group::<1>(source, first, &filter, out),
            }
        }
    }
}

/// Resamples `N` rows from `first` on.
///
/// # Safety
/// The processor has the instructions that the function is compiled for.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
fn resample_group<const N: usize>(source: Rows, first: usize, filter: &RowFilter, out: &mut [u8]) {
    let rows: [&[u8]; N] = std::array::from_fn(|i| source.row(first + i));
    let len = out.len() / N;
    for (block, steps) in filter.blocks.iter().enumerate() {
        let mut sums = [[_mm512_set1_epi32(HALF), _mm512_setzero_si512(), _mm512_setzero_si512()]; N];
        for step in &filter.steps[steps.clone()] {
            let places = load(&step.places);
            let digits = step.digits.each_ref().map(|digits| load(digits));
            for row in 0..N {
                // SAFETY: the mask leaves out what lies behind the row.
                let pixels = unsafe {
                    _mm512_maskz_loadu_epi8(step.mask, rows[row].as_ptr().wrapping_add(step.base).cast())
                };
                let values = _mm512_permutexvar_epi8(places, pixels);
                for (sum, digits) in sums[row].iter_mut().zip(digits) {
                    *sum = _mm512_dpbusd_epi32(*sum, values, digits);
                }
            }
        }
        let start = LANES * block;
        let mask = u16::MAX >> (LANES - (len - start).min(LANES));
        for (row, sums) in sums.into_iter().enumerate() {
            let levels = _mm512_max_epi32(total(sums), _mm512_setzero_si512());
            let target = out[row * len + start..].as_mut_ptr();
            // SAFETY: the mask leaves out what lies behind the row.
            unsafe { _mm_mask_storeu_epi8(target.cast(), mask, _mm512_cvtusepi32_epi8(levels)) };
        }
    }
}

/// Four rows and the digits of their weights.
struct Taps {
    /// Where the rows start.
    rows: [usize; 4],
    /// Four digits each, the first row's in the lowest byte.
    digits: [i32; 3],
}

/// Resamples along columns.
///
/// # Panics
/// If the processor has not the instructions, or `out` has not as many rows as there are windows.
pub(super) fn resample_columns(source: Rows, windows: &Windows, out: &mut [u8]) {
    assert!(is_available());
    assert_eq!(out.len(), source.len * windows.len());
    let mut taps = Vec::new();
    for (y, out) in out.chunks_exact_mut(source.len).enumerate() {
        let (start, weights) = windows.get(y);
        assert!(start + weights.len() <= source.count);
        taps.clear();
        taps.extend((start..).step_by(4).zip(weights.chunks(4)).map(|(y, weights)| {
            let mut bytes = [[0; 4]; 3];
            for (i, &weight) in weights.iter().enumerate() {
                let digits = digits(weight);
                (0..3).for_each(|digit| bytes[digit][i] = digits[digit] as u8);
            }
            // Rows without a weight are multiplied by 0.
            let rows = std::array::from_fn(|i| (y + i.min(weights.len() - 1)) * source.stride);
            Taps { rows, digits: bytes.map(i32::from_le_bytes) }
        }));
        // SAFETY: the processor has the instructions, and the rows are the source's.
        unsafe { sum_columns(source, &taps, out) };
    }
}

/// # Safety
/// Each row of the taps must start where one of the source does.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn sum_columns(source: Rows, taps: &[Taps], out: &mut [u8]) {
    for (start, out) in (0..).step_by(64).zip(out.chunks_mut(64)) {
        let mask = u64::MAX >> (64 - out.len());
        let mut sums = [[_mm512_set1_epi32(HALF), _mm512_setzero_si512(), _mm512_setzero_si512()]; 4];
        for taps in taps {
            // SAFETY: the mask leaves out what lies behind the row.
            let [a, b, c, d] = taps.rows.map(|row| unsafe {
                _mm512_maskz_loadu_epi8(mask, source.bytes.as_ptr().wrapping_add(row + start).cast())
            });
            // The four rows' bytes of a column side by side; packing the sums undoes the order.
            let (low, high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
            let (low_end, high_end) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
            let columns = [
                _mm512_unpacklo_epi16(low, low_end),
                _mm512_unpackhi_epi16(low, low_end),
                _mm512_unpacklo_epi16(high, high_end),
                _mm512_unpackhi_epi16(high, high_end),
            ];
            let [low, middle, high] = taps.digits;
            let digits = [_mm512_set1_epi32(low), _mm512_set1_epi32(middle), _mm512_set1_epi32(high)];
            for (sums, columns) in sums.iter_mut().zip(columns) {
                for (sum, digits) in sums.iter_mut().zip(digits) {
                    *sum = _mm512_dpbusd_epi32(*sum, columns, digits);
                }
            }
        }
        let [a, b, c, d] = sums;
        let low = _mm512_packs_epi32(total(a), total(b));
        let high = _mm512_packs_epi32(total(c), total(d));
        let levels = _mm512_packus_epi16(low, high);
        // SAFETY: the mask leaves out what lies behind the row.
        unsafe { _mm512_mask_storeu_epi8(out.as_mut_ptr().cast(), mask, levels) };
    }
}

/// Bytes as a vector.
///
/// # Safety
/// The processor has AVX-512F.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: there are 64 bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// The digits' sums put together, in whole levels; not cut to 0..=255.
///
/// # Safety
/// The processor has AVX-512F.
#[inline]
#[target_feature(enable = "avx512f")]
fn total([low, middle, high]: [__m512i; 3]) -> __m512i {
    let high = _mm512_add_epi32(middle, _mm512_slli_epi32::<8>(high));
    _mm512_srai_epi32::<BITS>(_mm512_add_epi32(low, _mm512_slli_epi32::<8>(high)))
}

#[cfg(test)]
mod tests {
    use super::digits;

    #[test]
    fn digits_make_up_their_weight() {
        for weight in (-(1 << 22)..=1 << 22).step_by(97).chain([127, 128, -128, -129, 32767, 32768, 1 << 22])
        {
            let [low, middle, high] = digits(weight).map(i32::from);
            assert_eq!(low + (middle << 8) + (high << 16), weight);
        }
    }
}
