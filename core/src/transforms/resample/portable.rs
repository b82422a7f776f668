//! Resampling in plain code, which the compiler turns into vector instructions.

use super::windows::{BITS, HALF, Windows};
use super::{Rows, scratch};
use crate::transforms::vectorized::vectorized;

/// Rows resampled together.
const GROUP: usize = 4;

/// Values summed at a time along columns; they stay in registers.
const LANES: usize = 64;

/// A pixel of each row of a group, four bytes apart.
type Pixels = [u8; 4 * GROUP];

/// Resamples along rows.
///
/// # Panics
/// If `out` has not the rows of the source with the pixels of the windows.
pub(super) fn resample_rows(source: Rows, windows: &Windows, out: &mut [u8]) {
    let len = 3 * windows.len();
    assert_eq!(out.len(), len * source.count);
    let mut before = scratch::bytes(size_of::<Pixels>() * source.len / 3);
    let mut after = scratch::bytes(size_of::<Pixels>() * windows.len());
    vectorized(
        #[inline(always)]
        || {
            let before = before.as_chunks_mut().0;
            let after = after.as_chunks_mut().0;
            for (first, out) in (0..).step_by(GROUP).zip(out.chunks_mut(GROUP * len)) {
                interleave(source, first, before);
                resample_group(before, windows, after);
                for (row, out) in out.chunks_exact_mut(len).enumerate() {
                    for (out, pixels) in out.as_chunks_mut::<3>().0.iter_mut().zip(&*after) {
                        out.copy_from_slice(&pixels[4 * row..4 * row + 3]);
                    }
                }
            }
        },
    );
    scratch::give(before);
    scratch::give(after);
}

/// Puts the pixels of a group's rows side by side; beyond the last row, the last one stands in.
#[inline(always)]
fn interleave(source: Rows, first: usize, pixels: &mut [Pixels]) {
    for row in 0..GROUP {
        let bytes = source.row((first + row).min(source.count - 1));
        for (pixels, pixel) in pixels.iter_mut().zip(bytes.as_chunks::<3>().0) {
            pixels[4 * row..4 * row + 3].copy_from_slice(pixel);
        }
    }
}

#[inline(always)]
fn resample_group(before: &[Pixels], windows: &Windows, after: &mut [Pixels]) {
    for (x, after) in after.iter_mut().enumerate() {
        let (start, weights) = windows.get(x);
        let mut sums = [HALF; 4 * GROUP];
        for (pixels, &weight) in before[start..].iter().zip(weights) {
            for lane in 0..4 * GROUP {
                // The fourth byte of a pixel is whatever was there, so its sum may be, too.
                sums[lane] = sums[lane].wrapping_add(weight.wrapping_mul(i32::from(pixels[lane])));
            }
        }
        *after = sums.map(level);
    }
}

/// Resamples along columns.
///
/// # Panics
/// If `out` has not as many rows as there are windows.
pub(super) fn resample_columns(source: Rows, windows: &Windows, out: &mut [u8]) {
    assert_eq!(out.len(), source.len * windows.len());
    vectorized(
        #[inline(always)]
        || {
            for (y, out) in out.chunks_exact_mut(source.len).enumerate() {
                let (start, weights) = windows.get(y);
                if source.len < LANES {
                    (0..source.len).for_each(|x| sum_columns::<1>(source, start, weights, x, out));
                    continue;
                }
                // The last lanes end at the row's end; some of them may be done already.
                let last = source.len - LANES;
                for x in (0..last).step_by(LANES).chain([last]) {
                    sum_columns::<LANES>(source, start, weights, x, out);
                }
            }
        },
    );
}

#[inline(always)]
fn sum_columns<const N: usize>(source: Rows, start: usize, weights: &[i32], x: usize, out: &mut [u8]) {
    let mut sums = [HALF; N];
    for (y, &weight) in (start..).zip(weights) {
        let values = &source.row(y)[x..x + N];
        for lane in 0..N {
            sums[lane] += weight * i32::from(values[lane]);
        }
    }
    for (out, sum) in out[x..x + N].iter_mut().zip(sums) {
        *out = level(sum);
    }
}

#[inline(always)]
fn level(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}
