//! Detection metrics on a data set: COCO's and VOC's, each under its own name. All figures are in `[0, 1]`.

use std::path::{Path, PathBuf};

use crate::data::DetectionDataset;
use scrl_core::data::DataError;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::detection::Detection;

pub mod chance;
pub mod coco;
pub mod pr_curve;
pub mod results;
pub mod voc;
pub mod voc_files;

pub use chance::chance;
pub use coco::{ClassAp, CocoFileMetrics, CocoMetrics, evaluate_coco, evaluate_coco_masks, evaluate_files};
pub use pr_curve::{ClassCurves, PrecisionRecall, precision_recall};
pub use results::{CocoResult, read_results, to_coco_results, write_results};
pub use voc::{VocClassAp, VocMetrics, evaluate_voc};
pub use voc_files::{evaluate_voc_files, write_voc_files};

/// What was found in one image; boxes in pixels of the original image, best score first or in any order.
#[derive(Clone, Debug)]
pub struct ImageDetections {
    /// [`DetectionImage::id`](crate::data::DetectionImage) of the image.
    pub image_id: u64,
    /// `class` indexes [`DetectionDataset::categories`].
    pub detections: Vec<Detection>,
}

/// COCO's and VOC's metrics of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectionMetrics {
    /// COCO's figures.
    #[serde(flatten)]
    pub coco: CocoMetrics,
    /// PASCAL VOC's figures.
    #[serde(flatten)]
    pub voc: VocMetrics,
    /// COCO's figures of masks, from a detector that gives masks; their keys begin with `segm_`.
    #[serde(flatten, serialize_with = "serialize_masks", deserialize_with = "deserialize_masks")]
    pub masks: Option<CocoMetrics>,
}

/// What the keys of the figures of masks begin with.
const MASKS: &str = "segm_";

fn serialize_masks<S: Serializer>(masks: &Option<CocoMetrics>, serializer: S) -> Result<S::Ok, S::Error> {
    let figures = serde_json::to_value(masks).map_err(serde::ser::Error::custom)?;
    let figures = figures.as_object().into_iter().flatten();
    serializer.collect_map(figures.map(|(name, value)| (format!("{MASKS}{name}"), value)))
}

fn deserialize_masks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<CocoMetrics>, D::Error> {
    let all = Map::deserialize(deserializer)?;
    let of_masks = |(name, value): (String, Value)| Some((name.strip_prefix(MASKS)?.to_string(), value));
    let figures: Map<String, Value> = all.into_iter().filter_map(of_masks).collect();
    let read = |figures| serde_json::from_value(Value::Object(figures)).map_err(serde::de::Error::custom);
    (!figures.is_empty()).then(|| read(figures)).transpose()
}

impl DetectionMetrics {
    /// The headline figures by name, in the order of a report; `None` where the data has nothing to measure.
    pub fn summary(&self) -> Vec<(&'static str, Option<f64>)> {
        let (coco, voc) = (&self.coco, &self.voc);
        let mut figures = vec![
            ("AP", coco.ap),
            ("AP50", coco.ap50),
            ("AP75", coco.ap75),
            ("APs", coco.ap_small),
            ("APm", coco.ap_medium),
            ("APl", coco.ap_large),
            ("VOC07_mAP", voc.eleven_points),
            ("VOC_mAP", voc.area),
        ];
        if let Some(masks) = &self.masks {
            figures.extend([
                ("segm_AP", masks.ap),
                ("segm_AP50", masks.ap50),
                ("segm_AP75", masks.ap75),
                ("segm_APs", masks.ap_small),
                ("segm_APm", masks.ap_medium),
                ("segm_APl", masks.ap_large),
            ]);
        }
        figures
    }
}

/// COCO and VOC metrics of detections; images without an entry in `results` count as images without detections.
///
/// # Errors
/// When a detection names an image or a class that the data set does not have, or its score is not finite.
pub fn evaluate_detections(
    ground_truth: &DetectionDataset,
    results: &[ImageDetections],
) -> Result<DetectionMetrics, EvaluationError> {
    Ok(DetectionMetrics {
        coco: evaluate_coco(ground_truth, results)?,
        voc: evaluate_voc(ground_truth, results)?,
        masks: evaluate_coco_masks(ground_truth, results)?,
    })
}

/// Why detections could not be evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// A file that cannot be read or written.
    #[error("`{path}` cannot be read or written: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    #[error(
        "detections name image {0}, which the ground truth does not have; evaluate them on their own data set"
    )]
    /// A detection on an image that the ground truth does not have.
    UnknownImage(u64),
    #[error(
        "detections name class {class}, the ground truth has {classes} classes; evaluate on the data set of this model"
    )]
    /// A detection of a class that the ground truth does not have.
    UnknownClass {
        /// The label.
        class: usize,
        /// How many classes there are.
        classes: usize,
    },
    /// A detection in a file on an image that the ground truth does not have.
    #[error("`{path}`: result {index} names image {image}, which `{ground_truth}` does not list")]
    UnknownImageInFile {
        /// The file or folder.
        path: PathBuf,
        /// Place of the detection in the file, from 1.
        index: usize,
        /// Its image id.
        image: u64,
        /// The annotation file.
        ground_truth: PathBuf,
    },
    /// A detection in a file that names an image which the ground truth does not have, under the id of another.
    #[error(
        "`{path}`: detection {index} is on `{name}`, which `{ground_truth}` does not list, but has the id of its image \
         {image}; give the annotations of the images that were searched"
    )]
    UnknownImageName {
        /// The results.
        path: PathBuf,
        /// Place of the detection in the file, from 1.
        index: usize,
        /// Name of its image.
        name: String,
        /// Its image id.
        image: u64,
        /// The annotation file.
        ground_truth: PathBuf,
    },
    /// A line of a VOC results file that cannot be read.
    #[error("`{path}` line {line}: {reason}")]
    Line {
        /// The file or folder.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong, or what the system said.
        reason: String,
    },
    #[error(
        "`{path}` is missing: every class has a file, class `{class}` too; write an empty one if nothing was found"
    )]
    /// A VOC results file of a class that the ground truth does not have.
    ClassFile {
        /// The file or folder.
        path: PathBuf,
        /// The class.
        class: String,
    },
    /// Annotations that cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A detection with a coordinate or score that is not finite.
    #[error("a detection in image {image} has a score or box that is not finite; its model has diverged")]
    NonFinite {
        /// Id of the image.
        image: u64,
    },
    /// COCO's metrics could not be computed.
    #[error("the COCO evaluation failed: {0}")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl EvaluationError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    /// What hotcoco says: its own type stays out of the public surface.
    fn engine(source: hotcoco::Error) -> Self {
        Self::Engine(Box::new(source))
    }
}

/// Refuses what no metric could be computed from.
fn check(ground_truth: &DetectionDataset, results: &[ImageDetections]) -> Result<(), EvaluationError> {
    let known: std::collections::HashSet<u64> = ground_truth.images.iter().map(|image| image.id).collect();
    let classes = ground_truth.categories.len();
    for image in results {
        if !known.contains(&image.image_id) {
            return Err(EvaluationError::UnknownImage(image.image_id));
        }
        for found in &image.detections {
            if found.class >= classes {
                return Err(EvaluationError::UnknownClass { class: found.class, classes });
            }
            if !found.score.is_finite() || found.bbox.to_array().iter().any(|v| !v.is_finite()) {
                return Err(EvaluationError::NonFinite { image: image.image_id });
            }
        }
    }
    Ok(())
}
