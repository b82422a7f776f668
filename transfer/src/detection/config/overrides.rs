//! A detector's config as a file gives it: its variant's values, and those that the file names.

use scrl_core::models::Arch;
use serde::Deserialize;

use super::{DetectorConfig, Norm, Variant};

/// A struct of the fields of [`DetectorConfig`], each optional. A field that is missing here does not compile.
macro_rules! overrides {
    ($($field:ident: $kind:ty,)*) => {
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct Overrides {
            $($field: Option<$kind>,)*
        }

        impl From<Overrides> for DetectorConfig {
            fn from(file: Overrides) -> Self {
                let defaults = file.variant.unwrap_or_default().config();
                Self { $($field: file.$field.unwrap_or(defaults.$field),)* }
            }
        }
    };
}

overrides! {
    arch: Arch,
    width: f64,
    variant: Variant,
    num_classes: usize,
    fpn_channels: usize,
    box_head_dim: usize,
    anchor_sizes: Vec<f32>,
    anchor_ratios: Vec<f32>,
    canonical_box_size: f32,
    box_score_threshold: f32,
    box_nms: f32,
    detections_per_image: usize,
    rpn_pre_nms_train: usize,
    rpn_pre_nms_test: usize,
    rpn_post_nms_train: usize,
    rpn_post_nms_test: usize,
    rpn_nms: f32,
    rpn_batch: usize,
    rpn_positive_fraction: f64,
    roi_batch: usize,
    roi_positive_fraction: f64,
    box_weights: [f32; 4],
    freeze_at: usize,
    norm: Norm,
    frozen_norm_epsilon: f64,
    fpn_norm: bool,
}
