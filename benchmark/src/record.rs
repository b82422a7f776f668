//! What a finished cell leaves: its result, and what it cost.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Context, Result};
use scrl_core::engine::atomic;
use scrl_export::validation::backbone::Tolerance;
use serde::{Deserialize, Serialize};

/// A cell's marker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// Hash of everything that the result depends on.
    pub settings: String,
    /// What came out.
    pub record: Record,
    /// What it took.
    pub cost: Cost,
}

/// A cell's result; the same however often its process was ended and started.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// Of a pretraining.
    Pretrain(PretrainRecord),
    /// Of a fine-tuning.
    Transfer(Box<TransferRecord>),
    /// Of a backbone's ONNX file.
    Export(ExportRecord),
    /// Of a detector's ONNX file.
    Detector(DetectorRecord),
}

/// One pretraining.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainRecord {
    /// Name of the method.
    pub method: String,
    /// Images that it was trained on.
    pub images: usize,
    /// Passes over them.
    pub epochs: u64,
    /// Updates.
    pub steps: u64,
    /// Images per update.
    pub batch_size: usize,
    /// At the end of the warm-up.
    pub learning_rate: f64,
}

/// One fine-tuning with its evaluation; metrics in `[0, 1]`, none where there is nothing to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransferRecord {
    /// Labelled images in training.
    pub train_images: usize,
    /// Images in evaluation.
    pub val_images: usize,
    /// Updates.
    pub iterations: u64,
    /// Values by name, such as `AP`.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// AP of each class, in the order of the data.
    pub per_class: Vec<(String, Option<f64>)>,
}

/// One exported backbone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportRecord {
    /// Outputs compared.
    pub cases: usize,
    /// Largest difference between ONNX Runtime's outputs and ours.
    pub max_abs_error: f64,
    /// Largest difference that is accepted.
    pub tolerance: Tolerance,
}

/// One exported detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectorRecord {
    /// Inputs compared.
    pub cases: usize,
    /// Detections that both sides give.
    pub matched: usize,
    /// Detections of one side that a tie explains.
    pub ties: usize,
}

/// What a cell took; differs from one run to the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Wall time of the attempt that finished.
    pub seconds: f64,
    /// Whether an earlier attempt did a part of the work.
    pub resumed: bool,
    /// Training images, each counted as often as it was seen.
    pub images: u64,
    /// The middle of what training logged.
    pub images_per_second: Option<f64>,
    /// The device, as `--device` names it.
    pub device: String,
    /// Threads of the CPU's kernels.
    pub threads: usize,
    /// Most memory of the process, where the system tells.
    pub peak_gib: Option<f64>,
}

impl Cost {
    /// Seconds of all the work: of the training by its speed where an earlier attempt did a part of it.
    pub fn total_seconds(&self) -> f64 {
        match self.images_per_second {
            Some(rate) if self.resumed && rate > 0.0 => (self.images as f64 / rate).max(self.seconds),
            _ => self.seconds,
        }
    }
}

impl Done {
    /// The marker of a finished cell; none where the cell is not finished.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        };
        let damaged = || format!("`{}` is damaged; delete it to run the cell again", path.display());
        serde_json::from_str(&text).with_context(damaged)
    }

    /// Writes the marker.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_file(path, serde_json::to_string_pretty(self)?.as_bytes())
    }
}

/// Where a cell stands.
#[derive(Clone, Debug)]
pub enum CellState {
    /// It is still to be run.
    Waiting,
    /// It has a result.
    Done(Box<Done>),
    /// It has none, for this reason.
    Failed(String),
    /// The cell that it needs has no result.
    Skipped {
        /// The other cell.
        needs: String,
    },
}

/// Writes a file and its folder; the file is whole or absent.
pub(crate) fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    let failed = || format!("cannot write `{}`", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(failed)?;
    }
    atomic::write(path, content).with_context(failed)
}
