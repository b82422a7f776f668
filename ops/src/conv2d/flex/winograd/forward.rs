//! `Y = W * X + b`.

use super::{
    GAP, PATCH, POINTS, TILE, Tiling,
    patches::{Block, Layout},
    product::{COLUMNS, Left, ROWS, product},
    strip::from_lanes,
    transforms::{Output, Transform, square},
    weights::TransformedWeight,
};
use crate::conv2d::flex::{
    geometry::{Geometry, even_parts},
    scratch::take,
};
use crate::cpu::DisjointMut;
use crate::cpu::lanes::{Lanes, WIDTH, Work, run};
use crate::matrix::Epilogue;
use crate::vectorized;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Elements of the transformed patches of a task: 1¼ MiB, to stay in the second-level cache.
const PATCH_ELEMENTS: usize = 320 * 1024;
/// Tiles of a task at least: the transformed weight is read for each task.
const MIN_TILES: usize = 48;
/// Tasks wanted for the sake of threads. Those of the same tiles all transform the input.
const TASKS: usize = 4;

/// Memory that a thread keeps from one task to the next.
#[derive(Default)]
struct Buffers {
    patches: Vec<f32>,
    products: Vec<f32>,
    /// Pixels in lanes.
    pixels: Vec<f32>,
    /// Pixels of sixteen channels, one channel after the other.
    rows: Vec<f32>,
}

/// Writes the output, `[N, O, H', W']`, of an input, `[N, C, H, W]`.
pub(in super::super) fn forward(
    geometry: &Geometry,
    input: &[f32],
    weight: &TransformedWeight,
    epilogue: &Epilogue<'_, f32>,
    output: DisjointMut<'_>,
) {
    thread_local! {
        static SCRATCH: RefCell<Buffers> = RefCell::default();
    }
    let tiling = Tiling::of(geometry);
    let tiles = (PATCH_ELEMENTS / (POINTS * geometry.channels_in)).max(MIN_TILES);
    let blocks = tiling.blocks(geometry, tiles);
    let panels = geometry.channels_out.div_ceil(COLUMNS);
    let parts = TASKS.div_ceil(blocks.len()).min(panels);
    let parts: Vec<_> = even_parts(panels, panels.div_ceil(parts)).collect();
    let tasks: Vec<_> =
        blocks.iter().flat_map(|rows| parts.iter().map(move |panels| (rows, panels.clone()))).collect();
    tasks.into_par_iter().for_each(|(rows, panels)| {
        let block = Block { geometry, tiling, first: rows.start, rows: rows.len() };
        SCRATCH.with_borrow_mut(|buffers| {
            run(Forward { block, panels, input, weight, epilogue, output, buffers });
        });
    });
}

/// A block of tiles in some output channels.
struct Forward<'a> {
    block: Block<'a>,
    panels: Range<usize>,
    input: &'a [f32],
    weight: &'a TransformedWeight,
    epilogue: &'a Epilogue<'a, f32>,
    output: DisjointMut<'a>,
    buffers: &'a mut Buffers,
}

impl Work for Forward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { block, panels, input, weight, epilogue, output, buffers } = self;
        let Buffers { patches, products, pixels, rows } = buffers;
        let channels = block.geometry.channels_in;
        let layout = Layout::new(block.tiles(), channels);
        let patches = take(patches, layout.elements());
        for channel in (0..channels).step_by(WIDTH) {
            // SAFETY: the patches have the layout; the rest is the caller's promise.
            unsafe {
                let target = patches[channel..].as_mut_ptr();
                block.transform_input::<L>(input, channel, target, layout, pixels);
            }
        }
        let height = block.tiles().next_multiple_of(ROWS);
        let of_point = height * COLUMNS + GAP;
        let products = take(products, POINTS * of_point);
        for panel in panels {
            for point in 0..POINTS {
                let left = Left { start: patches[point * layout.point..].as_ptr(), row: channels, column: 1 };
                let target = products[point * of_point..][..height * COLUMNS].as_mut_ptr();
                let right = weight.panel(panel, point).as_ptr();
                // SAFETY: all three have room for these sizes; the rest is the caller's promise.
                unsafe { product::<L>([height, channels], left, right, target, false) };
            }
            let outs = panel * COLUMNS..block.geometry.channels_out.min((panel + 1) * COLUMNS);
            for (index, out) in outs.step_by(WIDTH).enumerate() {
                let products = Products { values: &products[index * WIDTH..], of_point };
                // SAFETY: no two tasks have the same tiles and channels; the rest is the caller's promise.
                unsafe { write::<L>(&block, products, out, epilogue, output, [&mut *pixels, &mut *rows]) };
            }
        }
    }
}

/// The products of sixteen output channels, `[points, tiles, 32]`.
#[derive(Clone, Copy)]
struct Products<'a> {
    values: &'a [f32],
    of_point: usize,
}

impl Products<'_> {
    /// The output of a tile.
    ///
    /// # Safety
    /// The processor has the instructions of the lanes.
    #[inline(always)]
    unsafe fn output<L: Lanes>(self, tile: usize) -> [[L; TILE]; TILE] {
        let points = square::<L, PATCH>(
            #[inline(always)]
            |row, column| {
                let place = (row * PATCH + column) * self.of_point + tile * COLUMNS;
                // SAFETY: the values are there; the rest is the caller's promise.
                unsafe { L::load(self.values[place..][..WIDTH].as_ptr()) }
            },
        );
        Output::of_square(points)
    }
}

/// Writes a block of tiles of sixteen output channels from `out` on.
///
/// # Safety
/// The processor has the instructions of the lanes, and nobody else accesses these pixels of these channels.
#[inline(always)]
unsafe fn write<L: Lanes>(
    block: &Block<'_>,
    products: Products<'_>,
    out: usize,
    epilogue: &Epilogue<'_, f32>,
    output: DisjointMut<'_>,
    [pixels, rows]: [&mut Vec<f32>; 2],
) {
    let Geometry { channels_out, output: [height, width], .. } = *block.geometry;
    for (image, top, first) in block.places() {
        let bottom = (top + TILE).min(height);
        let length = (bottom - top) * width;
        let stride = length.next_multiple_of(WIDTH);
        let (pixels, rows) = (take(pixels, stride * WIDTH), take(rows, stride * WIDTH));
        for column in 0..block.tiling.columns {
            // SAFETY: the caller's promise.
            let tile = unsafe { products.output::<L>(first + column) };
            let left = column * TILE;
            for (y, row) in tile.iter().take(bottom - top).enumerate() {
                for (x, value) in row.iter().take(width - left).enumerate() {
                    let place = (y * width + left + x) * WIDTH;
                    // SAFETY: sixteen values are there; the rest is the caller's promise.
                    unsafe { value.store(pixels[place..][..WIDTH].as_mut_ptr()) };
                }
            }
        }
        // SAFETY: both have room for whole squares; the rest is the caller's promise.
        unsafe { from_lanes::<L>(pixels.as_ptr(), length, rows.as_mut_ptr(), stride) };
        for (channel, row) in (out..).zip(rows.chunks_exact(stride)) {
            let start = (image * channels_out + channel) * height * width + top * width;
            // SAFETY: the caller's promise.
            let target = unsafe { output.unwritten_part(start..start + length) };
            vectorized(
                #[inline(always)]
                || epilogue.write(channel, start, &row[..length], target),
            );
        }
    }
}
