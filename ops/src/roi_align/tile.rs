//! Feature maps and output grids with the channels of a block innermost, so that one weight serves a wide register.

use std::{mem::MaybeUninit, ops::Range};

use crate::cpu::Number;

/// Channels that are computed together.
pub(super) const LANES: usize = 32;

/// A pixel, or a cell of the output, in the channels of a block.
pub(super) type Pixel = [f32; LANES];

/// Pixels that are moved together, so that what is written stays in the nearest cache.
const RUN: usize = 16;

/// `target += weight · source`
#[inline(always)]
pub(super) fn add_scaled(target: &mut Pixel, source: &Pixel, weight: f32) {
    for (target, source) in target.iter_mut().zip(source) {
        *target += weight * source;
    }
}

/// Planes of one image, `[channels, pixels]`, at most [`LANES`] of them, read into `tile`, `[pixels, LANES]`.
///
/// Only the pixels of `range` are read. Lanes beyond the channels keep what they hold.
#[inline(always)]
pub(super) fn interleave<N: Number>(planes: &[N], pixels: usize, range: Range<usize>, tile: &mut [Pixel]) {
    for start in range.clone().step_by(RUN) {
        let run = start..range.end.min(start + RUN);
        for (channel, plane) in planes.chunks_exact(pixels).enumerate() {
            for (pixel, value) in tile[run.clone()].iter_mut().zip(&plane[run.clone()]) {
                pixel[channel] = value.widened();
            }
        }
    }
}

/// [`interleave`] backwards: the pixels of `range` are written to `planes`.
#[inline(always)]
pub(super) fn separate<N: Number>(
    tile: &[Pixel],
    pixels: usize,
    range: Range<usize>,
    planes: &mut [MaybeUninit<N>],
) {
    for start in range.clone().step_by(RUN) {
        let run = start..range.end.min(start + RUN);
        for (channel, plane) in planes.chunks_exact_mut(pixels).enumerate() {
            for (pixel, value) in tile[run.clone()].iter().zip(&mut plane[run.clone()]) {
                value.write(N::rounded(pixel[channel]));
            }
        }
    }
}
