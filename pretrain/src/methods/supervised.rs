//! Supervised classification: the backbone, global average pooling and a linear classifier.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use scrl_core::models::layers::{Init, Linear};
use scrl_core::models::parameters::{TensorMap, collect};
use scrl_core::models::{Backbone, Level, in_f32};
use scrl_core::random::Rng;
use scrl_core::solver::Optimizer;
use scrl_ops::Group;

use super::evaluation::EvaluationNetworks;
use super::gradients::Sharing;
use super::method::{Gradients, Method, MethodFacts, StepReport, StepSettings, Tap, load_network};
use super::trace::{self, Activation, LayerTrace};
use crate::config::PretrainConfig;
use crate::error::PretrainError;
use crate::image_views::{ImageViews, stack_views};
use crate::in_place::InPlace;
use crate::loss::cross_entropy;
use crate::metrics;
use crate::pooling::global_average;

pub(super) const FACTS: MethodFacts = MethodFacts {
    name: "supervised",
    views: 1,
    online_views: 1,
    momentum_network: None,
    needs_boxes: false,
    needs_labels: true,
    level: |_| Level::C5,
    probe_lr: 0.2,
    init: |settings, classes, encoder, rng, device| {
        Box::new(Supervised::init(settings, classes, encoder, rng, device))
    },
};

/// Backbone and classifier.
#[derive(Module, Debug)]
pub struct Classifier {
    /// The backbone.
    pub encoder: Backbone,
    /// From the globally averaged C5 to logits.
    pub fc: Linear,
}

/// The network of supervised pretraining.
pub struct Supervised {
    network: InPlace<Classifier>,
    label_smoothing: f64,
    sharing: Sharing,
    device: Device,
}

impl Supervised {
    /// A fresh network; `device` must be an autodiff device. `encoder` replaces the random backbone.
    pub fn init(
        config: &PretrainConfig,
        classes: usize,
        encoder: Option<Backbone>,
        rng: &mut Rng,
        device: &Device,
    ) -> Self {
        let network = Classifier {
            encoder: encoder.unwrap_or_else(|| config.model.init(rng, device)).compute_in(config.precision),
            fc: Linear::init([config.level_channels(), classes], true, Init::TorchDefault, rng, device),
        };
        Self {
            network: InPlace::new(network),
            label_smoothing: config.supervised.label_smoothing,
            sharing: Sharing::alone(config.schedule.accumulate),
            device: device.clone(),
        }
    }

    /// `[N]`
    fn labels(&self, batch: &[ImageViews]) -> Tensor<1, Int> {
        let labels: Vec<i64> = batch.iter().map(|s| s.label.expect("labels are checked") as i64).collect();
        Tensor::from_data(TensorData::new(labels, [batch.len()]), &self.device)
    }
}

impl Method for Supervised {
    fn gradients(&self, batch: &[ImageViews], tap: &mut Tap<'_>) -> Option<Gradients> {
        let network = self.network.get();
        let parts = self.sharing.parts(batch, |_| 1);
        let mut hits: Option<Tensor<1>> = None;
        let losses = parts.iter().map(|part| {
            let features = network.encoder.forward(stack_views(part.images, 0, &self.device));
            tap(Activation::Maps(&features));
            let logits = in_f32(network.fc.forward(global_average(features.at(Level::C5))));
            tap(Activation::Vectors("logits", &logits));
            let labels = self.labels(part.images);
            let found = metrics::hits(logits.clone().inner(), labels.clone().inner());
            hits = Some(match hits.take() {
                Some(sum) => sum + found,
                None => found,
            });
            part.weighed(cross_entropy(logits, labels, self.label_smoothing))
        });
        let (loss, parameters) = self.sharing.mean_gradients(network, parts.len(), losses)?;
        let report = StepReport { loss, regions: batch.len(), without_boxes: 0, hits, pooled: None };
        Some(Gradients { parameters, keys: Vec::new(), report })
    }

    fn join(&mut self, group: &Group) {
        self.sharing.group = group.clone();
        self.network.change(|network| Classifier { encoder: network.encoder.over(group), ..network });
    }

    fn apply(&mut self, gradients: Gradients, settings: StepSettings, optimizer: &mut Optimizer) {
        self.network.change(|network| optimizer.step(settings.lr, network, gradients.parameters));
    }

    fn encoder(&self) -> &Backbone {
        &self.network.get().encoder
    }

    fn evaluation_networks(&self) -> EvaluationNetworks {
        EvaluationNetworks { encoder: self.encoder().valid(), level: Level::C5, projection: None }
    }

    fn tensors(&self) -> Vec<(&'static str, TensorMap)> {
        vec![("classifier", collect(self.network.get()))]
    }

    fn load(&mut self, tensors: &BTreeMap<String, TensorMap>) -> Result<(), PretrainError> {
        load_network(&mut self.network, "classifier", tensors)
    }

    fn layers(&self, gradients: &GradientsParams) -> Vec<LayerTrace> {
        trace::layers(self.network.get(), gradients)
    }
}
