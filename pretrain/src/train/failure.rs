//! The end of a run whose loss is NaN or infinite.

use std::path::PathBuf;

use scrl_core::engine::RunDir;

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
    let saved = match save() {
        Ok(path) => format!("saved as `{}`", path.display()),
        Err(error) => format!("not saved ({error})"),
    };
    PretrainError::NonFinite { step: place.step, value: *loss, saved }
}
