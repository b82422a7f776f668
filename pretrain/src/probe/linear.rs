//! A linear classifier on cached features.
//!
//! The official protocol (kakaobrain/scrl 62730fb): SGD with Nesterov momentum 0.9, no weight decay, 80 epochs, five of them
//! warm-up, cosine; the rate is 0.2 (BYOL: 0.05) × batch / 256. Its batch of 4096 is 256 here, of the same rate per image,
//! since folders are smaller than ImageNet; its random crops and flips are left out.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use scrl_core::data::sampler;
use scrl_core::models::layers::{Init, Linear};
use scrl_core::random::stream;
use scrl_core::solver::{Optimizer, OptimizerConfig, WarmupCosine};
use serde::Serialize;

use super::Accuracy;
use crate::config::MethodKind;
use crate::inspection::Rows;
use crate::loss::cross_entropy;

/// Names the random stream of the classifier's first values.
const INIT: u64 = u64::from_be_bytes(*b"probe___");
/// Rows classified at a time.
const CHUNK: usize = 1024;

/// Settings of the training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinearConfig {
    /// Passes over the training features.
    pub epochs: u64,
    /// Epochs of linear warm-up, at most a quarter of all.
    pub warmup_epochs: u64,
    /// Features a step, at most all of them.
    pub batch_size: usize,
    /// Rate for a batch of 256; the published one of the method by default.
    pub base_lr: Option<f64>,
    /// Of weights and order.
    pub seed: u64,
}

impl Default for LinearConfig {
    fn default() -> Self {
        Self { epochs: 80, warmup_epochs: 5, batch_size: 256, base_lr: None, seed: 0 }
    }
}

impl LinearConfig {
    /// Fills in the published rate of a pretraining method.
    pub(super) fn for_method(self, method: &str) -> Self {
        Self { base_lr: self.base_lr.or(Some(published_lr(method))), ..self }
    }
}

/// The published rate of a classifier on a method's backbone, for a batch of 256; SCRL's for weights of other origin.
pub(super) fn published_lr(method: &str) -> f64 {
    MethodKind::from_name(method).map_or(0.2, |method| method.facts().probe_lr)
}

/// Trains on the first rows and classes, classifies the second.
///
/// # Panics
/// If there is no training row, or rows and classes differ in number.
pub fn linear_accuracy(
    train: (&Rows, &[usize]),
    queries: (&Rows, &[usize]),
    classes: usize,
    config: &LinearConfig,
    device: &Device,
) -> Accuracy {
    let classifier = fit(train.0, train.1, classes, config, device).valid();
    let rows = queries.0;
    let scores = rows.values.chunks(CHUNK * rows.dims).flat_map(|chunk| {
        let logits =
            classifier.forward(tensor(chunk.to_vec(), rows.dims, &device.clone().without_autodiff()));
        logits.into_data().iter::<f64>().collect::<Vec<_>>()
    });
    Accuracy::of(&scores.collect::<Vec<_>>(), queries.1, classes)
}

fn fit(rows: &Rows, labels: &[usize], classes: usize, config: &LinearConfig, device: &Device) -> Linear {
    assert!(!rows.is_empty() && rows.len() == labels.len(), "{} rows, {} classes", rows.len(), labels.len());
    let device = device.clone().autodiff();
    let mut rng = stream(config.seed, &[INIT]);
    let mut classifier = Linear::init([rows.dims, classes], true, Init::TorchDefault, &mut rng, &device);
    let mut optimizer = Optimizer::new(OptimizerConfig { nesterov: true, ..Default::default() });
    let batch_size = config.batch_size.min(rows.len());
    let steps = rows.len().div_ceil(batch_size) as u64;
    let schedule = WarmupCosine {
        base_lr: config.for_batch(batch_size),
        warmup_steps: config.warmup_epochs.min(config.epochs / 4) * steps,
        total_steps: config.epochs * steps,
        min_lr: 0.0,
        warmup_start_factor: 0.0,
    };
    let mut step = 0;
    for epoch in 0..config.epochs {
        for batch in sampler::batches(rows.len(), batch_size, false, Some((config.seed, epoch))) {
            let loss = classifier_loss(&classifier, rows, labels, &batch, &device);
            let gradients = GradientsParams::from_grads(loss.backward(), &classifier);
            classifier = optimizer.step(schedule.lr(step), classifier, gradients);
            step += 1;
        }
    }
    classifier
}

impl LinearConfig {
    fn for_batch(&self, batch_size: usize) -> f64 {
        self.base_lr.unwrap_or(0.2) * batch_size as f64 / 256.0
    }
}

fn classifier_loss(
    classifier: &Linear,
    rows: &Rows,
    labels: &[usize],
    batch: &[usize],
    device: &Device,
) -> Tensor<1> {
    let row = |&index: &usize| rows.values[index * rows.dims..(index + 1) * rows.dims].iter().copied();
    let features = tensor(batch.iter().flat_map(row).collect(), rows.dims, device);
    let labels: Vec<i64> = batch.iter().map(|&index| labels[index] as i64).collect();
    let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [batch.len()]), device);
    cross_entropy(classifier.forward(features), labels, 0.0)
}

/// `[rows, dims]`
fn tensor(values: Vec<f32>, dims: usize, device: &Device) -> Tensor<2> {
    let count = values.len() / dims;
    Tensor::from_data(TensorData::new(values, [count, dims]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use scrl_core::random::standard_normal;

    /// `per_class` noisy copies of each class' own direction.
    fn separable(per_class: usize, classes: usize, seed: u64) -> (Rows, Vec<usize>) {
        let dims = 16;
        let mut rng = stream(seed, &[]);
        let labels: Vec<usize> = (0..per_class * classes).map(|i| i % classes).collect();
        let value = |label: usize, dim: usize| if dim % classes == label { 2.0 } else { 0.0 };
        let rows = labels.iter().flat_map(|&label| (0..dims).map(move |dim| value(label, dim)));
        let values =
            rows.collect::<Vec<f32>>().into_iter().map(|v| v + 0.5 * standard_normal(&mut rng)).collect();
        (Rows { values, dims }, labels)
    }

    #[test]
    fn separable_classes_are_learned() {
        let ((train, train_labels), (val, val_labels)) = (separable(40, 8, 1), separable(25, 8, 2));
        let config = LinearConfig { epochs: 40, batch_size: 64, ..Default::default() };
        let run =
            || linear_accuracy((&train, &train_labels), (&val, &val_labels), 8, &config, &Device::flex());
        let accuracy = run();
        assert!(accuracy.top1 > 0.95 && accuracy.top5 >= accuracy.top1, "{accuracy:?}");
        assert_eq!(run(), accuracy, "the same seed gives the same classifier");
    }

    #[test]
    fn labels_that_say_nothing_about_the_features_are_not_learned() {
        let ((train, mut labels), (val, val_labels)) = (separable(40, 8, 3), separable(50, 8, 4));
        labels.iter_mut().enumerate().for_each(|(i, label)| *label = (i / 8) % 8);
        let config = LinearConfig { epochs: 20, batch_size: 64, ..Default::default() };
        let accuracy = linear_accuracy((&train, &labels), (&val, &val_labels), 8, &config, &Device::flex());
        assert!(accuracy.top1 < 0.5, "{accuracy:?}");
    }

    #[test]
    fn the_published_rate_is_that_of_the_method() {
        let lr = |config: LinearConfig, method| config.for_method(method).base_lr;
        assert_eq!(lr(LinearConfig::default(), "scrl"), Some(0.2));
        assert_eq!(lr(LinearConfig::default(), "byol"), Some(0.05));
        assert_eq!(lr(LinearConfig { base_lr: Some(1.5), ..Default::default() }, "byol"), Some(1.5));
    }
}
