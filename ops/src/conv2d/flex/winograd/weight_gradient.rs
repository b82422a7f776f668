//! Gradient of the weight: `dW = Gᵀ [Σ (A dY Aᵀ) ⊙ (Bᵀ d B)] G`, summed over all tiles.

use super::{
    PATCH, POINTS, Tiling,
    patches::{Block, Layout},
    product::{COLUMNS, Left, product},
    transforms::{KernelGradient, Transform, square},
};
use crate::conv2d::flex::{
    geometry::{Geometry, even_parts},
    scratch::take,
};
use crate::cpu::lanes::{Lanes, WIDTH, Work, run};
use crate::cpu::{DisjointMut, Spare};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Input channels of a task in panels of 32. More save transforms of the output gradient, fewer let more threads work.
const PANELS: usize = 2;
/// Elements of the transformed gradients and patches of a block: 1½ MiB.
const ELEMENTS: usize = 384 * 1024;
/// Tiles of a block at least: the sums are read and written once for each.
const MIN_TILES: usize = 48;
/// Tiles of a group at least: each has a sum of its own, and adding them costs as much as the products of some tens.
const GROUP_TILES: usize = 256;
/// Tasks wanted for the sake of threads.
const TASKS: usize = 8;

static SPARE: Spare<f32> = Spare::new(TASKS);

/// Memory that a thread keeps from one task to the next.
#[derive(Default)]
struct Buffers {
    patches: Vec<f32>,
    gradients: Vec<f32>,
    /// Pixels in lanes.
    pixels: Vec<f32>,
}

/// Writes the gradient of the weight, `[O, C, 3, 3]`.
///
/// A task owns some input channels and a group of tiles; the groups' sums are added in their order.
pub(in super::super) fn weight_gradient(
    geometry: &Geometry,
    input: &[f32],
    output_gradient: &[f32],
    gradient: DisjointMut<'_>,
) {
    thread_local! {
        static SCRATCH: RefCell<Buffers> = RefCell::default();
    }
    let tiling = Tiling::of(geometry);
    let panels: Vec<_> = even_parts(geometry.channels_in.div_ceil(COLUMNS), PANELS).collect();
    let channels = geometry.channels_out + panels[0].len() * COLUMNS;
    let blocks = tiling.blocks(geometry, (ELEMENTS / (POINTS * channels)).max(MIN_TILES));
    let tiles = geometry.batch * tiling.rows * tiling.columns;
    let groups = TASKS.div_ceil(panels.len()).min(tiles / GROUP_TILES).clamp(1, blocks.len());
    let groups: Vec<_> = even_parts(blocks.len(), blocks.len().div_ceil(groups)).collect();
    let tasks: Vec<_> =
        panels.iter().flat_map(|panels| groups.iter().map(move |group| (panels, group.clone()))).collect();
    let sums: Vec<Vec<f32>> = tasks
        .into_par_iter()
        .map(|(panels, group)| {
            let blocks = blocks[group].iter().map(|rows| Block {
                geometry,
                tiling,
                first: rows.start,
                rows: rows.len(),
            });
            SCRATCH.with_borrow_mut(|buffers| {
                run(Sums { geometry, blocks, panels: panels.clone(), input, output_gradient, buffers })
            })
        })
        .collect();
    for (panels, sums) in panels.iter().zip(sums.chunks_exact(groups.len())) {
        let channels = panels.start * COLUMNS..geometry.channels_in.min(panels.end * COLUMNS);
        (0..geometry.channels_out).into_par_iter().for_each(|out| {
            run(Finish { geometry, channels: channels.clone(), sums, out, gradient });
        });
    }
    sums.into_iter().for_each(|sums| SPARE.give(sums));
}

/// The sums of some input channels over some blocks, `[panels, points, O, 32]`.
struct Sums<'a, B> {
    geometry: &'a Geometry,
    blocks: B,
    panels: Range<usize>,
    input: &'a [f32],
    output_gradient: &'a [f32],
    buffers: &'a mut Buffers,
}

impl<'a, B: Iterator<Item = Block<'a>>> Work for Sums<'_, B> {
    type Output = Vec<f32>;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> Vec<f32> {
        let Self { geometry, blocks, panels, input, output_gradient, buffers } = self;
        let Buffers { patches, gradients, pixels } = buffers;
        let Geometry { channels_in, channels_out, .. } = *geometry;
        let mut sums = SPARE.take(panels.len() * POINTS * channels_out * COLUMNS, 0.0);
        for (index, block) in blocks.enumerate() {
            let of_gradients = Layout::new(block.tiles(), channels_out);
            let gradients = take(gradients, of_gradients.elements());
            for out in (0..channels_out).step_by(WIDTH) {
                let target = gradients[out..].as_mut_ptr();
                // SAFETY: the target has the layout; the rest is the caller's promise.
                unsafe {
                    block.transform_output_gradient::<L>(output_gradient, out, target, of_gradients, pixels);
                }
            }
            let of_patches = Layout::new(block.tiles(), COLUMNS);
            let patches = take(patches, panels.len() * of_patches.elements());
            let channels = panels.start * COLUMNS..channels_in.min(panels.end * COLUMNS);
            for channel in channels.step_by(WIDTH) {
                let from_first = channel - panels.start * COLUMNS;
                let place = from_first / COLUMNS * of_patches.elements() + from_first % COLUMNS;
                let target = patches[place..].as_mut_ptr();
                // SAFETY: as above.
                unsafe { block.transform_input::<L>(input, channel, target, of_patches, pixels) };
            }
            for (point, panel) in
                (0..POINTS).flat_map(|point| (0..panels.len()).map(move |panel| (point, panel)))
            {
                let left = Left {
                    start: gradients[point * of_gradients.point..].as_ptr(),
                    row: 1,
                    column: channels_out,
                };
                let right = &patches[panel * of_patches.elements() + point * of_patches.point..];
                let length = channels_out * COLUMNS;
                let target = &mut sums[(panel * POINTS + point) * length..][..length];
                let sizes = [channels_out, block.tiles()];
                // SAFETY: all three have room for these sizes; the rest is the caller's promise.
                unsafe { product::<L>(sizes, left, right.as_ptr(), target.as_mut_ptr(), index > 0) };
            }
        }
        sums
    }
}

/// The gradient of one output channel and some input channels from the sums of all groups.
struct Finish<'a> {
    geometry: &'a Geometry,
    channels: Range<usize>,
    /// One of `[panels, points, O, 32]` for each group.
    sums: &'a [Vec<f32>],
    out: usize,
    gradient: DisjointMut<'a>,
}

impl Work for Finish<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Geometry { channels_in, channels_out, .. } = *self.geometry;
        for channel in self.channels.clone().step_by(WIDTH) {
            let from_first = channel - self.channels.start;
            let (panel, column) = (from_first / COLUMNS, from_first % COLUMNS);
            // SAFETY: the sums have these places; the rest is the caller's promise.
            let points = square::<L, PATCH>(
                #[inline(always)]
                |row, point| unsafe {
                    let point = panel * POINTS + row * PATCH + point;
                    let place = (point * channels_out + self.out) * COLUMNS + column;
                    let mut sum = L::load(self.sums[0][place..][..WIDTH].as_ptr());
                    for sums in &self.sums[1..] {
                        sum = sum.add(L::load(sums[place..][..WIDTH].as_ptr()));
                    }
                    sum
                },
            );
            let mut taps = [[0.0f32; WIDTH]; 9];
            let kernels = KernelGradient::of_square(points);
            for (values, tap) in kernels.as_flattened().iter().zip(&mut taps) {
                // SAFETY: there is room for sixteen values.
                unsafe { values.store(tap.as_mut_ptr()) };
            }
            let start = (self.out * channels_in + channel) * 9;
            // SAFETY: only this thread writes the kernels of this output channel.
            let target = unsafe { self.gradient.unwritten_part(start..start + 9 * WIDTH) };
            for (lane, kernel) in target.chunks_exact_mut(9).enumerate() {
                for (target, tap) in kernel.iter_mut().zip(&taps) {
                    target.write(tap[lane]);
                }
            }
        }
    }
}
