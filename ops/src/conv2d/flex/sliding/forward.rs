//! `Y = W * X + b`.

use super::{Geometry, PANEL_BYTES, Tile, tiles};
use crate::cpu::{DisjointMut, values};
use crate::matrix::{
    Epilogue, Factor, Matrix,
    amx::{self, Registers, ahead_bytes, product_with_panel},
    cut::{Cut, mask},
    kept::{self, Layout},
    packed::Packed,
    split::{BLOCK, DEPTH, TILE, block_tiles},
    store::store_row,
};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::arch::x86_64::_mm512_mask_storeu_epi32;
use std::cell::RefCell;

/// The input of a tile: for 32 channels at a time the parts, each 16 rows of pairs of neighbouring channels.
#[derive(Clone, Copy)]
struct Panel {
    /// Pairs from one row to the next: an odd number of cache lines, so that rows spread over the cache.
    row: usize,
    /// Parts of a number.
    parts: usize,
}

impl Panel {
    fn new<C: Cut>(geometry: &Geometry, tile: &Tile) -> Self {
        // A block that begins at the last place reads a block's columns beyond the last tap.
        let pairs = tile.lines(geometry) * tile.line(geometry) + BLOCK;
        Self { row: (pairs.div_ceil(TILE) | 1) * TILE, parts: C::PARTS }
    }

    fn part(self) -> usize {
        TILE * self.row
    }

    fn step(self) -> usize {
        self.parts * self.part()
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
/// If there are no kernels for tiles of such numbers.
pub(in super::super) fn forward<N: Factor>(
    geometry: &Geometry,
    input: &[N],
    weight: &FlexTensor,
    epilogue: &Epilogue<'_, N>,
    output: DisjointMut<'_, N>,
) {
    let taps = geometry.taps();
    let offsets: Vec<usize> = (0..taps).collect();
    let matrix = Matrix { data: values(weight), row_stride: geometry.depth(), column_stride: taps };
    let pack =
        || Packed::sum_of::<N::WeightCut>(matrix, [geometry.channels_out, geometry.channels_in], &offsets);
    let packed = kept::packed(weight, Layout::Taps(taps, N::parts()), pack);
    run(geometry, input, &packed, epilogue, output);
}

/// Writes the gradient of the input, `[N, C, H, W]`, given that of the output and the weight, `[O, C, KH, KW]`.
///
/// `mirrored` is the convolution from output to input gradient, whose kernels are turned by half a turn.
///
/// # Panics
/// If there are no kernels for tiles of such numbers.
pub(in super::super) fn input_gradient<N: Factor>(
    mirrored: &Geometry,
    output_gradient: &[N],
    weight: &[f32],
    epilogue: &Epilogue<'_, N>,
    gradient: DisjointMut<'_, N>,
) {
    let taps = mirrored.taps();
    let offsets: Vec<usize> = (0..taps).rev().collect();
    let matrix = Matrix { data: weight, row_stride: taps, column_stride: mirrored.channels_out * taps };
    let weight =
        Packed::sum_of::<N::WeightCut>(matrix, [mirrored.channels_out, mirrored.channels_in], &offsets);
    run(mirrored, output_gradient, &weight, epilogue, gradient);
}

/// The weight has as many steps for 32 channels as there are taps.
fn run<N: Factor>(
    geometry: &Geometry,
    input: &[N],
    weight: &Packed,
    epilogue: &Epilogue<'_, N>,
    output: DisjointMut<'_, N>,
) {
    thread_local! {
        static SCRATCH: RefCell<ForwardBuffers> = RefCell::default();
    }
    let places = PANEL_BYTES / (2 * N::Cut::PARTS * steps(geometry) * DEPTH);
    tiles(geometry, places).into_par_iter().for_each(|tile| {
        SCRATCH.with_borrow_mut(|scratch| {
            one_tile(geometry, input, weight, epilogue, &tile, output, scratch);
        });
    });
}

/// Steps of 32 input channels.
fn steps(geometry: &Geometry) -> usize {
    geometry.channels_in.div_ceil(DEPTH)
}

fn one_tile<N: Factor>(
    geometry: &Geometry,
    input: &[N],
    weight: &Packed,
    epilogue: &Epilogue<'_, N>,
    tile: &Tile,
    output: DisjointMut<'_, N>,
    scratch: &mut ForwardBuffers,
) {
    amx::require::<N::Cut>();
    let panel = Panel::new::<N::Cut>(geometry, tile);
    let length = steps(geometry) * panel.step();
    if scratch.panel.len() < length {
        scratch.panel.resize(length, 0);
    }
    let image = geometry.channels_in * geometry.input_plane();
    let image = &input[tile.image * image..][..image];
    // SAFETY: there are kernels for tiles, and with them AVX-512.
    unsafe { fill::<N::Cut>(geometry, image, tile, panel, &mut scratch.panel[..length]) };
    let taps = tile.tap_offsets(geometry);
    let offsets: Vec<usize> = (0..steps(geometry))
        .flat_map(|step| taps.iter().map(move |tap| (step * panel.step() + tap) * size_of::<u32>()))
        .collect();
    let width = tile.places(geometry).div_ceil(BLOCK) * BLOCK;
    scratch.output.resize((BLOCK * width).max(scratch.output.len()), 0.0);
    for start in (0..geometry.channels_out).step_by(BLOCK) {
        let left = weight.block(start / BLOCK, 0);
        // SAFETY: there are kernels for tiles.
        let registers = unsafe { Registers::take::<N::Cut>() };
        for (index, place) in (0..width).step_by(BLOCK).enumerate() {
            // The weight's next block comes from memory: a part of it for each block of places.
            let ahead = left.wrapping_add(offsets.len() * block_tiles::<N::Cut>());
            let ahead = ahead.wrapping_byte_add(index * offsets.len() * ahead_bytes::<N::Cut>());
            let strides = [panel.row, panel.part()].map(|pairs| pairs * size_of::<u32>());
            // SAFETY: the registers are taken, the panel's rows are as long as the last block needs, the weight has
            // a block for these channels and a step for each offset, and the buffer is this thread's.
            unsafe {
                product_with_panel::<N::Cut>(
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
            // SAFETY: there are kernels for tiles, and with them AVX-512.
            unsafe { write_rows(geometry, tile, channel, line, epilogue, output) };
        }
    }
}

/// Copies the pixels of one channel from their places to the output.
///
/// # Safety
/// The processor has AVX-512 (F and BW).
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn write_rows<N: Factor>(
    geometry: &Geometry,
    tile: &Tile,
    channel: usize,
    line: &[f32],
    epilogue: &Epilogue<'_, N>,
    output: DisjointMut<'_, N>,
) {
    let plane = (tile.image * geometry.channels_out + channel) * geometry.output_plane();
    for (y, source) in tile.rows.clone().zip(line.chunks(tile.line(geometry))) {
        let start = plane + y * geometry.output[1] + tile.columns.start;
        let pixels = &source[..tile.columns.len()];
        let residual = epilogue.residual(start, pixels.len());
        let target = output.pointer(start, pixels.len());
        // SAFETY: tiles do not overlap, and only this thread handles this one.
        unsafe { store_row(pixels, epilogue.affine(channel), residual, epilogue.floor, target) };
    }
}

/// Writes the parts of a tile's input, zeros where it is padded.
///
/// # Safety
/// The processor has AVX-512 (F and BW).
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn fill<C: Cut>(
    geometry: &Geometry,
    image: &[C::Number],
    tile: &Tile,
    panel: Panel,
    pairs: &mut [u32],
) {
    let (plane, line) = (geometry.input_plane(), tile.line(geometry));
    let spans: Vec<_> = (0..tile.lines(geometry)).map(|index| tile.input_span(geometry, index)).collect();
    for pair in 0..steps(geometry) * TILE {
        let row = (pair / TILE * C::PARTS * TILE + pair % TILE) * panel.row;
        // A channel behind the last one is read as no numbers at all.
        let present = [2 * pair, 2 * pair + 1].map(|channel| channel < geometry.channels_in);
        let [even, odd] =
            [2 * pair, 2 * pair + 1].map(|channel| channel.min(geometry.channels_in - 1) * plane);
        for (index, span) in spans.iter().enumerate() {
            let (before, start, count) = span.unwrap_or((line, 0, 0));
            let target = row + index * line;
            for part in 0..C::PARTS {
                let target = &mut pairs[target + part * panel.part()..][..line];
                target[..before].fill(0);
                target[before + count..].fill(0);
            }
            let sources = [&image[even + start..][..count], &image[odd + start..][..count]];
            for from in (0..count).step_by(TILE) {
                let length = (count - from).min(TILE);
                let counts = present.map(|present| if present { length } else { 0 });
                // SAFETY: `length` numbers are left in both sources.
                let parts = unsafe { C::paired(sources.map(|source| source.as_ptr().add(from)), counts) };
                for (part, values) in parts.as_ref().iter().enumerate() {
                    let target = &mut pairs[target + before + part * panel.part() + from..][..length];
                    // SAFETY: the target has as many pairs.
                    unsafe { _mm512_mask_storeu_epi32(target.as_mut_ptr().cast(), mask(length), *values) };
                }
            }
        }
    }
}
