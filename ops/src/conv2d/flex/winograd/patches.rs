//! Transformed patches: of the input for products with the weight, of output gradients for the weight's gradient.

use super::{
    GAP, PATCH, POINTS, TILE, Tiling,
    product::ROWS,
    strip::{Strip, to_lanes},
    transforms::{Input, OutputGradient, Transform},
};
use crate::conv2d::flex::{geometry::Geometry, scratch::take};
use crate::cpu::lanes::{Lanes, WIDTH};
use std::ops::Range;

/// Where the transformed patches of a block of tiles lie: for each point, for each tile, some channels.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Elements from one tile to the next.
    pub tile: usize,
    /// Elements from one point to the next.
    pub point: usize,
}

impl Layout {
    /// That of so many tiles of so many channels.
    pub(super) fn new(tiles: usize, channels: usize) -> Self {
        Self { tile: channels, point: tiles.next_multiple_of(ROWS) * channels + GAP }
    }

    /// Elements of all points.
    pub(super) fn elements(self) -> usize {
        POINTS * self.point
    }

    /// Writes the points of one tile from `place` on.
    ///
    /// # Safety
    /// The values may be written.
    #[inline(always)]
    unsafe fn store<L: Lanes>(self, points: [[L; PATCH]; PATCH], place: *mut f32) {
        for (index, point) in points.as_flattened().iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { point.store(place.add(index * self.point)) };
        }
    }
}

/// A block of rows of tiles whose patches are transformed.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub geometry: &'a Geometry,
    pub tiling: Tiling,
    /// Rows of tiles of all images.
    pub first: usize,
    pub rows: usize,
}

impl Block<'_> {
    pub(super) fn tiles(&self) -> usize {
        self.rows * self.tiling.columns
    }

    /// The image, the first output row and the first tile of every row of tiles.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let (first, tiling) = (self.first, self.tiling);
        (0..self.rows).map(move |row| {
            let [image, y] = tiling.place(first + row);
            (image, y * TILE, row * tiling.columns)
        })
    }

    /// `Bᵀ d B` of the input patches of sixteen channels from `channel` on.
    ///
    /// # Safety
    /// The processor has the instructions of the lanes, and `target` has the layout.
    #[inline(always)]
    pub(super) unsafe fn transform_input<L: Lanes>(
        &self,
        values: &[f32],
        channel: usize,
        target: *mut f32,
        layout: Layout,
        pixels: &mut Vec<f32>,
    ) {
        let Geometry { channels_in, input, padding, .. } = *self.geometry;
        // SAFETY: the caller's promise.
        unsafe {
            let planes = Planes { values, channels: channels_in, size: input, first: channel };
            self.transform::<L, Input, PATCH>(planes, padding, target, layout, pixels);
        }
    }

    /// `A dY Aᵀ` of the tiles of an output gradient in sixteen channels from `channel` on.
    ///
    /// # Safety
    /// As for [`transform_input`](Self::transform_input).
    #[inline(always)]
    pub(super) unsafe fn transform_output_gradient<L: Lanes>(
        &self,
        values: &[f32],
        channel: usize,
        target: *mut f32,
        layout: Layout,
        pixels: &mut Vec<f32>,
    ) {
        let Geometry { channels_out, output, .. } = *self.geometry;
        // SAFETY: the caller's promise.
        unsafe {
            let planes = Planes { values, channels: channels_out, size: output, first: channel };
            self.transform::<L, OutputGradient, TILE>(planes, [0, 0], target, layout, pixels);
        }
    }

    /// The transforms of the squares of pixels that begin so far before each tile.
    ///
    /// # Safety
    /// As for [`transform_input`](Self::transform_input).
    #[inline(always)]
    unsafe fn transform<L: Lanes, T: Transform<SIDE, PATCH>, const SIDE: usize>(
        &self,
        planes: Planes<'_>,
        padding: [usize; 2],
        target: *mut f32,
        layout: Layout,
        pixels: &mut Vec<f32>,
    ) {
        let Planes { values, channels, size: [height, width], first } = planes;
        for (image, y, tile) in self.places() {
            let rows = y.saturating_sub(padding[0])..(y + SIDE).saturating_sub(padding[0]).min(height);
            let plane = (image * channels + first) * height * width;
            // SAFETY: the caller's promise; the tiles are those of the block.
            unsafe {
                let strip = read_strip::<L>(&values[plane..], [height, width], rows, pixels);
                for column in 0..self.tiling.columns {
                    let values = strip.square::<L, SIDE>([y, column * TILE], padding);
                    layout.store(T::of_square(values), target.add((tile + column) * layout.tile));
                }
            }
        }
    }
}

/// Sixteen channels of all images of a tensor.
#[derive(Clone, Copy)]
struct Planes<'a> {
    values: &'a [f32],
    channels: usize,
    size: [usize; 2],
    /// The first of the sixteen.
    first: usize,
}

/// Some rows of sixteen planes, the first of which `planes` begins with.
///
/// # Safety
/// The processor has the instructions of the lanes.
#[inline(always)]
unsafe fn read_strip<'a, L: Lanes>(
    planes: &[f32],
    [height, width]: [usize; 2],
    rows: Range<usize>,
    pixels: &'a mut Vec<f32>,
) -> Strip<'a> {
    let (plane, length) = (height * width, rows.len() * width);
    let source = &planes[..WIDTH * plane][(rows.start * width).min(plane)..];
    let pixels = take(pixels, length * WIDTH);
    // SAFETY: sixteen planes hold these rows, and there is room for their pixels; the rest is the caller's promise.
    unsafe { to_lanes::<L>(source.as_ptr(), plane, length, pixels.as_mut_ptr()) };
    Strip { pixels, top: rows.start, rows: rows.len(), width }
}
