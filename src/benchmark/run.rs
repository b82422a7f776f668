//! Runs a plan cell by cell. Every cell has a folder; a finished one is skipped, an interrupted one resumed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use scrl_core::checkpoint::weights;
use scrl_core::config;
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::data::synth;
use scrl_core::engine::{Monitor, OpenMode, RunDir, TrainEnd};
use scrl_export::{BackboneOutput, ExportOptions, ValidationInputs, export_backbone, validate_backbone};
use scrl_pretrain::MethodKind;
use scrl_transfer::{InitWeights, TransferOutcome};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::plan::{DataPlan, Init, ResolvedPlan};
use super::plots;
use super::report::{ExportResult, PretrainResult, Results, TransferResult};
use crate::commands::{Ending, open_logged};

/// Marks a finished cell; holds its result and the hash of the settings that made it.
const DONE: &str = "done.json";

/// A benchmark in a folder.
pub struct Benchmark<'a> {
    pub plan: &'a ResolvedPlan,
    pub out: &'a Path,
    pub device: &'a Device,
    pub monitor: &'a mut Monitor,
}

/// Images of the plan.
struct Sources {
    unlabelled: Vec<PathBuf>,
    classes: Option<PathBuf>,
    detection: PathBuf,
}

/// A cell's result, or that the user stopped it.
enum Cell<T> {
    Done(T),
    Interrupted,
}

impl Benchmark<'_> {
    /// Runs every cell that is not done, then writes `results.json`, plots and reports.
    pub fn run(&mut self) -> Result<(Ending, Results)> {
        let sources = self.sources()?;
        let mut results = Results::default();
        let plan = &self.plan.plan;
        for &seed in &plan.seeds {
            for &init in &plan.inits {
                if init.method().is_some() {
                    match self.pretrain(init, seed, &sources)? {
                        Cell::Done(result) => results.pretrain.push(result),
                        Cell::Interrupted => return Ok((Ending::Interrupted, results)),
                    }
                    if plan.export.enabled {
                        results.export.push(self.export(init, seed, &sources)?);
                    }
                }
            }
        }
        for &fraction in &plan.label_fractions {
            for &init in &plan.inits {
                for &seed in &plan.seeds {
                    match self.transfer(init, fraction, seed, &sources)? {
                        Cell::Done(result) => results.transfer.push(result),
                        Cell::Interrupted => return Ok((Ending::Interrupted, results)),
                    }
                }
            }
        }
        self.report(&results)?;
        Ok((Ending::Done, results))
    }

    fn sources(&self) -> Result<Sources> {
        match &self.plan.plan.data {
            DataPlan::Synth(settings) => {
                let data = self.out.join("data");
                if !synth::is_complete(&data, settings) {
                    tracing::info!("writing procedural scenes to {}", data.display());
                    synth::overwrite(settings, &data)?;
                }
                Ok(Sources {
                    unlabelled: vec![data.join("unlabelled")],
                    classes: Some(data.join("classes")),
                    detection: data,
                })
            }
            DataPlan::Folders { unlabelled, classes, detection } => Ok(Sources {
                unlabelled: unlabelled.clone(),
                classes: classes.clone(),
                detection: detection.clone(),
            }),
        }
    }

    fn pretrain_dir(&self, init: Init, seed: u64) -> PathBuf {
        self.out.join("pretrain").join(format!("{}-seed{seed}", init.name()))
    }

    fn transfer_dir(&self, init: Init, fraction: f64, seed: u64) -> PathBuf {
        let name = format!("{}-{}pct-seed{seed}", init.name(), (1000.0 * fraction).round() / 10.0);
        self.out.join("transfer").join(name)
    }

    fn pretrain(&mut self, init: Init, seed: u64, sources: &Sources) -> Result<Cell<PretrainResult>> {
        let settings = self.plan.recipe(init, seed).context("the plan was checked when it was read")?;
        let dir = self.pretrain_dir(init, seed);
        let hash = config::hash(&settings);
        if let Some(result) = finished(&dir, &hash)? {
            return Ok(Cell::Done(result));
        }
        let folders = match (settings.method, &sources.classes) {
            (MethodKind::Supervised, Some(classes)) => vec![classes.clone()],
            (MethodKind::Supervised, None) => {
                bail!("init `supervised` needs `classes`, a folder of class folders, in the plan's [data]")
            }
            _ => sources.unlabelled.clone(),
        };
        let data = ImageFolder::scan(&folders)?;
        let (run, resume) = open(&dir)?;
        let started = Instant::now();
        let outcome = scrl_pretrain::train(&settings, &data, None, &run, resume, self.device, self.monitor)?;
        let TrainEnd::Finished = outcome else { return Ok(Cell::Interrupted) };
        let events = train_events(&run.file("metrics.jsonl"))?;
        let losses: Vec<f64> = events.iter().filter_map(|event| event["loss"].as_f64()).collect();
        let result = PretrainResult {
            init,
            seed,
            images: data.samples.len(),
            steps: events.last().and_then(|event| event["step"].as_u64()).unwrap_or(0),
            first_loss: losses.first().copied(),
            final_loss: losses.last().copied(),
            seconds: started.elapsed().as_secs_f64(),
        };
        mark(&dir, &hash, &result)?;
        Ok(Cell::Done(result))
    }

    fn transfer(
        &mut self,
        init: Init,
        fraction: f64,
        seed: u64,
        sources: &Sources,
    ) -> Result<Cell<TransferResult>> {
        let mut settings = self.plan.transfer.clone().with_data_dir(&sources.detection)?;
        settings.seed = seed;
        settings.fraction = fraction;
        settings.subset_seed = seed;
        let weights = match init.method() {
            None => InitWeights::Random,
            Some(_) => InitWeights::Backbone(self.pretrain_dir(init, seed)),
        };
        let recipe = self.plan.recipe(init, seed);
        let hash = config::hash(&(&settings, &recipe));
        let dir = self.transfer_dir(init, fraction, seed);
        if let Some(result) = finished(&dir, &hash)? {
            return Ok(Cell::Done(result));
        }
        tracing::info!("transfer from {}, {:.0} % of the labels, seed {seed}", init.name(), 100.0 * fraction);
        let (run, resume) = open(&dir)?;
        let started = Instant::now();
        let outcome = scrl_transfer::train(&settings, &weights, &run, resume, self.device, self.monitor)?;
        let TransferOutcome::Finished(report) = outcome else { return Ok(Cell::Interrupted) };
        let (coco, voc) = (&report.metrics.coco, &report.metrics.voc);
        let result = TransferResult {
            init,
            label_fraction: fraction,
            seed,
            train_images: report.train_images,
            ap: coco.ap,
            ap50: coco.ap50,
            ap75: coco.ap75,
            voc07: voc.eleven_points,
            seconds: started.elapsed().as_secs_f64(),
        };
        mark(&dir, &hash, &result)?;
        Ok(Cell::Done(result))
    }

    fn export(&self, init: Init, seed: u64, sources: &Sources) -> Result<ExportResult> {
        let dir = self.pretrain_dir(init, seed);
        let onnx = self.out.join("onnx").join(format!("{}-seed{seed}.onnx", init.name()));
        let hash = config::hash(&self.plan.recipe(init, seed));
        let marker = onnx.with_extension("json");
        if onnx.exists()
            && let Some(result) = read_marker(&marker, &hash)?
        {
            return Ok(result);
        }
        let cpu = crate::device::parse("cpu")?;
        let (model, model_config, metadata) = weights::load_backbone(&dir, &cpu)?;
        fs::create_dir_all(self.out.join("onnx"))
            .with_context(|| format!("cannot create `{}`", self.out.join("onnx").display()))?;
        let options = ExportOptions::default();
        export_backbone(&model, &model_config, &metadata, BackboneOutput::Pyramid, &onnx, &options)?;
        let folder = ImageFolder::scan(&sources.unlabelled)?;
        let images =
            folder.samples.iter().take(self.plan.plan.export.images).map(|s| s.path.clone()).collect();
        let inputs = ValidationInputs { images, ..ValidationInputs::new(metadata.image_size) };
        let report = validate_backbone(&onnx, &model, &metadata, &inputs)?;
        tracing::info!(
            "{} reproduced by ONNX Runtime in {} cases, max abs error {:.2e}",
            onnx.display(),
            report.cases.len(),
            report.max_abs_error
        );
        let result = ExportResult {
            init,
            seed,
            path: format!("onnx/{}-seed{seed}.onnx", init.name()),
            cases: report.cases.len(),
            max_abs_error: report.max_abs_error,
            tolerance: report.tolerance,
        };
        write_marker(&marker, &hash, &result)?;
        Ok(result)
    }

    fn report(&self, results: &Results) -> Result<()> {
        let path = self.out.join("results.json");
        let text = serde_json::to_string_pretty(results)?;
        fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
        let plan = &self.plan.plan;
        let seed = plan.seeds[0];
        let mut files = vec![plots::label_efficiency(results, self.out)?];
        let pretrained: Vec<_> = plan
            .inits
            .iter()
            .filter(|init| init.method().is_some())
            .map(|&init| (init.name().to_string(), self.pretrain_dir(init, seed)))
            .collect();
        if !pretrained.is_empty() {
            let title = "Pretraining loss";
            files.push(plots::training_curves(&pretrained, "loss", title, self.out, "pretrain-loss.svg")?);
        }
        let most = plan.label_fractions.iter().copied().fold(0.0, f64::max);
        let transferred: Vec<_> = plan
            .inits
            .iter()
            .map(|&init| (init.name().to_string(), self.transfer_dir(init, most, seed)))
            .collect();
        let title = "Detector loss with the most labels";
        files.push(plots::training_curves(&transferred, "loss", title, self.out, "transfer-loss.svg")?);
        results.write(self.out, &files)
    }
}

/// Opens a cell's run directory, resuming what an interrupted run left.
fn open(dir: &Path) -> Result<(RunDir, bool)> {
    let resume = dir.is_dir();
    let run = open_logged(dir, if resume { OpenMode::Resume } else { OpenMode::New })?;
    Ok((run, resume))
}

/// The result of a finished cell; an error when other settings made it.
fn finished<T: DeserializeOwned>(dir: &Path, hash: &str) -> Result<Option<T>> {
    read_marker(&dir.join(DONE), hash)
}

fn read_marker<T: DeserializeOwned>(path: &Path, hash: &str) -> Result<Option<T>> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(None) };
    let mut marker: Value = serde_json::from_str(&text)
        .with_context(|| format!("`{}` is damaged; delete it to run the cell again", path.display()))?;
    if marker["settings"] != hash {
        bail!(
            "`{}` was made with other settings; choose another --out or delete that folder",
            path.parent().unwrap_or(path).display()
        );
    }
    Ok(Some(serde_json::from_value(marker["result"].take())?))
}

fn mark<T: Serialize>(dir: &Path, hash: &str, result: &T) -> Result<()> {
    write_marker(&dir.join(DONE), hash, result)
}

/// Written beside the target first, so that a marker is whole or absent.
fn write_marker<T: Serialize>(path: &Path, hash: &str, result: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(&serde_json::json!({ "settings": hash, "result": result }))?;
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write `{}`", path.display()))
}

/// A run's `train` events, in order.
pub fn train_events(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(events.filter(|event| event["kind"] == "train").collect())
}
