//! What defines a detector, and the constants in which detectron2 and torchvision differ.

use scrl_core::models::{Arch, ResNetConfig};
use serde::{Deserialize, Serialize};
use thiserror::Error;

mod overrides;

use overrides::Overrides;

/// Pyramid levels: P2 to P6 with strides 4 to 64, RetinaNet's P3 to P7 with strides 8 to 128.
pub const LEVELS: usize = 5;

/// Which detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Architecture {
    /// Faster R-CNN with a feature pyramid.
    #[default]
    FasterRcnn,
    /// RetinaNet: one stage, focal loss.
    #[serde(rename = "retinanet")]
    RetinaNet,
}

impl Architecture {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What only RetinaNet has; the defaults are those of the paper and of torchvision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetinaNetConfig {
    /// Anchor sizes of a level: `anchor_sizes` times 2^(k/scales), k from 0, in whole pixels.
    pub scales: usize,
    /// 3×3 convolutions of each of the two heads before their last.
    pub convolutions: usize,
    /// Weight of a match in the focal loss; of background it is one minus this.
    pub focal_alpha: f64,
    /// Exponent of the focal loss.
    pub focal_gamma: f64,
    /// Probability that the classifier gives every class before training.
    pub prior: f64,
    /// Best scores of each level before suppression.
    pub pre_nms: usize,
}

impl Default for RetinaNetConfig {
    fn default() -> Self {
        Self { scales: 3, convolutions: 4, focal_alpha: 0.25, focal_gamma: 2.0, prior: 0.01, pre_nms: 1000 }
    }
}

impl RetinaNetConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The anchor sizes of a level, in pixels.
    pub fn octave(&self, size: f32) -> Vec<f32> {
        let scale = |k: usize| (f64::from(size) * 2f64.powf(k as f64 / self.scales as f64)) as f32;
        (0..self.scales).map(|k| if k == 0 { size } else { scale(k).trunc() }).collect()
    }
}

/// Whose numbers the detector uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// The transfer protocol of MoCo and SCRL.
    #[default]
    Detectron2,
    /// For weights that were trained with torchvision.
    Torchvision,
}

impl Variant {
    /// The variant's own detector: what a config that names the variant alone means.
    pub fn config(self) -> DetectorConfig {
        match self {
            Variant::Detectron2 => DetectorConfig::default(),
            Variant::Torchvision => DetectorConfig::torchvision(),
        }
    }

    /// The constants in which the variants differ.
    pub fn numerics(self) -> Numerics {
        match self {
            Variant::Detectron2 => Numerics {
                round_anchors: false,
                strides_from_grid: false,
                aligned: true,
                sampling_ratio: 0,
                smooth_l1_beta: 0.0,
                rpn_loss_per_sample: false,
                min_proposal_size: 0.0,
                min_detection_size: 0.0,
            },
            Variant::Torchvision => Numerics {
                round_anchors: true,
                strides_from_grid: true,
                aligned: false,
                sampling_ratio: 2,
                smooth_l1_beta: 1.0 / 9.0,
                rpn_loss_per_sample: true,
                min_proposal_size: 1e-3,
                min_detection_size: 1e-2,
            },
        }
    }
}

/// The constants in which detectron2 and torchvision differ; see [`Variant::numerics`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Numerics {
    /// Anchor corners at the grid's origin are rounded to whole pixels.
    pub round_anchors: bool,
    /// An anchor stride is image size divided by grid size, which is below 64 for a P6 of odd P5; else 4 to 64.
    pub strides_from_grid: bool,
    /// RoIAlign's half-pixel shift.
    pub aligned: bool,
    /// RoIAlign's sampling points per cell and axis; 0 is adaptive.
    pub sampling_ratio: i32,
    /// Where the box losses turn from quadratic to linear; 0 is plain L1.
    pub smooth_l1_beta: f64,
    /// RPN losses are divided by the number of sampled anchors, else by `rpn_batch` times the number of images.
    pub rpn_loss_per_sample: bool,
    /// Proposals need at least this width and height, in pixels, and always a positive one.
    pub min_proposal_size: f32,
    /// Detections need at least this width and height, in pixels, and always a positive one.
    pub min_detection_size: f32,
}

/// What the backbone's batch norms do in fine-tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// They train: statistics of the batch, trained scale and shift.
    ///
    /// Files may also say `sync_batch_norm`: on the one device that a run uses, SyncBN is batch norm.
    #[default]
    #[serde(alias = "sync_batch_norm")]
    BatchNorm,
    /// Running statistics, fixed scale and shift.
    FrozenBatchNorm,
}

/// Everything that defines the detector; the default is detectron2's R50-FPN for COCO.
///
/// In a file, values that are not given are those of its `variant`: [`Variant::config`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Overrides")]
pub struct DetectorConfig {
    /// Which detector; the fields that name proposals, regions or the box head are Faster R-CNN's.
    // Absent from files at its default, so that runs of before keep their hash.
    #[serde(skip_serializing_if = "Architecture::is_default")]
    pub architecture: Architecture,
    /// The backbone's depth.
    pub arch: Arch,
    /// Factor on the backbone's channels.
    pub width: f64,
    /// Whose numbers are used where the two references differ.
    pub variant: Variant,
    /// Foreground classes.
    pub num_classes: usize,
    /// C, channels of every pyramid level.
    pub fpn_channels: usize,
    /// Outputs of each of the box head's two fully connected layers.
    pub box_head_dim: usize,
    /// Side of the square anchor of each level P2 to P6, in pixels.
    pub anchor_sizes: Vec<f32>,
    /// Height divided by width.
    pub anchor_ratios: Vec<f32>,
    /// Side of the box that is pooled from P4, in pixels; half of it is pooled from P3.
    pub canonical_box_size: f32,
    /// Detections score above this.
    pub box_score_threshold: f32,
    /// A detection is dropped when its IoU with a better one of its class is above this.
    pub box_nms: f32,
    /// At most so many detections of an image, the best.
    pub detections_per_image: usize,
    /// Best anchors of each level before suppression, in training.
    pub rpn_pre_nms_train: usize,
    /// The same in detection.
    pub rpn_pre_nms_test: usize,
    /// Best proposals of an image after suppression, in training; torchvision's number is 2000, detectron2's 1000.
    pub rpn_post_nms_train: usize,
    /// The same in detection.
    pub rpn_post_nms_test: usize,
    /// A proposal is dropped when its IoU with a better one of its level is above this.
    pub rpn_nms: f32,
    /// Anchors of an image in the loss.
    pub rpn_batch: usize,
    /// Largest share of anchors in the loss that are matched to a target.
    pub rpn_positive_fraction: f64,
    /// Regions of an image in the loss.
    pub roi_batch: usize,
    /// Largest share of regions in the loss that are matched to a target.
    pub roi_positive_fraction: f64,
    /// Factors on a region's `dx, dy, dw, dh`.
    pub box_weights: [f32; 4],
    /// How many of stem, C2, C3, C4, C5 are frozen, counted from the stem.
    pub freeze_at: usize,
    /// What the backbone's batch norms do; torchvision freezes them, detectron2's protocol for transfer trains them.
    pub norm: Norm,
    /// Added to the variance by frozen batch norms; 1e-5, but 0 in torchvision's detector of COCO.
    pub frozen_norm_epsilon: f64,
    /// Batch norm instead of a bias after each convolution of the pyramid.
    pub fpn_norm: bool,
    /// RetinaNet's own settings.
    #[serde(skip_serializing_if = "RetinaNetConfig::is_default")]
    pub retinanet: RetinaNetConfig,
}

impl Default for DetectorConfig {
    fn default() -> Self {
        Self {
            architecture: Architecture::FasterRcnn,
            arch: Arch::ResNet50,
            width: 1.0,
            variant: Variant::Detectron2,
            num_classes: 80,
            fpn_channels: 256,
            box_head_dim: 1024,
            anchor_sizes: vec![32.0, 64.0, 128.0, 256.0, 512.0],
            anchor_ratios: vec![0.5, 1.0, 2.0],
            canonical_box_size: 224.0,
            box_score_threshold: 0.05,
            box_nms: 0.5,
            detections_per_image: 100,
            rpn_pre_nms_train: 2000,
            rpn_pre_nms_test: 1000,
            rpn_post_nms_train: 1000,
            rpn_post_nms_test: 1000,
            rpn_nms: 0.7,
            rpn_batch: 256,
            rpn_positive_fraction: 0.5,
            roi_batch: 512,
            roi_positive_fraction: 0.25,
            box_weights: [10.0, 10.0, 5.0, 5.0],
            freeze_at: 0,
            norm: Norm::BatchNorm,
            frozen_norm_epsilon: 1e-5,
            fpn_norm: false,
            retinanet: RetinaNetConfig::default(),
        }
    }
}

/// A detector that cannot be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DetectorConfigError {
    /// Not one anchor size a level.
    #[error("anchor_sizes has {0} entries, the pyramid has 5 levels; give one size for each level")]
    AnchorSizes(usize),
    /// A value outside its range.
    #[error("{name} is {value}, but must be {expected}")]
    Value {
        /// The field of [`DetectorConfig`].
        name: &'static str,
        /// Its value.
        value: String,
        /// The range it should lie in.
        expected: &'static str,
    },
}

impl DetectorConfig {
    /// torchvision's `fasterrcnn_resnet50_fpn` with weights of COCO: its variant, 2000 proposals in training and frozen
    /// batch norms, whose epsilon torchvision sets to 0 for these weights (`_utils.py::overwrite_eps`).
    ///
    /// Its `trainable_backbone_layers = 3` is `freeze_at = 2`; nothing but the batch norms is frozen here.
    pub fn torchvision() -> Self {
        Self {
            variant: Variant::Torchvision,
            rpn_post_nms_train: 2000,
            norm: Norm::FrozenBatchNorm,
            frozen_norm_epsilon: 0.0,
            ..Self::default()
        }
    }

    /// torchvision's `retinanet_resnet50_fpn`; its batch norms train, as in the transfer protocol.
    ///
    /// torchvision freezes them where it starts from pretrained weights: `norm = "frozen_batch_norm"`.
    pub fn retinanet() -> Self {
        Self {
            architecture: Architecture::RetinaNet,
            variant: Variant::Torchvision,
            detections_per_image: 300,
            ..Self::default()
        }
    }

    /// The backbone's config.
    pub fn backbone(&self) -> ResNetConfig {
        ResNetConfig { arch: self.arch, width: self.width }
    }

    /// Anchors at each position of each level.
    pub fn anchors_per_cell(&self) -> usize {
        let sizes = match self.architecture {
            Architecture::FasterRcnn => 1,
            Architecture::RetinaNet => self.retinanet.scales,
        };
        sizes * self.anchor_ratios.len()
    }

    /// # Panics
    /// When [`Self::validate`] has an error to report.
    pub(super) fn assert_valid(&self) {
        if let Err(error) = self.validate() {
            panic!("invalid detector config: {error}");
        }
    }

    /// Finds values with which a detector cannot be built or trained.
    ///
    /// # Errors
    /// Names the first such value and what is expected of it.
    pub fn validate(&self) -> Result<(), DetectorConfigError> {
        if self.anchor_sizes.len() != LEVELS {
            return Err(DetectorConfigError::AnchorSizes(self.anchor_sizes.len()));
        }
        let positive =
            |values: &[f32]| !values.is_empty() && values.iter().all(|v| *v > 0.0 && v.is_finite());
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let checks = [
            (positive(&self.anchor_sizes), "anchor_sizes", format!("{:?}", self.anchor_sizes), POSITIVE),
            (positive(&self.anchor_ratios), "anchor_ratios", format!("{:?}", self.anchor_ratios), POSITIVE),
            (positive(&self.box_weights), "box_weights", format!("{:?}", self.box_weights), POSITIVE),
            (
                positive(&[self.canonical_box_size]),
                "canonical_box_size",
                self.canonical_box_size.to_string(),
                POSITIVE,
            ),
            (self.width > 0.0, "width", self.width.to_string(), POSITIVE),
            (
                self.frozen_norm_epsilon >= 0.0 && self.frozen_norm_epsilon.is_finite(),
                "frozen_norm_epsilon",
                self.frozen_norm_epsilon.to_string(),
                "0 or more, and finite",
            ),
            (self.num_classes > 0, "num_classes", "0".into(), "at least 1"),
            (self.fpn_channels > 0, "fpn_channels", "0".into(), "at least 1"),
            (self.box_head_dim > 0, "box_head_dim", "0".into(), "at least 1"),
            (self.rpn_batch > 0, "rpn_batch", "0".into(), "at least 1"),
            (self.roi_batch > 0, "roi_batch", "0".into(), "at least 1"),
            (
                share(self.rpn_positive_fraction),
                "rpn_positive_fraction",
                self.rpn_positive_fraction.to_string(),
                SHARE,
            ),
            (
                share(self.roi_positive_fraction),
                "roi_positive_fraction",
                self.roi_positive_fraction.to_string(),
                SHARE,
            ),
            (self.retinanet.scales > 0, "retinanet.scales", "0".into(), "at least 1"),
            (
                (0.0..1.0).contains(&self.retinanet.prior) && self.retinanet.prior > 0.0,
                "retinanet.prior",
                self.retinanet.prior.to_string(),
                "between 0 and 1",
            ),
            (
                share(self.retinanet.focal_alpha),
                "retinanet.focal_alpha",
                self.retinanet.focal_alpha.to_string(),
                SHARE,
            ),
            (
                self.retinanet.focal_gamma >= 0.0 && self.retinanet.focal_gamma.is_finite(),
                "retinanet.focal_gamma",
                self.retinanet.focal_gamma.to_string(),
                "0 or more, and finite",
            ),
            (
                self.architecture == Architecture::FasterRcnn || self.variant == Variant::Torchvision,
                "variant",
                "detectron2".into(),
                "torchvision, the only one that RetinaNet has",
            ),
            (
                self.freeze_at <= 5,
                "freeze_at",
                self.freeze_at.to_string(),
                "0 (nothing) to 5 (the whole backbone)",
            ),
        ];
        match checks.into_iter().find(|(valid, ..)| !valid) {
            Some((_, name, value, expected)) => Err(DetectorConfigError::Value { name, value, expected }),
            None => Ok(()),
        }
    }
}

const POSITIVE: &str = "positive and finite";
const SHARE: &str = "between 0 and 1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_file_overrides_single_values_and_rejects_unknown_ones() {
        let config: DetectorConfig = toml::from_str("num_classes = 3\nvariant = \"torchvision\"").unwrap();
        assert_eq!((config.num_classes, config.variant), (3, Variant::Torchvision));
        assert_eq!(config.rpn_batch, 256);
        assert!(toml::from_str::<DetectorConfig>("classes = 3").is_err());
    }

    fn read(text: &str) -> DetectorConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_file_that_names_a_variant_alone_means_that_variants_detector() {
        assert_eq!(read(""), DetectorConfig::default());
        assert_eq!(read("variant = \"detectron2\""), DetectorConfig::default());
        let torchvision = read("variant = \"torchvision\"");
        assert_eq!(torchvision, DetectorConfig::torchvision());
        assert_eq!((torchvision.rpn_post_nms_train, torchvision.norm), (2000, Norm::FrozenBatchNorm));
        assert_eq!(torchvision.frozen_norm_epsilon, 0.0);
    }

    #[test]
    fn values_of_a_file_stand_whatever_the_variant_and_wherever_it_is_named() {
        let before = "norm = \"sync_batch_norm\"\nfrozen_norm_epsilon = 1e-3\n";
        let config = read(&format!("{before}variant = \"torchvision\"\nrpn_post_nms_train = 7"));
        assert_eq!((config.norm, config.rpn_post_nms_train), (Norm::BatchNorm, 7));
        assert_eq!((config.frozen_norm_epsilon, config.rpn_post_nms_test), (1e-3, 1000));
    }

    #[test]
    fn a_resolved_config_reads_back_as_itself_from_toml_and_json() {
        let mixed = DetectorConfig {
            norm: Norm::BatchNorm,
            anchor_sizes: vec![8.5; 5],
            ..read("variant = \"torchvision\"")
        };
        for config in [DetectorConfig::default(), DetectorConfig::torchvision(), mixed] {
            assert_eq!(read(&toml::to_string(&config).unwrap()), config);
            assert_eq!(
                serde_json::from_str::<DetectorConfig>(&serde_json::to_string(&config).unwrap()).unwrap(),
                config
            );
        }
    }

    #[test]
    fn validation_names_the_value_that_is_wrong() {
        assert!(DetectorConfig::default().validate().is_ok());
        let sizes = DetectorConfig { anchor_sizes: vec![32.0], ..Default::default() };
        assert!(sizes.validate().unwrap_err().to_string().contains("anchor_sizes has 1 entries"));
        let share = DetectorConfig { roi_positive_fraction: 1.5, ..Default::default() };
        assert!(share.validate().unwrap_err().to_string().contains("roi_positive_fraction is 1.5"));
    }
}
