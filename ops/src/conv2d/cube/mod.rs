//! Convolutions on GPUs: products of matrices over im2col patches, a group of images at a time.
//!
//! Burn's own kernels are tried one after the other, some twenty for each shape of each of the three products, before one of
//! them is used; products of matrices have fewer candidates, and one choice serves many shapes. 1×1 convolutions need no patches.
//!
//! Weights of 32 bits are rounded to the type of the activations where that is another.

mod patches;

use super::{
    Conv2dOptions,
    backend::{Conv2dOps, Purpose},
};
use crate::batch_norm::{BatchNormOps, Residual};
use crate::cube::{Rows, converted, element};
use burn::backend::{
    Cube, TensorMetadata,
    ops::{FloatTensorOps, ModuleOps},
};
use burn::tensor::{DType, Shape, Slice};
use burn_cubecl::{kernel::into_contiguous, ops::reshape, tensor::CubeTensor};
use cubecl::ir::ElemType;
use patches::{Geometry, patches, sums};
use std::ops::Range;

/// Elements of the patches of a group of images: 256 MiB in 32 bits.
const PATCH_ELEMENTS: usize = 1 << 26;
/// Elements of a tile of a product that is one cube's work, about.
const TILE: usize = 128 * 128;
/// Tiles that keep a large GPU busy.
const TILES: usize = 256;
/// Rows that a part of a product is to sum over at least.
const MIN_DEPTH: usize = 512;

/// A convolution that there are kernels for.
struct Convolution {
    geometry: Geometry,
    /// `[N, C, H, W]`
    input: [usize; 4],
    /// `[O, C, KH, KW]`
    weight: [usize; 4],
    element: ElemType,
}

impl Convolution {
    fn new(input: &CubeTensor, weight: &CubeTensor, options: Conv2dOptions) -> Option<Self> {
        let dtype = input.dtype;
        let (input, weight) = (input.shape().dims(), weight.shape().dims());
        let geometry = Geometry::new(input, weight, options);
        let filled =
            [&input[..], &weight, &geometry.output].iter().all(|sizes| sizes.iter().all(|size| *size > 0));
        Some(Self { geometry, input, weight, element: element(dtype).filter(|_| filled)? })
    }

    /// Values of a patch.
    fn depth(&self) -> usize {
        self.geometry.taps() * self.input[1]
    }

    fn output_shape(&self) -> [usize; 4] {
        let [height, width] = self.geometry.output;
        [self.input[0], self.weight[0], height, width]
    }

    /// The images whose patches are in memory together, group by group.
    fn groups(&self) -> impl Iterator<Item = Range<usize>> {
        let images = self.input[0];
        let patches = self.geometry.output.iter().product::<usize>() * self.depth();
        let most = if self.geometry.is_pointwise() { images } else { (PATCH_ELEMENTS / patches).max(1) };
        // Groups of one size, or of two.
        let groups = images.div_ceil(most);
        (0..groups).map(move |group| group * images / groups..(group + 1) * images / groups)
    }

    /// The patches of some images, `[images · H' · W', taps · C]`.
    fn patches(&self, input: &CubeTensor, images: Range<usize>) -> CubeTensor {
        let input = images_of(input, images);
        if self.geometry.is_pointwise() {
            matrix(input)
        } else {
            patches(input, &self.geometry, self.element)
        }
    }

    /// The weight as `[O, taps · C]`.
    fn flat(&self, weight: CubeTensor, dtype: DType) -> CubeTensor {
        let weight = converted(Cube::float_permute(weight, &[0, 2, 3, 1]), dtype);
        reshape(into_contiguous(weight), Shape::new([self.weight[0], self.depth()]))
    }

    fn forward(&self, input: CubeTensor, weight: CubeTensor) -> CubeTensor {
        let weight = Cube::float_swap_dims(self.flat(weight, input.dtype), 0, 1);
        let outputs =
            self.groups().map(|images| Cube::float_matmul(self.patches(&input, images), weight.clone()));
        channels_first(joined(outputs.collect()), self.output_shape())
    }

    fn weight_gradient(&self, input: CubeTensor, output_gradient: CubeTensor) -> CubeTensor {
        let [outputs, channels, height, width] = self.weight;
        let products = self.groups().map(|images| {
            let patches = self.patches(&input, images.clone());
            let gradient = matrix(images_of(&output_gradient, images));
            self.summed_over_rows(gradient, patches)
        });
        let gradient = products.reduce(Cube::float_add).expect("there are images");
        let gradient = reshape(gradient, Shape::new([outputs, height, width, channels]));
        Cube::float_permute(gradient, &[0, 3, 1, 2])
    }

    /// `gradientᵀ · patches` in 32 bits, `[O, taps · C]`. The many rows are cut into parts, so that there is work for all of a GPU.
    fn summed_over_rows(&self, gradient: CubeTensor, patches: CubeTensor) -> CubeTensor {
        let (rows, outputs, depth) = (gradient.shape()[0], self.weight[0], self.depth());
        let wanted = (TILES * TILE / (outputs * depth)).min(rows / MIN_DEPTH).max(1);
        let parts = (1..=wanted).rev().find(|parts| rows.is_multiple_of(*parts)).unwrap_or(1);
        let gradient = reshape(gradient, Shape::new([parts, rows / parts, outputs]));
        let patches = reshape(patches, Shape::new([parts, rows / parts, depth]));
        let products = Cube::float_matmul(Cube::float_swap_dims(gradient, 1, 2), patches);
        let sum = Cube::float_sum_dim(converted(products, DType::F32), 0);
        reshape(sum, Shape::new([outputs, depth]))
    }

    fn input_gradient(
        &self,
        weight: CubeTensor,
        output_gradient: CubeTensor,
        other: Option<CubeTensor>,
    ) -> CubeTensor {
        let weight = self.flat(weight, output_gradient.dtype);
        let [_, channels, height, width] = self.input;
        let gradients = self.groups().map(|images| {
            let gradient = matrix(images_of(&output_gradient, images.clone()));
            let patches = Cube::float_matmul(gradient, weight.clone());
            let other = other.as_ref().map(|other| images_of(other, images.clone()));
            let shape = [images.len(), channels, height, width];
            if !self.geometry.is_pointwise() {
                return sums(&into_contiguous(patches), other, shape, &self.geometry, self.element);
            }
            let gradient = channels_first(patches, shape);
            match other {
                Some(other) => Cube::float_add(gradient, other),
                None => gradient,
            }
        });
        let mut gradients: Vec<_> = gradients.collect();
        if gradients.len() == 1 { gradients.remove(0) } else { Cube::float_cat(gradients, 0) }
    }
}

/// Some images of a batch.
fn images_of(batch: &CubeTensor, images: Range<usize>) -> CubeTensor {
    if images.len() == batch.shape()[0] {
        return batch.clone();
    }
    let mut slices = [Slice::full(); 4];
    slices[0] = Slice::from(images);
    Cube::float_slice(batch.clone(), &slices)
}

/// `[N, C, H, W]` as `[N · H · W, C]`.
fn matrix(tensor: CubeTensor) -> CubeTensor {
    let rows = Rows::of(tensor);
    let shape = Shape::new([rows.count(), rows.channels()]);
    reshape(into_contiguous(rows.tensor().clone()), shape)
}

/// `[N · H · W, C]` as `[N, C, H, W]`.
fn channels_first(matrix: CubeTensor, [images, channels, height, width]: [usize; 4]) -> CubeTensor {
    let tensor = reshape(into_contiguous(matrix), Shape::new([images, height, width, channels]));
    Cube::float_permute(tensor, &[0, 3, 1, 2])
}

fn joined(mut matrices: Vec<CubeTensor>) -> CubeTensor {
    if matrices.len() == 1 { matrices.remove(0) } else { Cube::float_cat(matrices, 0) }
}

impl Conv2dOps for Cube {
    fn convolution(
        input: CubeTensor,
        weight: CubeTensor,
        options: Conv2dOptions,
        _purpose: Purpose,
    ) -> CubeTensor {
        match Convolution::new(&input, &weight, options) {
            Some(convolution) => convolution.forward(input, weight),
            None => Self::conv2d(input, weight, None, options.burn()),
        }
    }

    fn biased_convolution(
        input: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        options: Conv2dOptions,
        purpose: Purpose,
    ) -> CubeTensor {
        let output = Self::convolution(input, weight, options, purpose);
        let [channels] = bias.shape().dims();
        let bias = reshape(into_contiguous(converted(bias, output.dtype)), Shape::new([1, channels, 1, 1]));
        Self::float_add(output, bias)
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
        match Convolution::new(&input, &weight, options) {
            Some(convolution) => convolution.input_gradient(weight, output_gradient, None),
            None => Self::conv2d_x_backward(input, weight, output_gradient, options.burn()),
        }
    }

    fn convolution_input_gradient_sum(
        input: CubeTensor,
        weight: CubeTensor,
        output_gradient: CubeTensor,
        other: CubeTensor,
        options: Conv2dOptions,
    ) -> CubeTensor {
        match Convolution::new(&input, &weight, options) {
            Some(convolution) => convolution.input_gradient(weight, output_gradient, Some(other)),
            None => {
                let gradient = Self::conv2d_x_backward(input, weight, output_gradient, options.burn());
                Self::float_add(other, gradient)
            }
        }
    }

    fn convolution_weight_gradient(
        input: CubeTensor,
        weight: CubeTensor,
        output_gradient: CubeTensor,
        options: Conv2dOptions,
    ) -> CubeTensor {
        match Convolution::new(&input, &weight, options) {
            Some(convolution) => convolution.weight_gradient(input, output_gradient),
            None => Self::conv2d_weight_backward(input, weight, output_gradient, options.burn()),
        }
    }

    fn convolution_bias_gradient(output_gradient: CubeTensor) -> CubeTensor {
        let channels = output_gradient.shape()[1];
        // Sums of many numbers want 32 bits.
        let sums = Self::float_sum_dims(converted(output_gradient, DType::F32), &[0, 2, 3]);
        Self::float_reshape(sums, Shape::new([channels]))
    }
}
