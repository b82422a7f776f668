//! A backbone with its feature pyramid, as every detector has it.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use scrl_core::models::{Backbone, BatchNorm};
use scrl_core::random::Rng;
use scrl_ops::Group;

use super::config::{DetectorConfig, Norm};
use super::fpn::{Fpn, Top};

/// A backbone and its pyramid.
#[derive(Module, Debug)]
pub struct BackboneWithFpn {
    /// Gives C2 to C5.
    pub body: Backbone,
    /// Gives the levels that the heads see.
    pub fpn: Fpn,
}

impl BackboneWithFpn {
    /// Random weights, frozen as the config says; `top` makes the coarsest levels.
    pub fn init(config: &DetectorConfig, top: Top, rng: &mut Rng, device: &Device) -> Self {
        let resnet = config.resnet();
        let body = resnet.init(rng, device);
        let fpn = Fpn::init(resnet.channels(), config.fpn.channels, config.fpn.norm, top, rng, device);
        Self { body: with_norm(body, config), fpn }
    }

    /// With this backbone, for example a pretrained one, frozen as the config says.
    pub fn with_body(self, body: Backbone, config: &DetectorConfig) -> Self {
        Self { body: with_norm(body, config), ..self }
    }

    /// `[N, 3, H, W]` to the levels of the pyramid, the finest first.
    pub fn forward(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        self.fpn.forward(&self.body.forward(images))
    }

    /// With the statistics of batch norms over the batches of all processes of `group`, in training.
    pub(super) fn over(mut self, group: &Group) -> Self {
        self.batch_norms_mut().for_each(|norm| norm.group = group.clone());
        self
    }

    /// Every batch norm of the detector: its heads have none.
    pub(super) fn batch_norms_mut(&mut self) -> impl Iterator<Item = &mut BatchNorm> {
        self.body.batch_norms_mut().chain(self.fpn.batch_norms_mut())
    }
}

fn with_norm(body: Backbone, config: &DetectorConfig) -> Backbone {
    let body = body.freeze_at(config.backbone.freeze_at, config.backbone.frozen_norm_epsilon);
    match config.backbone.norm {
        Norm::BatchNorm => body,
        Norm::FrozenBatchNorm => body.freeze_batch_norm(config.backbone.frozen_norm_epsilon),
    }
}
