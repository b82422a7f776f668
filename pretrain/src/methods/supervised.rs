//! Supervised classification: the backbone, global average pooling and a linear classifier.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use scrl_core::models::ResNet;
use scrl_core::models::layers::{Init, Linear};
use scrl_core::models::parameters::{TensorMap, collect};
use scrl_core::random::Rng;
use scrl_core::solver::Optimizer;

use super::accumulate::mean_gradients;
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
        let parts = micro_batches(batch, self.accumulate);
        let mut hits: Option<Tensor<1>> = None;
        let losses = parts.clone().map(|part| {
            let (logits, labels) = self.classify(part);
            let found = metrics::hits(logits.clone().inner(), labels.clone().inner());
            hits = Some(match hits.take() {
                Some(sum) => sum + found,
                None => found,
            });
            cross_entropy(logits, labels, self.label_smoothing)
        });
        let (loss, gradients) = mean_gradients(self.network.get(), parts.len(), losses)?;
        self.network.change(|network| optimizer.step(settings.lr, network, gradients));
        Some(StepReport { loss, boxes: batch.len(), without_boxes: 0, hits })
    }

    /// Logits, `[N, classes]`, and labels, `[N]`.
    fn classify(&self, batch: &[Sample]) -> (Tensor<2>, Tensor<1, Int>) {
        let labels: Vec<i64> = batch.iter().map(|s| s.label.expect("labels are checked") as i64).collect();
        let labels = Tensor::from_data(TensorData::new(labels, [batch.len()]), &self.device);
        let network = self.network.get();
        let features = network.encoder.forward(stack_views(batch, 0, &self.device)).c5;
        (network.fc.forward(byol::pool(features)), labels)
    }

    pub fn tensors(&self) -> Vec<(&'static str, TensorMap)> {
        vec![("classifier", collect(self.network.get()))]
    }

    pub fn load(self, tensors: &BTreeMap<String, TensorMap>) -> Result<Self, PretrainError> {
        let network = Whole::new(load_network(self.network.into_inner(), "classifier", tensors)?);
        Ok(Self { network, ..self })
    }
}
