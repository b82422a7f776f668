//! Everything a benchmark measured; `results.json` and `results.csv`. Nothing here depends on time or machine load.

mod difference;
mod rows;

use std::collections::BTreeMap;

use serde::Serialize;

use super::graph::{Cell, CellKey};
use super::plan::{ResolvedPlan, length_name};
use super::record::CellState;
use super::record::{Record, TransferRecord};
use super::statistics::{Summary, holm};
use super::sweep::Trial;

pub use difference::Difference;
pub(crate) use difference::signed_points;
pub use rows::{
    ClassResult, DetectorResult, ExportResult, LengthRow, PretrainResult, SummaryRow, TransferResult,
    Unfinished,
};

/// A difference is separable when its corrected p-value is below this.
pub const LEVEL: f64 = 0.05;

/// A metric by its name in the results and for people.
pub type Metric = (&'static str, &'static str);

/// The metrics of the table.
pub const METRICS: [Metric; 4] =
    [("AP", "AP"), ("AP50", "AP50"), ("AP75", "AP75"), ("VOC07_mAP", "VOC07 mAP")];

/// Those of detectors that give masks.
pub const MASK_METRICS: [Metric; 3] =
    [("segm_AP", "mask AP"), ("segm_AP50", "mask AP50"), ("segm_AP75", "mask AP75")];

/// A metric's name for people; of one that no table has, its own.
pub fn shown(metric: &str) -> &str {
    METRICS.iter().chain(&MASK_METRICS).find(|(name, _)| *name == metric).map_or(metric, |(_, shown)| shown)
}

/// All results, in the order of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// Hash of the plan with its recipes.
    pub plan: String,
    /// One per pretraining and seed.
    pub pretrain: Vec<PretrainResult>,
    /// One per fine-tuning, init, share of labels and seed.
    pub transfer: Vec<TransferResult>,
    /// One per exported backbone.
    pub export: Vec<ExportResult>,
    /// One per exported detector.
    pub detectors: Vec<DetectorResult>,
    /// Means over seeds.
    pub summary: Vec<SummaryRow>,
    /// Of the plan's subject against every other init.
    pub differences: Vec<Difference>,
    /// The curve over pretraining length.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lengths: Vec<LengthRow>,
    /// Metrics of boxes that ignore the image, by data set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub chance: Chance,
    /// Learning rates that were tried.
    pub sweep: Vec<Trial>,
    /// Cells without a result.
    pub unfinished: Vec<Unfinished>,
    #[serde(skip)]
    inits: Vec<String>,
}

/// What random boxes get on a data set, see [`mod@scrl_transfer::evaluation::chance`].
pub type Chance = BTreeMap<String, BTreeMap<String, f64>>;

impl Results {
    /// Of cells and how they ended.
    pub fn new(
        plan: &ResolvedPlan,
        cells: &[Cell],
        states: &[CellState],
        sweep: Vec<Trial>,
        chance: Chance,
    ) -> Self {
        let mut results = Self {
            plan: plan.hash(),
            pretrain: Vec::new(),
            transfer: Vec::new(),
            export: Vec::new(),
            detectors: Vec::new(),
            summary: Vec::new(),
            differences: Vec::new(),
            lengths: Vec::new(),
            chance,
            sweep,
            unfinished: Vec::new(),
            inits: plan.plan.inits.clone(),
        };
        cells.iter().zip(states).for_each(|(cell, state)| results.add(cell, state));
        results.summary = results.summaries();
        results.differences = results.all_differences(plan.subject());
        results.lengths = results.length_rows(plan);
        results
    }

    fn add(&mut self, cell: &Cell, state: &CellState) {
        let unfinished =
            |reason: String| Unfinished { cell: cell.id.clone(), title: cell.key.title(), reason };
        let done = match state {
            CellState::Done(done) => done,
            CellState::Failed(reason) => return self.unfinished.push(unfinished(reason.clone())),
            CellState::Skipped { needs } => {
                return self.unfinished.push(unfinished(format!("it needs {needs}")));
            }
            CellState::Waiting => return self.unfinished.push(unfinished("it was not run".into())),
        };
        let (id, settings) = (cell.id.clone(), cell.settings.clone());
        match (&cell.key, &done.record) {
            (CellKey::Pretrain { init, seed }, Record::Pretrain(record)) => {
                self.pretrain.push(PretrainResult {
                    cell: id,
                    init: init.clone(),
                    seed: *seed,
                    record: record.clone(),
                    settings,
                })
            }
            (CellKey::Transfer { dataset, init, fraction, seed }, Record::Transfer(record)) => {
                let TransferRecord { train_images, val_images, iterations, metrics, per_class } = &**record;
                let class = |(name, ap): &(String, Option<f64>)| ClassResult { name: name.clone(), ap: *ap };
                self.transfer.push(TransferResult {
                    cell: id,
                    dataset: dataset.clone(),
                    init: init.clone(),
                    label_fraction: *fraction,
                    seed: *seed,
                    train_images: *train_images,
                    val_images: *val_images,
                    iterations: *iterations,
                    metrics: metrics.clone(),
                    per_class: per_class.iter().map(class).collect(),
                    settings,
                });
            }
            (CellKey::Export { init, seed }, Record::Export(record)) => self.export.push(ExportResult {
                path: format!("{id}.onnx"),
                cell: id,
                init: init.clone(),
                seed: *seed,
                cases: record.cases,
                tolerance: record.tolerance,
                max_abs_error: record.max_abs_error,
            }),
            (CellKey::Detector { dataset, init }, Record::Detector(record)) => {
                self.detectors.push(DetectorResult {
                    path: format!("{id}.onnx"),
                    cell: id,
                    dataset: dataset.clone(),
                    init: init.clone(),
                    cases: record.cases,
                    matched: record.matched,
                    ties: record.ties,
                })
            }
            _ => self.unfinished.push(unfinished("its marker is of another kind; delete it".into())),
        }
    }

    /// The inits that have a result, in the order of the plan.
    pub fn inits(&self) -> Vec<&str> {
        let has = |name: &&str| self.transfer.iter().any(|r| r.init == *name);
        self.inits.iter().map(String::as_str).filter(has).collect()
    }

    /// The data sets that have a result.
    pub fn datasets(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.transfer.iter().map(|r| r.dataset.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The label fractions of a data set in ascending order.
    pub fn fractions(&self, dataset: &str) -> Vec<f64> {
        let of_set = self.transfer.iter().filter(|r| r.dataset == dataset);
        let mut fractions: Vec<f64> = of_set.map(|r| r.label_fraction).collect();
        fractions.sort_by(f64::total_cmp);
        fractions.dedup();
        fractions
    }

    /// The results of a cell, seed by seed.
    pub fn cell<'a>(
        &'a self,
        dataset: &'a str,
        init: &'a str,
        fraction: f64,
    ) -> impl Iterator<Item = &'a TransferResult> {
        let wanted =
            move |r: &&TransferResult| r.dataset == dataset && r.init == init && r.label_fraction == fraction;
        self.transfer.iter().filter(wanted)
    }

    /// A metric of a cell over seeds.
    pub fn over_seeds(&self, dataset: &str, init: &str, fraction: f64, metric: &str) -> Option<Summary> {
        Summary::of(self.cell(dataset, init, fraction).filter_map(|r| r.metric(metric)))
    }

    fn summaries(&self) -> Vec<SummaryRow> {
        let mut rows = Vec::new();
        for dataset in self.datasets() {
            for fraction in self.fractions(dataset) {
                for init in self.inits() {
                    let names = self.cell(dataset, init, fraction).next().map(|r| r.metrics.keys());
                    for metric in names.into_iter().flatten() {
                        let Some(over_seeds) = self.over_seeds(dataset, init, fraction, metric) else {
                            continue;
                        };
                        rows.push(SummaryRow {
                            dataset: dataset.into(),
                            init: init.into(),
                            label_fraction: fraction,
                            metric: metric.clone(),
                            over_seeds,
                        });
                    }
                }
            }
        }
        rows
    }

    /// Of `[lengths]`: each init at its own length and at the others.
    fn length_rows(&self, plan: &ResolvedPlan) -> Vec<LengthRow> {
        let Some((transfer, fraction)) = plan.length_transfer() else { return Vec::new() };
        let Some(lengths) = &plan.plan.lengths else { return Vec::new() };
        let mut rows = Vec::new();
        for init in &lengths.inits {
            let others = lengths.epochs.iter().map(|epochs| length_name(init, *epochs));
            for name in std::iter::once(init.clone()).chain(others) {
                let Some(pretrained) = self.pretrain.iter().find(|r| r.init == name) else { continue };
                let first = self.cell(&transfer.name, &name, fraction).next();
                for metric in first.into_iter().flat_map(|r| r.metrics.keys()) {
                    let Some(over_seeds) = self.over_seeds(&transfer.name, &name, fraction, metric) else {
                        continue;
                    };
                    rows.push(LengthRow {
                        dataset: transfer.name.clone(),
                        init: init.clone(),
                        epochs: pretrained.record.epochs,
                        images: pretrained.record.steps * pretrained.record.batch_size as u64,
                        label_fraction: fraction,
                        metric: metric.clone(),
                        over_seeds,
                    });
                }
            }
        }
        // Stable, so inits and metrics keep their order.
        rows.sort_by_key(|row| row.epochs);
        rows
    }

    fn all_differences(&self, subject: &str) -> Vec<Difference> {
        let mut differences = Vec::new();
        for dataset in self.datasets() {
            for baseline in self.inits().into_iter().filter(|init| *init != subject) {
                for fraction in self.fractions(dataset) {
                    for (metric, _) in METRICS.into_iter().chain(MASK_METRICS) {
                        differences.extend(self.difference(dataset, subject, baseline, fraction, metric));
                    }
                }
            }
        }
        self.correct(&mut differences);
        differences
    }

    /// Fills in what follows from all comparisons of a metric together.
    fn correct(&self, differences: &mut [Difference]) {
        for (metric, _) in METRICS.into_iter().chain(MASK_METRICS) {
            let mut family: Vec<&mut Difference> =
                differences.iter_mut().filter(|d| d.metric == metric && d.p.is_some()).collect();
            let p: Vec<f64> = family.iter().filter_map(|difference| difference.p).collect();
            for (difference, holm) in family.iter_mut().zip(holm(&p)) {
                difference.p_holm = Some(holm);
                difference.corrected_half_width = difference.over_seeds.half_width_at(LEVEL / p.len() as f64);
                let learnt = self.has_learnt(&difference.dataset, difference.label_fraction, metric);
                difference.separable = learnt.then_some(holm < LEVEL);
            }
        }
    }

    /// The metrics of a data set's table.
    pub fn metrics_of(&self, dataset: &str) -> Vec<Metric> {
        let judged = |metric: &&Metric| {
            self.transfer.iter().any(|result| result.dataset == dataset && result.metric(metric.0).is_some())
        };
        METRICS.iter().chain(MASK_METRICS.iter().filter(judged)).copied().collect()
    }

    /// Whether the detectors of any init are better, on average, than boxes that ignore the image. True where it is not
    /// known what those get.
    pub fn has_learnt(&self, dataset: &str, fraction: f64, metric: &str) -> bool {
        let Some(chance) = self.chance.get(dataset).and_then(|figures| figures.get(metric)) else {
            return true;
        };
        let best = |init: &&str| self.over_seeds(dataset, init, fraction, metric).map(|summary| summary.mean);
        self.inits().iter().filter_map(best).any(|mean| mean > *chance)
    }

    fn difference(
        &self,
        dataset: &str,
        subject: &str,
        baseline: &str,
        fraction: f64,
        metric: &str,
    ) -> Option<Difference> {
        let pairs = self.cell(dataset, subject, fraction).filter_map(|ours| {
            let theirs = self.cell(dataset, baseline, fraction).find(|r| r.seed == ours.seed)?;
            Some(ours.metric(metric)? - theirs.metric(metric)?)
        });
        let over_seeds = Summary::of(pairs)?;
        Some(Difference {
            dataset: dataset.into(),
            subject: subject.into(),
            baseline: baseline.into(),
            label_fraction: fraction,
            metric: metric.into(),
            over_seeds,
            p: over_seeds.p_value(),
            p_holm: None,
            corrected_half_width: None,
            separable: None,
        })
    }

    /// One line a fine-tuning, with a header; metrics in `[0, 1]`.
    pub fn csv(&self) -> String {
        let names: Vec<&String> =
            self.transfer.first().map(|r| r.metrics.keys().collect()).unwrap_or_default();
        let start = ["dataset", "init", "label_fraction", "seed", "train_images", "val_images", "iterations"];
        let mut writer = csv::Writer::from_writer(Vec::new());
        let header = start.into_iter().chain(names.iter().map(|name| name.as_str()));
        writer.write_record(header).expect("writing to memory");
        for r in &self.transfer {
            let start = [
                r.dataset.clone(),
                r.init.clone(),
                r.label_fraction.to_string(),
                r.seed.to_string(),
                r.train_images.to_string(),
                r.val_images.to_string(),
                r.iterations.to_string(),
            ];
            let metrics = names.iter().map(|name| r.metric(name).map_or(String::new(), |v| v.to_string()));
            writer.write_record(start.into_iter().chain(metrics)).expect("every row has as many columns");
        }
        String::from_utf8(writer.into_inner().expect("writing to memory")).expect("the fields are text")
    }
}

#[cfg(test)]
mod tests;
