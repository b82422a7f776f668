//! The fully connected layer against Burn's matrix product.

mod support;

use burn::tensor::Tensor;
use proptest::prelude::*;
use scrl_ops::linear;
use support::{assert_close, device, noise, with_threads};

/// Sums of up to 600 products in 32 bits, in another order.
const TOLERANCE: f32 = 2e-6;

fn output_and_gradients([rows, features, outputs]: [usize; 3], ours: bool) -> [Tensor<2>; 3] {
    let device = device().autodiff();
    let input: Tensor<2> = noise([rows, features], 1, &device).require_grad();
    let weight: Tensor<2> = noise([outputs, features], 2, &device).require_grad();
    let bias: Tensor<1> = noise([outputs], 3, &device);
    let output = if ours {
        linear(input.clone(), weight.clone(), Some(bias))
    } else {
        input.clone().matmul(weight.clone().transpose()) + bias.unsqueeze()
    };
    let scale: Tensor<2> = noise([rows, outputs], 4, &device);
    let gradients = (output.clone() * scale).sum().backward();
    let [input, weight] = [input, weight].map(|tensor| tensor.grad(&gradients).expect("a gradient"));
    [output.inner(), input, weight]
}

fn assert_matches_burn(sizes: [usize; 3]) {
    let (ours, burn) = (output_and_gradients(sizes, true), output_and_gradients(sizes, false));
    for ((what, ours), burn) in ["output", "input gradient", "weight gradient"].iter().zip(&ours).zip(&burn) {
        assert_close(&format!("{what} of {sizes:?}"), ours, burn, TOLERANCE);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn matches_burn_for_any_sizes(rows in 1usize..150, features in 1usize..300, outputs in 1usize..150) {
        assert_matches_burn([rows, features, outputs]);
    }
}

#[test]
fn matches_burn_where_the_result_is_cut_into_parts() {
    assert_matches_burn([530, 65, 600]);
}

#[test]
fn results_are_the_same_to_the_bit_for_any_number_of_threads() {
    let sizes = [530, 65, 600];
    let one = with_threads(1, || output_and_gradients(sizes, true));
    let three = with_threads(3, || output_and_gradients(sizes, true));
    for (one, three) in one.iter().zip(&three) {
        assert_eq!(support::values(one), support::values(three));
    }
}

#[test]
#[should_panic(expected = "the input has 3 features, the weight 4")]
fn features_that_disagree_panic() {
    let device = device();
    linear(noise([2, 3], 1, &device), noise([5, 4], 2, &device), None);
}
