//! Gradients.

use std::ops::Range;

use super::{
    channel::{ParameterSums, Slope},
    elements::Elements,
    functions::{Floor, InputGradient, ParameterTerms},
    layout::Layout,
    loops::{map, sums},
};
use crate::cpu::lanes::{InLanes, Lanes, Work, run};
use crate::cpu::{Affine, DisjointMut};

/// What a backward pass computes, of `x`, `g` and `y`: input, gradient of the output, and output.
pub(super) struct BackwardPlan<'a> {
    pub(super) layout: Layout,
    pub(super) affines: &'a [Affine],
    /// `1 / √(variance + ε)` of each channel.
    pub(super) inverses: &'a [f64],
    pub(super) floor: Floor,
    /// Whether the statistics depend on the input.
    pub(super) by_batch: bool,
    /// Whether the gradients of weight and bias are summed up, which statistics of the batch need anyway.
    pub(super) sums: bool,
    /// The sums of each channel by which the statistics depend on the input, where they are not those of this batch.
    pub(super) given: Option<&'a [ParameterSums]>,
}

impl BackwardPlan<'_> {
    /// Writes the results and returns the gradients of weight and bias.
    ///
    /// The input may be missing where no sums are taken and the mask follows from the output.
    ///
    /// # Safety
    /// A result is not an operand, or is a whole operand.
    ///
    /// # Panics
    /// If the gradient is missing.
    pub(super) unsafe fn run<N: InLanes>(
        &self,
        [input, gradient, output]: [Option<Elements<'_, N>>; 3],
        results: Option<Results<'_, N>>,
    ) -> Vec<ParameterSums> {
        let gradient = gradient.expect("the gradient of the output");
        // A slope of zero leaves out the input; the gradient stands in for it.
        let input = input.unwrap_or(gradient);
        let pass = Backward { layout: self.layout, input, gradient, output, floor: self.floor };
        self.layout.for_each_group(ParameterSums::default(), |channels, sums| {
            run(Group { plan: self, pass: &pass, channels, sums, results });
        })
    }

    fn slope(&self, affine: Affine, inverse: f64, sums: ParameterSums) -> Slope {
        if self.by_batch {
            Slope::by_batch(affine, inverse, sums, self.layout.count())
        } else {
            Slope::BY_STATISTICS
        }
    }
}

/// What a backward pass reads.
pub(super) struct Backward<'a, N> {
    pub(super) layout: Layout,
    pub(super) input: Elements<'a, N>,
    /// Gradient of the output.
    pub(super) gradient: Elements<'a, N>,
    /// Output of the forward pass; without it the activation's mask follows from the input.
    pub(super) output: Option<Elements<'a, N>>,
    pub(super) floor: Floor,
}

/// Where the gradients go.
pub(super) struct Results<'a, N> {
    pub(super) input: DisjointMut<'a, N>,
    /// Of the residual: the gradient before the activation. It takes an output.
    pub(super) residual: Option<DisjointMut<'a, N>>,
}

impl<N> Clone for Results<'_, N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<N> Copy for Results<'_, N> {}

impl<N: InLanes> Backward<'_, N> {
    /// `Σ g · (x − centre)` and `Σ g` of a group of channels, g being the gradient before the activation.
    ///
    /// # Safety
    /// The processor has the instructions of the lanes, and nobody writes the group's part of the operands meanwhile.
    #[inline(always)]
    unsafe fn sums<L: Lanes>(
        &self,
        channels: &Range<usize>,
        affines: &[Affine],
        results: &mut [ParameterSums],
    ) {
        for image in 0..self.layout.images {
            for ((channel, affine), result) in channels.clone().zip(affines).zip(&mut *results) {
                let range = self.layout.plane(image, channel);
                let terms = ParameterTerms(*affine, self.floor);
                // SAFETY: the caller's promise.
                let [g, x] = unsafe { [self.gradient.values(&range), self.input.values(&range)] };
                let [weight, bias] = match self.output {
                    // SAFETY: the caller's promise.
                    None => unsafe { sums::<L, N, 2, 2>([g, x], terms) },
                    // SAFETY: as above.
                    Some(output) => unsafe { sums::<L, N, 3, 2>([g, x, output.values(&range)], terms) },
                };
                result.weight += weight;
                result.bias += bias;
            }
        }
    }

    /// Writes the gradients of a group of channels.
    ///
    /// # Safety
    /// The processor has the instructions of the lanes, and nobody else accesses the group's part of the results.
    #[inline(always)]
    unsafe fn write<L: Lanes>(
        &self,
        channels: &Range<usize>,
        affines: &[Affine],
        slopes: &[Slope],
        results: Results<'_, N>,
    ) {
        for image in 0..self.layout.images {
            for ((channel, affine), slope) in channels.clone().zip(affines).zip(slopes) {
                let range = self.layout.plane(image, channel);
                let length = range.len();
                let (g, x) = (self.gradient.pointer(&range), self.input.pointer(&range));
                let place = |result: DisjointMut<'_, N>| result.pointer(range.start, length);
                let (input, residual) = (place(results.input), results.residual.map(place));
                let gradient = InputGradient(*affine, *slope, self.floor);
                // SAFETY: the ranges are in bounds; the rest is the caller's promise.
                unsafe {
                    match (self.output.map(|output| output.pointer(&range)), residual) {
                        (None, _) => map::<L, N, 2, 1>(length, [g, x], [input], gradient),
                        (Some(y), None) => map::<L, N, 3, 1>(length, [g, x, y], [input], gradient),
                        (Some(y), Some(r)) => map::<L, N, 3, 2>(length, [g, x, y], [input, r], gradient),
                    }
                }
            }
        }
    }
}

/// The part of a plan that is a group of channels.
struct Group<'a, N> {
    plan: &'a BackwardPlan<'a>,
    pass: &'a Backward<'a, N>,
    channels: Range<usize>,
    sums: &'a mut [ParameterSums],
    results: Option<Results<'a, N>>,
}

impl<N: InLanes> Work for Group<'_, N> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { plan, pass, channels, sums, results } = self;
        let (affines, inverses) = (&plan.affines[channels.clone()], &plan.inverses[channels.clone()]);
        let rows = pass.layout.plane == 1;
        if plan.sums {
            // SAFETY: a task accesses only its own channels and has written nothing yet; the lanes are the
            // caller's promise.
            unsafe {
                if rows {
                    pass.row_sums::<L>(&channels, affines, sums);
                } else {
                    pass.sums::<L>(&channels, affines, sums);
                }
            }
            sums.iter_mut().zip(inverses).for_each(|(sums, inverse)| sums.weight *= inverse);
        }
        let Some(results) = results else { return };
        let sums = plan.given.map_or(&*sums, |given| &given[channels.clone()]);
        let terms = affines.iter().zip(inverses).zip(sums);
        let slopes: Vec<_> =
            terms.map(|((affine, inverse), sums)| plan.slope(*affine, *inverse, *sums)).collect();
        // SAFETY: a task accesses only its own channels; the lanes are the caller's promise.
        unsafe {
            if rows {
                pass.write_rows::<L>(&channels, affines, &slopes, results);
            } else {
                pass.write::<L>(&channels, affines, &slopes, results);
            }
        }
    }
}
