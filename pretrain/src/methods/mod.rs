//! The three methods behind one step function.

mod accumulate;
pub mod byol;
mod frozen;
pub mod scrl;
pub mod self_supervised;
pub mod supervised;
mod trace;
mod whole;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use scrl_core::models::ResNet;
use scrl_core::models::parameters::TensorMap;
use scrl_core::random::Rng;
use scrl_core::solver::Optimizer;

use crate::box_generator::MatchedBox;
use crate::config::{MethodKind, PretrainConfig};
use crate::error::PretrainError;
pub use frozen::Frozen;
pub(crate) use frozen::pool_level;
use self_supervised::SelfSupervised;
use supervised::Supervised;
pub use trace::{Extent, LayerTrace, Trace};
pub(crate) use whole::Whole;

/// One prepared image: its views (two, or one for `supervised`), the boxes that both show, its class.
pub struct Sample {
    /// Normalised pixels, each `[3, view_size, view_size]`.
    pub views: Vec<Vec<f32>>,
    pub boxes: Vec<MatchedBox>,
    pub label: Option<usize>,
}

/// What one step did.
pub struct StepReport {
    /// The loss, `[1]`, on the device.
    pub loss: Tensor<1>,
    /// Boxes compared; images for BYOL and supervised.
    pub boxes: usize,
    /// Images that had no box.
    pub without_boxes: usize,
    /// Images whose label is among the 1 and among the 5 largest logits, `[2]` on the device; for `supervised`.
    pub hits: Option<Tensor<1>>,
    /// What an online probe learns from, after [`Learner::keep_features`].
    pub pooled: Option<PooledViews>,
}

/// Globally pooled C5 of the online backbone for the views of a step, without gradient.
#[derive(Clone, Debug)]
pub struct PooledViews {
    /// `[rows, channels]`, on the device; both views of every image that took part.
    pub features: Tensor<2>,
    /// The class of each row's image.
    pub labels: Vec<Option<usize>>,
}

/// Learning rate and target momentum of a step.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings {
    pub lr: f64,
    pub ema_momentum: f64,
}

/// The networks of a method.
pub enum Learner {
    SelfSupervised(Box<SelfSupervised>),
    Supervised(Box<Supervised>),
}

impl Learner {
    /// Fresh networks; `device` must be an autodiff device. `encoder` replaces the random backbone.
    pub fn init(
        config: &PretrainConfig,
        classes: usize,
        encoder: Option<ResNet>,
        rng: &mut Rng,
        device: &Device,
    ) -> Self {
        match config.method {
            MethodKind::Supervised => {
                Self::Supervised(Box::new(Supervised::init(config, classes, encoder, rng, device)))
            }
            _ => Self::SelfSupervised(Box::new(SelfSupervised::init(config, encoder, rng, device))),
        }
    }

    /// Forward, backward, optimiser step and target update; `None` when the batch has no box at all.
    ///
    /// With `schedule.accumulate` the batch goes through in micro-batches, each with batch statistics of its own. Loss
    /// and gradient are means over those that have boxes; optimiser and target move once.
    pub fn step(
        &mut self,
        batch: &[Sample],
        settings: StepSettings,
        optimizer: &mut Optimizer,
    ) -> Option<StepReport> {
        match self {
            Self::SelfSupervised(learner) => learner.step(batch, settings, optimizer),
            Self::Supervised(learner) => learner.step(batch, settings, optimizer),
        }
    }

    /// Makes every later step of SCRL and BYOL report its pooled features; changes nothing else.
    pub fn keep_features(&mut self) {
        if let Self::SelfSupervised(learner) = self {
            learner.keep_features();
        }
    }

    /// The forward and backward pass of a step without its update; `None` when the batch has no box at all.
    ///
    /// Batch norms update their running statistics.
    pub fn trace(&self, batch: &[Sample]) -> Option<Trace> {
        match self {
            Self::SelfSupervised(learner) => learner.trace(batch),
            Self::Supervised(learner) => learner.trace(batch),
        }
    }

    /// The backbone that transfer starts from.
    pub fn encoder(&self) -> &ResNet {
        match self {
            Self::SelfSupervised(learner) => learner.encoder(),
            Self::Supervised(learner) => learner.encoder(),
        }
    }

    /// The networks as an evaluation sees them.
    pub fn frozen(&self) -> Frozen {
        match self {
            Self::SelfSupervised(learner) => learner.frozen(),
            Self::Supervised(learner) => Frozen { encoder: learner.encoder().valid(), projection: None },
        }
    }

    /// Every tensor by network, for a checkpoint.
    pub fn tensors(&self) -> Vec<(&'static str, TensorMap)> {
        match self {
            Self::SelfSupervised(learner) => learner.tensors(),
            Self::Supervised(learner) => learner.tensors(),
        }
    }

    /// Restores [`Learner::tensors`].
    pub fn load(
        self,
        tensors: &std::collections::BTreeMap<String, TensorMap>,
    ) -> Result<Self, PretrainError> {
        Ok(match self {
            Self::SelfSupervised(learner) => Self::SelfSupervised(Box::new(learner.load(tensors)?)),
            Self::Supervised(learner) => Self::Supervised(Box::new(learner.load(tensors)?)),
        })
    }
}

/// The batch in `accumulate` micro-batches, of equal size where that divides it.
fn micro_batches(batch: &[Sample], accumulate: usize) -> std::slice::Chunks<'_, Sample> {
    batch.chunks(batch.len().div_ceil(accumulate.max(1)).max(1))
}

/// View `index` of every sample, `[batch, 3, side, side]`.
fn stack_views(batch: &[Sample], index: usize, device: &Device) -> Tensor<4> {
    let mut pixels = Vec::with_capacity(batch.len() * batch[0].views[index].len());
    batch.iter().for_each(|sample| pixels.extend_from_slice(&sample.views[index]));
    let side = ((batch[0].views[index].len() / 3) as f64).sqrt() as usize;
    Tensor::from_data(TensorData::new(pixels, [batch.len(), 3, side, side]), device)
}

/// Loads one network of a checkpoint completely.
fn load_network<M: burn::module::Module>(
    module: M,
    name: &str,
    tensors: &std::collections::BTreeMap<String, TensorMap>,
) -> Result<M, PretrainError> {
    let other = |difference| PretrainError::OtherConfig { difference };
    let map = tensors.get(name).ok_or_else(|| other(format!("it has no `{name}` network")))?;
    let (module, report) = scrl_core::models::parameters::load(module, map);
    match report.is_complete() {
        true => Ok(module),
        false => Err(other(format!("its `{name}` network has other layers or sizes"))),
    }
}
