//! The passes where planes are single values: neighbouring channels lie side by side and are taken at once.

use std::ops::Range;

use super::{
    backward::{Backward, Results},
    channel::{Affine, ParameterSums, Slope},
    forward::{Forward, Statistics},
    functions::{RowInputGradient, RowMasked, RowOutput, RowParameterTerms, RowSquares},
    lanes::Lanes,
    loops::map,
};

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

impl Forward<'_> {
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
                *total += f64::from(*x);
            }
        }
        let centres: Vec<f32> = totals.iter().map(|total| (total / count) as f32).collect();
        let (mut sums, mut squares) = (vec![0.0; channels.len()], vec![0.0; channels.len()]);
        for image in 0..images {
            let x = self.input.pointer(&self.layout.row(image, channels));
            let sum = sums.as_mut_ptr();
            // SAFETY: the slices have one value for each channel; the rest is the caller's promise.
            unsafe { map::<L, 3, 1>(channels.len(), [sum, x, centres.as_ptr()], [sum], RowSquares) };
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
        let columns = columns(affines);
        let [c, a, b] = columns.each_ref().map(|column| column.as_ptr());
        for image in 0..self.layout.images {
            let range = self.layout.row(image, channels);
            let (length, x) = (range.len(), self.input.pointer(&range));
            let y = self.output.pointer(range.start, length);
            let output = RowOutput(self.floor);
            // SAFETY: as in `write`; the columns have one value a channel.
            unsafe {
                match self.residual.map(|residual| residual.pointer(&range)) {
                    None => map::<L, 4, 1>(length, [x, c, a, b], [y], output),
                    Some(r) => map::<L, 5, 1>(length, [x, c, a, b, r], [y], output),
                }
            }
        }
    }
}

impl Backward<'_> {
    /// Writes the gradient before the activation of a row.
    ///
    /// # Safety
    /// The processor has the instructions of the lanes, `masked` takes one value for each channel, and nobody writes
    /// the row of the operands meanwhile.
    #[inline(always)]
    unsafe fn mask_row<L: Lanes>(&self, range: &Range<usize>, columns: &[Vec<f32>; 3], masked: *mut f32) {
        let g = self.gradient.pointer(range);
        let [c, a, b] = columns.each_ref().map(|column| column.as_ptr());
        // SAFETY: the caller's promise.
        unsafe {
            match self.output.map(|output| output.pointer(range)) {
                Some(y) => map::<L, 2, 1>(range.len(), [g, y], [masked], RowMasked(self.floor)),
                None => {
                    let x = self.input.pointer(range);
                    map::<L, 5, 1>(range.len(), [g, x, c, a, b], [masked], RowMasked(self.floor));
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
        let [mut masked, mut weight_sums, mut bias_sums] = [(); 3].map(|()| vec![0.0f32; length]);
        for image in 0..images {
            let range = self.layout.row(image, channels);
            let (g, x, c) = (masked.as_mut_ptr(), self.input.pointer(&range), columns[0].as_ptr());
            let (weight, bias) = (weight_sums.as_mut_ptr(), bias_sums.as_mut_ptr());
            // SAFETY: the caller's promise; the slices have one value a channel.
            unsafe {
                self.mask_row::<L>(&range, &columns, g);
                map::<L, 5, 2>(length, [weight, bias, g, x, c], [weight, bias], RowParameterTerms);
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
        results: Results<'_>,
    ) {
        let (columns, length) = (columns(affines), channels.len());
        let offsets: Vec<f32> = slopes.iter().map(|slope| slope.offset).collect();
        let slopes: Vec<f32> = slopes.iter().map(|slope| slope.slope).collect();
        let mut masked = vec![0.0f32; length];
        for image in 0..self.layout.images {
            let range = self.layout.row(image, channels);
            let (g, x) = (masked.as_mut_ptr(), self.input.pointer(&range));
            let target = results.input.pointer(range.start, length);
            let [c, a, s, o] = [&columns[0], &columns[1], &slopes, &offsets].map(|column| column.as_ptr());
            // SAFETY: as in `write`; the slices have one value a channel. The operands' row is read before
            // the residual's gradient is written, which may take the place of any.
            unsafe {
                self.mask_row::<L>(&range, &columns, g);
                map::<L, 6, 1>(length, [g, x, c, a, s, o], [target], RowInputGradient);
                if let Some(residual) = results.residual {
                    residual.pointer(range.start, length).copy_from_nonoverlapping(g, length);
                }
            }
        }
    }
}
