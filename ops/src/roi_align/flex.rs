//! The CPU kernels of RoIAlign.
//!
//! A task is a block of channels of one image. It lays the rows of the feature map that the image's boxes touch
//! out with the channels innermost and then goes through the boxes in order, so that every sum is made by one task
//! and results do not depend on the number of threads. Of each box, a row of the map is pooled horizontally once
//! and added to the cells that it is part of; the gradient goes the same way back.
//!
//! PH×PW output grid, H×W feature map, L channels of a block.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

use burn::backend::{Flex, TensorMetadata, tensor::FloatTensor};
use burn::tensor::bf16;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::backend::RoiAlignOps;
use super::composed;
use super::sampling::{AxisTaps, PixelTaps, SampledBox, sample_boxes};
use super::tile::{LANES, Pixel, add_scaled, interleave, separate};
use super::{ImageBox, RoiAlignOptions};
use crate::cpu::{DisjointMut, Number, Precision, contiguous, tensor_of, values, written_by};
use crate::vectorized;

impl RoiAlignOps for Flex {
    fn roi_align(
        features: FloatTensor<Self>,
        boxes: Arc<[ImageBox]>,
        options: RoiAlignOptions,
    ) -> FloatTensor<Self> {
        match Precision::of(&[&features], &[]) {
            Precision::F32 => pooled::<f32>(features, &boxes, &options),
            Precision::Bf16 => pooled::<bf16>(features, &boxes, &options),
            Precision::Other => composed::forward::<Self>(features, &boxes, &options),
        }
    }

    fn roi_align_backward(
        grad: FloatTensor<Self>,
        boxes: Arc<[ImageBox]>,
        features_shape: [usize; 4],
        options: RoiAlignOptions,
    ) -> FloatTensor<Self> {
        match Precision::of(&[&grad], &[]) {
            Precision::F32 => features_gradient::<f32>(grad, &boxes, features_shape, &options),
            Precision::Bf16 => features_gradient::<bf16>(grad, &boxes, features_shape, &options),
            Precision::Other => composed::backward::<Self>(grad, &boxes, features_shape, &options),
        }
    }
}

fn pooled<N: Number>(features: FlexTensor, boxes: &[ImageBox], options: &RoiAlignOptions) -> FlexTensor {
    let shape: [usize; 4] = features.shape().dims();
    let rois = sample_boxes(boxes, shape, options);
    let pooling = Pooling::new(shape, rois, options.output_size);
    let features = contiguous(features);
    let [rows, columns] = options.output_size;
    tensor_of(pooling.pool::<N>(values(&features)), [pooling.rois.len(), shape[1], rows, columns])
}

fn features_gradient<N: Number>(
    grad: FlexTensor,
    boxes: &[ImageBox],
    features_shape: [usize; 4],
    options: &RoiAlignOptions,
) -> FlexTensor {
    let rois = sample_boxes(boxes, features_shape, options);
    let pooling = Pooling::new(features_shape, rois, options.output_size);
    let grad = contiguous(grad);
    tensor_of(pooling.spread::<N>(values(&grad)), features_shape)
}

/// The weights of a box.
struct Weights {
    /// Rows of the map with the cells that they are part of.
    vertical: PixelTaps,
    /// Cells with their columns of the map, and the other way round.
    cells: AxisTaps,
    columns: PixelTaps,
}

/// Boxes on a feature map.
struct Pooling {
    channels: usize,
    /// H and W.
    size: [usize; 2],
    /// PH and PW.
    grid: [usize; 2],
    rois: Vec<Weights>,
    images: Vec<Image>,
}

/// What is pooled of an image.
#[derive(Clone, Default)]
struct Image {
    /// Its boxes, in order.
    rois: Vec<usize>,
    /// Pixels of the rows that they touch.
    touched: Vec<Range<usize>>,
}

/// Memory of a thread.
struct RoiBuffers {
    /// The feature map or its gradient, `[H·W, L]`.
    tile: Vec<Pixel>,
    /// An output grid, `[PH·PW, L]`.
    cells: Vec<Pixel>,
    /// A row of the map pooled horizontally, `[PW, L]`.
    strip: Vec<Pixel>,
}

impl Pooling {
    fn new([images, channels, height, width]: [usize; 4], rois: Vec<SampledBox>, grid: [usize; 2]) -> Self {
        let mut members = vec![Image::default(); images];
        let mut touched = vec![vec![false; height]; images];
        let weigh = |(index, roi): (usize, SampledBox)| {
            let (vertical, columns) = (roi.vertical.by_pixel(), roi.horizontal.by_pixel());
            members[roi.image].rois.push(index);
            touched[roi.image][vertical.span()].fill(true);
            Weights { vertical, cells: roi.horizontal, columns }
        };
        let rois = rois.into_iter().enumerate().map(weigh).collect();
        for (image, rows) in members.iter_mut().zip(&touched) {
            image.touched = runs(rows).map(|rows| rows.start * width..rows.end * width).collect();
        }
        Self { channels, size: [height, width], grid, rois, images: members }
    }

    fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    fn cells(&self) -> usize {
        self.grid[0] * self.grid[1]
    }

    /// Runs a task for each block of channels of each image.
    fn for_each_block(&self, task: impl Fn(&Image, usize, Range<usize>, &mut RoiBuffers) + Sync) {
        let blocks = self.channels.div_ceil(LANES);
        let scratch = || RoiBuffers {
            tile: vec![[0.0; LANES]; self.pixels()],
            cells: vec![[0.0; LANES]; self.cells()],
            strip: vec![[0.0; LANES]; self.grid[1]],
        };
        (0..self.images.len() * blocks).into_par_iter().for_each_init(scratch, |scratch, index| {
            let (image, start) = (index / blocks, index % blocks * LANES);
            let channels = start..self.channels.min(start + LANES);
            vectorized(
                #[inline(always)]
                || task(&self.images[image], image, channels, scratch),
            );
        });
    }

    /// Where `channels` of item `index` of a tensor lie that has `length` elements in each.
    fn part(&self, index: usize, channels: &Range<usize>, length: usize) -> Range<usize> {
        let start = index * self.channels;
        (start + channels.start) * length..(start + channels.end) * length
    }

    /// The pooled boxes, `[rois, channels, PH, PW]`, of `features`.
    fn pool<N: Number>(&self, features: &[N]) -> Vec<N> {
        let (pixels, cells) = (self.pixels(), self.cells());
        let task = |output: DisjointMut<'_, N>,
                    image: &Image,
                    index: usize,
                    channels: Range<usize>,
                    scratch: &mut RoiBuffers| {
            for touched in &image.touched {
                let planes = &features[self.part(index, &channels, pixels)];
                interleave(planes, pixels, touched.clone(), &mut scratch.tile);
            }
            for &roi in &image.rois {
                self.pool_box(&self.rois[roi], scratch);
                // SAFETY: a box lies in one image, and blocks of channels do not overlap.
                let target = unsafe { output.unwritten_part(self.part(roi, &channels, cells)) };
                separate(&scratch.cells, cells, 0..cells, target);
            }
        };
        let length = self.rois.len() * self.channels * cells;
        // SAFETY: every box belongs to an image, whose tasks write all of its channels.
        unsafe {
            written_by(length, |output| {
                self.for_each_block(
                    #[inline(always)]
                    |image, index, channels, scratch| task(output, image, index, channels, scratch),
                );
            })
        }
    }

    /// Pools one box of a block.
    #[inline(always)]
    fn pool_box(&self, roi: &Weights, RoiBuffers { tile, cells, strip }: &mut RoiBuffers) {
        let (width, columns) = (self.size[1], self.grid[1]);
        cells.fill([0.0; LANES]);
        for (y, rows) in roi.vertical.iter() {
            let pixels = &tile[y * width..(y + 1) * width];
            for (sum, taps) in strip.iter_mut().zip(roi.cells.cells()) {
                let mut pooled = [0.0; LANES];
                taps.iter().for_each(|tap| add_scaled(&mut pooled, &pixels[tap.index], tap.weight));
                *sum = pooled;
            }
            for row in rows {
                let cells = &mut cells[row.index * columns..(row.index + 1) * columns];
                cells.iter_mut().zip(&*strip).for_each(|(cell, sum)| add_scaled(cell, sum, row.weight));
            }
        }
    }

    /// The gradient of the features, `[images, channels, H, W]`, from that of the pooled boxes.
    fn spread<N: Number>(&self, gradient: &[N]) -> Vec<N> {
        let (pixels, cells) = (self.pixels(), self.cells());
        let task = |output: DisjointMut<'_, N>,
                    image: &Image,
                    index: usize,
                    channels: Range<usize>,
                    scratch: &mut RoiBuffers| {
            for touched in &image.touched {
                scratch.tile[touched.clone()].fill([0.0; LANES]);
            }
            for &roi in &image.rois {
                let source = &gradient[self.part(roi, &channels, cells)];
                interleave(source, cells, 0..cells, &mut scratch.cells);
                self.spread_box(&self.rois[roi], scratch);
            }
            // SAFETY: blocks of channels do not overlap.
            let target = unsafe { output.unwritten_part(self.part(index, &channels, pixels)) };
            for range in untouched(&image.touched, pixels) {
                for plane in target.chunks_exact_mut(pixels.max(1)) {
                    plane[range.clone()].fill(MaybeUninit::new(N::default()));
                }
            }
            for touched in &image.touched {
                separate(&scratch.tile, pixels, touched.clone(), target);
            }
        };
        let length = self.images.len() * self.channels * pixels;
        // SAFETY: the tasks of an image write all of its channels, the pixels that boxes touch and the others.
        unsafe {
            written_by(length, |output| {
                self.for_each_block(
                    #[inline(always)]
                    |image, index, channels, scratch| task(output, image, index, channels, scratch),
                );
            })
        }
    }

    /// Adds the gradient of one box to a block: [`pool_box`](Self::pool_box) backwards.
    #[inline(always)]
    fn spread_box(&self, roi: &Weights, RoiBuffers { tile, cells, strip }: &mut RoiBuffers) {
        let (width, columns) = (self.size[1], self.grid[1]);
        for (y, rows) in roi.vertical.iter() {
            strip.fill([0.0; LANES]);
            for row in rows {
                let cells = &cells[row.index * columns..(row.index + 1) * columns];
                strip.iter_mut().zip(cells).for_each(|(sum, cell)| add_scaled(sum, cell, row.weight));
            }
            let pixels = &mut tile[y * width..(y + 1) * width];
            for (x, taps) in roi.columns.iter() {
                let mut sum = pixels[x];
                taps.iter().for_each(|tap| add_scaled(&mut sum, &strip[tap.index], tap.weight));
                pixels[x] = sum;
            }
        }
    }
}

/// The ranges in which `flags` are set.
fn runs(flags: &[bool]) -> impl Iterator<Item = Range<usize>> {
    let starts = (0..flags.len()).filter(|&index| flags[index] && (index == 0 || !flags[index - 1]));
    starts.map(|start| start..flags[start..].iter().position(|flag| !flag).map_or(flags.len(), |n| start + n))
}

/// What lies between ascending ranges, before and behind them, up to `end`.
fn untouched(touched: &[Range<usize>], end: usize) -> impl Iterator<Item = Range<usize>> {
    let starts = std::iter::once(0).chain(touched.iter().map(|range| range.end));
    let ends = touched.iter().map(|range| range.start).chain(std::iter::once(end));
    starts.zip(ends).map(|(start, end)| start..end)
}
