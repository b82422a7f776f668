//! The pretraining loop.

mod health_check;
mod plan;
mod window;

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use scrl_core::checkpoint::{state, weights};
use scrl_core::config;
use scrl_core::data::DataError;
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::engine::{Events, Monitor, RunDir, RunError, TrainEnd};
use scrl_core::models::ResNet;
use scrl_core::models::parameters::TensorMap;
use scrl_core::random::{Rng, stream};
use scrl_core::solver::Optimizer;
use scrl_core::transforms::normalize::{IMAGENET_MEAN, IMAGENET_STD};

use crate::config::{MethodKind, PretrainConfig};
use crate::error::PretrainError;
use crate::health::Health;
use crate::init_weights::load_encoder;
use crate::methods::{Learner, Sample};
use crate::probe::OnlineProbe;
use health_check::HealthCheck;
use plan::{Cursor, Plan};
use window::Window;

/// Names the random stream of parameter initialisation.
const INIT: u64 = 1;

/// Images of a run; an [`ImageFolder`] alone turns into this.
#[derive(Clone, Copy, Debug)]
pub struct PretrainData<'a> {
    /// What is learned from.
    pub images: &'a ImageFolder,
    /// What health checks look at; images of the run itself without it.
    pub held_out: Option<&'a ImageFolder>,
}

impl<'a> From<&'a ImageFolder> for PretrainData<'a> {
    fn from(images: &'a ImageFolder) -> Self {
        Self { images, held_out: None }
    }
}

/// Pretrains on `data` and leaves checkpoints and `weights/backbone.safetensors` in `run`.
///
/// `init` are weights that the backbone starts from. On the CPU the result depends on the configuration and the
/// data alone, to the bit, however often the run is interrupted and resumed; held-out images do not change it.
pub fn train<'a>(
    settings: &PretrainConfig,
    data: impl Into<PretrainData<'a>>,
    init: Option<&Path>,
    run: &RunDir,
    resume: bool,
    device: &Device,
    monitor: &mut Monitor,
) -> Result<TrainEnd, PretrainError> {
    let PretrainData { images: data, held_out } = data.into();
    let plan = Plan::new(settings, data)?;
    let device = device.clone().autodiff();
    let encoder = init.map(|path| load_encoder(path, settings, &device)).transpose()?;
    let mut learner = initial_learner(settings, data.classes.len(), encoder, &device);
    let mut optimizer = settings.new_optimizer();
    let mut probe = OnlineProbe::for_run(settings, data, &device);
    if probe.is_some() {
        learner.keep_features();
    }
    let mut cursor = plan.start();
    let last = run.checkpoints().join("last");
    if resume && state::exists(&last) {
        (learner, cursor) = plan.restore(&last, learner, &mut optimizer, &mut probe, &device)?;
    } else if resume {
        forget_events(run)?;
    }
    // Only now is it certain that these are the settings of the checkpoint.
    run.write_config(&config::to_toml(settings))?;
    let mut events = Events::open(run, resume.then_some(cursor.step))?;
    let samples = sample_function(settings, data);
    let health = HealthCheck::new(settings, held_out.unwrap_or(data));
    plan.announce(settings, &cursor);
    monitor.progress.start(plan.total_steps, cursor.step, settings.method.name());
    if cursor.step == 0 && settings.log.health_every > 0 {
        report_health(&Health::measure(&learner, health.batches(), &device)?, &mut events, &cursor)?;
    }
    let mut window = Window::new();

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
                    if let (Some(probe), Some(views)) = (&mut probe, report.pooled) {
                        window.add_probe(&probe.step(views, plan.schedule.probe_lr(cursor.step)));
                    }
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
                save(&last, &learner, &optimizer, probe.as_ref(), &cursor)?;
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
            report_health(&Health::measure(&learner, health.batches(), &device)?, &mut events, &cursor)?;
        }
        save_backbone(&run.weights().join("backbone.safetensors"), &learner, settings, &cursor)?;
        let keep = settings.log.keep_epochs;
        if keep > 0 && cursor.epoch.is_multiple_of(keep) {
            let name = format!("epoch_{}", cursor.epoch);
            save(&run.checkpoints().join(&name), &learner, &optimizer, probe.as_ref(), &cursor)?;
        }
        // Last of all: a run that dies before it does this epoch's end again, and no file of it stays behind.
        save(&last, &learner, &optimizer, probe.as_ref(), &cursor)?;
    }
    tracing::info!("{}", window.summary());
    monitor.progress.finish("pretraining finished");
    Ok(TrainEnd::Finished)
}

/// The networks at the start of a run, on an autodiff device; `encoder` replaces the random backbone.
pub(crate) fn initial_learner(
    settings: &PretrainConfig,
    classes: usize,
    encoder: Option<ResNet>,
    device: &Device,
) -> Learner {
    Learner::init(settings, classes, encoder, &mut stream(settings.seed, &[INIT]), device)
}

/// Drops what a run logged that was killed before its first checkpoint: all of it comes again.
fn forget_events(run: &RunDir) -> Result<(), RunError> {
    let path = run.file("metrics.jsonl");
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(RunError::Io { action: "remove", path, source })
        }
        _ => Ok(()),
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
    if cursor.step > 0 && health.is_collapsed() {
        tracing::warn!(
            "epoch {}: the features hardly depend on the image; raise ema.base or lower schedule.base_lr if this stays",
            cursor.epoch
        );
    }
    Ok(events.record("health", cursor.step, cursor.epoch as f64, health.fields())?)
}

fn save(
    path: &Path,
    learner: &Learner,
    optimizer: &Optimizer,
    probe: Option<&OnlineProbe>,
    cursor: &Cursor,
) -> Result<(), PretrainError> {
    let mut tensors: Vec<(&str, TensorMap)> = learner.tensors();
    tensors.push(("optimizer", optimizer.state()));
    tensors.extend(probe.into_iter().flat_map(OnlineProbe::tensors));
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
