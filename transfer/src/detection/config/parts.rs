//! The parts of a detector's config, and how files give them.
//!
//! Each setting is written down once: its meaning, type, default, and its name in files of before the parts.

use scrl_core::models::Arch;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Architecture, DetectorConfig, Norm, RetinaNetConfig, Variant};

/// For each part its struct, the struct's default and the form in which a file gives it, every value optional; and
/// [`DetectorFile`], which also takes the former names.
macro_rules! parts {
    ($(
        $(#[$about:meta])*
        $part:ident: $Part:ident, $File:ident {
            $($(#[$meaning:meta])* $name:ident: $kind:ty = $default:expr, formerly $former:ident;)*
        }
    )*) => {
        $(
            $(#[$about])*
            #[derive(Clone, Debug, PartialEq, Serialize)]
            pub struct $Part {
                $($(#[$meaning])* pub $name: $kind,)*
            }

            impl Default for $Part {
                fn default() -> Self {
                    Self { $($name: $default,)* }
                }
            }

            #[derive(Default, Deserialize)]
            #[serde(default, deny_unknown_fields)]
            struct $File {
                $($name: Option<$kind>,)*
            }
        )*

        /// A detector's config as a file gives it.
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct DetectorFile {
            architecture: Option<Architecture>,
            variant: Option<Variant>,
            num_classes: Option<usize>,
            retinanet: Option<RetinaNetConfig>,
            $($part: $File,)*
            $($($former: Option<$kind>,)*)*
        }

        impl TryFrom<DetectorFile> for DetectorConfig {
            type Error = String;

            /// What the file gives stands; the rest is its architecture's and variant's.
            fn try_from(file: DetectorFile) -> Result<Self, String> {
                let mut config = file.defaults();
                let architecture = config.architecture;
                if let Some(retinanet) = file.retinanet {
                    take("retinanet", architecture, &mut config.retinanet, retinanet)?;
                }
                config.num_classes = file.num_classes.unwrap_or(config.num_classes);
                $($(
                    let key = concat!(stringify!($part), ".", stringify!($name));
                    if let Some(value) = given(key, file.$part.$name, stringify!($former), file.$former)? {
                        take(key, architecture, &mut config.$part.$name, value)?;
                    }
                )*)*
                Ok(config)
            }
        }

        impl DetectorConfig {
            /// The config under its former names.
            pub(crate) fn under_former_names(&self) -> Value {
                let mut value = serde_json::to_value(self).unwrap_or_default();
                $($(value[stringify!($former)] = value[stringify!($part)][stringify!($name)].take();)*)*
                if let Some(map) = value.as_object_mut() {
                    $(map.remove(stringify!($part));)*
                }
                value
            }
        }
    };
}

parts! {
    /// The ResNet, and what of it is trained.
    backbone: BackboneConfig, BackboneFile {
        /// Depth.
        arch: Arch = Arch::ResNet50, formerly arch;
        /// Factor on the channels.
        width: f64 = 1.0, formerly width;
        /// How many of stem, C2, C3, C4, C5 are frozen, counted from the stem.
        freeze_at: usize = 0, formerly freeze_at;
        /// What the batch norms do; torchvision freezes them, detectron2's protocol for transfer trains them.
        norm: Norm = Norm::BatchNorm, formerly norm;
        /// Added to the variance by frozen batch norms; 1e-5, but 0 in torchvision's detector of COCO.
        frozen_norm_epsilon: f64 = 1e-5, formerly frozen_norm_epsilon;
    }

    /// The feature pyramid.
    fpn: FpnConfig, FpnFile {
        /// C, channels of every level.
        channels: usize = 256, formerly fpn_channels;
        /// Batch norm instead of a bias after each convolution.
        norm: bool = false, formerly fpn_norm;
    }

    /// The boxes that the detector starts from.
    anchors: AnchorConfig, AnchorFile {
        /// Side of the square anchor of each of the five levels, in pixels.
        sizes: Vec<f32> = vec![32.0, 64.0, 128.0, 256.0, 512.0], formerly anchor_sizes;
        /// Height divided by width.
        ratios: Vec<f32> = vec![0.5, 1.0, 2.0], formerly anchor_ratios;
    }

    /// The region proposal network of Faster R-CNN.
    rpn: RpnConfig, RpnFile {
        /// Best anchors of each level before suppression, in training.
        pre_nms_train: usize = 2000, formerly rpn_pre_nms_train;
        /// The same in detection.
        pre_nms_test: usize = 1000, formerly rpn_pre_nms_test;
        /// Best proposals per image after suppression, in training; torchvision's number is 2000, detectron2's 1000.
        post_nms_train: usize = 1000, formerly rpn_post_nms_train;
        /// The same in detection.
        post_nms_test: usize = 1000, formerly rpn_post_nms_test;
        /// A proposal is dropped when its IoU with a better one of its level is above this.
        nms: f32 = 0.7, formerly rpn_nms;
        /// Anchors per image in the loss.
        batch: usize = 256, formerly rpn_batch;
        /// Largest share of anchors in the loss that are matched to a target.
        positive_fraction: f64 = 0.5, formerly rpn_positive_fraction;
    }

    /// The box head of Faster R-CNN and its regions.
    roi_heads: RoiHeadsConfig, RoiHeadsFile {
        /// Outputs of each of the two fully connected layers.
        box_head_dim: usize = 1024, formerly box_head_dim;
        /// Side of the box that is pooled from P4, in pixels; half of it is pooled from P3.
        canonical_box_size: f32 = 224.0, formerly canonical_box_size;
        /// Regions per image in the loss.
        batch: usize = 512, formerly roi_batch;
        /// Largest share of regions in the loss that are matched to a target.
        positive_fraction: f64 = 0.25, formerly roi_positive_fraction;
        /// Factors on a region's `dx, dy, dw, dh`.
        box_weights: [f32; 4] = [10.0, 10.0, 5.0, 5.0], formerly box_weights;
    }

    /// What becomes a detection.
    test: TestConfig, TestFile {
        /// Detections score above this.
        score_threshold: f32 = 0.05, formerly box_score_threshold;
        /// A detection is dropped when its IoU with a better one of its class is above this.
        nms: f32 = 0.5, formerly box_nms;
        /// Most detections per image; the best are kept.
        detections_per_image: usize = 100, formerly detections_per_image;
    }
}

impl DetectorFile {
    /// The detector that the file starts from.
    fn defaults(&self) -> DetectorConfig {
        match self.architecture.unwrap_or_default() {
            architecture @ (Architecture::FasterRcnn | Architecture::MaskRcnn) => {
                DetectorConfig { architecture, ..self.variant.unwrap_or_default().config() }
            }
            Architecture::RetinaNet => DetectorConfig {
                variant: self.variant.unwrap_or(Variant::Torchvision),
                ..DetectorConfig::retinanet()
            },
        }
    }
}

/// The one value of a setting that a file may give under two names.
fn given<T>(key: &str, value: Option<T>, former: &str, former_value: Option<T>) -> Result<Option<T>, String> {
    match (value, former_value) {
        (Some(_), Some(_)) => {
            Err(format!("`{former}` is the former name of `{key}`, and both are given; keep `{key}`"))
        }
        (value, former_value) => Ok(value.or(former_value)),
    }
}

/// Replaces a default. Refuses a setting that the architecture does not use, unless it is the default, as in a
/// resolved config.
fn take<T: PartialEq>(
    key: &str,
    architecture: Architecture,
    setting: &mut T,
    value: T,
) -> Result<(), String> {
    let owner = match key.split('.').next() {
        Some("rpn" | "roi_heads") => Some((false, "Faster and Mask R-CNN")),
        Some("retinanet") => Some((true, "RetinaNet")),
        _ => None,
    };
    if let Some((of_retinanet, name)) = owner
        && of_retinanet != (architecture == Architecture::RetinaNet)
        && value != *setting
    {
        return Err(format!("`{key}` is a setting of {name}, which `architecture` does not name; remove it"));
    }
    *setting = value;
    Ok(())
}
