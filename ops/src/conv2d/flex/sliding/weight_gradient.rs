//! Gradient of the weight: `dW[o, c, tap] = Σ dY[o, n] · X[c, n + tap]`, for all taps from one panel of `X`.

use super::{Geometry, Tile, even_parts, tiles};
use crate::cpu::DisjointMut;
use crate::matrix::{
    Factor, Matrix,
    amx::{self, Registers, add_product_of_panel, grow},
    cut::{Cut, mask_32},
    split::{self, BLOCK, DEPTH, Operand, block_tiles, pack},
};
use rayon::prelude::*;
use std::arch::x86_64::_mm512_mask_storeu_epi16;
use std::cell::RefCell;
use std::ops::Range;

/// Input pixels of a tile.
const PLACES: usize = 1024;
/// Input channels of a task at most: packing the output gradient is shared by these.
const CHANNELS: usize = 128;
/// Tasks wanted for the sake of threads.
const TASKS: usize = 8;

/// Memory that a thread keeps from one tile to the next.
#[derive(Default)]
struct GradientBuffers {
    /// Parts of the input, `[parts, channels, row]`.
    panel: Vec<u16>,
    /// The bits of output gradients at their places, `[O, places]`.
    lines: Vec<u32>,
    /// The same as right operand, `[places, O]`.
    gradient: Vec<split::Tile>,
}

/// Writes the gradient of the weight, `[O, C, KH, KW]`.
///
/// A task owns some input channels and a group of tiles; the groups' sums are added in their order.
///
/// # Panics
/// If there are no kernels for tiles of such numbers.
pub(in super::super) fn weight_gradient<N: Factor>(
    geometry: &Geometry,
    input: &[N],
    output_gradient: &[N],
    gradient: DisjointMut<'_>,
) {
    thread_local! {
        static SCRATCH: RefCell<GradientBuffers> = RefCell::default();
    }
    let blocks: Vec<_> = even_parts(geometry.channels_in.div_ceil(BLOCK), CHANNELS / BLOCK)
        .map(|blocks| blocks.start * BLOCK..geometry.channels_in.min(blocks.end * BLOCK))
        .collect();
    let tiles = tiles(geometry, PLACES);
    let groups = TASKS.div_ceil(blocks.len()).min(tiles.len());
    let groups: Vec<_> = even_parts(tiles.len(), tiles.len().div_ceil(groups)).collect();
    let tasks: Vec<_> =
        blocks.iter().flat_map(|block| groups.iter().map(move |group| (block, group.clone()))).collect();
    let mut sums: Vec<Vec<f32>> = tasks
        .into_par_iter()
        .map(|(channels, group)| {
            SCRATCH.with_borrow_mut(|scratch| {
                sum_tiles(geometry, input, output_gradient, channels, &tiles[group], scratch)
            })
        })
        .collect();
    for (channels, sums) in blocks.iter().zip(sums.chunks_exact_mut(groups.len())) {
        write_channels(geometry, channels, sums, gradient);
    }
}

/// Writes the gradient of some channels, the sum of `[taps, channels, O]` sums.
fn write_channels(
    geometry: &Geometry,
    channels: &Range<usize>,
    sums: &mut [Vec<f32>],
    gradient: DisjointMut<'_>,
) {
    let (taps, rows, columns) = (geometry.taps(), padded(channels.len()), padded(geometry.channels_out));
    let Some((total, others)) = sums.split_first_mut() else { return };
    total.par_chunks_exact_mut(columns).enumerate().for_each(|(row, total)| {
        for sum in &*others {
            total.iter_mut().zip(&sum[row * columns..]).for_each(|(total, value)| *total += value);
        }
    });
    channels.clone().into_par_iter().enumerate().for_each(|(index, channel)| {
        for out in 0..geometry.channels_out {
            let start = (out * geometry.channels_in + channel) * taps;
            // SAFETY: kernels do not overlap, and only this thread writes those of this channel.
            let kernel = unsafe { gradient.unwritten_part(start..start + taps) };
            for (tap, target) in kernel.iter_mut().enumerate() {
                target.write(total[(tap * rows + index) * columns + out]);
            }
        }
    });
}

/// Rows or columns of whole blocks.
fn padded(length: usize) -> usize {
    length.div_ceil(BLOCK) * BLOCK
}

/// The sum over some tiles, `[taps, channels, O]`, channels and outputs in whole blocks.
fn sum_tiles<N: Factor>(
    geometry: &Geometry,
    input: &[N],
    output_gradient: &[N],
    channels: &Range<usize>,
    tiles: &[Tile],
    scratch: &mut GradientBuffers,
) -> Vec<f32> {
    amx::require::<N::Cut>();
    let (rows, columns) = (padded(channels.len()), padded(geometry.channels_out));
    let mut sums = vec![0.0f32; geometry.taps() * rows * columns];
    for tile in tiles {
        let steps = tile.places(geometry).div_ceil(DEPTH);
        // The last step of the last tap reads this far.
        let taps = tile.tap_offsets(geometry);
        let reach = steps * DEPTH + taps.iter().max().copied().unwrap_or(0);
        let row = (reach.max(tile.lines(geometry) * tile.line(geometry)).div_ceil(DEPTH) | 1) * DEPTH;
        place_gradient(geometry, output_gradient, tile, scratch);
        // SAFETY: there are kernels for tiles, and with them AVX-512.
        unsafe { fill::<N::Cut>(geometry, input, channels, tile, row, &mut scratch.panel) };
        // SAFETY: there are kernels for tiles.
        let _registers = unsafe { Registers::take::<N::Cut>() };
        let strides = [row, rows * row].map(|numbers| numbers * size_of::<u16>());
        for channel in (0..rows).step_by(BLOCK) {
            for (tap, offset) in taps.iter().enumerate() {
                let panel = scratch.panel[channel * row + offset..].as_ptr();
                let blocks = scratch.gradient.chunks_exact(steps * block_tiles::<N::Cut>());
                for (column, right) in (0..columns).step_by(BLOCK).zip(blocks) {
                    let target = &mut sums[(tap * rows + channel) * columns + column..];
                    // SAFETY: the registers are taken, rows of the panel reach to the end of the last step, and
                    // the sums hold a block from here on.
                    unsafe {
                        add_product_of_panel::<N::Cut>(
                            panel,
                            strides,
                            right.as_ptr(),
                            steps,
                            target.as_mut_ptr(),
                            columns,
                        );
                    }
                }
            }
        }
    }
    sums
}

/// Puts the output gradients of a tile at their places, zeros between them, and packs them.
fn place_gradient<N: Factor>(
    geometry: &Geometry,
    output_gradient: &[N],
    tile: &Tile,
    scratch: &mut GradientBuffers,
) {
    amx::require::<N::Cut>();
    let (line, places) = (tile.line(geometry), tile.places(geometry));
    let length = geometry.channels_out * places;
    if scratch.lines.len() < length {
        scratch.lines.resize(length, 0);
    }
    let lines = &mut bytemuck::cast_slice_mut::<u32, N>(&mut scratch.lines)[..length];
    for (channel, target) in lines.chunks_exact_mut(places).enumerate() {
        let plane = (tile.image * geometry.channels_out + channel) * geometry.output_plane();
        for (y, target) in tile.rows.clone().zip(target.chunks_mut(line)) {
            let start = plane + y * geometry.output[1] + tile.columns.start;
            let (pixels, rest) = target.split_at_mut(tile.columns.len());
            pixels.copy_from_slice(&output_gradient[start..start + pixels.len()]);
            rest.fill(N::default());
        }
    }
    let matrix = Matrix::rows(lines, places).transposed();
    let operand = Operand::right(matrix, [places, geometry.channels_out]);
    let tiles = grow(&mut scratch.gradient, operand.blocks() * block_tiles::<N::Cut>());
    // SAFETY: there are kernels for tiles, and with them AVX-512; the lines hold `[O, places]`.
    unsafe { pack::<N::Cut, false>(&operand, tiles) };
}

/// Writes the parts of a tile's input, zeros where it is padded, channels in whole blocks.
///
/// # Safety
/// The processor has AVX-512 (F and BW).
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn fill<C: Cut>(
    geometry: &Geometry,
    input: &[C::Number],
    channels: &Range<usize>,
    tile: &Tile,
    row: usize,
    panel: &mut Vec<u16>,
) {
    let (plane, line, rows) = (geometry.input_plane(), tile.line(geometry), padded(channels.len()));
    // Zeros wherever nothing is written: what a product multiplies by zero must be a number.
    if panel.len() < C::PARTS * rows * row {
        panel.resize(C::PARTS * rows * row, 0);
    }
    let mut clear = |index: usize, places: Range<usize>| {
        for part in 0..C::PARTS {
            let start = (part * rows + index) * row;
            panel[start + places.start..start + places.end].fill(0);
        }
    };
    (channels.len()..rows).for_each(|index| clear(index, 0..row));
    let lines = tile.lines(geometry);
    for index in 0..channels.len() {
        for y in 0..lines {
            let (before, _, count) = tile.input_span(geometry, y).unwrap_or((line, 0, 0));
            clear(index, y * line..y * line + before);
            clear(index, y * line + before + count..(y + 1) * line);
        }
        clear(index, lines * line..row);
    }
    for (index, channel) in channels.clone().enumerate() {
        let image = &input[(tile.image * geometry.channels_in + channel) * plane..][..plane];
        for y in 0..lines {
            let Some((before, start, count)) = tile.input_span(geometry, y) else { continue };
            for from in (0..count).step_by(DEPTH) {
                let length = (count - from).min(DEPTH);
                let source = &image[start + from..][..length];
                let target = index * row + y * line + before + from;
                // SAFETY: the source has `length` numbers.
                let parts = unsafe { C::adjacent(source.as_ptr(), length) };
                for (part, values) in parts.as_ref().iter().enumerate() {
                    let target = &mut panel[part * rows * row + target..][..length];
                    // SAFETY: the target has room for as many.
                    unsafe { _mm512_mask_storeu_epi16(target.as_mut_ptr().cast(), mask_32(length), *values) };
                }
            }
        }
    }
}
