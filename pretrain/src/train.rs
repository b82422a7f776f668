//! The pretraining loop.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use scrl_core::checkpoint::{state, weights};
use scrl_core::config;
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::data::loader::{BatchIter, LoaderOptions, load_batches};
use scrl_core::data::{DataError, sampler};
use scrl_core::engine::{Events, Monitor, RunDir, Throughput, TrainEnd};
use scrl_core::models::ResNet;
use scrl_core::models::parameters::TensorMap;
use scrl_core::random::{Rng, stream};
use scrl_core::solver::{Optimizer, WarmupCosine};
use scrl_core::transforms::normalize::{IMAGENET_MEAN, IMAGENET_STD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::{LogConfig, MethodKind, PretrainConfig};
use crate::ema;
use crate::error::PretrainError;
use crate::methods::{Learner, Sample, StepReport, StepSettings};

/// Names the random stream of parameter initialisation.
const INIT: u64 = 1;
/// Steps over which images per second are averaged.
const RATE_WINDOW: usize = 20;

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
    let mut optimizer = Optimizer::new(settings.optimizer.clone());
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
        for batch in plan.batches(settings, &cursor, samples.clone()) {
            let batch = batch?;
            let step = plan.settings(cursor.step);
            match learner.step(&batch, step, &mut optimizer) {
                Some(report) => window.add(report, &batch),
                None => {
                    tracing::warn!(
                        "step {}: no image of the batch has boxes in both views; skipped",
                        cursor.step
                    );
                    cursor.skipped_batches += 1;
                }
            }
            cursor.step += 1;
            cursor.batch += 1;
            if cursor.step.is_multiple_of(settings.log.interval) || cursor.step == plan.total_steps {
                let message = window.log(&mut events, &plan, &mut cursor, step)?;
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
        cursor.epoch += 1;
        cursor.batch = 0;
        save(&last, &learner, &optimizer, &cursor)?;
        save_backbone(&run.weights().join("backbone.safetensors"), &learner, settings, &cursor)?;
        let keep = settings.log.keep_epochs;
        if keep > 0 && cursor.epoch.is_multiple_of(keep) {
            let name = format!("epoch_{}", cursor.epoch);
            save(&run.checkpoints().join(&name), &learner, &optimizer, &cursor)?;
        }
    }
    monitor.progress.finish("pretraining finished");
    Ok(TrainEnd::Finished)
}

/// Numbers that follow from settings and data.
struct Plan {
    images: usize,
    batch_size: usize,
    batches_per_epoch: usize,
    total_steps: u64,
    schedule: WarmupCosine,
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
        let total_steps = settings.schedule.epochs * batches_per_epoch as u64;
        let warmup = (settings.schedule.warmup_epochs * batches_per_epoch as f64).round() as u64;
        // How often a run reports, and how many threads read images, does not change its result.
        let result_relevant =
            PretrainConfig { log: LogConfig::default(), data: Default::default(), ..settings.clone() };
        Ok(Self {
            images,
            batch_size,
            batches_per_epoch,
            total_steps,
            schedule: WarmupCosine {
                base_lr: settings.effective_lr(),
                warmup_steps: warmup,
                total_steps,
                min_lr: 0.0,
                warmup_start_factor: 0.0,
            },
            ema_base: (!supervised).then_some(settings.ema.base),
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
        let ema_momentum = self.ema_base.map_or(1.0, |base| ema::momentum(base, step, self.total_steps));
        StepSettings { lr: self.schedule.lr(step), ema_momentum }
    }

    fn announce(&self, settings: &PretrainConfig, cursor: &Cursor) {
        tracing::info!(
            "{} on {} images: {} epochs of {} steps, batch {}; learning rate {:.4} = {} x {} / 256{}",
            settings.method.name(),
            self.images,
            settings.schedule.epochs,
            self.batches_per_epoch,
            self.batch_size,
            settings.effective_lr(),
            settings.schedule.base_lr,
            self.batch_size,
            if cursor.step > 0 { format!("; resumed at step {}", cursor.step) } else { String::new() },
        );
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

fn load_encoder(path: &Path, settings: &PretrainConfig, device: &Device) -> Result<ResNet, PretrainError> {
    let (encoder, found, _) = weights::load_backbone(path, device)?;
    if found != settings.model {
        let name = |c: &scrl_core::models::ResNetConfig| format!("{} of width {}", c.arch, c.width);
        return Err(PretrainError::OtherArch {
            path: path.to_path_buf(),
            found: name(&found),
            expected: name(&settings.model),
        });
    }
    Ok(encoder)
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

/// What happened since the last `train` event.
struct Window {
    loss: Option<Tensor<1>>,
    steps: usize,
    images: usize,
    boxes: usize,
    without_boxes: usize,
    throughput: Throughput,
}

impl Window {
    fn new() -> Self {
        Self {
            loss: None,
            steps: 0,
            images: 0,
            boxes: 0,
            without_boxes: 0,
            throughput: Throughput::new(RATE_WINDOW),
        }
    }

    fn add(&mut self, report: StepReport, batch: &[Sample]) {
        self.loss = Some(match self.loss.take() {
            Some(sum) => sum + report.loss,
            None => report.loss,
        });
        self.steps += 1;
        self.images += batch.len();
        self.boxes += report.boxes;
        self.without_boxes += report.without_boxes;
        self.throughput.record(batch.len());
    }

    /// Writes one event, starts a new window and returns the line for the progress bar.
    fn log(
        &mut self,
        events: &mut Events,
        plan: &Plan,
        cursor: &mut Cursor,
        step: StepSettings,
    ) -> Result<String, PretrainError> {
        cursor.images_without_boxes += self.without_boxes as u64;
        let Some(loss) = self.loss.take() else { return Ok(String::new()) };
        let loss = loss.into_scalar::<f32>() as f64 / self.steps as f64;
        if !loss.is_finite() {
            return Err(PretrainError::NonFinite { step: cursor.step, value: loss });
        }
        let rate = self.throughput.images_per_second().unwrap_or(0.0);
        let mut fields = Map::new();
        fields.insert("loss".into(), json!(loss));
        fields.insert("lr".into(), json!(step.lr));
        fields.insert("images_per_second".into(), json!(rate));
        if plan.ema_base.is_some() {
            fields.insert("ema_momentum".into(), json!(step.ema_momentum));
        }
        fields.insert("boxes".into(), json!(self.boxes as f64 / self.images.max(1) as f64));
        fields.insert("images_without_boxes".into(), Value::from(cursor.images_without_boxes));
        fields.insert("skipped_batches".into(), Value::from(cursor.skipped_batches));
        let epoch = cursor.step as f64 / plan.batches_per_epoch as f64;
        events.record("train", cursor.step, epoch, fields)?;
        (self.steps, self.images, self.boxes, self.without_boxes) = (0, 0, 0, 0);
        Ok(format!("epoch {epoch:.2}, loss {loss:.4}, lr {:.4}, {rate:.1} images/s", step.lr))
    }
}
