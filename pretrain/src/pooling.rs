//! How a feature map becomes the vectors that a method compares.
//!
//! N images, two views each: maps `[2N, C, H, W]` stack view 1 of all images on view 2.

use burn::tensor::Tensor;
use scrl_core::models::in_f32;
use scrl_ops::{ImageBox, RoiAlignOptions, roi_align};

use crate::image_views::ImageViews;

/// What of a view becomes a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The whole map: one vector for each view.
    WholeMap,
    /// The boxes that both views show: one vector for each box.
    MatchedBoxes,
}

/// The regions of a batch.
#[derive(Clone, Debug)]
pub enum Regions {
    /// Every map as a whole.
    WholeMap,
    /// See [`rois`]; one at least.
    Boxes(Vec<ImageBox>),
}

impl Pooling {
    /// The regions of a batch; `None` where it has no box to pool.
    pub fn regions(self, batch: &[ImageViews]) -> Option<Regions> {
        match self {
            Pooling::WholeMap => Some(Regions::WholeMap),
            Pooling::MatchedBoxes => Some(rois(batch)).filter(|rois| !rois.is_empty()).map(Regions::Boxes),
        }
    }

    /// Regions of one view of an image.
    pub fn count(self, image: &ImageViews) -> usize {
        match self {
            Pooling::WholeMap => 1,
            Pooling::MatchedBoxes => image.boxes.len(),
        }
    }
}

impl Regions {
    /// One pixel of the first of so many images, in both views, for processes that have no box.
    pub(crate) fn placeholder(images: usize) -> Self {
        let pixel = |image| ImageBox { image, corners: [0.0, 0.0, 1.0, 1.0] };
        Regions::Boxes(vec![pixel(0), pixel(images)])
    }

    /// A vector for each region, view 1 stacked on view 2.
    ///
    /// # Shapes
    /// - `map`: `[2N, C, H, W]` of stride `stride`; output `[2·regions, C]`
    pub fn pool(&self, map: Tensor<4>, stride: usize) -> Tensor<2> {
        match self {
            Regions::WholeMap => global_average(map),
            Regions::Boxes(rois) => pool_boxes(map, rois, stride),
        }
    }
}

/// The mean over all places of a map, summed in 32 bits: `[N, C, H, W]` to `[N, C]`.
pub fn global_average(map: Tensor<4>) -> Tensor<2> {
    let dtype = map.dtype();
    in_f32(map).flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2).cast(dtype)
}

/// All boxes: first those of view 1, images `0..N`, then those of view 2, images `N..2N`, in the same order.
pub fn rois(batch: &[ImageViews]) -> Vec<ImageBox> {
    let of_view = |view: usize| {
        batch.iter().enumerate().flat_map(move |(index, image)| {
            image.boxes.iter().map(move |matched| {
                let bbox = if view == 0 { matched.view1 } else { matched.view2 };
                ImageBox { image: view * batch.len() + index, corners: bbox.to_array() }
            })
        })
    };
    (0..2).flat_map(of_view).collect()
}

/// One vector for each box: RoIAlign 1×1, adaptive sampling, not aligned.
///
/// # Shapes
/// - `features`: `[2N, C, H, W]` of stride `stride`; output `[rois, C]`
pub fn pool_boxes(features: Tensor<4>, rois: &[ImageBox], stride: usize) -> Tensor<2> {
    let options = RoiAlignOptions {
        output_size: [1, 1],
        spatial_scale: 1.0 / stride as f32,
        sampling_ratio: -1,
        aligned: false,
    };
    roi_align(features, rois, options).flatten(1, 3)
}
