//! A linear classifier that learns along with SCRL or BYOL, on what their backbone makes of the training views.
//!
//! It sees features without gradient, so the backbone learns the same with and without it; and what it says chooses no
//! checkpoint. The official code (kakaobrain/scrl `trainer/trainer.py::SCRLTrainer._forward`) always trains one, on both views
//! as here; its updates are those of the run's optimiser, here they are those of its linear evaluation: SGD with Nesterov
//! momentum 0.9, no weight decay, its own rate.

use std::collections::BTreeMap;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::models::layers::{Init, Linear};
use scrl_core::models::parameters::{TensorMap, collect, load};
use scrl_core::random::stream;
use scrl_core::solver::{Optimizer, OptimizerConfig};

use super::linear::published_lr;
use crate::config::PretrainConfig;
use crate::in_place::InPlace;
use crate::loss::cross_entropy;
use crate::methods::PooledViews;
use crate::metrics;

/// Names the random stream of the classifier's first values; no other stream is touched.
const INIT: u64 = u64::from_be_bytes(*b"online__");
/// Names of its tensors in a checkpoint.
const CLASSIFIER: &str = "probe";
const MOMENTUM: &str = "probe_optimizer";

/// The classifier and its optimiser.
pub struct OnlineProbe {
    classifier: InPlace<Linear>,
    optimizer: Optimizer,
    device: Device,
}

/// How the rows of a step were classified before the classifier's update.
#[derive(Clone, Debug)]
pub struct ProbeHits {
    /// Rows whose label is among the 1 and among the 5 largest logits, `[2]`, on the device.
    pub hits: Tensor<1>,
    /// Rows that were judged.
    pub rows: usize,
}

impl OnlineProbe {
    /// The probe of a run, or none: `log.online_probe` is off, the method learns from labels itself, or the images have no
    /// labels. `device` must be an autodiff device.
    pub fn for_run(settings: &PretrainConfig, data: &ImageFolder, device: &Device) -> Option<Self> {
        if !settings.log.online_probe || settings.method.facts().needs_labels {
            return None;
        }
        if data.classes.is_empty() || data.samples.iter().any(|sample| sample.label.is_none()) {
            tracing::info!(
                "online probe: off, since not every image lies in a folder of its class below one --data folder"
            );
            return None;
        }
        let classes = data.classes.len();
        tracing::info!(
            "online probe: {classes} classes, learning rate {:.4}; it does not change the backbone",
            online_lr(settings)
        );
        Some(Self::init(settings, classes, device))
    }

    /// A classifier of the map that the method uses.
    pub fn init(settings: &PretrainConfig, classes: usize, device: &Device) -> Self {
        let channels = settings.level_channels();
        let mut rng = stream(settings.seed, &[INIT]);
        let classifier = Linear::init([channels, classes], true, Init::TorchDefault, &mut rng, device);
        Self {
            classifier: InPlace::new(classifier),
            optimizer: Optimizer::new(OptimizerConfig { nesterov: true, ..Default::default() }),
            device: device.clone(),
        }
    }

    /// Classifies and learns.
    ///
    /// # Panics
    /// When a row has no label; [`for_run`](Self::for_run) checks the data first.
    pub fn step(&mut self, views: PooledViews, lr: f64) -> ProbeHits {
        let rows = views.labels.len();
        let labels: Vec<i64> =
            views.labels.iter().map(|label| label.expect("labels are checked") as i64).collect();
        let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [rows]), &self.device);
        let logits = self.classifier.get().forward(Tensor::from_inner(views.features));
        let hits = metrics::hits(logits.clone().inner(), labels.clone().inner());
        let gradients = cross_entropy(logits, labels, 0.0).backward();
        let gradients = GradientsParams::from_grads(gradients, self.classifier.get());
        self.classifier.change(|classifier| self.optimizer.step(lr, classifier, gradients));
        ProbeHits { hits, rows }
    }

    /// Its tensors for a checkpoint.
    pub fn tensors(&self) -> Vec<(&'static str, TensorMap)> {
        vec![(CLASSIFIER, collect(self.classifier.get())), (MOMENTUM, self.optimizer.state())]
    }

    /// Restores [`tensors`](Self::tensors); a checkpoint that has none of this size leaves the probe at its start.
    pub fn load(mut self, tensors: &BTreeMap<String, TensorMap>) -> Self {
        let empty = TensorMap::new();
        let map = tensors.get(CLASSIFIER).unwrap_or(&empty);
        let mut complete = false;
        self.classifier.change(|classifier| {
            let (classifier, report) = load(classifier, map);
            complete = report.is_complete();
            classifier
        });
        if complete {
            self.optimizer.load_state(tensors.get(MOMENTUM).cloned().unwrap_or_default(), &self.device);
        } else {
            tracing::warn!("online probe: the checkpoint has none for these classes; it starts anew");
        }
        self
    }
}

/// The highest rate of a run's probe: the published one, for the run's batch.
pub(crate) fn online_lr(settings: &PretrainConfig) -> f64 {
    published_lr(settings.method.name()) * settings.schedule.batch_size as f64 / 256.0
}

#[cfg(test)]
mod tests {
    use scrl_core::random::standard_normal;
    use serde_json::json;

    use super::*;

    const CLASSES: usize = 4;

    fn settings(method: &str) -> PretrainConfig {
        serde_json::from_value(json!({
            "method": method,
            "model": {"arch": "resnet18", "width": 0.125},
            "schedule": {"epochs": 1, "batch_size": 32, "base_lr": 1.0},
        }))
        .expect("settings")
    }

    fn device() -> Device {
        Device::flex().autodiff()
    }

    /// Rows that each point along the axis of their class, with noise.
    fn views(seed: u64) -> PooledViews {
        let (mut rng, rows, channels) = (stream(seed, &[]), 32, 64);
        let value = |row: usize, channel: usize| if channel == row % CLASSES { 3.0 } else { 0.0 };
        let values: Vec<f32> = (0..rows * channels)
            .map(|i| value(i / channels, i % channels) + 0.2 * standard_normal(&mut rng))
            .collect();
        PooledViews {
            features: Tensor::from_data(TensorData::new(values, [rows, channels]), &Device::flex()),
            labels: (0..rows).map(|row| Some(row % CLASSES)).collect(),
        }
    }

    fn train(probe: &mut OnlineProbe, steps: std::ops::Range<u64>) -> Vec<f32> {
        let step = |seed| probe.step(views(seed), 0.1).hits.into_data().iter::<f32>().next();
        steps.filter_map(step).collect()
    }

    #[test]
    fn the_probe_learns_what_the_features_say() {
        let mut probe = OnlineProbe::init(&settings("scrl"), CLASSES, &device());
        let hits = train(&mut probe, 0..20);
        assert!(hits[0] < 24.0, "random weights know little: {hits:?}");
        assert_eq!(hits[19], 32.0, "{hits:?}");
    }

    #[test]
    fn a_restored_probe_goes_on_to_the_same_bits_and_one_without_tensors_starts_anew() {
        let mut whole = OnlineProbe::init(&settings("byol"), CLASSES, &device());
        train(&mut whole, 0..3);
        let saved: BTreeMap<String, TensorMap> =
            whole.tensors().into_iter().map(|(name, map)| (name.to_string(), map)).collect();
        train(&mut whole, 3..6);
        let fresh = || OnlineProbe::init(&settings("byol"), CLASSES, &device());
        let mut restored = fresh().load(&saved);
        train(&mut restored, 3..6);
        assert_eq!(restored.tensors(), whole.tensors());
        assert_eq!(fresh().load(&BTreeMap::new()).tensors(), fresh().tensors());
        let other_classes = OnlineProbe::init(&settings("byol"), CLASSES + 1, &device());
        assert_eq!(other_classes.load(&saved).tensors()[0].1["weight"].shape()[0], CLASSES + 1);
    }

    #[test]
    fn the_probe_has_the_published_rate_of_its_method_and_batch() {
        assert!((online_lr(&settings("scrl")) - 0.2 / 8.0).abs() < 1e-12);
        assert!((online_lr(&settings("byol")) - 0.05 / 8.0).abs() < 1e-12);
    }

    #[test]
    fn only_a_run_whose_images_all_have_labels_is_probed() {
        let image = |label| scrl_core::data::ImageFile { path: "a.png".into(), label };
        let classes = vec!["cat".to_string(), "dog".to_string()];
        let labelled = ImageFolder {
            samples: vec![image(Some(0)), image(Some(1))],
            classes: classes.clone(),
            ..Default::default()
        };
        let partly =
            ImageFolder { samples: vec![image(Some(0)), image(None)], classes, ..Default::default() };
        let unlabelled = ImageFolder { samples: vec![image(None)], ..Default::default() };
        let is_on =
            |settings: &PretrainConfig, data| OnlineProbe::for_run(settings, data, &device()).is_some();
        let mut scrl = settings("scrl");
        assert!(is_on(&scrl, &labelled) && is_on(&settings("byol"), &labelled));
        assert!(!is_on(&scrl, &partly) && !is_on(&scrl, &unlabelled));
        assert!(!is_on(&settings("supervised"), &labelled));
        scrl.log.online_probe = false;
        assert!(!is_on(&scrl, &labelled));
    }
}
