//! What follows from a run's settings and data before its first step.

use std::path::Path;

use burn::tensor::Device;
use scrl_core::checkpoint::state;
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::data::loader::{BatchIter, LoaderOptions, load_batches};
use scrl_core::data::sampler;
use scrl_core::engine::RunDir;
use scrl_core::solver::Optimizer;
use serde::{Deserialize, Serialize};

use super::SampleFunction;
use crate::config::{MethodKind, PretrainConfig, TargetInit};
use crate::error::PretrainError;
use crate::methods::{Learner, Sample, StepSettings};
use crate::probe::OnlineProbe;
use crate::replay::{self, ReplayInfo};
use crate::schedule::Schedule;

/// Where a run stands between two steps; saved with every checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Cursor {
    pub(super) epoch: u64,
    /// Batches of this epoch that are done.
    pub(super) batch: usize,
    pub(super) step: u64,
    pub(super) skipped_batches: u64,
    pub(super) images_without_boxes: u64,
    pub(super) images: usize,
    pub(super) config_hash: String,
}

/// Numbers that follow from settings and data.
pub(super) struct Plan {
    pub(super) images: usize,
    pub(super) batch_size: usize,
    pub(super) batches_per_epoch: usize,
    pub(super) total_steps: u64,
    pub(super) schedule: Schedule,
    pub(super) ema_base: Option<f64>,
    pub(super) config_hash: String,
}

impl Plan {
    pub(super) fn new(settings: &PretrainConfig, data: &ImageFolder) -> Result<Self, PretrainError> {
        let (images, batch_size) = (data.samples.len(), settings.schedule.batch_size);
        let batches_per_epoch = images / batch_size;
        if batches_per_epoch == 0 {
            return Err(PretrainError::TooFewImages { images, batch_size });
        }
        let supervised = settings.method == MethodKind::Supervised;
        if supervised && data.classes.is_empty() {
            let path = data.samples[0].path.parent().unwrap_or(Path::new(".")).to_path_buf();
            return Err(PretrainError::NoLabels { path });
        }
        let schedule = Schedule::new(settings, batches_per_epoch);
        Ok(Self {
            images,
            batch_size,
            batches_per_epoch,
            total_steps: schedule.total_steps,
            ema_base: schedule.ema_base,
            schedule,
            config_hash: settings.result_hash(),
        })
    }

    pub(super) fn start(&self) -> Cursor {
        Cursor {
            epoch: 0,
            batch: 0,
            step: 0,
            skipped_batches: 0,
            images_without_boxes: 0,
            images: self.images,
            config_hash: self.config_hash.clone(),
        }
    }

    pub(super) fn settings(&self, step: u64) -> StepSettings {
        self.schedule.settings(step)
    }

    /// Says once what the settings come to.
    pub(super) fn announce(&self, settings: &PretrainConfig, cursor: &Cursor) {
        tracing::info!(
            "{} on {} images: {} epochs of {} steps{}",
            settings.method.name(),
            self.images,
            settings.schedule.epochs,
            self.batches_per_epoch,
            if cursor.step > 0 { format!("; resumed at step {}", cursor.step) } else { String::new() },
        );
        let accumulate = settings.schedule.accumulate;
        tracing::info!(
            "batch {} in {} of {}; learning rate {:.4} = {} x {} / 256 after {} steps of warm-up",
            self.batch_size,
            if accumulate == 1 { "one piece".to_string() } else { format!("{accumulate} micro-batches") },
            self.batch_size / accumulate,
            settings.effective_lr(),
            settings.schedule.base_lr,
            self.batch_size,
            self.schedule.lr.warmup_steps,
        );
        if let Some(base) = self.ema_base {
            tracing::info!(
                "target network: {}, momentum {base} at first, {:.4} half-way, 1 at the end",
                match settings.target_init() {
                    TargetInit::Copy => "a copy of the online network",
                    TargetInit::Independent => "initialised on its own",
                },
                self.settings(self.total_steps / 2).ema_momentum,
            );
        }
        if !settings.compat.is_fixed() {
            tracing::info!(
                "compat = \"official\": the numbers of the published code, its oversights included"
            );
        }
    }

    /// The rest of the cursor's epoch.
    pub(super) fn batches(
        &self,
        settings: &PretrainConfig,
        cursor: &Cursor,
        sample: SampleFunction,
    ) -> BatchIter<Sample> {
        let order = Some((settings.seed, cursor.epoch));
        let batches = sampler::batches(self.images, self.batch_size, true, order);
        let options = LoaderOptions {
            seed: settings.seed,
            epoch: cursor.epoch,
            threads: settings.data.threads,
            prefetch: settings.data.prefetch,
        };
        load_batches(batches[cursor.batch..].to_vec(), options, sample)
    }

    /// Whether the step that makes it `step` steps is reported.
    pub(super) fn is_logged(&self, settings: &PretrainConfig, step: u64) -> bool {
        step.is_multiple_of(settings.log.interval) || step == self.total_steps
    }

    /// Whether the networks are looked at after so many epochs; before the first they are.
    pub(super) fn is_checked(&self, settings: &PretrainConfig, epochs: u64) -> bool {
        let every = settings.log.health_every;
        every > 0 && (epochs.is_multiple_of(every) || epochs == settings.schedule.epochs)
    }

    /// Saves the batch whose loss is no number and says so.
    pub(super) fn non_finite(
        &self,
        settings: &PretrainConfig,
        data: &ImageFolder,
        run: &RunDir,
        cursor: &Cursor,
        batch: &[Sample],
        loss: f64,
    ) -> PretrainError {
        let order = Some((settings.seed, cursor.epoch));
        let indices = sampler::batches(self.images, self.batch_size, true, order).swap_remove(cursor.batch);
        let info = ReplayInfo {
            seed: settings.seed,
            epoch: cursor.epoch,
            step: cursor.step,
            loss: loss.to_string(),
            lr: self.settings(cursor.step).lr,
            config_hash: self.config_hash.clone(),
            paths: indices.iter().map(|&index| data.samples[index].path.clone()).collect(),
            indices,
        };
        let saved = match replay::save(&run.file("replay"), batch, &info) {
            Ok(path) => format!("saved as `{}`", path.display()),
            Err(error) => format!("not saved ({error})"),
        };
        PretrainError::NonFinite { step: cursor.step, value: loss, saved }
    }

    pub(super) fn restore(
        &self,
        path: &Path,
        learner: Learner,
        optimizer: &mut Optimizer,
        probe: &mut Option<OnlineProbe>,
        device: &Device,
    ) -> Result<(Learner, Cursor), PretrainError> {
        let (mut tensors, cursor) = state::load::<Cursor>(path)?;
        let other = |difference: String| Err(PretrainError::OtherConfig { difference });
        if cursor.config_hash != self.config_hash {
            return other("a setting that changes the result differs".to_string());
        }
        if cursor.images != self.images {
            return other(format!("it was made with {} images, the data has {}", cursor.images, self.images));
        }
        *probe = probe.take().map(|probe| probe.load(&tensors));
        optimizer.load_state(tensors.remove("optimizer").unwrap_or_default(), device);
        Ok((learner.load(&tensors)?, cursor))
    }
}
