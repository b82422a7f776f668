//! Gradient of the input.

use super::{
    forward::forward_with,
    geometry::{Geometry, Tile, even_parts},
    patches::{panel, scatter_patches},
    scratch::{Scratch, Scratched, take},
    winograd::{self, TransformedWeight},
};
use crate::cpu::{DisjointMut, written_by};
use crate::matrix::{Destination, Epilogue, Left, Matrix, multiply};
use crate::vectorized;
use rayon::prelude::*;
use std::{mem::MaybeUninit, ops::Range};

/// Elements of a tile of patches.
const PATCH_ELEMENTS: usize = 192 * 1024;
/// Rows of a product below which it is not worth its packing.
const MIN_ROWS: usize = 512;

/// Writes the gradient of the input, `[N, C, H, W]`, given that of the output, plus `other` if there is one.
pub(super) fn input_gradient<N: Scratched>(
    geometry: &Geometry,
    weight: &[f32],
    output_gradient: &[N],
    other: Option<&[N]>,
    gradient: DisjointMut<'_, N>,
) {
    let epilogue = Epilogue { residual: other, ..Epilogue::NONE };
    let padding_fits = (0..2).all(|axis| geometry.padding[axis] <= geometry.reach()[axis]);
    if geometry.stride == [1, 1] && padding_fits {
        let mirrored = mirrored(geometry);
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if super::sliding::pays::<N>(&mirrored) {
            return super::sliding::input_gradient(&mirrored, output_gradient, weight, &epilogue, gradient);
        }
        if winograd::pays::<N>(&mirrored) {
            let sizes = [mirrored.channels_out, mirrored.channels_in];
            let weight = TransformedWeight::new(&turned(geometry, weight), sizes);
            let (output_gradient, gradient) = (bytemuck::cast_slice(output_gradient), gradient.of_32_bits());
            return winograd::forward(&mirrored, output_gradient, &weight, &epilogue.of_32_bits(), gradient);
        }
        let turned;
        let weight = if geometry.taps() == 1 && N::has_tiles() {
            Matrix::rows(weight, geometry.channels_in).transposed()
        } else {
            turned = self::turned(geometry, weight);
            Matrix::rows(&turned, geometry.channels_out * geometry.taps())
        };
        forward_with(&mirrored, output_gradient, (weight, None), &epilogue, gradient);
    } else if N::has_tiles() {
        let weight = Matrix::rows(weight, geometry.depth()).transposed();
        scatter(geometry, weight, output_gradient, &epilogue, gradient);
    } else {
        let weight = transposed(weight, [geometry.channels_out, geometry.depth()]);
        let weight = Matrix::rows(&weight, geometry.channels_out);
        scatter(geometry, weight, output_gradient, &epilogue, gradient);
    }
}

/// The convolution from output gradient to input gradient, for a stride of one.
fn mirrored(geometry: &Geometry) -> Geometry {
    Geometry {
        channels_in: geometry.channels_out,
        channels_out: geometry.channels_in,
        input: geometry.output,
        output: geometry.input,
        padding: [0, 1].map(|axis| geometry.reach()[axis] - geometry.padding[axis]),
        ..*geometry
    }
}

/// The weight with its channels exchanged and each kernel turned by half a turn: `[C, O, KH, KW]`.
fn turned(geometry: &Geometry, weight: &[f32]) -> Vec<f32> {
    let taps = geometry.taps();
    if taps == 1 {
        return transposed(weight, [geometry.channels_out, geometry.channels_in]);
    }
    // Some channels at a time, whose kernels of one output channel lie next to each other.
    const BLOCK: usize = 16;
    let row = geometry.channels_out * taps;
    let turn = if taps == 9 { turn_each::<9> } else { turn_any };
    let blocks = (0..geometry.channels_in.div_ceil(BLOCK)).into_par_iter();
    let fill = |turned: DisjointMut<'_>| {
        blocks.for_each(|block| {
            let channels = block * BLOCK..geometry.channels_in.min((block + 1) * BLOCK);
            // SAFETY: blocks do not overlap.
            let target = unsafe { turned.unwritten_part(channels.start * row..channels.end * row) };
            for out in 0..geometry.channels_out {
                let start = (out * geometry.channels_in + channels.start) * taps;
                let source = &weight[start..start + channels.len() * taps];
                turn(source, taps, &mut target[out * taps..], row);
            }
        });
    };
    // SAFETY: every kernel of every block is written.
    unsafe { written_by(weight.len(), fill) }
}

/// Writes kernels of `taps` values that lie one after the other, each turned by half a turn, `row` apart.
fn turn_any(source: &[f32], taps: usize, target: &mut [MaybeUninit<f32>], row: usize) {
    for (kernel, target) in source.chunks_exact(taps).zip(target.chunks_mut(row)) {
        for (target, value) in target.iter_mut().zip(kernel.iter().rev()) {
            target.write(*value);
        }
    }
}

/// As [`turn_any`], with as many values as the compiler knows.
fn turn_each<const TAPS: usize>(source: &[f32], _: usize, target: &mut [MaybeUninit<f32>], row: usize) {
    for (kernel, target) in source.as_chunks::<TAPS>().0.iter().zip(target.chunks_mut(row)) {
        let mut kernel = *kernel;
        kernel.reverse();
        target[..TAPS].copy_from_slice(&kernel.map(MaybeUninit::new));
    }
}

/// The transpose of a `[rows, columns]` matrix. A product reads it faster than the matrix by columns.
fn transposed(matrix: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    const BLOCK: usize = 16;
    let mut transposed = vec![0.0; matrix.len()];
    transposed.par_chunks_mut((BLOCK * rows).max(1)).enumerate().for_each(|(block, target)| {
        for start in (0..rows).step_by(BLOCK) {
            for (column, target) in (block * BLOCK..).zip(target.chunks_exact_mut(rows)) {
                for row in start..(start + BLOCK).min(rows) {
                    target[row] = matrix[row * columns + column];
                }
            }
        }
    });
    transposed
}

/// Any stride: patches of gradients, `Wᵀ · dY`, are added to where the patches were taken from.
/// A task owns some channels of one image. `weight` is transposed, `[C · taps, O]`.
fn scatter<N: Scratched>(
    geometry: &Geometry,
    weight: Matrix<'_>,
    output_gradient: &[N],
    epilogue: &Epilogue<'_, N>,
    gradient: DisjointMut<'_, N>,
) {
    let blocks: Vec<_> = even_parts(geometry.channels_in, MIN_ROWS.div_ceil(geometry.taps()))
        .map(|channels| {
            let rows = channels.start * geometry.taps()..channels.end * geometry.taps();
            (
                channels,
                Left::<N>::weight(
                    weight.starting_at_row(rows.start),
                    [rows.len(), geometry.channels_out],
                    None,
                ),
            )
        })
        .collect();
    let tasks: Vec<_> =
        blocks.iter().flat_map(|block| (0..geometry.batch).map(move |image| (image, block))).collect();
    tasks.into_par_iter().for_each(|(image, (channels, weight))| {
        let plane = geometry.input_plane();
        let start = (image * geometry.channels_in + channels.start) * plane;
        let range = start..start + channels.len() * plane;
        // SAFETY: no two tasks have the same channel of the same image.
        let target = unsafe { gradient.unwritten_part(range.clone()) };
        N::with_scratch(|scratch| {
            scatter_channels(geometry, weight, output_gradient, image, channels, scratch);
            let sums = &scratch.sums[..target.len()];
            vectorized(
                #[inline(always)]
                || epilogue.write(0, range.start, sums, target),
            );
        });
    });
}

/// Sums up the gradient of some channels of an image in the scratch memory.
fn scatter_channels<N: Scratched>(
    geometry: &Geometry,
    weight: &Left<'_, N>,
    output_gradient: &[N],
    image: usize,
    channels: &Range<usize>,
    scratch: &mut Scratch<N>,
) {
    let taps = geometry.taps();
    let depth = channels.len() * taps;
    let sums = take(&mut scratch.sums, channels.len() * geometry.input_plane());
    sums.fill(0.0);
    let rows = (PATCH_ELEMENTS / (depth * geometry.output[1])).max(1);
    for rows in even_parts(geometry.output[0], rows) {
        let tile = Tile { images: image..image + 1, rows };
        let pixels = geometry.pixels(&tile);
        let gradients = panel(geometry, output_gradient, &tile, &mut scratch.panel);
        let patches = take(&mut scratch.products, depth * pixels);
        let destination = Destination {
            data: DisjointMut::new(patches),
            offset: 0,
            row_stride: pixels,
            epilogue: Epilogue::NONE,
        };
        // SAFETY: the buffer belongs to this thread.
        unsafe { multiply([depth, pixels, geometry.channels_out], weight, gradients, destination, false) };
        scatter_patches(geometry, patches, &tile.rows, sums);
    }
}
