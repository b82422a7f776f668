//! RoIAlign on GPUs.
//!
//! The host finds the taps of every box (see [`sampling`](super::sampling)) and sends them as flat lists. Pooling has a unit
//! for each output cell and vector of channels, its gradient one for each pixel and vector of channels, which gathers from the
//! cells that the pixel is part of: there are no atomic additions, so both are the same on every run.

use super::sampling::{AxisTaps, SampledBox, sample_boxes};
use super::{ImageBox, RoiAlignOps, RoiAlignOptions, composed};
use crate::cube::{Maps, Rows, Shares, element};
use burn::backend::{Cube, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;
use std::sync::Arc;

/// Weights of rows, columns or cells, with the place that each is for.
#[derive(Default)]
struct FlatTaps {
    places: Vec<u32>,
    weights: Vec<f32>,
    /// Where each list begins, and the last one ends.
    bounds: Vec<u32>,
}

impl FlatTaps {
    fn new() -> Self {
        Self { bounds: vec![0], ..Self::default() }
    }

    fn push(&mut self, place: usize, weight: f32) {
        self.places.push(place as u32);
        self.weights.push(weight);
    }

    fn end_list(&mut self) {
        self.bounds.push(self.places.len() as u32);
    }

    /// The taps of every cell of these axes.
    fn of_cells<'a>(axes: impl Iterator<Item = &'a AxisTaps>) -> Self {
        let mut flat = Self::new();
        for taps in axes.flat_map(AxisTaps::cells) {
            taps.iter().for_each(|tap| flat.push(tap.index, tap.weight));
            flat.end_list();
        }
        flat
    }
}

/// The cells that rows and columns of a feature map are part of.
struct PixelLists {
    /// For each row of each image the rows of cells that it is part of, numbered over all boxes.
    vertical: FlatTaps,
    /// For each column in the span of each box the columns of cells that it is part of.
    horizontal: FlatTaps,
    /// First column of each box, end of its columns, and the list of the first one in `horizontal`.
    spans: Vec<u32>,
}

impl PixelLists {
    fn new(rois: &[SampledBox], [images, height]: [usize; 2], rows: usize) -> Self {
        let mut by_row = vec![Vec::new(); images * height];
        let (mut horizontal, mut spans) = (FlatTaps::new(), Vec::with_capacity(3 * rois.len()));
        for (index, roi) in rois.iter().enumerate() {
            for (y, taps) in roi.vertical.by_pixel().iter() {
                let cells = taps.iter().map(|tap| (index * rows + tap.index, tap.weight));
                by_row[roi.image * height + y].extend(cells);
            }
            let columns = roi.horizontal.by_pixel();
            let span = columns.span();
            spans.extend([span.start, span.end, horizontal.bounds.len() - 1].map(|value| value as u32));
            let mut next = span.start;
            for (x, taps) in columns.iter() {
                (next..x).for_each(|_| horizontal.end_list());
                taps.iter().for_each(|tap| horizontal.push(tap.index, tap.weight));
                horizontal.end_list();
                next = x + 1;
            }
        }
        let mut vertical = FlatTaps::new();
        for cells in by_row {
            cells.into_iter().for_each(|(cell, weight)| vertical.push(cell, weight));
            vertical.end_list();
        }
        Self { vertical, horizontal, spans }
    }
}

/// Numbers of the host as an argument of a kernel. A kernel cannot take an empty list, so one number follows.
fn sent<T: bytemuck::Pod + bytemuck::Zeroable>(client: &Client, values: &[T]) -> BufferArg {
    let mut padded = values.to_vec();
    padded.push(T::zeroed());
    let handle = client.create_from_slice(bytemuck::cast_slice(&padded));
    // SAFETY: the length is that of what has been sent.
    unsafe { BufferArg::from_raw_parts(handle, padded.len()) }
}

/// [`FlatTaps`] in a kernel.
#[derive(CubeType, CubeLaunch)]
struct Taps {
    bounds: Box<[u32]>,
    places: Box<[u32]>,
    weights: Box<[f32]>,
}

impl FlatTaps {
    fn sent(&self, client: &Client) -> TapsLaunch {
        TapsLaunch::new(sent(client, &self.bounds), sent(client, &self.places), sent(client, &self.weights))
    }
}

/// The average over the sampling points of a cell.
#[cube(launch)]
fn pool<F: Float, N: Size>(
    features: &[Vector<F, N>],
    images: &[u32],
    vertical: &Taps,
    horizontal: &Taps,
    output: &mut [Vector<F, N>],
    sizes: Maps,
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS >= sizes.size {
        terminate!();
    }
    let (cell, channel) = (ABSOLUTE_POS / sizes.channels, ABSOLUTE_POS % sizes.channels);
    let (cell_row, column) = (cell / sizes.columns, cell % sizes.columns);
    let roi = cell_row / sizes.rows;
    let cell_column = roi * sizes.columns + column;
    let image = images[roi] as usize;
    let mut sum = Vector::<f32, N>::new(0.0);
    for down in vertical.bounds[cell_row]..vertical.bounds[cell_row + 1] {
        let y = vertical.places[down as usize] as usize;
        let first = (image * sizes.height + y) * sizes.width;
        let mut row = Vector::<f32, N>::new(0.0);
        for across in horizontal.bounds[cell_column]..horizontal.bounds[cell_column + 1] {
            let x = horizontal.places[across as usize] as usize;
            let weight = Vector::<f32, N>::new(horizontal.weights[across as usize]);
            row += weight * Vector::cast_from(features[(first + x) * sizes.pitch + channel]);
        }
        sum += Vector::<f32, N>::new(vertical.weights[down as usize]) * row;
    }
    output[ABSOLUTE_POS] = Vector::cast_from(sum);
}

/// The gradient of a pixel.
#[cube(launch)]
fn gather<F: Float, N: Size>(
    gradient: &[Vector<F, N>],
    vertical: &Taps,
    horizontal: &Taps,
    spans: &[u32],
    output: &mut [Vector<F, N>],
    sizes: Maps,
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS >= sizes.size {
        terminate!();
    }
    let (pixel, channel) = (ABSOLUTE_POS / sizes.channels, ABSOLUTE_POS % sizes.channels);
    let (map_row, x) = (pixel / sizes.width, (pixel % sizes.width) as u32);
    let mut sum = Vector::<f32, N>::new(0.0);
    for down in vertical.bounds[map_row]..vertical.bounds[map_row + 1] {
        let cell_row = vertical.places[down as usize] as usize;
        let span = 3 * (cell_row / sizes.rows);
        let first = spans[span];
        if x >= first && x < spans[span + 1] {
            let list = (spans[span + 2] + x - first) as usize;
            let mut row = Vector::<f32, N>::new(0.0);
            for across in horizontal.bounds[list]..horizontal.bounds[list + 1] {
                let cell = cell_row * sizes.columns + horizontal.places[across as usize] as usize;
                let weight = Vector::<f32, N>::new(horizontal.weights[across as usize]);
                row += weight * Vector::cast_from(gradient[cell * sizes.pitch + channel]);
            }
            sum += Vector::<f32, N>::new(vertical.weights[down as usize]) * row;
        }
    }
    output[ABSOLUTE_POS] = Vector::cast_from(sum);
}

fn pooled(features: CubeTensor, boxes: &[ImageBox], options: &RoiAlignOptions, kind: ElemType) -> CubeTensor {
    let shape @ [_, channels, height, width] = features.shape().dims();
    let [rows, columns] = options.output_size;
    let rois = sample_boxes(boxes, shape, options);
    let output = Rows::empty(&[rois.len(), channels, rows, columns], &features);
    let features = Rows::of(features);
    let shares = Shares::of(&output, &[&features]);
    let images: Vec<u32> = rois.iter().map(|roi| roi.image as u32).collect();
    let vertical = FlatTaps::of_cells(rois.iter().map(|roi| &roi.vertical));
    let horizontal = FlatTaps::of_cells(rois.iter().map(|roi| &roi.horizontal));
    let client = features.client();
    pool::launch(
        client,
        shares.count(),
        shares.dim(),
        shares.width,
        features.argument(),
        sent(client, &images),
        vertical.sent(client),
        horizontal.sent(client),
        output.argument(),
        shares.maps(&features, [[height, width], options.output_size]),
        kind,
    );
    output.into_tensor()
}

fn gathered(
    gradient: CubeTensor,
    boxes: &[ImageBox],
    shape: [usize; 4],
    options: &RoiAlignOptions,
    kind: ElemType,
) -> CubeTensor {
    let [images, _, height, width] = shape;
    let rois = sample_boxes(boxes, shape, options);
    let lists = PixelLists::new(&rois, [images, height], options.output_size[0]);
    let output = Rows::empty(&shape, &gradient);
    let gradient = Rows::of(gradient);
    let shares = Shares::of(&output, &[&gradient]);
    let client = gradient.client();
    gather::launch(
        client,
        shares.count(),
        shares.dim(),
        shares.width,
        gradient.argument(),
        lists.vertical.sent(client),
        lists.horizontal.sent(client),
        sent(client, &lists.spans),
        output.argument(),
        shares.maps(&gradient, [[height, width], options.output_size]),
        kind,
    );
    output.into_tensor()
}

impl RoiAlignOps for Cube {
    fn roi_align(features: CubeTensor, boxes: Arc<[ImageBox]>, options: RoiAlignOptions) -> CubeTensor {
        let filled = !boxes.is_empty() && features.shape().num_elements() > 0;
        match element(features.dtype).filter(|_| filled) {
            Some(kind) => pooled(features, &boxes, &options, kind),
            None => composed::forward::<Self>(features, &boxes, &options),
        }
    }

    fn roi_align_backward(
        grad: CubeTensor,
        boxes: Arc<[ImageBox]>,
        features_shape: [usize; 4],
        options: RoiAlignOptions,
    ) -> CubeTensor {
        let filled = !boxes.is_empty() && features_shape.iter().product::<usize>() > 0;
        match element(grad.dtype).filter(|_| filled) {
            Some(kind) => gathered(grad, &boxes, features_shape, &options, kind),
            None => composed::backward::<Self>(grad, &boxes, features_shape, &options),
        }
    }
}
