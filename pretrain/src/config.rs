//! The settings of a pretraining run, as read from TOML; the defaults are SCRL's 200-epoch recipe.

use std::path::PathBuf;

use scrl_core::config::{SettingError, at_least_one, positive, require, share};
use scrl_core::models::{Level, Precision, ResNetConfig};
use scrl_core::solver::{Compat, Optimizer, OptimizerConfig};
use serde::{Deserialize, Serialize};

use crate::augment::AugmentConfig;
use crate::box_generator::BoxConfig;
use crate::error::PretrainError;

/// What is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MethodKind {
    /// Spatially consistent representation learning: boxes matched in two views.
    Scrl,
    /// Bootstrap your own latent (Grill et al. 2020): whole views.
    Byol,
    /// Dense contrastive learning (Wang et al. 2021): places of two views against queues of negatives.
    DenseCl,
    /// Classification of labelled images.
    Supervised,
}

/// The feature map whose boxes are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolLevel {
    /// Stride 16, for small views.
    C4,
    /// Stride 32, the published choice.
    C5,
}

impl From<PoolLevel> for Level {
    fn from(level: PoolLevel) -> Self {
        match level {
            PoolLevel::C4 => Level::C4,
            PoolLevel::C5 => Level::C5,
        }
    }
}

/// How the target network starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetInit {
    /// Equal to the online network.
    Copy,
    /// By its own random draw, as the official code does.
    Independent,
}

/// A pretraining run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// What is trained.
    pub method: MethodKind,
    /// Of weights, order, augmentation and boxes.
    #[serde(default)]
    pub seed: u64,
    /// `fixed`, or `official` for the numbers of the published code: see `docs/parity.md`.
    #[serde(default, skip_serializing_if = "Compat::is_fixed")]
    pub compat: Compat,
    /// The weights that the backbone started from; a run writes down what `--init` gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// The numbers that the networks compute with.
    #[serde(default, skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// The ResNet.
    pub model: ResNetConfig,
    /// How images are read.
    #[serde(default)]
    pub data: DataConfig,
    /// How views are made.
    #[serde(default)]
    pub augment: AugmentConfig,
    /// Which boxes are compared.
    #[serde(default)]
    pub boxes: BoxConfig,
    /// Projector and predictor.
    #[serde(default)]
    pub heads: HeadsConfig,
    /// The optimiser.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Length, batch and learning rate.
    pub schedule: ScheduleConfig,
    /// The target network.
    #[serde(default)]
    pub ema: EmaConfig,
    /// What only supervised pretraining has.
    #[serde(default)]
    pub supervised: SupervisedConfig,
    /// Settings of method `densecl`.
    #[serde(default, skip_serializing_if = "DenseClConfig::is_default")]
    pub densecl: DenseClConfig,
    /// What is logged, and when checkpoints are written.
    #[serde(default)]
    pub log: LogConfig,
}

/// How images are read.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Threads that decode and augment.
    pub threads: usize,
    /// Batches prepared ahead.
    pub prefetch: usize,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { threads: 2, prefetch: 2 }
    }
}

/// Sizes of projector and predictor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadsConfig {
    /// Width of the hidden layer.
    pub hidden: usize,
    /// Width of the output.
    pub output: usize,
    /// Feature map that is pooled.
    pub pool_level: PoolLevel,
}

impl Default for HeadsConfig {
    fn default() -> Self {
        Self { hidden: 4096, output: 256, pool_level: PoolLevel::C5 }
    }
}

/// Length and learning rate of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Passes over the images.
    pub epochs: u64,
    /// Images (pairs of views) a step, over all micro-batches.
    pub batch_size: usize,
    /// Learning rate for a batch of 256; the effective rate is `base_lr · batch_size / 256`.
    pub base_lr: f64,
    /// Epochs of linear warm-up from zero; fractions are allowed.
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Micro-batches that a batch goes through the networks in, to save memory. Loss and gradient are their means;
    /// each is normalised by its own statistics. Must divide `batch_size`.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub accumulate: usize,
}

impl ScheduleConfig {
    fn validate(&self) -> Result<(), SettingError> {
        let Self { epochs, batch_size, base_lr, warmup_epochs, accumulate } = *self;
        at_least_one("epochs", epochs)?;
        positive("base_lr", base_lr)?;
        let expected = "at least 2 images, which batch normalisation needs";
        require(batch_size >= 2, "batch_size", batch_size, expected)?;
        let divides =
            accumulate >= 1 && batch_size.is_multiple_of(accumulate) && batch_size / accumulate >= 2;
        let expected = "a divisor of schedule.batch_size that leaves micro-batches of at least 2 images";
        require(divides, "accumulate", accumulate, expected)?;
        let within = (0.0..=epochs as f64).contains(&warmup_epochs);
        require(within, "warmup_epochs", warmup_epochs, "between 0 and schedule.epochs")
    }
}

fn one() -> usize {
    1
}

fn is_one(value: &usize) -> bool {
    *value == 1
}

fn is_true(value: &bool) -> bool {
    *value
}

/// The moving average that makes the target network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmaConfig {
    /// Momentum at the first step; it rises to 1 along a cosine.
    pub base: f64,
    /// What the target network starts from.
    pub target_init: TargetInit,
}

impl Default for EmaConfig {
    fn default() -> Self {
        Self { base: 0.97, target_init: TargetInit::Copy }
    }
}

/// Settings of method `supervised`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SupervisedConfig {
    /// Share of the target spread evenly over all classes (Szegedy et al. 2016).
    pub label_smoothing: f64,
}

/// Settings of method `densecl`; the defaults are the published ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DenseClConfig {
    /// Negatives in each of the two queues: vectors of the images before. More than a batch; the published batches divide
    /// it, which is not needed here.
    pub queue: usize,
    /// What cosines are divided by before the softmax.
    pub temperature: f64,
    /// Share of the loss of places; the rest is the loss of whole views.
    pub dense_weight: f64,
}

impl Default for DenseClConfig {
    fn default() -> Self {
        Self { queue: 65536, temperature: 0.2, dense_weight: 0.5 }
    }
}

impl DenseClConfig {
    fn validate(&self) -> Result<(), SettingError> {
        let Self { queue, temperature, dense_weight } = *self;
        // Checkpoints hold the place in the queue as a 32-bit float.
        let expected = "between 1 and 16777216; a few times the batch at least makes sense";
        require((1..=1 << 24).contains(&queue), "queue", queue, expected)?;
        positive("temperature", temperature)?;
        share("dense_weight", dense_weight)
    }

    /// Absent from saved configurations at its defaults, so that runs of before keep their hash.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How often a run reports and saves.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Steps between two `train` events.
    pub interval: u64,
    /// Steps between two checkpoints within an epoch; 0 saves only at the end of epochs.
    pub checkpoint_steps: u64,
    /// Epochs between two checkpoints that are kept; 0 keeps only the last one.
    pub keep_epochs: u64,
    /// Epochs between two looks at the features (`health` events), the first before training; 0 for none.
    pub health_every: u64,
    /// Images that are looked at, at most; two at least. The rank of their features cannot exceed their number.
    pub health_images: usize,
    /// Whether a linear classifier learns along with SCRL or BYOL where every image has a label (`probe_top1` and
    /// `probe_top5` of `train` events). The networks learn the same without it.
    #[serde(skip_serializing_if = "is_true")]
    pub online_probe: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            interval: 10,
            checkpoint_steps: 0,
            keep_epochs: 0,
            health_every: 1,
            health_images: 128,
            online_probe: true,
        }
    }
}

impl PretrainConfig {
    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// Names the first setting that cannot work, its value and what it should be.
    pub fn validate(self) -> Result<Self, PretrainError> {
        self.schedule.validate().map_err(|error| error.inside("schedule"))?;
        share("ema.base", self.ema.base)?;
        self.augment.validate().map_err(|error| error.inside("augment"))?;
        self.boxes.validate(self.augment.view_size).map_err(|error| error.inside("boxes"))?;
        self.optimizer.validate().map_err(|error| error.inside("optimizer"))?;
        self.densecl.validate().map_err(|error| error.inside("densecl"))?;
        at_least_one("heads.hidden", self.heads.hidden)?;
        at_least_one("heads.output", self.heads.output)?;
        at_least_one("log.interval", self.log.interval)?;
        positive("model.width", self.model.width)?;
        let smoothing = self.supervised.label_smoothing;
        require(
            (0.0..1.0).contains(&smoothing),
            "supervised.label_smoothing",
            smoothing,
            "from 0 to below 1",
        )?;
        Ok(self)
    }

    /// A hash of all that a run's result follows from.
    ///
    /// How often a run reports, and how many threads read images, does not change it.
    pub fn result_hash(&self) -> String {
        scrl_core::config::hash(&self.of_the_result())
    }

    /// The settings in which a run that goes on may not differ from its checkpoint.
    pub(crate) fn of_the_result(&self) -> Self {
        Self { init: None, log: LogConfig::default(), data: DataConfig::default(), ..self.clone() }
    }

    /// Learning rate after scaling by the batch size.
    pub fn effective_lr(&self) -> f64 {
        self.schedule.base_lr * self.schedule.batch_size as f64 / 256.0
    }

    /// How the target network starts; the official code knows only one way.
    pub fn target_init(&self) -> TargetInit {
        match self.compat {
            Compat::Fixed => self.ema.target_init,
            Compat::Official => TargetInit::Independent,
        }
    }

    /// The optimiser at its start.
    pub fn new_optimizer(&self) -> Optimizer {
        Optimizer::new(self.optimizer.clone()).with_compat(self.compat)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(schedule: &str) -> Result<PretrainConfig, PretrainError> {
        let text = format!(
            "method = \"scrl\"\nmodel = {{ arch = \"resnet18\" }}\n\
             [schedule]\nepochs = 1\nbatch_size = 12\nbase_lr = 0.4\n{schedule}"
        );
        scrl_core::config::parse::<PretrainConfig>(&text, Path::new("test.toml"), &[]).unwrap().validate()
    }

    #[test]
    fn micro_batches_of_one_image_or_of_unequal_sizes_are_refused() {
        assert!(config("accumulate = 6").is_ok());
        for accumulate in [0, 5, 12] {
            let error = config(&format!("accumulate = {accumulate}")).unwrap_err().to_string();
            assert!(error.contains("schedule.accumulate") && error.contains("at least 2 images"), "{error}");
        }
    }

    #[test]
    fn a_blur_of_no_width_or_from_wide_to_narrow_is_refused() {
        assert!(config("[augment]\nblur_sigma = [0.5, 0.5]").is_ok());
        for sigma in ["[0.0, 2.0]", "[2.0, 0.1]", "[0.1, inf]"] {
            let error = config(&format!("[augment]\nblur_sigma = {sigma}")).unwrap_err().to_string();
            assert!(error.contains("augment.blur_sigma"), "{error}");
        }
    }

    #[test]
    fn every_setting_that_would_fail_later_is_refused_with_its_path() {
        let cases = [
            ("warmup_epochs = nan", "schedule.warmup_epochs"),
            ("[augment]\nview_size = 16", "augment.view_size"),
            ("[augment]\ncrop_scale = [0.0, 1.0]", "augment.crop_scale"),
            ("[augment]\ncrop_scale = [0.9, 0.2]", "augment.crop_scale"),
            ("[augment]\ncrop_scale = [0.2, 1.5]", "augment.crop_scale"),
            ("[augment]\ncrop_ratio = [1.5, 0.5]", "augment.crop_ratio"),
            ("[augment]\ncrop_ratio = [-1.0, 0.5]", "augment.crop_ratio"),
            ("[augment]\nflip = 1.5", "augment.flip"),
            ("[augment]\ngrayscale = -0.1", "augment.grayscale"),
            ("[augment]\ncolor_jitter_probability = nan", "augment.color_jitter_probability"),
            ("[augment]\nblur = [0.0, 2.0]", "augment.blur"),
            ("[augment]\nsolarize = [2.0, 0.0]", "augment.solarize"),
            ("[augment]\ncolor_jitter = [-0.1, 0.0, 0.0, 0.0]", "augment.color_jitter"),
            ("[augment]\ncolor_jitter = [0.1, 0.0, 0.0, 0.6]", "augment.color_jitter"),
            ("[boxes]\nmin_size = 500.0", "boxes.min_size"),
            ("[boxes]\niou_threshold = nan", "boxes.iou_threshold"),
            ("[boxes]\njitter = 0.5", "boxes.jitter"),
            ("[optimizer]\nmomentum = 1.0", "optimizer.momentum"),
            ("[optimizer]\nmomentum = 0.0\nnesterov = true", "optimizer.nesterov"),
            ("[optimizer]\nweight_decay = -1e-4", "optimizer.weight_decay"),
            ("[optimizer]\ntrust = 0.0", "optimizer.trust"),
            ("[optimizer]\neps = inf", "optimizer.eps"),
            ("[ema]\nbase = 1.1", "ema.base"),
            ("[heads]\nhidden = 0", "heads.hidden"),
            ("[log]\ninterval = 0", "log.interval"),
        ];
        for (text, key) in cases {
            let error = config(text).expect_err(text);
            assert!(
                matches!(&error, PretrainError::Setting(setting) if setting.key == key),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn settings_at_their_defaults_leave_the_saved_configuration_as_it_was_without_them() {
        let text = scrl_core::config::to_toml(&config("accumulate = 1").unwrap());
        for new in ["accumulate", "compat", "online_probe", "densecl"] {
            assert!(!text.contains(new), "{text}");
        }
        assert!(scrl_core::config::to_toml(&config("accumulate = 2").unwrap()).contains("accumulate = 2"));
    }
}
