//! im2col: the values under the kernel, one column for each output pixel; and its transpose.

use super::{
    geometry::{Geometry, Tile},
    scratch::take,
};
use crate::cpu::Number;
use crate::matrix::Matrix;
use crate::vectorized;
use std::ops::Range;

/// Elements beyond a buffer's content that copies of whole blocks may read or write: the largest block.
const SLACK: usize = 16;

/// The patches of `channels` at the pixels of a tile, `[channels · taps, pixels]`.
///
/// A pointwise convolution reads one image where it lies, everything else is copied into `buffer`; `lines` is for
/// [`gather_patches`].
pub(super) fn patches<'a, N: Number>(
    geometry: &Geometry,
    input: &'a [N],
    channels: Range<usize>,
    tile: &Tile,
    buffer: &'a mut Vec<N>,
    lines: &mut Vec<N>,
) -> Matrix<'a, N> {
    if geometry.is_pointwise() {
        return planes(input, geometry.channels_in, geometry.input, channels, tile, buffer);
    }
    let pixels = geometry.pixels(tile);
    let length = channels.len() * geometry.taps() * pixels;
    let buffer = take(buffer, length + SLACK);
    match geometry.output[1] {
        0..=4 => gather_patches::<N, 4>(geometry, input, channels, tile, buffer, lines),
        5..=8 => gather_patches::<N, 8>(geometry, input, channels, tile, buffer, lines),
        _ => gather_patches::<N, SLACK>(geometry, input, channels, tile, buffer, lines),
    }
    Matrix::rows(&buffer[..length], pixels)
}

/// The values of all channels at the pixels of a tile, `[channels out, pixels]`, of an output-shaped tensor.
pub(super) fn panel<'a, N: Number>(
    geometry: &Geometry,
    output: &'a [N],
    tile: &Tile,
    buffer: &'a mut Vec<N>,
) -> Matrix<'a, N> {
    planes(output, geometry.channels_out, geometry.output, 0..geometry.channels_out, tile, buffer)
}

/// The values of some of a tensor's `all` channels at the pixels of a tile, `[channels, pixels]`: of one image where they lie, of
/// several copied into `buffer`.
fn planes<'a, N: Number>(
    tensor: &'a [N],
    all: usize,
    [height, width]: [usize; 2],
    channels: Range<usize>,
    tile: &Tile,
    buffer: &'a mut Vec<N>,
) -> Matrix<'a, N> {
    let plane = height * width;
    if tile.images.len() == 1 {
        let start = (tile.images.start * all + channels.start) * plane + tile.rows.start * width;
        return Matrix::rows(&tensor[start..], plane);
    }
    let pixels = tile.images.len() * plane;
    let buffer = take(buffer, channels.len() * pixels);
    for (index, image) in tile.images.clone().enumerate() {
        for (row, channel) in channels.clone().enumerate() {
            let source = (image * all + channel) * plane;
            let target = row * pixels + index * plane;
            buffer[target..target + plane].copy_from_slice(&tensor[source..source + plane]);
        }
    }
    Matrix::rows(buffer, pixels)
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

/// The input of one channel under a tile, as lines in which the pixels of a tap lie next to each other: padded, and with a stride
/// of s, one line for every s-th pixel from each of the first s ones, `[images, phases, lines, length]`.
struct Lines {
    /// Ways to start: the stride, or less where the kernel is smaller.
    phases: usize,
    /// Lines of the padded input that the tile reads.
    count: usize,
    /// Pixels of a line.
    length: usize,
    /// The parts of an image's lines that are not padding.
    parts: Vec<Part>,
}

/// A part of a line.
struct Part {
    /// Its first pixel in a plane of the input.
    source: usize,
    /// Where it begins in an image's lines.
    target: usize,
    /// How many pixels it has.
    length: usize,
}

impl Lines {
    fn new(geometry: &Geometry, tile: &Tile) -> Self {
        let ([reach_y, reach_x], [stride_y, stride_x]) = (geometry.reach(), geometry.stride);
        let mut lines = Self {
            phases: stride_x.min(reach_x + 1),
            count: (tile.rows.len() - 1) * stride_y + reach_y + 1,
            length: geometry.output[1] + reach_x / stride_x,
            parts: Vec::new(),
        };
        let ([height, width], [padding_y, padding_x]) = (geometry.input, geometry.padding);
        // A pointwise convolution with a stride of two does not read every other line.
        let is_read = |line: usize, tap: usize| {
            line.checked_sub(tap * geometry.dilation[0]).is_some_and(|line| line.is_multiple_of(stride_y))
        };
        for line in (0..lines.count).filter(|line| (0..geometry.kernel[0]).any(|tap| is_read(*line, tap))) {
            let y = (tile.rows.start * stride_y + line).checked_sub(padding_y).filter(|y| *y < height);
            let Some(y) = y else { continue };
            for phase in 0..lines.phases {
                let first = padding_x.saturating_sub(phase).div_ceil(stride_x);
                let end = (width + padding_x).saturating_sub(phase).div_ceil(stride_x).min(lines.length);
                if first < end {
                    lines.parts.push(Part {
                        source: y * width + first * stride_x + phase - padding_x,
                        target: lines.start(0, phase, line) + first,
                        length: end - first,
                    });
                }
            }
        }
        lines
    }

    /// Where the lines of an image begin.
    fn start(&self, image: usize, phase: usize, line: usize) -> usize {
        ((image * self.phases + phase) * self.count + line) * self.length
    }

    /// Writes an image's lines from a plane of the input, but for the padding.
    #[inline(always)]
    fn fill<N: Number>(&self, stride: usize, plane: &[N], lines: &mut [N]) {
        for Part { source, target, length } in &self.parts {
            every_nth(&plane[*source..], stride, &mut lines[*target..target + length]);
        }
    }
}

/// Copies every `stride`-th element.
#[inline(always)]
fn every_nth<N: Number>(source: &[N], stride: usize, target: &mut [N]) {
    match stride {
        1 => copy(&source[..target.len()], target),
        2 => {
            // Pairs of known length are what the compiler can shuffle in registers.
            let (last, pairs) = target.split_last_mut().expect("some pixels");
            *last = source[2 * pairs.len()];
            pairs.iter_mut().zip(source.chunks_exact(2)).for_each(|(target, pair)| *target = pair[0]);
        }
        _ => target
            .iter_mut()
            .zip(source.iter().step_by(stride))
            .for_each(|(target, source)| *target = *source),
    }
}

/// Copies a row. Short ones go as two halves that overlap, of lengths that the compiler knows.
#[inline(always)]
fn copy<N: Number>(source: &[N], target: &mut [N]) {
    let length = source.len();
    match length {
        2..4 => {
            target[..2].copy_from_slice(&source[..2]);
            target[length - 2..].copy_from_slice(&source[length - 2..]);
        }
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

/// Writes the patches of `channels`, `[channels · taps, pixels]`, by whole blocks: a row's last block runs over into the next row,
/// which is written after it, or into [`SLACK`].
fn gather_patches<N: Number, const BLOCK: usize>(
    geometry: &Geometry,
    input: &[N],
    channels: Range<usize>,
    tile: &Tile,
    patches: &mut [N],
    buffer: &mut Vec<N>,
) {
    let lines = Lines::new(geometry, tile);
    let images = tile.images.len();
    let plane = geometry.input_plane();
    let buffer = take(buffer, lines.start(images, 0, 0) + SLACK);
    buffer.fill(N::default());
    let rows = Rows {
        images,
        rows: tile.rows.len(),
        width: geometry.output[1],
        image_step: lines.start(1, 0, 0),
        row_step: lines.length * geometry.stride[0],
    };
    let mut targets = (0..).step_by(geometry.pixels(tile));
    for channel in channels {
        vectorized(
            #[inline(always)]
            || {
                for (index, image) in tile.images.clone().enumerate() {
                    let start = (image * geometry.channels_in + channel) * plane;
                    let target = &mut buffer[index * rows.image_step..][..rows.image_step];
                    lines.fill(geometry.stride[1], &input[start..start + plane], target);
                }
            },
        );
        for (tap, target) in (0..geometry.taps()).zip(&mut targets) {
            let [shift_y, shift_x] = shift(geometry, [tap / geometry.kernel[1], tap % geometry.kernel[1]]);
            let (phase, column) = (shift_x % geometry.stride[1], shift_x / geometry.stride[1]);
            let source = &buffer[lines.start(0, phase, shift_y) + column..];
            let target = &mut patches[target..];
            vectorized(
                #[inline(always)]
                || rows.copy::<N, BLOCK>(source, target),
            );
        }
    }
}

/// The rows of output pixels under one tap.
struct Rows {
    images: usize,
    /// Rows of an image.
    rows: usize,
    /// Pixels of a row.
    width: usize,
    /// From an image to the next in the source.
    image_step: usize,
    /// From a row to the next in the source.
    row_step: usize,
}

impl Rows {
    /// Copies them next to each other, in whole blocks.
    #[inline(always)]
    fn copy<N: Number, const BLOCK: usize>(&self, source: &[N], target: &mut [N]) {
        let Self { images, rows, width, image_step, row_step } = *self;
        let blocks = width.div_ceil(BLOCK);
        // The last row of the last image reaches furthest.
        let end = |start: usize| start + blocks * BLOCK;
        assert!(end((images - 1) * image_step + (rows - 1) * row_step) <= source.len());
        assert!(end((images * rows - 1) * width) <= target.len());
        let (source, target) = (source.as_ptr(), target.as_mut_ptr());
        let copy = |from: usize, to: usize| {
            // SAFETY: no block begins after the last one of the last row, whose end has been checked.
            unsafe {
                let block = source.add(from).cast::<[N; BLOCK]>().read_unaligned();
                target.add(to).cast::<[N; BLOCK]>().write_unaligned(block);
            }
        };
        for image in 0..images {
            let (from, to) = (image * image_step, image * rows * width);
            // Without an inner loop, whose start would take longer than a block.
            if blocks == 1 {
                (0..rows).for_each(|row| copy(from + row * row_step, to + row * width));
            } else {
                for row in 0..rows {
                    (0..blocks).for_each(|block| {
                        copy(from + row * row_step + block * BLOCK, to + row * width + block * BLOCK);
                    });
                }
            }
        }
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
