//! Gradients of weight and bias.

use super::{
    geometry::{Geometry, Tile, even_parts},
    patches::{panel, patches},
    product::{Destination, multiply},
    scratch::with_scratch,
};
use crate::cpu::DisjointMut;
use rayon::prelude::*;
use std::ops::Range;

/// Elements of a tile of patches.
const PATCH_ELEMENTS: usize = 192 * 1024;
/// Pixels below which adding to the gradient costs more than the product.
const MIN_PIXELS: usize = 196;
/// Columns of the gradient that a task computes at least.
const MIN_COLUMNS: usize = 256;
/// Tasks wanted for the sake of threads.
const TASKS: usize = 8;

/// Computes the gradient of the weight, `[O, C, KH, KW]`.
///
/// A task owns some input channels and a group of tiles; where there are several groups, each writes a
/// sum of its own and the sums are added in the groups' order.
pub(super) fn weight_gradient(
    geometry: &Geometry,
    input: &[f32],
    output_gradient: &[f32],
    gradient: &mut [f32],
) {
    let geometry = geometry.flattened();
    let block = MIN_COLUMNS.div_ceil(geometry.taps()).min(geometry.channels_in.max(1));
    let blocks: Vec<_> = even_parts(geometry.channels_in, block).collect();
    let pixels = (PATCH_ELEMENTS / (block * geometry.taps())).max(MIN_PIXELS);
    let tiles = geometry.tiles(pixels.min((geometry.batch * geometry.output_plane()).div_ceil(4)));
    let groups = TASKS.div_ceil(blocks.len().max(1)).min(tiles.len());
    if groups <= 1 {
        return sum_group(&geometry, input, output_gradient, &blocks, &[&tiles[..]], gradient);
    }
    let parts: Vec<_> =
        even_parts(tiles.len(), tiles.len().div_ceil(groups)).map(|part| &tiles[part]).collect();
    let mut sums = vec![0.0; parts.len() * gradient.len()];
    sum_group(&geometry, input, output_gradient, &blocks, &parts, &mut sums);
    add_in_order(&sums, gradient);
}

/// Writes one sum for each group of tiles, `[groups, O, C · taps]`.
fn sum_group(
    geometry: &Geometry,
    input: &[f32],
    output_gradient: &[f32],
    blocks: &[Range<usize>],
    groups: &[&[Tile]],
    sums: &mut [f32],
) {
    let length = geometry.channels_out * geometry.depth();
    let sums = DisjointMut::new(sums);
    let tasks: Vec<_> =
        groups.iter().enumerate().flat_map(|group| blocks.iter().map(move |block| (group, block))).collect();
    tasks.into_par_iter().for_each(|((group, tiles), channels)| {
        let taps = geometry.taps();
        let destination = Destination {
            data: sums,
            offset: group * length + channels.start * taps,
            row_stride: geometry.depth(),
        };
        with_scratch(|scratch| {
            for (index, tile) in tiles.iter().enumerate() {
                let rows = panel(geometry, output_gradient, tile, &mut scratch.panel);
                let patches =
                    patches(geometry, input, channels.clone(), tile, &mut scratch.patches).transposed();
                let sizes = [geometry.channels_out, channels.len() * taps, geometry.pixels(tile)];
                // SAFETY: no two tasks have the same group and channels.
                unsafe { multiply(sizes, rows, patches, destination, index > 0) };
            }
        });
    });
}

fn add_in_order(sums: &[f32], gradient: &mut [f32]) {
    const CHUNK: usize = 16 * 1024;
    let length = gradient.len();
    gradient.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, target)| {
        for sum in sums.chunks_exact(length) {
            let source = &sum[chunk * CHUNK..][..target.len()];
            target.iter_mut().zip(source).for_each(|(target, source)| *target += source);
        }
    });
}

/// Sums an output gradient, `[N, O, pixels]`, over images and pixels: `[O]`.
pub(super) fn bias_gradient([batch, channels, plane]: [usize; 3], output_gradient: &[f32]) -> Vec<f32> {
    let sum = |channel: usize| {
        let planes =
            (0..batch).map(|image| &output_gradient[(image * channels + channel) * plane..][..plane]);
        planes.map(sum_plane).sum::<f64>() as f32
    };
    (0..channels).into_par_iter().map(sum).collect()
}

/// Sums in double precision, in eight interleaved sums.
fn sum_plane(plane: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let chunks = plane.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|value| f64::from(*value)).sum();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    sums.iter().sum::<f64>() + rest
}
