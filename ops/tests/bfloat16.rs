//! Operators on bfloat16 activations against the same operators on the same numbers in 32 bits, which other tests compare with
//! PyTorch: what is computed in 32 bits is the same, so results are those of 32 bits rounded.

mod support;

use burn::tensor::{DType, Device, FloatDType, Tensor, activation::relu};
use proptest::prelude::*;
use scrl_ops::{
    BatchNormOptions, Conv2dOptions, ImageBox, MaxPool2dOptions, Normalization, RoiAlignOptions,
    add_upsampled, batch_norm_inference, batch_norm_train, cast, conv2d, conv2d_batch_norm, conv2d_relu,
    conv2d_shared, linear, max_pool2d, roi_align,
};
use support::{noise, values, with_threads};

/// Half of the last of bfloat16's 8 significant bits.
const ROUNDING: f32 = 1.0 / 256.0;
/// Of sums of products, relative to the largest: f32 arithmetic in another order.
const SUMS: f32 = 1e-5;

/// The numbers of a tensor, rounded to bfloat16, in 32 bits.
fn rounded<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    values(&cast(cast(tensor.clone(), FloatDType::BF16), FloatDType::F32))
}

/// Noise of which every number is a bfloat16.
fn coarse<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    cast(cast(noise(shape, seed, device), FloatDType::BF16), FloatDType::F32)
}

/// Output and gradients of `inputs` of an operator, given the output's gradient, with activations of a type.
fn run<const D: usize, const E: usize, const N: usize>(
    inputs: [Tensor<D>; N],
    dtype: FloatDType,
    operator: &impl Fn([Tensor<D>; N]) -> Tensor<E>,
) -> (Tensor<E>, [Tensor<D>; N]) {
    let leaves = inputs.map(|input| Tensor::from_inner(cast(input, dtype)).require_grad());
    let output = operator(leaves.clone());
    let gradient = Tensor::from_inner(cast(coarse(output.dims(), 99, &Device::flex()), dtype));
    let gradients = (output.clone() * gradient).sum().backward();
    (output.inner(), leaves.map(|leaf| leaf.grad(&gradients).expect("a gradient")))
}

/// Asserts that output and gradients in bfloat16 are those in 32 bits, rounded.
#[track_caller]
fn assert_rounded<const D: usize, const E: usize, const N: usize>(
    inputs: [Tensor<D>; N],
    operator: impl Fn([Tensor<D>; N]) -> Tensor<E>,
) {
    let (exact, exact_gradients) = run(inputs.clone(), FloatDType::F32, &operator);
    let (found, gradients) = run(inputs, FloatDType::BF16, &operator);
    assert_eq!(found.dtype(), DType::BF16);
    assert_eq!(values(&cast(found, FloatDType::F32)), rounded(&exact), "output");
    for (index, (gradient, exact)) in gradients.into_iter().zip(&exact_gradients).enumerate() {
        assert_eq!(gradient.dtype(), DType::BF16);
        assert_eq!(values(&cast(gradient, FloatDType::F32)), rounded(exact), "gradient of input {index}");
    }
}

/// Asserts that numbers are those of 32 bits but for rounding and the order of sums.
#[track_caller]
fn assert_near<const D: usize>(found: Tensor<D>, exact: &Tensor<D>, rounding: f32) {
    let (found, exact) = (values(&cast(found, FloatDType::F32)), values(exact));
    let largest = exact.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    for (index, (found, exact)) in found.iter().zip(&exact).enumerate() {
        let bound = rounding * exact.abs() + SUMS * largest;
        assert!((found - exact).abs() <= bound, "element {index} is {found}, expected {exact}");
    }
}

fn parameters(channels: usize) -> [Tensor<1>; 4] {
    let device = Device::flex();
    let [weight, bias, mean] = [11, 12, 13].map(|seed| noise([channels], seed, &device));
    [weight, bias, mean, noise([channels], 14, &device) + 1.5]
}

/// On the device of autodiff.
fn tracked(parameters: [Tensor<1>; 4]) -> [Tensor<1>; 4] {
    parameters.map(Tensor::from_inner)
}

fn ending<const D: usize>(residual: Option<Tensor<D>>, relu: bool) -> BatchNormOptions<D> {
    let options = BatchNormOptions::new(1e-5);
    let options = match residual {
        Some(residual) => options.add_residual(residual),
        None => options,
    };
    if relu { options.relu() } else { options }
}

fn cases<const D: usize>() -> Vec<[usize; D]> {
    // Planes of one value and others, lengths that no register divides, many values.
    let shapes: &[&[usize]] =
        if D == 2 { &[&[5, 7], &[160, 70]] } else { &[&[3, 5, 3, 5], &[2, 40, 9, 7], &[16, 3, 40, 40]] };
    shapes.iter().map(|shape| (*shape).try_into().expect("of the rank")).collect()
}

fn check_batch_norm<const D: usize>() {
    let device = Device::flex();
    for shape in cases::<D>() {
        for relu in [false, true] {
            let inputs = || [coarse(shape, 1, &device), coarse(shape, 2, &device)];
            let statistics = || tracked(parameters(shape[1]));
            let [x, _] = inputs();
            assert_rounded([x], |[x]| {
                let [weight, bias, ..] = statistics();
                batch_norm_train(x, weight, bias, ending(None, relu)).output
            });
            assert_rounded(inputs(), |[x, r]| {
                let [weight, bias, ..] = statistics();
                batch_norm_train(x, weight, bias, ending(Some(r), relu)).output
            });
            assert_rounded(inputs(), |[x, r]| {
                let [weight, bias, mean, variance] = statistics();
                batch_norm_inference(x, weight, bias, mean, variance, ending(Some(r), relu))
            });
        }
    }
}

#[test]
fn batch_norm_of_maps_is_that_of_32_bits_rounded() {
    check_batch_norm::<4>();
}

#[test]
fn batch_norm_of_rows_is_that_of_32_bits_rounded() {
    check_batch_norm::<2>();
}

#[test]
fn statistics_and_gradients_of_parameters_are_those_of_32_bits() {
    let device = Device::flex();
    let shape = [4, 6, 9, 11];
    let of = |dtype: FloatDType| {
        let [weight, bias, ..] = tracked(parameters(shape[1])).map(Tensor::require_grad);
        let x = Tensor::from_inner(cast(coarse(shape, 1, &device), dtype));
        let result = batch_norm_train(x, weight.clone(), bias.clone(), ending(None, false));
        let gradient = Tensor::from_inner(cast(coarse(shape, 3, &device), dtype));
        let gradients = (result.output * gradient).sum().backward();
        let of = |tensor: &Tensor<1>| values(&tensor.grad(&gradients).expect("a gradient"));
        [of(&weight), of(&bias), values(&result.mean.inner()), values(&result.variance.inner())]
    };
    assert_eq!(of(FloatDType::BF16), of(FloatDType::F32));
}

#[test]
fn maximum_pooling_is_that_of_32_bits_rounded() {
    let device = Device::flex();
    for (kernel, stride, padding) in [(3, 2, 1), (2, 2, 0), (3, 1, 1), (1, 2, 0)] {
        let options = MaxPool2dOptions { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2] };
        for shape in cases::<4>() {
            assert_rounded([coarse(shape, 1, &device)], |[x]| max_pool2d(x, options));
        }
    }
}

#[test]
fn roi_align_is_that_of_32_bits_rounded() {
    let features = coarse([2, 40, 9, 12], 1, &Device::flex());
    let boxes: Vec<ImageBox> = (0..9)
        .map(|index| {
            let start = index as f32 * 0.7;
            ImageBox { image: index % 2, corners: [start, start * 0.5, start + 5.3, start + 4.1] }
        })
        .collect();
    for sampling_ratio in [0, 2] {
        let options =
            RoiAlignOptions { output_size: [3, 2], spatial_scale: 0.9, sampling_ratio, aligned: true };
        assert_rounded([features.clone()], |[x]| roi_align(x, &boxes, options));
    }
}

#[test]
fn the_sum_with_a_coarser_map_is_that_of_32_bits_rounded() {
    let device = Device::flex();
    let (fine, coarser) = (coarse([2, 3, 9, 13], 1, &device), coarse([2, 3, 5, 7], 2, &device));
    assert_rounded([fine.clone(), coarser.clone()], |[fine, coarse]| add_upsampled(fine, coarse));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_sum_with_a_coarser_map_is_that_of_burns_operators(
        size in [1usize..20, 1..20],
        shares in [0.05f64..1.0, 0.05..1.0],
    ) {
        use burn::tensor::{module::interpolate, ops::{InterpolateMode, InterpolateOptions}};
        let coarser = [0, 1].map(|axis| ((size[axis] as f64 * shares[axis]).ceil() as usize).max(1));
        let device = Device::flex();
        let inputs = [noise([2, 3, size[0], size[1]], 1, &device), noise([2, 3, coarser[0], coarser[1]], 2, &device)];
        let nearest = InterpolateOptions::new(InterpolateMode::Nearest).with_output_size(size);
        let (ours, our_gradients) = run(inputs.clone(), FloatDType::F32, &|[a, b]| add_upsampled(a, b));
        let (theirs, gradients) =
            run(inputs, FloatDType::F32, &|[a, b]: [Tensor<4>; 2]| a + interpolate(b, nearest.clone()));
        prop_assert_eq!(values(&ours), values(&theirs));
        for (ours, theirs) in our_gradients.into_iter().zip(&gradients) {
            assert_near(ours, theirs, 0.0);
        }
    }
}

#[test]
fn a_fully_connected_layer_multiplies_rounded_numbers() {
    let device = Device::flex();
    for [rows, features, outputs] in [[1, 1, 1], [5, 7, 3], [160, 300, 70], [33, 17, 129]] {
        let (x, weight) = (coarse([rows, features], 1, &device), noise([outputs, features], 2, &device));
        let rounded_weight = cast(cast(weight.clone(), FloatDType::BF16), FloatDType::F32);
        let layer = |dtype, weight: &Tensor<2>, bias: Option<&Tensor<1>>| {
            let weight = Tensor::from_inner(weight.clone()).require_grad();
            let bias = bias.map(|bias| Tensor::from_inner(bias.clone()));
            let operator = |[x]: [Tensor<2>; 1]| linear(x, weight.clone(), bias.clone());
            let (output, [gradient]) = run([x.clone()], dtype, &operator);
            (output, gradient)
        };
        let (exact, exact_gradient) = layer(FloatDType::F32, &rounded_weight, None);
        let (product, gradient) = layer(FloatDType::BF16, &weight, None);
        assert_eq!([product.dtype(), gradient.dtype()], [DType::BF16; 2]);
        assert_near(product.clone(), &exact, ROUNDING);
        assert_near(gradient, &exact_gradient, ROUNDING);
        // The bias is added in 32 bits to the rounded product.
        let bias = noise([outputs], 3, &device);
        let (output, _) = layer(FloatDType::BF16, &weight, Some(&bias));
        let sum = cast(product, FloatDType::F32) + bias.unsqueeze();
        assert_eq!(values(&cast(output, FloatDType::F32)), rounded(&sum));
    }
}

/// Kernels that slide, that are products, and others.
const CONVOLUTIONS: [(usize, usize, usize, [usize; 4]); 5] = [
    (3, 1, 1, [2, 20, 9, 14]),
    (1, 1, 0, [2, 33, 7, 7]),
    (1, 1, 0, [1, 16, 30, 20]),
    (3, 2, 1, [2, 18, 11, 9]),
    (7, 2, 3, [1, 3, 20, 20]),
];

fn options(stride: usize, padding: usize) -> Conv2dOptions {
    Conv2dOptions { stride: [stride; 2], padding: [padding; 2], ..Default::default() }
}

#[test]
fn a_normalised_convolution_is_convolution_and_batch_norm() {
    let device = Device::flex();
    for (kernel, stride, padding, shape) in CONVOLUTIONS {
        let (x, weight) = (coarse(shape, 1, &device), noise([24, shape[1], kernel, kernel], 2, &device));
        let options = options(stride, padding);
        let norm = || {
            let [weight, bias, mean, variance] = parameters(24);
            Normalization { weight, bias, mean, variance }
        };
        let composed = |x: Tensor<4>, weight: Tensor<4>, ending: BatchNormOptions<4>| {
            let Normalization { weight: scale, bias, mean, variance } = norm();
            batch_norm_inference(conv2d(x, weight, None, options), scale, bias, mean, variance, ending)
        };
        let residual = coarse(conv2d(x.clone(), weight.clone(), None, options).dims(), 4, &device);
        let rounded = cast(cast(weight.clone(), FloatDType::BF16), FloatDType::F32);
        for relu in [false, true] {
            for residual in [None, Some(residual.clone())] {
                let of = |x: &Tensor<4>, dtype| {
                    let residual = residual.clone().map(|residual| cast(residual, dtype));
                    let x = cast(x.clone(), dtype);
                    conv2d_batch_norm(x, weight.clone(), options, norm(), ending(residual, relu))
                };
                let exact = composed(x.clone(), weight.clone(), ending(residual.clone(), relu));
                assert_near(of(&x, FloatDType::F32), &exact, 0.0);
                let exact = composed(x.clone(), rounded.clone(), ending(residual.clone(), relu));
                let found = of(&x, FloatDType::BF16);
                assert_eq!(found.dtype(), DType::BF16);
                assert_near(found, &exact, ROUNDING);
            }
        }
    }
}

#[test]
fn a_convolution_through_relu_is_convolution_and_relu() {
    let device = Device::flex();
    for (kernel, stride, padding, shape) in CONVOLUTIONS {
        let x = coarse(shape, 1, &device);
        let weight = Tensor::from_inner(coarse([24, shape[1], kernel, kernel], 2, &device));
        let (bias, options) = (Tensor::from_inner(coarse([24], 3, &device)), options(stride, padding));
        let fused = |[x]: [Tensor<4>; 1]| conv2d_relu(x, weight.clone(), bias.clone(), options);
        let composed = |[x]: [Tensor<4>; 1]| relu(conv2d(x, weight.clone(), Some(bias.clone()), options));
        for dtype in [FloatDType::F32, FloatDType::BF16] {
            let (found, [gradient]) = run([x.clone()], dtype, &fused);
            let (exact, [exact_gradient]) = run([x.clone()], dtype, &composed);
            let in_f32 = |tensor| values(&cast::<4>(tensor, FloatDType::F32));
            assert_eq!(in_f32(found), in_f32(exact), "{dtype:?}");
            assert_eq!(in_f32(gradient), in_f32(exact_gradient), "{dtype:?}");
        }
    }
}

#[test]
fn gradients_of_both_uses_of_an_input_are_summed() {
    let device = Device::flex();
    for (kernel, stride, padding, shape) in CONVOLUTIONS {
        let x = coarse(shape, 1, &device);
        let weight = Tensor::from_inner(coarse([24, shape[1], kernel, kernel], 2, &device));
        let options = options(stride, padding);
        let flat =
            |a: Tensor<4>, b: Tensor<4>| Tensor::cat(vec![a.flatten::<1>(0, 3), b.flatten::<1>(0, 3)], 0);
        let shared = |[x]: [Tensor<4>; 1]| {
            let (output, input) = conv2d_shared(x, weight.clone(), options);
            flat(output, input)
        };
        let apart = |[x]: [Tensor<4>; 1]| flat(conv2d(x.clone(), weight.clone(), None, options), x);
        let (found, [gradient]) = run([x.clone()], FloatDType::F32, &shared);
        let (exact, [exact_gradient]) = run([x.clone()], FloatDType::F32, &apart);
        assert_eq!(values(&found), values(&exact));
        assert_near(gradient, &exact_gradient, 0.0);
        // In bfloat16 the sum is rounded once.
        let (_, [gradient]) = run([x.clone()], FloatDType::BF16, &shared);
        assert_eq!(gradient.dtype(), DType::BF16);
        assert_near(gradient, &exact_gradient, ROUNDING);
    }
}

#[test]
fn an_input_without_gradient_may_be_shared() {
    let device = Device::flex().autodiff();
    let (x, weight): (Tensor<4>, Tensor<4>) =
        (noise([1, 3, 5, 5], 1, &device), noise([4, 3, 1, 1], 2, &device));
    let weight = weight.require_grad();
    let (output, input) = conv2d_shared(x, weight.clone(), Conv2dOptions::default());
    let gradients = (output.sum() + input.sum()).backward();
    assert!(weight.grad(&gradients).is_some());
}

#[test]
fn conversion_rounds_to_the_nearest_and_its_gradient_keeps_the_type() {
    let device = Device::flex().autodiff();
    let x =
        Tensor::<1>::from_floats([1.0, 1.003_906_2, 1.011_718_8, -3.3e38, f32::NAN], &device).require_grad();
    let y = cast(x.clone(), FloatDType::BF16);
    let found = values(&cast(y.clone(), FloatDType::F32));
    assert_eq!(found[..4], [1.0, 1.0, 1.015_625, -3.296_485_4e38]);
    assert!(found[4].is_nan());
    let gradient = x.grad(&y.sum().backward()).expect("a gradient");
    assert_eq!((gradient.dtype(), values(&gradient)), (DType::F32, vec![1.0; 5]));
}

#[test]
fn results_are_the_same_to_the_bit_for_any_number_of_threads() {
    let device = Device::flex();
    let (x, weight) = (coarse([3, 40, 20, 20], 1, &device), noise([40, 40, 3, 3], 2, &device));
    let of = |threads| {
        with_threads(threads, || {
            let weight = Tensor::from_inner(weight.clone());
            let operator = |[x]: [Tensor<4>; 1]| {
                let (output, x) = conv2d_shared(x, weight.clone(), options(1, 1));
                let [scale, shift, ..] = tracked(parameters(40));
                batch_norm_train(output, scale, shift, ending(Some(x), true)).output
            };
            let (output, [gradient]) = run([x.clone()], FloatDType::BF16, &operator);
            [output, gradient].map(|tensor| values(&cast(tensor, FloatDType::F32)))
        })
    };
    assert_eq!(of(1), of(3));
}
