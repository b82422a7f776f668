//! Maximum pooling on GPUs, over the channels of a pixel side by side.
//!
//! The gradient takes two passes: each window notes the pixel of its maximum, then each pixel gathers from the windows that it is
//! in. There are no atomic additions, so it is the same on every run.

use super::{
    MaxPool2dOptions,
    backend::{MaxPoolOps, input_gradient},
};
use crate::cube::{Maps, Rows, Shares, element, empty};
use burn::backend::{Cube, TensorMetadata, ops::ModuleOps};
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

/// The first pixel of window `index` along an axis, and the one behind its last; there is at least one between.
#[cube]
fn window(
    index: usize,
    length: usize,
    #[comptime] options: MaxPool2dOptions,
    #[comptime] axis: usize,
) -> (usize, usize) {
    let (kernel, padding) = comptime!((options.kernel[axis], options.padding[axis]));
    let start = index * comptime!(options.stride[axis]);
    (max(start, padding) - padding, min(start + kernel - padding, length))
}

/// The first window with pixel `index` along an axis, and the one behind the last.
#[cube]
fn windows(
    index: usize,
    count: usize,
    #[comptime] options: MaxPool2dOptions,
    #[comptime] axis: usize,
) -> (usize, usize) {
    let (kernel, stride) = comptime!((options.kernel[axis], options.stride[axis]));
    let place = index + comptime!(options.padding[axis]);
    // The division rounds up: window w is over before the pixel when w · stride + kernel ≤ place.
    let first = (max(place + 1, kernel) - kernel + comptime!(stride - 1)) / stride;
    (first, min(place / stride + 1, count))
}

/// The maximum of each window and the number of its pixel, `row · width + column`; the first of equal ones, and of several that
/// are not a number.
#[cube]
fn maximum<F: Float, N: Size>(
    input: &[Vector<F, N>],
    planes: &Maps,
    #[comptime] options: MaxPool2dOptions,
) -> (Vector<F, N>, Vector<u32, N>) {
    let (pixel, channel) = (ABSOLUTE_POS / planes.channels, ABSOLUTE_POS % planes.channels);
    let (row, column) = (pixel / planes.columns, pixel % planes.columns);
    let (image, row) = (row / planes.rows, row % planes.rows);
    let (top, bottom) = window(row, planes.height, options, 0usize);
    let (left, right) = window(column, planes.width, options, 1usize);
    let first = image * planes.height * planes.width;
    let mut maximum = input[(first + top * planes.width + left) * planes.pitch + channel];
    let mut place = Vector::<u32, N>::new((top * planes.width + left) as u32);
    for y in top..bottom {
        for x in left..right {
            let number = y * planes.width + x;
            let value = input[(first + number) * planes.pitch + channel];
            let is_first_nan = value.is_nan().vec_and(maximum.equal(&maximum));
            let is_larger = value.greater_than(&maximum).or(is_first_nan);
            maximum = select_many(is_larger, value, maximum);
            place = select_many(is_larger, Vector::new(number as u32), place);
        }
    }
    (maximum, place)
}

#[cube(launch)]
fn pool<F: Float, N: Size>(
    input: &[Vector<F, N>],
    output: &mut [Vector<F, N>],
    planes: Maps,
    #[comptime] options: MaxPool2dOptions,
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS >= planes.size {
        terminate!();
    }
    let (maximum, _place) = maximum::<F, N>(input, &planes, options);
    output[ABSOLUTE_POS] = maximum;
}

#[cube(launch)]
fn find<F: Float, N: Size>(
    input: &[Vector<F, N>],
    places: &mut [Vector<u32, N>],
    planes: Maps,
    #[comptime] options: MaxPool2dOptions,
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS >= planes.size {
        terminate!();
    }
    let (_maximum, place) = maximum::<F, N>(input, &planes, options);
    places[ABSOLUTE_POS] = place;
}

/// The sum over the windows whose maximum a pixel is.
#[cube(launch)]
fn gather<F: Float, N: Size>(
    places: &[Vector<u32, N>],
    gradient: &[Vector<F, N>],
    output: &mut [Vector<F, N>],
    planes: Maps,
    #[comptime] options: MaxPool2dOptions,
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS >= planes.size {
        terminate!();
    }
    let (pixel, channel) = (ABSOLUTE_POS / planes.channels, ABSOLUTE_POS % planes.channels);
    let (row, x) = (pixel / planes.width, pixel % planes.width);
    let (image, y) = (row / planes.height, row % planes.height);
    let own = Vector::<u32, N>::new((y * planes.width + x) as u32);
    let (top, bottom) = windows(y, planes.rows, options, 0usize);
    let (left, right) = windows(x, planes.columns, options, 1usize);
    let mut sum = Vector::<f32, N>::new(0.0);
    for row in top..bottom {
        for column in left..right {
            let window = (image * planes.rows + row) * planes.columns + column;
            let is_own = places[window * planes.channels + channel].equal(&own);
            let value = Vector::<f32, N>::cast_from(gradient[window * planes.pitch + channel]);
            sum += select_many(is_own, value, Vector::new(0.0));
        }
    }
    output[ABSOLUTE_POS] = Vector::cast_from(sum);
}

/// `[height, width]` of an input and of its output.
type Sizes = [[usize; 2]; 2];

/// Batch and channels of an input, and the sizes.
fn shapes(input: &CubeTensor, options: MaxPool2dOptions) -> ([usize; 2], Sizes) {
    let [batch, channels, height, width] = input.shape().dims();
    ([batch, channels], [[height, width], [options.output(0, height), options.output(1, width)]])
}

fn maxima(input: CubeTensor, options: MaxPool2dOptions, kind: ElemType) -> CubeTensor {
    let ([batch, channels], sizes) = shapes(&input, options);
    let output = Rows::empty(&[batch, channels, sizes[1][0], sizes[1][1]], &input);
    let input = Rows::of(input);
    let shares = Shares::of(&output, &[&input]);
    pool::launch(
        input.client(),
        shares.count(),
        shares.dim(),
        shares.width,
        input.argument(),
        output.argument(),
        shares.maps(&input, sizes),
        options,
        kind,
    );
    output.into_tensor()
}

fn routed(
    input: CubeTensor,
    output_gradient: CubeTensor,
    options: MaxPool2dOptions,
    kind: ElemType,
) -> CubeTensor {
    let (_, sizes) = shapes(&input, options);
    let (input, gradient) = (Rows::of(input), Rows::of(output_gradient));
    let output = input.another();
    let places = empty(gradient.tensor(), gradient.tensor().shape(), DType::U32);
    let windows = Shares::new(gradient.count(), &input, &[&gradient, &output]);
    let client = input.client();
    find::launch(
        client,
        windows.count(),
        windows.dim(),
        windows.width,
        input.argument(),
        crate::cube::buffer(&places),
        windows.maps(&input, sizes),
        options,
        kind,
    );
    let pixels = Shares::new(output.count(), &input, &[&gradient, &output]);
    gather::launch(
        client,
        pixels.count(),
        pixels.dim(),
        pixels.width,
        crate::cube::buffer(&places),
        gradient.argument(),
        output.argument(),
        pixels.maps(&gradient, sizes),
        options,
        kind,
    );
    output.into_tensor()
}

impl MaxPoolOps for Cube {
    fn window_maximum(input: CubeTensor, options: MaxPool2dOptions) -> CubeTensor {
        let filled = input.shape().num_elements() > 0;
        match element(input.dtype).filter(|_| filled) {
            Some(kind) => maxima(input, options, kind),
            None => {
                let MaxPool2dOptions { kernel, stride, padding } = options;
                Self::max_pool2d(input, kernel, stride, padding, [1, 1], false)
            }
        }
    }

    fn window_maximum_gradient(
        input: CubeTensor,
        output_gradient: CubeTensor,
        options: MaxPool2dOptions,
    ) -> CubeTensor {
        let alike = input.dtype == output_gradient.dtype && input.shape().num_elements() > 0;
        match element(input.dtype).filter(|_| alike) {
            Some(kind) => routed(input, output_gradient, options, kind),
            None => input_gradient::<Self>(input, output_gradient, options),
        }
    }
}
