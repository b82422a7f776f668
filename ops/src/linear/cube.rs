//! Products of fully connected layers on GPUs, with weights of 32 bits rounded to the type of the activations.

use super::backend::LinearOps;
use crate::cube::converted;
use burn::backend::{Cube, ops::FloatTensorOps};
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;

impl LinearOps for Cube {
    fn linear_product(input: CubeTensor, weight: CubeTensor) -> CubeTensor {
        let weight = converted(weight, input.dtype);
        Self::float_matmul(input, Self::float_swap_dims(weight, 0, 1))
    }

    fn linear_input_gradient(weight: CubeTensor, output_gradient: CubeTensor) -> CubeTensor {
        let weight = converted(weight, output_gradient.dtype);
        Self::float_matmul(output_gradient, weight)
    }

    fn linear_weight_gradient(input: CubeTensor, output_gradient: CubeTensor) -> CubeTensor {
        let gradient = Self::float_matmul(Self::float_swap_dims(output_gradient, 0, 1), input);
        converted(gradient, DType::F32)
    }
}
