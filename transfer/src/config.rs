//! A transfer run's config file.

use std::path::Path;

use scrl_core::config::{self, SettingError, at_least_one, not_negative, positive, require, share};
use scrl_core::data::error::DataError;
use scrl_core::models::Precision;
use scrl_core::solver::{OptimizerConfig, OptimizerKind, WarmupMultiStep};
use scrl_core::transforms::normalize::{IMAGENET_MEAN, IMAGENET_STD};
use serde::{Deserialize, Serialize};

use crate::data::{DataSource, Interpolation, Mapper, Preprocessing};
use crate::detection::{BackboneConfig, DetectorConfig, FpnConfig, Norm};
use crate::error::TransferError;

mod differences;

/// Images a step of every protocol.
const BASE_BATCH: usize = 16;

/// The published recipe that a config follows or departs from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// MoCo's R50-FPN recipe on COCO: 90,000 iterations of 16 images.
    #[default]
    Coco1x,
    /// Twice as long.
    Coco2x,
    /// Its counterpart on VOC 2007 and 2012: 18,000 iterations.
    Voc,
}

/// Everything that defines a transfer run; the default is [`Protocol::Coco1x`] with detectron2's own detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransferConfig {
    /// The recipe to compare with: differences from it are logged.
    pub protocol: Protocol,
    /// Of weights, order and augmentation.
    pub seed: u64,
    /// The numbers that the detector computes with.
    #[serde(skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// Optimizer steps.
    pub iterations: u64,
    /// Images a step.
    pub batch_size: usize,
    /// Whether a batch holds either images wider than high or others, as in detectron2, for less padding.
    pub aspect_ratio_grouping: bool,
    /// Whether images without objects (crowds do not count) are left out of training, as detectron2 does.
    pub skip_empty: bool,
    /// Share of the training images, in `(0, 1]`.
    pub fraction: f64,
    /// Which images `fraction` keeps; smaller fractions are subsets of larger ones.
    pub subset_seed: u64,
    /// Short sides in training, in pixels; one is drawn for each image.
    pub min_sizes: Vec<u32>,
    /// Limit of the long side in training, in pixels.
    pub max_size: u32,
    /// Short side in evaluation.
    pub test_min_size: u32,
    /// Limit of the long side in evaluation.
    pub test_max_size: u32,
    /// How images are resized.
    pub interpolation: Interpolation,
    /// Probability of mirroring a training image.
    pub flip: f64,
    /// Normalisation of RGB values in `[0, 1]`.
    pub mean: [f32; 3],
    /// Standard deviation of RGB values in `[0, 1]`.
    pub std: [f32; 3],
    /// Images a batch in evaluation.
    pub eval_batch_size: usize,
    /// Iterations between evaluations; 0 for one at the end.
    pub eval_every: u64,
    /// With `eval_every`, keeps the detector of the evaluation with the highest AP as `weights/best.safetensors`.
    pub keep_best: bool,
    /// Iterations between log lines.
    pub log_every: u64,
    /// Iterations between checkpoints; 0 for one at the end.
    pub checkpoint_every: u64,
    /// Threads that decode images; 0 for one a processor core.
    pub threads: usize,
    /// Batches that are prepared ahead.
    pub prefetch: usize,
    /// Where the images and annotations are.
    pub data: DataConfig,
    /// The optimiser and its schedule.
    pub solver: SolverConfig,
    /// The detector; `num_classes` comes from the data.
    pub model: DetectorConfig,
}

/// Training and evaluation data; `--data` fills both in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// The training images.
    pub train: Option<DataSource>,
    /// The images of the evaluation.
    pub val: Option<DataSource>,
}

/// SGD and its schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SolverConfig {
    /// Learning rate after the warm-up: of this batch size, or of 16 images with `scale_lr`.
    pub lr: f64,
    /// Uses `lr · batch_size / 16`, the linear scaling rule.
    pub scale_lr: bool,
    /// Of SGD.
    pub momentum: f64,
    /// Not applied to biases and normalisation.
    pub weight_decay: f64,
    /// Iterations of linear warm-up.
    pub warmup_iterations: u64,
    /// Learning rate of the first iteration as a factor of `lr`.
    pub warmup_factor: f64,
    /// Where the learning rate falls: iterations, or shares of the run.
    pub milestones: Vec<Milestone>,
    /// Factor at each milestone.
    pub gamma: f64,
    /// Training batches from which the batch norms' statistics are computed anew for the detector that is evaluated and
    /// stored; 0 for the running averages of training.
    pub precise_bn_batches: u64,
}

/// A point of the run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Milestone {
    /// After so many iterations.
    Iteration(u64),
    /// Of all iterations, in `(0, 1)`.
    Share(f64),
}

impl Milestone {
    fn iteration(self, iterations: u64) -> u64 {
        match self {
            Milestone::Iteration(iteration) => iteration,
            Milestone::Share(share) => (share * iterations as f64).round() as u64,
        }
    }
}

impl SolverConfig {
    fn validate(&self) -> Result<(), SettingError> {
        positive("lr", self.lr)?;
        require((0.0..1.0).contains(&self.momentum), "momentum", self.momentum, "from 0 to below 1")?;
        not_negative("weight_decay", self.weight_decay)?;
        share("warmup_factor", self.warmup_factor)?;
        positive("gamma", self.gamma)?;
        let expected = "iterations, or shares of the run between 0 and 1";
        let valid = self.milestones.iter().all(valid);
        require(valid, "milestones", format!("{:?}", self.milestones), expected)
    }
}

impl Default for SolverConfig {
    fn default() -> Self {
        Self {
            lr: 0.02,
            scale_lr: false,
            momentum: 0.9,
            weight_decay: 1e-4,
            warmup_iterations: 1000,
            warmup_factor: 0.001,
            milestones: vec![Milestone::Iteration(60_000), Milestone::Iteration(80_000)],
            gamma: 0.1,
            precise_bn_batches: 0,
        }
    }
}

impl Default for TransferConfig {
    fn default() -> Self {
        Self {
            protocol: Protocol::Coco1x,
            seed: 0,
            precision: Precision::default(),
            iterations: 90_000,
            batch_size: 16,
            aspect_ratio_grouping: true,
            skip_empty: true,
            fraction: 1.0,
            subset_seed: 0,
            min_sizes: (640..=800).step_by(32).collect(),
            max_size: 1333,
            test_min_size: 800,
            test_max_size: 1333,
            interpolation: Interpolation::Bilinear,
            flip: 0.5,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
            eval_batch_size: 1,
            eval_every: 0,
            keep_best: true,
            log_every: 20,
            checkpoint_every: 1000,
            threads: 0,
            prefetch: 4,
            data: DataConfig::default(),
            solver: SolverConfig::default(),
            model: DetectorConfig::default(),
        }
    }
}

impl Protocol {
    /// The recipe's values, without data.
    pub fn config(self) -> TransferConfig {
        let milestones = |steps: [u64; 2]| steps.map(Milestone::Iteration).to_vec();
        let base = TransferConfig {
            protocol: self,
            model: DetectorConfig {
                fpn: FpnConfig { norm: true, ..Default::default() },
                ..Default::default()
            },
            ..Default::default()
        };
        match self {
            Protocol::Coco1x => base,
            Protocol::Coco2x => TransferConfig {
                iterations: 180_000,
                solver: SolverConfig { milestones: milestones([120_000, 160_000]), ..base.solver },
                ..base
            },
            Protocol::Voc => TransferConfig {
                iterations: 18_000,
                min_sizes: (480..=800).step_by(32).collect(),
                solver: SolverConfig {
                    milestones: milestones([12_000, 16_000]),
                    warmup_iterations: 100,
                    ..base.solver
                },
                ..base
            },
        }
    }
}

impl TransferConfig {
    /// Fills in the data sources from a folder in VOC or COCO layout; see [`DataSource::detect`].
    ///
    /// # Errors
    /// When the folder has neither layout.
    pub fn with_data_dir(mut self, folder: &Path) -> Result<Self, DataError> {
        let given = [self.data.train.as_ref(), self.data.val.as_ref()];
        let [train, val] = DataSource::detect(folder, given)?;
        self.data = DataConfig { train: Some(train), val: Some(val) };
        Ok(self)
    }

    /// Finds values that no run can use.
    ///
    /// # Errors
    /// Names the first such value and what is expected of it.
    pub fn validate(&self) -> Result<(), TransferError> {
        at_least_one("iterations", self.iterations)?;
        at_least_one("batch_size", self.batch_size)?;
        at_least_one("eval_batch_size", self.eval_batch_size)?;
        at_least_one("log_every", self.log_every)?;
        let some = self.fraction > 0.0 && self.fraction <= 1.0;
        require(some, "fraction", self.fraction, "above 0 and at most 1")?;
        share("flip", self.flip)?;
        let sizes = !self.min_sizes.is_empty() && self.min_sizes.iter().all(|&size| size > 0);
        require(sizes, "min_sizes", format!("{:?}", self.min_sizes), "one or more positive numbers")?;
        at_least_one("max_size", self.max_size)?;
        at_least_one("test_min_size", self.test_min_size)?;
        at_least_one("test_max_size", self.test_max_size)?;
        let finite = self.mean.iter().all(|value| value.is_finite());
        require(finite, "mean", format!("{:?}", self.mean), "three numbers")?;
        for value in self.std {
            positive("std", f64::from(value))?;
        }
        self.solver.validate().map_err(|error| error.inside("solver"))?;
        let milestones = self.schedule().milestones;
        require(milestones.is_sorted(), "solver.milestones", format!("{milestones:?}"), "ascending")?;
        Ok(self.model.validate().map_err(|error| error.inside("model"))?)
    }

    /// Refuses to freeze layers that hold random numbers.
    ///
    /// # Errors
    /// When the model is frozen in part.
    pub fn check_random_init(&self) -> Result<(), TransferError> {
        let expected = |value: &str| format!("{value} with --init random: random layers must not be frozen");
        let BackboneConfig { freeze_at, norm, .. } = self.model.backbone;
        require(freeze_at == 0, "model.backbone.freeze_at", freeze_at, expected("0"))?;
        let trains = norm != Norm::FrozenBatchNorm;
        Ok(require(trains, "model.backbone.norm", "frozen_batch_norm", expected("batch_norm"))?)
    }

    /// A source that the run needs.
    pub(crate) fn source<'a>(
        &self,
        key: &'static str,
        source: &'a Option<DataSource>,
    ) -> Result<&'a DataSource, TransferError> {
        let expected = "a COCO or VOC source; give one in the config or pass --data DIR";
        let missing = || SettingError { key: key.into(), value: "not set".into(), expected: expected.into() };
        Ok(source.as_ref().ok_or_else(missing)?)
    }

    /// The learning rate after the warm-up, scaled where `solver.scale_lr` says so.
    pub fn lr(&self) -> f64 {
        match self.solver.scale_lr {
            true => self.solver.lr * self.batch_size as f64 / BASE_BATCH as f64,
            false => self.solver.lr,
        }
    }

    /// The learning rate over the run.
    pub fn schedule(&self) -> WarmupMultiStep {
        let solver = &self.solver;
        WarmupMultiStep {
            base_lr: self.lr(),
            warmup_steps: solver.warmup_iterations,
            warmup_factor: solver.warmup_factor,
            milestones: solver.milestones.iter().map(|m| m.iteration(self.iterations)).collect(),
            gamma: solver.gamma,
        }
    }

    /// SGD, its decay sparing biases and normalisation.
    pub fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig {
            kind: OptimizerKind::Sgd,
            momentum: self.solver.momentum,
            weight_decay: self.solver.weight_decay,
            ..Default::default()
        }
    }

    /// How the detector wants its images in evaluation.
    pub fn preprocessing(&self) -> Preprocessing {
        Preprocessing {
            min_size: self.test_min_size,
            max_size: self.test_max_size,
            interpolation: self.interpolation,
            mean: self.mean,
            std: self.std,
        }
    }

    /// How training images are prepared.
    pub fn mapper(&self) -> Mapper {
        let preprocessing = Preprocessing { max_size: self.max_size, ..self.preprocessing() };
        Mapper { min_sizes: self.min_sizes.clone(), flip: self.flip, preprocessing }
    }

    /// The settings that the weights depend on; the others at their defaults.
    pub(crate) fn of_the_result(&self) -> Self {
        let neutral = Self::default();
        Self {
            protocol: neutral.protocol,
            eval_batch_size: neutral.eval_batch_size,
            eval_every: neutral.eval_every,
            keep_best: neutral.keep_best,
            log_every: neutral.log_every,
            checkpoint_every: neutral.checkpoint_every,
            threads: neutral.threads,
            prefetch: neutral.prefetch,
            data: neutral.data,
            ..self.clone()
        }
    }

    /// What a resumed run must agree on: a hash of everything that the weights depend on.
    pub fn fingerprint(&self) -> String {
        let relevant = self.of_the_result();
        // The former names, so that runs of before the detector's config had parts can be resumed.
        let mut value = serde_json::to_value(&relevant).unwrap_or_default();
        value["model"] = relevant.model.under_former_names();
        config::hash(&value)
    }
}

fn valid(milestone: &Milestone) -> bool {
    match milestone {
        Milestone::Iteration(_) => true,
        Milestone::Share(share) => *share > 0.0 && *share < 1.0,
    }
}

#[cfg(test)]
mod tests;
