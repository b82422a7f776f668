//! Fine-tunes a detector and evaluates it: a transfer run.

use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use scrl_core::checkpoint::state;
use scrl_core::config::to_toml;
use scrl_core::engine::atomic;
use scrl_core::engine::{Events, Monitor, RunDir, Throughput};
use scrl_ops::Group;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::TransferConfig;
use crate::data::collate_over;
use crate::detection::{Detector, Norm};
use crate::error::TransferError;
use crate::evaluation::{DetectionMetrics, precision_recall, write_results};
use crate::weights::{DETECTOR_FILE, InitWeights, save_detector};

mod best;
mod loss_log;
mod resume;
mod run_data;
mod training_state;

pub use best::{BEST_FILE, Best};
pub use loss_log::{LossValues, UnreadLosses};
pub use training_state::Training;

use loss_log::LossLog;
use run_data::TransferData;

/// Name of the precision–recall curves in a run's directory.
pub const PRECISION_RECALL_FILE: &str = "precision_recall.json";

/// Below this many images a step, training batch norms of a pretrained backbone deserve a warning.
const SMALL_BATCH: usize = 4;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum TransferOutcome {
    /// Trained and evaluated.
    Finished(Box<TransferReport>),
    /// Stopped on request; the checkpoint holds this many iterations and `--resume` goes on.
    Interrupted {
        /// The last iteration that was done.
        iteration: u64,
    },
}

/// What a finished run reports, also in `metrics.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransferReport {
    /// `random`, or the path of the weights.
    pub init: String,
    /// The run's seed.
    pub seed: u64,
    /// Share of the training images.
    pub fraction: f64,
    /// Labelled images in training.
    pub train_images: usize,
    /// Images in evaluation.
    pub val_images: usize,
    /// Updates.
    pub iterations: u64,
    /// Wall time of this process, seconds.
    pub seconds: f64,
    /// Of the detector after the last iteration.
    #[serde(flatten)]
    pub metrics: DetectionMetrics,
    /// The evaluation whose detector is in `weights/best.safetensors`, where there was a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
}

/// A transfer run before it starts: a detector is trained and evaluated.
///
/// Writes into its run directory: `config.toml`, events, `checkpoints/last`, `weights/detector.safetensors` (after the last
/// iteration), `results.json` (COCO's results format), `precision_recall.json` and `metrics.json`; with evaluations on the
/// way also `weights/best.safetensors` and `weights/best.json`.
#[derive(Clone, Copy, Debug)]
#[must_use = "a transfer does nothing until `run`"]
pub struct Transfer<'a> {
    config: &'a TransferConfig,
    init: &'a InitWeights,
    run: &'a RunDir,
    resume: bool,
    prolong: bool,
    group: &'a Group,
}

/// A process without others.
static ALONE: Group = Group::ALONE;

impl<'a> Transfer<'a> {
    /// Trains the detector of `config` in the run directory `run`; its backbone starts from `init`.
    pub fn new(config: &'a TransferConfig, init: &'a InitWeights, run: &'a RunDir) -> Self {
        Self { config, init, run, resume: false, prolong: false, group: &ALONE }
    }

    /// Continues from the run's last checkpoint if it has one, on the CPU to the bit as if it had not stopped.
    pub fn resume(self, resume: bool) -> Self {
        Self { resume, ..self }
    }

    /// Lets a run that is resumed have more iterations, and other milestones, than it was started with.
    pub fn prolong(self, prolong: bool) -> Self {
        Self { prolong, ..self }
    }

    /// Shares the work with the other processes of `group`, each of which makes the same call. Rank 0 writes the run; the others
    /// read from its directory. With any number of processes the result is the same but for rounding.
    pub fn over(self, group: &'a Group) -> Self {
        Self { group, ..self }
    }

    /// Trains until the last iteration or an interrupt, and evaluates. `device` is one without autodiff.
    ///
    /// # Errors
    /// When the config, the data, the weights or the checkpoint do not fit, a file cannot be read or written, or the loss
    /// becomes NaN or infinite.
    pub fn run(self, device: &Device, monitor: &mut Monitor) -> Result<TransferOutcome, TransferError> {
        let Self { config, init, run, resume, prolong, group } = self;
        let begun = Instant::now();
        config.validate()?;
        if group.size() > config.batch_size {
            let (processes, batch_size) = (group.size(), config.batch_size);
            return Err(TransferError::TooManyProcesses { processes, batch_size });
        }
        let data = TransferData::load(config)?;
        let config = &data.config;
        let training_device = device.clone().autodiff();
        let last = run.checkpoints().join("last");
        let resumed = resume && state::exists(&last);
        if !resumed {
            data.train.check_sizes()?;
            data.val.check_sizes()?;
        }
        let mut training = if resumed {
            Training::resume(config, &last, run, prolong, &training_device)?
        } else {
            Training::start(config, init, &training_device)?
        };
        let list = data.list();
        list.check(training.data_hash.as_deref(), run)?;
        training.data_hash = Some(list.hash());
        // Nobody writes before all have read.
        group.wait();
        let is_root = group.is_root();
        let mut events = if is_root {
            list.write(run)?;
            run.write_config(&to_toml(config))?;
            Events::open(run, resumed.then_some(training.iteration))?
        } else {
            Events::nowhere()
        };
        let mut training = training.over(group);
        log_settings(config, &data, &training);
        let save = |training: &Training| training.save(&last, config);
        let offer = |training: &Training, model: &Detector, metrics: &DetectionMetrics| match is_root {
            true => best::offer(run, &data, training.iteration, model, metrics),
            false => Ok(None),
        };
        let mut loss_log = LossLog::new(group.clone());
        let mut meter = Throughput::new(config.log_every as usize);
        let schedule = config.schedule();
        let mut batches = data.batches(training.iteration, group);
        let interrupted = |training: &Training| {
            group.wait();
            Ok(TransferOutcome::Interrupted { iteration: training.iteration })
        };

        monitor.progress.start(config.iterations, training.iteration, "training");
        while training.iteration < config.iterations {
            if training.owes_evaluation(config.eval_every) {
                let model = data.detector(&training.model, device, group)?;
                let Some(evaluation) = data.evaluate(&model, device, group, monitor)? else {
                    return interrupted(&training);
                };
                record(&mut training, &mut events, &data, &evaluation.metrics)?;
                offer(&training, &model, &evaluation.metrics)?;
                save(&training)?;
                monitor.progress.start(config.iterations, training.iteration, "training");
            }
            if group.any(monitor.interrupt.is_requested()) {
                loss_log.read(&data.train)?;
                save(&training)?;
                monitor.progress.finish("interrupted, checkpoint written");
                return interrupted(&training);
            }
            let Some(samples) = batches.next() else { break };
            let batch = collate_over(samples?, &training_device, group);
            let lr = schedule.lr(training.iteration);
            let log = is_due(training.iteration + 1, config.log_every);
            let losses;
            (training, losses) = training.step(batch, lr, config.seed, log);
            loss_log.add(losses);
            meter.record(config.batch_size);
            let saves = is_due(training.iteration, config.checkpoint_every)
                || training.owes_evaluation(config.eval_every);
            if log || saves || loss_log.is_full() {
                loss_log.read(&data.train)?;
            }
            if let Some(losses) = loss_log.last().filter(|_| log) {
                let figures = losses.figures(lr, meter.images_per_second(), training.grad_norm());
                events.record("train", training.iteration, data.epoch(training.iteration), figures)?;
            }
            let loss =
                loss_log.last().map_or(String::new(), |losses| format!("loss {:.3}, ", losses.total()));
            monitor.progress.update(training.iteration, &format!("{loss}lr {lr:.2e}"));
            if saves {
                save(&training)?;
            }
        }
        monitor.progress.finish("");

        loss_log.read(&data.train)?;
        save(&training)?;
        let model = data.detector(&training.model, device, group)?;
        if is_root {
            save_detector(&run.weights().join(DETECTOR_FILE), &model, &data.metadata())?;
        }
        let evaluation = data.evaluate(&model, device, group, monitor)?;
        let Some(evaluation) = evaluation else { return interrupted(&training) };
        record(&mut training, &mut events, &data, &evaluation.metrics)?;
        let best = offer(&training, &model, &evaluation.metrics)?;
        save(&training)?;
        let detections = &evaluation.detections;
        if is_root {
            write_results(&run.file("results.json"), &data.val, detections)?;
            write_json(&run.file(PRECISION_RECALL_FILE), &precision_recall(&data.val, detections)?)?;
        }
        let report = data.report(training.init, evaluation.metrics, best, begun);
        if is_root {
            write_json(&run.file("metrics.json"), &report)?;
        }
        // Who returns may end the process, and with it the others.
        group.wait();
        Ok(TransferOutcome::Finished(Box::new(report)))
    }
}

/// Whether an iteration is one of every so many; 0 is never.
fn is_due(iteration: u64, every: u64) -> bool {
    every > 0 && iteration.is_multiple_of(every)
}

/// Writes the event of an evaluation, once.
fn record(
    training: &mut Training,
    events: &mut Events,
    data: &TransferData,
    metrics: &DetectionMetrics,
) -> Result<(), TransferError> {
    let iteration = training.iteration;
    if training.evaluated < iteration {
        events.record("eval", iteration, data.epoch(iteration), figures_of(metrics))?;
        training.evaluated = iteration;
    }
    Ok(())
}

fn figures_of(metrics: &DetectionMetrics) -> Map<String, Value> {
    metrics.summary().into_iter().map(|(name, value)| (name.to_string(), value.into())).collect()
}

/// Says what the run does, and once where it departs from its protocol.
fn log_settings(config: &TransferConfig, data: &TransferData, training: &Training) {
    tracing::info!(
        init = training.init,
        arch = %config.model.backbone.arch,
        width = config.model.backbone.width,
        classes = config.model.num_classes,
        train = data.train.images.len(),
        val = data.val.images.len(),
        from = training.iteration,
        "transfer"
    );
    tracing::info!("in effect: {}", config.effective(data.train.images.len()));
    if config.batch_size < SMALL_BATCH
        && config.model.backbone.norm != Norm::FrozenBatchNorm
        && training.init != "random"
    {
        tracing::warn!(
            batch = config.batch_size,
            "statistics of so few images may harm a pretrained backbone; consider model.norm = \"frozen_batch_norm\""
        );
    }
    if best::is_kept(config) {
        tracing::info!(
            "weights/best.safetensors will be the detector with the highest AP on `{}`: chosen on these images, its AP \
             is an optimistic estimate; weights/detector.safetensors, the last, is not chosen",
            data.val.name
        );
    }
    let differences = config.differences();
    if !differences.is_empty() {
        tracing::info!(protocol = ?config.protocol, "differs from the protocol: {}", differences.join("; "));
    }
}

/// Replaces a file with the JSON of `value`.
fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), TransferError> {
    let failed = |source| TransferError::Write { path: path.to_path_buf(), source };
    let text = serde_json::to_vec_pretty(value).map_err(|e| failed(e.into()))?;
    atomic::write(path, &text).map_err(failed)
}

#[cfg(test)]
mod tests;
