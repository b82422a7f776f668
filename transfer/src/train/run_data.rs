//! The data of a run, and what is done with it.

use std::sync::Arc;
use std::time::Instant;

use crate::data::{Category, DetectionDataset, DetectionImage};
use burn::module::Module;
use burn::tensor::Device;
use scrl_core::config;
use scrl_core::engine::{DataList, Monitor};
use scrl_core::models::parameters;
use scrl_core::random::stream;
use scrl_ops::Group;

use super::{Best, TransferReport};
use crate::config::TransferConfig;
use crate::data::{TrainingLoader, TrainingLoaderOptions, collate_over};
use crate::detection::{Detector, DetectorConfig, Norm, precise_bn};
use crate::error::TransferError;
use crate::evaluation::DetectionMetrics;
use crate::inference::{EvaluateOptions, Evaluation, evaluate_model, match_classes};
use crate::weights::DetectorMetadata;

/// Refuses data without any mask, and counts objects that lack one.
fn check_masks(data: &DetectionDataset) -> Result<(), TransferError> {
    let objects = || data.images.iter().flat_map(|image| &image.objects).filter(|object| !object.crowd);
    let (count, without) = (objects().count(), objects().filter(|object| object.mask.is_none()).count());
    if count > 0 && without == count {
        return Err(TransferError::NoMasks { data: data.name.clone() });
    }
    if without > 0 {
        tracing::warn!(
            data = data.name,
            "{without} of {count} objects have no mask: in training they teach boxes only, and in evaluation nothing finds them"
        );
    }
    Ok(())
}

/// The data of a run, and its config with what the data decides.
pub(super) struct TransferData {
    pub config: TransferConfig,
    pub train: Arc<DetectionDataset>,
    pub val: Arc<DetectionDataset>,
}

impl TransferData {
    /// # Errors
    /// When annotations cannot be read, no image has an object, or each split has classes that the other lacks.
    pub fn load(config: &TransferConfig) -> Result<Self, TransferError> {
        let all = config.source("data.train", &config.data.train)?.load(config.model.labels())?;
        let val = config.source("data.val", &config.data.val)?.load(config.model.labels())?;
        let all = with_classes_of(all, &val);
        let val = match_classes(&all.categories, val)?;
        let train = training_images(all, config)?;
        let untrained = train.classes_without_objects();
        if !untrained.is_empty() {
            tracing::warn!(
                data = train.name,
                "{} of {} classes have no object in the training images ({}); the detector cannot learn them",
                untrained.len(),
                train.categories.len(),
                untrained.join(", ")
            );
        }
        if config.model.has_masks() {
            check_masks(&train)?;
            check_masks(&val)?;
        }
        let mut config = config.clone();
        config.model.num_classes = train.categories.len();
        Ok(Self { config, train: Arc::new(train), val: Arc::new(val) })
    }

    /// The images and annotations of both splits.
    pub fn list(&self) -> DataList {
        let split = |name: &'static str, data: &Arc<DetectionDataset>| {
            let facts = |image: &DetectionImage| config::hash(&image.truth())[..16].to_string();
            let name = move |image: &DetectionImage| format!("{name}/{}", image.file_name);
            let entry = |image: &DetectionImage| (name(image), image.path.clone(), facts(image));
            data.images.iter().map(entry).collect::<Vec<_>>()
        };
        DataList::new([split("train", &self.train), split("val", &self.val)].concat())
    }

    /// This process's part of the batches from `iteration` on.
    pub fn batches(&self, iteration: u64, group: &Group) -> TrainingLoader {
        let options = TrainingLoaderOptions {
            seed: self.config.seed,
            batch_size: self.config.batch_size,
            aspect_ratio_grouping: self.config.aspect_ratio_grouping,
            iterations: self.config.iterations,
            threads: self.config.threads,
            prefetch: self.config.prefetch,
        };
        TrainingLoader::new(Arc::clone(&self.train), self.config.mapper(), options, iteration, group)
    }

    /// Passes over the training images.
    pub fn epoch(&self, iteration: u64) -> f64 {
        iteration as f64 * self.config.batch_size as f64 / self.train.images.len() as f64
    }

    /// The detector to evaluate and to store, on a device without autodiff.
    ///
    /// Training goes on with `model` as it is: statistics that are computed here belong only to the returned detector.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn detector(
        &self,
        model: &Detector,
        device: &Device,
        group: &Group,
    ) -> Result<Detector, TransferError> {
        let batches = self.config.solver.precise_bn_batches as usize;
        let DetectorConfig { backbone, fpn, .. } = &self.config.model;
        let none_trains = backbone.norm == Norm::FrozenBatchNorm && !fpn.norm;
        if batches == 0 || none_trains {
            return Ok(model.valid());
        }
        // A second model, because a clone would share its running statistics with the one that trains.
        let training_device = device.clone().autodiff();
        let copy = self.config.model.init(&mut stream(self.config.seed, &[]), &training_device);
        let copy = parameters::load(copy, &parameters::collect(&model.valid())).0;
        let copy = copy.compute_in(self.config.precision).over(group);
        let images = self
            .batches(0, group)
            .take(batches)
            .map(|samples| samples.map(|samples| collate_over(samples, &training_device, group).images));
        precise_bn(copy.backbone(), images)?;
        Ok(copy.valid())
    }

    /// Evaluates what [`Self::detector`] returned, on every process to the same; `None` when a monitor asked to stop.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn evaluate(
        &self,
        model: &Detector,
        device: &Device,
        group: &Group,
        monitor: &mut Monitor,
    ) -> Result<Option<Evaluation>, TransferError> {
        let options = EvaluateOptions {
            batch_size: self.config.eval_batch_size,
            threads: self.config.threads,
            prefetch: self.config.prefetch,
        };
        evaluate_model(model, &self.val, &self.config.preprocessing(), options, device, group, monitor)
    }

    pub fn metadata(&self) -> DetectorMetadata {
        DetectorMetadata {
            config: self.config.model.clone(),
            categories: self.train.categories.clone(),
            preprocessing: self.config.preprocessing(),
        }
    }

    pub fn report(
        &self,
        init: String,
        metrics: DetectionMetrics,
        best: Option<Best>,
        begun: Instant,
    ) -> TransferReport {
        TransferReport {
            init,
            seed: self.config.seed,
            fraction: self.config.fraction,
            train_images: self.train.images.len(),
            val_images: self.val.images.len(),
            iterations: self.config.iterations,
            seconds: begun.elapsed().as_secs_f64(),
            metrics,
            best,
        }
    }
}

/// Training data with the classes of the evaluation data too, where those have all of its own and more.
fn with_classes_of(train: DetectionDataset, val: &DetectionDataset) -> DetectionDataset {
    let has = |list: &[Category], class: &Category| list.iter().any(|other| other.name == class.name);
    if !train.categories.iter().all(|class| has(&val.categories, class)) {
        return train;
    }
    let more = val.categories.iter().filter(|class| !has(&train.categories, class)).cloned();
    let classes: Vec<Category> = train.categories.iter().cloned().chain(more).collect();
    train.with_classes(&classes).expect("all its classes are among them")
}

/// The images to learn from: those with objects, or all, and of them the config's share.
fn training_images(
    mut all: DetectionDataset,
    config: &TransferConfig,
) -> Result<DetectionDataset, TransferError> {
    let has_target = |image: &DetectionImage| image.objects.iter().any(|object| !object.crowd);
    let total = all.images.len();
    if config.skip_empty {
        all.images.retain(has_target);
        tracing::info!(kept = all.images.len(), of = total, "training images with objects");
    }
    let train = all.subset(config.fraction, config.subset_seed);
    if train.images.iter().any(has_target) { Ok(train) } else { Err(TransferError::NoObjects(train.name)) }
}
