//! im2col and its transpose on rows of channels.

use crate::conv2d::Conv2dOptions;
use crate::cube::{Rows, one_unit_each};
use burn::tensor::Shape;
use burn_cubecl::{ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor};
use cubecl::ir::ElemType;
use cubecl::prelude::*;

/// Units of a cube.
const UNITS: u32 = 256;

/// Sizes of a convolution, as `[vertical, horizontal]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub options: Conv2dOptions,
}

impl Geometry {
    pub(super) fn new(input: [usize; 4], weight: [usize; 4], options: Conv2dOptions) -> Self {
        let [_, _, height, width] = options.output(input, weight);
        let [input, kernel] = [input, weight].map(|[_, _, height, width]| [height, width]);
        Self { input, output: [height, width], kernel, options }
    }

    /// Values of the kernel in one channel.
    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Whether every patch is one pixel and every pixel one patch.
    pub(super) fn is_pointwise(&self) -> bool {
        let Conv2dOptions { stride, padding, .. } = self.options;
        self.kernel == [1, 1] && stride == [1, 1] && padding == [0, 0]
    }

    fn launched(&self) -> SizesLaunch {
        let Conv2dOptions { stride, padding, dilation } = self.options;
        let [height, width] = self.input.map(|size| size as u32);
        let [output_height, output_width] = self.output.map(|size| size as u32);
        let [kernel_height, kernel_width] = self.kernel.map(|size| size as u32);
        let [stride_y, stride_x] = stride.map(|size| size as u32);
        let [padding_y, padding_x] = padding.map(|size| size as u32);
        let [dilation_y, dilation_x] = dilation.map(|size| size as u32);
        SizesLaunch::new(
            height,
            width,
            output_height,
            output_width,
            kernel_height,
            kernel_width,
            stride_y,
            stride_x,
            padding_y,
            padding_x,
            dilation_y,
            dilation_x,
        )
    }
}

/// [`Geometry`] in a kernel.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
struct Sizes {
    height: u32,
    width: u32,
    output_height: u32,
    output_width: u32,
    kernel_height: u32,
    kernel_width: u32,
    stride_y: u32,
    stride_x: u32,
    padding_y: u32,
    padding_x: u32,
    dilation_y: u32,
    dilation_x: u32,
}

/// Writes what each value of the kernel meets at each output pixel, `[images · H' · W', taps, C]`, zero beyond the borders.
#[cube(launch)]
fn unfold<F: Float, N: Size>(
    input: &[Vector<F, N>],
    patches: &mut [Vector<F, N>],
    sizes: Sizes,
    size: usize,
    channels: usize,
    pitch: usize,
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS >= size {
        terminate!();
    }
    let (place, channel) = (ABSOLUTE_POS / channels, ABSOLUTE_POS % channels);
    let place = place as u32;
    let taps = sizes.kernel_height * sizes.kernel_width;
    let (tap, pixel) = (place % taps, place / taps);
    let (output_x, rest) = (pixel % sizes.output_width, pixel / sizes.output_width);
    let (output_y, image) = (rest % sizes.output_height, rest / sizes.output_height);
    // Beyond the upper or left border these are below the padding.
    let y = output_y * sizes.stride_y + tap / sizes.kernel_width * sizes.dilation_y;
    let x = output_x * sizes.stride_x + tap % sizes.kernel_width * sizes.dilation_x;
    let mut value = Vector::<F, N>::new(F::new(0.0));
    if y >= sizes.padding_y
        && y < sizes.padding_y + sizes.height
        && x >= sizes.padding_x
        && x < sizes.padding_x + sizes.width
    {
        let row = (image * sizes.height + y - sizes.padding_y) * sizes.width + x - sizes.padding_x;
        value = input[row as usize * pitch + channel];
    }
    patches[ABSOLUTE_POS] = value;
}

/// The transpose of [`unfold`]: sums for each input pixel what its patches hold of it, in the order of the kernel.
#[cube(launch)]
fn fold<F: Float, N: Size>(
    patches: &[Vector<F, N>],
    other: &[Vector<F, N>],
    input: &mut [Vector<F, N>],
    sizes: Sizes,
    size: usize,
    channels: usize,
    other_pitch: usize,
    #[comptime] with_other: bool,
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS >= size {
        terminate!();
    }
    let (place, channel) = (ABSOLUTE_POS / channels, ABSOLUTE_POS % channels);
    let pixel = place as u32;
    let (x, rest) = (pixel % sizes.width, pixel / sizes.width);
    let (y, image) = (rest % sizes.height, rest / sizes.height);
    let mut sum = Vector::<f32, N>::new(0.0);
    if comptime!(with_other) {
        sum = Vector::cast_from(other[place * other_pitch + channel]);
    }
    for tap_y in 0..sizes.kernel_height {
        let (below, reach_y) = (y + sizes.padding_y, tap_y * sizes.dilation_y);
        if below >= reach_y && (below - reach_y) % sizes.stride_y == 0 {
            let output_y = (below - reach_y) / sizes.stride_y;
            for tap_x in 0..sizes.kernel_width {
                let (right, reach_x) = (x + sizes.padding_x, tap_x * sizes.dilation_x);
                if right >= reach_x && (right - reach_x) % sizes.stride_x == 0 {
                    let output_x = (right - reach_x) / sizes.stride_x;
                    if output_y < sizes.output_height && output_x < sizes.output_width {
                        let row = (image * sizes.output_height + output_y) * sizes.output_width + output_x;
                        let patch = row * sizes.kernel_height * sizes.kernel_width
                            + tap_y * sizes.kernel_width
                            + tap_x;
                        sum += Vector::<f32, N>::cast_from(patches[patch as usize * channels + channel]);
                    }
                }
            }
        }
    }
    input[ABSOLUTE_POS] = Vector::cast_from(sum);
}

/// The patches of some images, `[images · H' · W', taps · C]`.
pub(super) fn patches(input: CubeTensor, geometry: &Geometry, element: ElemType) -> CubeTensor {
    let [images, channels, _, _] = input.meta.shape().dims();
    let input = Rows::of(input);
    let [height, width] = geometry.output;
    let shape = Shape::new([images * height * width, geometry.taps() * channels]);
    let patches = dense(&input, shape);
    let vector = input.width_with(&[]);
    let size = patches.meta.shape().num_elements() / vector;
    let (count, dim) = one_unit_each(size, UNITS);
    unfold::launch(
        input.client(),
        count,
        dim,
        vector,
        input.argument(),
        crate::cube::buffer(&patches),
        geometry.launched(),
        size,
        channels / vector,
        input.pitch(vector),
        element,
    );
    patches
}

/// The sum of patches of some images, `[images · H' · W', taps · C]`, and of `other`: `[images, C, H, W]`.
pub(super) fn sums(
    patches: &CubeTensor,
    other: Option<CubeTensor>,
    shape: [usize; 4],
    geometry: &Geometry,
    element: ElemType,
) -> CubeTensor {
    let channels = shape[1];
    let (sums, other) = (Rows::empty(&shape, patches), other.map(Rows::of));
    // Where there is none, the kernel gets a tensor that it does not read.
    let added = other.as_ref().unwrap_or(&sums);
    let vector = sums.width_with(&[added]);
    let size = shape.iter().product::<usize>() / vector;
    let (count, dim) = one_unit_each(size, UNITS);
    fold::launch(
        sums.client(),
        count,
        dim,
        vector,
        crate::cube::buffer(patches),
        if other.is_some() { added.argument() } else { crate::cube::buffer(patches) },
        sums.argument(),
        geometry.launched(),
        size,
        channels / vector,
        added.pitch(vector),
        other.is_some(),
        element,
    );
    sums.into_tensor()
}

fn dense(beside: &Rows, shape: Shape) -> CubeTensor {
    let tensor = beside.tensor();
    empty_device_contiguous_dtype(tensor.client.clone(), tensor.device.clone(), shape, tensor.dtype)
}
