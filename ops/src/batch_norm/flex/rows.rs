//! The passes where planes are single values: neighbouring channels lie side by side and are taken at once.

use std::ops::Range;

use super::{
    backward::{Backward, Results},
    channel::{ParameterSums, Slope},
    elements::Elements,
    forward::{Forward, Statistics},
    functions::{RowInputGradient, RowMasked, RowOutput, RowParameterTerms, RowSquares},
    loops::map,
};
use crate::cpu::Affine;
use crate::cpu::lanes::{InLanes, Lanes};

/// Rows whose sums are taken in single precision before the sums go on in double precision.
const BLOCK: usize = 64;

/// Centres, scales and shifts of neighbouring channels.
fn columns(affines: &[Affine]) -> [Vec<f32>; 3] {
    [
        affines.iter().map(|affine| affine.centre).collect(),
        affines.iter().map(|affine| affine.scale).collect(),
        affines.iter().map(|affine| affine.shift).collect(),
    ]
}

/// Adds sums of some rows to the totals and starts them anew.
#[inline(always)]
fn flush(totals: &mut [f64], sums: &mut [f32]) {
    for (total, sum) in totals.iter_mut().zip(sums) {
        *total += f64::from(*sum);
        *sum = 0.0;
    }
}

/// A row in 32 bits, in place of the row before.
///
/// # Safety
/// Nobody writes the row meanwhile.
#[inline(always)]
unsafe fn widen<N: InLanes>(elements: Elements<'_, N>, range: &Range<usize>, row: &mut [f32]) {
    // SAFETY: the caller's promise.
    let values = unsafe { elements.values(range) };
    row.iter_mut().zip(values).for_each(|(target, value)| *target = value.widened());
}

/// Writes a row, rounded, from `target` on.
///
/// # Safety
/// There is room for it, and nobody else accesses it.
#[inline(always)]
unsafe fn narrow<N: InLanes>(row: &[f32], target: *mut N) {
    for (index, value) in row.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { target.add(index).write(N::rounded(*value)) };
    }
}

impl<N: InLanes> Forward<'_, N> {
    /// [`Forward::statistics`] in two passes over a few columns.
    ///
    /// # Safety
    /// The processor has the instructions of the lanes, and nobody writes the group's part of the input meanwhile.
    #[inline(always)]
    pub(super) unsafe fn row_statistics<L: Lanes>(
        &self,
        channels: &Range<usize>,
        statistics: &mut [Statistics],
    ) {
        let (images, count) = (self.layout.images, self.layout.count());
        let mut totals = vec![0.0; channels.len()];
        for image in 0..images {
            // SAFETY: the caller's promise.
            let row = unsafe { self.input.values(&self.layout.row(image, channels)) };
            for (total, x) in totals.iter_mut().zip(row) {
                *total += f64::from(x.widened());
            }
        }
        let centres: Vec<f32> = totals.iter().map(|total| (total / count) as f32).collect();
        let (mut sums, mut squares) = (vec![0.0; channels.len()], vec![0.0; channels.len()]);
        let mut x = vec![0.0f32; channels.len()];
        for image in 0..images {
            let sum = sums.as_mut_ptr();
            // SAFETY: the slices have one value for each channel; the rest is the caller's promise.
            unsafe {
                widen(self.input, &self.layout.row(image, channels), &mut x);
                let sources = [sum, x.as_ptr(), centres.as_ptr()];
                map::<L, f32, 3, 1>(channels.len(), sources, [sum], RowSquares);
            }
            if (image + 1) % BLOCK == 0 || image + 1 == images {
                flush(&mut squares, &mut sums);
            }
        }
        for (index, statistics) in statistics.iter_mut().enumerate() {
            let rest = totals[index] / count - f64::from(centres[index]);
            *statistics = (centres[index], (squares[index] / count - rest * rest) as f32);
        }
    }

    /// [`Forward::write`] of rows.
    ///
    /// # Safety
    /// The processor has the instructions of the lanes, and nobody else accesses the group's part of the output.
    #[inline(always)]
    pub(super) unsafe fn write_rows<L: Lanes>(&self, channels: &Range<usize>, affines: &[Affine]) {
        let (columns, length) = (columns(affines), channels.len());
        let [c, a, b] = columns.each_ref().map(|column| column.as_ptr());
        let [mut values, mut residuals] = [(); 2].map(|()| vec![0.0f32; length]);
        for image in 0..self.layout.images {
            let range = self.layout.row(image, channels);
            let target = self.output.pointer(range.start, length);
            let output = RowOutput(self.floor);
            // SAFETY: as in `write`; the columns have one value a channel.
            unsafe {
                widen(self.input, &range, &mut values);
                let x = values.as_mut_ptr();
                match self.residual {
                    None => map::<L, f32, 4, 1>(length, [x, c, a, b], [x], output),
                    Some(residual) => {
                        widen(residual, &range, &mut residuals);
                        map::<L, f32, 5, 1>(length, [x, c, a, b, residuals.as_ptr()], [x], output);
                    }
                }
                narrow(&values, target);
            }
        }
    }
}

/// Memory for the rows of a backward pass, in 32 bits.
struct RowBuffers {
    /// Gradient before the activation.
    masked: Vec<f32>,
    input: Vec<f32>,
    output: Vec<f32>,
}

impl RowBuffers {
    fn new(length: usize) -> Self {
        let [masked, input, output] = [(); 3].map(|()| vec![0.0; length]);
        Self { masked, input, output }
    }
}

impl<N: InLanes> Backward<'_, N> {
    /// Fills the buffers with a row's input and its gradient before the activation.
    ///
    /// # Safety
    /// The processor has the instructions of the lanes, the columns and buffers have one value for each channel, and
    /// nobody writes the row of the operands meanwhile.
    #[inline(always)]
    unsafe fn read_row<L: Lanes>(
        &self,
        range: &Range<usize>,
        columns: &[Vec<f32>; 3],
        buffers: &mut RowBuffers,
    ) {
        let [c, a, b] = columns.each_ref().map(|column| column.as_ptr());
        let masked = RowMasked(self.floor);
        // SAFETY: the caller's promise.
        unsafe {
            widen(self.gradient, range, &mut buffers.masked);
            widen(self.input, range, &mut buffers.input);
            let g = buffers.masked.as_mut_ptr();
            match self.output {
                Some(output) => {
                    widen(output, range, &mut buffers.output);
                    map::<L, f32, 2, 1>(range.len(), [g, buffers.output.as_ptr()], [g], masked);
                }
                None => {
                    map::<L, f32, 5, 1>(range.len(), [g, buffers.input.as_ptr(), c, a, b], [g], masked);
                }
            }
        }
    }

    /// [`Backward::sums`] of rows.
    ///
    /// # Safety
    /// The processor has the instructions of the lanes, and nobody writes the group's part of the operands meanwhile.
    #[inline(always)]
    pub(super) unsafe fn row_sums<L: Lanes>(
        &self,
        channels: &Range<usize>,
        affines: &[Affine],
        results: &mut [ParameterSums],
    ) {
        let (columns, images, length) = (columns(affines), self.layout.images, channels.len());
        let (mut weights, mut biases) = (vec![0.0; length], vec![0.0; length]);
        let [mut weight_sums, mut bias_sums] = [(); 2].map(|()| vec![0.0f32; length]);
        let mut buffers = RowBuffers::new(length);
        for image in 0..images {
            let range = self.layout.row(image, channels);
            let (weight, bias) = (weight_sums.as_mut_ptr(), bias_sums.as_mut_ptr());
            // SAFETY: the caller's promise; the slices have one value a channel.
            unsafe {
                self.read_row::<L>(&range, &columns, &mut buffers);
                let (g, x, c) = (buffers.masked.as_ptr(), buffers.input.as_ptr(), columns[0].as_ptr());
                map::<L, f32, 5, 2>(length, [weight, bias, g, x, c], [weight, bias], RowParameterTerms);
            }
            if (image + 1) % BLOCK == 0 || image + 1 == images {
                flush(&mut weights, &mut weight_sums);
                flush(&mut biases, &mut bias_sums);
            }
        }
        for (index, result) in results.iter_mut().enumerate() {
            *result = ParameterSums { weight: weights[index], bias: biases[index] };
        }
    }

    /// [`Backward::write`] of rows.
    ///
    /// # Safety
    /// The processor has the instructions of the lanes, and nobody else accesses the group's part of the results.
    #[inline(always)]
    pub(super) unsafe fn write_rows<L: Lanes>(
        &self,
        channels: &Range<usize>,
        affines: &[Affine],
        slopes: &[Slope],
        results: Results<'_, N>,
    ) {
        let (columns, length) = (columns(affines), channels.len());
        let offsets: Vec<f32> = slopes.iter().map(|slope| slope.offset).collect();
        let slopes: Vec<f32> = slopes.iter().map(|slope| slope.slope).collect();
        let mut buffers = RowBuffers::new(length);
        for image in 0..self.layout.images {
            let range = self.layout.row(image, channels);
            let target = results.input.pointer(range.start, length);
            let [c, a, s, o] = [&columns[0], &columns[1], &slopes, &offsets].map(|column| column.as_ptr());
            // SAFETY: as in `write`; the slices have one value a channel. The operands' row is read before
            // the results, which may take the place of any, are written.
            unsafe {
                self.read_row::<L>(&range, &columns, &mut buffers);
                let (g, x) = (buffers.masked.as_ptr(), buffers.input.as_mut_ptr());
                map::<L, f32, 6, 1>(length, [g, x, c, a, s, o], [x], RowInputGradient);
                narrow(&buffers.input, target);
                if let Some(residual) = results.residual {
                    narrow(&buffers.masked, residual.pointer(range.start, length));
                }
            }
        }
    }
}
