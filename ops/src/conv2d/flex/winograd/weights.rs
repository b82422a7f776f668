//! Transformed weights.

use super::{
    POINTS,
    product::COLUMNS,
    strip::to_lanes,
    transforms::{Kernel, Transform, square},
};
use crate::conv2d::flex::geometry::even_parts;
use crate::cpu::lanes::{Lanes, WIDTH, Work, run};
use crate::cpu::{DisjointMut, Spare};
use rayon::prelude::*;
use std::ops::Range;

/// Input channels that a task transforms the kernels of.
const CHANNELS: usize = 16;
/// Values of a kernel.
const TAPS: usize = 9;

static SPARE: Spare<f32> = Spare::new(4);

/// A weight as right operands: `[O / 32, points, C, 32]`, zeros where there are no more output channels.
pub(crate) struct TransformedWeight {
    values: Vec<f32>,
    channels_in: usize,
}

impl TransformedWeight {
    /// Transforms a weight, `[O, C, 3, 3]`, with all threads. `O` is a multiple of sixteen.
    pub(in super::super) fn new(weight: &[f32], [channels_out, channels_in]: [usize; 2]) -> Self {
        assert_eq!(weight.len(), channels_out * channels_in * TAPS, "a weight of 3×3 kernels");
        let blocks: Vec<_> = (0..channels_out.next_multiple_of(COLUMNS))
            .step_by(WIDTH)
            .flat_map(|out| even_parts(channels_in, CHANNELS).map(move |channels| (out, channels)))
            .collect();
        let length = channels_out.next_multiple_of(COLUMNS) * channels_in * POINTS;
        let mut values = SPARE.take(length, 0.0);
        let target = DisjointMut::new(&mut values);
        blocks.into_par_iter().for_each(|(out, channels)| {
            run(Kernels { weight, sizes: [channels_out, channels_in], out, channels, target });
        });
        Self { values, channels_in }
    }

    /// The operand for a point and 32 output channels, `[C, 32]`.
    pub(super) fn panel(&self, panel: usize, point: usize) -> &[f32] {
        let length = self.channels_in * COLUMNS;
        &self.values[(panel * POINTS + point) * length..][..length]
    }
}

impl Drop for TransformedWeight {
    fn drop(&mut self) {
        SPARE.give(std::mem::take(&mut self.values));
    }
}

/// `G g Gᵀ` for sixteen output channels and some input channels.
struct Kernels<'a> {
    weight: &'a [f32],
    /// `[O, C]`
    sizes: [usize; 2],
    out: usize,
    channels: Range<usize>,
    target: DisjointMut<'a>,
}

impl Work for Kernels<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let [channels_out, channels_in] = self.sizes;
        let mut kernels = [0.0f32; CHANNELS * TAPS * WIDTH];
        if self.out < channels_out {
            let row = channels_in * TAPS;
            let source = &self.weight[self.out * row..][..WIDTH * row][self.channels.start * TAPS..];
            // SAFETY: sixteen rows hold these kernels, and there is room for as many channels.
            unsafe {
                to_lanes::<L>(source.as_ptr(), row, self.channels.len() * TAPS, kernels.as_mut_ptr());
            }
        }
        let panel = self.out / COLUMNS * POINTS * channels_in * COLUMNS + self.out % COLUMNS;
        for (channel, kernel) in self.channels.zip(kernels.chunks_exact(TAPS * WIDTH)) {
            // SAFETY: nine values of each lane; the rest is the caller's promise.
            let taps = square::<L, 3>(
                #[inline(always)]
                |row, column| unsafe { L::load(kernel[(row * 3 + column) * WIDTH..][..WIDTH].as_ptr()) },
            );
            let points = Kernel::of_square(taps);
            for (index, point) in points.as_flattened().iter().enumerate() {
                let place = panel + (index * channels_in + channel) * COLUMNS;
                // SAFETY: a task writes only its own channels.
                unsafe { point.store(self.target.pointer(place, WIDTH)) };
            }
        }
    }
}
