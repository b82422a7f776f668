//! Convolutions on GPUs: Burn's, with weights of 32 bits rounded to the type of the activations where that is another.

use super::{
    Conv2dOptions,
    backend::{Conv2dOps, Purpose},
};
use crate::batch_norm::{BatchNormOps, Residual};
use crate::cube::converted;
use burn::backend::{
    Cube, TensorMetadata,
    ops::{FloatTensorOps, ModuleOps},
};
use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;

impl Conv2dOps for Cube {
    fn convolution(
        input: CubeTensor,
        weight: CubeTensor,
        options: Conv2dOptions,
        _purpose: Purpose,
    ) -> CubeTensor {
        let weight = converted(weight, input.dtype);
        Self::conv2d(input, weight, None, options.burn())
    }

    fn biased_convolution(
        input: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        options: Conv2dOptions,
        _purpose: Purpose,
    ) -> CubeTensor {
        let [weight, bias] = [weight, bias].map(|tensor| converted(tensor, input.dtype));
        Self::conv2d(input, weight, Some(bias), options.burn())
    }

    fn normalized_convolution(
        input: CubeTensor,
        weight: CubeTensor,
        scale: CubeTensor,
        shift: CubeTensor,
        mean: CubeTensor,
        variance: CubeTensor,
        residual: Residual<Self>,
        options: Conv2dOptions,
        epsilon: f64,
        relu: bool,
    ) -> CubeTensor {
        let output = Self::convolution(input, weight, options, Purpose::Inference);
        Self::normalize_by_statistics(output, scale, shift, mean, variance, residual, epsilon, relu)
    }

    fn convolution_input_gradient(
        input: CubeTensor,
        weight: CubeTensor,
        output_gradient: CubeTensor,
        options: Conv2dOptions,
    ) -> CubeTensor {
        let weight = converted(weight, output_gradient.dtype);
        Self::conv2d_x_backward(input, weight, output_gradient, options.burn())
    }

    fn convolution_weight_gradient(
        input: CubeTensor,
        weight: CubeTensor,
        output_gradient: CubeTensor,
        options: Conv2dOptions,
    ) -> CubeTensor {
        let (dtype, weight) = (weight.dtype, converted(weight, input.dtype));
        let gradient = Self::conv2d_weight_backward(input, weight, output_gradient, options.burn());
        converted(gradient, dtype)
    }

    fn convolution_bias_gradient(output_gradient: CubeTensor) -> CubeTensor {
        let channels = output_gradient.shape()[1];
        // Sums of many numbers want 32 bits.
        let sums = Self::float_sum_dims(converted(output_gradient, DType::F32), &[0, 2, 3]);
        Self::float_reshape(sums, Shape::new([channels]))
    }
}
