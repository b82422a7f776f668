//! Optimizer steps and moving averages against their formulas in double precision.

#![cfg(feature = "flex")]

mod support;

use burn::tensor::{DType, Tensor};
use proptest::prelude::*;
use scrl_ops::{GradientStepOptions, TrustRatio, gradient_step, moving_average};
use support::{assert_close, device, noise, values, with_threads};

/// A few products and sums in f32.
const TOLERANCE: f32 = 1e-6;

/// Parameter, buffer and gradient norm after a step, by the formulas of [`GradientStepOptions`].
fn expected(
    [weight, gradient, buffer]: [&[f32]; 3],
    options: GradientStepOptions,
    momentum: bool,
) -> (Vec<f32>, Vec<f32>, f64) {
    let norm = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let (w, g) = (norm(weight), norm(gradient));
    let ratio = match options.trust {
        Some(TrustRatio { coefficient, eps }) if w > 0.0 && g > 0.0 => {
            coefficient * w / (g + options.weight_decay * w + eps)
        }
        _ => 1.0,
    };
    let step = |((weight, gradient), buffer): ((&f32, &f32), &f32)| {
        let (weight, gradient, buffer) = (f64::from(*weight), f64::from(*gradient), f64::from(*buffer));
        let direction = (gradient + options.weight_decay * weight) * ratio;
        let buffer = options.momentum * buffer + direction;
        let moved = match (momentum, options.nesterov) {
            (false, _) => direction,
            (true, false) => buffer,
            (true, true) => direction + options.momentum * buffer,
        };
        ((weight - options.lr * moved) as f32, buffer as f32)
    };
    let (weight, buffer) = weight.iter().zip(gradient).zip(buffer).map(step).unzip();
    (weight, buffer, g)
}

fn near(found: &[f32], expected: &[f32]) -> bool {
    let scale = expected.iter().fold(1e-3f32, |largest, value| largest.max(value.abs()));
    found.len() == expected.len()
        && found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= TOLERANCE * scale)
}

fn options() -> impl Strategy<Value = GradientStepOptions> {
    let trust = proptest::option::of((1e-3..0.1, 0.0..1e-6));
    (1e-3..0.5, 0.0..0.99, any::<bool>(), prop_oneof![Just(0.0), 1e-6..0.1], trust).prop_map(
        |(lr, momentum, nesterov, weight_decay, trust)| GradientStepOptions {
            lr,
            momentum,
            nesterov,
            weight_decay,
            trust: trust.map(|(coefficient, eps)| TrustRatio { coefficient, eps }),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_step_follows_its_formula(
        rows in 1usize..70,
        columns in 1usize..900,
        seed in 0u64..1000,
        has_buffer: bool,
        options in options(),
    ) {
        let device = device();
        let [weight, gradient, buffer] = [0, 1, 2].map(|i| noise([rows, columns], 3 * seed + i, &device));
        let [w, g, b] = [&weight, &gradient, &buffer].map(values);
        let step = gradient_step(weight, gradient, has_buffer.then_some(buffer), options);
        let (weight, buffer, norm) = expected([&w, &g, &b], options, has_buffer);
        prop_assert!(near(&values(&step.weight), &weight));
        prop_assert!(step.buffer.is_none_or(|found| near(&values(&found), &buffer)));
        let squares = f64::from(values(&step.gradient_squares)[0]);
        prop_assert!((squares.sqrt() / norm - 1.0).abs() < 1e-6);
    }
}

const LARS: GradientStepOptions = GradientStepOptions {
    lr: 0.1,
    momentum: 0.9,
    nesterov: true,
    weight_decay: 1e-2,
    trust: Some(TrustRatio { coefficient: 0.1, eps: 1e-8 }),
};

#[test]
fn double_precision_takes_the_composed_path_and_gives_the_same() {
    let device = device();
    for trust in [None, LARS.trust] {
        let options = GradientStepOptions { trust, ..LARS };
        for zero in [1.0, 0.0] {
            let tensors = [1, 2, 3].map(|seed| noise([9, 31], seed, &device));
            let [w, g, b] = tensors.clone().map(|t| t.cast(DType::F64));
            let [weight, gradient, buffer] = tensors;
            let single = gradient_step(weight * zero, gradient.clone(), Some(buffer.clone()), options);
            let double = gradient_step(w * zero, g.clone(), Some(b), options);
            assert_eq!(double.weight.dtype(), DType::F64);
            assert_close("weight", &double.weight.clone().cast(DType::F32), &single.weight, TOLERANCE);
            let buffers = [double.buffer, single.buffer].map(|buffer| buffer.unwrap().cast(DType::F32));
            assert_close("buffer", &buffers[0], &buffers[1], TOLERANCE);
            let average = moving_average(g, double.weight.clone(), 0.9).cast(DType::F32);
            let expected = moving_average(gradient, double.weight.cast(DType::F32), 0.9);
            assert_close("average", &average, &expected, TOLERANCE);
        }
    }
}

#[test]
fn a_weight_or_gradient_of_zeros_has_a_trust_ratio_of_one() {
    let device = device();
    let options = GradientStepOptions { momentum: 0.0, nesterov: false, ..LARS };
    let gradient: Tensor<2> = noise([4, 5], 1, &device);
    let step = gradient_step(Tensor::zeros([4, 5], &device), gradient.clone(), None, options);
    assert_close("from zero", &step.weight, &(gradient * -0.1), TOLERANCE);
    let weight: Tensor<2> = noise([4, 5], 2, &device);
    let step = gradient_step(weight.clone(), Tensor::zeros([4, 5], &device), None, options);
    assert_close("without gradient", &step.weight, &(weight * (1.0 - 0.1 * 1e-2)), TOLERANCE);
}

#[test]
fn views_of_other_tensors_are_updated_without_changing_those() {
    let device = device();
    let whole: Tensor<2> = noise([6, 8], 1, &device);
    let before = values(&whole);
    let view = whole.clone().slice([1..4, 2..7]).transpose();
    let gradient: Tensor<2> = noise([3, 5], 2, &device).transpose();
    let copy = Tensor::<2>::from_data(view.clone().into_data(), &device);
    let expected = gradient_step(copy.clone(), gradient.clone(), Some(copy.clone()), LARS);
    let found = gradient_step(view.clone(), gradient.clone(), Some(view.clone()), LARS);
    assert_eq!(values(&found.weight), values(&expected.weight));
    let averages = [view, copy].map(|tensor| values(&moving_average(tensor, gradient.clone(), 0.9)));
    assert_eq!(averages[0], averages[1]);
    assert_eq!(values(&whole), before);
}

#[test]
fn results_are_the_same_to_the_bit_for_any_number_of_threads() {
    let device = device();
    let run = || {
        let [weight, gradient, buffer] = [1, 2, 3].map(|seed| noise([7, 70_001], seed, &device));
        let average = values(&moving_average(weight.clone(), gradient.clone(), 0.99));
        let step = gradient_step(weight, gradient, Some(buffer), LARS);
        [average, values(&step.weight), values(&step.buffer.unwrap()), values(&step.gradient_squares)]
    };
    let single = with_threads(1, run);
    assert!(single == with_threads(2, run) && single == with_threads(3, run));
}
