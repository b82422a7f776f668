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
mod winograd;

use super::{
    Conv2dOptions,
    backend::{Conv2dOps, Purpose},
};
use crate::batch_norm::{Residual, composed_by_statistics, normalizations};
use crate::cpu::{
    Affine, Number, Precision, contiguous, rounded, rounded_in_f32, tensor_of, values, widened, written_by,
};
use crate::matrix::{Epilogue, bf16_products};
use crate::vectorized;
use burn::backend::{
    Flex, TensorMetadata,
    ops::{ActivationOps, FloatTensorOps, ModuleOps},
};
use burn::tensor::bf16;
use burn_flex::FlexTensor;
use geometry::Geometry;
use rayon::prelude::*;
use scratch::Scratched;

fn geometry(input: &FlexTensor, weight: &FlexTensor, options: Conv2dOptions) -> Geometry {
    Geometry::new(input.shape().dims(), weight.shape().dims(), options)
}

/// What follows a convolution.
struct Ending {
    affines: Vec<Affine>,
    residual: Option<FlexTensor>,
    relu: bool,
}

impl Ending {
    const NONE: Self = Self { affines: Vec::new(), residual: None, relu: false };

    fn bias(bias: FlexTensor, relu: bool) -> Self {
        let bias = contiguous(bias);
        let affines = values(&bias).iter().map(|bias| Affine::bias(*bias)).collect();
        Self { affines, residual: None, relu }
    }
}

fn run_forward<N: Scratched>(
    input: FlexTensor,
    weight: FlexTensor,
    ending: Ending,
    options: Conv2dOptions,
    purpose: Purpose,
) -> FlexTensor {
    let geometry = geometry(&input, &weight, options);
    let (input, weight, residual) = (contiguous(input), contiguous(weight), ending.residual.map(contiguous));
    let input = values(&input);
    let epilogue = Epilogue {
        affines: &ending.affines,
        residual: residual.as_ref().map(values::<N>),
        floor: if ending.relu { 0.0 } else { f32::NEG_INFINITY },
    };
    let length = geometry.output_shape().iter().product();
    // SAFETY: `forward` writes the whole output.
    let output: Vec<N> = unsafe {
        written_by(length, |output| forward::forward(&geometry, input, &weight, &epilogue, purpose, output))
    };
    tensor_of(output, geometry.output_shape())
}

/// The gradient of the input, plus `other` if there is one.
fn run_input_gradient<N: Scratched>(
    geometry: Geometry,
    weight: FlexTensor,
    output_gradient: FlexTensor,
    other: Option<FlexTensor>,
) -> FlexTensor {
    let (weight, output_gradient) = (contiguous(weight), contiguous(output_gradient));
    let (weight, output_gradient) = (values(&weight), values(&output_gradient));
    let other = other.map(contiguous);
    let other = other.as_ref().map(values);
    let length = geometry.input_shape().iter().product();
    // SAFETY: `input_gradient` writes the whole gradient.
    let gradient: Vec<N> = unsafe {
        written_by(length, |gradient| {
            input_gradient::input_gradient(&geometry, weight, output_gradient, other, gradient);
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

/// A convolution and what follows it, in a precision that there are kernels for.
fn ended(
    input: FlexTensor,
    weight: FlexTensor,
    ending: Ending,
    options: Conv2dOptions,
    purpose: Purpose,
    precision: Precision,
) -> FlexTensor {
    match precision {
        Precision::Bf16 if bf16_products() => run_forward::<bf16>(input, weight, ending, options, purpose),
        Precision::Bf16 => {
            let ending = Ending { residual: ending.residual.map(widened), ..ending };
            rounded(run_forward::<f32>(widened(input), rounded_in_f32(weight), ending, options, purpose))
        }
        _ => run_forward::<f32>(input, weight, ending, options, purpose),
    }
}

/// The gradient of the input plus another one, in a precision that there are kernels for.
fn known_input_gradient(
    geometry: Geometry,
    weight: FlexTensor,
    output_gradient: FlexTensor,
    other: Option<FlexTensor>,
    precision: Precision,
) -> FlexTensor {
    match precision {
        Precision::Bf16 if bf16_products() => {
            run_input_gradient::<bf16>(geometry, weight, output_gradient, other)
        }
        Precision::Bf16 => {
            let (weight, other) = (rounded_in_f32(weight), other.map(widened));
            rounded(run_input_gradient::<f32>(geometry, weight, widened(output_gradient), other))
        }
        _ => run_input_gradient::<f32>(geometry, weight, output_gradient, other),
    }
}

/// Zeroes the gradient where the output of ReLU is zero.
fn passed<N: Number>(output: FlexTensor, gradient: FlexTensor) -> FlexTensor {
    const CHUNK: usize = 64 * 1024;
    let (output, mut gradient) = (contiguous(output), contiguous(gradient));
    let shape = gradient.shape();
    if values::<N>(&gradient).len() != gradient.storage::<N>().len() {
        gradient = tensor_of(values::<N>(&gradient).to_vec(), shape);
    }
    let outputs = values::<N>(&output).par_chunks(CHUNK);
    gradient.storage_mut::<N>().par_chunks_mut(CHUNK).zip(outputs).for_each(|(gradient, output)| {
        vectorized(
            #[inline(always)]
            || {
                for (gradient, output) in gradient.iter_mut().zip(output) {
                    *gradient = if output.widened() <= 0.0 { N::default() } else { *gradient };
                }
            },
        );
    });
    gradient
}

impl Conv2dOps for Flex {
    fn convolution(
        input: FlexTensor,
        weight: FlexTensor,
        options: Conv2dOptions,
        purpose: Purpose,
    ) -> FlexTensor {
        match Precision::of(&[&input], &[&weight]) {
            Precision::Other => Self::conv2d(input, weight, None, options.burn()),
            known => ended(input, weight, Ending::NONE, options, purpose, known),
        }
    }

    fn biased_convolution(
        input: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        options: Conv2dOptions,
        purpose: Purpose,
    ) -> FlexTensor {
        match Precision::of(&[&input], &[&weight, &bias]) {
            Precision::Other => Self::conv2d(input, weight, Some(bias), options.burn()),
            known => ended(input, weight, Ending::bias(bias, false), options, purpose, known),
        }
    }

    fn rectified_convolution(
        input: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        options: Conv2dOptions,
        purpose: Purpose,
    ) -> FlexTensor {
        match Precision::of(&[&input], &[&weight, &bias]) {
            Precision::Other => Self::relu(Self::conv2d(input, weight, Some(bias), options.burn())),
            known => ended(input, weight, Ending::bias(bias, true), options, purpose, known),
        }
    }

    fn normalized_convolution(
        input: FlexTensor,
        weight: FlexTensor,
        scale: FlexTensor,
        shift: FlexTensor,
        mean: FlexTensor,
        variance: FlexTensor,
        residual: Residual<Self>,
        options: Conv2dOptions,
        epsilon: f64,
        relu: bool,
    ) -> FlexTensor {
        let residual = residual.into_tensor();
        let activations: Vec<_> = [Some(&input), residual.as_ref()].into_iter().flatten().collect();
        match Precision::of(&activations, &[&weight, &scale, &shift, &mean, &variance]) {
            Precision::Other => {
                let (output, residual) =
                    (Self::convolution(input, weight, options, Purpose::Inference), residual.into());
                composed_by_statistics::<Self>(output, scale, shift, mean, variance, residual, epsilon, relu)
            }
            known => {
                let parameters = [scale, shift, mean, variance];
                let affines = normalizations(parameters, epsilon);
                let ending = Ending { affines, residual, relu };
                ended(input, weight, ending, options, Purpose::Inference, known)
            }
        }
    }

    fn rectified_gradient(output: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        match Precision::of(&[&output, &gradient], &[]) {
            Precision::F32 => passed::<f32>(output, gradient),
            Precision::Bf16 => passed::<bf16>(output, gradient),
            Precision::Other => Self::relu_backward(output, gradient),
        }
    }

    fn convolution_input_gradient(
        input: FlexTensor,
        weight: FlexTensor,
        output_gradient: FlexTensor,
        options: Conv2dOptions,
    ) -> FlexTensor {
        match Precision::of(&[&input, &output_gradient], &[&weight]) {
            Precision::Other => Self::conv2d_x_backward(input, weight, output_gradient, options.burn()),
            known => {
                let geometry = geometry(&input, &weight, options);
                known_input_gradient(geometry, weight, output_gradient, None, known)
            }
        }
    }

    fn convolution_input_gradient_sum(
        input: FlexTensor,
        weight: FlexTensor,
        output_gradient: FlexTensor,
        other: FlexTensor,
        options: Conv2dOptions,
    ) -> FlexTensor {
        match Precision::of(&[&input, &output_gradient, &other], &[&weight]) {
            Precision::Other => {
                let gradient = Self::conv2d_x_backward(input, weight, output_gradient, options.burn());
                Self::float_add(other, gradient)
            }
            known => {
                let geometry = geometry(&input, &weight, options);
                known_input_gradient(geometry, weight, output_gradient, Some(other), known)
            }
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
            Precision::Bf16 => run_weight_gradient::<f32>(geometry, widened(input), widened(output_gradient)),
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
