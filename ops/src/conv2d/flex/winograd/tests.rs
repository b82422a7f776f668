//! The method against sums of products in double precision, also where the processor has something faster.

use super::*;
use crate::conv2d::Conv2dOptions;
use crate::cpu::{Affine, written_by};
use crate::matrix::Epilogue;
use proptest::prelude::*;

/// Error of a result relative to the largest sum of the absolute values of a result's products: the transforms mix all
/// values of a patch, so that a result at the border, which has fewer products, errs as much as one inside. Sums of products
/// lose up to 2e-7 themselves at these sizes, and the method 2.4 times as much: the largest error of 6,400 outputs of 256
/// channels of normal noise, cut off at zero as ReLU does, was seen to be 3.2e-7.
const TOLERANCE: f64 = 1e-6;

/// A convolution with all it reads.
#[derive(Clone)]
struct Case {
    geometry: Geometry,
    input: Vec<f32>,
    weight: Vec<f32>,
    output_gradient: Vec<f32>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.geometry.fmt(formatter)
    }
}

/// Uniform noise in `[−1, 1)`: the upper bits of multiples of the golden ratio.
fn noise(length: usize) -> Vec<f32> {
    let value =
        |index: u64| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    (1..).map(value).take(length).collect()
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1usize..4, [1usize..4, 1..6], [3usize..20, 3..20], [0usize..3, 0..3]);
    sizes.prop_map(|(batch, channels, [height, width], padding)| {
        let [channels_in, channels_out] = channels.map(|groups| groups * WIDTH);
        let options = Conv2dOptions { padding, ..Default::default() };
        let (input, weight) = ([batch, channels_in, height, width], [channels_out, channels_in, 3, 3]);
        let geometry = Geometry::new(input, weight, options);
        let [input, weight, output_gradient] =
            [input, weight, geometry.output_shape()].map(|shape| noise(shape.iter().product()));
        Case { geometry, input, weight, output_gradient }
    })
}

impl Case {
    /// For every output and every weight: the sum of its products and that of their absolute values.
    fn sums(&self) -> [Vec<[f64; 2]>; 2] {
        let Geometry { batch, channels_in, channels_out, input, output, padding, .. } = self.geometry;
        let mut outputs = vec![[0.0; 2]; self.output_gradient.len()];
        let mut weights = vec![[0.0; 2]; self.weight.len()];
        for index in 0..batch * channels_out * channels_in {
            let [image, out, channel] =
                [index / channels_in / channels_out, index / channels_in % channels_out, index % channels_in];
            for place in 0..output[0] * output[1] * 9 {
                let [y, x, tap] = [place / 9 / output[1], place / 9 % output[1], place % 9];
                let row = (y + tap / 3).wrapping_sub(padding[0]);
                let column = (x + tap % 3).wrapping_sub(padding[1]);
                if row < input[0] && column < input[1] {
                    let source = ((image * channels_in + channel) * input[0] + row) * input[1] + column;
                    let target = ((image * channels_out + out) * output[0] + y) * output[1] + x;
                    let weight = (out * channels_in + channel) * 9 + tap;
                    let value = f64::from(self.input[source]);
                    let products = [
                        (&mut outputs[target], value * f64::from(self.weight[weight])),
                        (&mut weights[weight], value * f64::from(self.output_gradient[target])),
                    ];
                    for ([sum, size], product) in products {
                        *sum += product;
                        *size += product.abs();
                    }
                }
            }
        }
        [outputs, weights]
    }

    fn output(&self, epilogue: &Epilogue<'_, f32>) -> Vec<f32> {
        let sizes = [self.geometry.channels_out, self.geometry.channels_in];
        let weight = TransformedWeight::new(&self.weight, sizes);
        // SAFETY: the whole output is written.
        unsafe {
            written_by(self.output_gradient.len(), |output| {
                forward(&self.geometry, &self.input, &weight, epilogue, output);
            })
        }
    }

    fn weight_gradient(&self) -> Vec<f32> {
        // SAFETY: the whole gradient is written.
        unsafe {
            written_by(self.weight.len(), |gradient| {
                weight_gradient(&self.geometry, &self.input, &self.output_gradient, gradient);
            })
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn outputs_and_gradients_are_accurate(case in cases()) {
        prop_assert!(is_possible(&case.geometry));
        let actual = [case.output(&Epilogue::NONE), case.weight_gradient()];
        for (what, (actual, expected)) in ["output", "gradient"].iter().zip(actual.iter().zip(case.sums())) {
            let largest = expected.iter().map(|[_, size]| *size).fold(0.0, f64::max);
            for (actual, [expected, _]) in actual.iter().zip(expected) {
                prop_assert!(
                    (f64::from(*actual) - expected).abs() <= TOLERANCE * largest,
                    "{what}: {actual} instead of {expected} of {largest}",
                );
            }
        }
    }

    #[test]
    fn what_follows_is_done_to_the_outputs_themselves(case in cases()) {
        let channels = case.geometry.channels_out;
        let affines: Vec<_> =
            (0..channels).map(|channel| Affine { centre: 0.5, scale: channel as f32, shift: -1.0 }).collect();
        let residual = Some(case.output_gradient.as_slice());
        let actual = case.output(&Epilogue { affines: &affines, residual, floor: 0.0 });
        let plane = case.geometry.output_plane();
        for (index, output) in case.output(&Epilogue::NONE).into_iter().enumerate() {
            let value = affines[index / plane % channels].of(output) + case.output_gradient[index];
            prop_assert_eq!(actual[index], value.max(0.0));
        }
    }
}
