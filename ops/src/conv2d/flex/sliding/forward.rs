//! `Y = W * X + b`.

use super::{Geometry, PANEL_BYTES, Tile, tiles};
use crate::cpu::DisjointMut;
use crate::matrix::{
    Matrix,
    amx::{self, Registers, product_with_panel},
    packed::Packed,
    split::{BLOCK, BLOCK_TILES, DEPTH, PARTS, TILE, mask, paired},
};
use crate::vectorized;
use rayon::prelude::*;
use std::arch::x86_64::_mm512_mask_storeu_epi32;
use std::cell::RefCell;

/// The input of a tile: for 32 channels at a time the high, the middle and the low parts, each 16 rows of
/// pairs of neighbouring channels.
#[derive(Clone, Copy)]
struct Panel {
    /// Pairs from one row to the next: an odd number of cache lines, so that rows spread over the cache.
    row: usize,
}

impl Panel {
    fn new(geometry: &Geometry, tile: &Tile) -> Self {
        // A block that begins at the last place reads a block's columns beyond the last tap.
        let pairs = tile.lines(geometry) * tile.line(geometry) + BLOCK;
        Self { row: (pairs.div_ceil(TILE) | 1) * TILE }
    }

    fn part(self) -> usize {
        TILE * self.row
    }

    fn step(self) -> usize {
        PARTS * self.part()
    }
}

/// Memory that a thread keeps from one tile to the next.
#[derive(Default)]
struct ForwardBuffers {
    panel: Vec<u32>,
    output: Vec<f32>,
}

/// Writes the output, `[N, O, H', W']`, of an input, `[N, C, H, W]`, and a weight, `[O, C, KH, KW]`.
///
/// # Panics
/// If AMX is not available.
pub(in super::super) fn forward(
    geometry: &Geometry,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    output: DisjointMut<'_>,
) {
    let offsets: Vec<usize> = (0..geometry.taps()).collect();
    let matrix = Matrix { data: weight, row_stride: geometry.depth(), column_stride: geometry.taps() };
    run(
        geometry,
        input,
        Packed::sum_of(matrix, [geometry.channels_out, geometry.channels_in], &offsets),
        bias,
        output,
    );
}

/// Writes the gradient of the input, `[N, C, H, W]`, given that of the output and the weight, `[O, C, KH, KW]`.
///
/// `mirrored` is the convolution from output to input gradient, whose kernels are turned by half a turn.
///
/// # Panics
/// If AMX is not available.
pub(in super::super) fn input_gradient(
    mirrored: &Geometry,
    output_gradient: &[f32],
    weight: &[f32],
    gradient: DisjointMut<'_>,
) {
    let taps = mirrored.taps();
    let offsets: Vec<usize> = (0..taps).rev().collect();
    let matrix = Matrix { data: weight, row_stride: taps, column_stride: mirrored.channels_out * taps };
    let weight = Packed::sum_of(matrix, [mirrored.channels_out, mirrored.channels_in], &offsets);
    run(mirrored, output_gradient, weight, None, gradient);
}

/// The weight has as many steps for 32 channels as there are taps.
fn run(geometry: &Geometry, input: &[f32], weight: Packed, bias: Option<&[f32]>, output: DisjointMut<'_>) {
    thread_local! {
        static SCRATCH: RefCell<ForwardBuffers> = RefCell::default();
    }
    let places = PANEL_BYTES / (2 * PARTS * steps(geometry) * DEPTH);
    tiles(geometry, places).into_par_iter().for_each(|tile| {
        SCRATCH.with_borrow_mut(|scratch| {
            one_tile(geometry, input, &weight, bias, &tile, output, scratch);
        });
    });
}

/// Steps of 32 input channels.
fn steps(geometry: &Geometry) -> usize {
    geometry.channels_in.div_ceil(DEPTH)
}

fn one_tile(
    geometry: &Geometry,
    input: &[f32],
    weight: &Packed,
    bias: Option<&[f32]>,
    tile: &Tile,
    output: DisjointMut<'_>,
    scratch: &mut ForwardBuffers,
) {
    amx::require();
    let panel = Panel::new(geometry, tile);
    let length = steps(geometry) * panel.step();
    if scratch.panel.len() < length {
        scratch.panel.resize(length, 0);
    }
    let image = geometry.channels_in * geometry.input_plane();
    let image = &input[tile.image * image..][..image];
    // SAFETY: AMX is available, and with it AVX-512.
    unsafe { fill(geometry, image, tile, panel, &mut scratch.panel[..length]) };
    let taps = tile.tap_offsets(geometry);
    let offsets: Vec<usize> = (0..steps(geometry))
        .flat_map(|step| taps.iter().map(move |tap| (step * panel.step() + tap) * size_of::<u32>()))
        .collect();
    let width = tile.places(geometry).div_ceil(BLOCK) * BLOCK;
    scratch.output.resize((BLOCK * width).max(scratch.output.len()), 0.0);
    for start in (0..geometry.channels_out).step_by(BLOCK) {
        let left = weight.block(start / BLOCK, 0);
        // SAFETY: AMX is available.
        let registers = unsafe { Registers::take() };
        for (index, place) in (0..width).step_by(BLOCK).enumerate() {
            // The weight's next block comes from memory: a part of it for each block of places.
            let ahead = left.wrapping_add(offsets.len() * (BLOCK_TILES + index));
            let strides = [panel.row, panel.part()].map(|pairs| pairs * size_of::<u32>());
            // SAFETY: the registers are taken, the panel's rows are as long as the last block needs, the weight has
            // a block for these channels and a step for each offset, and the buffer is this thread's.
            unsafe {
                product_with_panel(
                    [left, ahead],
                    scratch.panel.as_ptr().wrapping_add(place),
                    strides,
                    &offsets,
                    scratch.output.as_mut_ptr().wrapping_add(place),
                    width,
                );
            }
        }
        drop(registers);
        for (channel, line) in
            (start..geometry.channels_out.min(start + BLOCK)).zip(scratch.output.chunks_exact(width))
        {
            let bias = bias.map_or(0.0, |bias| bias[channel]);
            write_rows(geometry, tile, channel, line, bias, output);
        }
    }
}

/// Copies the pixels of one channel from their places to the output.
fn write_rows(
    geometry: &Geometry,
    tile: &Tile,
    channel: usize,
    line: &[f32],
    bias: f32,
    output: DisjointMut<'_>,
) {
    let plane = (tile.image * geometry.channels_out + channel) * geometry.output_plane();
    for (y, source) in tile.rows.clone().zip(line.chunks(tile.line(geometry))) {
        let start = plane + y * geometry.output[1] + tile.columns.start;
        // SAFETY: tiles do not overlap, and only this thread handles this one.
        let target = unsafe { output.unwritten_part(start..start + tile.columns.len()) };
        vectorized(
            #[inline(always)]
            || {
                target.iter_mut().zip(source).for_each(|(target, value)| {
                    target.write(value + bias);
                });
            },
        );
    }
}

/// Writes the parts of a tile's input, zeros where it is padded.
///
/// # Safety
/// The processor has AVX-512 (F and BW).
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn fill(geometry: &Geometry, image: &[f32], tile: &Tile, panel: Panel, pairs: &mut [u32]) {
    let (plane, line) = (geometry.input_plane(), tile.line(geometry));
    let spans: Vec<_> = (0..tile.lines(geometry)).map(|index| tile.input_span(geometry, index)).collect();
    for pair in 0..steps(geometry) * TILE {
        let row = (pair / TILE * PARTS * TILE + pair % TILE) * panel.row;
        // A channel behind the last one is read as no numbers at all.
        let present = [2 * pair, 2 * pair + 1].map(|channel| channel < geometry.channels_in);
        let [even, odd] =
            [2 * pair, 2 * pair + 1].map(|channel| channel.min(geometry.channels_in - 1) * plane);
        for (index, span) in spans.iter().enumerate() {
            let (before, start, count) = span.unwrap_or((line, 0, 0));
            let target = row + index * line;
            for part in 0..PARTS {
                let target = &mut pairs[target + part * panel.part()..][..line];
                target[..before].fill(0);
                target[before + count..].fill(0);
            }
            let sources = [&image[even + start..][..count], &image[odd + start..][..count]];
            let [high, middle, low] =
                [0, 1, 2].map(|part| pairs[target + before + part * panel.part()..][..count].as_mut_ptr());
            for from in (0..count).step_by(TILE) {
                let length = (count - from).min(TILE);
                let counts = present.map(|present| if present { length } else { 0 });
                // SAFETY: `length` numbers are left in both sources and in the three targets.
                unsafe {
                    let parts = paired(sources.map(|source| source.as_ptr().add(from)), counts);
                    _mm512_mask_storeu_epi32(high.add(from).cast(), mask(length), parts[0]);
                    _mm512_mask_storeu_epi32(middle.add(from).cast(), mask(length), parts[1]);
                    _mm512_mask_storeu_epi32(low.add(from).cast(), mask(length), parts[2]);
                }
            }
        }
    }
}
