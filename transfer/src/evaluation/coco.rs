//! COCO's metrics of boxes and of masks, computed by `hotcoco`, which reproduces pycocotools 2.0.11 (see the fixture).

mod convert;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::data::coco::MaskField;
use crate::data::{DetectionDataset, coco};
use hotcoco::params::IouType;
use hotcoco::{COCO, COCOeval, Dataset};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(super) use self::convert::{annotation, to_hotcoco};
use self::convert::{from_records, mask_annotation, sizes, without_pixels};
use super::{CocoResult, EvaluationError, ImageDetections, check, results, to_coco_results};

/// The twelve figures of COCO's evaluation of boxes or of masks, in `[0, 1]`; `None` where no object falls into the range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CocoMetrics {
    /// Mean over IoU .50:.95, classes and 101 recall levels.
    #[serde(rename = "AP")]
    pub ap: Option<f64>,
    /// At IoU 0.50.
    #[serde(rename = "AP50")]
    pub ap50: Option<f64>,
    /// At IoU 0.75.
    #[serde(rename = "AP75")]
    pub ap75: Option<f64>,
    /// Objects below 32² square pixels.
    #[serde(rename = "APs")]
    pub ap_small: Option<f64>,
    /// Objects from 32² to 96².
    #[serde(rename = "APm")]
    pub ap_medium: Option<f64>,
    /// Objects above 96².
    #[serde(rename = "APl")]
    pub ap_large: Option<f64>,
    /// Recall with one detection an image.
    #[serde(rename = "AR1")]
    pub ar1: Option<f64>,
    /// With at most 10 detections per image.
    #[serde(rename = "AR10")]
    pub ar10: Option<f64>,
    /// With at most 100 detections per image.
    #[serde(rename = "AR100")]
    pub ar100: Option<f64>,
    /// Of objects below 32² pixels.
    #[serde(rename = "ARs")]
    pub ar_small: Option<f64>,
    /// Of objects from 32² to 96² pixels.
    #[serde(rename = "ARm")]
    pub ar_medium: Option<f64>,
    /// Of objects above 96² pixels.
    #[serde(rename = "ARl")]
    pub ar_large: Option<f64>,
    /// AP of each class, in the order of the categories' ids.
    pub per_class: Vec<ClassAp>,
}

impl CocoMetrics {
    /// The twelve figures by name, and `per_class` (AP by class name), with pycocotools' -1 where there is nothing to measure.
    pub fn official(&self) -> Value {
        let or_minus_one = |value: Option<f64>| Value::from(value.unwrap_or(-1.0));
        let figures = [
            ("AP", self.ap),
            ("AP50", self.ap50),
            ("AP75", self.ap75),
            ("APs", self.ap_small),
            ("APm", self.ap_medium),
            ("APl", self.ap_large),
            ("AR1", self.ar1),
            ("AR10", self.ar10),
            ("AR100", self.ar100),
            ("ARs", self.ar_small),
            ("ARm", self.ar_medium),
            ("ARl", self.ar_large),
        ];
        let mut report: Map<String, Value> =
            figures.into_iter().map(|(name, value)| (name.to_string(), or_minus_one(value))).collect();
        let classes = self.per_class.iter().map(|class| (class.name.clone(), or_minus_one(class.ap)));
        report.insert("per_class".into(), Value::Object(classes.collect()));
        Value::Object(report)
    }
}

/// A class and its AP; `None` for a class without objects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassAp {
    /// Name of the class.
    pub name: String,
    /// Mean over IoU 0.50 to 0.95; none where the class has no objects.
    #[serde(rename = "AP")]
    pub ap: Option<f64>,
}

/// COCO metrics of the boxes of detections.
///
/// Difficult objects (VOC) are given to the evaluation as crowds: pycocotools knows no other way to ignore an
/// object, so several detections may hide in one of them.
///
/// # Errors
/// See [`evaluate_detections`](super::evaluate_detections).
pub fn evaluate_coco(
    ground_truth: &DetectionDataset,
    results: &[ImageDetections],
) -> Result<CocoMetrics, EvaluationError> {
    check(ground_truth, results)?;
    run(to_hotcoco(ground_truth), to_coco_results(ground_truth, results), IouType::Bbox)
}

/// COCO metrics of the masks of detections; `None` where the ground truth has no mask, or a detection none.
///
/// An object without a mask counts as one of no pixels, which nothing finds. Detections are small, medium or large by the area of
/// their mask, as in detectron2; pycocotools takes the area of the box where results have both.
///
/// # Errors
/// See [`evaluate_detections`](super::evaluate_detections).
pub fn evaluate_coco_masks(
    ground_truth: &DetectionDataset,
    results: &[ImageDetections],
) -> Result<Option<CocoMetrics>, EvaluationError> {
    check(ground_truth, results)?;
    let mut objects = ground_truth.images.iter().flat_map(|image| &image.objects);
    let mut found = results.iter().flat_map(|image| &image.detections);
    if !objects.any(|object| object.mask.is_some()) || found.any(|found| found.mask.is_none()) {
        return Ok(None);
    }
    run(to_hotcoco(ground_truth), to_coco_results(ground_truth, results), IouType::Segm).map(Some)
}

/// The figures of files: of boxes, and of masks where results have them.
#[derive(Clone, Debug, PartialEq)]
pub struct CocoFileMetrics {
    /// Of the boxes; where results have none, of the boxes around their masks.
    pub boxes: CocoMetrics,
    /// Of the masks.
    pub masks: Option<CocoMetrics>,
}

impl CocoFileMetrics {
    /// As [`CocoMetrics::official`]; those of masks begin with `segm_`.
    pub fn official(&self) -> Value {
        let mut figures = self.boxes.official();
        if let (Some(masks), Value::Object(figures)) = (&self.masks, &mut figures)
            && let Value::Object(masks) = masks.official()
        {
            figures.extend(masks.into_iter().map(|(name, value)| (format!("segm_{name}"), value)));
        }
        figures
    }
}

/// COCO metrics of a results file (a list of `image_id, category_id, bbox, segmentation, score`) against an instances file,
/// in double precision throughout. Masks are judged where every result has one.
///
/// # Errors
/// When a file cannot be read, is not such a JSON, or a result names an image that the instances file lacks.
pub fn evaluate_files(ground_truth: &Path, detections: &Path) -> Result<CocoFileMetrics, EvaluationError> {
    let found = results::read_rows(detections)?;
    let masks = found.iter().filter(|row| row.segmentation.is_some()).count();
    if masks > 0 && masks < found.len() {
        tracing::warn!(
            "{masks} of {} results have a `segmentation`: masks are judged only where all have one",
            found.len()
        );
    }
    match masks > 0 && masks == found.len() {
        true => evaluate_rows::<coco::Masks>(ground_truth, detections, found),
        false => evaluate_rows::<coco::NoMasks>(ground_truth, detections, found),
    }
}

fn evaluate_rows<S: MaskField>(
    ground_truth: &Path,
    detections: &Path,
    mut found: Vec<CocoResult>,
) -> Result<CocoFileMetrics, EvaluationError> {
    let dataset = from_records(ground_truth, coco::records::<S>(ground_truth)?);
    let has_masks = dataset.annotations.iter().any(|annotation| annotation.segmentation.is_some());
    let names: Vec<(u64, String)> =
        dataset.images.iter().map(|image| (image.id, image.file_name.clone())).collect();
    results::match_by_name(&mut found, &names, detections, ground_truth)?;
    let images: HashSet<u64> = dataset.images.iter().map(|image| image.id).collect();
    if let Some(index) = found.iter().position(|row| !images.contains(&row.image_id)) {
        return Err(EvaluationError::UnknownImageInFile {
            path: detections.to_path_buf(),
            index: index + 1,
            image: found[index].image_id,
            ground_truth: ground_truth.to_path_buf(),
        });
    }
    let categories: HashSet<u64> = dataset.categories.iter().map(|c| c.id).collect();
    let before = found.len();
    found.retain(|row| categories.contains(&row.category_id));
    if found.len() < before {
        tracing::warn!(
            dropped = before - found.len(),
            "detections of categories that the ground truth lacks"
        );
    }
    if !has_masks {
        return Ok(CocoFileMetrics { boxes: run(dataset, found, IouType::Bbox)?, masks: None });
    }
    let sizes = sizes(&dataset.images);
    for (index, row) in found.iter_mut().enumerate() {
        let (Some(mask), Some(&size)) = (&row.segmentation, sizes.get(&row.image_id)) else { continue };
        mask.check_size(size).map_err(|reason| results::mask_error(detections, index, &reason))?;
        row.segmentation = Some(crate::mask::Segmentation::Rle(mask.to_rle(size)));
    }
    let boxes = run(dataset.clone(), found.clone(), IouType::Bbox)?;
    Ok(CocoFileMetrics { boxes, masks: Some(run(dataset, found, IouType::Segm)?) })
}

/// Detections of an image and class that COCO's metrics judge.
const JUDGED: usize = 100;

/// Says where the limit of COCO's metrics cuts.
fn note_unjudged(found: &[CocoResult]) {
    let mut counts = HashMap::<(u64, u64), usize>::new();
    for row in found {
        *counts.entry((row.image_id, row.category_id)).or_default() += 1;
    }
    let cut = counts.values().filter(|&&count| count > JUDGED).count();
    if cut > 0 {
        tracing::warn!(
            "COCO's metrics judge the {JUDGED} best detections of a class in an image; {cut} times there are more, and those do \
             not count"
        );
    }
}

fn run(mut dataset: Dataset, found: Vec<CocoResult>, kind: IouType) -> Result<CocoMetrics, EvaluationError> {
    let annotation = match kind {
        IouType::Segm => {
            without_pixels(&mut dataset);
            mask_annotation
        }
        _ => {
            note_unjudged(&found);
            annotation
        }
    };
    let truth = COCO::from_dataset(dataset);
    let found =
        truth.load_res_anns(found.into_iter().map(annotation).collect()).map_err(EvaluationError::engine)?;
    let mut evaluation = COCOeval::new(truth, found, kind);
    evaluation.evaluate().map_err(EvaluationError::engine)?;
    evaluation.accumulate();
    evaluation.summarize_lines();
    let figures = evaluation.get_results(None, false);
    let figure = |name: &str| figures.get(name).copied().filter(|&value| value >= 0.0);
    Ok(CocoMetrics {
        ap: figure("AP"),
        ap50: figure("AP50"),
        ap75: figure("AP75"),
        ap_small: figure("APs"),
        ap_medium: figure("APm"),
        ap_large: figure("APl"),
        ar1: figure("AR1"),
        ar10: figure("AR10"),
        ar100: figure("AR100"),
        ar_small: figure("ARs"),
        ar_medium: figure("ARm"),
        ar_large: figure("ARl"),
        per_class: per_class(&evaluation),
    })
}

/// AP over all areas at the largest detection limit, class by class.
fn per_class(evaluation: &COCOeval) -> Vec<ClassAp> {
    let Some(table) = evaluation.accumulated() else { return Vec::new() };
    let (area, limit) = (evaluation.params.all_area_idx(), evaluation.params.max_det_idx());
    let ap = |k: usize| {
        let cells = (0..table.shape.t).flat_map(|t| (0..table.shape.r).map(move |r| (t, r)));
        let values: Vec<f64> = cells
            .map(|(t, r)| table.precision[table.precision_idx(t, r, k, area, limit)])
            .filter(|&value| value >= 0.0)
            .collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let name = |id: u64| evaluation.coco_gt().cat_name(id);
    table.cat_ids.iter().enumerate().map(|(k, &id)| ClassAp { name: name(id), ap: ap(k) }).collect()
}

#[cfg(test)]
mod tests;
