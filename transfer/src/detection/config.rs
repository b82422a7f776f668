//! What defines a detector, and the constants in which detectron2 and torchvision differ.

use scrl_core::config::{SettingError, at_least_one, not_negative, positive, require, share};
use scrl_core::models::ResNetConfig;
use serde::{Deserialize, Serialize};

use crate::data::Labels;

mod parts;

pub use parts::{AnchorConfig, BackboneConfig, FpnConfig, RoiHeadsConfig, RpnConfig, TestConfig};

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
    /// Faster R-CNN with a mask head.
    MaskRcnn,
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
    /// The variant's own detector: what a config that names only the variant means.
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
    /// RPN losses are divided by the number of sampled anchors, else by `rpn.batch` times the number of images.
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
    /// Files may also say `sync_batch_norm`: statistics are always those of the batch of all processes.
    #[default]
    #[serde(alias = "sync_batch_norm")]
    BatchNorm,
    /// Running statistics, fixed scale and shift.
    FrozenBatchNorm,
}

/// Everything that defines the detector; the default is detectron2's R50-FPN for COCO.
///
/// In a file, values that are not given are those of its `variant`: [`Variant::config`]. A file may also use the
/// names of before the parts, such as `rpn_batch` for `rpn.batch`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "parts::DetectorFile")]
pub struct DetectorConfig {
    /// Which detector; `rpn` and `roi_heads` are those of Faster and Mask R-CNN, `retinanet` is RetinaNet's.
    #[serde(skip_serializing_if = "Architecture::is_default")]
    pub architecture: Architecture,
    /// Whose numbers are used where the two references differ.
    pub variant: Variant,
    /// Foreground classes.
    pub num_classes: usize,
    /// The ResNet.
    pub backbone: BackboneConfig,
    /// The feature pyramid on it.
    pub fpn: FpnConfig,
    /// Anchors of both detectors.
    pub anchors: AnchorConfig,
    /// Proposals.
    pub rpn: RpnConfig,
    /// Regions and the box head.
    pub roi_heads: RoiHeadsConfig,
    /// What becomes a detection.
    pub test: TestConfig,
    /// RetinaNet's own settings.
    #[serde(skip_serializing_if = "RetinaNetConfig::is_default")]
    pub retinanet: RetinaNetConfig,
}

impl Default for DetectorConfig {
    fn default() -> Self {
        Self {
            architecture: Architecture::FasterRcnn,
            variant: Variant::Detectron2,
            num_classes: 80,
            backbone: BackboneConfig::default(),
            fpn: FpnConfig::default(),
            anchors: AnchorConfig::default(),
            rpn: RpnConfig::default(),
            roi_heads: RoiHeadsConfig::default(),
            test: TestConfig::default(),
            retinanet: RetinaNetConfig::default(),
        }
    }
}

impl DetectorConfig {
    /// torchvision's `fasterrcnn_resnet50_fpn` with weights of COCO: its variant, 2000 proposals in training and frozen
    /// batch norms, whose epsilon torchvision sets to 0 for these weights (`_utils.py::overwrite_eps`).
    ///
    /// Its `trainable_backbone_layers = 3` is `freeze_at = 2`; nothing but the batch norms is frozen here.
    pub fn torchvision() -> Self {
        Self {
            variant: Variant::Torchvision,
            backbone: BackboneConfig {
                norm: Norm::FrozenBatchNorm,
                frozen_norm_epsilon: 0.0,
                ..Default::default()
            },
            rpn: RpnConfig { post_nms_train: 2000, ..Default::default() },
            ..Self::default()
        }
    }

    /// torchvision's `retinanet_resnet50_fpn`; its batch norms train, as in the transfer protocol.
    ///
    /// torchvision freezes them where it starts from pretrained weights: `backbone.norm = "frozen_batch_norm"`.
    pub fn retinanet() -> Self {
        Self {
            architecture: Architecture::RetinaNet,
            variant: Variant::Torchvision,
            test: TestConfig { detections_per_image: 300, ..Default::default() },
            ..Self::default()
        }
    }

    /// Whether the detector gives masks.
    pub fn has_masks(&self) -> bool {
        self.architecture == Architecture::MaskRcnn
    }

    /// What of annotations the detector learns and is judged by.
    pub fn labels(&self) -> Labels {
        if self.has_masks() { Labels::Masks } else { Labels::Boxes }
    }

    /// The ResNet's config.
    pub fn resnet(&self) -> ResNetConfig {
        ResNetConfig { arch: self.backbone.arch, width: self.backbone.width }
    }

    /// Anchors at each position of each level.
    pub fn anchors_per_cell(&self) -> usize {
        let sizes = match self.architecture {
            Architecture::FasterRcnn | Architecture::MaskRcnn => 1,
            Architecture::RetinaNet => self.retinanet.scales,
        };
        sizes * self.anchors.ratios.len()
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
    pub fn validate(&self) -> Result<(), SettingError> {
        let Self { backbone, fpn, anchors, rpn, roi_heads, test, retinanet, .. } = self;
        at_least_one("num_classes", self.num_classes)?;
        let only = self.architecture != Architecture::RetinaNet || self.variant == Variant::Torchvision;
        require(only, "variant", "detectron2", "torchvision, the only one that RetinaNet has")?;
        positive("backbone.width", backbone.width)?;
        not_negative("backbone.frozen_norm_epsilon", backbone.frozen_norm_epsilon)?;
        let expected = "0 (nothing) to 5 (the whole backbone)";
        require(backbone.freeze_at <= 5, "backbone.freeze_at", backbone.freeze_at, expected)?;
        at_least_one("fpn.channels", fpn.channels)?;
        let count = format!("{} sizes", anchors.sizes.len());
        let expected = format!("{LEVELS} sizes, one for each level of the pyramid");
        require(anchors.sizes.len() == LEVELS, "anchors.sizes", count, expected)?;
        all_positive("anchors.sizes", &anchors.sizes)?;
        all_positive("anchors.ratios", &anchors.ratios)?;
        at_least_one("rpn.pre_nms_train", rpn.pre_nms_train)?;
        at_least_one("rpn.pre_nms_test", rpn.pre_nms_test)?;
        at_least_one("rpn.post_nms_train", rpn.post_nms_train)?;
        at_least_one("rpn.post_nms_test", rpn.post_nms_test)?;
        share("rpn.nms", f64::from(rpn.nms))?;
        at_least_one("rpn.batch", rpn.batch)?;
        share("rpn.positive_fraction", rpn.positive_fraction)?;
        at_least_one("roi_heads.box_head_dim", roi_heads.box_head_dim)?;
        positive("roi_heads.canonical_box_size", f64::from(roi_heads.canonical_box_size))?;
        at_least_one("roi_heads.batch", roi_heads.batch)?;
        share("roi_heads.positive_fraction", roi_heads.positive_fraction)?;
        all_positive("roi_heads.box_weights", &roi_heads.box_weights)?;
        share("test.score_threshold", f64::from(test.score_threshold))?;
        share("test.nms", f64::from(test.nms))?;
        at_least_one("test.detections_per_image", test.detections_per_image)?;
        at_least_one("retinanet.scales", retinanet.scales)?;
        at_least_one("retinanet.pre_nms", retinanet.pre_nms)?;
        let open = retinanet.prior > 0.0 && retinanet.prior < 1.0;
        require(open, "retinanet.prior", retinanet.prior, "above 0 and below 1")?;
        share("retinanet.focal_alpha", retinanet.focal_alpha)?;
        not_negative("retinanet.focal_gamma", retinanet.focal_gamma)
    }
}

fn all_positive(key: &str, values: &[f32]) -> Result<(), SettingError> {
    let valid = !values.is_empty() && values.iter().all(|value| *value > 0.0 && value.is_finite());
    require(valid, key, format!("{values:?}"), "numbers above 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_file_overrides_single_values_and_rejects_unknown_ones() {
        let config: DetectorConfig = toml::from_str("num_classes = 3\nvariant = \"torchvision\"").unwrap();
        assert_eq!((config.num_classes, config.variant), (3, Variant::Torchvision));
        assert_eq!(config.rpn.batch, 256);
        assert!(toml::from_str::<DetectorConfig>("classes = 3").is_err());
        let config = read("[rpn]\nbatch = 8\n[test]\nnms = 0.25");
        assert_eq!((config.rpn.batch, config.rpn.pre_nms_train, config.test.nms), (8, 2000, 0.25));
        assert!(toml::from_str::<DetectorConfig>("[rpn]\nsize = 3").is_err());
    }

    fn read(text: &str) -> DetectorConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_file_that_names_only_a_variant_means_that_variants_detector() {
        assert_eq!(read(""), DetectorConfig::default());
        assert_eq!(read("variant = \"detectron2\""), DetectorConfig::default());
        let torchvision = read("variant = \"torchvision\"");
        assert_eq!(torchvision, DetectorConfig::torchvision());
        assert_eq!(
            (torchvision.rpn.post_nms_train, torchvision.backbone.norm),
            (2000, Norm::FrozenBatchNorm)
        );
        assert_eq!(torchvision.backbone.frozen_norm_epsilon, 0.0);
    }

    #[test]
    fn values_of_a_file_stand_whatever_the_variant_and_wherever_it_is_named() {
        let before = "norm = \"sync_batch_norm\"\nfrozen_norm_epsilon = 1e-3\n";
        let config = read(&format!("{before}variant = \"torchvision\"\nrpn_post_nms_train = 7"));
        assert_eq!((config.backbone.norm, config.rpn.post_nms_train), (Norm::BatchNorm, 7));
        assert_eq!((config.backbone.frozen_norm_epsilon, config.rpn.post_nms_test), (1e-3, 1000));
    }

    #[test]
    fn a_resolved_config_reads_back_as_itself_from_toml_and_json() {
        let mixed = DetectorConfig {
            backbone: BackboneConfig { norm: Norm::BatchNorm, ..Default::default() },
            anchors: AnchorConfig { sizes: vec![8.5; 5], ..Default::default() },
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
        let sizes = DetectorConfig {
            anchors: AnchorConfig { sizes: vec![32.0], ..Default::default() },
            ..Default::default()
        };
        assert!(sizes.validate().unwrap_err().to_string().contains("`anchors.sizes` is 1 sizes"));
        let share = DetectorConfig {
            roi_heads: RoiHeadsConfig { positive_fraction: 1.5, ..Default::default() },
            ..Default::default()
        };
        assert!(share.validate().unwrap_err().to_string().contains("`roi_heads.positive_fraction` is 1.5"));
    }
}
