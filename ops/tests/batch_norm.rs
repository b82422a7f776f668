//! Batch normalisation against Burn's own operators and against PyTorch.

mod support;

use burn::tensor::{Device, Tensor, TensorData, activation::relu, module};
use proptest::prelude::*;
use safetensors::SafeTensors;
use scrl_ops::{BatchNormOptions, batch_norm_inference, batch_norm_train};
use support::{assert_close, captured_operators, device, noise, read, values, with_threads};

const EPSILON: f64 = 1e-5;
/// Relative to the largest value: f32 arithmetic in another order, sums in double precision.
const TOLERANCE: f32 = 2e-5;

/// Which operator: by the batch or by running statistics, with a residual or without, with ReLU or without.
#[derive(Clone, Copy, Debug)]
struct Case {
    training: bool,
    residual: bool,
    relu: bool,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|bits| Self { training: bits & 1 > 0, residual: bits & 2 > 0, relu: bits & 4 > 0 })
    }

    fn options<const D: usize>(self, residual: Tensor<D>) -> BatchNormOptions<D> {
        let options = BatchNormOptions::new(EPSILON);
        let options = if self.residual { options.add_residual(residual) } else { options };
        if self.relu { options.relu() } else { options }
    }

    /// Running mean and variance.
    fn statistics(channels: usize, device: &Device) -> [Tensor<1>; 2] {
        [noise([channels], 5, device), noise([channels], 6, device) + 1.5]
    }

    fn ours<const D: usize>(self, [x, r]: [Tensor<D>; 2], [w, b]: [Tensor<1>; 2]) -> Tensor<D> {
        let [mean, variance] = Self::statistics(x.dims()[1], &x.device());
        if self.training {
            batch_norm_train(x, w, b, self.options(r)).output
        } else {
            batch_norm_inference(x, w, b, mean, variance, self.options(r))
        }
    }

    /// Burn's operators, before the activation.
    fn composed<const D: usize>(self, [x, r]: [Tensor<D>; 2], [w, b]: [Tensor<1>; 2]) -> Tensor<D> {
        let [mean, variance] = Self::statistics(x.dims()[1], &x.device());
        let normalized = if self.training {
            module::batch_norm_train(x, w, b, EPSILON).output
        } else {
            module::batch_norm(x, w, b, mean, variance, EPSILON)
        };
        if self.residual { normalized + r } else { normalized }
    }

    fn reference<const D: usize>(self, tensors: [Tensor<D>; 2], parameters: [Tensor<1>; 2]) -> Tensor<D> {
        let sum = self.composed(tensors, parameters);
        if self.relu { relu(sum) } else { sum }
    }

    /// Noise that weighs the outputs. Where an output before ReLU is nearly zero rounding decides which side
    /// it is on, so the weight is zero there.
    fn weights<const D: usize>(self, tensors: [Tensor<D>; 2], parameters: [Tensor<1>; 2]) -> Tensor<D> {
        let weights = noise(tensors[0].dims(), 4, &tensors[0].device());
        let doubtful = self.composed(tensors, parameters).detach().abs().lower_elem(1e-3);
        if self.relu { weights.mask_fill(doubtful, 0.0) } else { weights }
    }
}

/// Output and the gradients of input, residual (zeros if there is none), weight and bias.
struct Results<const D: usize> {
    output: Tensor<D>,
    tensors: [Tensor<D>; 2],
    parameters: [Tensor<1>; 2],
}

/// Differentiates the sum of the weighed outputs.
fn differentiate<const D: usize>(
    tensors: [Tensor<D>; 2],
    parameters: [Tensor<1>; 2],
    weights: Tensor<D>,
    operator: impl Fn([Tensor<D>; 2], [Tensor<1>; 2]) -> Tensor<D>,
) -> Results<D> {
    let tensors = tensors.map(|tensor| tensor.detach().require_grad());
    let parameters = parameters.map(|tensor| tensor.detach().require_grad());
    let output = operator(tensors.clone(), parameters.clone());
    let gradients = (output.clone() * weights).sum().backward();
    let of =
        |tensor: &Tensor<D>| tensor.grad(&gradients).unwrap_or_else(|| tensor.clone().inner().zeros_like());
    Results {
        output,
        tensors: tensors.each_ref().map(of),
        parameters: parameters.map(|tensor| tensor.grad(&gradients).expect("gradient of a parameter")),
    }
}

fn parameters(channels: usize, device: &Device) -> [Tensor<1>; 2] {
    [2, 3].map(|seed| noise([channels], seed, device))
}

/// Asserts that two tensors agree within the tolerance times `scale` and the largest expected value.
#[track_caller]
fn assert_within<const D: usize>(what: &str, actual: &Tensor<D>, expected: &Tensor<D>, scale: f32) {
    assert_eq!(actual.dims(), expected.dims(), "shape of {what}");
    let (actual, expected) = (values(actual), values(expected));
    let largest = expected.iter().fold(scale, |largest, value| largest.max(value.abs()));
    for (index, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
        let error = (actual - expected).abs();
        assert!(error <= TOLERANCE * largest, "{what}: element {index} is {actual}, expected {expected}");
    }
}

/// Compares every case with Burn's operators, forward and backward.
fn compare<const D: usize>(what: &str, input: Tensor<D>) {
    let (dims, device) = (input.dims(), input.device());
    let tensors = || [input.clone(), noise(dims, 7, &device)];
    // Rounding errors of the input grow with its magnitude and with the inverse deviation.
    let [_, channels, ..] = dims[..] else { panic!("two axes") };
    let result = batch_norm_train(
        input.clone(),
        Tensor::ones([channels], &device),
        Tensor::zeros([channels], &device),
        EPSILON,
    );
    let deviations = values(&(result.variance + EPSILON).sqrt());
    let magnitude = values(&input.clone().abs().max())[0].max(1.0);
    let scale = magnitude / deviations.into_iter().fold(1.0, f32::min);
    for case in Case::all() {
        let weights = case.weights(tensors(), parameters(channels, &device));
        let run = |operator: &dyn Fn([Tensor<D>; 2], [Tensor<1>; 2]) -> Tensor<D>| {
            differentiate(tensors(), parameters(channels, &device), weights.clone(), operator)
        };
        let ours = run(&|tensors, parameters| case.ours(tensors, parameters));
        let expected = run(&|tensors, parameters| case.reference(tensors, parameters));
        assert_within(&format!("output of {what}, {case:?}"), &ours.output, &expected.output, scale);
        for (index, name) in ["input", "residual"].into_iter().enumerate() {
            let (ours, expected) = (&ours.tensors[index], &expected.tensors[index]);
            assert_within(&format!("{name} gradient of {what}, {case:?}"), ours, expected, scale);
        }
        for (index, name) in ["weight", "bias"].into_iter().enumerate() {
            let (ours, expected) = (&ours.parameters[index], &expected.parameters[index]);
            assert_within(&format!("{name} gradient of {what}, {case:?}"), ours, expected, scale);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn matches_burn_for_images_of_any_shape(batch in 1usize..5, channels in 1usize..50, height in 1usize..14, width in 1usize..14) {
        compare("images", noise([batch, channels, height, width], 1, &device().autodiff()));
    }

    #[test]
    fn matches_burn_for_vectors_of_any_shape(batch in 1usize..50, channels in 1usize..80) {
        compare("vectors", noise([batch, channels], 1, &device().autodiff()));
    }
}

#[test]
fn matches_burn_for_large_planes_many_channels_and_permuted_tensors() {
    let device = device().autodiff();
    compare("a plane of several blocks", noise([2, 3, 61, 47], 1, &device) * 3.0 + 2.0);
    compare("more channels than a task takes", noise([3, 4500], 1, &device));
    compare("more small planes than a task takes", noise([4, 300, 5, 5], 1, &device));
    compare("a permuted tensor", noise([6, 7, 5, 3], 1, &device).permute([3, 2, 0, 1]));
}

#[test]
fn statistics_are_returned_detached_and_with_the_biased_variance() {
    let device = device().autodiff();
    let input = Tensor::<2>::from_data([[1.0, 5.0], [3.0, 5.0]], &device).require_grad();
    let result = batch_norm_train(input, Tensor::ones([2], &device), Tensor::zeros([2], &device), EPSILON);
    assert_eq!(values(&result.mean), [2.0, 5.0]);
    assert_eq!(values(&result.variance), [1.0, 0.0]);
    assert!(!result.mean.is_require_grad() && !result.variance.is_require_grad());
}

#[test]
fn variance_survives_a_mean_that_is_large() {
    let device = device();
    let input = Tensor::<2>::from_data([[4096.0f32], [4096.5], [4097.0], [4097.5]], &device);
    let result = batch_norm_train(input, Tensor::ones([1], &device), Tensor::zeros([1], &device), EPSILON);
    assert_eq!(values(&result.variance), [0.3125]);
}

/// The address of a tensor's values, which no other tensor holds.
fn address<const D: usize>(tensor: Tensor<D>) -> usize {
    tensor.into_data().as_bytes().as_ptr() as usize
}

#[test]
fn outputs_take_memory_that_nobody_else_holds_and_leave_the_rest_alone() {
    let device = device();
    let fresh = |seed| {
        let data = noise([2, 3, 4, 4], seed, &device).into_data();
        let address = data.as_bytes().as_ptr() as usize;
        (Tensor::<4>::from_data(data, &device), address)
    };
    for case in Case::all() {
        let run = |x, r| case.ours([x, r], parameters(3, &device));
        let ((x, x_address), (r, r_address)) = (fresh(1), fresh(2));
        let kept = [values(&x), values(&r)];
        let shared = run(x.clone(), r.clone());
        assert_eq!([values(&x), values(&r)], kept);
        let in_residual = run(x.clone(), r);
        assert_eq!(values(&in_residual), values(&shared));
        assert_eq!(values(&x), kept[0]);
        if case.residual {
            assert_eq!(address(in_residual), r_address);
        }
        let in_input = run(x, fresh(2).0);
        assert_eq!(values(&in_input), values(&shared));
        assert_eq!(address(in_input), x_address);
    }
}

#[test]
fn tensors_and_gradients_shared_with_another_branch_are_left_as_they_are() {
    let device = device().autodiff();
    for case in Case::all() {
        let branches = |operator: &dyn Fn([Tensor<4>; 2], [Tensor<1>; 2]) -> Tensor<4>| {
            let x = noise([2, 3, 4, 5], 1, &device).require_grad();
            // The input is its own residual, and every tensor has another reader.
            let output = operator([x.clone(), x.clone()], parameters(3, &device));
            let total = output.clone() + x.clone() * 2.0 + output * x.clone();
            let gradients = (total * noise([2, 3, 4, 5], 2, &device)).sum().backward();
            x.grad(&gradients).expect("gradient of the input")
        };
        let ours = branches(&|tensors, parameters| case.ours(tensors, parameters));
        let expected = branches(&|tensors, parameters| case.reference(tensors, parameters));
        assert_close(&format!("gradient through {case:?}"), &ours, &expected, TOLERANCE);
    }
}

#[test]
fn frozen_parameters_get_no_gradient_and_the_input_and_the_residual_do() {
    let device = device().autodiff();
    for case in Case::all() {
        let tensors = || [1, 7].map(|seed| noise([2, 3, 4, 5], seed, &device).require_grad());
        let gradients = |operator: &dyn Fn([Tensor<4>; 2], [Tensor<1>; 2]) -> Tensor<4>| {
            let (tensors, parameters) = (tensors(), parameters(3, &device));
            let output = operator(tensors.clone(), parameters.clone());
            let gradients = (output * case.weights(tensors.clone(), parameters.clone())).sum().backward();
            assert!(parameters.iter().all(|parameter| parameter.grad(&gradients).is_none()));
            tensors.map(|tensor| tensor.grad(&gradients))
        };
        let ours = gradients(&|tensors, parameters| case.ours(tensors, parameters));
        let expected = gradients(&|tensors, parameters| case.reference(tensors, parameters));
        for (ours, expected) in ours.iter().zip(&expected) {
            assert_eq!(ours.is_some(), expected.is_some());
            if let (Some(ours), Some(expected)) = (ours, expected) {
                assert_close(&format!("gradient of {case:?}"), ours, expected, TOLERANCE);
            }
        }
    }
}

#[test]
fn an_untracked_input_leaves_the_gradients_of_the_others() {
    let device = device().autodiff();
    for case in Case::all() {
        let run = |operator: &dyn Fn([Tensor<4>; 2], [Tensor<1>; 2]) -> Tensor<4>| {
            let tensors = [noise([2, 3, 4, 5], 1, &device), noise([2, 3, 4, 5], 7, &device).require_grad()];
            let parameters = parameters(3, &device).map(|tensor| tensor.require_grad());
            let weights = case.weights(tensors.clone(), parameters.clone());
            let gradients = (operator(tensors.clone(), parameters.clone()) * weights).sum().backward();
            let [_, residual] = tensors.map(|tensor| tensor.grad(&gradients));
            (residual, parameters.map(|tensor| tensor.grad(&gradients).expect("gradient of a parameter")))
        };
        let (residual, parameters) = run(&|tensors, parameters| case.ours(tensors, parameters));
        let expected = run(&|tensors, parameters| case.reference(tensors, parameters));
        assert_eq!(residual.is_some(), case.residual);
        for (ours, expected) in residual.iter().zip(&expected.0) {
            assert_close(&format!("residual gradient of {case:?}"), ours, expected, TOLERANCE);
        }
        for (ours, expected) in parameters.iter().zip(&expected.1) {
            assert_close(&format!("parameter gradient of {case:?}"), ours, expected, TOLERANCE);
        }
    }
}

#[test]
fn statistics_that_are_tracked_get_their_gradients() {
    let device = device().autodiff();
    let gradient = |operator: &dyn Fn(Tensor<4>, [Tensor<1>; 4]) -> Tensor<4>| {
        let mean = noise([3], 5, &device).require_grad();
        let parameters =
            [noise([3], 2, &device), noise([3], 3, &device), mean.clone(), noise([3], 6, &device) + 2.0];
        let output = operator(noise([2, 3, 4, 5], 1, &device), parameters);
        mean.grad(&output.sum().backward()).expect("gradient of the mean")
    };
    let ours = gradient(&|x, [w, b, m, v]| batch_norm_inference(x, w, b, m, v, EPSILON));
    let expected = gradient(&|x, [w, b, m, v]| module::batch_norm(x, w, b, m, v, EPSILON));
    assert_close("gradient of the mean", &ours, &expected, TOLERANCE);
}

#[test]
fn results_are_the_same_to_the_bit_for_any_number_of_threads_and_wherever_they_are_written() {
    fn bits<const D: usize>(shape: [usize; D]) -> Vec<Vec<f32>> {
        let device = device().autodiff();
        let run = |case: Case| {
            let tensors = [1, 7].map(|seed| noise(shape, seed, &device));
            let parameters = parameters(shape[1], &device);
            let untracked = case.ours(tensors.clone(), parameters.clone());
            let operator = |tensors, parameters| case.ours(tensors, parameters);
            let results = differentiate(tensors, parameters, noise(shape, 4, &device), operator);
            assert_eq!(values(&untracked), values(&results.output), "{case:?}");
            let [input, residual] = results.tensors.each_ref().map(values);
            let [weight, bias] = results.parameters.each_ref().map(values);
            [values(&results.output), input, residual, weight, bias]
        };
        Case::all().flat_map(run).collect()
    }
    let all = || [bits([5, 190, 11, 13]), bits([7, 2500])];
    let single = with_threads(1, all);
    assert!(single == with_threads(2, all) && single == with_threads(3, all));
}

#[test]
fn what_is_not_a_number_stays_so() {
    let device = device();
    let input = Tensor::<2>::from_data([[f32::NAN, 1.0], [0.5, 2.0]], &device);
    let options = BatchNormOptions::new(EPSILON).relu();
    let result = batch_norm_train(input, Tensor::ones([2], &device), Tensor::zeros([2], &device), options);
    let output = values(&result.output);
    assert!(output[0].is_nan() && output[2].is_nan() && output[1] == 0.0 && output[3] > 0.9);
    assert!(values(&result.variance)[0].is_nan());
}

#[test]
fn other_types_than_f32_go_through_burns_operators() {
    let device = device();
    let input = TensorData::from([[1.0f64, 5.0], [3.0, 9.0]]);
    let input = Tensor::<2>::from_data(input, (&device, burn::tensor::DType::F64));
    let [ones, zeros] = [1.0f64, 0.0].map(|value| {
        Tensor::<1>::from_data(TensorData::from([value, value]), (&device, burn::tensor::DType::F64))
    });
    let options = BatchNormOptions::new(0.0).add_residual(input.clone()).relu();
    let output = batch_norm_train(input, ones, zeros, options).output;
    assert_eq!(output.into_data().try_to_vec::<f64>().unwrap(), [0.0, 4.0, 4.0, 10.0]);
}

#[test]
fn matches_pytorch_forward_and_backward() {
    let bytes = include_bytes!("fixtures/batch_norm/batch_norm.safetensors");
    let file = SafeTensors::deserialize(bytes).unwrap();
    let device = device().autodiff();
    let vector = |name: &str| read::<1>(&file, name, &device);
    let images = |name: &str| read::<4>(&file, name, &device);
    for case in Case::all() {
        let prefix = format!(
            "{}{}{}",
            if case.training { "train" } else { "inference" },
            if case.residual { ".add" } else { "" },
            if case.relu { ".relu" } else { "" }
        );
        let (x, residual) = (images("input").require_grad(), images("residual").require_grad());
        let (weight, bias) = (vector("weight").require_grad(), vector("bias").require_grad());
        let options = case.options(residual.clone());
        let output = if case.training {
            let result = batch_norm_train(x.clone(), weight.clone(), bias.clone(), options);
            assert_close("mean", &result.mean, &vector("mean"), TOLERANCE);
            assert_close("variance", &result.variance, &vector("variance"), TOLERANCE);
            result.output
        } else {
            let (mean, variance) = (vector("running_mean"), vector("running_var"));
            batch_norm_inference(x.clone(), weight.clone(), bias.clone(), mean, variance, options)
        };
        let gradients = (output.clone() * images("output_gradient")).sum().backward();
        let expected = |name: &str| format!("{prefix}.{name}");
        assert_close(&prefix, &output, &images(&expected("output")), TOLERANCE);
        let tensors = [("input", &x), ("residual", &residual)];
        for (name, tensor) in tensors.into_iter().take(if case.residual { 2 } else { 1 }) {
            let name = expected(&format!("{name}_gradient"));
            assert_close(&name, &tensor.grad(&gradients).unwrap(), &images(&name), TOLERANCE);
        }
        for (name, tensor) in [("weight", &weight), ("bias", &bias)] {
            let name = expected(&format!("{name}_gradient"));
            assert_close(&name, &tensor.grad(&gradients).unwrap(), &vector(&name), TOLERANCE);
        }
    }
}

#[test]
fn graph_capture_records_the_standard_operators() {
    let case = Case { training: false, residual: true, relu: true };
    let recorded = captured_operators(|device| {
        case.ours([1, 7].map(|seed| noise([1, 3, 4, 4], seed, device)), parameters(3, device))
    });
    for name in ["BatchNorm", "Add", "Relu"] {
        assert!(recorded.iter().any(|operator| operator.contains(name)), "{name} in {recorded:?}");
    }
    assert!(!recorded.iter().any(|operator| operator.contains("Custom")), "{recorded:?}");
}
