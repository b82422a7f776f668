//! Fine-tunes a detector and evaluates it: a transfer run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Device;
use scrl_core::checkpoint::{CheckpointError, state};
use scrl_core::config::to_toml;
use scrl_core::data::detection::{DetectionDataset, DetectionImage};
use scrl_core::engine::{Events, Monitor, RunDir, Throughput};
use scrl_core::models::parameters;
use scrl_core::random::{Rng, stream};
use scrl_core::solver::Optimizer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::TransferConfig;
use crate::data::{Batch, TrainingLoader, TrainingLoaderOptions, collate};
use crate::detection::{FasterRcnn, Norm};
use crate::error::TransferError;
use crate::evaluate::{EvaluateOptions, Evaluation, evaluate_model};
use crate::evaluation::{DetectionMetrics, write_results};
use crate::weights::{self, DETECTOR_FILE, DetectorMetadata, InitWeights, init_detector, save_detector};

mod loss_values;

pub use loss_values::LossValues;

/// The purpose of the random stream that chooses the anchors and regions of an iteration.
const SAMPLING: u64 = u64::from_be_bytes(*b"detsampl");

/// Below this many images a step, training batch norms of a pretrained backbone deserve a warning.
const SMALL_BATCH: usize = 4;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum TransferOutcome {
    /// Trained and evaluated.
    Finished(Box<TransferReport>),
    /// Stopped on request; the checkpoint holds this many iterations and `--resume` goes on.
    Interrupted { iteration: u64 },
}

/// What a finished run reports, also in `metrics.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransferReport {
    /// `random`, or the path of the weights.
    pub init: String,
    pub seed: u64,
    /// Share of the training images.
    pub fraction: f64,
    pub train_images: usize,
    pub val_images: usize,
    pub iterations: u64,
    /// Wall time of this process, seconds.
    pub seconds: f64,
    #[serde(flatten)]
    pub metrics: DetectionMetrics,
}

/// Trains a detector and evaluates it.
///
/// Writes into `run`: `config.toml`, events, `checkpoints/last`, `weights/detector.safetensors`, `results.json` (COCO's
/// results format) and `metrics.json`. `device` is one without autodiff. With `resume` the run continues from its
/// checkpoint, on the CPU to the bit as if it had not stopped.
///
/// # Errors
/// When the config, the data, the weights or the checkpoint do not fit, a file cannot be read or written, or the loss stops
/// being finite.
pub fn train(
    config: &TransferConfig,
    init: &InitWeights,
    run: &RunDir,
    resume: bool,
    device: &Device,
    monitor: &mut Monitor,
) -> Result<TransferOutcome, TransferError> {
    let begun = Instant::now();
    config.validate()?;
    let data = TransferData::load(config)?;
    let config = &data.config;
    let training_device = device.clone().autodiff();
    let last = run.checkpoints().join("last");
    let resumed = resume && state::exists(&last);
    let mut training = if resumed {
        Training::resume(config, &last, run, &training_device)?
    } else {
        run.write_config(&to_toml(config))?;
        Training::start(config, init, &training_device)?
    };
    log_settings(config, &data, &training);
    let mut events = Events::open(run, resumed.then_some(training.iteration))?;
    let mut meter = Throughput::new(config.log_every as usize);
    let schedule = config.schedule();
    let mut batches = data.batches(training.iteration);

    monitor.progress.start(config.iterations, training.iteration, "training");
    while training.iteration < config.iterations {
        if monitor.interrupt.is_requested() {
            training.save(&last, config)?;
            monitor.progress.finish("interrupted, checkpoint written");
            return Ok(TransferOutcome::Interrupted { iteration: training.iteration });
        }
        let Some(samples) = batches.next() else { break };
        let batch = collate(samples?, &training_device);
        let lr = schedule.lr(training.iteration);
        let due = |every: u64| every > 0 && (training.iteration + 1).is_multiple_of(every);
        let (log, save, evaluate) =
            (due(config.log_every), due(config.checkpoint_every), due(config.eval_every));
        let losses;
        (training, losses) = training.step(batch, lr, config.seed, log, &data.train)?;
        meter.record(config.batch_size);
        let epoch = data.epoch(training.iteration);
        if log {
            let figures = losses.figures(lr, meter.images_per_second(), training.optimizer.last_grad_norm());
            events.record("train", training.iteration, epoch, figures)?;
        }
        monitor.progress.update(training.iteration, &format!("loss {:.3}, lr {lr:.2e}", losses.total()));
        if save {
            training.save(&last, config)?;
        }
        if evaluate && training.iteration < config.iterations {
            let Some(evaluation) = data.evaluate(&training.model, device, monitor)? else { continue };
            events.record("eval", training.iteration, epoch, figures_of(&evaluation.metrics))?;
            monitor.progress.start(config.iterations, training.iteration, "training");
        }
    }
    monitor.progress.finish("");

    training.save(&last, config)?;
    save_detector(&run.weights().join(DETECTOR_FILE), &training.model, &data.metadata())?;
    let Some(evaluation) = data.evaluate(&training.model, device, monitor)? else {
        return Ok(TransferOutcome::Interrupted { iteration: training.iteration });
    };
    let figures = figures_of(&evaluation.metrics);
    events.record("eval", training.iteration, data.epoch(training.iteration), figures)?;
    write_results(&run.file("results.json"), &data.val, &evaluation.detections)?;
    let report = data.report(training.init, evaluation.metrics, begun);
    write_json(&run.file("metrics.json"), &report)?;
    Ok(TransferOutcome::Finished(Box::new(report)))
}

/// The data of a run, and its config with what the data decides.
struct TransferData {
    config: TransferConfig,
    train: Arc<DetectionDataset>,
    val: Arc<DetectionDataset>,
}

impl TransferData {
    fn load(config: &TransferConfig) -> Result<Self, TransferError> {
        let all = config.source("data.train", &config.data.train)?.load()?;
        let val = config.source("data.val", &config.data.val)?.load()?;
        crate::evaluate::check_classes(&all.categories, &val.categories)?;
        let train = training_images(all, config)?;
        let mut config = config.clone();
        config.model.num_classes = train.categories.len();
        Ok(Self { config, train: Arc::new(train), val: Arc::new(val) })
    }

    fn batches(&self, iteration: u64) -> TrainingLoader {
        let options = TrainingLoaderOptions {
            seed: self.config.seed,
            batch_size: self.config.batch_size,
            iterations: self.config.iterations,
            threads: self.config.threads,
            prefetch: self.config.prefetch,
        };
        TrainingLoader::new(Arc::clone(&self.train), self.config.mapper(), options, iteration)
    }

    /// Passes over the training images.
    fn epoch(&self, iteration: u64) -> f64 {
        iteration as f64 * self.config.batch_size as f64 / self.train.images.len() as f64
    }

    fn evaluate(
        &self,
        model: &FasterRcnn,
        device: &Device,
        monitor: &mut Monitor,
    ) -> Result<Option<Evaluation>, TransferError> {
        let options = EvaluateOptions {
            batch_size: self.config.eval_batch_size,
            threads: self.config.threads,
            prefetch: self.config.prefetch,
        };
        evaluate_model(&model.valid(), &self.val, &self.config.preprocessing(), options, device, monitor)
    }

    fn metadata(&self) -> DetectorMetadata {
        DetectorMetadata {
            config: self.config.model.clone(),
            categories: self.train.categories.clone(),
            preprocessing: self.config.preprocessing(),
        }
    }

    fn report(&self, init: String, metrics: DetectionMetrics, begun: Instant) -> TransferReport {
        TransferReport {
            init,
            seed: self.config.seed,
            fraction: self.config.fraction,
            train_images: self.train.images.len(),
            val_images: self.val.images.len(),
            iterations: self.config.iterations,
            seconds: begun.elapsed().as_secs_f64(),
            metrics,
        }
    }
}

/// The images to learn from: those with objects, or all, and of them the config's share.
fn training_images(
    mut all: DetectionDataset,
    config: &TransferConfig,
) -> Result<DetectionDataset, TransferError> {
    let has_target = |image: &DetectionImage| image.objects.iter().any(|object| !object.crowd);
    let total = all.images.len();
    if config.skip_empty {
        all.images.retain(has_target);
        tracing::info!(kept = all.images.len(), of = total, "training images with objects");
    }
    let train = all.subset(config.fraction, config.subset_seed);
    if train.images.iter().any(has_target) { Ok(train) } else { Err(TransferError::NoObjects(train.name)) }
}

/// Everything that training changes, and where it started.
pub struct Training {
    /// On the training device.
    pub model: FasterRcnn,
    optimizer: Optimizer,
    /// [`InitWeights::describe`] of the run's start.
    init: String,
    /// Steps done.
    iteration: u64,
}

/// The part of a checkpoint that is not tensors.
#[derive(Serialize, Deserialize)]
struct Progress {
    iteration: u64,
    init: String,
    config_hash: String,
}

impl Training {
    /// Before the first step; `device` is an autodiff device.
    ///
    /// # Errors
    /// When the weights cannot be read or do not fit.
    pub fn start(
        config: &TransferConfig,
        init: &InitWeights,
        device: &Device,
    ) -> Result<Self, TransferError> {
        let model = init_detector(config, init, device)?;
        Ok(Self { model, optimizer: Optimizer::new(config.optimizer()), init: init.describe(), iteration: 0 })
    }

    fn resume(
        config: &TransferConfig,
        checkpoint: &Path,
        run: &RunDir,
        device: &Device,
    ) -> Result<Self, TransferError> {
        let (mut tensors, progress): (_, Progress) = state::load(checkpoint)?;
        if progress.config_hash != config.fingerprint() {
            return Err(TransferError::OtherRun { path: run.path().to_path_buf() });
        }
        let mut take = |name: &str| {
            let problem = || CheckpointError::Incomplete {
                path: checkpoint.to_path_buf(),
                problem: format!("it has no `{name}` tensors"),
            };
            tensors.remove(name).ok_or_else(problem)
        };
        // The values drawn here are all replaced.
        let model = config.model.init(&mut stream(config.seed, &[]), device);
        let wrong = |reason| TransferError::Detector { path: checkpoint.to_path_buf(), reason };
        let model = weights::restore(model, &take("model")?).map_err(wrong)?;
        let mut optimizer = Optimizer::new(config.optimizer());
        optimizer.load_state(take("optimizer")?, device);
        Ok(Self { model, optimizer, init: progress.init, iteration: progress.iteration })
    }

    fn save(&self, checkpoint: &Path, config: &TransferConfig) -> Result<(), CheckpointError> {
        let tensors = [("model", parameters::collect(&self.model)), ("optimizer", self.optimizer.state())];
        let progress = Progress {
            iteration: self.iteration,
            init: self.init.clone(),
            config_hash: config.fingerprint(),
        };
        state::save(checkpoint, &tensors, &progress)
    }

    /// One optimizer step on a batch of `dataset`; `grad_norm` measures the gradient on the way.
    ///
    /// # Errors
    /// When the loss is not finite.
    pub fn step(
        self,
        batch: Batch,
        lr: f64,
        seed: u64,
        grad_norm: bool,
        dataset: &DetectionDataset,
    ) -> Result<(Self, LossValues), TransferError> {
        let Self { model, mut optimizer, init, iteration } = self;
        let mut rng: Rng = stream(seed, &[SAMPLING, iteration]);
        let losses = model.forward_train(batch.images, &batch.sizes, &batch.targets, &mut rng);
        let values = LossValues::read(&losses);
        if !values.total().is_finite() {
            return Err(non_finite(iteration, &values, &batch.indices, dataset));
        }
        if grad_norm {
            optimizer.request_grad_norm();
        }
        let grads = GradientsParams::from_grads(losses.total().backward(), &model);
        let model = optimizer.step(lr, model, grads);
        Ok((Self { model, optimizer, init, iteration: iteration + 1 }, values))
    }
}

fn non_finite(
    iteration: u64,
    values: &LossValues,
    indices: &[usize],
    dataset: &DetectionDataset,
) -> TransferError {
    let images: Vec<&str> = indices.iter().map(|&index| dataset.images[index].file_name.as_str()).collect();
    let losses = values.parts().map(|(name, value)| format!("{name} {value}"));
    TransferError::NonFinite { iteration, losses: losses.join(", "), images: images.join(", ") }
}

fn figures_of(metrics: &DetectionMetrics) -> Map<String, Value> {
    metrics.summary().into_iter().map(|(name, value)| (name.to_string(), value.into())).collect()
}

fn log_settings(config: &TransferConfig, data: &TransferData, training: &Training) {
    tracing::info!(
        init = training.init,
        arch = %config.model.arch,
        width = config.model.width,
        classes = config.model.num_classes,
        train = data.train.images.len(),
        val = data.val.images.len(),
        batch = config.batch_size,
        iterations = config.iterations,
        epochs = data.epoch(config.iterations),
        lr = config.solver.lr,
        milestones = ?config.schedule().milestones,
        from = training.iteration,
        "transfer"
    );
    if config.batch_size < SMALL_BATCH && config.model.norm == Norm::BatchNorm && training.init != "random" {
        tracing::warn!(
            batch = config.batch_size,
            "statistics of so few images may harm a pretrained backbone; consider model.norm = \"frozen_batch_norm\""
        );
    }
    let differences = config.differences();
    if !differences.is_empty() {
        tracing::info!(protocol = ?config.protocol, "differs from the protocol: {}", differences.join("; "));
    }
}

/// Replaces a file in one go.
fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), TransferError> {
    let failed = |source| TransferError::Write { path: path.to_path_buf(), source };
    let text = serde_json::to_vec_pretty(value).map_err(|e| failed(e.into()))?;
    let temporary: PathBuf = path.with_extension("json.tmp");
    std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path)).map_err(failed)
}

#[cfg(test)]
mod tests;
