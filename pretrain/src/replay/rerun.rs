//! The step of a saved batch, run again.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use scrl_core::checkpoint::state;
use scrl_core::models::parameters::TensorMap;
use scrl_core::structures::Size;
use serde::Deserialize;

use super::ReplayInfo;
use crate::config::PretrainConfig;
use crate::error::PretrainError;
use crate::image_views::ImageViews;
use crate::methods::{self, Extent, Method, Trace};

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
    (batch, info): &(Vec<ImageViews>, ReplayInfo),
    device: &Device,
) -> Result<Rerun, PretrainError> {
    let other = |problem: String| PretrainError::OtherBatch { step: info.step, problem };
    if info.config_hash != settings.result_hash() {
        return Err(other("its settings differ".to_string()));
    }
    let (method, step) = networks(settings, checkpoint, &device.clone().autodiff())?;
    if let Some(problem) = misfit(settings, batch) {
        return Err(other(problem));
    }
    let pixels = batch
        .iter()
        .map(|image| Extent::of_values(image.views.iter().flat_map(|view| view.values.iter().copied())));
    Ok(Rerun { step, pixels: pixels.collect(), trace: method.trace(batch) })
}

/// The networks and the updates that they have had.
fn networks(
    settings: &PretrainConfig,
    checkpoint: &Path,
    device: &Device,
) -> Result<(Box<dyn Method>, u64), PretrainError> {
    #[derive(Deserialize)]
    struct Cursor {
        step: u64,
    }
    if !settings.method.facts().needs_labels && !state::exists(checkpoint) {
        return Ok((methods::init_for_run(settings, 0, None, device), 0));
    }
    let (tensors, cursor) = state::load::<Cursor>(checkpoint)?;
    let mut method = methods::init_for_run(settings, classes(&tensors), None, device);
    method.load(&tensors)?;
    Ok((method, cursor.step))
}

/// The classes of a supervised run's checkpoint.
fn classes(tensors: &BTreeMap<String, TensorMap>) -> usize {
    let weight = tensors.get("classifier").and_then(|network| network.get("fc.weight"));
    weight.map_or(0, |weight| weight.shape()[0])
}

/// Why a batch cannot go through the networks.
fn misfit(settings: &PretrainConfig, batch: &[ImageViews]) -> Option<String> {
    let (side, facts) = (settings.augment.view_size, settings.method.facts());
    let size = Size { width: side, height: side };
    let fits = |image: &ImageViews| {
        image.views.len() == facts.views
            && image.views.iter().all(|view| view.size == size)
            && (!facts.needs_labels || image.label.is_some())
    };
    let views = facts.views;
    (!batch.iter().all(fits)).then(|| format!("its images are not {views} views of {side} pixels each"))
}
