//! Statistics and outputs.

use std::ops::Range;

use super::{
    channel::{Affine, Floor},
    lanes::{add_columns, map},
    layout::Layout,
    moments::Moments,
    operand::Operand,
};
use crate::cpu::DisjointMut;

/// Mean and biased variance of a channel.
pub(super) type Statistics = (f32, f32);

/// What a forward pass reads and writes.
#[derive(Clone, Copy)]
pub(super) struct Forward<'a> {
    pub(super) layout: Layout,
    pub(super) input: Operand<'a>,
    pub(super) residual: Option<Operand<'a>>,
    pub(super) output: DisjointMut<'a>,
    pub(super) floor: Floor,
}

impl Forward<'_> {
    /// Statistics of a group of channels.
    ///
    /// # Safety
    /// Nobody writes the group's part of the input meanwhile.
    #[inline(always)]
    pub(super) unsafe fn statistics(&self, channels: &Range<usize>, statistics: &mut [Statistics]) {
        if self.layout.plane == 1 {
            // SAFETY: the caller's promise.
            return unsafe { self.statistics_of_columns(channels, statistics) };
        }
        let mut moments = vec![Moments::default(); channels.len()];
        for image in 0..self.layout.images {
            for (channel, moments) in channels.clone().zip(&mut moments) {
                // SAFETY: the caller's promise.
                moments.add(unsafe { self.input.values(&self.layout.plane(image, channel)) });
            }
        }
        for (statistics, moments) in statistics.iter_mut().zip(&moments) {
            *statistics = (moments.mean(), moments.variance());
        }
    }

    /// [`Forward::statistics`] where planes are single values, in two passes over a few rows.
    #[inline(always)]
    unsafe fn statistics_of_columns(&self, channels: &Range<usize>, statistics: &mut [Statistics]) {
        let count = self.layout.count();
        // SAFETY: the caller's promise.
        let row = |image| unsafe { self.input.values(&self.layout.row(image, channels)) };
        let mut sums = vec![0.0; channels.len()];
        for image in 0..self.layout.images {
            add_columns([row(image)], [&mut sums], |[x]| [x]);
        }
        let centres: Vec<f32> = sums.iter().map(|sum| (sum / count) as f32).collect();
        let mut squares = vec![0.0; channels.len()];
        for image in 0..self.layout.images {
            add_columns([row(image), &centres], [&mut squares], |[x, c]| [(x - c) * (x - c)]);
        }
        for (index, statistics) in statistics.iter_mut().enumerate() {
            let rest = sums[index] / count - f64::from(centres[index]);
            *statistics = (centres[index], (squares[index] / count - rest * rest) as f32);
        }
    }

    /// Writes the output of a group of channels.
    ///
    /// # Safety
    /// Nobody else accesses the group's part of the output.
    #[inline(always)]
    pub(super) unsafe fn write(&self, channels: &Range<usize>, affines: &[Affine]) {
        if self.layout.plane == 1 {
            // SAFETY: the caller's promise.
            return unsafe { self.write_columns(channels, affines) };
        }
        let floor = self.floor;
        for image in 0..self.layout.images {
            for (channel, affine) in channels.clone().zip(affines) {
                let range = self.layout.plane(image, channel);
                let (length, x) = (range.len(), self.input.pointer(&range));
                let y = self.output.pointer(range.start, length);
                // SAFETY: the ranges are in bounds; the caller promises that the output is ours alone.
                unsafe {
                    match self.residual.map(|residual| residual.pointer(&range)) {
                        None => map(length, [x], [y], |[x]| [floor.raise(affine.apply(x))]),
                        Some(r) => map(length, [x, r], [y], |[x, r]| [floor.raise(affine.apply(x) + r)]),
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn write_columns(&self, channels: &Range<usize>, affines: &[Affine]) {
        let floor = self.floor;
        let [centres, scales, shifts] = Affine::columns(affines);
        let coefficients = [&centres, &scales, &shifts].map(|column| column.as_ptr());
        let [c, a, b] = coefficients;
        for image in 0..self.layout.images {
            let range = self.layout.row(image, channels);
            let (length, x) = (range.len(), self.input.pointer(&range));
            let y = self.output.pointer(range.start, length);
            let apply = |x, centre, scale, shift| Affine { centre, scale, shift }.apply(x);
            // SAFETY: as in `write`; a row has one value a channel.
            unsafe {
                match self.residual.map(|residual| residual.pointer(&range)) {
                    None => map(length, [x, c, a, b], [y], |[x, c, a, b]| [floor.raise(apply(x, c, a, b))]),
                    Some(r) => map(length, [x, r, c, a, b], [y], |[x, r, c, a, b]| {
                        [floor.raise(apply(x, c, a, b) + r)]
                    }),
                }
            }
        }
    }
}
