//! Batch normalisation against Burn's own operators and against PyTorch.

mod support;

use burn::tensor::{Device, Tensor, module};
use safetensors::SafeTensors;
use scrl_ops::{batch_norm_inference, batch_norm_train};
use support::{assert_close, captured_operators, noise, read, values, with_threads};

const EPSILON: f64 = 1e-5;
/// Relative to the largest value: f32 arithmetic in another order, sums in double precision.
const TOLERANCE: f32 = 2e-5;

/// Output and the gradients of input, weight and bias, where the output is weighed with noise.
struct Results<const D: usize> {
    output: Tensor<D>,
    input: Tensor<D>,
    parameters: [Tensor<1>; 2],
}

fn differentiate<const D: usize>(
    input: Tensor<D>,
    operator: impl Fn(Tensor<D>, Tensor<1>, Tensor<1>) -> Tensor<D>,
) -> Results<D> {
    let (channels, device) = (input.dims()[1], input.device());
    let input = input.require_grad();
    let [weight, bias] = [2, 3].map(|seed| noise([channels], seed, &device).require_grad());
    let output = operator(input.clone(), weight.clone(), bias.clone());
    let gradients = (output.clone() * noise(output.dims(), 4, &device)).sum().backward();
    Results {
        output,
        input: input.grad(&gradients).expect("gradient of the input"),
        parameters: [weight, bias].map(|tensor| tensor.grad(&gradients).expect("gradient of a parameter")),
    }
}

fn assert_same<const D: usize>(case: &str, ours: &Results<D>, expected: &Results<D>) {
    assert_close(&format!("output of {case}"), &ours.output, &expected.output, TOLERANCE);
    assert_close(&format!("input gradient of {case}"), &ours.input, &expected.input, TOLERANCE);
    for (name, index) in [("weight", 0), ("bias", 1)] {
        let (ours, expected) = (&ours.parameters[index], &expected.parameters[index]);
        assert_close(&format!("{name} gradient of {case}"), ours, expected, TOLERANCE);
    }
}

fn compare<const D: usize>(case: &str, input: Tensor<D>) {
    let ours = differentiate(input.clone(), |x, w, b| batch_norm_train(x, w, b, EPSILON).output);
    let expected = differentiate(input.clone(), |x, w, b| module::batch_norm_train(x, w, b, EPSILON).output);
    assert_same(&format!("training {case}"), &ours, &expected);
    let (channels, device) = (input.dims()[1], input.device());
    let mean = || noise([channels], 5, &device);
    let variance = || noise([channels], 6, &device) + 1.5;
    let ours =
        differentiate(input.clone(), |x, w, b| batch_norm_inference(x, w, b, mean(), variance(), EPSILON));
    let expected = differentiate(input, |x, w, b| module::batch_norm(x, w, b, mean(), variance(), EPSILON));
    assert_same(&format!("inference {case}"), &ours, &expected);
}

#[test]
fn matches_burn_for_images_vectors_and_permuted_tensors() {
    let device = Device::flex().autodiff();
    compare("of images", noise([3, 5, 7, 9], 1, &device));
    compare("of one image", noise([1, 4, 16, 16], 1, &device) * 3.0 + 2.0);
    compare("of vectors", noise([32, 19], 1, &device));
    compare("of a permuted tensor", noise([6, 7, 5, 3], 1, &device).permute([3, 2, 0, 1]));
}

#[test]
fn statistics_are_returned_detached_and_with_the_biased_variance() {
    let device = Device::flex().autodiff();
    let input = Tensor::<2>::from_data([[1.0, 5.0], [3.0, 5.0]], &device).require_grad();
    let result = batch_norm_train(input, Tensor::ones([2], &device), Tensor::zeros([2], &device), EPSILON);
    assert_eq!(values(&result.mean), [2.0, 5.0]);
    assert_eq!(values(&result.variance), [1.0, 0.0]);
    assert!(!result.mean.is_require_grad() && !result.variance.is_require_grad());
}

#[test]
fn variance_survives_a_mean_that_is_large() {
    let device = Device::flex();
    let input = Tensor::<2>::from_data([[4096.0f32], [4096.5], [4097.0], [4097.5]], &device);
    let result = batch_norm_train(input, Tensor::ones([1], &device), Tensor::zeros([1], &device), EPSILON);
    assert_eq!(values(&result.variance), [0.3125]);
}

#[test]
fn inputs_shared_with_others_are_left_as_they_are() {
    let device = Device::flex();
    let input = noise([2, 3, 4, 4], 1, &device);
    let before = values(&input);
    let (ones, zeros) = (Tensor::<1>::ones([3], &device), Tensor::<1>::zeros([3], &device));
    let shared = batch_norm_train(input.clone(), ones.clone(), zeros.clone(), EPSILON).output;
    assert_eq!(values(&input), before);
    let owned = batch_norm_train(input, ones.clone(), zeros.clone(), EPSILON).output;
    assert_eq!(values(&owned), values(&shared));
    let input = noise([2, 3, 4, 4], 1, &device);
    let infer = |input| {
        batch_norm_inference(input, ones.clone(), zeros.clone(), zeros.clone() + 0.5, ones.clone(), EPSILON)
    };
    let shared = infer(input.clone());
    assert_eq!(values(&input), before);
    assert_eq!(values(&infer(input)), values(&shared));
}

#[test]
fn a_gradient_shared_with_another_branch_is_left_as_it_is() {
    let device = Device::flex().autodiff();
    let residual = |normalize: &dyn Fn(Tensor<4>) -> Tensor<4>| {
        let input = noise([2, 3, 4, 5], 1, &device).require_grad();
        let output = normalize(input.clone()) + input.clone() * 2.0;
        let gradients = (output * noise([2, 3, 4, 5], 2, &device)).sum().backward();
        input.grad(&gradients).expect("gradient of the input")
    };
    let parameters = || (noise([3], 3, &device), noise([3], 4, &device));
    let ours = residual(&|x| batch_norm_train(x, parameters().0, parameters().1, EPSILON).output);
    let expected = residual(&|x| module::batch_norm_train(x, parameters().0, parameters().1, EPSILON).output);
    assert_close("gradient through a residual", &ours, &expected, TOLERANCE);
}

#[test]
fn frozen_parameters_get_no_gradient_and_the_input_does() {
    let device = Device::flex().autodiff();
    let input = noise([2, 3, 4, 5], 1, &device).require_grad();
    let weight = noise([3], 2, &device);
    let (zeros, ones) = (Tensor::<1>::zeros([3], &device), Tensor::<1>::ones([3], &device));
    let output = batch_norm_inference(input.clone(), weight.clone(), zeros.clone(), zeros, ones, 0.0);
    let gradients = output.sum().backward();
    let expected = weight.clone().reshape([1, 3, 1, 1]).expand([2, 3, 4, 5]);
    assert_close("gradient of the input", &input.grad(&gradients).unwrap(), &expected, TOLERANCE);
    assert!(weight.grad(&gradients).is_none());
}

#[test]
fn statistics_that_are_tracked_get_their_gradients() {
    let device = Device::flex().autodiff();
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
fn results_are_the_same_to_the_bit_for_any_number_of_threads() {
    let device = Device::flex().autodiff();
    let run = || {
        let input = noise([5, 19, 11, 13], 1, &device);
        let results = differentiate(input, |x, w, b| batch_norm_train(x, w, b, EPSILON).output);
        let [weight, bias] = results.parameters.each_ref().map(values);
        [values(&results.output), values(&results.input), weight, bias]
    };
    let single = with_threads(1, run);
    assert!(single == with_threads(2, run) && single == with_threads(3, run));
}

#[test]
fn matches_pytorch_forward_and_backward() {
    let bytes = include_bytes!("fixtures/batch_norm/batch_norm.safetensors");
    let file = SafeTensors::deserialize(bytes).unwrap();
    let device = Device::flex().autodiff();
    let vector = |name: &str| read::<1>(&file, name, &device);
    for mode in ["train", "inference"] {
        let input = read::<4>(&file, "input", &device).require_grad();
        let (weight, bias) = (vector("weight").require_grad(), vector("bias").require_grad());
        let output = if mode == "train" {
            let result = batch_norm_train(input.clone(), weight.clone(), bias.clone(), EPSILON);
            assert_close("mean", &result.mean, &vector("mean"), TOLERANCE);
            assert_close("variance", &result.variance, &vector("variance"), TOLERANCE);
            result.output
        } else {
            let (mean, variance) = (vector("running_mean"), vector("running_var"));
            batch_norm_inference(input.clone(), weight.clone(), bias.clone(), mean, variance, EPSILON)
        };
        let gradients = (output.clone() * read::<4>(&file, "output_gradient", &device)).sum().backward();
        let ours = Results {
            output,
            input: input.grad(&gradients).unwrap(),
            parameters: [weight, bias].map(|tensor| tensor.grad(&gradients).unwrap()),
        };
        let expected = Results {
            output: read(&file, &format!("{mode}.output"), &device),
            input: read(&file, &format!("{mode}.input_gradient"), &device),
            parameters: ["weight", "bias"].map(|name| vector(&format!("{mode}.{name}_gradient"))),
        };
        assert_same(mode, &ours, &expected);
    }
}

#[test]
fn graph_capture_records_the_standard_operator() {
    let recorded = captured_operators(|device| {
        let [weight, bias, mean, variance] = [2, 3, 4, 5].map(|seed| noise([3], seed, device));
        batch_norm_inference(noise([1, 3, 4, 4], 1, device), weight, bias, mean, variance, EPSILON)
    });
    assert!(recorded.iter().any(|operator| operator.contains("BatchNorm")), "{recorded:?}");
    assert!(!recorded.iter().any(|operator| operator.contains("Custom")), "{recorded:?}");
}
