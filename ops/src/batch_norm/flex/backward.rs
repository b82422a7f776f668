//! Gradients.

use std::ops::Range;

use super::{
    channel::{Affine, Floor, ParameterSums, Slope},
    lanes::{add_columns, map, sums},
    layout::Layout,
    operand::Operand,
};
use crate::cpu::DisjointMut;

/// What a backward pass computes, of `x`, `g` and `y`: input, gradient of the output, and output.
pub(super) struct Plan<'a> {
    pub(super) layout: Layout,
    pub(super) affines: &'a [Affine],
    /// `1 / √(variance + ε)` of each channel.
    pub(super) inverses: &'a [f64],
    pub(super) floor: Floor,
    /// Whether the statistics depend on the input.
    pub(super) by_batch: bool,
    /// Whether the gradients of weight and bias are summed up, which statistics of the batch need anyway.
    pub(super) sums: bool,
}

impl Plan<'_> {
    /// Writes the results and returns the gradients of weight and bias.
    ///
    /// The input may be missing where no sums are taken and the mask follows from the output.
    ///
    /// # Safety
    /// A result is no operand, or an operand as a whole.
    ///
    /// # Panics
    /// If the gradient is missing.
    pub(super) unsafe fn run(
        &self,
        [input, gradient, output]: [Option<Operand<'_>>; 3],
        results: Option<Results<'_>>,
    ) -> Vec<ParameterSums> {
        let gradient = gradient.expect("the gradient of the output");
        // A slope of zero leaves out the input; the gradient stands in for it.
        let input = input.unwrap_or(gradient);
        let pass = Backward { layout: self.layout, input, gradient, output, floor: self.floor };
        self.layout.for_each_group(
            ParameterSums::default(),
            #[inline(always)]
            |channels, sums| {
                let affines = &self.affines[channels.clone()];
                let inverses = &self.inverses[channels.clone()];
                if self.sums {
                    // SAFETY: a task accesses its own channels alone and has written nothing yet.
                    unsafe { pass.sums(&channels, affines, sums) };
                    sums.iter_mut().zip(inverses).for_each(|(sums, inverse)| sums.weight *= inverse);
                }
                if let Some(results) = results {
                    let terms = affines.iter().zip(inverses).zip(&*sums);
                    let slopes: Vec<_> =
                        terms.map(|((affine, inverse), sums)| self.slope(*affine, *inverse, *sums)).collect();
                    // SAFETY: a task accesses its own channels alone.
                    unsafe { pass.write(&channels, affines, &slopes, results) };
                }
            },
        )
    }

    fn slope(&self, affine: Affine, inverse: f64, sums: ParameterSums) -> Slope {
        if self.by_batch {
            Slope::by_batch(affine, inverse, sums, self.layout.count())
        } else {
            Slope::by_statistics(affine)
        }
    }
}

/// What a backward pass reads.
#[derive(Clone, Copy)]
struct Backward<'a> {
    layout: Layout,
    input: Operand<'a>,
    /// Gradient of the output.
    gradient: Operand<'a>,
    /// Output of the forward pass; without it the activation's mask follows from the input.
    output: Option<Operand<'a>>,
    floor: Floor,
}

/// Where the gradients go.
#[derive(Clone, Copy)]
pub(super) struct Results<'a> {
    pub(super) input: DisjointMut<'a>,
    /// Given an output, the gradient before the activation.
    pub(super) residual: Option<DisjointMut<'a>>,
}

impl Backward<'_> {
    /// `Σ g · (x − centre)` and `Σ g` of a group of channels, g being the gradient before the activation.
    ///
    /// # Safety
    /// Nobody writes the group's part of the operands meanwhile.
    #[inline(always)]
    unsafe fn sums(&self, channels: &Range<usize>, affines: &[Affine], results: &mut [ParameterSums]) {
        if self.layout.plane == 1 {
            // SAFETY: the caller's promise.
            return unsafe { self.sums_of_columns(channels, affines, results) };
        }
        let floor = self.floor;
        for image in 0..self.layout.images {
            for ((channel, affine), result) in channels.clone().zip(affines).zip(&mut *results) {
                let range = self.layout.plane(image, channel);
                // SAFETY: the caller's promise.
                let (gradient, x) = unsafe { (self.gradient.values(&range), self.input.values(&range)) };
                let terms = |gradient: f32, x: f32| [gradient * (x - affine.centre), gradient];
                let [weight, bias] = match self.output {
                    None => sums([gradient, x], |[g, x]| terms(floor.pass(g, affine.apply(x)), x)),
                    Some(output) => {
                        // SAFETY: the caller's promise.
                        let output = unsafe { output.values(&range) };
                        sums([gradient, x, output], |[g, x, y]| terms(floor.pass(g, y), x))
                    }
                };
                result.weight += weight;
                result.bias += bias;
            }
        }
    }

    /// [`Backward::sums`] where planes are single values.
    #[inline(always)]
    unsafe fn sums_of_columns(
        &self,
        channels: &Range<usize>,
        affines: &[Affine],
        results: &mut [ParameterSums],
    ) {
        let floor = self.floor;
        let [c, a, b] = &Affine::columns(affines);
        let (mut weights, mut biases) = (vec![0.0; channels.len()], vec![0.0; channels.len()]);
        for image in 0..self.layout.images {
            let range = self.layout.row(image, channels);
            let totals = [&mut weights[..], &mut biases[..]];
            // SAFETY: the caller's promise.
            let (gradient, x) = unsafe { (self.gradient.values(&range), self.input.values(&range)) };
            match self.output {
                None => add_columns([gradient, x, c, a, b], totals, |[g, x, centre, scale, shift]| {
                    let g = floor.pass(g, Affine { centre, scale, shift }.apply(x));
                    [g * (x - centre), g]
                }),
                Some(output) => {
                    // SAFETY: the caller's promise.
                    let output = unsafe { output.values(&range) };
                    add_columns([gradient, x, output, c], totals, |[g, x, y, centre]| {
                        let g = floor.pass(g, y);
                        [g * (x - centre), g]
                    });
                }
            }
        }
        for (index, result) in results.iter_mut().enumerate() {
            *result = ParameterSums { weight: weights[index], bias: biases[index] };
        }
    }

    /// Writes the gradients of a group of channels.
    ///
    /// # Safety
    /// Nobody else accesses the group's part of the results.
    #[inline(always)]
    unsafe fn write(
        &self,
        channels: &Range<usize>,
        affines: &[Affine],
        slopes: &[Slope],
        results: Results<'_>,
    ) {
        if self.layout.plane == 1 {
            // SAFETY: the caller's promise.
            return unsafe { self.write_columns(channels, affines, slopes, results) };
        }
        let floor = self.floor;
        for image in 0..self.layout.images {
            for ((channel, affine), slope) in channels.clone().zip(affines).zip(slopes) {
                let range = self.layout.plane(image, channel);
                let length = range.len();
                let (gradient, x) = (self.gradient.pointer(&range), self.input.pointer(&range));
                let place = |result: DisjointMut<'_>| result.pointer(range.start, length);
                let target = place(results.input);
                let output = self.output.map(|output| output.pointer(&range));
                // SAFETY: the ranges are in bounds; the caller promises that the results are ours alone.
                unsafe {
                    match (output, results.residual.map(place)) {
                        (None, _) => map(length, [gradient, x], [target], |[g, x]| {
                            [slope.apply(floor.pass(g, affine.apply(x)), x)]
                        }),
                        (Some(y), None) => map(length, [gradient, x, y], [target], |[g, x, y]| {
                            [slope.apply(floor.pass(g, y), x)]
                        }),
                        (Some(y), Some(residual)) => {
                            map(length, [gradient, x, y], [target, residual], |[g, x, y]| {
                                let g = floor.pass(g, y);
                                [slope.apply(g, x), g]
                            });
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn write_columns(
        &self,
        channels: &Range<usize>,
        affines: &[Affine],
        slopes: &[Slope],
        results: Results<'_>,
    ) {
        let floor = self.floor;
        let [centres, scales, shifts] = Affine::columns(affines);
        let [c, a, b] = [&centres, &scales, &shifts].map(|column| column.as_ptr());
        let [slopes, offsets] = Slope::columns(slopes);
        let [s, o] = [&slopes, &offsets].map(|column| column.as_ptr());
        let apply = |gradient, x, [centre, scale, slope, offset]: [f32; 4]| {
            Slope { centre, scale, slope, offset }.apply(gradient, x)
        };
        for image in 0..self.layout.images {
            let range = self.layout.row(image, channels);
            let length = range.len();
            let (gradient, x) = (self.gradient.pointer(&range), self.input.pointer(&range));
            let place = |result: DisjointMut<'_>| result.pointer(range.start, length);
            let target = place(results.input);
            let output = self.output.map(|output| output.pointer(&range));
            // SAFETY: as in `write`; a row has one value a channel.
            unsafe {
                match (output, results.residual.map(place)) {
                    (None, _) => {
                        map(length, [gradient, x, c, a, b, s, o], [target], |[g, x, c, a, b, s, o]| {
                            let y = Affine { centre: c, scale: a, shift: b }.apply(x);
                            [apply(floor.pass(g, y), x, [c, a, s, o])]
                        })
                    }
                    (Some(y), None) => {
                        map(length, [gradient, x, y, c, a, s, o], [target], |[g, x, y, c, a, s, o]| {
                            [apply(floor.pass(g, y), x, [c, a, s, o])]
                        })
                    }
                    (Some(y), Some(residual)) => {
                        let sources = [gradient, x, y, c, a, s, o];
                        map(length, sources, [target, residual], |[g, x, y, c, a, s, o]| {
                            let g = floor.pass(g, y);
                            [apply(g, x, [c, a, s, o]), g]
                        });
                    }
                }
            }
        }
    }
}
