//! A few steps of the real training, timed.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Context, Result};
use burn::tensor::Device;
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::engine::{Interrupt, Monitor, OpenMode, Progress, RunDir};
use scrl_core::random::stream;
use scrl_ops::Group;
use scrl_pretrain::{PretrainConfig, Pretraining};
use scrl_synth::SynthConfig;
use scrl_transfer::inference::{EvaluateOptions, detect_dataset};
use scrl_transfer::{InitWeights, Transfer, TransferConfig};

use super::super::budget::{ImageCounts, Length};
use super::super::job::{Job, PretrainJob, TransferJob};
use super::super::plan::PretrainImages;
use super::RESULT_BYTES;

/// Steps after the first, which warms up.
const STEPS: usize = 3;
/// No measurement takes much longer.
const PATIENCE: Duration = Duration::from_secs(45);
/// Pixels of a pretraining's batch, per view, and of a fine-tuning's batch, beyond which batches are cut.
const PRETRAIN_PIXELS: f64 = 640e3;
const TRANSFER_PIXELS: f64 = 2.2e6;

/// A folder that is removed in the end.
pub struct Temporary(PathBuf);

impl Temporary {
    /// # Errors
    /// When the temporary folder cannot be made.
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("scrl-estimate-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create `{}`", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What is left is in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Enough scenes for a few steps.
pub fn few_scenes(settings: &SynthConfig) -> SynthConfig {
    SynthConfig {
        train: settings.train.min(48),
        val: settings.val.min(16),
        unlabelled: settings.unlabelled.min(192),
        class_images: settings.class_images.min(24),
        ..settings.clone()
    }
}

/// Bytes of a file or of all files below a folder.
pub fn size(path: &Path) -> u64 {
    if path.is_file() {
        return path.metadata().map_or(0, |metadata| metadata.len());
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| size(&entry.path())).sum()
}

/// Notes when units are done and stops after a few.
struct Stopwatch {
    times: Rc<RefCell<Vec<(u64, Instant)>>>,
    interrupt: Interrupt,
    begun: Instant,
}

impl Progress for Stopwatch {
    fn start(&mut self, _total: u64, done: u64, _title: &str) {
        self.times.borrow_mut().push((done, Instant::now()));
    }

    fn update(&mut self, done: u64, _message: &str) {
        let mut times = self.times.borrow_mut();
        times.push((done, Instant::now()));
        if times.len() > STEPS + 1 || (times.len() > 2 && self.begun.elapsed() > PATIENCE) {
            self.interrupt.request();
        }
    }

    fn finish(&mut self, _message: &str) {}
}

/// Runs something under a stopwatch; seconds a unit, the middle of those after the first.
fn time(work: impl FnOnce(&mut Monitor) -> Result<()>) -> Result<f64> {
    let times = Rc::new(RefCell::new(Vec::new()));
    let interrupt = Interrupt::new();
    let watch = Stopwatch { times: Rc::clone(&times), interrupt: interrupt.clone(), begun: Instant::now() };
    // What it would log, such as another number of epochs, is of the timed steps and not of the plan.
    let silent = tracing::subscriber::NoSubscriber::default();
    tracing::subscriber::with_default(silent, || {
        work(&mut Monitor { interrupt, progress: Box::new(watch) })
    })?;
    let times = times.borrow();
    let per_unit = |pair: &[(u64, Instant)]| {
        let units = pair[1].0.saturating_sub(pair[0].0).max(1);
        (pair[1].1 - pair[0].1).as_secs_f64() / units as f64
    };
    let mut seconds: Vec<f64> = times.windows(2).map(per_unit).collect();
    if seconds.len() > 1 {
        seconds.remove(0);
    }
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().context("no step could be timed")
}

/// Times jobs in a temporary folder.
pub struct Measured<'a> {
    folder: &'a Temporary,
    device: Device,
    counts: ImageCounts,
    images: PretrainImages,
    runs: usize,
    /// How the last job was timed.
    pub words: String,
}

impl<'a> Measured<'a> {
    pub fn new(folder: &'a Temporary, device: Device, counts: ImageCounts, images: PretrainImages) -> Self {
        Self { folder, device, counts, images, runs: 0, words: String::new() }
    }

    /// Seconds and bytes of a cell; none of an export, which takes seconds.
    ///
    /// # Errors
    /// When a step fails.
    pub fn cell(&mut self, job: &Job) -> Result<Option<(f64, f64)>> {
        self.words = format!("{STEPS} timed steps");
        match job {
            Job::Pretrain(job) => self.pretrain(job).map(Some),
            Job::Transfer(job) => self.transfer(job).map(Some),
            Job::Export(_) | Job::Detector(_) => {
                self.words = "seconds each, not timed".into();
                Ok(None)
            }
        }
    }

    fn run_dir(&mut self) -> Result<RunDir> {
        self.runs += 1;
        Ok(RunDir::open(&self.folder.path().join(format!("run{}", self.runs)), OpenMode::New)?)
    }

    fn pretrain(&mut self, job: &PretrainJob) -> Result<(f64, f64)> {
        let data = ImageFolder::scan(&job.images)?;
        let side = f64::from(job.settings.augment.view_size);
        let whole = job.settings.schedule.batch_size;
        let batch = whole.min((PRETRAIN_PIXELS / (side * side)) as usize).min(data.samples.len()).max(2);
        let mut settings: PretrainConfig = job.settings.clone();
        settings.schedule.batch_size = batch;
        settings.schedule.accumulate = 1;
        settings.schedule.epochs = settings.schedule.epochs.max(2 * STEPS as u64 + 2);
        (settings.log.interval, settings.log.checkpoint_steps, settings.log.health_every) = (1, 0, 0);
        let run = self.run_dir()?;
        let seconds = time(|monitor| {
            Pretraining::new(&settings, &data, &run).run(&self.device, monitor)?;
            Ok(())
        })?;
        if batch < whole {
            self.words = format!("{STEPS} timed steps of {batch} images in place of {whole}");
        }
        let length = Length::of(&job.settings, self.counts.of(job.settings.method, self.images));
        // Beside the checkpoint there is the backbone, a third of it at most.
        let bytes = 4.0 / 3.0 * size(&run.checkpoints()) as f64;
        Ok((seconds / batch as f64 * length.images as f64, bytes))
    }

    fn transfer(&mut self, job: &TransferJob) -> Result<(f64, f64)> {
        let mut settings: TransferConfig = job.settings.clone();
        let side = f64::from(settings.min_sizes.iter().copied().max().unwrap_or(settings.test_min_size));
        let whole = settings.batch_size;
        settings.batch_size = whole.min((TRANSFER_PIXELS / (side * side * 4.0 / 3.0)) as usize).max(1);
        settings.fraction = 1.0;
        (settings.log_every, settings.checkpoint_every, settings.eval_every) = (1, 0, 0);
        let run = self.run_dir()?;
        let step = time(|monitor| {
            Transfer::new(&settings, &InitWeights::Random, &run).run(&self.device, monitor)?;
            Ok(())
        })?;
        if settings.batch_size < whole {
            let batch = settings.batch_size;
            self.words = format!("{STEPS} timed steps of {batch} images in place of {whole}");
        }
        let images = job.settings.iterations as f64 * whole as f64;
        let training = step / settings.batch_size as f64 * images;
        let (test, val_images) = self.evaluation(&job.settings)?;
        // The checkpoint holds weights and momentum; the weights are written once more.
        let bytes = 1.5 * size(&run.checkpoints()) as f64 + val_images as f64 * RESULT_BYTES;
        Ok((training + test * val_images as f64, bytes))
    }

    /// Seconds a test image by a detector that has learnt nothing, and how many test images there are.
    fn evaluation(&self, settings: &TransferConfig) -> Result<(f64, usize)> {
        let source = settings.data.val.as_ref().context("the recipe names no test images")?;
        let dataset = Arc::new(source.load(settings.model.labels())?);
        let mut config = settings.model.clone();
        config.num_classes = dataset.categories.len();
        let model = config.init(&mut stream(0, &[]), &self.device);
        let options = EvaluateOptions {
            batch_size: settings.eval_batch_size,
            threads: settings.threads,
            prefetch: settings.prefetch,
        };
        let seconds = time(|monitor| {
            detect_dataset(
                &model,
                &dataset,
                &settings.preprocessing(),
                options,
                &self.device,
                &Group::alone(),
                monitor,
            )?;
            Ok(())
        })?;
        Ok((seconds, dataset.images.len()))
    }
}
