//! The sum of a feature map and a coarser one, as feature pyramids take it.
//!
//! N images in the batch, C channels, H×W pixels of the finer map, h×w of the coarser one.

mod autodiff;
mod backend;
#[cfg(feature = "flex")]
mod flex;

use backend::UpsampleOps;
use burn::{backend::Dispatch, tensor::Tensor};

/// Adds to each pixel of `fine`, `[N, C, H, W]`, the one of `coarse`, `[N, C, h, w]`, that lies there: pixel
/// `⌊y · h / H⌋, ⌊x · w / W⌋`, as nearest-neighbour interpolation has it.
///
/// # Panics
/// If the maps differ in images or channels, or the coarse one is larger or has no pixels.
pub fn add_upsampled(fine: Tensor<4>, coarse: Tensor<4>) -> Tensor<4> {
    let ([images, channels, height, width], [coarse_images, coarse_channels, h, w]) =
        (fine.dims(), coarse.dims());
    assert_eq!(
        [images, channels],
        [coarse_images, coarse_channels],
        "add_upsampled: the maps differ in images or channels"
    );
    assert!(
        (1..=height).contains(&h) && (1..=width).contains(&w),
        "add_upsampled: a map of {h}×{w} pixels does not fill one of {height}×{width}"
    );
    Tensor::from_dispatch(Dispatch::sum_with_upsampled(fine.into_dispatch(), coarse.into_dispatch()))
}
