//! Fully connected layers.
//!
//! N rows in the batch, I features in, O features out.

mod autodiff;
mod backend;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;

use crate::cast;
use backend::LinearOps;
use burn::{
    backend::Dispatch,
    tensor::{FloatDType, Tensor},
};

/// Multiplies `input`, `[N, I]`, with the transpose of `weight`, `[O, I]`, and adds `bias`, `[O]`: `[N, O]`.
///
/// An input in bfloat16 is multiplied with the weight rounded to bfloat16, summed in 32 bits, and the output is
/// rounded; weight, bias and their gradients stay in 32 bits.
///
/// # Panics
/// If the features of input, weight and bias disagree.
pub fn linear(input: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let ([_, features], [outputs, weight_features]) = (input.dims(), weight.dims());
    assert_eq!(
        features, weight_features,
        "linear: the input has {features} features, the weight {weight_features}"
    );
    let output = Dispatch::linear_product(input.into_dispatch(), weight.into_dispatch());
    let output: Tensor<2> = Tensor::from_dispatch(output);
    match bias {
        Some(bias) => {
            let [length] = bias.dims();
            assert_eq!(length, outputs, "linear: the bias has {length} values for {outputs} features");
            let dtype = output.dtype();
            cast(cast(output, FloatDType::F32) + bias.unsqueeze(), dtype.into())
        }
        None => output,
    }
}
