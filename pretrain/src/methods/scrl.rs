//! SCRL's pooling: the boxes that both views show, by RoIAlign.

use burn::tensor::{Device, Tensor, TensorData};
use scrl_ops::{RoiAlignOptions, roi_align};

use super::Sample;

/// Rows `(batch index, x1, y1, x2, y2)` of all boxes: first those of view 1, images `0..N`, then those of view 2,
/// images `N..2N`, in the same order. `[2·boxes, 5]`; `None` without any box.
pub fn rois(batch: &[Sample], device: &Device) -> Option<Tensor<2>> {
    let mut rows = Vec::new();
    for view in 0..2 {
        for (image, sample) in batch.iter().enumerate() {
            for matched in &sample.boxes {
                let bbox = if view == 0 { matched.view1 } else { matched.view2 };
                rows.push((view * batch.len() + image) as f32);
                rows.extend(bbox.to_array());
            }
        }
    }
    (!rows.is_empty()).then(|| Tensor::from_data(TensorData::new(rows.clone(), [rows.len() / 5, 5]), device))
}

/// One vector per box: RoIAlign 1×1, adaptive sampling, not aligned.
///
/// # Shapes
/// - `features`: `[2N, C, H, W]` of stride `stride`, `rois`: `[2·boxes, 5]`; output `[2·boxes, C]`
pub fn pool(features: Tensor<4>, rois: Tensor<2>, stride: usize) -> Tensor<2> {
    let options = RoiAlignOptions {
        output_size: [1, 1],
        spatial_scale: 1.0 / stride as f32,
        sampling_ratio: -1,
        aligned: false,
    };
    roi_align(features, rois, options).flatten(1, 3)
}
