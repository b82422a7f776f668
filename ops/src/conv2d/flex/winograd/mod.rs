//! 3×3 convolutions of stride one with a quarter of the multiplications: F(4×4, 3×3) of Winograd's method (Lavin and
//! Gray, "Fast Algorithms for Convolutional Neural Networks", 2015).
//!
//! A tile of 4×4 output pixels is made of a patch of 6×6 input pixels: `Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`. Summed over the
//! channels, the element-wise products are 36 products of matrices, one for each place of a transformed patch. Tiles
//! overhang the output where its sides are no multiples of four.
//!
//! The method interpolates polynomials at 0, ±3/4, ±3/2 and ∞, where the rounding errors of some hundred channels are
//! 2.4 times those of sums of products; at the usual 0, ±1, ±2 and ∞ they are 5 times as large.
//!
//! Values of sixteen channels lie side by side ("in lanes") wherever they are transformed.

mod forward;
mod patches;
mod product;
mod strip;
mod transforms;
mod weight_gradient;
mod weights;

pub(super) use forward::forward;
pub(super) use weight_gradient::weight_gradient;
pub(super) use weights::TransformedWeight;

use super::geometry::{Geometry, even_parts};
use crate::cpu::lanes::{WIDTH, has_fused_products};
use crate::matrix::Factor;
use std::ops::Range;

/// Output pixels of a tile, vertically and horizontally.
const TILE: usize = 4;
/// Input pixels of a patch.
const PATCH: usize = TILE + 2;
/// Values of a transformed patch in one channel.
const POINTS: usize = PATCH * PATCH;
/// Elements of a matrix with a row for each point that are left free behind a point's values, so that the same place
/// of all points is not in the same few lines of the cache.
const GAP: usize = WIDTH;
/// Pixels of the tiles for each output pixel above which the method is not worth its while.
const MAX_OVERHANG: f64 = 2.0;

/// Whether this is the way to compute a convolution. Kernels for tiles of matrices multiply faster than the transforms
/// run.
///
/// Forward passes that a backward pass follows are not to take it: its rounding turns the sign of more values next to zero,
/// and each turns a part of the gradient on or off.
pub(super) fn pays<N: Factor>(geometry: &Geometry) -> bool {
    N::IS_F32 && !N::has_tiles() && has_fused_products() && suits(geometry)
}

/// Whether the convolution can be computed this way without too many pixels in vain.
fn suits(geometry: &Geometry) -> bool {
    let tiling = Tiling::of(geometry);
    let pixels = (tiling.rows * tiling.columns * TILE * TILE) as f64;
    geometry.kernel == [3, 3]
        && geometry.stride == [1, 1]
        && geometry.dilation == [1, 1]
        && geometry.padding.iter().all(|padding| *padding <= 2)
        && geometry.batch > 0
        && geometry.output_plane() > 0
        && [geometry.channels_in, geometry.channels_out]
            .iter()
            .all(|channels| *channels > 0 && channels.is_multiple_of(WIDTH))
        && pixels <= MAX_OVERHANG * geometry.output_plane() as f64
}

/// The tiles of an image.
#[derive(Clone, Copy)]
struct Tiling {
    rows: usize,
    columns: usize,
}

impl Tiling {
    fn of(geometry: &Geometry) -> Self {
        let [rows, columns] = geometry.output.map(|pixels| pixels.div_ceil(TILE));
        Self { rows, columns }
    }

    /// Cuts the rows of tiles of all images into blocks of about `tiles` tiles.
    fn blocks(self, geometry: &Geometry, tiles: usize) -> Vec<Range<usize>> {
        even_parts(geometry.batch * self.rows, tiles / self.columns).collect()
    }

    /// The image and the row of tiles in it of a row of tiles of all images.
    fn place(self, row: usize) -> [usize; 2] {
        [row / self.rows, row % self.rows]
    }
}

#[cfg(test)]
mod tests;
