//! Batch normalisation on the CPU: one task a group of channels, whose planes stay in cache from pass to pass.
//!
//! Sums are taken in a fixed order, whatever the number of threads, in single precision over short blocks and
//! in double precision over all. Results take the memory of operands that nobody else holds.

mod backward;
mod channel;
mod elements;
mod forward;
mod functions;
mod layout;
mod loops;
mod moments;
mod rows;

use burn::backend::Flex;
use burn::tensor::bf16;
use burn_flex::FlexTensor;

use super::backend::{
    BatchNormGradients, BatchNormOps, Gradients, Residual, Saved, Wanted, composed_by_batch,
    composed_by_statistics, composed_gradients, composed_statistics,
};
use crate::cpu::lanes::InLanes;
use crate::cpu::{Affine, DisjointMut, Precision, contiguous, inverse_deviation, tensor_of, values};
use backward::{BackwardPlan, Results};
use channel::ParameterSums;
use elements::{Elements, replaced};
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
        match precision(&[Some(&input), residual.as_ref()], &[&weight, &bias]) {
            Precision::F32 => by_batch::<f32>(input, [weight, bias], residual, epsilon, relu),
            Precision::Bf16 => by_batch::<bf16>(input, [weight, bias], residual, epsilon, relu),
            Precision::Other => {
                composed_by_batch::<Self>(input, weight, bias, residual.into(), epsilon, relu)
            }
        }
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
        let parameters = [&weight, &bias, &mean, &variance];
        match precision(&[Some(&input), residual.as_ref()], &parameters) {
            Precision::F32 => {
                by_statistics::<f32>(input, [weight, bias, mean, variance], residual, epsilon, relu)
            }
            Precision::Bf16 => {
                by_statistics::<bf16>(input, [weight, bias, mean, variance], residual, epsilon, relu)
            }
            Precision::Other => {
                let residual = residual.into();
                composed_by_statistics::<Self>(input, weight, bias, mean, variance, residual, epsilon, relu)
            }
        }
    }

    fn statistics(input: FlexTensor) -> (FlexTensor, FlexTensor) {
        match precision(&[Some(&input)], &[]) {
            Precision::F32 => statistics::<f32>(input),
            Precision::Bf16 => statistics::<bf16>(input),
            Precision::Other => composed_statistics::<Self>(input),
        }
    }
}

/// Mean and variance of each channel.
fn statistics<N: InLanes>(input: FlexTensor) -> (FlexTensor, FlexTensor) {
    let layout = Layout::of(&input);
    let input = contiguous(input);
    let (input, output) = (Elements::Shared(values::<N>(&input)), DisjointMut::new(&mut []));
    let pass = Forward { layout, input, residual: None, output, floor: Floor::of(false) };
    // SAFETY: the input is borrowed.
    let statistics = unsafe { pass.of_batch() };
    unzip(statistics.into_iter())
}

impl BatchNormGradients for Flex {
    fn normalization_gradients(
        saved: Saved<FlexTensor>,
        wanted: Wanted,
        gradient: FlexTensor,
    ) -> Gradients<FlexTensor> {
        let parameters = [&saved.weight, &saved.bias, &saved.mean, &saved.variance];
        match precision(&[Some(&gradient), saved.input.as_ref(), saved.output.as_ref()], &parameters) {
            Precision::F32 => gradients::<f32>(saved, wanted, gradient),
            Precision::Bf16 => gradients::<bf16>(saved, wanted, gradient),
            Precision::Other => composed_gradients::<Self>(saved, wanted, gradient),
        }
    }
}

/// [`Precision::of`] those activations that are there.
fn precision(activations: &[Option<&FlexTensor>], parameters: &[&FlexTensor]) -> Precision {
    let activations: Vec<_> = activations.iter().copied().flatten().collect();
    Precision::of(&activations, parameters)
}

/// Output, mean and variance; `parameters` are weight and bias.
fn by_batch<N: InLanes>(
    input: FlexTensor,
    parameters: [FlexTensor; 2],
    residual: Option<FlexTensor>,
    epsilon: f64,
    relu: bool,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let layout = Layout::of(&input);
    let parameters = parameters.map(contiguous);
    let [weight, bias] = parameters.each_ref().map(values::<f32>);
    let mut statistics = Vec::new();
    // SAFETY: a task reads and writes only its own channels, statistics before outputs, and each
    // output after the values that it is made of.
    let [output] = unsafe {
        replaced::<N, 2, 1>([Some(input), residual], |[input, residual], [output]| {
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

/// Output; `parameters` are weight, bias, mean and variance.
fn by_statistics<N: InLanes>(
    input: FlexTensor,
    parameters: [FlexTensor; 4],
    residual: Option<FlexTensor>,
    epsilon: f64,
    relu: bool,
) -> FlexTensor {
    let layout = Layout::of(&input);
    let affines = normalizations(parameters, epsilon);
    // SAFETY: a task reads and writes only its own channels, each output after the values it is made of.
    let [output] = unsafe {
        replaced::<N, 2, 1>([Some(input), residual], |[input, residual], [output]| {
            let input = input.expect("an input");
            let pass = Forward { layout, input, residual, output, floor: Floor::of(relu) };
            pass.by_statistics(&affines);
        })
    };
    output
}

fn gradients<N: InLanes>(
    saved: Saved<FlexTensor>,
    wanted: Wanted,
    gradient: FlexTensor,
) -> Gradients<FlexTensor> {
    let Saved { input, output, weight, bias, mean, variance, epsilon, relu, by_batch, sums: given } = saved;
    let variance = contiguous(variance);
    let inverses: Vec<_> = values::<f32>(&variance).iter().map(|v| inverse_deviation(*v, epsilon)).collect();
    let given = given.map(|tensors| {
        let [weights, biases] = tensors.map(contiguous);
        let pairs = values::<f32>(&weights).iter().zip(values::<f32>(&biases));
        let sums =
            |(weight, bias): (&f32, &f32)| ParameterSums { weight: (*weight).into(), bias: (*bias).into() };
        pairs.map(sums).collect::<Vec<_>>()
    });
    let plan = BackwardPlan {
        layout: Layout::of(&gradient),
        affines: &normalizations([weight, bias, mean, variance], epsilon),
        inverses: &inverses,
        floor: Floor::of(relu),
        by_batch,
        sums: (by_batch && given.is_none()) || wanted.parameters,
        given: given.as_deref(),
    };
    // Without an activation the residual's gradient is that of the output.
    let passed_on = (wanted.residual && !relu).then(|| gradient.clone());
    let tensors = [input, Some(gradient), output];
    let mut sums = Vec::new();
    // SAFETY: `run` writes the results as a whole, each value after those that it is made of.
    let (input, residual) = unsafe {
        if wanted.residual && relu {
            let [input, residual] = replaced::<N, 3, 2>(tensors, |operands, [input, residual]| {
                sums = plan.run(operands, Some(Results { input, residual: Some(residual) }));
            });
            (Some(input), Some(residual))
        } else if wanted.input {
            let [input] = replaced::<N, 3, 1>(tensors, |operands, [input]| {
                sums = plan.run(operands, Some(Results { input, residual: None }));
            });
            (Some(input), passed_on)
        } else {
            let [] = replaced::<N, 3, 0>(tensors, |operands, []| sums = plan.run(operands, None));
            (None, passed_on)
        }
    };
    let parameters = wanted.parameters.then(|| {
        let (weight, bias) = unzip(sums.iter().map(|sums| (sums.weight as f32, sums.bias as f32)));
        [weight, bias]
    });
    Gradients { input, residual, parameters }
}

/// The normalisation of each channel by weight, bias, mean and variance.
pub(crate) fn normalizations(tensors: [FlexTensor; 4], epsilon: f64) -> Vec<Affine> {
    let tensors = tensors.map(contiguous);
    let values = tensors.each_ref().map(values::<f32>);
    (0..values[0].len()).map(|channel| Affine::new(values.map(|values| values[channel]), epsilon)).collect()
}

/// Two `[channels]` tensors of pairs.
fn unzip(pairs: impl Iterator<Item = (f32, f32)>) -> (FlexTensor, FlexTensor) {
    let (first, second): (Vec<f32>, Vec<f32>) = pairs.unzip();
    let channels = first.len();
    (tensor_of(first, [channels]), tensor_of(second, [channels]))
}
