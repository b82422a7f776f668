//! The convolution against Burn's own operators and against PyTorch.

mod support;

use burn::tensor::{Tensor, module, ops::ConvOptions};
use safetensors::SafeTensors;
use scrl_ops::{Conv2dOptions, conv2d};
use support::{assert_close, captured_operators, device, noise, read, values, with_threads};

/// Relative to the largest value: f32 sums of up to some thousand terms in another order.
const TOLERANCE: f32 = 1e-4;

#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    channels: [usize; 2],
    size: [usize; 2],
    kernel: usize,
    stride: [usize; 2],
    padding: [usize; 2],
}

/// Output and gradients of a convolution whose output is weighed with noise.
struct Results {
    output: Tensor<4>,
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
}

type Operator = fn(Tensor<4>, Tensor<4>, Option<Tensor<1>>, Conv2dOptions) -> Tensor<4>;

fn burn_conv2d(
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: Conv2dOptions,
) -> Tensor<4> {
    module::conv2d(
        input,
        weight,
        bias,
        ConvOptions::new(options.stride, options.padding, options.dilation, 1),
    )
}

fn differentiate(
    operator: Operator,
    [input, weight]: [Tensor<4>; 2],
    bias: Option<Tensor<1>>,
    options: Conv2dOptions,
) -> Results {
    let (input, weight) = (input.require_grad(), weight.require_grad());
    let bias = bias.map(Tensor::require_grad);
    let output = operator(input.clone(), weight.clone(), bias.clone(), options);
    let gradients = (output.clone() * noise(output.dims(), 4, &output.device())).sum().backward();
    Results {
        output,
        input: input.grad(&gradients).expect("gradient of the input"),
        weight: weight.grad(&gradients).expect("gradient of the weight"),
        bias: bias.map(|bias| bias.grad(&gradients).expect("gradient of the bias")),
    }
}

fn assert_same(case: &str, ours: &Results, expected: &Results) {
    assert_close(&format!("output of {case}"), &ours.output, &expected.output, TOLERANCE);
    assert_close(&format!("input gradient of {case}"), &ours.input, &expected.input, TOLERANCE);
    assert_close(&format!("weight gradient of {case}"), &ours.weight, &expected.weight, TOLERANCE);
    match (&ours.bias, &expected.bias) {
        (Some(ours), Some(expected)) => {
            assert_close(&format!("bias gradient of {case}"), ours, expected, TOLERANCE);
        }
        (ours, expected) => assert_eq!(ours.is_some(), expected.is_some()),
    }
}

fn compare(case: Case, with_bias: bool) {
    let device = device().autodiff();
    let Case { batch, channels: [channels, channels_out], size: [height, width], kernel, .. } = case;
    let input = noise([batch, channels, height, width], 1, &device);
    let weight = noise([channels_out, channels, kernel, kernel], 2, &device);
    let bias = with_bias.then(|| noise([channels_out], 3, &device));
    let options = Conv2dOptions { stride: case.stride, padding: case.padding, ..Default::default() };
    let tensors = || [input.clone(), weight.clone()];
    let ours = differentiate(conv2d, tensors(), bias.clone(), options);
    let expected = differentiate(burn_conv2d, tensors(), bias.clone(), options);
    assert_same(&format!("{case:?}"), &ours, &expected);
}

#[test]
fn matches_burn_over_kernels_strides_paddings_and_batches() {
    for kernel in [1, 3, 7] {
        for stride in [1, 2] {
            for padding in [0, 1, 3] {
                for batch in [1, 2, 5] {
                    let case = Case {
                        batch,
                        channels: [5, 11],
                        size: [13, 10],
                        kernel,
                        stride: [stride; 2],
                        padding: [padding; 2],
                    };
                    compare(case, batch == 2);
                }
            }
        }
    }
}

#[test]
fn matches_burn_with_unequal_strides_and_paddings() {
    for (stride, padding) in [([1, 2], [0, 1]), ([2, 1], [1, 0]), ([3, 1], [2, 1]), ([1, 1], [2, 0])] {
        compare(Case { batch: 2, channels: [4, 3], size: [9, 11], kernel: 3, stride, padding }, true);
    }
}

#[test]
fn matches_burn_where_the_image_is_cut_into_many_tiles() {
    let [one, three, seven] = [(1, 0), (3, 1), (7, 3)].map(|(kernel, padding)| Case {
        batch: 2,
        channels: [70, 33],
        size: [61, 57],
        kernel,
        stride: [1, 1],
        padding: [padding; 2],
    });
    compare(one, true);
    compare(three, false);
    compare(Case { stride: [2, 2], ..three }, false);
    compare(Case { channels: [3, 16], stride: [2, 2], ..seven }, false);
}

#[test]
fn matches_burn_where_a_tile_spans_several_small_images() {
    for (kernel, padding) in [(1, 0), (3, 1)] {
        let case = Case {
            batch: 9,
            channels: [300, 40],
            size: [3, 4],
            kernel,
            stride: [1, 1],
            padding: [padding; 2],
        };
        compare(case, true);
        compare(Case { stride: [2, 2], ..case }, false);
    }
}

#[test]
fn a_batch_of_no_images_has_an_output_of_no_images_and_a_gradient_of_zeros() {
    let device = device().autodiff();
    // The last is a shape that otherwise slides over the image.
    for (kernel, stride, channels) in [(1, 1, 5), (3, 2, 5), (7, 2, 3), (3, 1, 64)] {
        let input = Tensor::<4>::zeros([0, channels, 16, 12], &device).require_grad();
        let weight = noise([64, channels, kernel, kernel], 2, &device).require_grad();
        let padding = [kernel / 2; 2];
        let options = Conv2dOptions { stride: [stride; 2], padding, ..Default::default() };
        let output = conv2d(input.clone(), weight.clone(), None, options);
        assert_eq!(output.dims(), [0, 64, 16 / stride, 12 / stride]);
        let gradients = output.sum().backward();
        assert_eq!(input.grad(&gradients).expect("gradient of the input").dims(), [0, channels, 16, 12]);
        let weight = weight.grad(&gradients).expect("gradient of the weight");
        assert!(values(&weight).iter().all(|&value| value == 0.0), "kernel {kernel}, stride {stride}");
    }
}

#[test]
fn reads_tensors_that_are_not_contiguous() {
    let device = device().autodiff();
    let input = noise([8, 9, 6, 2], 1, &device).permute([3, 2, 1, 0]);
    let weight = noise([3, 5, 6, 3], 2, &device).permute([1, 2, 0, 3]);
    let bias = Some(noise([10], 3, &device).narrow(0, 5, 5));
    for (padding, stride) in [(1, 1), (0, 2)] {
        let options = Conv2dOptions { stride: [stride; 2], padding: [padding; 2], ..Default::default() };
        let tensors = || [input.clone(), weight.clone()];
        let ours = differentiate(conv2d, tensors(), bias.clone(), options);
        let expected = differentiate(burn_conv2d, tensors(), bias.clone(), options);
        assert_same("permuted tensors", &ours, &expected);
    }
}

#[test]
fn takes_a_gradient_that_is_not_contiguous() {
    let device = device().autodiff();
    let options = Conv2dOptions { stride: [1, 1], padding: [1, 1], ..Default::default() };
    let results = [conv2d as Operator, burn_conv2d].map(|operator| {
        let weight = noise([4, 3, 3, 3], 2, &device).require_grad();
        let output = operator(noise([2, 3, 5, 6], 1, &device), weight.clone(), None, options);
        let weighed = output.permute([1, 0, 3, 2]) * noise([4, 2, 6, 5], 3, &device);
        weight.grad(&weighed.sum().backward()).expect("gradient of the weight")
    });
    assert_close("weight gradient", &results[0], &results[1], TOLERANCE);
}

#[test]
fn gives_no_gradient_to_tensors_that_are_not_tracked() {
    let device = device().autodiff();
    let options = Conv2dOptions { stride: [1, 1], padding: [1, 1], ..Default::default() };
    let (input, weight) = (noise([2, 3, 5, 6], 1, &device), noise([4, 3, 3, 3], 2, &device));
    let tracked = weight.clone().require_grad();
    let gradients = conv2d(input.clone(), tracked.clone(), None, options).sum().backward();
    assert!(tracked.grad(&gradients).is_some() && input.grad(&gradients).is_none());
    let tracked = input.require_grad();
    let gradients = conv2d(tracked.clone(), weight.clone(), None, options).sum().backward();
    assert!(tracked.grad(&gradients).is_some() && weight.grad(&gradients).is_none());
}

#[test]
fn takes_an_input_without_autodiff_with_a_weight_that_has_it() {
    let plain = device();
    let options = Conv2dOptions { stride: [1, 1], padding: [0, 0], ..Default::default() };
    let weight = noise([4, 3, 1, 1], 2, &plain.clone().autodiff()).require_grad();
    let output = conv2d(noise([2, 3, 5, 6], 1, &plain), weight.clone(), None, options);
    assert!(weight.grad(&output.sum().backward()).is_some());
}

#[test]
fn results_are_the_same_to_the_bit_for_any_number_of_threads() {
    let device = device().autodiff();
    for (kernel, stride, size) in [(1, 1, 30), (3, 1, 30), (3, 2, 15), (7, 2, 45), (1, 2, 7)] {
        let run = || {
            let input = noise([5, 19, size, size], 1, &device);
            let weight = noise([37, 19, kernel, kernel], 2, &device);
            let options =
                Conv2dOptions { stride: [stride; 2], padding: [kernel / 2; 2], ..Default::default() };
            let results = differentiate(conv2d, [input, weight], Some(noise([37], 3, &device)), options);
            let bias = results.bias.as_ref().map(values).unwrap_or_default();
            [values(&results.output), values(&results.input), values(&results.weight), bias]
        };
        let single = with_threads(1, run);
        assert!(single == with_threads(2, run), "kernel {kernel}: two threads differ from one");
        assert!(single == with_threads(3, run), "kernel {kernel}: three threads differ from one");
    }
}

#[test]
fn matches_pytorch_forward_and_backward() {
    let file = SafeTensors::deserialize(include_bytes!("fixtures/conv2d/conv2d.safetensors")).unwrap();
    let device = device().autodiff();
    for (name, stride, padding) in
        [("pointwise", 1, 0), ("three", 1, 1), ("three_strided", 2, 1), ("stem", 2, 3)]
    {
        let tensor = |part: &str| read::<4>(&file, &format!("{name}.{part}"), &device);
        let (input, weight) = (tensor("input").require_grad(), tensor("weight").require_grad());
        let bias = read::<1>(&file, &format!("{name}.bias"), &device).require_grad();
        let options = Conv2dOptions { stride: [stride; 2], padding: [padding; 2], ..Default::default() };
        let output = conv2d(input.clone(), weight.clone(), Some(bias.clone()), options);
        let gradients = (output.clone() * tensor("output_gradient")).sum().backward();
        let ours = Results {
            output,
            input: input.grad(&gradients).unwrap(),
            weight: weight.grad(&gradients).unwrap(),
            bias: bias.grad(&gradients),
        };
        let expected = Results {
            output: tensor("output"),
            input: tensor("input_gradient"),
            weight: tensor("weight_gradient"),
            bias: Some(read(&file, &format!("{name}.bias_gradient"), &device)),
        };
        assert_same(name, &ours, &expected);
    }
}

#[test]
#[should_panic(expected = "the input has 3 channels, the weight [4, 5, 1, 1]")]
fn channels_that_disagree_panic() {
    let device = device();
    let options = Conv2dOptions { stride: [1, 1], padding: [0, 0], ..Default::default() };
    conv2d(noise([1, 3, 2, 2], 1, &device), noise([4, 5, 1, 1], 2, &device), None, options);
}

#[test]
fn graph_capture_records_the_standard_operator() {
    let recorded = captured_operators(|device| {
        let options = Conv2dOptions { stride: [1, 1], padding: [1, 1], ..Default::default() };
        conv2d(noise([1, 3, 4, 4], 1, device), noise([2, 3, 3, 3], 2, device), None, options)
    });
    assert!(recorded.iter().any(|operator| operator.contains("Conv2d")), "{recorded:?}");
    assert!(!recorded.iter().any(|operator| operator.contains("Custom")), "{recorded:?}");
}
