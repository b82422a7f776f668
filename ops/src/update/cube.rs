//! Steps on GPUs: one pass over a parameter, in place where nobody else holds it.

use super::GradientStepOptions;
use super::backend::{UpdateOps, plain, sum_of_squares, trust_ratio, weighted_mean, with_momentum};
use crate::cube::{buffer, one_unit_each};
use burn::backend::{Cube, TensorMetadata, ops::FloatTensorOps};
use burn::tensor::DType;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

/// Units of a cube.
const UNITS: u32 = 256;

/// What the kernel of a step is told; see [`GradientStepOptions`].
#[derive(CubeLaunch, CubeType, Clone, Copy)]
struct Rates {
    lr: f32,
    momentum: f32,
    decay: f32,
}

/// `w ← w − lr·d`, where the direction d is `g + decay·w`, times the trust ratio, through the momentum.
#[cube(launch)]
fn step(
    weight: &mut [f32],
    momentum: &mut [f32],
    gradient: &[f32],
    ratio: &[f32],
    rates: Rates,
    size: usize,
    #[comptime] with_momentum: bool,
    #[comptime] nesterov: bool,
    #[comptime] trust: bool,
) {
    if ABSOLUTE_POS >= size {
        terminate!();
    }
    let mut direction = gradient[ABSOLUTE_POS] + rates.decay * weight[ABSOLUTE_POS];
    if comptime!(trust) {
        direction *= ratio[0];
    }
    if comptime!(with_momentum) {
        let sum = rates.momentum * momentum[ABSOLUTE_POS] + direction;
        momentum[ABSOLUTE_POS] = sum;
        if comptime!(nesterov) {
            direction += rates.momentum * sum;
        } else {
            direction = sum;
        }
    }
    weight[ABSOLUTE_POS] -= rates.lr * direction;
}

/// `average ← momentum·average + (1 − momentum)·value`
#[cube(launch)]
fn blend(average: &mut [f32], value: &[f32], momentum: f32, rest: f32, size: usize) {
    if ABSOLUTE_POS >= size {
        terminate!();
    }
    average[ABSOLUTE_POS] = momentum * average[ABSOLUTE_POS] + rest * value[ABSOLUTE_POS];
}

/// Whether there is a kernel for tensors like these.
fn known(tensors: &[&CubeTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype == DType::F32 && tensor.shape().num_elements() > 0)
}

/// The tensor in memory of its own, row by row.
fn owned(tensor: CubeTensor) -> CubeTensor {
    let tensor = into_contiguous(tensor);
    if tensor.can_mut() && tensor.is_contiguous_buffer() { tensor } else { tensor.copy() }
}

/// Runs the kernel and gives the sum of the gradient's squares. Weight and momentum are changed.
fn run(
    weight: &CubeTensor,
    momentum: Option<&CubeTensor>,
    gradient: CubeTensor,
    options: GradientStepOptions,
) -> CubeTensor {
    let gradient = into_contiguous(gradient);
    let squares = sum_of_squares::<Cube>(gradient.clone());
    let ratio = options.trust.map(|trust| {
        let norms = [sum_of_squares::<Cube>(weight.clone()), squares.clone()].map(Cube::float_sqrt);
        let [weight, gradient] = norms;
        trust_ratio::<Cube>(weight, gradient, options.weight_decay, trust)
    });
    let size = weight.shape().num_elements();
    let (count, dim) = one_unit_each(size, UNITS);
    let unused = gradient.client.empty(size_of::<f32>());
    // SAFETY: the length is that of the memory. The kernel does not touch it.
    let unused = || unsafe { BufferArg::from_raw_parts(unused.clone(), 1) };
    step::launch(
        &weight.client,
        count,
        dim,
        buffer(weight),
        momentum.map_or_else(unused, buffer),
        buffer(&gradient),
        ratio.as_ref().map_or_else(|| buffer(&squares), buffer),
        RatesLaunch::new(options.lr as f32, options.momentum as f32, options.weight_decay as f32),
        size,
        momentum.is_some(),
        options.nesterov,
        ratio.is_some(),
    );
    squares
}

impl UpdateOps for Cube {
    fn plain_step(
        weight: CubeTensor,
        gradient: CubeTensor,
        options: GradientStepOptions,
    ) -> (CubeTensor, CubeTensor) {
        if !known(&[&weight, &gradient]) {
            return plain::<Self>(weight, gradient, options);
        }
        let weight = owned(weight);
        let squares = run(&weight, None, gradient, options);
        (weight, squares)
    }

    fn momentum_step(
        weight: CubeTensor,
        gradient: CubeTensor,
        buffer: CubeTensor,
        options: GradientStepOptions,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        if !known(&[&weight, &gradient, &buffer]) {
            return with_momentum::<Self>(weight, gradient, buffer, options);
        }
        let (weight, momentum) = (owned(weight), owned(buffer));
        let squares = run(&weight, Some(&momentum), gradient, options);
        (weight, momentum, squares)
    }

    fn average(average: CubeTensor, value: CubeTensor, momentum: f64) -> CubeTensor {
        if !known(&[&average, &value]) {
            return weighted_mean::<Self>(average, value, momentum);
        }
        let (average, value) = (owned(average), into_contiguous(value));
        let size = average.shape().num_elements();
        let (count, dim) = one_unit_each(size, UNITS);
        blend::launch(
            &average.client,
            count,
            dim,
            buffer(&average),
            buffer(&value),
            momentum as f32,
            (1.0 - momentum) as f32,
            size,
        );
        average
    }
}
