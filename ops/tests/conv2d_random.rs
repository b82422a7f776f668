//! The convolution of random shapes: against sums in double precision, and with any number of threads.

mod support;

use burn::tensor::{DType, Device, FloatDType, Tensor};
use proptest::prelude::*;
use scrl_ops::{Conv2dOptions, conv2d};
use support::{noise, values, with_threads};

/// Error of a sum of products relative to the sum of their absolute values. Rounding once costs 2⁻²⁴ = 6e-8;
/// a sum of a thousand terms in 32 bits was seen to lose 2e-7, of some ten thousand 5e-7.
const TOLERANCE: f64 = 1e-6;
/// Error that rounding to bfloat16, which has 8 significant bits, adds relative to the result: half of its last bit.
const ROUNDING: f64 = 1.0 / 256.0;

#[derive(Clone, Copy, Debug)]
struct Case {
    input: [usize; 4],
    weight: [usize; 4],
    options: Conv2dOptions,
}

impl Case {
    fn output(&self) -> [usize; 4] {
        let Conv2dOptions { stride, padding, dilation } = self.options;
        let size = |axis: usize| {
            let reach = dilation[axis] * (self.weight[2 + axis] - 1);
            (self.input[2 + axis] + 2 * padding[axis] - reach - 1) / stride[axis] + 1
        };
        [self.input[0], self.weight[0], size(0), size(1)]
    }

    /// Calls `visit` with the places in output, input and weight of every product that is summed.
    fn products(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let Conv2dOptions { stride, padding, dilation } = self.options;
        let ([_, channels, height, width], [outs, _, kernel_y, kernel_x]) = (self.input, self.weight);
        let [batch, _, out_height, out_width] = self.output();
        let mut output = 0;
        for (image, out) in (0..batch).flat_map(|image| (0..outs).map(move |out| (image, out))) {
            for (y, x) in (0..out_height).flat_map(|y| (0..out_width).map(move |x| (y, x))) {
                for weight in 0..channels * kernel_y * kernel_x {
                    let (channel, tap) = (weight / (kernel_y * kernel_x), weight % (kernel_y * kernel_x));
                    let row = (y * stride[0] + tap / kernel_x * dilation[0]).wrapping_sub(padding[0]);
                    let column = (x * stride[1] + tap % kernel_x * dilation[1]).wrapping_sub(padding[1]);
                    if row < height && column < width {
                        let input = ((image * channels + channel) * height + row) * width + column;
                        visit(output, input, out * channels * kernel_y * kernel_x + weight);
                    }
                }
                output += 1;
            }
        }
    }

    /// Input, weight and the gradient of the output: noise, the activations in numbers of this type.
    fn operands(&self, dtype: FloatDType, device: &Device) -> [Tensor<4>; 3] {
        [
            noise(self.input, 1, device).cast(dtype),
            noise(self.weight, 2, device),
            noise(self.output(), 3, device).cast(dtype),
        ]
    }

    /// Output, input gradient and weight gradient of the sum of the output times noise, with activations of this type.
    fn run(&self, dtype: FloatDType) -> [Vec<f32>; 3] {
        let [input, weight, output_gradient] = self.operands(dtype, &Device::flex().autodiff());
        let (input, weight) = (input.require_grad(), weight.require_grad());
        let output = conv2d(input.clone(), weight.clone(), None, self.options);
        assert_eq!((output.dims(), output.dtype()), (self.output(), DType::from(dtype)));
        let gradients = (output.clone() * output_gradient).sum().backward();
        let [of_input, of_weight] =
            [&input, &weight].map(|tensor| tensor.grad(&gradients).expect("a gradient"));
        assert_eq!([of_input.dtype(), of_weight.dtype()], [DType::from(dtype), DType::F32]);
        [output, of_input, of_weight].map(|tensor| values(&tensor.cast(FloatDType::F32)))
    }

    fn assert_accurate(&self, dtype: FloatDType) {
        let [input, weight, output_gradient] = self.operands(dtype, &Device::flex());
        // Weights multiply bfloat16 activations rounded to the same.
        let operands = [input, weight.cast(dtype), output_gradient];
        let [input, weight, output_gradient] = operands.map(|tensor| values(&tensor.cast(FloatDType::F32)));
        let actual = self.run(dtype);
        let mut sums = actual.each_ref().map(|values| vec![[0.0f64; 2]; values.len()]);
        self.products(|o, i, w| {
            let [x, w_value, g] = [input[i], weight[w], output_gradient[o]].map(f64::from);
            for (what, place, product) in [(0, o, x * w_value), (1, i, g * w_value), (2, w, g * x)] {
                sums[what][place][0] += product;
                sums[what][place][1] += product.abs();
            }
        });
        for (what, (actual, sums)) in
            ["output", "input gradient", "weight gradient"].iter().zip(actual.iter().zip(&sums))
        {
            for (actual, [expected, size]) in actual.iter().zip(sums) {
                let error = (f64::from(*actual) - expected).abs();
                let rounds = dtype == FloatDType::BF16 && *what != "weight gradient";
                let bound = TOLERANCE * size + if rounds { ROUNDING * expected.abs() } else { 0.0 };
                assert!(error <= bound, "{what} of {self:?}, {dtype:?}: {actual} instead of {expected}");
            }
        }
    }
}

/// 32-bit numbers or bfloat16.
fn dtypes() -> impl Strategy<Value = FloatDType> {
    prop::sample::select(vec![FloatDType::F32, FloatDType::BF16])
}

/// Any stride, padding and dilation up to 3 that fits.
fn cases(channels: std::ops::Range<usize>, side: std::ops::Range<usize>) -> impl Strategy<Value = Case> {
    let pair = |range: std::ops::Range<usize>| [range.clone(), range];
    (1usize..4, [channels.clone(), channels], pair(side), pair(1..6), pair(1..4), pair(0..4), pair(1..4))
        .prop_map(|(batch, [channels, outs], [height, width], kernel, stride, padding, dilation)| Case {
            input: [batch, channels, height, width],
            weight: [outs, channels, kernel[0], kernel[1]],
            options: Conv2dOptions { stride, padding, dilation },
        })
        .prop_filter("the kernel fits", |case| {
            (0..2).all(|axis| {
                let reach = case.options.dilation[axis] * (case.weight[2 + axis] - 1);
                reach < case.input[2 + axis] + 2 * case.options.padding[axis]
            })
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn few_channels_are_accurate(case in cases(1..8, 1..20), dtype in dtypes()) {
        case.assert_accurate(dtype);
    }

    #[test]
    fn many_channels_are_accurate(case in cases(14..70, 3..18), dtype in dtypes()) {
        case.assert_accurate(dtype);
    }

    #[test]
    fn results_are_the_same_to_the_bit_for_any_number_of_threads(
        case in cases(14..70, 3..24),
        dtype in dtypes(),
    ) {
        prop_assert_eq!(with_threads(1, || case.run(dtype)), with_threads(3, || case.run(dtype)));
    }

    #[test]
    fn same_convolutions_are_accurate(
        batch in 1usize..3,
        channels in [14usize..70, 14..70],
        size in [1usize..30, 12..40],
        kernel in prop::sample::select(vec![3usize, 5]),
        dtype in dtypes(),
    ) {
        let case = Case {
            input: [batch, channels[0], size[0], size[1]],
            weight: [channels[1], channels[0], kernel, kernel],
            options: Conv2dOptions { padding: [kernel / 2; 2], ..Default::default() },
        };
        case.assert_accurate(dtype);
        prop_assert_eq!(with_threads(1, || case.run(dtype)), with_threads(2, || case.run(dtype)));
    }
}

#[test]
fn numbers_of_very_different_size_are_accurate() {
    // Large and small values side by side: what a format of fewer bits than a 32-bit float's would lose.
    let device = Device::flex();
    let scales = Tensor::<1>::from_floats([1e-6, 1.0, 1e6, 1e-3].repeat(16).as_slice(), &device);
    let input: Tensor<4> = noise([1, 64, 4, 16], 1, &device) * scales.clone().reshape([1, 64, 1, 1]);
    let weight: Tensor<4> = noise([32, 64, 1, 1], 2, &device) / scales.reshape([1, 64, 1, 1]);
    let output = values(&conv2d(input.clone(), weight.clone(), None, Conv2dOptions::default()));
    let (input, weight) = (values(&input), values(&weight));
    for (index, actual) in output.iter().enumerate() {
        let (out, pixel) = (index / 64, index % 64);
        let products = (0..64).map(|c| f64::from(input[c * 64 + pixel]) * f64::from(weight[out * 64 + c]));
        let (expected, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
        assert!((f64::from(*actual) - expected).abs() <= TOLERANCE * size, "{actual} instead of {expected}");
    }
}
