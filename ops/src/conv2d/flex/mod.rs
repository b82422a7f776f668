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
use crate::cpu::{all_f32, contiguous, tensor_of, values, written_by};
use burn::backend::{
    Flex, TensorMetadata,
    ops::{FloatTensorOps, ModuleOps},
};
use burn_flex::FlexTensor;
use geometry::Geometry;

fn geometry(input: &FlexTensor, weight: &FlexTensor, options: Conv2dOptions) -> Geometry {
    Geometry::new(input.shape().dims(), weight.shape().dims(), options)
}

fn run_forward(
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
    let output = unsafe {
        written_by(length, |output| forward::forward(&geometry, tensors.0, tensors.1, tensors.2, output))
    };
    tensor_of(output, geometry.output_shape())
}

impl Conv2dOps for Flex {
    fn convolution(input: FlexTensor, weight: FlexTensor, options: Conv2dOptions) -> FlexTensor {
        if !all_f32(&[&input, &weight]) {
            return Self::conv2d(input, weight, None, options.burn());
        }
        run_forward(input, weight, None, options)
    }

    fn biased_convolution(
        input: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        options: Conv2dOptions,
    ) -> FlexTensor {
        if !all_f32(&[&input, &weight, &bias]) {
            return Self::conv2d(input, weight, Some(bias), options.burn());
        }
        run_forward(input, weight, Some(bias), options)
    }

    fn convolution_input_gradient(
        input: FlexTensor,
        weight: FlexTensor,
        output_gradient: FlexTensor,
        options: Conv2dOptions,
    ) -> FlexTensor {
        if !all_f32(&[&input, &weight, &output_gradient]) {
            return Self::conv2d_x_backward(input, weight, output_gradient, options.burn());
        }
        let geometry = geometry(&input, &weight, options);
        let (weight, output_gradient) = (contiguous(weight), contiguous(output_gradient));
        let (weight, output_gradient) = (values(&weight), values(&output_gradient));
        let length = geometry.input_shape().iter().product();
        // SAFETY: `input_gradient` writes the whole gradient.
        let gradient = unsafe {
            written_by(length, |gradient| {
                input_gradient::input_gradient(&geometry, weight, output_gradient, gradient);
            })
        };
        tensor_of(gradient, geometry.input_shape())
    }

    fn convolution_weight_gradient(
        input: FlexTensor,
        weight: FlexTensor,
        output_gradient: FlexTensor,
        options: Conv2dOptions,
    ) -> FlexTensor {
        if !all_f32(&[&input, &weight, &output_gradient]) {
            return Self::conv2d_weight_backward(input, weight, output_gradient, options.burn());
        }
        let geometry = geometry(&input, &weight, options);
        let (input, output_gradient) = (contiguous(input), contiguous(output_gradient));
        let (input, output_gradient) = (values(&input), values(&output_gradient));
        let length = geometry.weight_shape().iter().product();
        // SAFETY: `weight_gradient` writes the whole gradient.
        let gradient = unsafe {
            written_by(length, |gradient| {
                weight_gradient::weight_gradient(&geometry, input, output_gradient, gradient);
            })
        };
        tensor_of(gradient, geometry.weight_shape())
    }

    fn convolution_bias_gradient(output_gradient: FlexTensor) -> FlexTensor {
        let [batch, channels, height, width] = output_gradient.shape().dims();
        if !all_f32(&[&output_gradient]) {
            return Self::float_sum_dims(output_gradient, &[0, 2, 3]).reshape([channels].into());
        }
        let output_gradient = contiguous(output_gradient);
        let sums =
            weight_gradient::bias_gradient([batch, channels, height * width], values(&output_gradient));
        tensor_of(sums, [channels])
    }
}
