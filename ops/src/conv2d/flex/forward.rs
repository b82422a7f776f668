//! `Y = W · patches(X) + b`.

use super::{
    super::backend::Purpose,
    geometry::{Geometry, Tile},
    patches::patches,
    scratch::{Scratch, Scratched, take},
    winograd::{self, TransformedWeight},
};
use crate::cpu::{DisjointMut, values};
use crate::matrix::{
    Destination, Epilogue, Left, Matrix,
    kept::{self, Layout},
    multiply,
};
use crate::vectorized;
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// Elements of a tile of patches: 3/4 MiB, so that it stays in the second-level cache.
const PATCH_ELEMENTS: usize = 192 * 1024;
/// Pixels below which a product spends more time on packing the weight than on arithmetic.
const MIN_PIXELS: usize = 196;
/// Pixels of the largest tile that needs no copy of the input.
const MAX_POINTWISE_PIXELS: usize = 4096;
/// Pixels of a tile where products want wide right operands.
const WIDE_PIXELS: usize = 512;
/// Images of fewer pixels are worth copying side by side even where that is the only copy.
const TINY_IMAGE: usize = 32;
/// Tiles that are wanted at least for the sake of threads, where the image has so many pixels.
const MIN_TILES: usize = 32;

/// Writes the output, `[N, O, H', W']`, of an input, `[N, C, H, W]`, and a contiguous weight, `[O, C, KH, KW]`.
pub(super) fn forward<N: Scratched>(
    geometry: &Geometry,
    input: &[N],
    weight: &FlexTensor,
    epilogue: &Epilogue<'_, N>,
    purpose: Purpose,
    output: DisjointMut<'_, N>,
) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if super::sliding::pays::<N>(geometry) {
        return super::sliding::forward(geometry, input, weight, epilogue, output);
    }
    if purpose == Purpose::Inference && winograd::pays::<N>(geometry) {
        let transform =
            || TransformedWeight::new(values(weight), [geometry.channels_out, geometry.channels_in]);
        let weight = kept::packed(weight, Layout::Points, transform);
        let (input, output) = (bytemuck::cast_slice(input), output.of_32_bits());
        return winograd::forward(geometry, input, &weight, &epilogue.of_32_bits(), output);
    }
    let matrix = Matrix::rows(values(weight), geometry.depth());
    forward_with(geometry, input, (matrix, Some(weight)), epilogue, output);
}

/// [`forward`] with the weight as any `[O, C · taps]` matrix, and the tensor that it is the whole of.
pub(super) fn forward_with<N: Scratched>(
    geometry: &Geometry,
    input: &[N],
    (weight, whole): (Matrix<'_>, Option<&FlexTensor>),
    epilogue: &Epilogue<'_, N>,
    output: DisjointMut<'_, N>,
) {
    let geometry = geometry.flattened();
    let weight = &Left::<N>::weight(weight, [geometry.channels_out, geometry.depth()], whole);
    geometry.tiles(tile_pixels::<N>(&geometry)).into_par_iter().for_each(|tile| {
        N::with_scratch(|scratch| {
            let Scratch { patches, lines, .. } = scratch;
            let patches = self::patches(&geometry, input, 0..geometry.channels_in, &tile, patches, lines);
            if tile.images.len() == 1 {
                one_image(&geometry, weight, patches, epilogue, &tile, output);
            } else {
                let panel = &mut scratch.products;
                several_images(&geometry, weight, patches, epilogue, &tile, output, panel);
            }
        });
    });
}

fn tile_pixels<N: Scratched>(geometry: &Geometry) -> usize {
    let plane = geometry.output_plane();
    let total = geometry.batch * plane;
    if N::has_tiles() {
        return if plane >= WIDE_PIXELS / 4 {
            WIDE_PIXELS.min(plane)
        } else {
            (WIDE_PIXELS / 2).min(total.div_ceil(2))
        };
    }
    if geometry.is_pointwise() && plane >= TINY_IMAGE {
        return (total / MIN_TILES).clamp(2 * MIN_PIXELS, MAX_POINTWISE_PIXELS).min(plane);
    }
    (PATCH_ELEMENTS / geometry.depth().max(1)).max(MIN_PIXELS).min(total.div_ceil(4))
}

/// Writes the product to its place in the output.
fn one_image<N: Scratched>(
    geometry: &Geometry,
    weight: &Left<'_, N>,
    patches: Matrix<'_, N>,
    epilogue: &Epilogue<'_, N>,
    tile: &Tile,
    output: DisjointMut<'_, N>,
) {
    let (plane, pixels) = (geometry.output_plane(), geometry.pixels(tile));
    let offset = tile.images.start * geometry.channels_out * plane + tile.rows.start * geometry.output[1];
    let sizes = [geometry.channels_out, pixels, geometry.depth()];
    let destination = Destination { data: output, offset, row_stride: plane, epilogue: *epilogue };
    // SAFETY: tiles do not overlap, and only this thread handles this one.
    unsafe { multiply(sizes, weight, patches, destination, false) };
}

/// Writes the product of small images side by side to a buffer, then copies each image to its place.
fn several_images<N: Scratched>(
    geometry: &Geometry,
    weight: &Left<'_, N>,
    patches: Matrix<'_, N>,
    epilogue: &Epilogue<'_, N>,
    tile: &Tile,
    output: DisjointMut<'_, N>,
    buffer: &mut Vec<f32>,
) {
    let (plane, pixels) = (geometry.output_plane(), geometry.pixels(tile));
    let panel = take(buffer, geometry.channels_out * pixels);
    let sizes = [geometry.channels_out, pixels, geometry.depth()];
    let destination = Destination {
        data: DisjointMut::new(panel),
        offset: 0,
        row_stride: pixels,
        epilogue: Epilogue::NONE,
    };
    // SAFETY: the buffer belongs to this thread.
    unsafe { multiply(sizes, weight, patches, destination, false) };
    for (index, image) in tile.images.clone().enumerate() {
        for channel in 0..geometry.channels_out {
            let source = &panel[channel * pixels + index * plane..][..plane];
            let start = (image * geometry.channels_out + channel) * plane;
            // SAFETY: tiles do not overlap, and only this thread handles this one.
            let target = unsafe { output.unwritten_part(start..start + plane) };
            vectorized(
                #[inline(always)]
                || epilogue.write(channel, start, source, target),
            );
        }
    }
}
