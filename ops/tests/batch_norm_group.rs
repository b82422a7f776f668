//! Synchronised batch normalisation: several processes, here threads, against one that has the whole batch.

mod support;

use burn::tensor::{Device, Tensor};
use scrl_ops::{BatchNormOptions, Group, batch_norm_train, threads};
use support::{assert_close, device, noise};

/// What a step computes, in the rows of one process.
struct Step {
    output: Tensor<4>,
    input_gradient: Tensor<4>,
    residual_gradient: Option<Tensor<4>>,
    /// Gradients of weight and bias.
    parameters: [Tensor<1>; 2],
    /// Mean and variance.
    statistics: [Tensor<1>; 2],
    count: f64,
}

const CHANNELS: usize = 5;
const IMAGES: usize = 7;

/// Rows `range` of a batch whose channels have means and spreads of their own.
fn rows(seed: u64, range: std::ops::Range<usize>, device: &Device) -> Tensor<4> {
    let spread = Tensor::<1>::from_floats([1.0, 0.1, 5.0, 1.0, 1.0], device).reshape([1, CHANNELS, 1, 1]);
    let mean = Tensor::<1>::from_floats([0.0, 3.0, -20.0, 0.5, 0.0], device).reshape([1, CHANNELS, 1, 1]);
    let whole = noise([IMAGES, CHANNELS, 3, 4], seed, device) * spread + mean;
    whole.slice([range, 0..CHANNELS])
}

fn step(range: std::ops::Range<usize>, group: &Group, residual: bool, relu: bool) -> Step {
    let device = device().autodiff();
    let input = rows(1, range.clone(), &device).require_grad();
    let weight = (noise([CHANNELS], 2, &device) + 1.5).require_grad();
    let bias = noise([CHANNELS], 3, &device).require_grad();
    let residual = residual.then(|| rows(4, range.clone(), &device).require_grad());
    let options = BatchNormOptions { residual: residual.clone(), relu, ..BatchNormOptions::new(1e-5) };
    let options = options.over(group.clone(), true);
    let result = batch_norm_train(input.clone(), weight.clone(), bias.clone(), options);
    let loss = (result.output.clone() * noise([IMAGES, CHANNELS, 3, 4], 5, &device).slice([range])).sum();
    let gradients = loss.backward();
    Step {
        output: result.output.inner(),
        input_gradient: input.grad(&gradients).expect("the input has a gradient"),
        residual_gradient: residual.map(|residual| residual.grad(&gradients).expect("so has the residual")),
        parameters: [weight, bias].map(|tensor| tensor.grad(&gradients).expect("and the parameters")),
        statistics: [result.mean.inner(), result.variance.inner()],
        count: result.count,
    }
}

/// Sums over a channel are of 84 values; ranks round their means to 32 bits before they are combined.
const TOLERANCE: f32 = 1e-5;

#[test]
fn processes_normalise_by_the_statistics_of_the_whole_batch() {
    for (residual, relu) in [(false, false), (false, true), (true, false), (true, true)] {
        let whole = step(0..IMAGES, &Group::alone(), residual, relu);
        for size in 1..=4 {
            let parts = threads(size, |group| {
                let range = group.rank() * IMAGES / size..(group.rank() + 1) * IMAGES / size;
                let step = step(range.clone(), &group, residual, relu);
                let parameters = step.parameters.clone().map(|gradient| group.sum_tensor(gradient));
                (range, Step { parameters, ..step })
            });
            for (range, part) in parts {
                let of_whole = |tensor: &Tensor<4>| tensor.clone().slice([range.clone()]);
                let what = format!("{range:?} of {size} processes, residual {residual}, relu {relu}");
                assert_eq!(part.count, whole.count, "{what}");
                for index in 0..2 {
                    let [found, expected] = [&part, &whole].map(|step| &step.statistics[index]);
                    assert_close(&format!("statistic {index} of {what}"), found, expected, TOLERANCE);
                    let [found, expected] = [&part, &whole].map(|step| &step.parameters[index]);
                    assert_close(&format!("gradient {index} of {what}"), found, expected, TOLERANCE);
                }
                assert_close(&format!("output of {what}"), &part.output, &of_whole(&whole.output), TOLERANCE);
                let [found, expected] = [&part, &whole].map(|step| &step.input_gradient);
                assert_close(&format!("input of {what}"), found, &of_whole(expected), TOLERANCE);
                if let (Some(found), Some(expected)) = (&part.residual_gradient, &whole.residual_gradient) {
                    assert_close(&format!("residual of {what}"), found, &of_whole(expected), TOLERANCE);
                }
            }
        }
    }
}

#[test]
fn a_batch_that_does_not_count_changes_nothing_and_gets_no_gradient() {
    let whole = step(0..IMAGES, &Group::alone(), false, true);
    let parts = threads(2, |group| {
        if group.is_root() {
            return (step(0..IMAGES, &group, false, true), None);
        }
        let device = device().autodiff();
        let input = Tensor::<4>::full([1, CHANNELS, 1, 1], 1e3, &device).require_grad();
        let weight = Tensor::ones([CHANNELS], &device).require_grad();
        let bias = Tensor::zeros([CHANNELS], &device).require_grad();
        let options = BatchNormOptions::new(1e-5).relu().over(group, false);
        let result = batch_norm_train(input.clone(), weight, bias, options);
        let gradients = result.output.clone().mul_scalar(0.0).sum().backward();
        let empty = Step {
            output: result.output.inner(),
            input_gradient: input.grad(&gradients).expect("the input has a gradient"),
            residual_gradient: None,
            parameters: [0; 2].map(|_| Tensor::zeros([CHANNELS], &device.clone().inner())),
            statistics: [result.mean.inner(), result.variance.inner()],
            count: result.count,
        };
        let gradient = empty.input_gradient.clone().into_data().try_to_vec::<f32>().unwrap();
        (empty, Some(gradient))
    });
    let (counted, _) = &parts[0];
    let (empty, gradient) = &parts[1];
    assert_close("output", &counted.output, &whole.output, TOLERANCE);
    assert_close("gradient", &counted.input_gradient, &whole.input_gradient, TOLERANCE);
    assert_close("mean", &empty.statistics[0], &whole.statistics[0], TOLERANCE);
    assert_eq!(empty.count, whole.count);
    assert_eq!(gradient.as_deref(), Some(&[0.0; CHANNELS][..]));
}
