//! The detector of the best evaluation.

use std::path::Path;

use scrl_core::engine::RunDir;
use serde::{Deserialize, Serialize};

use super::run_data::TransferData;
use super::write_json;
use crate::config::TransferConfig;
use crate::detection::Detector;
use crate::error::TransferError;
use crate::evaluation::DetectionMetrics;
use crate::weights::save_detector;

/// Name of the best detector in a run's `weights` folder.
pub const BEST_FILE: &str = "best.safetensors";

/// Name of the record beside it.
const RECORD: &str = "best.json";

/// Which evaluation was the best, and its figures; `weights/best.json`.
///
/// It was chosen by AP on the images that its figures come from, so they are an optimistic estimate: on a test split, report
/// the last detector's, or measure this one on other images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Optimizer steps before the evaluation.
    pub iteration: u64,
    /// Name of the data set that it was chosen on.
    pub chosen_on: String,
    /// Its figures.
    #[serde(flatten)]
    pub metrics: DetectionMetrics,
}

/// Whether a run keeps its best detector: with one evaluation there is nothing to choose from.
pub(super) fn is_kept(config: &TransferConfig) -> bool {
    config.keep_best && config.eval_every > 0 && config.eval_every < config.iterations
}

/// Stores the detector if no earlier one of the run had as high an AP; gives the best so far.
pub(super) fn offer(
    run: &RunDir,
    data: &TransferData,
    iteration: u64,
    model: &Detector,
    metrics: &DetectionMetrics,
) -> Result<Option<Best>, TransferError> {
    if !is_kept(&data.config) {
        return Ok(None);
    }
    let record = run.weights().join(RECORD);
    let so_far = read(&record);
    let ap = |best: &Best| best.metrics.coco.ap;
    if metrics.coco.ap.is_none() || so_far.as_ref().and_then(ap) >= metrics.coco.ap {
        return Ok(so_far);
    }
    let best = Best { iteration, chosen_on: data.val.name.clone(), metrics: metrics.clone() };
    // The record last: a run that is killed in between offers this evaluation again.
    save_detector(&run.weights().join(BEST_FILE), model, &data.metadata())?;
    write_json(&record, &best)?;
    Ok(Some(best))
}

/// The record of an earlier evaluation; a damaged one counts as none.
fn read(path: &Path) -> Option<Best> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
