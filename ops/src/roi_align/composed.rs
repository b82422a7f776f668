//! RoIAlign composed of standard operators: the reference, and the path of backends without a kernel.
//!
//! The weights of a box are two small matrices (see [`sampling`](super::sampling)), so pooling is two matrix
//! products. Boxes of one image go together, in chunks that bound the intermediate tensor.
//!
//! C channels, K boxes of a chunk, PH×PW output grid, H×W feature map.

use burn::backend::{
    Backend, TensorMetadata,
    tensor::{Device, FloatTensor, IntTensor},
};
use burn::tensor::{DType, Shape, Slice, TensorData};

use super::sampling::{AxisTaps, SampledBox, sample_boxes};
use super::{ImageBox, RoiAlignOptions};

/// Elements of the intermediate tensor `[C·H, K·PW]` of a chunk; 64 Mi are 256 MiB of f32.
const CHUNK_ELEMENTS: usize = 1 << 26;

/// Pools `features`, `[batch, C, H, W]`, to `[rois, C, PH, PW]`.
pub(super) fn forward<B: Backend>(
    features: FloatTensor<B>,
    boxes: &[ImageBox],
    options: &RoiAlignOptions,
) -> FloatTensor<B> {
    let shape @ [_, channels, height, width] = features.shape().dims();
    let (device, dtype) = (features.device(), features.dtype());
    let [rows, columns] = options.output_size;
    let rois = sample_boxes(boxes, shape, options);
    if rois.is_empty() {
        return B::float_zeros(Shape::from([0, channels, rows, columns]), &device, dtype.into());
    }
    let chunks = chunks(&rois, shape, columns);
    let pooled = chunks.iter().map(|chunk| {
        let count = chunk.members.len();
        let weights = Weights::<B>::new(chunk, &rois, shape, options, &device, dtype);
        let image = image_of::<B>(features.clone(), chunk.image);
        let image = B::float_reshape(image, Shape::from([channels * height, width]));
        let strips = B::float_matmul(image, weights.horizontal);
        let strips = B::float_reshape(strips, Shape::from([channels, height, count, columns]));
        let strips = B::float_permute(strips, &[2, 1, 0, 3]);
        let strips = B::float_reshape(strips, Shape::from([count, height, channels * columns]));
        let cells = B::float_matmul(weights.vertical, strips);
        let cells = B::float_reshape(cells, Shape::from([count, rows, channels, columns]));
        B::float_permute(cells, &[0, 2, 1, 3])
    });
    let pooled = B::float_cat(pooled.collect(), 0);
    in_box_order::<B>(pooled, &chunks, &device)
}

/// Gradient of the features from the gradient of the output: the transposed products of [`forward`].
pub(super) fn backward<B: Backend>(
    grad: FloatTensor<B>,
    boxes: &[ImageBox],
    shape: [usize; 4],
    options: &RoiAlignOptions,
) -> FloatTensor<B> {
    let [images, channels, height, width] = shape;
    let (device, dtype) = (grad.device(), grad.dtype());
    let [rows, columns] = options.output_size;
    let rois = sample_boxes(boxes, shape, options);
    let mut image_grads: Vec<Option<FloatTensor<B>>> = vec![None; images];
    for chunk in chunks(&rois, shape, columns) {
        let count = chunk.members.len();
        let weights = Weights::<B>::new(&chunk, &rois, shape, options, &device, dtype);
        let cells = B::float_select(grad.clone(), 0, indices::<B>(&chunk.members, &device));
        let cells = B::float_permute(cells, &[0, 2, 1, 3]);
        let cells = B::float_reshape(cells, Shape::from([count, rows, channels * columns]));
        let strips = B::float_matmul(B::float_swap_dims(weights.vertical, 1, 2), cells);
        let strips = B::float_reshape(strips, Shape::from([count, height, channels, columns]));
        let strips = B::float_permute(strips, &[2, 1, 0, 3]);
        let strips = B::float_reshape(strips, Shape::from([channels * height, count * columns]));
        let image = B::float_matmul(strips, B::float_swap_dims(weights.horizontal, 0, 1));
        let image = B::float_reshape(image, Shape::from([1, channels, height, width]));
        let sum = &mut image_grads[chunk.image];
        *sum = Some(match sum.take() {
            Some(sum) => B::float_add(sum, image),
            None => image,
        });
    }
    let zeros = || B::float_zeros(Shape::from([1, channels, height, width]), &device, dtype.into());
    B::float_cat(image_grads.into_iter().map(|sum| sum.unwrap_or_else(zeros)).collect(), 0)
}

/// Boxes of one image that are pooled together.
struct Chunk {
    image: usize,
    /// Indices of the boxes.
    members: Vec<usize>,
}

fn chunks(rois: &[SampledBox], [images, channels, height, _]: [usize; 4], columns: usize) -> Vec<Chunk> {
    let largest = (CHUNK_ELEMENTS / (channels * height * columns).max(1)).max(1);
    let mut members = vec![Vec::new(); images];
    for (row, roi) in rois.iter().enumerate() {
        members[roi.image].push(row);
    }
    let split = |(image, members): (usize, &Vec<usize>)| {
        members.chunks(largest).map(|members| Chunk { image, members: members.to_vec() }).collect::<Vec<_>>()
    };
    members.iter().enumerate().flat_map(split).collect()
}

/// The weights of a chunk as matrices.
struct Weights<B: Backend> {
    /// `[K, PH, H]`
    vertical: FloatTensor<B>,
    /// `[W, K·PW]`
    horizontal: FloatTensor<B>,
}

impl<B: Backend> Weights<B> {
    fn new(
        chunk: &Chunk,
        rois: &[SampledBox],
        [_, _, height, width]: [usize; 4],
        options: &RoiAlignOptions,
        device: &Device<B>,
        dtype: DType,
    ) -> Self {
        let [rows, columns] = options.output_size;
        let members = || chunk.members.iter().map(|&row| &rois[row]);
        let count = chunk.members.len();
        let upload = |values: Vec<f32>, shape: Shape| {
            B::float_from_data(TensorData::new(values, shape).convert_dtype(dtype), device)
        };
        let vertical = dense(members().map(|roi| &roi.vertical), count * rows, height);
        let horizontal = dense(members().map(|roi| &roi.horizontal), count * columns, width);
        Self {
            vertical: upload(vertical, Shape::from([count, rows, height])),
            horizontal: B::float_swap_dims(upload(horizontal, Shape::from([count * columns, width])), 0, 1),
        }
    }
}

/// Writes the taps of all cells as rows of a `[cells, size]` matrix.
fn dense<'a>(axes: impl Iterator<Item = &'a AxisTaps>, cells: usize, size: usize) -> Vec<f32> {
    let mut matrix = vec![0.0; cells * size];
    for (cell, taps) in axes.flat_map(AxisTaps::cells).enumerate() {
        for tap in taps {
            matrix[cell * size + tap.index] += tap.weight;
        }
    }
    matrix
}

/// `[1, C, H, W]` of `[batch, C, H, W]`.
fn image_of<B: Backend>(features: FloatTensor<B>, image: usize) -> FloatTensor<B> {
    let mut slices = [Slice::full(); 4];
    slices[0] = Slice::from(image..image + 1);
    B::float_slice(features, &slices)
}

/// Puts the rows of concatenated chunks into the order of the boxes.
fn in_box_order<B: Backend>(pooled: FloatTensor<B>, chunks: &[Chunk], device: &Device<B>) -> FloatTensor<B> {
    let order: Vec<usize> = chunks.iter().flat_map(|chunk| chunk.members.iter().copied()).collect();
    if order.is_sorted() {
        return pooled;
    }
    let mut positions = vec![0; order.len()];
    for (position, &row) in order.iter().enumerate() {
        positions[row] = position;
    }
    B::float_select(pooled, 0, indices::<B>(&positions, device))
}

fn indices<B: Backend>(rows: &[usize], device: &Device<B>) -> IntTensor<B> {
    let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
    let shape = [rows.len()];
    B::int_from_data(TensorData::new(rows, shape), device)
}
