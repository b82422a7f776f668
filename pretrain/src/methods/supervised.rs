//! Supervised classification: the backbone, global average pooling and a linear classifier.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use scrl_core::models::ResNet;
use scrl_core::models::layers::{Init, Linear};
use scrl_core::models::parameters::{TensorMap, collect};
use scrl_core::random::Rng;
use scrl_core::solver::Optimizer;

use super::accumulate::mean_gradients;
use super::trace::{Seen, Trace, Tracer};
use super::whole::Whole;
use super::{Sample, StepReport, StepSettings, byol, load_network, micro_batches, stack_views};
use crate::config::PretrainConfig;
use crate::error::PretrainError;
use crate::loss::cross_entropy;
use crate::metrics;

/// Backbone and classifier.
#[derive(Module, Debug)]
pub struct Classifier {
    pub encoder: ResNet,
    pub fc: Linear,
}

/// The network of supervised pretraining.
pub struct Supervised {
    network: Whole<Classifier>,
    label_smoothing: f64,
    accumulate: usize,
    device: Device,
}

impl Supervised {
    pub fn init(
        config: &PretrainConfig,
        classes: usize,
        encoder: Option<ResNet>,
        rng: &mut Rng,
        device: &Device,
    ) -> Self {
        let channels = config.model.channels()[3];
        let network = Classifier {
            encoder: encoder.unwrap_or_else(|| config.model.init(rng, device)),
            fc: Linear::init([channels, classes], true, Init::TorchDefault, rng, device),
        };
        let network = Whole::new(network);
        Self {
            network,
            label_smoothing: config.supervised.label_smoothing,
            accumulate: config.schedule.accumulate,
            device: device.clone(),
        }
    }

    /// The backbone that transfer starts from.
    pub fn encoder(&self) -> &ResNet {
        &self.network.get().encoder
    }

    /// One update; `None` for an empty batch.
    ///
    /// # Panics
    /// When a sample has no label; the caller checks the data set first.
    pub fn step(
        &mut self,
        batch: &[Sample],
        settings: StepSettings,
        optimizer: &mut Optimizer,
    ) -> Option<StepReport> {
        let mut hits: Option<Tensor<1>> = None;
        let (loss, gradients) = self.gradients(batch, &mut |part, seen| {
            let Seen::Vectors("logits", logits) = seen else { return };
            let found = metrics::hits(logits.clone().inner(), self.labels(part).inner());
            hits = Some(match hits.take() {
                Some(sum) => sum + found,
                None => found,
            });
        })?;
        self.network.change(|network| optimizer.step(settings.lr, network, gradients));
        Some(StepReport { loss, boxes: batch.len(), without_boxes: 0, hits, pooled: None })
    }

    /// A step's forward and backward pass alone; `None` for an empty batch.
    ///
    /// # Panics
    /// When a sample has no label.
    pub fn trace(&self, batch: &[Sample]) -> Option<Trace> {
        let mut tracer = Tracer::default();
        let (loss, gradients) = self.gradients(batch, &mut |_, seen| tracer.see(seen))?;
        Some(tracer.finish(loss, self.network.get(), &gradients))
    }

    /// Mean loss and gradients; `look` sees what each micro-batch computes.
    fn gradients(
        &self,
        batch: &[Sample],
        look: &mut dyn FnMut(&[Sample], Seen<'_>),
    ) -> Option<(Tensor<1>, GradientsParams)> {
        let network = self.network.get();
        let parts = micro_batches(batch, self.accumulate);
        let losses = parts.clone().map(|part| {
            let features = network.encoder.forward(stack_views(part, 0, &self.device));
            look(part, Seen::Maps(&features));
            let logits = network.fc.forward(byol::pool(features.c5));
            look(part, Seen::Vectors("logits", &logits));
            cross_entropy(logits, self.labels(part), self.label_smoothing)
        });
        mean_gradients(network, parts.len(), losses)
    }

    /// `[N]`
    fn labels(&self, batch: &[Sample]) -> Tensor<1, Int> {
        let labels: Vec<i64> = batch.iter().map(|s| s.label.expect("labels are checked") as i64).collect();
        Tensor::from_data(TensorData::new(labels, [batch.len()]), &self.device)
    }

    pub fn tensors(&self) -> Vec<(&'static str, TensorMap)> {
        vec![("classifier", collect(self.network.get()))]
    }

    pub fn load(self, tensors: &BTreeMap<String, TensorMap>) -> Result<Self, PretrainError> {
        let network = Whole::new(load_network(self.network.into_inner(), "classifier", tensors)?);
        Ok(Self { network, ..self })
    }
}
