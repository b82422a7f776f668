//! The online and target networks of SCRL and BYOL and one step of them.
//!
//! N images a batch, two views each; the networks see both views as one batch of 2N, so batch statistics mix them.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use scrl_core::models::parameters::{TensorMap, collect, load};
use scrl_core::models::{Features, ResNet};
use scrl_core::random::Rng;
use scrl_core::solver::Optimizer;

use super::{Sample, StepReport, StepSettings, byol, load_network, scrl, stack_views};
use crate::config::{MethodKind, PoolLevel, PretrainConfig, TargetInit};
use crate::error::PretrainError;
use crate::heads::Mlp;
use crate::{ema, loss};

/// Backbone, projector and predictor; trained by gradients.
#[derive(Module, Debug)]
pub struct OnlineNetwork {
    pub encoder: ResNet,
    pub projector: Mlp,
    pub predictor: Mlp,
}

/// Backbone and projector; the moving average of the online ones.
#[derive(Module, Debug)]
pub struct TargetNetwork {
    pub encoder: ResNet,
    pub projector: Mlp,
}

/// The networks of SCRL and BYOL.
pub struct SelfSupervised {
    pub online: OnlineNetwork,
    pub target: TargetNetwork,
    method: MethodKind,
    level: PoolLevel,
    device: Device,
}

impl SelfSupervised {
    pub fn init(config: &PretrainConfig, encoder: Option<ResNet>, rng: &mut Rng, device: &Device) -> Self {
        let (hidden, output) = (config.heads.hidden, config.heads.output);
        let channels = config.model.channels()[if config.heads.pool_level == PoolLevel::C4 { 2 } else { 3 }];
        let online = OnlineNetwork {
            encoder: encoder.unwrap_or_else(|| config.model.init(rng, device)),
            projector: Mlp::init(channels, hidden, output, rng, device),
            predictor: Mlp::init(output, hidden, output, rng, device),
        };
        // A clone would share the running statistics, so the target is always built anew.
        let mut target = TargetNetwork {
            encoder: config.model.init(rng, device),
            projector: Mlp::init(channels, hidden, output, rng, device),
        };
        if config.ema.target_init == TargetInit::Copy {
            target = load(target, &collect(&online)).0;
        }
        Self {
            online,
            target: target.no_grad(),
            method: config.method,
            level: config.heads.pool_level,
            device: device.clone(),
        }
    }

    pub fn step(
        &mut self,
        batch: &[Sample],
        settings: StepSettings,
        optimizer: &mut Optimizer,
    ) -> Option<StepReport> {
        let rois = match self.method {
            MethodKind::Scrl => Some(scrl::rois(batch, &self.device)?),
            _ => None,
        };
        let views = [0, 1].map(|view| stack_views(batch, view, &self.device));
        let views = Tensor::cat(views.to_vec(), 0);
        let loss = self.loss(views, rois);
        let gradients = GradientsParams::from_grads(loss.backward(), &self.online);
        self.online = optimizer.step(settings.lr, self.online.clone(), gradients);
        self.target = ema::update(self.target.clone(), &self.online, settings.ema_momentum);
        Some(StepReport {
            loss: loss.inner(),
            boxes: match self.method {
                MethodKind::Scrl => batch.iter().map(|sample| sample.boxes.len()).sum(),
                _ => batch.len(),
            },
            without_boxes: match self.method {
                MethodKind::Scrl => batch.iter().filter(|sample| sample.boxes.is_empty()).count(),
                _ => 0,
            },
        })
    }

    /// The symmetrised loss of a batch: `views` `[2N, 3, S, S]`, `rois` `[2·boxes, 5]` or none for BYOL.
    pub fn loss(&self, views: Tensor<4>, rois: Option<Tensor<2>>) -> Tensor<1> {
        let target = self.target.encoder.forward(views.clone());
        let target = self.target.projector.forward(self.pool(target, rois.clone())).detach();
        let online = self.online.encoder.forward(views);
        let projection = self.online.projector.forward(self.pool(online, rois));
        loss::symmetric_loss(self.online.predictor.forward(projection), target)
    }

    fn pool(&self, features: Features, rois: Option<Tensor<2>>) -> Tensor<2> {
        let (map, stride) = match self.level {
            PoolLevel::C4 => (features.c4, 16),
            PoolLevel::C5 => (features.c5, 32),
        };
        match rois {
            Some(rois) => scrl::pool(map, rois, stride),
            None => byol::pool(map),
        }
    }

    pub fn tensors(&self) -> Vec<(&'static str, TensorMap)> {
        vec![("online", collect(&self.online)), ("target", collect(&self.target))]
    }

    pub fn load(mut self, tensors: &BTreeMap<String, TensorMap>) -> Result<Self, PretrainError> {
        self.online = load_network(self.online, "online", tensors)?;
        self.target = load_network(self.target, "target", tensors)?;
        Ok(self)
    }
}
