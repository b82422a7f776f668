//! What `results.json` lists: a row for each cell, and what is computed over seeds.

use std::collections::BTreeMap;

use scrl_export::validation::backbone::Tolerance;
use serde::Serialize;

use crate::record::PretrainRecord;
use crate::statistics::Summary;

/// A pretraining.
#[derive(Clone, Debug, Serialize)]
pub struct PretrainResult {
    /// Name of the cell.
    pub cell: String,
    /// Name of the init.
    pub init: String,
    /// Its seed.
    pub seed: u64,
    /// Method, images, length.
    #[serde(flatten)]
    pub record: PretrainRecord,
    /// Hash of its settings.
    pub settings: String,
}

/// Metrics in `[0, 1]`.
#[derive(Clone, Debug, Serialize)]
pub struct TransferResult {
    /// Name of the cell.
    pub cell: String,
    /// Name of the fine-tuning in the plan.
    pub dataset: String,
    /// Name of the init.
    pub init: String,
    /// Share of the labelled images, in `(0, 1]`.
    pub label_fraction: f64,
    /// Its seed.
    pub seed: u64,
    /// Labelled images in training.
    pub train_images: usize,
    /// Images in evaluation.
    pub val_images: usize,
    /// Updates.
    pub iterations: u64,
    /// Values in percent by name.
    #[serde(flatten)]
    pub metrics: BTreeMap<String, Option<f64>>,
    /// Values of each class.
    pub per_class: Vec<ClassResult>,
    /// Hash of its settings.
    pub settings: String,
}

/// A class in a fine-tuning's evaluation.
#[derive(Clone, Debug, Serialize)]
pub struct ClassResult {
    /// Name of the class.
    pub name: String,
    /// AP in percent; none where the class has no objects.
    #[serde(rename = "AP")]
    pub ap: Option<f64>,
}

/// A backbone as ONNX file.
#[derive(Clone, Debug, Serialize)]
pub struct ExportResult {
    /// Name of the cell.
    pub cell: String,
    /// Name of the init.
    pub init: String,
    /// Its seed.
    pub seed: u64,
    /// Below the benchmark's folder.
    pub path: String,
    /// Outputs in which ONNX Runtime agrees with the trained network.
    pub cases: usize,
    /// Largest difference that is accepted.
    pub tolerance: Tolerance,
    /// Left out of the file: it is of the order of rounding, which threads may change.
    #[serde(skip)]
    pub max_abs_error: f64,
}

/// An exported detector.
#[derive(Clone, Debug, Serialize)]
pub struct DetectorResult {
    /// Name of the cell.
    pub cell: String,
    /// Name of the fine-tuning in the plan.
    pub dataset: String,
    /// Name of the init.
    pub init: String,
    /// Below the benchmark's folder.
    pub path: String,
    /// Inputs on which ONNX Runtime agrees with the trained detector.
    pub cases: usize,
    /// Left out of the file: rounding decides a detection at the threshold.
    #[serde(skip)]
    pub matched: usize,
    /// Detections whose scores are so close that either order is right.
    #[serde(skip)]
    pub ties: usize,
}

/// A metric of a cell over seeds.
#[derive(Clone, Debug, Serialize)]
pub struct SummaryRow {
    /// Name of the fine-tuning in the plan.
    pub dataset: String,
    /// Name of the init.
    pub init: String,
    /// Share of the labelled images, in `(0, 1]`.
    pub label_fraction: f64,
    /// Name of the metric.
    pub metric: String,
    /// Its values over seeds.
    #[serde(flatten)]
    pub over_seeds: Summary,
}

/// A metric of an init after a pretraining of so many epochs, over seeds.
#[derive(Clone, Debug, Serialize)]
pub struct LengthRow {
    /// Name of the fine-tuning in the plan.
    pub dataset: String,
    /// Name of the init.
    pub init: String,
    /// Passes over the images, of a complete schedule.
    pub epochs: u64,
    /// Images that the pretraining saw, each counted as often as it was seen.
    pub images: u64,
    /// Share of the labelled images, in `(0, 1]`.
    pub label_fraction: f64,
    /// Name of the metric.
    pub metric: String,
    /// Its values over seeds.
    #[serde(flatten)]
    pub over_seeds: Summary,
}

/// A cell without a result.
#[derive(Clone, Debug, Serialize)]
pub struct Unfinished {
    /// Name of the cell.
    pub cell: String,
    /// What the cell is, in words.
    pub title: String,
    /// Why it has no result.
    pub reason: String,
}

impl TransferResult {
    /// A metric by its name, where there is something to measure.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).copied().flatten()
    }
}
