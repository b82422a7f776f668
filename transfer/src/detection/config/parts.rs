//! A detector's config as a file gives it: its architecture's and variant's values, and those that the file names.

use scrl_core::models::Arch;
use serde::Deserialize;

use super::{Architecture, DetectorConfig, Norm, RetinaNetConfig, Variant};

/// A struct of the fields of [`DetectorConfig`], each optional. A field that is missing here does not compile.
macro_rules! overrides {
    (shared { $($shared:ident: $shared_kind:ty,)* } faster_rcnn { $($own:ident: $own_kind:ty,)* }) => {
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct Overrides {
            architecture: Option<Architecture>,
            retinanet: Option<RetinaNetConfig>,
            $($shared: Option<$shared_kind>,)*
            $($own: Option<$own_kind>,)*
        }

        impl TryFrom<Overrides> for DetectorConfig {
            type Error = String;

            /// Refuses values that the architecture does not use, unless they are the defaults, as in a resolved config.
            fn try_from(file: Overrides) -> Result<Self, String> {
                let architecture = file.architecture.unwrap_or_default();
                let defaults = match architecture {
                    Architecture::FasterRcnn => file.variant.unwrap_or_default().config(),
                    Architecture::RetinaNet => DetectorConfig::retinanet(),
                };
                let unused = |key: &str, name: &str| {
                    Err(format!("`{key}` is a setting of {name}, which `architecture` does not name; remove it"))
                };
                match architecture {
                    Architecture::FasterRcnn => {
                        if file.retinanet.as_ref().is_some_and(|given| *given != defaults.retinanet) {
                            return unused("retinanet", "RetinaNet");
                        }
                    }
                    Architecture::RetinaNet => {
                        $(if file.$own.as_ref().is_some_and(|given| *given != defaults.$own) {
                            return unused(stringify!($own), "Faster R-CNN");
                        })*
                    }
                }
                Ok(Self {
                    architecture,
                    retinanet: file.retinanet.unwrap_or(defaults.retinanet),
                    $($shared: file.$shared.unwrap_or(defaults.$shared),)*
                    $($own: file.$own.unwrap_or(defaults.$own),)*
                })
            }
        }
    };
}

overrides! {
    shared {
        arch: Arch,
        width: f64,
        variant: Variant,
        num_classes: usize,
        fpn_channels: usize,
        anchor_sizes: Vec<f32>,
        anchor_ratios: Vec<f32>,
        box_score_threshold: f32,
        box_nms: f32,
        detections_per_image: usize,
        freeze_at: usize,
        norm: Norm,
        frozen_norm_epsilon: f64,
        fpn_norm: bool,
    }
    faster_rcnn {
        box_head_dim: usize,
        canonical_box_size: f32,
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
    }
}
