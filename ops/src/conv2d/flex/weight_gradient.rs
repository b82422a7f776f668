//! Gradients of weight and bias.

use super::{
    geometry::{Geometry, Tile, even_parts},
    patches::{panel, patches},
    scratch::{Scratch, Scratched},
    winograd,
};
use crate::cpu::{DisjointMut, Number, written_by};
use crate::matrix::{Destination, Epilogue, multiply};
use rayon::prelude::*;
use std::{mem::MaybeUninit, ops::Range};

/// Elements of a tile of patches.
const PATCH_ELEMENTS: usize = 192 * 1024;
/// Pixels below which adding to the gradient costs more than the product.
const MIN_PIXELS: usize = 196;
/// Pixels of a tile that needs no copy of the input.
const POINTWISE_PIXELS: usize = 1024;
/// Pixels of a tile where products want long inner dimensions.
const WIDE_PIXELS: usize = 1024;
/// Images of fewer pixels are worth copying side by side even where that is the only copy.
const TINY_IMAGE: usize = 32;
/// Columns of the gradient that a task computes at least.
const MIN_COLUMNS: usize = 256;
/// Tasks wanted for the sake of threads.
const TASKS: usize = 8;

/// Writes the gradient of the weight, `[O, C, KH, KW]`.
///
/// A task owns some input channels and a group of tiles; where there are several groups, each writes a
/// sum of its own and the sums are added in the groups' order.
pub(super) fn weight_gradient<N: Scratched>(
    geometry: &Geometry,
    input: &[N],
    output_gradient: &[N],
    gradient: DisjointMut<'_>,
) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if super::sliding::pays::<N>(geometry) {
        return super::sliding::weight_gradient(geometry, input, output_gradient, gradient);
    }
    if winograd::pays::<N>(geometry) {
        let (input, output_gradient) = (bytemuck::cast_slice(input), bytemuck::cast_slice(output_gradient));
        return winograd::weight_gradient(geometry, input, output_gradient, gradient);
    }
    let geometry = geometry.flattened();
    let block = MIN_COLUMNS.div_ceil(geometry.taps()).min(geometry.channels_in.max(1));
    let blocks: Vec<_> = even_parts(geometry.channels_in, block).collect();
    let tiles = geometry.tiles(tile_pixels::<N>(&geometry, block));
    let groups = TASKS.div_ceil(blocks.len().max(1)).clamp(1, tiles.len().max(1));
    let groups: Vec<_> =
        even_parts(tiles.len(), tiles.len().div_ceil(groups)).map(|part| &tiles[part]).collect();
    match groups.as_slice() {
        // SAFETY: nothing else accesses the gradient.
        [] => unsafe { gradient.unwritten_part(0..gradient.len()).fill(MaybeUninit::new(0.0)) },
        [_] => sum_groups(&geometry, input, output_gradient, &blocks, &groups, gradient),
        several => {
            // SAFETY: the blocks of channels cover the sum of each group.
            let sums = unsafe {
                written_by(several.len() * gradient.len(), |sums| {
                    sum_groups(&geometry, input, output_gradient, &blocks, several, sums);
                })
            };
            add_in_order(&sums, gradient);
        }
    }
}

fn tile_pixels<N: Scratched>(geometry: &Geometry, channels: usize) -> usize {
    let plane = geometry.output_plane();
    if N::has_tiles() {
        return WIDE_PIXELS;
    }
    if geometry.is_pointwise() && plane >= TINY_IMAGE {
        return POINTWISE_PIXELS.min(plane);
    }
    let pixels = (PATCH_ELEMENTS / (channels * geometry.taps())).max(MIN_PIXELS);
    pixels.min((geometry.batch * plane).div_ceil(4))
}

/// Writes one sum for each group of tiles, `[groups, O, C · taps]`.
fn sum_groups<N: Scratched>(
    geometry: &Geometry,
    input: &[N],
    output_gradient: &[N],
    blocks: &[Range<usize>],
    groups: &[&[Tile]],
    sums: DisjointMut<'_>,
) {
    let length = geometry.channels_out * geometry.depth();
    let tasks: Vec<_> =
        groups.iter().enumerate().flat_map(|group| blocks.iter().map(move |block| (group, block))).collect();
    tasks.into_par_iter().for_each(|((group, tiles), channels)| {
        let taps = geometry.taps();
        let destination = Destination {
            data: sums,
            offset: group * length + channels.start * taps,
            row_stride: geometry.depth(),
            epilogue: Epilogue::NONE,
        };
        N::with_scratch(|scratch| {
            for (index, tile) in tiles.iter().enumerate() {
                let Scratch { panel, patches, lines, .. } = scratch;
                let rows = self::panel(geometry, output_gradient, tile, panel);
                let patches =
                    self::patches(geometry, input, channels.clone(), tile, patches, lines).transposed();
                let sizes = [geometry.channels_out, channels.len() * taps, geometry.pixels(tile)];
                // SAFETY: no two tasks have the same group and channels.
                unsafe { multiply(sizes, &rows.into(), patches, destination, index > 0) };
            }
        });
    });
}

/// Writes the sum of `sums`, one after the other, to `total`.
fn add_in_order(sums: &[f32], total: DisjointMut<'_>) {
    const CHUNK: usize = 16 * 1024;
    let length = total.len();
    let (first, others) = sums.split_at(length);
    first.par_chunks(CHUNK).enumerate().for_each(|(chunk, first)| {
        let range = chunk * CHUNK..chunk * CHUNK + first.len();
        // SAFETY: chunks do not overlap; written before it is read.
        let target = unsafe {
            let target = total.unwritten_part(range.clone());
            target.iter_mut().zip(first).for_each(|(target, value)| {
                target.write(*value);
            });
            total.part(range.clone())
        };
        for sum in others.chunks_exact(length) {
            target.iter_mut().zip(&sum[range.clone()]).for_each(|(target, value)| *target += value);
        }
    });
}

/// Sums an output gradient, `[N, O, pixels]`, over images and pixels: `[O]`.
pub(super) fn bias_gradient<N: Number>(
    [batch, channels, plane]: [usize; 3],
    output_gradient: &[N],
) -> Vec<f32> {
    let sum = |channel: usize| {
        let planes =
            (0..batch).map(|image| &output_gradient[(image * channels + channel) * plane..][..plane]);
        planes.map(sum_plane).sum::<f64>() as f32
    };
    (0..channels).into_par_iter().map(sum).collect()
}

/// Sums in double precision, in eight interleaved sums.
fn sum_plane<N: Number>(plane: &[N]) -> f64 {
    let mut sums = [0.0f64; 8];
    let chunks = plane.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|value| f64::from(value.widened())).sum();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += f64::from(value.widened()));
    }
    sums.iter().sum::<f64>() + rest
}
