//! The work of one cell, as a process of its own does it.
//!
//! A job is a file that says everything; what it leaves is a run directory (or an ONNX file) and a marker, written
//! last and in one go, so that a cell is done or not, whenever its process ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{BenchmarkError, Context, Result, ensure};
use burn::tensor::Device;
use scrl_core::checkpoint::{state, weights};
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::engine::{Monitor, OpenMode, RunDir, RunError, TrainEnd};
use scrl_export::{
    BackboneOutput, DetectorInfo, DetectorInputs, DetectorOptions, ExportOptions, ValidationInputs,
    export_backbone, export_detector, file_sha256, proven, validate_backbone, validate_detector,
};
use scrl_pretrain::{PretrainConfig, Pretraining};
use scrl_transfer::data::Labels;
use scrl_transfer::weights::DETECTOR_FILE;
use scrl_transfer::{
    DataSource, InitWeights, LoadedDetector, Transfer, TransferConfig, TransferOutcome, load_detector,
};
use serde::{Deserialize, Serialize};

use super::events;
use super::host::Host;
use super::record::{Cost, DetectorRecord, Done, ExportRecord, PretrainRecord, Record, TransferRecord};

/// How long a job waits for the process that held its folder before; that one ends when its benchmark does.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a cell's process is given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobFile {
    /// Hash of everything that the result depends on.
    pub settings: String,
    /// Where the marker goes.
    pub marker: PathBuf,
    /// What to do.
    pub job: Job,
}

/// How a job ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// Its marker is written.
    Done,
    /// Somebody asked it to stop; it has left a checkpoint.
    Interrupted,
}

/// A cell's work.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Job {
    /// A pretraining.
    Pretrain(Box<PretrainJob>),
    /// A fine-tuning with its evaluation.
    Transfer(Box<TransferJob>),
    /// ONNX of a backbone.
    Export(ExportJob),
    /// ONNX of a detector.
    Detector(DetectorJob),
}

/// A pretraining in a run folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PretrainJob {
    /// The settings in effect.
    pub settings: PretrainConfig,
    /// Image folders.
    pub images: Vec<PathBuf>,
    /// The run directory.
    pub run: PathBuf,
}

/// A fine-tuning and evaluation in a run folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TransferJob {
    /// The settings in effect.
    pub settings: TransferConfig,
    /// Random, where there is none.
    pub weights: Option<PathBuf>,
    /// The run's folder.
    pub run: PathBuf,
}

/// Export and validation of a backbone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExportJob {
    /// A pretraining run.
    pub weights: PathBuf,
    /// The ONNX file to write.
    pub onnx: PathBuf,
    /// Folders of validation images, and how many are taken.
    pub images: Vec<PathBuf>,
    /// Images to compare outputs on.
    pub count: usize,
}

/// Export and validation of a detector.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DetectorJob {
    /// A transfer run.
    pub weights: PathBuf,
    /// The ONNX file to write.
    pub onnx: PathBuf,
    /// Where validation images come from, and how many are taken.
    pub images: Option<DataSource>,
    /// Images to compare detections on.
    pub count: usize,
}

impl JobFile {
    /// Does the work on a device of the host and writes the marker.
    ///
    /// # Errors
    /// When there is no such device, or the work fails.
    pub fn run(&self, device_name: &str, host: &Host, monitor: &mut Monitor) -> Result<JobEnd> {
        let device = &(host.device)(device_name).map_err(BenchmarkError::Refused)?;
        let started = Instant::now();
        let record = match &self.job {
            Job::Pretrain(job) => {
                job.run(device, host, monitor)?.map(|(record, cost)| (Record::Pretrain(record), cost))
            }
            Job::Transfer(job) => job
                .run(device, host, monitor)?
                .map(|(record, cost)| (Record::Transfer(Box::new(record)), cost)),
            Job::Export(job) => Some((Record::Export(job.run(host)?), Cost::default())),
            Job::Detector(job) => Some((Record::Detector(job.run(host)?), Cost::default())),
        };
        let Some((record, cost)) = record else { return Ok(JobEnd::Interrupted) };
        let cost = Cost {
            seconds: started.elapsed().as_secs_f64(),
            device: device_name.to_string(),
            threads: rayon::current_num_threads(),
            peak_gib: (host.peak_gib)(),
            ..cost
        };
        Done { settings: self.settings.clone(), record, cost }.write(&self.marker)?;
        Ok(JobEnd::Done)
    }
}

impl PretrainJob {
    fn run(
        &self,
        device: &Device,
        host: &Host,
        monitor: &mut Monitor,
    ) -> Result<Option<(PretrainRecord, Cost)>> {
        let data = ImageFolder::scan(&self.images)?;
        let (run, resumed) = open(&self.run, host)?;
        let settings = &self.settings;
        let end = Pretraining::new(settings, &data, &run).resume(resumed).run(device, monitor)?;
        let TrainEnd::Finished = end else { return Ok(None) };
        let events = events::read(run.path())?;
        let batch_size = settings.schedule.batch_size;
        let record = PretrainRecord {
            method: settings.method.name().to_string(),
            images: data.samples.len(),
            epochs: settings.schedule.epochs,
            steps: settings.schedule.epochs * (data.samples.len() / batch_size) as u64,
            batch_size,
            learning_rate: settings.effective_lr(),
        };
        let images = record.steps * batch_size as u64;
        Ok(Some((record, Cost { resumed, images, images_per_second: rate(&events), ..Cost::default() })))
    }
}

impl TransferJob {
    fn run(
        &self,
        device: &Device,
        host: &Host,
        monitor: &mut Monitor,
    ) -> Result<Option<(TransferRecord, Cost)>> {
        let init = match &self.weights {
            None => InitWeights::Random,
            Some(path) => InitWeights::parse(&path.to_string_lossy())?,
        };
        let (run, resumed) = open(&self.run, host)?;
        let outcome = Transfer::new(&self.settings, &init, &run).resume(resumed).run(device, monitor)?;
        let TransferOutcome::Finished(report) = outcome else { return Ok(None) };
        let events = events::read(run.path())?;
        let metrics = report.metrics.summary().into_iter().map(|(name, value)| (name.to_string(), value));
        let record = TransferRecord {
            train_images: report.train_images,
            val_images: report.val_images,
            iterations: report.iterations,
            metrics: metrics.collect(),
            per_class: report.metrics.coco.per_class.iter().map(|c| (c.name.clone(), c.ap)).collect(),
        };
        let images = report.iterations * self.settings.batch_size as u64;
        Ok(Some((record, Cost { resumed, images, images_per_second: rate(&events), ..Cost::default() })))
    }
}

impl ExportJob {
    /// On the CPU: ONNX Runtime is compared with what the weights give there.
    fn run(&self, host: &Host) -> Result<ExportRecord> {
        let device = (host.device)("cpu").map_err(BenchmarkError::Refused)?;
        let (model, config, metadata) = weights::load_backbone(&self.weights, &device)?;
        let folder = self.onnx.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        let options = ExportOptions::default();
        let samples = if self.count == 0 { Vec::new() } else { ImageFolder::scan(&self.images)?.samples };
        let images = samples.into_iter().take(self.count).map(|sample| sample.path).collect();
        let inputs = ValidationInputs { images, ..ValidationInputs::new(metadata.image_size) };
        let report = proven(
            &self.onnx,
            |path| export_backbone(&model, &config, &metadata, BackboneOutput::Pyramid, path, &options),
            |path| validate_backbone(path, &model, &metadata, &inputs),
        )?;
        Ok(ExportRecord {
            cases: report.cases.len(),
            max_abs_error: report.max_abs_error,
            tolerance: report.tolerance,
        })
    }
}

impl DetectorJob {
    /// On the CPU, as backbones.
    fn run(&self, host: &Host) -> Result<DetectorRecord> {
        let device = (host.device)("cpu").map_err(BenchmarkError::Refused)?;
        let LoadedDetector { model, metadata } = load_detector(&self.weights, &device)?;
        let folder = self.onnx.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        let weights = self.weights.join("weights").join(DETECTOR_FILE);
        let info =
            DetectorInfo { weights_sha256: Some(file_sha256(&weights)?), ..DetectorInfo::new(metadata) };
        let images = match &self.images {
            Some(source) => source
                .load(Labels::Boxes)?
                .images
                .into_iter()
                .take(self.count)
                .map(|image| image.path)
                .collect(),
            None => Vec::new(),
        };
        let inputs = DetectorInputs { images, ..Default::default() };
        let report = proven(
            &self.onnx,
            |path| export_detector(&model, &info, path, &DetectorOptions::default()),
            |path| validate_detector(path, &model, &info, &inputs),
        )?;
        Ok(DetectorRecord {
            cases: report.cases.len(),
            matched: report.total.matched,
            ties: report.total.ties,
        })
    }
}

/// The middle of the speeds that a run logged, over all its attempts.
fn rate(events: &[serde_json::Value]) -> Option<f64> {
    let of_training = events.iter().filter(|event| event["kind"] == "train");
    let mut rates: Vec<f64> = of_training.filter_map(|event| event["images_per_second"].as_f64()).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied()
}

/// Opens a cell's run directory, and says whether it goes on from a checkpoint. What an attempt left that did not come so
/// far is removed.
fn open(path: &Path, host: &Host) -> Result<(RunDir, bool)> {
    let foreign =
        !path.join(".lock").exists() && fs::read_dir(path).is_ok_and(|mut files| files.next().is_some());
    ensure!(!foreign, "`{}` holds files of another origin; choose another --out", path.display());
    fs::create_dir_all(path).with_context(|| format!("cannot create `{}`", path.display()))?;
    let started = Instant::now();
    let run = loop {
        match RunDir::open(path, OpenMode::Resume) {
            Err(RunError::InUse { .. }) if started.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => break result?,
        }
    };
    // Only now has an earlier attempt's process certainly ended.
    let resume = state::exists(&run.checkpoints().join("last"));
    if !resume {
        clear(&run).with_context(|| format!("cannot clear `{}`", path.display()))?;
    }
    let log = run.file("log.txt");
    (host.open_log)(&log).with_context(|| format!("cannot write the log `{}`", log.display()))?;
    Ok((run, resume))
}

/// Empties a run directory but for its lock.
fn clear(run: &RunDir) -> std::io::Result<()> {
    for entry in fs::read_dir(run.path())? {
        let path = entry?.path();
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        } else if !path.ends_with(".lock") {
            fs::remove_file(&path)?;
        }
    }
    fs::create_dir_all(run.checkpoints())?;
    fs::create_dir_all(run.weights())
}
