//! The convolution on the CPU: products of matrices over tiles of im2col patches that stay in cache.
//!
//! What is computed by one task depends only on the shapes, never on the number of threads, so results
//! are the same to the bit on every machine with the same instruction set.

mod forward;
mod geometry;
mod input_gradient;
mod patches;
mod scratch;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod sliding;
mod weight_gradient;

use super::{Conv2dOptions, backend::Conv2dOps};
use crate::cpu::{Precision, contiguous, rounded, tensor_of, values, widened, written_by};
use crate::matrix::bf16_products;
use burn::backend::{
    Flex, TensorMetadata,
    ops::{FloatTensorOps, ModuleOps},
};
use burn::tensor::bf16;
use burn_flex::FlexTensor;
use geometry::Geometry;
use scratch::Scratched;

fn geometry(input: &FlexTensor, weight: &FlexTensor, options: Conv2dOptions) -> Geometry {
    Geometry::new(input.shape().dims(), weight.shape().dims(), options)
}

fn run_forward<N: Scratched>(
    input: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    options: Conv2dOptions,
) -> FlexTensor {
    let geometry = geometry(&input, &weight, options);
    let (input, weight, bias) = (contiguous(input), contiguous(weight), bias.map(contiguous));
    let tensors = (values(&input), values(&weight), bias.as_ref().map(values));
    let length = geometry.output_shape().iter().product();
    // SAFETY: `forward` writes the whole output.
    let output: Vec<N> = unsafe {
        written_by(length, |output| forward::forward(&geometry, tensors.0, tensors.1, tensors.2, output))
    };
    tensor_of(output, geometry.output_shape())
}

fn run_input_gradient<N: Scratched>(
    geometry: Geometry,
    weight: FlexTensor,
    output_gradient: FlexTensor,
) -> FlexTensor {
    let (weight, output_gradient) = (contiguous(weight), contiguous(output_gradient));
    let (weight, output_gradient) = (values(&weight), values(&output_gradient));
    let length = geometry.input_shape().iter().product();
    // SAFETY: `input_gradient` writes the whole gradient.
    let gradient: Vec<N> = unsafe {
        written_by(length, |gradient| {
            input_gradient::input_gradient(&geometry, weight, output_gradient, gradient);
        })
    };
    tensor_of(gradient, geometry.input_shape())
}

fn run_weight_gradient<N: Scratched>(
    geometry: Geometry,
    input: FlexTensor,
    output_gradient: FlexTensor,
) -> FlexTensor {
    let (input, output_gradient) = (contiguous(input), contiguous(output_gradient));
    let (input, output_gradient) = (values::<N>(&input), values::<N>(&output_gradient));
    let length = geometry.weight_shape().iter().product();
    // SAFETY: `weight_gradient` writes the whole gradient.
    let gradient: Vec<f32> = unsafe {
        written_by(length, |gradient| {
            weight_gradient::weight_gradient(&geometry, input, output_gradient, gradient);
        })
    };
    tensor_of(gradient, geometry.weight_shape())
}

/// Weights rounded to bfloat16, in 32 bits.
fn of_bf16(weight: FlexTensor) -> FlexTensor {
    widened(rounded(weight))
}

impl Conv2dOps for Flex {
    fn convolution(input: FlexTensor, weight: FlexTensor, options: Conv2dOptions) -> FlexTensor {
        match Precision::of(&[&input], &[&weight]) {
            Precision::F32 => run_forward::<f32>(input, weight, None, options),
            Precision::Bf16 if bf16_products() => run_forward::<bf16>(input, weight, None, options),
            Precision::Bf16 => rounded(Self::convolution(widened(input), of_bf16(weight), options)),
            Precision::Other => Self::conv2d(input, weight, None, options.burn()),
        }
    }

    fn biased_convolution(
        input: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        options: Conv2dOptions,
    ) -> FlexTensor {
        match Precision::of(&[&input], &[&weight, &bias]) {
            Precision::F32 => run_forward::<f32>(input, weight, Some(bias), options),
            Precision::Bf16 if bf16_products() => run_forward::<bf16>(input, weight, Some(bias), options),
            Precision::Bf16 => {
                rounded(Self::biased_convolution(widened(input), of_bf16(weight), bias, options))
            }
            Precision::Other => Self::conv2d(input, weight, Some(bias), options.burn()),
        }
    }

    fn convolution_input_gradient(
        input: FlexTensor,
        weight: FlexTensor,
        output_gradient: FlexTensor,
        options: Conv2dOptions,
    ) -> FlexTensor {
        let geometry = geometry(&input, &weight, options);
        match Precision::of(&[&input, &output_gradient], &[&weight]) {
            Precision::F32 => run_input_gradient::<f32>(geometry, weight, output_gradient),
            Precision::Bf16 if bf16_products() => {
                run_input_gradient::<bf16>(geometry, weight, output_gradient)
            }
            Precision::Bf16 => rounded(run_input_gradient::<f32>(
                geometry,
                of_bf16(weight),
                widened(output_gradient),
            )),
            Precision::Other => Self::conv2d_x_backward(input, weight, output_gradient, options.burn()),
        }
    }

    fn convolution_weight_gradient(
        input: FlexTensor,
        weight: FlexTensor,
        output_gradient: FlexTensor,
        options: Conv2dOptions,
    ) -> FlexTensor {
        let geometry = geometry(&input, &weight, options);
        match Precision::of(&[&input, &output_gradient], &[&weight]) {
            Precision::F32 => run_weight_gradient::<f32>(geometry, input, output_gradient),
            Precision::Bf16 if bf16_products() => {
                run_weight_gradient::<bf16>(geometry, input, output_gradient)
            }
            Precision::Bf16 => {
                run_weight_gradient::<f32>(geometry, widened(input), widened(output_gradient))
            }
            Precision::Other => Self::conv2d_weight_backward(input, weight, output_gradient, options.burn()),
        }
    }

    fn convolution_bias_gradient(output_gradient: FlexTensor) -> FlexTensor {
        let [batch, channels, height, width] = output_gradient.shape().dims();
        let (sizes, gradient) = ([batch, channels, height * width], contiguous(output_gradient));
        let sums = match Precision::of(&[&gradient], &[]) {
            Precision::F32 => weight_gradient::bias_gradient::<f32>(sizes, values(&gradient)),
            Precision::Bf16 => weight_gradient::bias_gradient::<bf16>(sizes, values(&gradient)),
            Precision::Other => {
                return Self::float_sum_dims(gradient, &[0, 2, 3]).reshape([channels].into());
            }
        };
        tensor_of(sums, [channels])
    }
}
