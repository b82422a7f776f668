//! Convolutions of stride one in tiles without im2col: the input is cut into parts once, and each tap of the
//! kernel reads it shifted.
//!
//! A tile of the padded input is a line of pixels, row after row of `line` pixels. The output pixel at place
//! `n` of that line is the sum over the taps of products with the input at `n + y · line + x`; the places
//! between the end of an output row and that of its line are computed in vain.

mod forward;
mod weight_gradient;

pub(super) use forward::{forward, input_gradient};
pub(super) use weight_gradient::weight_gradient;

use super::geometry::{Geometry, even_parts};
use crate::matrix::{Factor, split::TILE};
use std::ops::Range;

/// Bytes of a panel, two for each part of a number: it shares the second-level cache with weights.
const PANEL_BYTES: usize = 896 * 1024;
/// Pixels of an output row below which lines waste more than im2col costs.
const MIN_WIDTH: usize = 12;
/// Tiles that are wanted at least, for the sake of threads.
const MIN_TILES: usize = 4;

/// Whether this is the way to compute a convolution.
pub(super) fn pays<N: Factor>(geometry: &Geometry) -> bool {
    let padding_fits = (0..2).all(|axis| geometry.padding[axis] <= geometry.reach()[axis]);
    geometry.taps() > 1
        && geometry.batch > 0
        && geometry.stride == [1, 1]
        && padding_fits
        && geometry.channels_in >= TILE
        && geometry.channels_out >= TILE
        && geometry.output[1] >= MIN_WIDTH
        && N::has_tiles()
}

/// A rectangle of an image's output pixels.
#[derive(Clone, Debug)]
struct Tile {
    image: usize,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Tile {
    /// Pixels of a line: the columns that a row of the tile reads.
    fn line(&self, geometry: &Geometry) -> usize {
        self.columns.len() + geometry.reach()[1]
    }

    /// Lines: the rows that the tile reads.
    fn lines(&self, geometry: &Geometry) -> usize {
        self.rows.len() + geometry.reach()[0]
    }

    /// Places from the first output pixel to the last.
    fn places(&self, geometry: &Geometry) -> usize {
        (self.rows.len() - 1) * self.line(geometry) + self.columns.len()
    }

    /// How far each tap's input is from an output pixel's place, row by row of the kernel.
    fn tap_offsets(&self, geometry: &Geometry) -> Vec<usize> {
        let line = self.line(geometry);
        let [down, right] = geometry.dilation;
        let offset = |tap: usize| tap / geometry.kernel[1] * down * line + tap % geometry.kernel[1] * right;
        (0..geometry.taps()).map(offset).collect()
    }

    /// Where line `index` of the tile finds its pixels: the first pixel of the line that lies inside the input,
    /// the place of that one in a plane of the input, and how many there are.
    fn input_span(&self, geometry: &Geometry, index: usize) -> Option<(usize, usize, usize)> {
        let [height, width] = geometry.input;
        let y = (self.rows.start + index).checked_sub(geometry.padding[0]).filter(|y| *y < height)?;
        let before = geometry.padding[1].saturating_sub(self.columns.start);
        let x = (self.columns.start + before).saturating_sub(geometry.padding[1]);
        let count = width.saturating_sub(x).min(self.line(geometry).saturating_sub(before));
        (count > 0).then_some((before, y * width + x, count))
    }
}

/// Cuts the output into tiles whose input has at most `places` pixels; the least is read twice or in vain.
fn tiles(geometry: &Geometry, places: usize) -> Vec<Tile> {
    let [height, width] = geometry.output;
    let [extra_rows, extra_columns] = geometry.reach();
    let rows_of = |columns: usize| {
        let rows = (places / (columns + extra_columns)).saturating_sub(extra_rows).clamp(1, height);
        height.div_ceil(height.div_ceil(rows))
    };
    let cost = |columns: usize| {
        let rows = rows_of(columns);
        let tiles = width.div_ceil(columns) * height.div_ceil(rows);
        tiles * (rows + extra_rows) * (columns + extra_columns)
    };
    let columns = (1..=width.div_ceil(MIN_WIDTH)).map(|parts| width.div_ceil(parts));
    let columns = columns.min_by_key(|columns| cost(*columns)).unwrap_or(width);
    let wanted = MIN_TILES.div_ceil(geometry.batch * width.div_ceil(columns));
    let rows = rows_of(columns).min(height.div_ceil(wanted));
    let mut tiles = Vec::new();
    for image in 0..geometry.batch {
        for rows in even_parts(height, rows) {
            tiles.extend(even_parts(width, columns).map(|columns| Tile {
                image,
                rows: rows.clone(),
                columns,
            }));
        }
    }
    tiles
}
