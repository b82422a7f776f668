//! im2col: the values under the kernel, one column for each output pixel; and its transpose.

use super::{
    geometry::{Geometry, Tile},
    scratch::take,
};
use crate::cpu::Number;
use crate::matrix::Matrix;
use crate::vectorized;
use std::ops::Range;

/// The patches of `channels` at the pixels of a tile, `[channels · taps, pixels]`.
///
/// A pointwise convolution reads the input where it lies, everything else is copied into `buffer`.
pub(super) fn patches<'a, N: Number>(
    geometry: &Geometry,
    input: &'a [N],
    channels: Range<usize>,
    tile: &Tile,
    buffer: &'a mut Vec<N>,
) -> Matrix<'a, N> {
    if geometry.is_pointwise() && tile.images.len() == 1 {
        return panel_in_place(input, geometry.channels_in, geometry.input, channels.start, tile);
    }
    let pixels = geometry.pixels(tile);
    let buffer = take(buffer, channels.len() * geometry.taps() * pixels);
    gather_patches(geometry, input, channels, tile, buffer);
    Matrix::rows(buffer, pixels)
}

/// The values of all channels at the pixels of a tile, `[channels out, pixels]`, of an output-shaped tensor.
pub(super) fn panel<'a, N: Number>(
    geometry: &Geometry,
    output: &'a [N],
    tile: &Tile,
    buffer: &'a mut Vec<N>,
) -> Matrix<'a, N> {
    if tile.images.len() == 1 {
        return panel_in_place(output, geometry.channels_out, geometry.output, 0, tile);
    }
    let (plane, pixels) = (geometry.output_plane(), geometry.pixels(tile));
    let buffer = take(buffer, geometry.channels_out * pixels);
    for (index, image) in tile.images.clone().enumerate() {
        for channel in 0..geometry.channels_out {
            let source = (image * geometry.channels_out + channel) * plane;
            let target = channel * pixels + index * plane;
            buffer[target..target + plane].copy_from_slice(&output[source..source + plane]);
        }
    }
    Matrix::rows(buffer, pixels)
}

fn panel_in_place<'a, N>(
    tensor: &'a [N],
    channels: usize,
    [height, width]: [usize; 2],
    channel: usize,
    tile: &Tile,
) -> Matrix<'a, N> {
    let plane = height * width;
    let start = (tile.images.start * channels + channel) * plane + tile.rows.start * width;
    Matrix::rows(&tensor[start..], plane)
}

/// How far a tap is from the kernel's first one, in pixels.
fn shift(geometry: &Geometry, tap: [usize; 2]) -> [usize; 2] {
    [0, 1].map(|axis| tap[axis] * geometry.dilation[axis])
}

/// The output rows or columns where a tap that is shifted so far lies inside the input.
fn inside(geometry: &Geometry, axis: usize, shift: usize) -> Range<usize> {
    let (stride, padding) = (geometry.stride[axis], geometry.padding[axis]);
    let start = padding.saturating_sub(shift).div_ceil(stride);
    let end = (geometry.input[axis] + padding).saturating_sub(shift).div_ceil(stride);
    let end = end.min(geometry.output[axis]);
    start.min(end)..end
}

fn gather_patches<N: Number>(
    geometry: &Geometry,
    input: &[N],
    channels: Range<usize>,
    tile: &Tile,
    patches: &mut [N],
) {
    let pixels = geometry.pixels(tile);
    let plane = geometry.input_plane();
    let mut rows = patches.chunks_exact_mut(pixels);
    for channel in channels {
        for tap_y in 0..geometry.kernel[0] {
            for (tap_x, row) in (0..geometry.kernel[1]).zip(&mut rows) {
                let parts = row.chunks_exact_mut(tile.rows.len() * geometry.output[1]);
                for (image, part) in tile.images.clone().zip(parts) {
                    let start = (image * geometry.channels_in + channel) * plane;
                    gather_tap(
                        geometry,
                        &input[start..start + plane],
                        shift(geometry, [tap_y, tap_x]),
                        &tile.rows,
                        part,
                    );
                }
            }
        }
    }
}

/// Copies the input pixels under the tap of the kernel that is shifted so far for the output rows `rows` of one image.
fn gather_tap<N: Number>(
    geometry: &Geometry,
    input: &[N],
    [shift_y, shift_x]: [usize; 2],
    rows: &Range<usize>,
    output: &mut [N],
) {
    let columns = inside(geometry, 1, shift_x);
    let valid = inside(geometry, 0, shift_y);
    let [stride_y, stride_x] = geometry.stride;
    let width = geometry.input[1];
    let first = (columns.start * stride_x + shift_x).saturating_sub(geometry.padding[1]);
    for (y, output) in rows.clone().zip(output.chunks_exact_mut(geometry.output[1])) {
        if !valid.contains(&y) || columns.is_empty() {
            output.fill(N::default());
            continue;
        }
        let start = (y * stride_y + shift_y - geometry.padding[0]) * width + first;
        output[..columns.start].fill(N::default());
        output[columns.end..].fill(N::default());
        let output = &mut output[columns.clone()];
        if stride_x == 1 {
            copy(&input[start..start + output.len()], output);
        } else if stride_x == 2 {
            // Pairs of known length are what the compiler can shuffle in registers.
            let (last, pairs) = output.split_last_mut().expect("some columns");
            let source = input[start..].chunks_exact(2);
            vectorized(
                #[inline(always)]
                || pairs.iter_mut().zip(source).for_each(|(output, pair)| *output = pair[0]),
            );
            *last = input[start + 2 * pairs.len()];
        } else {
            let source = input[start..].iter().step_by(stride_x);
            output.iter_mut().zip(source).for_each(|(output, input)| *output = *input);
        }
    }
}

/// Copies a row. Short ones go as two halves that overlap, of lengths that the compiler knows.
#[inline(always)]
fn copy<N: Number>(source: &[N], target: &mut [N]) {
    let length = source.len();
    match length {
        4..8 => {
            target[..4].copy_from_slice(&source[..4]);
            target[length - 4..].copy_from_slice(&source[length - 4..]);
        }
        8..=16 => {
            target[..8].copy_from_slice(&source[..8]);
            target[length - 8..].copy_from_slice(&source[length - 8..]);
        }
        _ => target.copy_from_slice(source),
    }
}

/// Adds patches, `[channels · taps, pixels]`, to the input pixels that they were taken from.
///
/// `input` holds the planes of the patches' channels in one image.
pub(super) fn scatter_patches(geometry: &Geometry, patches: &[f32], rows: &Range<usize>, input: &mut [f32]) {
    let mut parts = patches.chunks_exact(rows.len() * geometry.output[1]);
    for plane in input.chunks_exact_mut(geometry.input_plane()) {
        for tap_y in 0..geometry.kernel[0] {
            for (tap_x, part) in (0..geometry.kernel[1]).zip(&mut parts) {
                scatter_tap(geometry, part, shift(geometry, [tap_y, tap_x]), rows, plane);
            }
        }
    }
}

fn scatter_tap(
    geometry: &Geometry,
    output: &[f32],
    [shift_y, shift_x]: [usize; 2],
    rows: &Range<usize>,
    input: &mut [f32],
) {
    let columns = inside(geometry, 1, shift_x);
    let valid = inside(geometry, 0, shift_y);
    if columns.is_empty() {
        return;
    }
    let [stride_y, stride_x] = geometry.stride;
    let first = columns.start * stride_x + shift_x - geometry.padding[1];
    for (y, output) in rows.clone().zip(output.chunks_exact(geometry.output[1])) {
        if valid.contains(&y) {
            let start = (y * stride_y + shift_y - geometry.padding[0]) * geometry.input[1] + first;
            let target = input[start..].iter_mut().step_by(stride_x);
            target.zip(&output[columns.clone()]).for_each(|(input, output)| *input += output);
        }
    }
}
