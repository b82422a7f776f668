//! The CPU kernels of RoIAlign.
//!
//! Both directions are parallel over the planes (image, channel) of the features. A plane stays in cache while all
//! boxes of its image are pooled, and its boxes are added in order, so the result does not depend on the number
//! of threads.
//!
//! PH×PW output grid, H×W feature map.

use burn::backend::{Flex, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{DType, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::RoiAlignOptions;
use super::backend::RoiAlignOps;
use super::composed::{self, describe_on_host};
use super::sampling::{Roi, Tap};

impl RoiAlignOps for Flex {
    fn roi_align(
        features: FloatTensor<Self>,
        boxes: FloatTensor<Self>,
        options: RoiAlignOptions,
    ) -> FloatTensor<Self> {
        if features.dtype() != DType::F32 {
            return composed::forward::<Self>(features, boxes, &options);
        }
        let shape @ [_, channels, _, _] = features.shape().dims();
        let rois = describe_on_host::<Self>(boxes, shape, &options);
        let [rows, columns] = options.output_size;
        let features = features.to_contiguous();
        let output = pool(features.storage(), shape, &rois, options.output_size);
        FlexTensor::from_data(TensorData::new(output, [rois.len(), channels, rows, columns]))
    }

    fn roi_align_backward(
        grad: FloatTensor<Self>,
        boxes: FloatTensor<Self>,
        features_shape: [usize; 4],
        options: RoiAlignOptions,
    ) -> FloatTensor<Self> {
        if grad.dtype() != DType::F32 {
            return composed::backward::<Self>(grad, boxes, features_shape, &options);
        }
        let rois = describe_on_host::<Self>(boxes, features_shape, &options);
        let grad = grad.to_contiguous();
        let features = spread(grad.storage(), features_shape, &rois, options.output_size);
        FlexTensor::from_data(TensorData::new(features, features_shape))
    }
}

/// Pools every box in every channel of its image.
fn pool(
    features: &[f32],
    shape @ [_, channels, height, width]: [usize; 4],
    rois: &[Roi],
    [rows, columns]: [usize; 2],
) -> Vec<f32> {
    let mut output = vec![0.0; rois.len() * channels * rows * columns];
    let mut planes: Vec<Vec<&mut [f32]>> = Vec::new();
    planes.resize_with(shape[0] * channels, Vec::new);
    for (index, grid) in output.chunks_exact_mut(rows * columns).enumerate() {
        planes[rois[index / channels].image * channels + index % channels].push(grid);
    }
    let members = members_of_images(rois, shape[0]);
    planes.into_par_iter().enumerate().for_each_init(
        || vec![0.0; width],
        |strip, (index, grids)| {
            let plane = &features[index * height * width..][..height * width];
            for (&roi, grid) in members[index / channels].iter().zip(grids) {
                pool_box(plane, width, &rois[roi], grid, columns, strip);
            }
        },
    );
    output
}

/// Pools one box of one plane, a row of cells after the other: first over the height, then over the width.
fn pool_box(plane: &[f32], width: usize, roi: &Roi, grid: &mut [f32], columns: usize, strip: &mut [f32]) {
    let span = roi.horizontal.span();
    let strip = &mut strip[..span.len()];
    for (taps, cells) in roi.vertical.cells().zip(grid.chunks_exact_mut(columns)) {
        strip.fill(0.0);
        for tap in taps {
            add_scaled(strip, &plane[tap.index * width..][span.clone()], tap.weight);
        }
        for (taps, cell) in roi.horizontal.cells().zip(cells) {
            *cell = taps.iter().map(|tap: &Tap| tap.weight * strip[tap.index - span.start]).sum();
        }
    }
}

/// Adds the gradient of every box to the planes of its image.
fn spread(
    grad: &[f32],
    [images, channels, height, width]: [usize; 4],
    rois: &[Roi],
    [rows, columns]: [usize; 2],
) -> Vec<f32> {
    let mut features = vec![0.0; images * channels * height * width];
    let members = members_of_images(rois, images);
    features.par_chunks_exact_mut((height * width).max(1)).enumerate().for_each_init(
        || vec![0.0; width],
        |strip, (index, plane)| {
            let (image, channel) = (index / channels, index % channels);
            for &roi in &members[image] {
                let grid = &grad[(roi * channels + channel) * rows * columns..][..rows * columns];
                spread_box(plane, width, &rois[roi], grid, columns, strip);
            }
        },
    );
    features
}

/// Adds the gradient of one box to one plane: [`pool_box`] backwards.
fn spread_box(plane: &mut [f32], width: usize, roi: &Roi, grid: &[f32], columns: usize, strip: &mut [f32]) {
    let span = roi.horizontal.span();
    let strip = &mut strip[..span.len()];
    for (taps, cells) in roi.vertical.cells().zip(grid.chunks_exact(columns)) {
        strip.fill(0.0);
        for (taps, cell) in roi.horizontal.cells().zip(cells) {
            for tap in taps {
                strip[tap.index - span.start] += tap.weight * cell;
            }
        }
        for tap in taps {
            add_scaled(&mut plane[tap.index * width..][span.clone()], strip, tap.weight);
        }
    }
}

/// `target += weight · source`
fn add_scaled(target: &mut [f32], source: &[f32], weight: f32) {
    for (target, source) in target.iter_mut().zip(source) {
        *target += weight * source;
    }
}

/// The boxes of each image, in order.
fn members_of_images(rois: &[Roi], images: usize) -> Vec<Vec<usize>> {
    let mut members = vec![Vec::new(); images];
    for (index, roi) in rois.iter().enumerate() {
        members[roi.image].push(index);
    }
    members
}
