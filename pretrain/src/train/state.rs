//! Everything that a step changes, and its checkpoints.

use std::path::Path;

use burn::tensor::Device;
use scrl_core::checkpoint::{CheckpointError, state, weights};
use scrl_core::models::parameters::TensorMap;
use scrl_core::solver::{Optimizer, same_everywhere};
use scrl_core::transforms::normalize::{IMAGENET_MEAN, IMAGENET_STD};
use scrl_ops::Group;
use serde::{Deserialize, Serialize};

use crate::config::PretrainConfig;
use crate::error::PretrainError;
use crate::methods::Method;
use crate::probe::OnlineProbe;

/// Where a run stands between two steps; saved with every checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Cursor {
    pub(super) epoch: u64,
    /// Batches of this epoch that are done.
    pub(super) batch: usize,
    pub(super) step: u64,
    pub(super) skipped_batches: u64,
    pub(super) images_without_boxes: u64,
    pub(super) images: usize,
    pub(super) config_hash: String,
    /// [`DataList::hash`](scrl_core::engine::DataList::hash) of the images; none in checkpoints of before it was kept.
    #[serde(default)]
    pub(super) data_hash: Option<String>,
    /// [`BackboneMetadata::init`](weights::BackboneMetadata::init).
    #[serde(default)]
    pub(super) init: Option<String>,
}

impl Cursor {
    pub(super) fn start(settings: &PretrainConfig, images: usize) -> Self {
        Self {
            epoch: 0,
            batch: 0,
            step: 0,
            skipped_batches: 0,
            images_without_boxes: 0,
            images,
            config_hash: settings.result_hash(),
            data_hash: None,
            init: None,
        }
    }
}

/// A run between two steps.
pub(super) struct TrainingState {
    pub(super) method: Box<dyn Method>,
    pub(super) optimizer: Optimizer,
    pub(super) probe: Option<OnlineProbe>,
    pub(super) cursor: Cursor,
}

impl TrainingState {
    /// Writes a checkpoint, unless a network or its optimiser has diverged: then the one that is there stays. Every process calls it
    /// and rank 0 writes.
    pub(super) fn save(&self, path: &Path, group: &Group) -> Result<(), PretrainError> {
        let mut tensors: Vec<(&str, TensorMap)> = self.method.tensors();
        tensors.push(("optimizer", self.optimizer.state()));
        for (name, map) in &tensors {
            let diverged = |error| match error {
                CheckpointError::NonFinite { tensor, .. } => {
                    let space = format!("values of `{name}.{tensor}`");
                    PretrainError::Diverged { step: self.cursor.step, space }
                }
                other => other.into(),
            };
            weights::check_finite(path, map).map_err(diverged)?;
        }
        if !same_everywhere(tensors.iter().map(|(_, map)| map), group) {
            return Err(PretrainError::ProcessesDiffer { step: self.cursor.step });
        }
        if !group.is_root() {
            return Ok(());
        }
        tensors.extend(self.probe.iter().flat_map(OnlineProbe::tensors));
        Ok(state::save(path, &tensors, &self.cursor)?)
    }

    /// Continues from a checkpoint; whether it is one of the same settings and data is for the caller to check.
    pub(super) fn restore(mut self, path: &Path, device: &Device) -> Result<Self, PretrainError> {
        let (tensors, cursor) = state::load::<Cursor>(path)?;
        let other = |difference: String| PretrainError::OtherConfig { difference };
        self.probe = self.probe.take().map(|probe| probe.load(&tensors));
        let momentum = tensors.get("optimizer").ok_or_else(|| other("it has no optimizer".to_string()))?;
        self.optimizer.load_state(momentum.clone(), device);
        self.method.load(&tensors)?;
        Ok(Self { cursor, ..self })
    }

    /// Writes the backbone that transfer starts from.
    pub(super) fn save_backbone(&self, path: &Path, settings: &PretrainConfig) -> Result<(), PretrainError> {
        let metadata = weights::BackboneMetadata {
            arch: settings.model.arch,
            width: settings.model.width,
            method: settings.method.name().to_string(),
            epoch: self.cursor.epoch as f64,
            image_size: settings.augment.view_size,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
            config_hash: self.cursor.config_hash.clone(),
            init: self.cursor.init.clone(),
        };
        Ok(weights::save_backbone(path, self.method.encoder(), &metadata)?)
    }
}
