//! The cells of a plan: what each does, and which must be done before it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::Result;
use scrl_core::config;
use scrl_pretrain::{MethodKind, PretrainConfig};
use scrl_transfer::TransferConfig;
use serde_json::{Value, json};

use super::job::{DetectorJob, ExportJob, Job, PretrainJob, TransferJob};
use super::plan::{Arm, PretrainImages, ResolvedPlan, Source, TransferArm, length_arms};

/// One unit of work, in a process of its own.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Also its place below `OUT`: `pretrain/scrl-seed0`.
    pub id: String,
    /// Its name in the graph.
    pub key: CellKey,
    /// Hash of everything that the result depends on.
    pub settings: String,
    /// What its process has to do.
    pub job: Job,
    /// The cell whose result this one needs.
    pub after: Option<String>,
}

/// Which cell of the matrix it is.
#[derive(Clone, Debug, PartialEq)]
pub enum CellKey {
    /// Pretrains one init with one seed.
    Pretrain {
        /// Name of the pretraining in the plan.
        init: String,
        /// Seed of weights, order and augmentation.
        seed: u64,
    },
    /// Fine-tunes a detector from one init.
    Transfer {
        /// Name of the fine-tuning in the plan.
        dataset: String,
        /// Name of the init.
        init: String,
        /// Share of the labelled images, in `(0, 1]`.
        fraction: f64,
        /// Seed of the detector's own layers, order and augmentation.
        seed: u64,
    },
    /// Exports a pretrained backbone to ONNX and validates the file.
    Export {
        /// Name of the pretraining.
        init: String,
        /// Its seed.
        seed: u64,
    },
    /// A detector's export.
    Detector {
        /// Name of the fine-tuning.
        dataset: String,
        /// Name of the init.
        init: String,
    },
}

impl CellKey {
    /// For people: `scrl, 10 % of detection, seed 0`.
    pub fn title(&self) -> String {
        match self {
            Self::Pretrain { init, seed } => format!("pretrain {init}, seed {seed}"),
            Self::Transfer { dataset, init, fraction, seed } => {
                format!("{dataset} from {init}, {} % labels, seed {seed}", percent(*fraction))
            }
            Self::Export { init, seed } => format!("export {init}, seed {seed}"),
            Self::Detector { dataset, init } => format!("export the detector of {dataset} from {init}"),
        }
    }

    /// Cells of one kind take times in proportion to their work.
    pub fn kind(&self) -> String {
        match self {
            Self::Pretrain { init, .. } => format!("pretrain {init}"),
            Self::Transfer { dataset, .. } => format!("fine-tune {dataset}"),
            Self::Export { .. } | Self::Detector { .. } => "export".into(),
        }
    }
}

/// A share in percent with at most two decimals.
pub fn percent(fraction: f64) -> f64 {
    (10_000.0 * fraction).round() / 100.0
}

/// Images of the plan.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Folders of images for pretraining without labels.
    pub unlabelled: Vec<PathBuf>,
    /// Folder of class folders for supervised pretraining.
    pub classes: Option<PathBuf>,
    /// Labelled data of the detector.
    pub detection: Option<PathBuf>,
    /// The scenes' settings where the images are made from them; paths of the user's folders say who they are.
    pub synth: Option<Value>,
}

impl Sources {
    /// The folders of a method.
    pub fn of(&self, method: MethodKind, images: PretrainImages) -> Vec<PathBuf> {
        match method.facts().needs_labels || images == PretrainImages::Classes {
            true => self.classes.iter().cloned().collect(),
            false => self.unlabelled.clone(),
        }
    }

    /// What a result depends on.
    fn identity(&self, paths: &[PathBuf]) -> Value {
        self.synth.clone().unwrap_or_else(|| json!(paths))
    }
}

/// Learning rates that a sweep chose; recipes' own elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SweepResult {
    /// By init.
    pub base_lr: BTreeMap<String, f64>,
    /// By data set and init.
    pub transfer_lr: BTreeMap<(String, String), f64>,
}

/// Makes cells.
pub struct Graph<'a> {
    /// The plan.
    pub plan: &'a ResolvedPlan,
    /// With the plan's budget.
    pub arms: &'a [Arm],
    /// Where the data lie.
    pub sources: &'a Sources,
    /// The benchmark's folder.
    pub out: &'a Path,
}

impl Graph<'_> {
    /// Every cell of the benchmark, seed by seed, so that a table of few seeds is complete early.
    ///
    /// # Errors
    /// When a detection folder has no layout that is known.
    pub fn cells(&self, chosen: &SweepResult) -> Result<Vec<Cell>> {
        let mut cells: Vec<Cell> = Vec::new();
        for &seed in &self.plan.plan.seeds {
            for arm in self.arms {
                if self.plan.pretrain_seeds().contains(&seed) {
                    let pretrained = self.pretrain(arm, seed, chosen.base_lr.get(&arm.name).copied());
                    let export = pretrained.as_ref().filter(|_| self.plan.plan.export.enabled);
                    let export = export.map(|cell| self.export(arm, seed, cell));
                    cells.extend(pretrained.into_iter().chain(export));
                }
            }
            for transfer in &self.plan.transfers {
                for &fraction in &transfer.fractions {
                    for arm in self.arms {
                        let cell = self.transfer(transfer, arm, &arm.name, fraction, seed, chosen)?;
                        let first = seed == self.plan.plan.seeds[0];
                        let best = first && transfer.fractions.last() == Some(&fraction);
                        let exported = best && self.plan.plan.export.detectors;
                        let detector = exported.then(|| self.detector(transfer, arm, &cell));
                        cells.extend(std::iter::once(cell).chain(detector));
                    }
                }
            }
        }
        cells.extend(self.length_cells(chosen)?);
        Ok(cells)
    }

    /// Pretrainings and fine-tunings of the curve over pretraining length, with the learning rates of the full length.
    fn length_cells(&self, chosen: &SweepResult) -> Result<Vec<Cell>> {
        let Some((transfer, fraction)) = self.plan.length_transfer() else { return Ok(Vec::new()) };
        let lengths = length_arms(self.plan, self.arms);
        let mut cells = Vec::new();
        for &seed in &self.plan.plan.seeds {
            for length in &lengths {
                let pretrained = self.plan.pretrain_seeds().contains(&seed);
                let base_lr = chosen.base_lr.get(&length.of).copied();
                cells.extend(pretrained.then(|| self.pretrain(&length.arm, seed, base_lr)).flatten());
                cells.push(self.transfer(transfer, &length.arm, &length.of, fraction, seed, chosen)?);
            }
        }
        Ok(cells)
    }

    /// The pretraining of an init, none of one that needs none.
    pub fn pretrain(&self, arm: &Arm, seed: u64, base_lr: Option<f64>) -> Option<Cell> {
        let mut settings = PretrainConfig { seed, ..arm.recipe()?.clone() };
        settings.schedule.base_lr = base_lr.unwrap_or(settings.schedule.base_lr);
        let images = self.sources.of(settings.method, self.plan.plan.pretrain_images);
        // How often a run reports, and how many threads read images, does not change its result.
        let relevant =
            PretrainConfig { log: Default::default(), data: Default::default(), ..settings.clone() };
        let lr = base_lr.map(|lr| format!("-lr{lr}")).unwrap_or_default();
        let id = format!("pretrain/{}{lr}-seed{seed}", arm.name);
        Some(Cell {
            key: CellKey::Pretrain { init: arm.name.clone(), seed },
            settings: config::hash(&(relevant, self.sources.identity(&images))),
            job: Job::Pretrain(Box::new(PretrainJob { settings, images, run: self.out.join(&id) })),
            after: None,
            id,
        })
    }

    fn export(&self, arm: &Arm, seed: u64, pretrained: &Cell) -> Cell {
        let id = format!("onnx/{}-seed{seed}", arm.name);
        let images = self.sources.of(MethodKind::Scrl, self.plan.plan.pretrain_images);
        let images = if images.is_empty() {
            self.sources.of(MethodKind::Supervised, PretrainImages::Classes)
        } else {
            images
        };
        let count = self.plan.plan.export.images;
        let job = ExportJob {
            weights: self.out.join(&pretrained.id),
            onnx: self.out.join(format!("{id}.onnx")),
            images,
            count,
        };
        Cell {
            key: CellKey::Export { init: arm.name.clone(), seed },
            settings: config::hash(&(&pretrained.settings, count)),
            job: Job::Export(job),
            after: Some(pretrained.id.clone()),
            id,
        }
    }

    fn detector(&self, transfer: &TransferArm, arm: &Arm, tuned: &Cell) -> Cell {
        let id = format!("onnx/{}-{}-detector", transfer.name, arm.name);
        let images = match &tuned.job {
            Job::Transfer(job) => job.settings.data.val.clone(),
            _ => None,
        };
        let count = self.plan.plan.export.images;
        let onnx = self.out.join(format!("{id}.onnx"));
        let job = DetectorJob { weights: self.out.join(&tuned.id), onnx, images, count };
        Cell {
            key: CellKey::Detector { dataset: transfer.name.clone(), init: arm.name.clone() },
            settings: config::hash(&(&tuned.settings, count)),
            job: Job::Detector(job),
            after: Some(tuned.id.clone()),
            id,
        }
    }

    /// A fine-tuning with the learning rates that a sweep chose for the init `rates_of`.
    fn transfer(
        &self,
        transfer: &TransferArm,
        arm: &Arm,
        rates_of: &str,
        fraction: f64,
        seed: u64,
        chosen: &SweepResult,
    ) -> Result<Cell> {
        let mut settings = self.with_data(transfer)?;
        settings.fraction = fraction;
        let lr = chosen.transfer_lr.get(&(transfer.name.clone(), rates_of.to_string()));
        settings.solver.lr = lr.copied().unwrap_or(settings.solver.lr);
        let base_lr = chosen.base_lr.get(rates_of).copied();
        let pretrained = self.pretrain(arm, self.plan.pretrain_seed(seed), base_lr);
        let id = format!("transfer/{}-{}-{}pct-seed{seed}", transfer.name, arm.name, percent(fraction));
        Ok(self.transfer_cell(transfer, arm, settings, seed, pretrained.as_ref(), id))
    }

    /// A fine-tuning by these settings; the seed chooses the subset of images too.
    pub fn transfer_cell(
        &self,
        transfer: &TransferArm,
        arm: &Arm,
        settings: TransferConfig,
        seed: u64,
        pretrained: Option<&Cell>,
        id: String,
    ) -> Cell {
        let settings = TransferConfig { seed, subset_seed: seed, ..settings };
        let (weights, start) = match (&arm.source, pretrained) {
            (Source::Weights(path), _) => (Some(path.clone()), json!(path)),
            (_, Some(cell)) => (Some(self.out.join(&cell.id)), json!(cell.settings)),
            (_, None) => (None, Value::Null),
        };
        let folder = transfer.data.clone().or_else(|| self.sources.detection.clone());
        let own_folder = transfer.data.is_some();
        let identity = match (own_folder, &self.sources.synth) {
            (false, Some(synth)) => synth.clone(),
            _ => json!((folder, &settings.data)),
        };
        Cell {
            key: CellKey::Transfer {
                dataset: transfer.name.clone(),
                init: arm.name.clone(),
                fraction: settings.fraction,
                seed,
            },
            settings: config::hash(&(settings.fingerprint(), identity, start)),
            job: Job::Transfer(Box::new(TransferJob { settings, weights, run: self.out.join(&id) })),
            after: pretrained.map(|cell| cell.id.clone()),
            id,
        }
    }

    /// A data set's recipe with its images.
    ///
    /// # Errors
    /// When the folder has no layout that is known.
    pub fn with_data(&self, transfer: &TransferArm) -> Result<TransferConfig> {
        let settings = transfer.settings.clone();
        match transfer.data.as_ref().or(self.sources.detection.as_ref()) {
            Some(folder)
                if transfer.data.is_some()
                    || settings.data.train.is_none()
                    || settings.data.val.is_none() =>
            {
                Ok(settings.with_data_dir(folder)?)
            }
            _ => Ok(settings),
        }
    }
}

/// Work of a job, in passes of images through a network; comparable within a kind of cell.
pub fn work(job: &Job, images: impl Fn(&PretrainJob) -> usize) -> f64 {
    match job {
        Job::Pretrain(job) => super::budget::Length::of(&job.settings, images(job)).passes,
        Job::Transfer(job) => job.settings.iterations as f64 * job.settings.batch_size as f64,
        Job::Export(_) | Job::Detector(_) => 1.0,
    }
}
