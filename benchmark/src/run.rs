//! A benchmark from its plan to its report.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Context, Result, bail, ensure};
use scrl_core::engine::Interrupt;
use scrl_synth::{self as synth, ShapeClass};
use scrl_transfer::data::Labels;
use scrl_transfer::evaluation::chance;

use super::budget::{self, ImageCounts};
use super::graph::{Cell, Graph, Sources, SweepResult, work};
use super::host::Host;
use super::job::PretrainJob;
use super::observer::CellObserver;
use super::plan::{Arm, DataPlan, PretrainImages, ResolvedPlan, TransferArm};
use super::record::{CellState, write_file};
use super::report::{self, Finished};
use super::results::{Chance, Results};
use super::runner::{RunEnd, Runner};
use super::sweep::{self, Round, Trial};

/// Of the boxes that ignore the image.
const CHANCE_SEED: u64 = 0;

/// How long a benchmark waits for the one that ran in its folder before.
const PATIENCE: Duration = Duration::from_secs(3);

/// A benchmark in a folder.
pub struct Benchmark<'a> {
    /// The plan.
    pub plan: &'a ResolvedPlan,
    /// The benchmark's folder.
    pub out: &'a Path,
    /// Where cells compute, in turn.
    pub devices: &'a [String],
    /// Cells at a time.
    pub jobs: Option<usize>,
    /// Runs no cell and reports on those that are done, also while another process runs the others.
    pub only_report: bool,
    /// Stops the benchmark when it is requested.
    pub interrupt: Interrupt,
    /// How cells are started and shown.
    pub host: &'a Host,
}

/// How a benchmark ended.
pub enum BenchmarkEnd {
    /// Stopped on request; the same call goes on.
    Interrupted,
    /// Every cell that could be run was; the results name those without one.
    Reported(Box<Results>),
}

impl Benchmark<'_> {
    /// Runs every cell that is not done, then writes `results.json`, `results.csv`, `timings.json` and the reports.
    ///
    /// # Errors
    /// When the images cannot be read, a cell was made with other settings, or the report cannot be written. A cell that
    /// fails is not an error here: the results name it.
    pub fn run(&self, observer: &mut dyn CellObserver) -> Result<BenchmarkEnd> {
        // The process that holds it is the only one that runs cells; the lock ends with it.
        let _lock = (!self.only_report).then(|| self.lock()).transpose()?;
        let first_seeds = self.first_seeds()?;
        let sources = self.prepare()?;
        let counts = image_counts(self.plan, &sources)?;
        let arms = budget::equalise(self.plan, counts)?;
        let graph = Graph { plan: self.plan, arms: &arms, sources: &sources, out: self.out };
        let runner =
            Runner::new(self.out, self.devices, self.jobs, self.interrupt.clone(), self.host.clone())?;
        let images = self.plan.plan.pretrain_images;
        let count = move |job: &PretrainJob| counts.of(job.settings.method, images);
        let work = move |cell: &Cell| work(&cell.job, count);
        let mut stage = Stage { runner: &runner, observer, work: &work, only_report: self.only_report };

        let (mut chosen, mut trials) = (SweepResult::default(), Vec::new());
        if let Some(plan) = &self.plan.plan.sweep {
            let round = sweep::pretraining_round(&graph, &plan.base_lr, plan.holdout)?;
            let Some(found) = stage.sweep_round(round, &mut chosen)? else {
                return Ok(BenchmarkEnd::Interrupted);
            };
            trials.extend(found);
            let round = sweep::transfer_round(&graph, &plan.transfer_lr, plan.holdout, &chosen)?;
            let Some(found) = stage.sweep_round(round, &mut chosen)? else {
                return Ok(BenchmarkEnd::Interrupted);
            };
            trials.extend(found);
        }
        let cells = graph.cells(&chosen)?;
        let end = stage.run(&cells)?;
        if end.interrupted {
            return Ok(BenchmarkEnd::Interrupted);
        }
        let chance = self.chance(&graph);
        let results = Results::new(self.plan, &cells, &end.states, trials, chance);
        self.write(&results, &cells, &end.states)?;
        let finished = Finished {
            plan: self.plan,
            arms: &arms,
            counts,
            sources: &sources,
            cells: &cells,
            states: &end.states,
            results: &results,
            out: self.out,
            first_seeds: &first_seeds,
            host: self.host,
        };
        report::write(&finished)?;
        Ok(BenchmarkEnd::Reported(Box::new(results)))
    }

    /// The seeds that the benchmark was begun with. Seeds that are added when results are known are a choice by results.
    fn first_seeds(&self) -> Result<Vec<u64>> {
        let path = self.out.join("seeds.json");
        if let Ok(text) = std::fs::read(&path) {
            return serde_json::from_slice(&text)
                .with_context(|| format!("cannot understand `{}`", path.display()));
        }
        let seeds = self.plan.plan.seeds.clone();
        write_file(&path, &serde_json::to_vec(&seeds)?)?;
        Ok(seeds)
    }

    /// What random boxes get on the evaluation data of each fine-tuning; of data that cannot be read any more, nothing.
    fn chance(&self, graph: &Graph<'_>) -> Chance {
        let figures = |transfer: &TransferArm| {
            let settings = graph.with_data(transfer).ok()?;
            let data = settings.data.val.as_ref()?.load(Labels::Boxes).ok()?;
            let metrics = chance(&data, CHANCE_SEED).ok()??;
            let figures =
                metrics.summary().into_iter().filter_map(|(name, value)| Some((name.to_string(), value?)));
            Some((transfer.name.clone(), figures.collect()))
        };
        self.plan.transfers.iter().filter_map(figures).collect()
    }

    fn lock(&self) -> Result<File> {
        let path = self.out.join(".lock");
        std::fs::create_dir_all(self.out)
            .with_context(|| format!("cannot create `{}`", self.out.display()))?;
        let file =
            std::fs::File::create(&path).with_context(|| format!("cannot write `{}`", path.display()))?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                // A process that a killed benchmark was just starting holds a copy of its lock for a moment.
                Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    bail!("another benchmark runs in `{}`; choose another --out", self.out.display())
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock `{}`", path.display()));
                }
            }
        }
    }

    /// The images, scenes written where the plan wants them.
    fn prepare(&self) -> Result<Sources> {
        if let DataPlan::Synth(settings) = &self.plan.plan.data {
            let data = self.out.join("data");
            if !synth::is_complete(&data, settings) {
                tracing::info!("writing procedural scenes to {}", data.display());
                synth::overwrite(settings, &data)?;
            }
        }
        sources(self.plan, self.out)
    }

    fn write(&self, results: &Results, cells: &[Cell], states: &[CellState]) -> Result<()> {
        let done = cells.iter().zip(states).filter_map(|(cell, state)| match state {
            CellState::Done(done) => Some((cell.id.clone(), serde_json::to_value(&done.cost).ok()?)),
            _ => None,
        });
        let timings: serde_json::Map<_, _> = done.collect();
        let text = |value: String| value + "\n";
        write_file(&self.out.join("results.json"), text(serde_json::to_string_pretty(results)?).as_bytes())?;
        write_file(&self.out.join("results.csv"), results.csv().as_bytes())?;
        write_file(&self.out.join("timings.json"), text(serde_json::to_string_pretty(&timings)?).as_bytes())
    }
}

/// Who runs cells and who watches.
struct Stage<'a> {
    runner: &'a Runner,
    observer: &'a mut dyn CellObserver,
    work: &'a dyn Fn(&Cell) -> f64,
    only_report: bool,
}

impl Stage<'_> {
    fn run(&mut self, cells: &[Cell]) -> Result<RunEnd> {
        if self.only_report {
            return Ok(RunEnd { states: self.runner.states(cells)?, interrupted: false });
        }
        self.runner.run(cells, self.observer, self.work)
    }

    /// Runs a round of a sweep; none when the user stopped it.
    fn sweep_round(&mut self, round: Round, chosen: &mut SweepResult) -> Result<Option<Vec<Trial>>> {
        if round.cells.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let end = self.run(&round.cells)?;
        ensure!(
            !self.only_report || !end.states.iter().any(|state| matches!(state, CellState::Waiting)),
            "there is nothing to report yet: the sweep, which chooses the learning rates of all other cells, has not ended"
        );
        Ok((!end.interrupted).then(|| round.judge(&end.states, chosen)))
    }
}

/// Where the images are, whether or not they are there.
///
/// # Errors
/// When the plan's settings of scenes have no JSON form.
pub fn sources(plan: &ResolvedPlan, out: &Path) -> Result<Sources> {
    Ok(match &plan.plan.data {
        DataPlan::Synth(settings) => {
            let data = out.join("data");
            Sources {
                unlabelled: vec![data.join("unlabelled")],
                classes: Some(data.join("classes")),
                detection: Some(data),
                synth: Some(serde_json::to_value(settings)?),
            }
        }
        DataPlan::Folders(folders) => Sources {
            unlabelled: folders.unlabelled.clone(),
            classes: folders.classes.clone(),
            detection: folders.detection.clone(),
            synth: None,
        },
    })
}

/// The images that pretrainings will see.
///
/// # Errors
/// When a folder cannot be read or has no images.
pub fn image_counts(plan: &ResolvedPlan, sources: &Sources) -> Result<ImageCounts> {
    if let DataPlan::Synth(settings) = &plan.plan.data {
        let classes = settings.class_images * ShapeClass::ALL.len();
        return Ok(ImageCounts { unlabelled: settings.unlabelled, classes });
    }
    let used = |arm: &Arm| Some(sources.of(arm.method()?, plan.plan.pretrain_images));
    let used: Vec<PathBuf> = plan.arms.iter().filter_map(used).flatten().collect();
    let unlabelled: Vec<PathBuf> = match plan.plan.pretrain_images {
        PretrainImages::Unlabelled => {
            sources.unlabelled.iter().filter(|p| used.contains(p)).cloned().collect()
        }
        PretrainImages::Classes => Vec::new(),
    };
    let classes = sources.classes.as_ref().filter(|path| used.contains(path));
    budget::count(&unlabelled, classes.map(PathBuf::as_path))
}
