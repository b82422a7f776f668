//! Statistics and outputs.

use std::ops::Range;

use super::{
    elements::Elements,
    functions::{Floor, Output},
    layout::Layout,
    loops::map,
    moments::Moments,
};
use crate::cpu::lanes::{InLanes, Lanes, Work, run};
use crate::cpu::{Affine, DisjointMut};

/// Mean and biased variance of a channel.
pub(super) type Statistics = (f32, f32);

/// What a forward pass reads and writes.
pub(super) struct Forward<'a, N> {
    pub(super) layout: Layout,
    pub(super) input: Elements<'a, N>,
    pub(super) residual: Option<Elements<'a, N>>,
    pub(super) output: DisjointMut<'a, N>,
    pub(super) floor: Floor,
}

impl<N: InLanes> Forward<'_, N> {
    /// Normalises by the statistics of the batch, which it returns; `affine` takes a channel and its statistics.
    ///
    /// # Safety
    /// Nobody else accesses the operands that are owned and the output.
    pub(super) unsafe fn by_batch(
        &self,
        affine: impl Fn(usize, Statistics) -> Affine + Sync + Send,
    ) -> Vec<Statistics> {
        self.layout.for_each_group((0.0, 0.0), |channels, statistics| {
            run(ByBatch { pass: self, channels, statistics, affine: &affine });
        })
    }

    /// The statistics of the batch.
    ///
    /// # Safety
    /// Nobody writes the input meanwhile.
    pub(super) unsafe fn of_batch(&self) -> Vec<Statistics> {
        self.layout.for_each_group((0.0, 0.0), |channels, statistics| {
            run(OfBatch { pass: self, channels, statistics });
        })
    }

    /// Normalises each channel as given.
    ///
    /// # Safety
    /// As [`Forward::by_batch`].
    pub(super) unsafe fn by_statistics(&self, affines: &[Affine]) {
        self.layout.for_each_group((), |channels, _| {
            run(ByStatistics { pass: self, affines: &affines[channels.clone()], channels });
        });
    }

    /// Statistics of a group of channels.
    ///
    /// # Safety
    /// The processor has the instructions of the lanes, and nobody writes the group's part of the input meanwhile.
    #[inline(always)]
    unsafe fn statistics<L: Lanes>(&self, channels: &Range<usize>, statistics: &mut [Statistics]) {
        let mut moments = vec![Moments::default(); channels.len()];
        for image in 0..self.layout.images {
            for (channel, moments) in channels.clone().zip(&mut moments) {
                // SAFETY: the caller's promise.
                unsafe { moments.add::<L, N>(self.input.values(&self.layout.plane(image, channel))) };
            }
        }
        for (statistics, moments) in statistics.iter_mut().zip(&moments) {
            *statistics = (moments.mean(), moments.variance());
        }
    }

    /// Writes the outputs of a group of channels.
    ///
    /// # Safety
    /// The processor has the instructions of the lanes, and nobody else accesses the group's part of the output.
    #[inline(always)]
    unsafe fn write<L: Lanes>(&self, channels: &Range<usize>, affines: &[Affine]) {
        for image in 0..self.layout.images {
            for (channel, affine) in channels.clone().zip(affines) {
                let range = self.layout.plane(image, channel);
                let (length, x) = (range.len(), self.input.pointer(&range));
                let y = self.output.pointer(range.start, length);
                let output = Output(*affine, self.floor);
                // SAFETY: the ranges are in bounds; the rest is the caller's promise.
                unsafe {
                    match self.residual.map(|residual| residual.pointer(&range)) {
                        None => map::<L, N, 1, 1>(length, [x], [y], output),
                        Some(r) => map::<L, N, 2, 1>(length, [x, r], [y], output),
                    }
                }
            }
        }
    }
}

struct OfBatch<'a, N> {
    pass: &'a Forward<'a, N>,
    channels: Range<usize>,
    statistics: &'a mut [Statistics],
}

impl<N: InLanes> Work for OfBatch<'_, N> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: nobody writes the input meanwhile; the lanes are the caller's promise.
        unsafe {
            if self.pass.layout.plane == 1 {
                self.pass.row_statistics::<L>(&self.channels, self.statistics);
            } else {
                self.pass.statistics::<L>(&self.channels, self.statistics);
            }
        }
    }
}

struct ByBatch<'a, N, F> {
    pass: &'a Forward<'a, N>,
    channels: Range<usize>,
    statistics: &'a mut [Statistics],
    affine: &'a F,
}

impl<N: InLanes, F: Fn(usize, Statistics) -> Affine> Work for ByBatch<'_, N, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { pass, channels, statistics, affine } = self;
        // SAFETY: a task accesses only its own channels and has written nothing yet; the lanes are the caller's
        // promise.
        unsafe { OfBatch { pass, channels: channels.clone(), statistics }.run::<L>() };
        let affines: Vec<_> = channels
            .clone()
            .zip(statistics)
            .map(|(channel, statistics)| affine(channel, *statistics))
            .collect();
        // SAFETY: the caller's promise.
        unsafe { ByStatistics { pass, channels, affines: &affines }.run::<L>() };
    }
}

struct ByStatistics<'a, N> {
    pass: &'a Forward<'a, N>,
    channels: Range<usize>,
    affines: &'a [Affine],
}

impl<N: InLanes> Work for ByStatistics<'_, N> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: a task accesses only its own channels; the lanes are the caller's promise.
        unsafe {
            if self.pass.layout.plane == 1 {
                self.pass.write_rows::<L>(&self.channels, self.affines);
            } else {
                self.pass.write::<L>(&self.channels, self.affines);
            }
        }
    }
}
