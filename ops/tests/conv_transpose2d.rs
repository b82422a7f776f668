//! The transposed convolution against Burn's own.

mod support;

use burn::tensor::activation::relu;
use burn::tensor::ops::ConvTransposeOptions;
use burn::tensor::{Tensor, module};
use scrl_ops::{conv_transpose2d, conv_transpose2d_relu};
use support::{assert_close, device, noise};

/// Relative to the largest value: f32 sums of some hundred terms in another order.
const TOLERANCE: f32 = 1e-4;

type Operator = fn(Tensor<4>, Tensor<4>, Tensor<1>) -> Tensor<4>;

fn burn(input: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    let [_, _, stride, _] = weight.dims();
    let options = ConvTransposeOptions::new([stride; 2], [0; 2], [0; 2], [1; 2], 1);
    module::conv_transpose2d(input, weight, Some(bias), options)
}

/// Output and gradients of input, weight and bias; the output is weighed with noise.
fn differentiate(
    operator: Operator,
    [batch, channels_in, channels_out, height, width, stride]: [usize; 6],
) -> Vec<Tensor<1>> {
    let device = device().autodiff();
    let input = noise([batch, channels_in, height, width], 1, &device).require_grad();
    let weight = noise([channels_in, channels_out, stride, stride], 2, &device).require_grad();
    let bias = noise([channels_out], 3, &device).require_grad();
    let output = operator(input.clone(), weight.clone(), bias.clone());
    assert_eq!(output.dims(), [batch, channels_out, height * stride, width * stride]);
    let gradients = (output.clone() * noise(output.dims(), 4, &device)).sum().backward();
    vec![
        output.inner().flatten(0, 3),
        input.grad(&gradients).expect("a gradient").flatten(0, 3),
        weight.grad(&gradients).expect("a gradient").flatten(0, 3),
        bias.grad(&gradients).expect("a gradient"),
    ]
}

#[test]
fn outputs_and_gradients_are_burns_with_and_without_relu() {
    let cases = [[1, 1, 1, 1, 1, 2], [2, 3, 5, 4, 7, 2], [3, 40, 17, 14, 14, 2], [2, 8, 4, 3, 5, 3]];
    let operators: [(&str, Operator, Operator); 2] = [
        ("plain", |x, w, b| conv_transpose2d(x, w, Some(b)), burn),
        ("with ReLU", conv_transpose2d_relu, |x, w, b| relu(burn(x, w, b))),
    ];
    for case in cases {
        for (name, ours, theirs) in operators {
            let results = differentiate(ours, case).into_iter().zip(differentiate(theirs, case));
            for (what, (found, expected)) in ["output", "input", "weight", "bias"].into_iter().zip(results) {
                assert_close(&format!("{name}, {case:?}: {what}"), &found, &expected, TOLERANCE);
            }
        }
    }
}

#[test]
fn without_a_bias_nothing_is_added() {
    let device = device();
    let (input, weight) = (noise([2, 3, 4, 4], 1, &device), noise([3, 2, 2, 2], 2, &device));
    let zero = Tensor::zeros([2], &device);
    let expected = burn(input.clone(), weight.clone(), zero);
    assert_close("output", &conv_transpose2d(input, weight, None), &expected, TOLERANCE);
}
