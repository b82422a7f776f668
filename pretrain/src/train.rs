//! The pretraining loop.

mod window;

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use scrl_core::checkpoint::{state, weights};
use scrl_core::config;
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::data::loader::{BatchIter, LoaderOptions, load_batches};
use scrl_core::data::{DataError, sampler};
use scrl_core::engine::{Events, Monitor, RunDir, TrainEnd};
use scrl_core::models::parameters::TensorMap;
use scrl_core::random::{Rng, stream};
use scrl_core::solver::Optimizer;
use scrl_core::transforms::normalize::{IMAGENET_MEAN, IMAGENET_STD};
use serde::{Deserialize, Serialize};

use crate::config::{LogConfig, MethodKind, PretrainConfig, TargetInit};
use crate::error::PretrainError;
use crate::health::Health;
use crate::init_weights::load_encoder;
use crate::methods::{Learner, Sample, StepSettings};
use crate::replay::{self, ReplayInfo};
use crate::schedule::Schedule;
use window::Window;

/// Names the random stream of parameter initialisation.
const INIT: u64 = 1;
/// The epoch of the random streams that choose and prepare the images of health checks; training never gets there.
const HEALTH_EPOCH: u64 = u64::MAX;
/// Images at a time in a health check.
const HEALTH_BATCH: usize = 32;

/// Where a run stands between two steps; saved with every checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Cursor {
    epoch: u64,
    /// Batches of this epoch that are done.
    batch: usize,
    step: u64,
    skipped_batches: u64,
    images_without_boxes: u64,
    images: usize,
    config_hash: String,
}

/// Pretrains on `data` and leaves checkpoints and `weights/backbone.safetensors` in `run`.
///
/// `init` are weights that the backbone starts from. On the CPU the result depends on the configuration and the
/// data alone, to the bit, however often the run is interrupted and resumed.
pub fn train(
    settings: &PretrainConfig,
    data: &ImageFolder,
    init: Option<&Path>,
    run: &RunDir,
    resume: bool,
    device: &Device,
    monitor: &mut Monitor,
) -> Result<TrainEnd, PretrainError> {
    let plan = Plan::new(settings, data)?;
    let device = device.clone().autodiff();
    let mut rng = stream(settings.seed, &[INIT]);
    let encoder = init.map(|path| load_encoder(path, settings, &device)).transpose()?;
    let mut learner = Learner::init(settings, data.classes.len(), encoder, &mut rng, &device);
    let mut optimizer = settings.new_optimizer();
    let mut cursor = plan.start();
    let last = run.checkpoints().join("last");
    if resume && state::exists(&last) {
        (learner, cursor) = plan.restore(&last, learner, &mut optimizer, &device)?;
    }
    // Only now is it certain that these are the settings of the checkpoint.
    run.write_config(&config::to_toml(settings))?;
    let mut events = Events::open(run, resume.then_some(cursor.step))?;
    let samples = sample_function(settings, data);
    let mut window = Window::new();
    plan.announce(settings, &cursor);
    monitor.progress.start(plan.total_steps, cursor.step, settings.method.name());

    while cursor.epoch < settings.schedule.epochs {
        let mut batches = plan.batches(settings, &cursor, samples.clone());
        while let Some(batch) = window.pace.wait(|| batches.next()) {
            let batch = batch?;
            let step = plan.settings(cursor.step);
            let logged = plan.is_logged(settings, cursor.step + 1);
            if logged {
                optimizer.request_grad_norm();
            }
            match learner.step(&batch, step, &mut optimizer) {
                Some(report) => {
                    // Read at every step, or the batch that a failure needs is gone; the loader's threads go on.
                    let loss = f64::from(report.loss.clone().into_scalar::<f32>());
                    if !loss.is_finite() {
                        return Err(plan.non_finite(settings, data, run, &cursor, &batch, loss));
                    }
                    window.add(&report, loss, &batch);
                }
                None => {
                    tracing::warn!(
                        "step {}: no image of the batch has boxes in both views; skipped",
                        cursor.step
                    );
                    cursor.skipped_batches += 1;
                    cursor.images_without_boxes += batch.len() as u64;
                }
            }
            cursor.step += 1;
            cursor.batch += 1;
            if logged {
                let norm = optimizer.last_grad_norm();
                let message = window.log(&mut events, &plan, &mut cursor, step, norm)?;
                monitor.progress.update(cursor.step, &message);
            }
            let due = settings.log.checkpoint_steps > 0
                && cursor.step.is_multiple_of(settings.log.checkpoint_steps);
            if monitor.interrupt.is_requested() || (due && cursor.batch < plan.batches_per_epoch) {
                save(&last, &learner, &optimizer, &cursor)?;
            }
            if monitor.interrupt.is_requested() {
                monitor.progress.finish("interrupted; a checkpoint is saved");
                return Ok(TrainEnd::Interrupted { step: cursor.step });
            }
        }
        drop(batches);
        cursor.epoch += 1;
        cursor.batch = 0;
        if plan.is_checked(settings, cursor.epoch) {
            let health = Health::measure(&learner, plan.health_batches(settings, samples.clone()), &device)?;
            report_health(&health, &mut events, &cursor)?;
        }
        save(&last, &learner, &optimizer, &cursor)?;
        save_backbone(&run.weights().join("backbone.safetensors"), &learner, settings, &cursor)?;
        let keep = settings.log.keep_epochs;
        if keep > 0 && cursor.epoch.is_multiple_of(keep) {
            let name = format!("epoch_{}", cursor.epoch);
            save(&run.checkpoints().join(&name), &learner, &optimizer, &cursor)?;
        }
    }
    tracing::info!("{}", window.summary());
    monitor.progress.finish("pretraining finished");
    Ok(TrainEnd::Finished)
}

/// Numbers that follow from settings and data.
struct Plan {
    images: usize,
    batch_size: usize,
    batches_per_epoch: usize,
    total_steps: u64,
    schedule: Schedule,
    ema_base: Option<f64>,
    config_hash: String,
}

impl Plan {
    fn new(settings: &PretrainConfig, data: &ImageFolder) -> Result<Self, PretrainError> {
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
        // How often a run reports, and how many threads read images, does not change its result.
        let result_relevant =
            PretrainConfig { log: LogConfig::default(), data: Default::default(), ..settings.clone() };
        Ok(Self {
            images,
            batch_size,
            batches_per_epoch,
            total_steps: schedule.total_steps,
            ema_base: schedule.ema_base,
            schedule,
            config_hash: config::hash(&result_relevant),
        })
    }

    fn start(&self) -> Cursor {
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

    fn settings(&self, step: u64) -> StepSettings {
        self.schedule.settings(step)
    }

    /// Says once what the settings come to.
    fn announce(&self, settings: &PretrainConfig, cursor: &Cursor) {
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
    fn batches(
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
    fn is_logged(&self, settings: &PretrainConfig, step: u64) -> bool {
        step.is_multiple_of(settings.log.interval) || step == self.total_steps
    }

    /// Whether the networks are looked at after so many epochs.
    fn is_checked(&self, settings: &PretrainConfig, epochs: u64) -> bool {
        let every = settings.log.health_every;
        every > 0 && (epochs.is_multiple_of(every) || epochs == settings.schedule.epochs)
    }

    /// The same images with the same augmentations at every health check.
    fn health_batches(&self, settings: &PretrainConfig, sample: SampleFunction) -> BatchIter<Sample> {
        let order = Some((settings.seed, HEALTH_EPOCH));
        let mut indices = sampler::batches(self.images, self.images, false, order).concat();
        indices.truncate(settings.log.health_images.max(2));
        let options = LoaderOptions {
            seed: settings.seed,
            epoch: HEALTH_EPOCH,
            threads: settings.data.threads,
            prefetch: settings.data.prefetch,
        };
        load_batches(indices.chunks(HEALTH_BATCH).map(<[usize]>::to_vec).collect(), options, sample)
    }

    /// Saves the batch whose loss is no number and says so.
    fn non_finite(
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

    fn restore(
        &self,
        path: &Path,
        learner: Learner,
        optimizer: &mut Optimizer,
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
        optimizer.load_state(tensors.remove("optimizer").unwrap_or_default(), device);
        Ok((learner.load(&tensors)?, cursor))
    }
}

/// Prepares the image of an index from its own random stream.
pub type SampleFunction = Arc<dyn Fn(usize, &mut Rng) -> Result<Sample, DataError> + Send + Sync>;

/// Decodes and augments one image: two views with their matched boxes, or one view for `supervised`.
pub fn sample_function(settings: &PretrainConfig, data: &ImageFolder) -> SampleFunction {
    let (augment, boxes, method) = (settings.augment.clone(), settings.boxes.clone(), settings.method);
    let samples = data.samples.clone();
    Arc::new(move |index, rng| {
        let source = &samples[index];
        if method == MethodKind::Supervised {
            let view = augment.load_supervised_view(&source.path, rng)?;
            return Ok(Sample { views: vec![view.pixels], boxes: Vec::new(), label: source.label });
        }
        let [first, second] = augment.load_two_views(&source.path, rng)?;
        let boxes = match method {
            MethodKind::Scrl => boxes.generate([&first.geometry, &second.geometry], rng),
            _ => Vec::new(),
        };
        Ok(Sample { views: vec![first.pixels, second.pixels], boxes, label: source.label })
    })
}

fn report_health(health: &Health, events: &mut Events, cursor: &Cursor) -> Result<(), PretrainError> {
    tracing::info!("epoch {}: {health}", cursor.epoch);
    if health.is_collapsed() {
        tracing::warn!(
            "epoch {}: the features hardly depend on the image; raise ema.base or lower schedule.base_lr if this stays",
            cursor.epoch
        );
    }
    Ok(events.record("health", cursor.step, cursor.epoch as f64, health.fields())?)
}

fn save(path: &Path, learner: &Learner, optimizer: &Optimizer, cursor: &Cursor) -> Result<(), PretrainError> {
    let mut tensors: Vec<(&str, TensorMap)> = learner.tensors();
    tensors.push(("optimizer", optimizer.state()));
    Ok(state::save(path, &tensors, cursor)?)
}

fn save_backbone(
    path: &Path,
    learner: &Learner,
    settings: &PretrainConfig,
    cursor: &Cursor,
) -> Result<(), PretrainError> {
    let metadata = weights::BackboneMetadata {
        arch: settings.model.arch,
        width: settings.model.width,
        method: settings.method.name().to_string(),
        epoch: cursor.epoch as f64,
        image_size: settings.augment.view_size,
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
        config_hash: cursor.config_hash.clone(),
    };
    Ok(weights::save_backbone(path, learner.encoder(), &metadata)?)
}
