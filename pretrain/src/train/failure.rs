//! The end of a run whose loss is NaN or infinite.

use std::path::PathBuf;

use scrl_core::engine::RunDir;
use scrl_ops::Group;

use super::batches::RunBatches;
use super::step_log::NonFiniteLoss;
use crate::config::PretrainConfig;
use crate::error::PretrainError;
use crate::replay::{self, ReplayInfo};
use crate::schedule::Schedule;

/// Saves the batch of the step for a replay; the error names its file.
pub(super) fn non_finite_loss(
    NonFiniteLoss { place, loss }: &NonFiniteLoss,
    settings: &PretrainConfig,
    schedule: &Schedule,
    batches: &RunBatches<'_>,
    run: &RunDir,
    group: &Group,
) -> PretrainError {
    let (indices, paths) = batches.images(place.epoch, place.batch);
    let info = ReplayInfo {
        seed: settings.seed,
        epoch: place.epoch,
        step: place.step,
        loss: loss.to_string(),
        lr: schedule.settings(place.step).lr,
        config_hash: settings.result_hash(),
        indices,
        paths,
    };
    let save = || -> Result<PathBuf, PretrainError> {
        let batch = batches.again(place.epoch, place.batch)?;
        Ok(replay::save(&run.file("replay"), &batch, &info)?)
    };
    let saved = match group.is_root().then(save) {
        Some(Ok(path)) => format!("saved as `{}`", path.display()),
        Some(Err(error)) => format!("not saved ({error})"),
        None => "saved by rank 0".to_string(),
    };
    // The first process that ends with an error ends the others.
    group.wait();
    PretrainError::NonFinite { step: place.step, value: *loss, saved }
}
