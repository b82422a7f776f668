//! Batch normalisation on the CPU: one task a group of channels, whose planes stay in cache from pass to pass.
//!
//! Sums are taken in a fixed order, whatever the number of threads, in single precision over short blocks and
//! in double precision over all. Results take the memory of operands that nobody else holds.

mod backward;
mod channel;
mod elements;
mod forward;
mod functions;
mod lanes;
mod layout;
mod loops;
mod moments;
mod rows;

use burn::backend::Flex;
use burn_flex::FlexTensor;

use super::backend::{
    BatchNormGradients, BatchNormOps, Gradients, Residual, Saved, Wanted, composed_by_batch,
    composed_by_statistics, composed_gradients,
};
use crate::cpu::{all_f32, contiguous, tensor_of, values};
use backward::{BackwardPlan, Results};
use channel::{Affine, inverse_deviation};
use elements::replaced;
use forward::Forward;
use functions::Floor;
use layout::Layout;

impl BatchNormOps for Flex {
    fn normalize_by_batch(
        input: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        residual: Residual<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let residual = residual.into_tensor();
        if !all_f32(&[&input, &weight, &bias]) || !optional_f32(&residual) {
            return composed_by_batch::<Self>(input, weight, bias, residual.into(), epsilon, relu);
        }
        let layout = Layout::of(&input);
        let parameters = [weight, bias].map(contiguous);
        let [weight, bias] = parameters.each_ref().map(values);
        let mut statistics = Vec::new();
        // SAFETY: a task reads and writes only its own channels, statistics before outputs, and each
        // output after the values that it is made of.
        let [output] = unsafe {
            replaced([Some(input), residual], |[input, residual], [output]| {
                let input = input.expect("an input");
                let pass = Forward { layout, input, residual, output, floor: Floor::of(relu) };
                statistics = pass.by_batch(|channel, (mean, variance)| {
                    Affine::new([weight[channel], bias[channel], mean, variance], epsilon)
                });
            })
        };
        let (mean, variance) = unzip(statistics.into_iter());
        (output, mean, variance)
    }

    fn normalize_by_statistics(
        input: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        mean: FlexTensor,
        variance: FlexTensor,
        residual: Residual<Self>,
        epsilon: f64,
        relu: bool,
    ) -> FlexTensor {
        let residual = residual.into_tensor();
        if !all_f32(&[&input, &weight, &bias, &mean, &variance]) || !optional_f32(&residual) {
            let residual = residual.into();
            return composed_by_statistics::<Self>(
                input, weight, bias, mean, variance, residual, epsilon, relu,
            );
        }
        let layout = Layout::of(&input);
        let affines = affines([weight, bias, mean, variance], epsilon);
        // SAFETY: a task reads and writes only its own channels, each output after the values it is made of.
        let [output] = unsafe {
            replaced([Some(input), residual], |[input, residual], [output]| {
                let input = input.expect("an input");
                let pass = Forward { layout, input, residual, output, floor: Floor::of(relu) };
                pass.by_statistics(&affines);
            })
        };
        output
    }
}

impl BatchNormGradients for Flex {
    fn normalization_gradients(
        saved: Saved<FlexTensor>,
        wanted: Wanted,
        gradient: FlexTensor,
    ) -> Gradients<FlexTensor> {
        let tensors = [&saved.weight, &saved.bias, &saved.mean, &saved.variance, &gradient];
        if !all_f32(&tensors) || !optional_f32(&saved.input) || !optional_f32(&saved.output) {
            return composed_gradients::<Self>(saved, wanted, gradient);
        }
        let Saved { input, output, weight, bias, mean, variance, epsilon, relu, by_batch } = saved;
        let variance = contiguous(variance);
        let inverses: Vec<_> = values(&variance).iter().map(|v| inverse_deviation(*v, epsilon)).collect();
        let plan = BackwardPlan {
            layout: Layout::of(&gradient),
            affines: &affines([weight, bias, mean, variance], epsilon),
            inverses: &inverses,
            floor: Floor::of(relu),
            by_batch,
            sums: by_batch || wanted.parameters,
        };
        // Without an activation the residual's gradient is that of the output.
        let passed_on = (wanted.residual && !relu).then(|| gradient.clone());
        let tensors = [input, Some(gradient), output];
        let mut sums = Vec::new();
        // SAFETY: `run` writes the results as a whole, each value after those that it is made of.
        let (input, residual) = unsafe {
            if wanted.residual && relu {
                let [input, residual] = replaced(tensors, |operands, [input, residual]| {
                    sums = plan.run(operands, Some(Results { input, residual: Some(residual) }));
                });
                (Some(input), Some(residual))
            } else if wanted.input {
                let [input] = replaced(tensors, |operands, [input]| {
                    sums = plan.run(operands, Some(Results { input, residual: None }));
                });
                (Some(input), passed_on)
            } else {
                let [] = replaced(tensors, |operands, []| sums = plan.run(operands, None));
                (None, passed_on)
            }
        };
        let parameters = wanted.parameters.then(|| {
            let (weight, bias) = unzip(sums.iter().map(|sums| (sums.weight as f32, sums.bias as f32)));
            [weight, bias]
        });
        Gradients { input, residual, parameters }
    }
}

fn optional_f32(tensor: &Option<FlexTensor>) -> bool {
    tensor.iter().all(|tensor| all_f32(&[tensor]))
}

/// The normalisation of each channel by weight, bias, mean and variance.
fn affines(tensors: [FlexTensor; 4], epsilon: f64) -> Vec<Affine> {
    let tensors = tensors.map(contiguous);
    let values = tensors.each_ref().map(values);
    (0..values[0].len()).map(|channel| Affine::new(values.map(|values| values[channel]), epsilon)).collect()
}

/// Two `[channels]` tensors of pairs.
fn unzip(pairs: impl Iterator<Item = (f32, f32)>) -> (FlexTensor, FlexTensor) {
    let (first, second): (Vec<f32>, Vec<f32>) = pairs.unzip();
    let channels = first.len();
    (tensor_of(first, [channels]), tensor_of(second, [channels]))
}
