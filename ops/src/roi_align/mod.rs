//! RoIAlign: pools boxes of a feature map to a fixed grid by bilinear sampling.
//!
//! He et al., Mask R-CNN, section 3 (arXiv 1703.06870), with torchvision's results.

mod backend;
mod composed;
#[cfg(feature = "flex")]
mod flex;
mod sampling;
#[cfg(feature = "flex")]
mod tile;

pub use backend::RoiAlignOps;

use burn::backend::Dispatch;
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
/// The gradient flows to `features` alone. Sampling points more than one pixel outside of the feature map count as
/// zero; a box without sampling points, or with a coordinate that is not finite, gives zeros. The values of
/// `boxes` are read to the host.
///
/// # Shapes
/// - `features`: `[batch, channels, height, width]`
/// - `boxes`: `[rois, 5]`, rows `(batch index, x1, y1, x2, y2)` in input-image pixels
/// - output: `[rois, channels, output_size[0], output_size[1]]`; `rois` may be 0
///
/// # Panics
/// If `boxes` has not five columns, a batch index is outside the batch, or the output size is zero.
pub fn roi_align(features: Tensor<4>, boxes: Tensor<2>, options: RoiAlignOptions) -> Tensor<4> {
    check(&boxes, &options);
    Tensor::from_dispatch(<Dispatch as RoiAlignOps>::roi_align(
        features.into_dispatch(),
        boxes.into_dispatch(),
        options,
    ))
}

/// [`roi_align`] composed of Burn's own operators: slow, differentiable on every backend.
///
/// # Panics
/// As [`roi_align`].
pub fn roi_align_reference(features: Tensor<4>, boxes: Tensor<2>, options: RoiAlignOptions) -> Tensor<4> {
    check(&boxes, &options);
    Tensor::from_dispatch(composed::forward::<Dispatch>(
        features.into_dispatch(),
        boxes.into_dispatch(),
        &options,
    ))
}

fn check(boxes: &Tensor<2>, options: &RoiAlignOptions) {
    let [_, columns] = boxes.dims();
    assert_eq!(columns, 5, "roi_align takes boxes of (batch index, x1, y1, x2, y2)");
    assert!(options.output_size.iter().all(|&cells| cells > 0), "roi_align needs an output size above zero");
}
