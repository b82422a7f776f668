//! The step of a saved batch, run again.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use scrl_core::checkpoint::state;
use scrl_core::models::parameters::TensorMap;
use serde::Deserialize;

use super::ReplayInfo;
use crate::config::{MethodKind, PretrainConfig};
use crate::error::PretrainError;
use crate::methods::{Extent, Learner, Sample, Trace};
use crate::train::initial_learner;

/// What a saved batch does to a run's networks now.
#[derive(Clone, Debug)]
pub struct Rerun {
    /// Updates that the networks have had; 0 where the run has no checkpoint, whose networks are those of the seed.
    pub step: u64,
    /// The pixels of every image, all its views together.
    pub pixels: Vec<Extent>,
    /// The forward and backward pass; none when no image has boxes.
    pub trace: Option<Trace>,
}

/// Runs the batch through the networks of `checkpoint`, or of the run's start where there is none.
///
/// # Errors
/// When batch and settings belong to different runs, or the checkpoint cannot be read.
pub fn rerun(
    settings: &PretrainConfig,
    checkpoint: &Path,
    (batch, info): &(Vec<Sample>, ReplayInfo),
    device: &Device,
) -> Result<Rerun, PretrainError> {
    let other = |problem: String| PretrainError::OtherBatch { step: info.step, problem };
    if info.config_hash != settings.result_hash() {
        return Err(other("its settings differ".to_string()));
    }
    let (learner, step) = networks(settings, checkpoint, &device.clone().autodiff())?;
    if let Some(problem) = misfit(settings, batch) {
        return Err(other(problem));
    }
    let pixels = batch.iter().map(|sample| Extent::of_values(sample.views.concat()));
    Ok(Rerun { step, pixels: pixels.collect(), trace: learner.trace(batch) })
}

/// The networks and the updates that they have had.
fn networks(
    settings: &PretrainConfig,
    checkpoint: &Path,
    device: &Device,
) -> Result<(Learner, u64), PretrainError> {
    #[derive(Deserialize)]
    struct Cursor {
        step: u64,
    }
    let supervised = settings.method == MethodKind::Supervised;
    if !supervised && !state::exists(checkpoint) {
        return Ok((initial_learner(settings, 0, None, device), 0));
    }
    let (tensors, cursor) = state::load::<Cursor>(checkpoint)?;
    let learner = initial_learner(settings, classes(&tensors), None, device);
    Ok((learner.load(&tensors)?, cursor.step))
}

/// The classes of a supervised run's checkpoint.
fn classes(tensors: &BTreeMap<String, TensorMap>) -> usize {
    let weight = tensors.get("classifier").and_then(|network| network.get("fc.weight"));
    weight.map_or(0, |weight| weight.shape()[0])
}

/// Why a batch cannot go through the networks.
fn misfit(settings: &PretrainConfig, batch: &[Sample]) -> Option<String> {
    let (side, supervised) = (settings.augment.view_size, settings.method == MethodKind::Supervised);
    let (views, pixels) = (if supervised { 1 } else { 2 }, 3 * (side * side) as usize);
    let fits = |sample: &Sample| {
        sample.views.len() == views
            && sample.views.iter().all(|view| view.len() == pixels)
            && (!supervised || sample.label.is_some())
    };
    (!batch.iter().all(fits)).then(|| format!("its images are not {views} views of {side} pixels each"))
}
