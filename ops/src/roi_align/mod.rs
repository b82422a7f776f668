//! RoIAlign: pools boxes of a feature map to a fixed grid by bilinear sampling.

use burn::tensor::Tensor;

/// Options of [`roi_align`], with torchvision's meaning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoiAlignOptions {
    /// Output grid, `[height, width]`.
    pub output_size: [usize; 2],
    /// Feature-map pixels per input pixel, for example 1/32 for C5.
    pub spatial_scale: f32,
    /// Sampling points per output cell and axis; 0 or less means adaptive: `⌈roi size / output size⌉`.
    pub sampling_ratio: i32,
    /// Shifts the box by half a pixel and allows boxes smaller than one pixel (detectron2's `aligned`).
    pub aligned: bool,
}

/// Pools each box to a fixed grid.
///
/// # Shapes
/// - `features`: `[batch, channels, height, width]`
/// - `boxes`: `[rois, 5]`, rows `(batch index, x1, y1, x2, y2)` in input-image pixels
/// - output: `[rois, channels, output_size[0], output_size[1]]`
pub fn roi_align(features: Tensor<4>, boxes: Tensor<2>, options: RoiAlignOptions) -> Tensor<4> {
    roi_align_reference(features, boxes, options)
}

/// [`roi_align`] composed of Burn's own operators: slow, differentiable on every backend.
pub fn roi_align_reference(features: Tensor<4>, boxes: Tensor<2>, options: RoiAlignOptions) -> Tensor<4> {
    let _ = (features, boxes, options);
    todo!()
}
