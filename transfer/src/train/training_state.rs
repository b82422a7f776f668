//! Everything that training changes: one step of it, and its checkpoint.

use std::path::Path;

use burn::optim::GradientsParams;
use burn::tensor::Device;
use scrl_core::checkpoint::weights::check_finite;
use scrl_core::checkpoint::{CheckpointError, state};
use scrl_core::engine::RunDir;
use scrl_core::models::parameters;
use scrl_core::random::{Rng, stream};
use scrl_core::solver::{Optimizer, same_everywhere, sum_gradients};
use scrl_ops::Group;
use serde::{Deserialize, Serialize};

use super::{UnreadLosses, is_due, resume};
use crate::config::TransferConfig;
use crate::data::Batch;
use crate::detection::Detector;
use crate::error::TransferError;
use crate::weights::{self, InitWeights, init_detector};

/// The purpose of the random stream that chooses the anchors and regions of an iteration.
const SAMPLING: u64 = u64::from_be_bytes(*b"detsampl");

/// Everything that training changes, and where it started.
pub struct Training {
    /// On the training device.
    pub model: Detector,
    optimizer: Optimizer,
    /// [`InitWeights::describe`] of the run's start.
    pub(super) init: String,
    /// Steps done.
    pub(super) iteration: u64,
    /// The last iteration after which the detector was evaluated; 0 before the first.
    pub(super) evaluated: u64,
    /// Of the run's data, where it is known.
    pub(super) data_hash: Option<String>,
    group: Group,
}

/// The part of a checkpoint that is not tensors.
#[derive(Serialize, Deserialize)]
struct Progress {
    iteration: u64,
    #[serde(default)]
    evaluated: u64,
    init: String,
    config_hash: String,
    /// [`DataList::hash`](scrl_core::engine::DataList::hash) of the data; none in checkpoints of before it was kept.
    #[serde(default)]
    data_hash: Option<String>,
}

impl Training {
    /// Before the first step; `device` is an autodiff device.
    ///
    /// # Errors
    /// When the weights cannot be read or do not fit.
    pub fn start(
        config: &TransferConfig,
        init: &InitWeights,
        device: &Device,
    ) -> Result<Self, TransferError> {
        let model = init_detector(config, init, device)?.compute_in(config.precision);
        let optimizer = Optimizer::new(config.optimizer());
        Ok(Self {
            model,
            optimizer,
            init: init.describe(),
            iteration: 0,
            evaluated: 0,
            data_hash: None,
            group: Group::alone(),
        })
    }

    /// Trains together with the other processes of `group`; batches are then this process's part of theirs.
    pub fn over(self, group: &Group) -> Self {
        Self { model: self.model.over(group), group: group.clone(), ..self }
    }

    /// Whether an evaluation of every so many iterations is due after this one and has not been made.
    pub(super) fn owes_evaluation(&self, every: u64) -> bool {
        self.iteration > self.evaluated && is_due(self.iteration, every)
    }

    /// The gradient's norm of the last step that measured it.
    pub(super) fn grad_norm(&self) -> Option<f64> {
        self.optimizer.last_grad_norm()
    }

    pub(super) fn resume(
        config: &TransferConfig,
        checkpoint: &Path,
        run: &RunDir,
        prolong: bool,
        device: &Device,
    ) -> Result<Self, TransferError> {
        let (mut tensors, progress): (_, Progress) = state::load(checkpoint)?;
        resume::check(&progress.config_hash, progress.iteration, config, run, prolong)?;
        let mut take = |name: &str| {
            let problem = || CheckpointError::Incomplete {
                path: checkpoint.to_path_buf(),
                problem: format!("it has no `{name}` tensors"),
            };
            tensors.remove(name).ok_or_else(problem)
        };
        // The values drawn here are all replaced.
        let model = config.model.init(&mut stream(config.seed, &[]), device);
        let wrong = |reason| TransferError::Detector { path: checkpoint.to_path_buf(), reason };
        let model = weights::restore(model, &take("model")?).map_err(wrong)?.compute_in(config.precision);
        let mut optimizer = Optimizer::new(config.optimizer());
        optimizer.load_state(take("optimizer")?, device);
        let Progress { iteration, evaluated, init, data_hash, .. } = progress;
        Ok(Self { model, optimizer, init, iteration, evaluated, data_hash, group: Group::alone() })
    }

    /// Writes a checkpoint, unless the detector or its optimiser has diverged: then the one that is there stays. Every process calls
    /// it and rank 0 writes.
    pub(super) fn save(&self, checkpoint: &Path, config: &TransferConfig) -> Result<(), TransferError> {
        let tensors = [("model", parameters::collect(&self.model)), ("optimizer", self.optimizer.state())];
        for (name, map) in &tensors {
            check_finite(&checkpoint.join(name), map)?;
        }
        if !same_everywhere(tensors.iter().map(|(_, map)| map), &self.group) {
            return Err(TransferError::ProcessesDiffer { iteration: self.iteration });
        }
        if !self.group.is_root() {
            return Ok(());
        }
        let progress = Progress {
            iteration: self.iteration,
            evaluated: self.evaluated,
            init: self.init.clone(),
            config_hash: config.fingerprint(),
            data_hash: self.data_hash.clone(),
        };
        Ok(state::save(checkpoint, &tensors, &progress)?)
    }

    /// One optimizer step; `grad_norm` measures the gradient on the way. The losses stay on the device.
    pub fn step(self, batch: Batch, lr: f64, seed: u64, grad_norm: bool) -> (Self, UnreadLosses) {
        let Self { model, mut optimizer, init, iteration, evaluated, data_hash, group } = self;
        let mut rng: Rng = stream(seed, &[SAMPLING, iteration]);
        let losses = model.forward_train(batch.images, &batch.sizes, &batch.targets, &mut rng);
        if grad_norm {
            optimizer.request_grad_norm();
        }
        let grads = GradientsParams::from_grads(losses.total().backward(), &model);
        let grads = sum_gradients(&model, grads, &group);
        let model = optimizer.step(lr, model, grads);
        let losses = UnreadLosses::new(iteration, batch.indices, &losses);
        (Self { model, optimizer, init, iteration: iteration + 1, evaluated, data_hash, group }, losses)
    }
}
