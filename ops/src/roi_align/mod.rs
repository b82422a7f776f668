//! RoIAlign: pools boxes of a feature map to a fixed grid by bilinear sampling.
//!
//! He et al., Mask R-CNN, section 3 (arXiv 1703.06870), with torchvision's results.

mod backend;
mod composed;
#[cfg(feature = "cube")]
mod cube;
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

/// A box on one image of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageBox {
    /// Index of the image in the batch.
    pub image: usize,
    /// `[x1, y1, x2, y2]` in input-image pixels.
    pub corners: [f32; 4],
}

/// Pools each box to a fixed grid.
///
/// The gradient flows to `features` only. A sampling point more than one pixel outside the feature map counts as
/// zero; a box without sampling points, or with a coordinate that is not finite, gives zeros. The boxes are host
/// values: neither the forward nor the backward pass reads from the device.
///
/// # Shapes
/// - `features`: `[batch, channels, height, width]`
/// - output: `[boxes, channels, output_size[0], output_size[1]]`; there may be no boxes
///
/// # Panics
/// If a box names an image outside the batch, or the output size is zero.
pub fn roi_align(features: Tensor<4>, boxes: &[ImageBox], options: RoiAlignOptions) -> Tensor<4> {
    check(&options);
    let pooled = <Dispatch as RoiAlignOps>::roi_align(features.into_dispatch(), boxes.into(), options);
    Tensor::from_dispatch(pooled)
}

/// [`roi_align`] composed of Burn's own operators: slow, differentiable on every backend.
///
/// # Panics
/// As [`roi_align`].
pub fn roi_align_reference(features: Tensor<4>, boxes: &[ImageBox], options: RoiAlignOptions) -> Tensor<4> {
    check(&options);
    Tensor::from_dispatch(composed::forward::<Dispatch>(features.into_dispatch(), boxes, &options))
}

fn check(options: &RoiAlignOptions) {
    assert!(options.output_size.iter().all(|&cells| cells > 0), "roi_align needs an output size above zero");
}
