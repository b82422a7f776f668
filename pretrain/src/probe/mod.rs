//! Evaluation of a backbone on labelled images: of a frozen one by nearest neighbours and a linear classifier, of one in
//! training by a linear classifier that learns along ([`OnlineProbe`]).
//!
//! The first two see the globally pooled C5 (or C4, which a pretraining with `heads.pool_level = "c4"` trains last) of one
//! centre crop an image, computed once. The published linear evaluation augments
//! its training images; with cached features it does not, which costs accuracy and saves nearly all of the time.
//!
//! Accuracy here says little about detection: SCRL's detectors beat BYOL's while its linear accuracy is lower. Choose no
//! checkpoint by it.

mod features;
mod knn;
mod linear;
mod online;
mod split;

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use scrl_core::checkpoint::{CheckpointError, weights};
use scrl_core::config::{SettingError, at_least_one, positive, require};
use scrl_core::data::{DataError, ImageFolder};
use scrl_core::engine::Monitor;
use scrl_core::models::{Level, Precision};
use scrl_ops::Group;
use serde::Serialize;

pub use features::EvaluationView;
pub use knn::{KnnConfig, knn_accuracy, knn_scores};
pub use linear::{LinearConfig, linear_accuracy};
pub(crate) use online::online_lr;
pub use online::{OnlineProbe, ProbeHits};
pub use split::split;

use crate::inspection::Rows;

/// Why a backbone cannot be probed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// Images or folders that cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Weights that cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(
        "`{path}` has no class labels; put every image into a folder named after its class, two classes at least"
    )]
    /// Images without class folders.
    NoLabels {
        /// The file or folder.
        path: PathBuf,
    },
    #[error(
        "class `{class}` of `{path}` is not a class of the training images; the classes must have the same names"
    )]
    /// A validation class that the training images do not have.
    UnknownClass {
        /// The class.
        class: String,
        /// The file or folder.
        path: PathBuf,
    },
    /// Too few images to split off a validation set.
    #[error("no class of `{path}` has two images, so none can be held out; add images or pass --val")]
    TooFewImages {
        /// The file or folder.
        path: PathBuf,
    },
    /// An option that cannot be used.
    #[error("{0}")]
    Setting(
        #[source]
        #[from]
        SettingError,
    ),
}

/// What to measure and on what.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// Folder of class folders.
    pub data: PathBuf,
    /// Held-out images, in folders of the same names; otherwise a share of `data`.
    pub val: Option<PathBuf>,
    /// Share of each class of `data` that is held out where there is no `val`, in `0..1`.
    pub val_fraction: f64,
    /// Side of the centre crop in pixels; that of the pretraining views by default.
    pub size: Option<u32>,
    /// Feature map that is pooled.
    pub level: Level,
    /// The numbers that the backbone computes with.
    pub precision: Precision,
    /// Settings of k-NN; none leaves it out.
    pub knn: Option<KnnConfig>,
    /// Settings of the linear probe; none leaves it out.
    pub linear: Option<LinearConfig>,
}

impl ProbeOptions {
    fn validate(&self) -> Result<(), SettingError> {
        let fraction = self.val_fraction;
        require(fraction > 0.0 && fraction < 1.0, "val-fraction", fraction, "above 0 and below 1")?;
        let size = self.size.unwrap_or(32);
        require(size >= 32, "size", size, "at least the backbone's stride of 32 pixels")?;
        if let Some(knn) = &self.knn {
            at_least_one("k", knn.k)?;
            positive("temperature", knn.temperature)?;
        }
        if let Some(linear) = &self.linear {
            at_least_one("epochs", linear.epochs)?;
            at_least_one("batch", linear.batch_size)?;
            positive("lr", linear.base_lr.unwrap_or(1.0))?;
        }
        Ok(())
    }
}

/// Shares of held-out images, in `0..=1`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// The class is the first guess.
    pub top1: f64,
    /// The class is among the first five guesses; says nothing with five classes or fewer.
    pub top5: f64,
}

impl Accuracy {
    /// Of scores `[queries, classes]`. A class that scores as much as the right one is guessed before it, as is one
    /// whose score is NaN: neither constant nor broken scores are a success.
    pub fn of(scores: &[f64], labels: &[usize], classes: usize) -> Self {
        let rank = |(scores, &label): (&[f64], &usize)| {
            let behind = |score: &&f64| score.partial_cmp(&&scores[label]) == Some(Ordering::Less);
            classes - 1 - scores.iter().filter(behind).count()
        };
        let ranks: Vec<usize> = scores.chunks_exact(classes).zip(labels).map(rank).collect();
        let share =
            |below| ranks.iter().filter(|&&rank| rank < below).count() as f64 / ranks.len().max(1) as f64;
        Self { top1: share(1), top5: share(5) }
    }
}

/// The measurements and what they were made with; the content of `probe.json`.
#[derive(Clone, Debug, Serialize)]
pub struct ProbeReport {
    /// The backbone's file or run.
    pub weights: PathBuf,
    /// Depth of the backbone.
    pub arch: String,
    /// Factor on its channels.
    pub width: f64,
    /// Pretraining method, `unknown` for files of other programs.
    pub method: String,
    /// Folder of the training images.
    pub data: PathBuf,
    /// Folder of the validation images; none where they were split off.
    pub val: Option<PathBuf>,
    /// Class names, in the order of their labels.
    pub classes: Vec<String>,
    /// Training images.
    pub train_images: usize,
    /// Validation images.
    pub val_images: usize,
    /// Side of the central crop, in pixels.
    pub crop: u32,
    /// Feature map that was pooled.
    pub level: Level,
    /// Result of k-NN.
    pub knn: Option<KnnReport>,
    /// Result of the linear probe.
    pub linear: Option<LinearReport>,
}

/// Accuracy of the nearest neighbours.
#[derive(Clone, Debug, Serialize)]
pub struct KnnReport {
    /// The settings.
    #[serde(flatten)]
    pub config: KnnConfig,
    /// Of the validation images.
    #[serde(flatten)]
    pub accuracy: Accuracy,
}

/// Accuracy of the linear classifier.
#[derive(Clone, Debug, Serialize)]
pub struct LinearReport {
    /// The settings.
    #[serde(flatten)]
    pub config: LinearConfig,
    /// Of the validation images, at the end of the last epoch.
    #[serde(flatten)]
    pub accuracy: Accuracy,
}

/// Features and classes of a set of images.
struct Labelled {
    features: Rows,
    labels: Vec<usize>,
}

/// Measures the backbone of a run directory or a weights file; `None` when interrupted. The processes of `group` share the images, and
/// each measures the same.
///
/// # Errors
/// When an option is out of range, a folder has no classes or classes of other names, or a file cannot be read.
pub fn probe(
    weights: &Path,
    options: &ProbeOptions,
    device: &Device,
    group: &Group,
    monitor: &mut Monitor,
) -> Result<Option<ProbeReport>, ProbeError> {
    options.validate()?;
    let (train, val) = sets(options)?;
    let (encoder, model, metadata) = weights::load_backbone(weights, device)?;
    let encoder = encoder.compute_in(options.precision);
    let view = EvaluationView {
        size: options.size.unwrap_or(metadata.image_size),
        mean: metadata.mean,
        std: metadata.std,
    };
    let classes = train.classes.len();
    monitor.progress.start((train.samples.len() + val.samples.len()) as u64, 0, "features");
    let Some(train_set) =
        features::labelled(&encoder, &train, 0, view, options.level, device, group, monitor)?
    else {
        return Ok(None);
    };
    let done = train.samples.len() as u64;
    let Some(val_set) =
        features::labelled(&encoder, &val, done, view, options.level, device, group, monitor)?
    else {
        return Ok(None);
    };
    monitor.progress.finish("features computed");
    let knn = options.knn.clone().map(|config| {
        let accuracy = knn_accuracy(
            (&train_set.features, &train_set.labels),
            (&val_set.features, &val_set.labels),
            classes,
            &config,
            device,
        );
        KnnReport { config, accuracy }
    });
    let linear = options.linear.clone().map(|config| {
        let config = config.for_method(&metadata.method);
        let accuracy = linear_accuracy(
            (&train_set.features, &train_set.labels),
            (&val_set.features, &val_set.labels),
            classes,
            &config,
            device,
        );
        LinearReport { config, accuracy }
    });
    Ok(Some(ProbeReport {
        weights: weights.to_path_buf(),
        arch: model.arch.name().to_string(),
        width: model.width,
        method: metadata.method,
        data: options.data.clone(),
        val: options.val.clone(),
        train_images: train.samples.len(),
        val_images: val.samples.len(),
        classes: train.classes,
        crop: view.size,
        level: options.level,
        knn,
        linear,
    }))
}

/// Training and held-out images with the same classes.
fn sets(options: &ProbeOptions) -> Result<(ImageFolder, ImageFolder), ProbeError> {
    let data = labelled_folder(&options.data)?;
    let Some(path) = &options.val else {
        let (train, val) = split(&data, &options.data, options.val_fraction);
        if val.is_empty() {
            return Err(ProbeError::TooFewImages { path: options.data.clone() });
        }
        return Ok((data.subset(&train), data.subset(&val)));
    };
    let mut val = labelled_folder(path)?;
    for sample in &mut val.samples {
        let class = sample.label.map_or("", |label| val.classes[label].as_str());
        let known = data.classes.iter().position(|name| name == class);
        let unknown = || ProbeError::UnknownClass { class: class.to_string(), path: path.clone() };
        sample.label = Some(known.ok_or_else(unknown)?);
    }
    val.classes = data.classes.clone();
    Ok((data, val))
}

fn labelled_folder(path: &Path) -> Result<ImageFolder, ProbeError> {
    let data = ImageFolder::scan(std::slice::from_ref(&path.to_path_buf()))?;
    match data.classes.is_empty() {
        true => Err(ProbeError::NoLabels { path: path.to_path_buf() }),
        false => Ok(data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_and_broken_scores_are_no_success() {
        let scores = [1.0, 3.0, 3.0, 0.0, 2.0, 0.5, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0];
        let accuracy = |labels: [usize; 2]| Accuracy::of(&scores, &labels, 6);
        assert_eq!(accuracy([1, 0]), Accuracy { top1: 0.5, top5: 1.0 });
        assert_eq!(accuracy([4, 1]), Accuracy { top1: 0.0, top5: 1.0 });
        assert_eq!(accuracy([3, 5]), Accuracy { top1: 0.0, top5: 0.0 });
        for broken in [0.25, f64::NAN] {
            assert_eq!(Accuracy::of(&[broken; 6], &[0], 6), Accuracy { top1: 0.0, top5: 0.0 });
        }
    }
}
