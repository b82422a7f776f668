//! Maximum pooling against Burn's own operator and hand-computed values.

mod support;

use burn::tensor::{Tensor, module, ops::MaxPoolOptions};
use proptest::prelude::*;
use scrl_ops::{MaxPool2dOptions, max_pool2d};
use support::{assert_close, captured_operators, device, noise, values, with_threads};

const STEM: MaxPool2dOptions = MaxPool2dOptions { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };

fn burn_max_pool2d(input: Tensor<4>, options: MaxPool2dOptions) -> Tensor<4> {
    let MaxPool2dOptions { kernel, stride, padding } = options;
    module::max_pool2d(input, MaxPoolOptions::new(kernel).with_stride(stride).with_padding(padding))
}

fn differentiate(
    operator: fn(Tensor<4>, MaxPool2dOptions) -> Tensor<4>,
    input: &Tensor<4>,
    options: MaxPool2dOptions,
) -> [Tensor<4>; 2] {
    let input = input.clone().require_grad();
    let output = operator(input.clone(), options);
    let gradients = (output.clone() * noise(output.dims(), 2, &input.device())).sum().backward();
    [output, input.grad(&gradients).expect("gradient of the input")]
}

#[test]
fn matches_burn_forward_and_backward() {
    let device = device().autodiff();
    for size in [[8, 9], [13, 10], [3, 3], [1, 2]] {
        for (kernel, stride, padding) in [(3, 2, 1), (3, 1, 1), (2, 2, 0), (1, 2, 0), (5, 3, 2)] {
            if size.iter().any(|size| size + 2 * padding < kernel) {
                continue;
            }
            let options =
                MaxPool2dOptions { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2] };
            let input = noise([2, 3, size[0], size[1]], 1, &device);
            let ours = differentiate(max_pool2d, &input, options);
            let expected = differentiate(burn_max_pool2d, &input, options);
            // Both only copy values and add a few gradients.
            assert_close(&format!("output of {options:?}"), &ours[0], &expected[0], 0.0);
            assert_close(&format!("gradient of {options:?}"), &ours[1], &expected[1], 1e-6);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn windows_of_any_size_match_burn(
        size in [1usize..40, 1usize..40],
        kernel in [1usize..6, 1usize..6],
        stride in [1usize..5, 1usize..5],
        padding in [0usize..3, 0usize..3],
        seed in 0u64..1000,
    ) {
        let fits = |axis: usize| 2 * padding[axis] <= kernel[axis] && kernel[axis] <= size[axis] + 2 * padding[axis];
        prop_assume!(fits(0) && fits(1));
        let device = device().autodiff();
        let options = MaxPool2dOptions { kernel, stride, padding };
        // Few different values, so that windows have equal maxima.
        let input = (noise([2, 2, size[0], size[1]], seed, &device) * 4.0).round();
        let ours = differentiate(max_pool2d, &input, options);
        let expected = differentiate(burn_max_pool2d, &input, options);
        assert_close("output", &ours[0], &expected[0], 0.0);
        assert_close("gradient", &ours[1], &expected[1], 1e-6);
    }
}

#[test]
fn windows_may_differ_by_axis_and_inputs_be_permuted() {
    let device = device().autodiff();
    let options = MaxPool2dOptions { kernel: [3, 2], stride: [1, 2], padding: [1, 0] };
    let input = noise([5, 6, 2, 3], 1, &device).permute([3, 2, 0, 1]);
    let ours = differentiate(max_pool2d, &input, options);
    let expected = differentiate(burn_max_pool2d, &input, options);
    assert_close("output", &ours[0], &expected[0], 0.0);
    assert_close("gradient", &ours[1], &expected[1], 1e-6);
}

#[test]
fn the_first_of_equal_maxima_gets_the_gradient() {
    let device = device().autodiff();
    let input = Tensor::<4>::from_data([[[[1.0, 2.0], [2.0, 0.0]]]], &device).require_grad();
    let options = MaxPool2dOptions { kernel: [2, 2], stride: [2, 2], padding: [0, 0] };
    let gradients = max_pool2d(input.clone(), options).sum().backward();
    assert_eq!(values(&input.grad(&gradients).unwrap()), [0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn padding_is_never_the_maximum_and_nan_always_is() {
    let device = device();
    let negative = Tensor::<4>::from_data([[[[-3.0, -2.0], [-5.0, -4.0]]]], &device);
    assert_eq!(values(&max_pool2d(negative, STEM)), [-2.0]);
    let nan = Tensor::<4>::from_data([[[[f32::NAN, -2.0], [7.0, -4.0]]]], &device);
    assert!(values(&max_pool2d(nan, STEM))[0].is_nan());
}

#[test]
fn results_are_the_same_to_the_bit_for_any_number_of_threads() {
    let device = device().autodiff();
    let run = || {
        let input = noise([3, 7, 15, 17], 1, &device);
        differentiate(max_pool2d, &input, STEM).map(|tensor| values(&tensor))
    };
    let single = with_threads(1, run);
    assert!(single == with_threads(2, run) && single == with_threads(3, run));
}

#[test]
fn graph_capture_records_the_standard_operator() {
    let recorded = captured_operators(|device| max_pool2d(noise([1, 3, 4, 4], 1, device), STEM));
    assert!(recorded.iter().any(|operator| operator.contains("MaxPool2d")), "{recorded:?}");
    assert!(!recorded.iter().any(|operator| operator.contains("Custom")), "{recorded:?}");
}
